"""Exercises that check themselves: what is wrong with an answer, without giving it away."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import numpy as np

from ..errors import ParameterError
from ..language import Text, phrase, sentences
from .course import tell

Answer = Callable[..., Any]


class _Wrong(Exception):
    """What is wrong with an answer."""

    def __init__(self, said: Text) -> None:
        super().__init__(said)
        self.text = said


def check(name: str, function: Answer) -> None:
    """Print whether an exercise is solved, or what is wrong with the answer."""
    wrong = judge(name, function)
    tell(phrase("Not yet: {wrong}", wrong=wrong) if wrong else phrase("Right."))


def judge(name: str, function: Answer) -> Text | None:
    """What is wrong with an answer, or None for a right one.

    Parameters
    ----------
    name
        One of `EXERCISES`.
    function
        What the learner wrote.
    """
    if name not in EXERCISES:
        raise ParameterError(f"there is no exercise {name!r}. There are: {', '.join(EXERCISES)}.")
    try:
        EXERCISES[name](function)
    except _Wrong as wrong:
        return wrong.text
    return None


def _asked(function: Answer, *arguments: Any) -> Any:
    """What the learner's function gives; the arguments stay ours, whatever it does to them."""
    try:
        given = function(*deepcopy(arguments))
    except Exception as error:  # anything may be in what a learner writes
        raise _Wrong(
            phrase("it stops with {kind}: {error}.", kind=type(error).__name__, error=str(error))
        ) from error
    if given is None or given is Ellipsis:
        raise _Wrong(phrase("it returns nothing so far. Write its body, and return the result."))
    return given


def _array(function: Answer, *arguments: Any) -> np.ndarray:
    try:
        return np.asarray(_asked(function, *arguments), float)
    except (TypeError, ValueError) as error:
        raise _Wrong(phrase("it must return numbers.")) from error


def _need(right: bool, otherwise: Text) -> None:
    if not right:
        raise _Wrong(otherwise)


def _divisor(function: Answer) -> None:
    """Notebook 01: mean square of each image's map, ``[N, C, H, W]`` to ``[N, 1, 1, 1]``."""
    maps = (
        np.random.default_rng(0).normal(size=(3, 4, 2, 5))
        * np.array([1, 2, 9])[:, None, None, None]
    )
    found = _array(function, maps)
    _need(
        found.size != 1,
        phrase("three images get one number between them. What has one plate to do with another?"),
    )
    _need(
        found.shape == (3, 1, 1, 1),
        phrase(
            "three images give the shape {shape}; `maps / divisor(maps)` must divide each image by "
            "a number of its own.",
            shape=found.shape,
        ),
    )
    alone = _array(function, maps[:1])
    _need(
        np.allclose(alone, found[:1]),
        phrase("the first image gets another number when it is alone."),
    )
    signs = _array(function, np.array([[-1.0, 1.0, -1.0, 1.0]]).reshape(1, 1, 2, 2))
    _need(
        not np.allclose(signs, 0),
        phrase("a map of values 1 and -1 gets 0, and cannot be divided by it."),
    )
    twice = _array(function, 2 * maps) / found
    _need(
        not np.allclose(twice, 2),
        phrase(
            "twice the values give twice the divisor. Of a mean of squares, how much should it be?"
        ),
    )
    _need(
        np.allclose(found[:, 0, 0, 0], (maps**2).mean((1, 2, 3))),
        phrase("the values are not right yet."),
    )


def _both_busy(function: Answer) -> None:
    """Notebook 02: cycles in which both units work, of ``(start, end)`` commands of each."""
    cases: tuple[tuple[list, list, str], ...] = (
        (
            [(0, 10)],
            [(10, 20)],
            phrase("one unit ends at 10 where the other starts: no cycle is shared"),
        ),
        ([(0, 10)], [(4, 6)], phrase("a load from 4 to 6 lies within a convolution from 0 to 10")),
        (
            [(0, 10)],
            [(1, 2), (3, 4), (8, 12)],
            phrase("three loads meet one convolution from 0 to 10"),
        ),
        (
            [(0, 3), (5, 9)],
            [(2, 6)],
            phrase("one load from 2 to 6 meets two, from 0 to 3 and 5 to 9"),
        ),
        ([(0, 3)], [], phrase("the memory unit has nothing to do")),
    )
    for compute, memory, said in cases:
        found = _array(function, compute, memory)
        right = sum(max(0, min(b, d) - max(a, c)) for a, b in compute for c, d in memory)
        _need(found.shape == (), phrase("it must return one number of cycles."))
        _need(
            found == right, phrase("{said}, and it says {found:g}.", said=said, found=float(found))
        )


def _quantized(function: Answer) -> None:
    """Notebook 03: what INT8 makes of values from 0 on, at a threshold, in 255 steps."""
    values, threshold = np.array([0.0, 0.4, 1.0, 99.7, 255.0, 300.0, 1000.0]), 255.0
    found = _array(function, values, threshold)
    _need(
        found.shape == values.shape,
        phrase("seven values give the shape {shape}.", shape=found.shape),
    )
    _need(found[0] == 0, phrase("0 becomes {found:g}.", found=found[0]))
    _need(
        found[-1] <= 255,
        phrase(
            "at a threshold of 255, the value 1000 becomes {found:g}. What happens above it?",
            found=found[-1],
        ),
    )
    _need(found[4] == 255, phrase("the threshold itself, 255, becomes {found:g}.", found=found[4]))
    _need(
        found[3] == 100,
        phrase(
            "at steps of 1, the value 99.7 becomes {found:g}. Which is nearest?", found=found[3]
        ),
    )
    finer = _array(function, np.array([0.5, 1.0]), 1.0)
    _need(
        finer[1] == 1,
        phrase(
            "at a threshold of 1, the value 1 becomes {found:g}: the integer is not yet turned "
            "back into a value.",
            found=finer[1],
        ),
    )
    _need(
        np.allclose(finer[0] * 255, 128) or np.allclose(finer[0] * 255, 127),
        phrase(
            "at a threshold of 1, the value 0.5 becomes {found:g}. How wide is a step?",
            found=finer[0],
        ),
    )


