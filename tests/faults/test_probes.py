"""Traps that attackers, careless users and unlucky machines set: none is stepped into in silence.

Those that take long, and kills, are slow; all by
``scripts/test.sh -m "slow or not slow" tests/faults/test_probes.py``.
"""

from __future__ import annotations

from collections import Counter

import pytest

from . import advice, carried, foreign_code, hangs, loss, wrong_answers
from .probes import Probe
from .scene import CONTEXTS, HERE, Context, Scene, Stage
from .world import Skip

ALL = [*foreign_code.A, *wrong_answers.B, *hangs.C, *loss.D, *advice.E, *carried.CARRIED]


def cases(probes: list[Probe]) -> list:
    return [
        pytest.param(
            probe,
            id=f"{probe.item} {probe.name}",
            marks=[pytest.mark.slow] if probe.slow else [],
        )
        for probe in probes
    ]


def spring(probe: Probe, context: Context, stage: Stage, note) -> None:
    where = "" if context is HERE else f" ({context.name})"
    note("fault", f"{probe.item} {probe.name}{where}")
    try:
        with Scene(stage, context).attended() as scene:
            ended = probe.run(scene)
    except Skip as reason:
        pytest.skip(str(reason))
    note("ended", ended)
    assert ended.startswith(("same result", "one error")) or "Error: " in ended


@pytest.mark.parametrize("probe", cases(ALL))
def test_a_trap(probe, stage, record_property):
    spring(probe, HERE, stage, record_property)


@pytest.mark.slow
@pytest.mark.parametrize("context", CONTEXTS, ids=lambda context: context.name)
@pytest.mark.parametrize(
    "probe", [probe for probe in ALL if probe.everywhere], ids=lambda probe: probe.name
)
def test_a_trap_in_other_places(probe, context, stage, record_property):
    spring(probe, context, stage, record_property)


def test_every_item_has_a_probe_and_every_probe_a_name():
    names = [probe.name for probe in ALL]
    assert len(names) >= 80 and not [name for name, times in Counter(names).items() if times > 1]
    items = {int(probe.item[1:]) for probe in ALL if probe.item[1:]}
    assert items == set(range(1, 21)) and {probe.family for probe in ALL} == set("ABCDE")
