"""Plate forms of GA 36: where each character stands, and in which colours.

All lengths are millimetres. A drawn plate is a coverage mask (255: paint of the characters), not
yet coloured, at `DRAWN` pixels per mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

from ..alphabet import PROVINCES
from .glyphs import DIGITS, DRAWN, LATIN, LETTERS, latin_atlas, province_glyphs

NEW_ENERGY = "DF"  # most frequent third character of small new-energy vehicles
NEW_ENERGY_SINCE_2018 = "ABCEGHJK"
# Shares of serials with no, one and two letters: the standard allows two of the five at most, and
# more of them keeps letters nearer to digits in number.
LETTERS_IN_SERIAL = (0.1, 0.3, 0.6)
LETTER_SHARE = 0.5  # of the fourth character of small new-energy vehicles
STRAY = 2.0  # mm, standard deviation of a stroke's way from its place at `glyphs` 1
STRAY_EVERY = 11  # mm between two places that stray apart: some four across a character
WEIGHT = 0.6  # standard deviation of the logarithm of the soft edges' gain at `glyphs` 1


@dataclass(frozen=True)
class Form:
    """Geometry and colours of one kind of plate.

    Parameters
    ----------
    width, height
        Outer size.
    cells
        ``(x, y, width, height)`` of each character, in reading order.
    dot
        Centre of the separating dot, or None.
    ground, ink
        BGR of the upper and lower edge of the ground (equal but for green), and of the characters.
    """

    width: int
    height: int
    cells: tuple[tuple[float, float, int, int], ...]
    dot: tuple[float, float] | None
    ground: tuple[tuple[int, int, int], tuple[int, int, int]]
    ink: tuple[int, int, int]


def _row(
    start: float, top: float, widths: list[int], height: int, gaps: Sequence[float]
) -> tuple[tuple[float, float, int, int], ...]:
    lefts = start + np.cumsum([0.0, *(w + g for w, g in zip(widths, gaps))])
    return tuple((float(x), top, w, height) for x, w in zip(lefts, widths))


_ONE_ROW = _row(15.5, 25, [45] * 7, 90, [12, 34, 12, 12, 12, 12])
_BLUE, _YELLOW, _WHITE, _BLACK = (122, 27, 0), (0, 189, 255), (255, 255, 255), (0, 0, 0)
_GREEN = ((214, 253, 180), (104, 217, 5))
FORMS: dict[str, Form] = {
    "blue": Form(440, 140, _ONE_ROW, (134.5, 70), (_BLUE, _BLUE), _WHITE),
    "yellow": Form(440, 140, _ONE_ROW, (134.5, 70), (_YELLOW, _YELLOW), _BLACK),
    "green": Form(
        480, 140, _row(15.5, 25, [45] + [43] * 7, 90, [9, 49] + [9] * 5), None, _GREEN, _BLACK
    ),
    "two-row": Form(
        440,
        220,
        _row(110, 15, [80, 80], 60, [60]) + _row(27.5, 90, [65] * 5, 110, [15] * 4),
        (220, 45),
        (_YELLOW, _YELLOW),
        _BLACK,
    ),
}


def draw_texts(form: str, provinces: np.ndarray, rng: np.random.Generator) -> list[str]:
    """Random plate numbers of a form.

    Parameters
    ----------
    form
        Name of a form. Texts follow the packaged grammar ``plate`` (GA 36-2018): green ones
        ``plate-new-energy``, with eight characters, the others ``plate-ordinary``.
    provinces
        Index of the province of each plate.
    rng
        Source of the rest.
    """
    count = len(provinces)
    city = rng.integers(0, 24, count)
    heads = [PROVINCES[p] + LETTERS[c] for p, c in zip(provinces, city)]
    digit, letter = rng.integers(0, 10, (count, 5)), rng.integers(10, 34, (count, 5))
    if form != "green":
        letters = rng.choice(len(LETTERS_IN_SERIAL), count, p=LETTERS_IN_SERIAL)
        rank = rng.random((count, 5)).argsort(1)
        serials = np.where(rank < letters[:, None], letter, digit)
        return [head + "".join(LATIN[i] for i in row) for head, row in zip(heads, serials)]
    free = np.where(rng.random(count) < LETTER_SHARE, letter[:, 0], digit[:, 0])
    digits, marked = rng.integers(0, 10, (count, 5)), rng.integers(0, 8, count)
    kinds = rng.random((count, 2))
    texts = []
    for head, fourth, number, place, (kind, age) in zip(heads, free, digits, marked, kinds):
        marks = NEW_ENERGY if age < 0.5 else NEW_ENERGY_SINCE_2018
        mark = marks[place % len(marks)]
        if kind < 0.75:  # small vehicles: mark, letter or digit, four digits
            texts.append(head + mark + LATIN[fourth] + "".join(DIGITS[i] for i in number[:4]))
        else:  # large vehicles: five digits, mark
            texts.append(head + "".join(DIGITS[i] for i in number) + NEW_ENERGY[int(age * 8) % 2])
    return texts


@cache
def blank_plate(form: str) -> tuple[np.ndarray, np.ndarray]:
    """Coverage of frame and dot, and of the plate's outline, uint8 ``[H, W]`` each."""
    shape = FORMS[form]
    size = round(shape.height * DRAWN), round(shape.width * DRAWN)
    fine = 4
    scale = fine * DRAWN
    ink = np.zeros((size[0] * fine, size[1] * fine), np.uint8)
    _rounded(ink, 1.5, 4.5, 10, scale, shape)
    if shape.dot is not None:
        cv2.circle(
            ink, tuple(round(v * scale) for v in shape.dot), round(5 * scale), 255, -1, cv2.LINE_AA
        )
    outline = np.zeros_like(ink)
    r = round(10 * scale)
    h, w = outline.shape
    cv2.rectangle(outline, (r, 0), (w - 1 - r, h - 1), 255, -1)
    cv2.rectangle(outline, (0, r), (w - 1, h - 1 - r), 255, -1)
    for x in (r, w - 1 - r):
        for y in (r, h - 1 - r):
            cv2.circle(outline, (x, y), r, 255, -1)
    drawn = size[::-1]
    return (
        cv2.resize(ink, drawn, interpolation=cv2.INTER_AREA),
        cv2.resize(outline, drawn, interpolation=cv2.INTER_AREA),
    )


