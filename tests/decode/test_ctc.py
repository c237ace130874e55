"""Greedy reading and text probabilities against their definitions."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lprnet_nb.datasets.alphabet import PUBLISHED, Alphabet
from lprnet_nb.decode import decode, log_softmax
from lprnet_nb.decode.ctc import PAD, collapse, text_log_prob, to_strings
from lprnet_nb.errors import ParameterError


def collapse_by_definition(path, blank):
    merged = [group for group, _ in itertools.groupby(path)]
    return tuple(int(c) for c in merged if c != blank)


def total_by_enumeration(log_probs, blank):
    """Probability of every text, by walking every path of one image ``[C, T]``."""
    totals = {}
    classes, steps = log_probs.shape
    for path in itertools.product(range(classes), repeat=steps):
        text = collapse_by_definition(path, blank)
        p = np.exp(sum(log_probs[c, t] for t, c in enumerate(path)))
        totals[text] = totals.get(text, 0.0) + p
    return totals


def pad(texts, width):
    out = np.full((len(texts), width), PAD, np.int64)
    for row, text in zip(out, texts):
        row[: len(text)] = text
    return out


paths = st.integers(1, 18).flatmap(
    lambda t: st.lists(st.lists(st.integers(0, 3), min_size=t, max_size=t), min_size=1, max_size=5)
)


@given(paths, st.integers(0, 3))
@settings(deadline=None)
def test_collapse_equals_the_definition(rows, blank):
    texts = collapse(np.array(rows), blank)
    assert [tuple(text[text != PAD]) for text in texts] == [
        collapse_by_definition(row, blank) for row in rows
    ]


@given(st.integers(0, 2**32 - 1), st.integers(1, 20))
@settings(max_examples=50, deadline=None)
def test_greedy_equals_the_definition(seed, steps):
    logits = np.random.default_rng(seed).normal(size=(4, PUBLISHED.size, steps))
    readings = decode(logits, decoder="greedy")
    for image, text in zip(logits, readings.texts):
        expected, previous = "", None
        for step in range(steps):
            best = int(np.argmax(image[:, step]))
            if best != previous and best != PUBLISHED.blank:
                expected += PUBLISHED.characters[best]
            previous = best
        assert text == expected


def test_first_step_counts_and_blank_separates():
    def path(text):
        logits = np.zeros((1, PUBLISHED.size, len(text)), np.float32)
        logits[0, [PUBLISHED.characters.index(c) for c in text], range(len(text))] = 9
        return decode(logits).texts[0]

    assert path("皖-AA-1-11-") == "皖A11"
    assert path("皖") == "皖"
    assert path("---") == ""


@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(2, 4), st.integers(0, 3))
@settings(max_examples=30, deadline=None)
def test_text_probability_equals_enumeration(seed, steps, classes, blank):
    blank %= classes
    log_probs = log_softmax(np.random.default_rng(seed).normal(0, 2, (1, classes, steps)))
    totals = total_by_enumeration(log_probs[0], blank)
    texts = list(totals)
    result = text_log_prob(np.repeat(log_probs, len(texts), axis=0), pad(texts, steps), blank)
    assert np.exp(result) == pytest.approx(list(totals.values()), rel=1e-9)
    assert np.exp(result).sum() == pytest.approx(1)


def test_text_that_needs_more_steps_is_impossible():
    log_probs = log_softmax(np.zeros((2, 3, 3)))
    texts = np.array([[0, 0, 0], [0, 1, 0]])  # repeats need blanks between: five steps
    result = text_log_prob(log_probs, texts, blank=2)
    assert result[0] == -np.inf
    assert result[1] == pytest.approx(3 * np.log(1 / 3))


def test_greedy_scores():
    alphabet = Alphabet(("a", "b", "-"), 2)
    logits = np.log(np.array([[[0.6, 0.1], [0.3, 0.1], [0.1, 0.8]]]))
    readings = decode(logits, alphabet)
    # "a": paths a-, -a, aa.
    assert readings.texts == ["a"]
    assert np.exp(readings.log_prob[0]) == pytest.approx(0.6 * 0.8 + 0.1 * 0.1 + 0.6 * 0.1)
    assert readings.confidence[0] == pytest.approx(np.exp(readings.log_prob[0]))
    # Changing the first step to b costs least and reads "b": paths b-, -b, bb.
    assert readings.runner_up == ["b"]
    assert readings.margin[0] == pytest.approx(np.log(0.55 / (0.3 * 0.8 + 0.1 * 0.1 + 0.3 * 0.1)))


def test_no_images_and_huge_logits():
    assert decode(np.zeros((0, 68, 18), np.float32)).texts == []
    logits = np.zeros((1, 68, 18), np.float32)
    logits[0, 12] = 3e4
    readings = decode(logits)
    assert readings.texts == ["皖"]
    assert np.isfinite(readings.log_prob).all()


def test_to_strings_drops_padding_only():
    assert to_strings(np.array([[12, 41, PAD], [12, PAD, PAD]]), PUBLISHED) == ["皖A", "皖"]


@pytest.mark.parametrize(
    "logits, word",
    [
        (np.zeros((68, 18)), "expected"),
        (np.zeros((1, 18, 68)), "68 classes"),
        (np.full((1, 68, 18), np.nan), "image 0"),
    ],
)
def test_bad_logits_are_refused(logits, word):
    with pytest.raises(ParameterError, match=word):
        decode(logits)


def test_unknown_decoder_lists_the_known():
    with pytest.raises(ParameterError, match="greedy"):
        decode(np.zeros((1, 68, 18)), decoder="gredy")
