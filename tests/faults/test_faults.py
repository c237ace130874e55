"""Every fault ends in the same result or in one clear error, with nothing lost and nothing left.

The quick ones run here; all of them, the kills at random moments 20 times each, by
``scripts/test.sh -m "slow or not slow" tests/faults``. ``--repetitions N`` kills N times, and
``--faults-table FILE`` leaves how each fault ended.
"""

from __future__ import annotations

import pytest

from .suite import Fault, Skip, World, faults, inject

SLOW, QUICK = 20, 2  # kills at random moments, where --repetitions does not say


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fault" in metafunc.fixturenames:
        slow = metafunc.function is test_a_slow_fault
        given = metafunc.config.getoption("--repetitions")
        found = faults(given or (SLOW if slow else QUICK))
        chosen = [fault for fault in found if fault.slow == slow]
        metafunc.parametrize("fault", chosen, ids=[fault.name for fault in chosen])


def run(fault: Fault, world: World, note) -> None:
    note("fault", fault.name)
    try:
        ended = inject(fault, world)
    except Skip as reason:
        pytest.skip(str(reason))
    note("ended", ended)
    assert ended.startswith("same result") or "Error: " in ended or "ERROR" in ended


def test_there_are_enough_faults_and_each_has_its_own_name():
    names = [fault.name for fault in faults(SLOW)]
    assert len(set(names)) == len(names) >= 30
    for killed in (
        "cluster: kill -9 of a worker",
        "cluster: kill -9 of the scheduler",
        "report: kill -9 of papermill",
        "report: kill -9 of its kernel",
    ):
        assert f"{killed}, 20 times at random" in names


def test_a_quick_fault(fault, world, record_property):
    run(fault, world, record_property)


@pytest.mark.slow
def test_a_slow_fault(fault, world, record_property):
    """``scripts/test.sh -m slow tests/faults/test_faults.py`` (an hour on two cores)."""
    run(fault, world, record_property)
