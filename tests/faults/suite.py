"""Faults put in on purpose, and what became of each: the same result, or one clear error."""

from __future__ import annotations

from . import artifacts, names, processes, storage
from .world import Fault, Skip, World, inject

__all__ = ["Fault", "Skip", "World", "faults", "inject"]


def faults(repetitions: int = 20) -> list[Fault]:
    """Every fault; those at random moments repeated so often."""
    return [
        *artifacts.faults(),
        *storage.faults(),
        *names.faults(),
        *processes.faults(repetitions),
    ]
