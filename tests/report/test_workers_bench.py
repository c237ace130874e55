"""Two workers against one: what is counted, and that both make the same."""

from __future__ import annotations

import os

import numpy as np
import pytest

from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.errors import EngineError, ParameterError
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.model.trace import trace_model
from lprnet_nb.report import scheduler
from lprnet_nb.report import workers_bench as b


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("LPRNET_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(scheduler.SCHEDULER_VARIABLE, raising=False)
    return trace_model(load_own_weights())


def rows(*seconds: float) -> list[dict]:
    return [{"workers": 1 + number % 2, "seconds": value} for number, value in enumerate(seconds)]


def test_the_speedup_is_that_of_the_medians():
    assert b.ratios(rows(10, 5)) == {"seconds": {"1": 10, "2": 5}, "speedup": 2.0,
                                     "each_round": [2.0]}
    found = b.ratios(rows(9, 5, 30, 5.5, 9.9, 100))
    assert found["seconds"] == {"1": 9.9, "2": 5.5} and found["speedup"] == 1.8
    assert found["each_round"] == [1.8, round(30 / 5.5, 3), 0.099]


def test_too_little_to_share_out_is_refused(model):
    with pytest.raises(ParameterError, match="256 images"):
        b.measure_workers(model, generate_plates(256, seed=1), "torch", 1)
    with pytest.raises(ParameterError, match="in 0 rounds"):
        b.measure_workers(model, generate_plates(300, seed=1), "torch", 0)


def test_workers_take_turns_each_in_a_new_cache(model, monkeypatch):
    """Pieces made in this process in place of a cluster's."""
    turns = []

    @b.contextlib.contextmanager
    def here(workers):
        turns.append(workers)
        with b._variables(LPRNET_CACHE=str(b.cache_dir().parent / f"turn{len(turns)}")):
            yield

    monkeypatch.setattr(b, "_cluster", here)
    monkeypatch.setattr(b, "shards", lambda count, batch, backend: [slice(0, 3), slice(3, count)])
    plates, lines = generate_plates(6, seed=1), []
    before = os.environ["LPRNET_CACHE"]
    found = b.measure_workers(model, plates, "torch", 2, report=lines.append)
    assert turns == [1, 2, 1, 2] == [row["workers"] for row in found["rows"]]
    assert len(lines) == 4 and os.environ["LPRNET_CACHE"] == before
    assert (found["images"], found["pieces"]) == (6, 2)
    one, two = found["seconds"]["1"], found["seconds"]["2"]
    assert found["speedup"] == pytest.approx(one / two, rel=1e-2)

    noise = np.random.default_rng(0)
    monkeypatch.setattr(b, "read_shard", lambda folder: (noise.random(3, np.float32), {}))
    with pytest.raises(EngineError, match="other logits"):
        b.measure_workers(model, plates, "torch", 1)


@pytest.mark.slow
def test_real_workers(model):
    """``scripts/test.sh -m slow tests/report/test_workers_bench.py`` (half a minute)."""
    found = b.measure_workers(model, generate_plates(300, seed=1), "torch", 1)
    assert [row["workers"] for row in found["rows"]] == [1, 2] and found["pieces"] == 2
    assert all(row["seconds"] > 0 for row in found["rows"])
