"""LPRNet from PyTorch to a Sophgo TPU: the logic behind the notebooks."""

from __future__ import annotations

__version__ = "0.1.0"
