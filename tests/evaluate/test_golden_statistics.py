"""Statistics of the float readings of the published images against golden figures."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from lprnet_nb.decode import decode
from lprnet_nb.evaluate import (
    accuracy_coverage,
    character_accuracy,
    cochran_q,
    correct,
    cross_fit_temperature,
    ece,
    error_kinds,
    log_loss,
    mcnemar_exact,
)
from lprnet_nb.model.trace import float_logits

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "evaluate.json").read_text("utf8"))


@pytest.fixture(scope="module")
def plates(published):
    return published.take(slice(GOLDEN["images"]))


@pytest.fixture(scope="module")
def logits(plates, weights):
    return float_logits(weights, plates, batch=50)


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
    assert ece(readings.confidence, right) == near(golden["ece"])
    assert log_loss(readings.confidence, right) == near(golden["log_loss"])
    assert accuracy_coverage(readings.confidence, right).area == near(golden["area"])


def test_cross_fitted_temperature_calibrates(plates, logits):
    temperatures = [1, 1.25, 1.5, 2, 3]
    readings = [decode(logits, decoder="plate", temperature=t) for t in temperatures]
    fit = cross_fit_temperature(
        temperatures,
        np.array([r.confidence for r in readings]),
        np.array([correct(plates.labels, r.texts) for r in readings]),
    )
    golden = GOLDEN["cross_fit_plate"]
    low, high = golden["temperature"]
    assert ((low <= fit.temperature) & (fit.temperature <= high)).all()
    assert ece(fit.confidence, fit.correct) == near(golden["ece"])
    assert log_loss(fit.confidence, fit.correct) == near(golden["log_loss"])


def test_grammars_read_significantly_better(plates, logits):
    greedy, plate, ordinary = (
        correct(plates.labels, decode(logits, decoder=name).texts)
        for name in ("greedy", "plate", "plate-ordinary")
    )
    golden = GOLDEN["greedy_against_plate"]
    result = mcnemar_exact(greedy, plate)
    assert (result.b, result.c) == pytest.approx((golden["b"], golden["c"]), abs=1)
    # One plate more or less moves p by a factor of up to 12, so p itself is held by other means.
    for b, c, p in ((result.b, result.c, result.p), (golden["b"], golden["c"], golden["p"])):
        assert p == pytest.approx(binomtest(b, b + c).pvalue, rel=1e-9, abs=0)
    assert result.p < 0.05
    assert cochran_q([greedy, plate, ordinary]).q == near(GOLDEN["cochran_q"])
