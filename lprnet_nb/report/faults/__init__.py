"""Faults put in on purpose, and what became of each: the same result, or one clear error."""

from __future__ import annotations

from .bench import bench_faults, faults
from .world import Fault, Skip, World, inject

__all__ = ["Fault", "Skip", "World", "bench_faults", "faults", "inject"]
