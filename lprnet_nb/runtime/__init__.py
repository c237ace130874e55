"""Engines behind one interface: the device, the chip simulator, torch.

Reads top to bottom: `bmodel_file` (what a BModel says of itself), `interface` (what every engine
has, and all checks of calls), `simulator`, `emulator_engine`, `torch_engine`, `engine` (which
opens the right one).
"""

from .engine import BACKENDS, open_engine
from .interface import Engine

__all__ = ["BACKENDS", "Engine", "open_engine"]
