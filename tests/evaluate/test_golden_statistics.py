"""Statistics of the float readings of the published images against golden figures."""

import json
from pathlib import Path

import pytest
from scipy.stats import binomtest

from lprnet_nb.decode import decode
from lprnet_nb.evaluate import (
    accuracy_coverage,
    character_accuracy,
    correct,
    error_kinds,
    log_loss,
    mcnemar_exact,
    reliability,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "evaluate.json").read_text("utf8"))


@pytest.fixture(scope="module")
def plates(published):
    return published.take(slice(GOLDEN["images"]))


@pytest.fixture(scope="module")
def logits(plates, published_logits):
    return published_logits(4, "image")[: len(plates)]


def near(pair):
    value, tolerance = pair
    return pytest.approx(value, abs=tolerance)


@pytest.mark.parametrize("decoder", ["greedy", "plate"])
def test_accuracy_and_confidence(plates, logits, decoder):
    golden = GOLDEN[decoder]
    readings = decode(logits, decoder=decoder)
    right = correct(plates.labels, readings.texts)
    assert character_accuracy(plates.labels, readings.texts) == near(golden["character_accuracy"])
    kinds = error_kinds(plates.labels, readings.texts)
    assert kinds == {kind: pytest.approx(count, abs=1) for kind, count in golden["kinds"].items()}
    assert reliability(readings.confidence, right).ece == near(golden["ece"])
    assert log_loss(readings.confidence, right) == near(golden["log_loss"])
    assert accuracy_coverage(readings.confidence, right).area == near(golden["area"])


def test_grammars_read_significantly_better(plates, logits):
    greedy, plate = (
        correct(plates.labels, decode(logits, decoder=name).texts) for name in ("greedy", "plate")
    )
    golden = GOLDEN["greedy_against_plate"]
    result = mcnemar_exact(greedy, plate)
    assert (result.b, result.c) == pytest.approx((golden["b"], golden["c"]), abs=1)
    assert result.p == pytest.approx(binomtest(result.b, result.b + result.c).pvalue)
    assert result.p < 0.01
