"""Best text of a grammar against brute force on small alphabets."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lprnet_nb.datasets.alphabet import PUBLISHED, Alphabet
from lprnet_nb.decode import decode, log_softmax
from lprnet_nb.decode.ctc import PAD
from lprnet_nb.decode.grammar import Form, Grammar, Limit, compile_grammar, load_grammar
from lprnet_nb.decode.search import search

SMALL = Alphabet(tuple("abc-"), 3)


def scores_by_enumeration(log_probs, blank, best_path):
    """Score of every text by walking every path of one image ``[C, T]``."""
    classes, steps = log_probs.shape
    scores = {}
    for path in itertools.product(range(classes), repeat=steps):
        text = tuple(c for c, _ in itertools.groupby(path) if c != blank)
        p = np.exp(sum(log_probs[c, t] for t, c in enumerate(path)))
        scores[text] = max(scores.get(text, 0), p) if best_path else scores.get(text, 0) + p
    return scores


@st.composite
def grammars(draw):
    """Overlapping forms of different lengths, with limits and pairs."""
    characters = st.sets(st.sampled_from("abc"), min_size=1).map(lambda s: "".join(sorted(s)))
    forms = []
    for number in range(draw(st.integers(1, 3))):
        slots = tuple(draw(st.lists(characters, min_size=1, max_size=4)))
        limits = ()
        if draw(st.booleans()):
            first = draw(st.integers(0, len(slots) - 1))
            limits = (
                Limit(
                    draw(characters),
                    first,
                    draw(st.integers(first, len(slots) - 1)),
                    draw(st.integers(0, 2)),
                ),
            )
        pairs = ()
        if draw(st.booleans()):
            pairs = tuple((c, draw(characters)) for c in "abc")
        forms.append(Form(str(number), slots, limits, pairs))
    return Grammar("drawn", "", "", tuple(forms))


def fits(text, grammar):
    """Is a text in a grammar, by the words of the format?"""
    for form in grammar.forms:
        if len(text) != len(form.slots) or any(c not in s for c, s in zip(text, form.slots)):
            continue
        if any(
            sum(c in limit.characters for c in text[limit.first : limit.last + 1]) > limit.count
            for limit in form.limits
        ):
            continue
        if form.pairs and len(text) > 1 and text[1] not in dict(form.pairs).get(text[0], ""):
            continue
        return True
    return False


def compiled_or_none(grammar):
    try:
        return compile_grammar(grammar, SMALL)
    except ValueError as error:
        assert "no text fits" in str(error)
        return None


@given(grammars(), st.booleans(), st.integers(1, 5), st.floats(0.1, 6), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_best_texts_equal_brute_force(grammar, best_path, steps, spread, seed):
    automaton = compiled_or_none(grammar)
    texts = {
        text
        for k in range(1, 5)
        for text in itertools.product("abc", repeat=k)
        if fits(text, grammar)
    }
    if automaton is None:
        assert not texts
        return
    log_probs = log_softmax(np.random.default_rng(seed).normal(0, spread, (3, 4, steps)))
    found = search(log_probs, automaton, SMALL.blank, best_path=best_path)
    for image in range(3):
        scores = scores_by_enumeration(log_probs[image], SMALL.blank, best_path)
        valid = sorted(
            (
                (p, text)
                for text, p in scores.items()
                if "".join(SMALL.decode(text)) in {"".join(t) for t in texts}
            ),
            reverse=True,
        )
        for k in range(2):
            if k < len(valid):
                assert np.exp(found.score[image, k]) == pytest.approx(valid[k][0], rel=1e-7)
                read = tuple(found.texts[image, k][found.texts[image, k] != PAD])
                assert scores[read] == pytest.approx(valid[k][0], rel=1e-7)
            else:
                assert found.score[image, k] == -np.inf
        if valid:
            together = max(valid)[0] if best_path else sum(p for p, _ in valid)
            assert np.exp(found.log_total[image]) == pytest.approx(together, rel=1e-7)
            assert found.exact[image]


@given(grammars())
@settings(max_examples=60, deadline=None)
def test_automaton_equals_the_format(grammar):
    automaton = compiled_or_none(grammar)
    for length in range(6):
        for text in map("".join, itertools.product("abc", repeat=length)):
            expected = fits(text, grammar)
            assert (automaton is not None and automaton.accepts(SMALL.encode(text))) == expected


@given(
    st.integers(0, 2**31),
    st.floats(0.1, 30),
    st.sampled_from(["plate", "plate-ordinary", "plate-new-energy", "plate-cities"]),
    st.sampled_from(["total", "path"]),
)
@settings(max_examples=10, deadline=None)
def test_every_reading_is_in_the_grammar(seed, spread, name, score):
    logits = np.random.default_rng(seed).normal(0, spread, (2, 68, 18)).astype(np.float32)
    readings = decode(logits, decoder=name, score=score)
    automaton = compile_grammar(load_grammar(name), PUBLISHED)
    for text in readings.texts + readings.runner_up:
        assert automaton.accepts(PUBLISHED.encode(text)), text
    assert all(a != b for a, b in zip(readings.texts, readings.runner_up))
    assert ((readings.confidence >= 0) & (readings.confidence <= 1)).all()


def test_hopeless_logits_are_searched_in_the_log_domain():
    # The valid plates are all beyond the smallest float64, yet one is far better than the rest.
    logits = np.zeros((1, 68, 18), np.float32)
    logits[0, 67] = 300
    for step, character in enumerate("皖A12345"):
        logits[0, PUBLISHED.characters.index(character), 2 * step] = 150
    readings = decode(logits, decoder="plate")
    assert readings.texts == ["皖A12345"]
    assert readings.exact.all()
    assert readings.log_prob[0] == pytest.approx(-7 * 150)
    assert readings.confidence[0] == pytest.approx(1)
    assert 140 < readings.margin[0] < 150


def test_no_text_fits_into_too_few_steps():
    readings = decode(np.zeros((2, 68, 5), np.float32), decoder="plate")
    assert readings.texts == readings.runner_up == ["", ""]
    assert (readings.log_prob == -np.inf).all()
    assert (readings.confidence == 0).all()
    assert (readings.margin == np.inf).all()
    assert not readings.exact.any()


def test_images_do_not_influence_each_other():
    logits = np.random.default_rng(1).normal(0, 9, (150, 68, 18)).astype(np.float32)
    together = decode(logits, decoder="plate")
    apart = [decode(logits[k : k + 1], decoder="plate").texts[0] for k in (0, 127, 128, 149)]
    assert [together.texts[k] for k in (0, 127, 128, 149)] == apart


def test_a_doubled_character_needs_a_blank():
    # "皖AA12345" by greedy; the best valid plate drops or turns one of its characters.
    logits = np.full((1, 68, 18), -8.0, np.float32)
    for step, character in enumerate("皖-A--1--1-2-3-4-55"[:18]):
        logits[0, PUBLISHED.characters.index(character), step] = 8
    assert decode(logits).texts == ["皖A112345"]
    assert len(decode(logits, decoder="plate-ordinary").texts[0]) == 7


def test_no_images():
    assert decode(np.zeros((0, 68, 18), np.float32), decoder="plate").texts == []
