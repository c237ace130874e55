"""Training sees what the compiler makes: its grid, its integers, its logits.

``pytest -m slow tests/toolchain/test_finetune.py``
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.datasets.images import preprocess
from lprnet_nb.errors import ToolchainError
from lprnet_nb.evaluate.fidelity import sqnr_db
from lprnet_nb.model.qat import QatConfig, quantized_logits
from lprnet_nb.model.trace import float_logits, trace_model
from lprnet_nb.runtime.emulator import Emulator
from lprnet_nb.toolchain import finetune
from lprnet_nb.toolchain.compile import top_graph
from lprnet_nb.toolchain.grid import integer_grid
from lprnet_nb.toolchain.lowering import Quantizer
from lprnet_nb.toolchain.strategies import STRATEGIES

pytestmark = pytest.mark.slow
GOLDEN = Path(__file__).parents[1] / "golden" / "integer_grids.json"
CHIPS = ("BM1684X", "BM1684")


@pytest.fixture(scope="module")
def quantizer(tmp_path_factory, compiler):
    with Quantizer(tmp_path_factory.mktemp("finetune") / "quantizer.log") as made:
        yield made


@pytest.fixture(scope="module")
def graph(weights, compiler):
    return top_graph(trace_model(weights, form="forked"))


@pytest.fixture(scope="module")
def table(graph, quantizer, published):
    return quantizer.tables(graph, published.images[:20], ["mse"])["mse"]


@pytest.fixture(scope="module")
def unseen():
    return generate_plates(32, seed=98, workers=0)


def agree(chip, folder, logits, plates):
    """Logits against the emulator's, which are the chip's own."""
    wanted = Emulator(folder, threads=1).run(preprocess(plates.images))
    if chip == "BM1684":  # its means are float32, as ours: the last bits alone
        return np.allclose(logits, wanted, rtol=0, atol=2e-5)
    # Elsewhere they are float16: a mean may come out a level off, far below INT8's own 20 dB.
    same = (logits.argmax(1) == wanted.argmax(1)).mean()
    return sqnr_db(wanted, logits) > 45 and same > 0.99


@pytest.mark.parametrize("chip", CHIPS)
def test_untouched_weights_give_the_emulators_logits(
    chip, quantizer, graph, table, weights, unseen
):
    folder = quantizer.lower(graph, chip, STRATEGIES["qat"], table)
    grid = integer_grid(folder)
    stored = json.loads(GOLDEN.read_text("utf8"))[chip]
    assert {
        name: {
            k: list(v) if isinstance(v, tuple) else v
            for k, v in asdict(unit).items()
            if v is not None
        }
        for name, unit in grid.items()
    } == stored
    logits = quantized_logits(weights, grid, unseen)
    assert agree(chip, folder, logits, unseen)
    assert sqnr_db(float_logits(weights, unseen), logits) < 35  # INT8's loss, not float's


@pytest.mark.parametrize("chip", CHIPS)
def test_tuned_weights_meet_the_grid_they_were_tuned_on(
    chip, quantizer, graph, table, weights, unseen, monkeypatch
):
    monkeypatch.setattr(finetune, "QatConfig", lambda seed: QatConfig(steps=2, batch=8, seed=seed))
    strategy = STRATEGIES["qat"]
    before = integer_grid(quantizer.lower(graph, chip, strategy, table))
    tuned = finetune.tuned_weights(weights, chip, strategy, table, quantizer=quantizer)
    traced = finetune.tuned_trace(weights, chip, strategy, table, quantizer=quantizer)
    assert traced.weights == "published-qat" and traced.form == "forked"
    folder = quantizer.lower(top_graph(traced), chip, strategy, table)
    assert integer_grid(folder) == before
    assert agree(chip, folder, quantized_logits(tuned, before, unseen), unseen)
    assert tuned.digest != weights.digest


def test_graphs_that_training_does_not_follow_are_refused(
    quantizer, graph, table, weights, published
):
    mixed = quantizer.lower(graph, "BM1684X", STRATEGIES["mse-forked-square"], table)
    with pytest.raises(ToolchainError, match="'square1' this graph differs"):
        integer_grid(mixed)
    plain = top_graph(trace_model(weights))
    table = quantizer.tables(plain, published.images[:20], ["mse"])["mse"]
    with pytest.raises(ToolchainError, match="forked form"):
        integer_grid(quantizer.lower(plain, "BM1684X", STRATEGIES["mse"], table))
