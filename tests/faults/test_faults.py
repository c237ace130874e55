"""Every fault ends in the same result or in one clear error, with nothing lost and nothing left.

The quick ones run here; all of them, the kills at random moments 20 times each, by
``scripts/test.sh -m "slow or not slow" tests/faults``.
"""

from __future__ import annotations

import pytest

from .suite import Fault, Skip, World, faults, inject

ALL = faults(repetitions=20)
QUICK = [fault for fault in faults(repetitions=2) if not fault.slow]


@pytest.fixture(scope="module")
def world(compiler, tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("faults"))


def run(fault: Fault, world: World) -> None:
    try:
        ended = inject(fault, world)
    except Skip as reason:
        pytest.skip(str(reason))
    assert ended.startswith("same result") or "Error: " in ended or "ERROR" in ended


def test_there_are_enough_faults_and_each_has_its_own_name():
    names = [fault.name for fault in ALL]
    assert len(set(names)) == len(names) >= 30
    for killed in (
        "cluster: kill -9 of a worker",
        "cluster: kill -9 of the scheduler",
        "report: kill -9 of papermill",
        "report: kill -9 of its kernel",
    ):
        assert f"{killed}, 20 times at random" in names


@pytest.mark.parametrize("fault", QUICK, ids=lambda fault: fault.name)
def test_a_quick_fault(fault, world):
    run(fault, world)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", [fault for fault in ALL if fault.slow], ids=lambda fault: fault.name
)
def test_a_slow_fault(fault, world):
    """``scripts/test.sh -m slow tests/faults/test_faults.py`` (an hour on two cores)."""
    run(fault, world)
