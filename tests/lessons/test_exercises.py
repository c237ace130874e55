"""Exercises: a right answer passes, typical wrong ones are told what is wrong with them."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest

from lprnet_nb.errors import ParameterError
from lprnet_nb.lessons import exercises
from lprnet_nb.lessons.exercises import judge


def quantize(x, threshold, levels=255):
    step = threshold / levels
    return np.minimum(np.rint(np.asarray(x) / step), levels) * step


def merged(path):
    return [key for key, _ in itertools.groupby(path)]


def both(compute, memory):
    return sum(max(0, min(b, d) - max(a, c)) for a, b in compute for c, d in memory)


def best(values, candidates, error):
    return min(candidates, key=lambda t: error(values, t))


def widen(box, margin, width, height):
    left, top, right, bottom = box
    x, y = margin * (right - left), margin * (bottom - top)
    return max(0, left - x), max(0, top - y), min(width, right + x), min(height, bottom + y)


RIGHT = {
    "divisor": [
        lambda maps: (maps**2).mean(axis=(1, 2, 3), keepdims=True),
        lambda maps: np.array([np.mean(m * m) for m in maps])[:, None, None, None],
    ],
    "both_busy": [
        both,
        lambda a, b: len(
            {t for s, e in a for t in range(s, e)} & {t for s, e in b for t in range(s, e)}
        ),
    ],
    "quantize_dequantize": [
        quantize,
        lambda x, t: [min(int(v / t * 255 + 0.5), 255) * t / 255 for v in x],
    ],
    "collapse": [
        lambda path, blank: [k for k in merged(path) if k != blank],
        lambda path, blank: np.array(
            [k for b, k in zip([blank, *path], path) if k != b and k != blank], int
        ),
    ],
    "discordant": [
        lambda a, b: ((a & ~b).sum(), (b & ~a).sum()),
        lambda a, b: [sum(x and not y for x, y in zip(p, q)) for p, q in ((a, b), (b, a))],
    ],
    "best_threshold": [
        lambda values, ts: best(values, ts, lambda v, t: ((quantize(v, t) - v) ** 2).mean()),
    ],
    "widen": [widen],
}

WRONG = {
    "divisor": {
        "over the batch": (lambda m: (m**2).mean(keepdims=True), "one plate to do with another"),
        "no dimensions": (lambda m: (m**2).mean(axis=(1, 2, 3)), "shape"),
        "no squares": (lambda m: m.mean(axis=(1, 2, 3), keepdims=True), "gets 0"),
        "root": (lambda m: np.sqrt((m**2).mean(axis=(1, 2, 3), keepdims=True)), "twice"),
        "a sum": (lambda m: (m**2).sum(axis=(1, 2, 3), keepdims=True), "not right yet"),
        "by channel": (lambda m: (m**2).mean(axis=(2, 3), keepdims=True), "shape"),
    },
    "both_busy": {
        "the shorter": (
            lambda a, b: min(sum(e - s for s, e in a), sum(e - s for s, e in b)),
            "no cycle is shared",
        ),
        "both ends count": (
            lambda a, b: sum(max(0, min(e, f) - max(s, t) + 1) for s, e in a for t, f in b),
            "no cycle is shared",
        ),
        "pair by pair": (
            lambda a, b: sum(max(0, min(e, f) - max(s, t)) for (s, e), (t, f) in zip(a, b)),
            "three loads meet",
        ),
        "whole commands": (
            lambda a, b: sum(e - s for s, e in a if any(t < e and s < f for t, f in b)),
            "within a convolution",
        ),
    },
    "quantize_dequantize": {
        "no saturation": (lambda x, t: np.rint(x / (t / 255)) * (t / 255), "What happens above"),
        "cut off": (
            lambda x, t: np.minimum(np.floor(x / (t / 255)), 255) * (t / 255),
            "Which is nearest",
        ),
        "integers": (lambda x, t: np.minimum(np.rint(x / (t / 255)), 255), "turned back"),
        "256 steps": (
            lambda x, t: np.minimum(np.rint(x / (t / 256)), 255) * (t / 256),
            "the threshold itself",
        ),
        "127 steps": (lambda x, t: quantize(x, t, 127), "Which is nearest"),
        "only cut": (lambda x, t: np.minimum(x, t), "Which is nearest"),
    },
    "collapse": {
        "blanks first": (
            lambda p, blank: merged([k for k in p if k != blank]),
            "on both sides of a blank",
        ),
        "no merging": (lambda p, blank: [k for k in p if k != blank], "lasts two steps"),
        "no dropping": (lambda p, blank: merged(p), "blanks around"),
        "first step forgotten": (
            lambda p, blank: [k for b, k in itertools.pairwise(p) if k not in (b, blank)],
            "a class at each step",
        ),
        "a set": (lambda p, blank: sorted(set(p) - {blank}), "on both sides of a blank"),
    },
    "discordant": {
        "swapped": (lambda a, b: ((b & ~a).sum(), (a & ~b).sum()), "Which is which"),
        "totals": (lambda a, b: (max(a.sum() - b.sum(), 0), max(b.sum() - a.sum(), 0)), "totals"),
        "one number": (lambda a, b: (a != b).sum(), "two counts"),
        "errors of each": (lambda a, b: ((~b).sum(), (~a).sum()), "read by one alone"),
    },
    "best_threshold": {
        "the largest": (lambda values, ts: max(ts), "rounding of the rest"),
        "rounding alone": (
            lambda values, ts: best(
                values, ts, lambda v, t: ((quantize(v, t) - np.minimum(v, t)) ** 2).sum()
            ),
            "above the threshold",
        ),
        "saturation alone": (
            lambda values, ts: best(
                values, ts, lambda v, t: ((v - np.minimum(v, t)) ** 2).sum() - t * 1e-9
            ),
            "rounding of the rest",
        ),
        "largest value": (lambda values, ts: values.max(), "one of the candidates"),
    },
    "widen": {
        "half of it": (
            lambda box, m, w, h: widen(box, m / 2, w, h),
            "each side",
        ),
        "width for both": (
            lambda box, m, w, h: (
                *(max(0, v - m * (box[2] - box[0])) for v in box[:2]),
                min(w, box[2] + m * (box[2] - box[0])),
                min(h, box[3] + m * (box[2] - box[0])),
            ),
            "each side",
        ),
        "out of the image": (lambda box, m, w, h: widen(box, m, 9999, 9999), "corner"),
        "below zero": (
            lambda box, m, w, h: tuple(np.subtract(widen(np.add(box, 999), m, 9999, 9999), 999)),
            "left edge",
        ),
    },
}


@pytest.mark.parametrize("name", exercises.EXERCISES)
def test_right_answers_pass(name: str) -> None:
    assert [judge(name, function) for function in RIGHT[name]] == [None] * len(RIGHT[name])


@pytest.mark.parametrize(
    "name, what", [(name, what) for name, wrong in WRONG.items() for what in wrong]
)
def test_wrong_answers_are_told_what_is_wrong(name: str, what: str) -> None:
    function, hint = WRONG[name][what]
    said = judge(name, function)
    assert said is not None and hint in said
    chinese = said.variants["zh"]
    assert not re.search(r"[a-z]+ [a-z]+ [a-z]+", chinese), "all of it is said in Chinese"


def test_every_exercise_has_three_wrong_answers() -> None:
    assert RIGHT.keys() == WRONG.keys() == exercises.EXERCISES.keys()
    assert all(len(wrong) >= 3 for wrong in WRONG.values())


@pytest.mark.parametrize("name", exercises.EXERCISES)
def test_what_a_learner_may_write(name: str, capsys) -> None:
    assert "returns nothing" in judge(name, lambda *_: None)
    assert "returns nothing" in judge(name, lambda *_: ...)
    assert "ZeroDivisionError" in judge(name, lambda *_: 1 / 0)
    assert judge(name, lambda *_: "text") is not None
    exercises.check(name, RIGHT[name][0])
    exercises.check(name, lambda *_: None)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "Right." and said[1].startswith("Not yet: ")


def test_an_answer_may_change_what_it_gets() -> None:
    def collapse(path, blank):
        path[:] = [key for key in merged(path) if key != blank]
        return path

    assert judge("collapse", collapse) is None


def test_an_exercise_that_is_not_there() -> None:
    with pytest.raises(ParameterError, match="no exercise 'ctc'. There are: divisor, "):
        judge("ctc", merged)
