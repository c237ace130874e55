import itertools

import numpy as np
import pytest

from lprnet_nb.datasets.alphabet import PUBLISHED, Alphabet
from lprnet_nb.decode import decode, log_softmax
from lprnet_nb.decode.views import decode_views, stretched
from lprnet_nb.errors import ParameterError


def written(texts, height=8.0, seed=0):
    """Logits that spell texts, with noise."""
    logits = np.random.default_rng(seed).normal(-8, 2, (len(texts), 68, 18)).astype(np.float32)
    for image, text in zip(logits, texts):
        path = np.full(18, 67)
        path[1 : 2 * len(text) : 2] = PUBLISHED.encode(text)
        image[path, range(18)] = height
    return logits


def test_equal_views_are_as_one():
    logits = written(["皖A12345", "沪AD12345"])
    one, three = decode(logits, decoder="plate"), decode_views(np.stack([logits] * 3))
    assert three.texts == one.texts == ["皖A12345", "沪AD12345"]
    assert three.runner_up == one.runner_up
    assert three.log_prob == pytest.approx(one.log_prob, abs=1e-5)
    assert three.confidence == pytest.approx(one.confidence)
    assert three.margin == pytest.approx(one.margin, abs=1e-4)
    assert three.exact.all()
    assert three.decoder == "plate, 3 views"


def test_the_majority_of_sure_views_wins():
    right, wrong = written(["皖A12345"]), written(["皖A12945"], seed=1)
    readings = decode_views(np.stack([wrong, right, right]))
    assert readings.texts == ["皖A12345"]
    assert readings.runner_up == ["皖A12945"]
    assert readings.confidence[0] == pytest.approx(2 / 3, abs=0.01)


def test_average_equals_enumeration(tmp_path):
    path = tmp_path / "ab.toml"
    path.write_text('[sets]\nx = "ab"\n[[form]]\nname = "two"\nslots = ["x", "x"]\n', "utf8")
    alphabet = Alphabet(tuple("ab-"), 2)
    logits = np.random.default_rng(5).normal(0, 2, (3, 4, 3, 4))
    readings = decode_views(logits, alphabet, str(path))
    for image in range(4):
        average = dict.fromkeys(itertools.product("ab", repeat=2), 0.0)
        for view in range(3):
            log_probs = log_softmax(logits[view])[image]
            totals = dict.fromkeys(average, 0.0)
            for steps in itertools.product(range(3), repeat=4):
                text = tuple("ab"[c] for c, _ in itertools.groupby(steps) if c != 2)
                if text in totals:
                    totals[text] += np.exp(sum(log_probs[c, t] for t, c in enumerate(steps)))
            for text, p in totals.items():
                average[text] += p / sum(totals.values()) / 3
        if readings.exact[image]:
            assert readings.confidence[image] == pytest.approx(max(average.values()))
        assert readings.confidence[image] == pytest.approx(average[tuple(readings.texts[image])])
    assert readings.exact.sum() >= 2


def test_stretched_moves_columns_about_the_middle():
    image = np.zeros((1, 24, 94, 3), np.uint8)
    image[0, :, 10], image[0, :, 83] = 250, 250
    views = stretched(image, (1.0, 0.9))
    assert views.shape == (2, 1, 24, 94, 3) and views.dtype == np.uint8
    assert np.array_equal(views[0], image)
    columns = np.flatnonzero(views[1, 0, 12, :, 0])
    assert columns.min() == pytest.approx(47 - 0.9 * 37, abs=1.1)
    assert columns.max() == pytest.approx(47 + 0.9 * 36, abs=1.1)


@pytest.mark.parametrize(
    "call",
    [
        lambda: stretched(np.zeros((1, 24, 94, 3), np.uint8), ()),
        lambda: stretched(np.zeros((1, 24, 94, 3), np.uint8), (3.0,)),
        lambda: decode_views(np.zeros((1, 68, 18))),
    ],
)
def test_impossible_parameters_are_refused(call):
    with pytest.raises(ParameterError):
        call()
