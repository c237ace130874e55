"""Decoders on the published images against golden figures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lprnet_nb.decode import decode
from lprnet_nb.decode.views import decode_views, stretched
from lprnet_nb.evaluate import correct, exact_match, mcnemar_exact
from lprnet_nb.evaluate.calibration import accuracy_coverage, reliability
from lprnet_nb.model.trace import float_logits

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "decode.json").read_text("utf8"))
ONE_PLATE = GOLDEN["tolerance"] * 1.01


@pytest.fixture(scope="module")
def logits(published_logits):
    return published_logits(4, "image")


@pytest.mark.parametrize("decoder, expected", GOLDEN["exact_match"].items())
def test_exact_match(published, logits, decoder, expected):
    readings = decode(logits, decoder=decoder)
    assert exact_match(published.labels, readings.texts) == pytest.approx(expected, abs=ONE_PLATE)


@pytest.mark.parametrize("decoder, expected", GOLDEN["best_path"].items())
def test_exact_match_by_best_path(published, logits, decoder, expected):
    readings = decode(logits, decoder=decoder, score="path")
    assert exact_match(published.labels, readings.texts) == pytest.approx(expected, abs=ONE_PLATE)


@pytest.mark.parametrize("decoder, expected", GOLDEN["proved"].items())
def test_readings_are_proved(logits, decoder, expected):
    readings = decode(logits, decoder=decoder)
    assert readings.exact.mean() >= expected - ONE_PLATE
    assert (readings.margin >= 0).all()
    assert (readings.log_prob <= np.log(readings.confidence) + 1e-6).all()


def test_the_grammar_mends_and_does_not_spoil(published, logits):
    before, after = (
        correct(published.labels, decode(logits, decoder=name).texts)
        for name in ("greedy", "plate")
    )
    result = mcnemar_exact(before, after)
    assert result.c == pytest.approx(GOLDEN["mended_by_plate"], abs=1)
    assert result.b == pytest.approx(GOLDEN["spoilt_by_plate"], abs=1)


def test_confidence_of_constrained_readings(published, logits):
    golden = GOLDEN["confidence_of_plate"]
    plain = decode(logits, decoder="plate")
    right = correct(published.labels, plain.texts)
    found = reliability(plain.confidence, right).ece
    assert found == pytest.approx(golden["ece"], abs=golden["ece_tolerance"])
    kept = accuracy_coverage(plain.confidence, right).at(0.95)
    assert kept == pytest.approx(golden["accuracy_at_95_percent"], abs=2 * ONE_PLATE)


@pytest.fixture(scope="module")
def logits_of_4(published_logits):
    return published_logits(4, "batch")


@pytest.mark.parametrize("decoder, expected", GOLDEN["batch_of_4"].items())
def test_exact_match_in_batches_of_4(published, logits_of_4, decoder, expected):
    """The published mean over the batch, which changes readings."""
    readings = decode(logits_of_4, decoder=decoder)
    assert exact_match(published.labels, readings.texts) == pytest.approx(expected, abs=ONE_PLATE)


@pytest.mark.slow
@pytest.mark.parametrize("decoder, expected", GOLDEN["views"].items())
def test_exact_match_of_three_views(published, weights, decoder, expected):
    logits = np.stack(
        [
            float_logits(weights, replace(published, images=view), batch=50)
            for view in stretched(published.images)
        ]
    )
    readings = decode_views(logits, decoder=decoder)
    assert exact_match(published.labels, readings.texts) == pytest.approx(expected, abs=ONE_PLATE)


@pytest.mark.slow
def test_the_stretch_of_views_chosen_and_judged_on_different_plates(published, weights):
    """Twice 500 plates, 200 cuts: chosen on one half by its labels, judged on the other."""
    golden, labels = GOLDEN["views_nested"], np.array(published.labels)
    whole = float_logits(weights, published, batch=50)
    right = []
    for stretch in golden["stretches"]:
        sides = [
            float_logits(weights, replace(published, images=view), batch=50)
            for view in stretched(published.images, (1 - stretch, 1 + stretch))
        ]
        right.append(np.array(decode_views(np.stack([whole, *sides])).texts) == labels)
    rng, found = np.random.default_rng(0), []
    for _ in range(golden["splits"]):
        halves = np.split(rng.permutation(len(published)), 2)
        found.append(
            sum(
                max(right, key=lambda r: r[choose].sum())[judge].sum()
                for choose, judge in (halves, halves[::-1])
            )
            / len(published)
        )
    assert np.mean(found) == pytest.approx(golden["mean"], abs=ONE_PLATE)
    assert min(found) == pytest.approx(golden["lowest"], abs=ONE_PLATE)
    assert max(found) == pytest.approx(golden["highest"], abs=ONE_PLATE)


def test_what_a_colour_could_tell(published, logits):
    """Knowing the length from the plate's colour would mend two readings of the plate grammar."""
    labels, golden = published.labels, GOLDEN["length_known"]
    read = decode(logits, decoder="plate").texts
    assert sum(len(a) != len(b) for a, b in zip(read, labels)) == golden["wrong_length"]
    by_length = {
        7: decode(logits, decoder="plate-ordinary").texts,
        8: decode(logits, decoder="plate-new-energy").texts,
    }
    told = [by_length[len(label)][k] for k, label in enumerate(labels)]
    assert exact_match(labels, told) == pytest.approx(golden["plate"], abs=ONE_PLATE)