def _collapsed(function: Answer) -> None:
    """Notebook 04: the classes that a path of steps writes, blank 0."""
    for path, right, said in (
        ([5, 6, 7], [5, 6, 7], phrase("a class at each step")),
        ([5, 5, 6], [5, 6], phrase("a class that lasts two steps")),
        ([0, 5, 0, 6, 0], [5, 6], phrase("blanks around and between")),
        ([5, 0, 5], [5, 5], phrase("the same class on both sides of a blank")),
        ([0, 0], [], phrase("blanks alone")),
        ([5, 5, 0, 0, 5, 6, 6, 0], [5, 5, 6], phrase("all of it together")),
    ):
        found = _asked(function, path, 0)
        _need(hasattr(found, "__iter__"), phrase("it must return a list of classes."))
        _need(
            list(found) == right,
            phrase(
                "{said}: the steps {path} become {found}.", said=said, path=path, found=list(found)
            ),
        )


def _discordant(function: Answer) -> None:
    """Notebook 05: plates that only float reads right, and that only INT8 does."""
    one = np.array([True, True, True, True, False, False, False])
    other = np.array([True, False, False, False, True, False, False])
    found = _array(function, one, other)
    _need(
        found.shape == (2,),
        phrase(
            "it must return two counts: plates that only float reads, and that only INT8 reads."
        ),
    )
    _need(
        found.sum() != 2,
        phrase("its counts come to the difference of the totals. Look at each plate."),
    )
    _need(
        found.sum() == 4,
        phrase(
            "four of the seven plates are read by one alone; it counts {found:g}.",
            found=found.sum(),
        ),
    )
    _need(
        found[0] == 3,
        phrase("it says that float alone reads {found:g} plates. Which is which?", found=found[0]),
    )
    _need(
        not _array(function, one, one).any(),
        phrase("a model against itself: there is no plate that only one of the two reads."),
    )


def _best_threshold(function: Answer) -> None:
    """Notebook 06: of some thresholds, the one with the least squared error in 255 steps."""
    rng = np.random.default_rng(1)
    few = np.abs(rng.normal(size=4000))
    tail = np.append(few, [60.0, 70.0])
    for values, candidates, said in (
        (few, (0.5, 1.0, 4.0, 400.0), phrase("values of which nearly all lie below 4")),
        (np.linspace(3, 3.3, 500), (0.1, 3.3, 900.0), phrase("values from 3 to 3.3")),
        (tail, (2.0, 20.0, 70.0), phrase("many small values and two of 60 and 70")),
        (
            np.append(few, np.full(20, 8.0)),
            (1.0, 2.0, 8.0),
            phrase("a cluster at 8 beside small values"),
        ),
    ):
        errors = [((_quantize(values, t) - values) ** 2).sum() for t in candidates]
        found = _array(function, values, candidates)
        _need(
            found.shape == () and float(found) in candidates,
            phrase("it must return one of the candidates."),
        )
        right = candidates[int(np.argmin(errors))]
        _need(
            float(found) == right,
            sentences(
                phrase(
                    "{said}, candidates {candidates}: it takes {found:g}, whose error is "
                    "{ratio:.3g} times the least.",
                    said=said,
                    candidates=candidates,
                    found=float(found),
                    ratio=errors[candidates.index(float(found))] / min(errors),
                ),
                phrase("Is the rounding of the rest counted?")
                if found > right
                else phrase("Is what lies above the threshold counted, and by its square?"),
            ),
        )


def _quantize(values: np.ndarray, threshold: float) -> np.ndarray:
    step = threshold / 255
    return np.minimum(np.rint(values / step), 255) * step


def _widened(function: Answer) -> None:
    """Notebook 07: a box ``(left, top, right, bottom)`` with a margin on each side, in an image."""
    size = (200, 100)
    for box, margin, right, said in (
        ((50, 40, 90, 60), 0.0, (50, 40, 90, 60), phrase("no margin")),
        (
            (40, 40, 80, 60),
            0.1,
            (36, 38, 84, 62),
            phrase("a tenth of 40 columns and 20 rows, each side"),
        ),
        ((0, 40, 40, 60), 0.5, (0, 30, 60, 70), phrase("a box at the left edge")),
        (
            (160, 70, 200, 100),
            0.1,
            (156, 67, 200, 100),
            phrase("a box in the corner of a 200×100 image"),
        ),
    ):
        found = _array(function, box, margin, *size)
        _need(found.shape == (4,), phrase("it must return left, top, right, bottom."))
        _need(
            np.allclose(found, right),
            phrase(
                "{said}: the box {box} with margin {margin:g} becomes {found}.",
                said=said,
                box=box,
                margin=margin,
                found=_numbers(found),
            ),
        )


def _numbers(values: Iterable[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


EXERCISES: dict[str, Callable[[Answer], None]] = {
    "divisor": _divisor,
    "both_busy": _both_busy,
    "quantize_dequantize": _quantized,
    "collapse": _collapsed,
    "discordant": _discordant,
    "best_threshold": _best_threshold,
    "widen": _widened,
}
