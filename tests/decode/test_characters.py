"""How sure characters are, and that no confidence is above 1."""

from __future__ import annotations

import numpy as np
import pytest

from lprnet_nb.datasets.alphabet import PUBLISHED, Alphabet
from lprnet_nb.decode import DECODERS, decode
from lprnet_nb.decode.characters import character_confidence, in_grammar

ABC = Alphabet(("a", "b", "-"), 2)


def test_a_character_is_as_sure_as_the_surest_of_its_steps():
    steps = [(0.5, 0.1, 0.4), (0.7, 0.2, 0.1), (0.1, 0.0001, 0.8999), (0.6, 0.3, 0.1)]
    logits = np.log(np.array([steps])).transpose(0, 2, 1)
    assert decode(logits, ABC).texts == ["aa"]
    [aa, ab, nothing] = character_confidence(np.repeat(logits, 3, axis=0), ["aa", "ab", ""], ABC)
    assert aa == pytest.approx([0.7, 0.6]) and nothing == []
    assert ab == pytest.approx([0.7, 0.3])  # not the class that is the best there


def test_every_character_of_any_reading_has_one():
    logits = np.random.default_rng(1).normal(size=(40, 68, 18)).astype(np.float32) * 3
    for decoder in DECODERS:
        readings = decode(logits, decoder=decoder)
        found = character_confidence(logits, readings.texts, PUBLISHED)
        assert list(map(len, found)) == list(map(len, readings.texts))
        assert all(0 < value <= 1 for values in found for value in values)


@pytest.mark.parametrize("decoder", DECODERS)
def test_no_confidence_is_above_1(decoder):
    dice = np.random.default_rng(2)
    logits = (0.3 * dice.normal(size=(500, 68, 18))).astype(np.float32)
    best = dice.integers(0, 68, (500, 9)).repeat(2, axis=1)
    np.put_along_axis(logits, best[:, None], dice.uniform(20, 24, (500, 1, 18)), axis=1)
    readings = decode(logits, decoder=decoder)
    assert (readings.confidence >= 0).all() and (readings.confidence <= 1).all()
    assert (readings.log_prob <= 0).all()
    if decoder == "greedy":
        assert (readings.confidence == 1).any()  # where rounding adds up to more


def test_the_grammar_is_the_decoders_or_that_of_plates():
    logits = np.full((3, 68, 18), -9.0, np.float32)
    for row, text in zip(logits, ("皖-A-1-2-3-4-5", "皖-A-1-2-3-4", "京-A-D-1-2-3-4-5")):
        padded = text.ljust(18, "-")
        row[[PUBLISHED.characters.index(c) for c in padded], np.arange(18)] = 9.0
    assert in_grammar(decode(logits)) == [True, False, True]
    assert in_grammar(decode(logits, decoder="plate")) == [True, True, True]
