"""Engines behind one interface: the device, the chip simulator, the fast exact one, torch.

Reads top to bottom: `bmodel_file` (what a BModel says of itself), `interface` (what every engine
has, and all checks of calls), `device`, `simulator`, `emulator_engine`, `torch_engine`, `engine`
(which opens the right one), `foreign` (BModels without a record), `inference` (logits of plates,
made once), `reading` (texts and how sure they are), `files` (from image files, each step timed).
"""

from .engine import BACKENDS, open_engine
from .interface import Engine

__all__ = ["BACKENDS", "Engine", "open_engine"]
