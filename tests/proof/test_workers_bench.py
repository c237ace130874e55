"""Two workers against one: what is counted, and that both make the same."""

from __future__ import annotations

import dataclasses
import os

import pytest

from lprnet_nb.errors import EngineError, ParameterError
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.model.trace import trace_model
from lprnet_nb.proof import workers_bench as b
from lprnet_nb.work import scheduler


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("LPRNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(scheduler.SCHEDULER_VARIABLE, raising=False)
    return trace_model(load_own_weights())


def rows(*seconds: float) -> list[dict]:
    return [{"workers": 1 + number % 2, "seconds": value} for number, value in enumerate(seconds)]


def test_the_speedup_is_that_of_the_medians():
    assert b.ratios(rows(10, 5)) == {
        "seconds": {"1": 10, "2": 5},
        "speedup": 2.0,
        "each_round": [2.0],
    }
    found = b.ratios(rows(9, 5, 30, 5.5, 9.9, 100))
    assert found["seconds"] == {"1": 9.9, "2": 5.5} and found["speedup"] == 1.8
    assert found["each_round"] == [1.8, round(30 / 5.5, 3), 0.099]


def test_too_little_to_share_out_is_refused():
    for images, rounds in ((511, 1), (512, 0)):
        with pytest.raises(ParameterError, match=f"{images} images in {rounds} rounds"):
            b.measure_workers(None, images, rounds, backend="torch")


def test_workers_take_turns_each_in_a_new_cache(model, monkeypatch):
    """Pieces made in this process in place of a cluster's."""
    turns = []

    @b.contextlib.contextmanager
    def here(workers, cache):
        turns.append((workers, cache))
        assert not cache.exists()
        with b.variables(LPRNET_CACHE=str(cache)):
            yield

    monkeypatch.setattr(b, "_cluster", here)
    before, lines = os.environ["LPRNET_CACHE"], []
    found = b.measure_workers(model, 5, 2, backend="torch", files=2, report=lines.append)
    assert [workers for workers, _ in turns] == [1, 2, 1, 2]
    assert [row["workers"] for row in found["rows"]] == [1, 2, 1, 2]
    assert len({cache for _, cache in turns}) == 4 == len(lines)
    assert os.environ["LPRNET_CACHE"] == before
    assert (found["images"], found["pieces"]) == (5, 3) and 0 < found["right"] <= 5
    one, two = found["seconds"]["1"], found["seconds"]["2"]
    assert found["speedup"] == pytest.approx(one / two, rel=1e-2)

    honest = b.survey
    monkeypatch.setattr(
        b, "survey", lambda *a, **o: dataclasses.replace(honest(*a, **o), right=len(turns))
    )
    with pytest.raises(EngineError, match="other plates"):
        b.measure_workers(model, 4, 1, backend="torch", files=2)


@pytest.mark.slow
def test_real_workers(model):
    """``scripts/test.sh -m slow tests/report/test_workers_bench.py`` (half a minute)."""
    found = b.measure_workers(model, 8, 1, backend="torch", files=2)
    assert [row["workers"] for row in found["rows"]] == [1, 2] and found["pieces"] == 4
    assert all(row["seconds"] > 0 for row in found["rows"])
