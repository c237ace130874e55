"""Engines behind one interface: the device, the chip simulator, the fast exact one, torch.

Reads top to bottom: `bmodel_file` (what a BModel says of itself), `interface` (what every engine
has, and all checks of calls), `device`, `simulator`, `emulator_engine`, `torch_engine`, `engine`
(which opens the right one), `inference` (logits of plates, made once), `files` (from image files,
each step timed), `contract` (the checks that prove a backend).
"""

from .engine import BACKENDS, open_engine
from .interface import Engine

__all__ = ["BACKENDS", "Engine", "open_engine"]
