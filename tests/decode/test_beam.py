import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lprnet_nb.datasets.alphabet import Alphabet
from lprnet_nb.decode import decode, log_softmax
from lprnet_nb.errors import ParameterError

SMALL = Alphabet(tuple("ab-"), 2)


@given(st.integers(0, 2**31), st.integers(1, 6), st.floats(0.1, 5))
@settings(max_examples=40, deadline=None)
def test_a_wide_beam_finds_the_two_best_texts(seed, steps, spread):
    logits = np.random.default_rng(seed).normal(0, spread, (2, 3, steps))
    readings = decode(logits, SMALL, "beam", width=200)
    for image, log_probs in enumerate(log_softmax(logits)):
        totals = {}
        for path in itertools.product(range(3), repeat=steps):
            text = SMALL.decode(c for c, _ in itertools.groupby(path) if c != 2)
            p = np.exp(sum(log_probs[c, t] for t, c in enumerate(path)))
            totals[text] = totals.get(text, 0) + p
        first, second = sorted(totals.values(), reverse=True)[:2]
        assert readings.confidence[image] == pytest.approx(first)
        assert totals[readings.texts[image]] == pytest.approx(first)
        assert totals[readings.runner_up[image]] == pytest.approx(second)
        assert readings.margin[image] == pytest.approx(np.log(first / second))


def test_beam_beats_greedy_where_paths_add_up():
    # Graves' example: the best path is all blanks, yet "a" is the most probable text.
    logits = np.log(np.array([[[0.4, 0.4], [1e-9, 1e-9], [0.6, 0.6]]]))
    assert decode(logits, SMALL).texts == [""]
    readings = decode(logits, SMALL, "beam")
    assert readings.texts == ["a"]
    assert readings.confidence[0] == pytest.approx(0.64)
    assert readings.runner_up == [""]


def test_dropped_and_grown_again_texts_are_one():
    logits = np.random.default_rng(3).normal(0, 1, (20, 3, 8))
    narrow = decode(logits, SMALL, "beam", width=3)
    wide = decode(logits, SMALL, "beam", width=300)
    assert (narrow.log_prob <= wide.log_prob + 1e-12).all()
    assert np.mean([a == b for a, b in zip(narrow.texts, wide.texts)]) >= 0.5


def test_too_narrow():
    with pytest.raises(ParameterError, match="at least 2"):
        decode(np.zeros((1, 3, 4)), SMALL, "beam", width=1)
