"""The world that all faults happen in, and the table of how they ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .record import Recorder
from .scene import Stage
from .world import World


@pytest.fixture(scope="session")
def world(compiler, tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="session")
def stage(world) -> Iterator[Stage]:
    made = Stage(world)
    yield made
    made.close()


def pytest_configure(config: pytest.Config) -> None:
    if file := config.getoption("--faults-table"):
        config.pluginmanager.register(Recorder(Path(file), config))
