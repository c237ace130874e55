import numpy as np
import pytest

from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.datasets.images import PlateImages
from lprnet_nb.datasets.margins import CANDIDATES, NONE, Margin, widen, with_margin
from lprnet_nb.decode import decode
from lprnet_nb.errors import DataError
from lprnet_nb.evaluate.margins import SAMPLE, choose_margin
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.model.trace import float_logits


def black_share(wanted: float):
    """A reader that is sure where the share of black is as wanted."""

    def confidence(crops: PlateImages) -> np.ndarray:
        return 1 - np.abs((crops.images < 128).mean(axis=(1, 2, 3)) - wanted)

    return confidence


def frames(count: int) -> PlateImages:
    """White plates in a frame of black, a tenth of the width and of the height on each side."""
    images = np.zeros((count, 40, 100, 3), np.uint8)
    images[:, 4:36, 10:90] = 255
    return named(images)


def named(images: np.ndarray) -> PlateImages:
    return PlateImages("crops", images, tuple(map(str, range(len(images)))))


def test_the_surest_margin_is_chosen():
    share = (widen(frames(1).images, Margin(0.05, 0.1)) < 128).mean()
    found = choose_margin(black_share(share), frames(30))
    assert found.margin == Margin(0.05, 0.1) and found.plates == 30
    assert set(found.confidence) == set(CANDIDATES)
    assert found.confidence[found.margin] == pytest.approx(1)
    assert found.gain[0] == pytest.approx(1 - found.confidence[NONE])
    assert "margin 5/10" in found.said()


def test_a_gain_of_chance_changes_nothing():
    dice = np.random.default_rng(3)
    found = choose_margin(lambda crops: dice.random(len(crops)), frames(60))
    assert found.margin == NONE and "not surely better" in found.said()


def test_one_plate_is_no_sample():
    share = (widen(frames(1).images, Margin(0.05, 0.1)) < 128).mean()
    assert choose_margin(black_share(share), frames(1)).margin == NONE
    with pytest.raises(DataError, match="no crops"):
        choose_margin(black_share(0.1), frames(0))


def test_a_large_set_is_sampled_from_end_to_end():
    seen = []

    def confidence(crops: PlateImages) -> np.ndarray:
        seen.append(crops.images[:, 0, 0, 0])
        return np.ones(len(crops))

    images = np.zeros((1000, 24, 94, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(1000) // 4
    assert choose_margin(confidence, named(images), (NONE,)).plates == SAMPLE
    assert seen[0][0] == 0 and seen[0][-1] == 249 and len(set(seen[0])) == SAMPLE


def test_crops_that_are_too_tight_are_widened():
    """Unlabelled plates, cut to their paint: the packaged weights ask for more around them."""
    weights = load_own_weights()
    plates = generate_plates(40, seed=5)
    tight = with_margin(plates, Margin(-0.06, -0.12))

    def confidence(crops: PlateImages) -> np.ndarray:
        logits = float_logits(weights, crops, batch=16)
        return decode(logits, weights.alphabet).confidence

    found = choose_margin(confidence, tight)
    assert found.margin.x > 0 or found.margin.y > 0
