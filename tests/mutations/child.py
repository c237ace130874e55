"""Pytest in a process that is forked from one which has the libraries loaded, and no code of ours.

Loading torch and its like takes longer than most tests.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

LIBRARIES = (
    "cv2",
    "hypothesis",
    "matplotlib.figure",
    "nbconvert",
    "nbformat",
    "pandas",
    "pydantic",
    "pytest",
    "scipy.spatial",
    "scipy.stats",
    "statsmodels.stats.contingency_tables",
    "statsmodels.stats.multitest",
    "torch",
)


class Done(NamedTuple):
    """Exit status of pytest, and what it said."""

    status: int
    said: str


def run(
    folder: Path, variables: dict[str, str], targets: list[str], log: Path, *, limit: float
) -> Done:
    """Run targets in a folder, whose modules go before all others of the same names."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(LIBRARIES))
    process = context.Process(target=_main, args=(str(folder), variables, targets, str(log)))
    process.start()
    process.join(limit)
    if process.is_alive():
        process.kill()
        process.join()
    return Done(process.exitcode, log.read_text("utf8", "replace"))


def _main(folder: str, variables: dict[str, str], targets: list[str], log: str) -> None:
    os.environ.update(variables)
    os.chdir(folder)
    checkout = Path(__file__).parents[2]
    sys.path[:] = [
        folder,
        *(
            place
            for place in sys.path
            if "site-packages" in place or not Path(place).absolute().is_relative_to(checkout)
        ),
    ]
    sys.dont_write_bytecode = True
    with open(log, "w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    assert "lprnet_nb" not in sys.modules
    status = pytest.main(["-p", "no:cacheprovider", "--tb=line", *targets])
    place = Path(sys.modules["lprnet_nb"].__file__)
    assert place.is_relative_to(folder), f"{place} was tested"
    sys.exit(status)
