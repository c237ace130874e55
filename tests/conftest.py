"""Fixtures shared by all tests: the published data and the compiler, the real ones."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from lprnet_nb.datasets import fetch
from lprnet_nb.datasets.images import PlateImages
from lprnet_nb.errors import DataError
from lprnet_nb.model.trace import float_logits
from lprnet_nb.model.weights import Weights, load_published_weights
from lprnet_nb.toolchain.environment import Compiler
from lprnet_nb.toolchain.environment import compiler as find_or_install

torch.set_num_threads(1)
# What takes longest begins first, so that no core waits for it at the end: folders and files of
# tests, in that order; all others follow as they are.
FIRST = (
    "notebooks",
    "contract",
    "report",
    "toolchain/test_releases.py",
    "explain/test_lprnet.py",
    "faults",
    "test_cli.py",
    "proof",
    "study",
    "samples",
    "toolchain",
    "measure",
)
# Stand-ins for vendor modules: imported by the processes that they are for, and only there.
collect_ignore_glob = ["contract/standin_*.py"]


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults", "faults put in on purpose (tests/faults)")
    group.addoption(
        "--repetitions",
        type=int,
        metavar="N",
        help="kills at random moments (2; 20 where they are slow)",
    )
    group.addoption(
        "--faults-table", metavar="FILE", help="JSON file that gets how each fault ended"
    )


def pytest_runtest_setup() -> None:
    # A library of the vendor's, once loaded into this process, has it flush subnormals.
    torch.set_flush_denormal(False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(here).as_posix() if item.path.is_relative_to(here) else ""
        return next((n for n, part in enumerate(FIRST) if name.startswith(part)), len(FIRST))

    items.sort(key=place)


def pytest_collection_finish() -> None:
    # What is there now stays until the end. Some libraries collect garbage at each call.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def published() -> PlateImages:
    """The 1,000 published test images; skips where they cannot be had."""
    if not fetch.is_published_data_here():
        if not os.environ.get("LPRNET_MIRROR"):
            pytest.skip(
                "the published data is not here: run scripts/download.sh, or name a "
                "mirror folder in LPRNET_MIRROR"
            )
        try:
            fetch.fetch_published()
        except DataError as error:
            pytest.skip(f"the published data cannot be had: {error}")
    return fetch.load_published()


@pytest.fixture(scope="session")
def weights(published: PlateImages) -> Weights:
    """The published weights."""
    return load_published_weights()


@pytest.fixture(scope="session")
def published_logits(published, weights, tmp_path_factory) -> Callable[[int, str], np.ndarray]:
    """Float logits of the published images by `batch` and `batch_mean`, each made once in a run."""
    place = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        place = place.parent  # of all workers

    def logits(batch: int, batch_mean: str) -> np.ndarray:
        path = place / f"published-{batch_mean}-{batch}.npy"
        with FileLock(f"{path}.lock"):
            if not path.exists():
                made = float_logits(weights, published, batch=batch, batch_mean=batch_mean)
                np.save(path, made)
        return np.load(path)

    return logits


@pytest.fixture(scope="session")
def compiler() -> Compiler:
    """TPU-MLIR, installed on first need."""
    return find_or_install()