def _rounded(
    image: np.ndarray, outer: float, inner: float, radius: float, scale: float, shape: Form
) -> None:
    """Frame between `outer` and `inner` millimetres from the edge: filled, then hollowed."""
    for inset, value in ((outer, 255), (inner, 0)):
        left, right = inset * scale, (shape.width - inset) * scale - 1
        top, bottom = left, (shape.height - inset) * scale - 1
        r = (radius - inset / 2) * scale
        quarter = np.radians(np.linspace(0, 90, 8))
        corners = []
        for x, y, turn in (
            (right - r, bottom - r, 0),
            (left + r, bottom - r, 1),
            (left + r, top + r, 2),
            (right - r, top + r, 3),
        ):
            angle = quarter + turn * np.pi / 2
            corners.append(np.stack([x + r * np.cos(angle), y + r * np.sin(angle)], 1))
        cv2.fillPoly(image, [np.round(np.concatenate(corners)).astype(np.int32)], value)


def draw_mask(form: str, text: str, latin_face: int, chinese_face: int) -> np.ndarray:
    """Coverage of a plate's paint, uint8 ``[height * DRAWN, width * DRAWN]``."""
    mask = blank_plate(form)[0].copy()
    for place, (character, (x, y, width, height)) in enumerate(zip(text, FORMS[form].cells)):
        if place:
            glyph = latin_atlas(width, height)[latin_face, LATIN.index(character)]
        else:
            glyph = province_glyphs(width, height, chinese_face)[PROVINCES.index(character)]
        column, row = round(x * DRAWN), round(y * DRAWN)
        mask[row : row + glyph.shape[0], column : column + glyph.shape[1]] = glyph
    return mask


def strayed(
    mask: np.ndarray, first: tuple[float, float, int, int], amount: float, rng: np.random.Generator
) -> np.ndarray:
    """The same paint with strokes moved, and widened or thinned, as other faces would have them.

    Parameters
    ----------
    mask
        Coverage, see `draw_mask`.
    first
        Cell of the province in mm, which has a stroke width of its own.
    amount
        `Severity.glyphs`; a plate gets a random part of it.
    rng
        Source of randomness.
    """
    height, width = mask.shape
    amount *= rng.random()
    nodes = [max(2, round(side / DRAWN / STRAY_EVERY)) for side in mask.shape]
    coarse = rng.standard_normal((*nodes, 2), np.float32) * np.float32(amount * STRAY * DRAWN)
    way = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)
    way[..., 0] += np.arange(width, dtype=np.float32)
    way[..., 1] += np.arange(height, dtype=np.float32)[:, None]
    moved = cv2.remap(  # one map of pairs is meant; the stubs know of two only
        mask,
        way,
        None,  # type: ignore[call-overload]
        cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    x, y, across, down = (round(v * DRAWN) for v in first)
    province = _heavier(moved[y : y + down, x : x + across], rng.normal(0, WEIGHT * amount))
    moved = _heavier(moved, rng.normal(0, WEIGHT * amount))
    moved[y : y + down, x : x + across] = province
    return moved


def _heavier(mask: np.ndarray, weight: float) -> np.ndarray:
    """Strokes with more of their soft edge covered (weight above 0) or less of it."""
    if weight > 0:
        return cv2.convertScaleAbs(mask, alpha=np.exp(weight))
    return 255 - cv2.convertScaleAbs(255 - mask, alpha=np.exp(-weight))
