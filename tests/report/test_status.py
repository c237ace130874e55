"""What a report's status lists, and that listing makes nothing."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from lprnet_nb.cache import digest, locked
from lprnet_nb.cli import app
from lprnet_nb.datasets.generate import generate_plates, write_plates
from lprnet_nb.errors import ParameterError
from lprnet_nb.lessons import compile, trace
from lprnet_nb.measure.data import datasets_for
from lprnet_nb.measure.models import compile_all
from lprnet_nb.measure.rows import measure_all
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.model.trace import trace_model
from lprnet_nb.report import status as s
from lprnet_nb.runtime import inference
from lprnet_nb.toolchain import compile as c
from lprnet_nb.toolchain.environment import ENVIRONMENT_VARIABLE
from lprnet_nb.work import scheduler


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    folder = write_plates(
        generate_plates(104, seed=2), tmp_path_factory.mktemp("plates") / "p"
    ).parent
    return {
        "DATA": str(folder),
        "WEIGHTS": "generated",
        "CHIPS": "BM1688",
        "PRECISIONS": "fp32",
        "IMAGES": 0,
    }


@pytest.fixture
def empty(compiler, tmp_path, monkeypatch):
    monkeypatch.setattr(inference, "_SHARD", 64)
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(compiler.prefix))
    monkeypatch.setenv("LPRNET_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_pieces_are_listed_by_name_and_nothing_is_made(empty, values):
    states = {
        row.name: row for row in s.report_states("quick", notebooks=("05_compare",), **values)
    }
    assert list(states) == [
        "trace/published_1b",
        "translate/published_1b",
        "compile/bm1688_fp32_1b",
        "infer/float_1b/torch/000000-000063",
        "infer/float_1b/torch/000064-000103",
        "score/float_1b/greedy",
        "score/float_1b/plate",
        "infer/bm1688_fp32_1b/emulator/000000-000063",
        "infer/bm1688_fp32_1b/emulator/000064-000103",
        "score/bm1688_fp32_1b/greedy",
        "score/bm1688_fp32_1b/plate",
        "infer/bm1688_fp32_1b/simulator/000000-000003",
        "crosscheck/bm1688_fp32_1b",
    ]
    assert {row.state for row in states.values()} == {"missing"}
    assert {row.notebooks for row in states.values()} == {("05_compare",)}
    assert not empty.exists()


def test_what_is_done_and_what_is_running_is_told_apart(empty, values):
    traced = trace_model(load_own_weights())
    states = s.report_states("quick", notebooks=("05_compare",), **values)
    assert [row.name for row in states if row.state == "done"] == ["trace/published_1b"]
    seen = {}
    original, c.artifact = c.artifact, lambda kind, inputs, build: seen.setdefault(kind, inputs)
    try:
        with pytest.raises(TypeError):
            c.top_graph(traced)
    finally:
        c.artifact = original
    # The artifact that translating would leave is being made by somebody.
    lock = empty / "artifacts" / "top" / digest({"kind": "top", **seen["top"]})[:20]
    with locked(lock, "a test"):
        states = s.report_states("quick", notebooks=("05_compare",), **values)
    assert [row.name for row in states if row.state == "running"] == ["translate/published_1b"]


def notebook_01(p, data):
    trace.coupling(data.weights, data.plates, p.batches)


def notebook_02(p, data):
    compile.proof_on_simulator(compile_all(p, data, progress=False), data.plates.take(slice(4)))


def notebook_05(p, data):
    measure_all(p, data, compile_all(p, data, progress=False), progress=False)


@pytest.mark.parametrize(
    "stem, run",
    [("01_trace", notebook_01), ("02_compile", notebook_02), ("05_compare", notebook_05)],
)
def test_what_a_notebook_makes_is_what_is_listed_and_done(compiler, values, stem, run, monkeypatch):
    """In the common cache: what is compiled there is found."""
    made, make = set(), scheduler.make

    def recorded(*arguments, **options):
        done = make(*arguments, **options)
        made.update(piece.name for piece in done)
        return done

    monkeypatch.setattr(scheduler, "make", recorded)
    given = values | {"BATCHES": "1"}
    parameters = s._parameters(stem, s.profile_values("quick", given))
    run(parameters, datasets_for(parameters))
    states = s.report_states("quick", notebooks=(stem,), **given)
    # A model that was compiled before is handed on with its trace, under names of its own.
    assert {row.name for row in states} == {name for name in made if name != "trace/bm1688_fp32_1b"}
    assert {row.state for row in states} == {"done"}


def test_an_impossible_parameter_is_refused():
    with pytest.raises(ParameterError, match="BM9"):
        s.report_states("quick", CHIPS="BM9")


def test_the_command_prints_json(empty, values):
    options = [text for name, value in values.items() for text in (f"--{name.lower()}", str(value))]
    done = CliRunner().invoke(app, ["report", "--status", "--json", *options])
    assert done.exit_code == 0, (done.output, done.exception)
    facts = json.loads(done.stdout)
    assert facts["done"] == facts["running"] == 0 < facts["missing"] == len(facts["pieces"])
    assert {
        "name": "compile/bm1688_fp32_1b",
        "state": "missing",
        "notebooks": ["02_compile", "04_infer", "05_compare"],
    } in facts["pieces"]
