"""Glyphs of plate characters: a stroke face drawn here, and free fonts stretched to its cells.

The face of the standard (GA 36) is not free. Real plates carry upright letters of one stroke width
in a 45x90 mm cell, so the main face is drawn from skeletons of lines and elliptic arcs, at several
stroke widths. Subsets of fonts under the SIL Open Font License add variety, and give the Chinese
characters; each is stretched to the cell and thickened or thinned. Every glyph is rasterised once.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..alphabet import PROVINCES

LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
DIGITS = "0123456789"
LATIN = DIGITS + LETTERS
FINE = 4  # pixels per mm at which glyphs are drawn before they are reduced
DRAWN = 0.5  # pixels per mm of a drawn plate: three times what a 94x24 crop resolves
CELL = (45, 90)  # mm, width and height of a character in the one-row forms

STROKE_WIDTHS = (6.5, 8.0, 9.5, 11.0)  # mm
LATIN_FONTS = ("BarlowCondensed-Medium", "BarlowSemiCondensed-Medium", "Overpass-SemiBold")
FONT_THICKENING = (0.0, 1.5)  # mm added to the strokes of a Latin font
# A square Chinese glyph is pressed into half its width, which thins its upright strokes alone: so
# more is added across (first) than down (second), in mm.
CHINESE_FACES = (
    *(("NotoSansSC-Regular", t) for t in ((0, 0), (2, 0), (3.5, 0.5), (3, 2))),
    *(("NotoSansSC-Bold", t) for t in ((0, 0), (2, 0))),
    *(("WenQuanYiMicroHei", t) for t in ((0, 0), (2, 0), (3.5, 0.5), (3, 2))),
)
# Parts of the cell's width and height that a province fills: photographs show it lower than
# letters.
CHINESE_SIZES = ((1.0, 1.0), (1.0, 0.88), (0.9, 0.84))
# Further faces and sizes, of plates whose strokes stray (`Severity.glyphs`): training is to learn
# what a character's faces have in common, since the standard's own is not among them.
STRAYED_FACES = (
    *(("NotoSansSC-Light", t) for t in ((2, 0.5), (4.5, 2.5))),
    ("NotoSansSC-Black", (0, 0)),
    *(("ProvinceSans-Regular", t) for t in ((0, 0), (2.5, 0.5), (4, 2))),
    *(("ProvinceSans-SemiBold", t) for t in ((0, 0), (2, 0.5))),
    ("ZCOOLQingKeHuangYou", (1, 0)),
)
STRAYED_SIZES = ((1.0, 0.94), (0.95, 0.9), (0.86, 0.98), (0.86, 0.8))
NARROW = 0.62  # a glyph narrower than this part of the font's zero is not stretched to the cell


def _arc(cx: float, cy: float, rx: float, ry: float, start: float, end: float) -> np.ndarray:
    angles = np.radians(np.linspace(start, end, 25))
    return np.stack([cx + rx * np.cos(angles), cy + ry * np.sin(angles)], 1)


def _path(*pieces: tuple[float, ...] | np.ndarray) -> np.ndarray:
    return np.concatenate([np.atleast_2d(np.asarray(p, np.float64)) for p in pieces])


def _skeletons() -> dict[str, list[np.ndarray]]:
    """Centre lines in the unit square (x to the right, y down)."""
    zero = _path(
        _arc(0.5, 0.27, 0.5, 0.27, 180, 360), _arc(0.5, 0.73, 0.5, 0.27, 0, 180), (0, 0.27)
    )
    six = [_path((0.72, 0), (0.24, 0.38), (0.04, 0.62)), _arc(0.5, 0.72, 0.5, 0.28, 0, 360)]
    p = _path((0, 1), (0, 0), (0.52, 0), _arc(0.55, 0.27, 0.45, 0.27, 270, 450), (0, 0.54))
    c = _path(_arc(0.5, 0.27, 0.5, 0.27, 350, 180), _arc(0.5, 0.73, 0.5, 0.27, 180, 10))
    return {
        "0": [zero],
        "1": [_path((0.4, 0.06), (0.5, 0), (0.5, 1))],
        "2": [_path(_arc(0.5, 0.27, 0.48, 0.27, 190, 393), (0, 1), (1, 1))],
        "3": [_arc(0.47, 0.245, 0.46, 0.245, 200, 450), _arc(0.47, 0.745, 0.53, 0.255, 270, 520)],
        "4": [_path((0.68, 0), (0, 0.7), (1, 0.7)), _path((0.72, 0.0), (0.72, 1))],
        "5": [_path((0.92, 0), (0.12, 0), (0.05, 0.46)), _arc(0.47, 0.69, 0.53, 0.31, 216, 515)],
        "6": six,
        "7": [_path((0, 0), (1, 0), (0.4, 1))],
        "8": [_arc(0.5, 0.25, 0.44, 0.25, 0, 360), _arc(0.5, 0.75, 0.5, 0.25, 0, 360)],
        "9": [1 - piece for piece in six],
        "A": [_path((0, 1), (0.5, 0), (1, 1)), _path((0.17, 0.68), (0.83, 0.68))],
        "B": [
            _path((0, 0.47), (0, 0), (0.52, 0), _arc(0.55, 0.235, 0.4, 0.235, 270, 450), (0, 0.47)),
            _path(
                (0, 0.47), (0.52, 0.47), _arc(0.55, 0.735, 0.45, 0.265, 270, 450), (0, 1), (0, 0.47)
            ),
        ],
        "C": [c],
        "D": [
            _path(
                (0, 0),
                (0.45, 0),
                _arc(0.5, 0.3, 0.5, 0.3, 270, 360),
                _arc(0.5, 0.7, 0.5, 0.3, 0, 90),
                (0, 1),
                (0, 0),
            )
        ],
        "E": [_path((1, 0), (0, 0), (0, 1), (1, 1)), _path((0, 0.48), (0.85, 0.48))],
        "F": [_path((1, 0), (0, 0), (0, 1)), _path((0, 0.48), (0.85, 0.48))],
        "G": [c, _path((1, 0.77), (1, 0.56), (0.55, 0.56))],
        "H": [_path((0, 0), (0, 1)), _path((1, 0), (1, 1)), _path((0, 0.48), (1, 0.48))],
        "J": [_path((0.85, 0), (0.85, 0.74), _arc(0.42, 0.74, 0.43, 0.26, 0, 175))],
        "K": [_path((0, 0), (0, 1)), _path((0.95, 0), (0, 0.62)), _path((0.34, 0.4), (1, 1))],
        "L": [_path((0, 0), (0, 1), (1, 1))],
        "M": [_path((0, 1), (0, 0), (0.5, 0.55), (1, 0), (1, 1))],
        "N": [_path((0, 1), (0, 0), (1, 1), (1, 0))],
        "P": [p],
        "Q": [zero, _path((0.58, 0.74), (1, 1.02))],
        "R": [p, _path((0.5, 0.54), (1, 1))],
        "S": [_path(_arc(0.5, 0.25, 0.47, 0.25, 335, 90), _arc(0.5, 0.75, 0.5, 0.25, 270, 515))],
        "T": [_path((0, 0), (1, 0)), _path((0.5, 0), (0.5, 1))],
        "U": [_path((0, 0), (0, 0.73), _arc(0.5, 0.73, 0.5, 0.27, 180, 0), (1, 0))],
        "V": [_path((0, 0), (0.5, 1), (1, 0))],
        "W": [_path((0, 0), (0.24, 1), (0.5, 0.3), (0.76, 1), (1, 0))],
        "X": [_path((0, 0), (1, 1)), _path((1, 0), (0, 1))],
        "Y": [_path((0, 0), (0.5, 0.5), (1, 0)), _path((0.5, 0.5), (0.5, 1))],
        "Z": [_path((0, 0), (1, 0), (0, 1), (1, 1))],
    }


def stroke_glyph(
    character: str, stroke: float, width: float = CELL[0], height: float = CELL[1]
) -> np.ndarray:
    """Coverage of a character of the stroke face, uint8 ``[height*FINE, width*FINE]``.

    Parameters
    ----------
    character
        One of the digits and letters of a plate (no I, no O).
    stroke
        Stroke width in mm.
    width, height
        The cell in mm, filled by the glyph.
    """
    cell = np.zeros((round(height * FINE), round(width * FINE)), np.uint8)
    inner = np.array([width - stroke, height - stroke])
    for line in _skeletons()[character]:
        points = (line * inner + stroke / 2) * FINE
        cv2.polylines(
            cell,
            [np.round(points * 16).astype(np.int32)],
            False,
            255,
            max(1, round(stroke * FINE)),
            cv2.LINE_AA,
            4,
        )
    return cell


@cache
def _font(name: str) -> ImageFont.FreeTypeFont:
    file = resources.files("lprnet_nb.datasets").joinpath("fonts", f"{name}-plates.ttf")
    with resources.as_file(file) as path:
        return ImageFont.truetype(str(path), 400)


@cache
def _ink(name: str, character: str) -> np.ndarray:
    font = _font(name)
    left, top, right, bottom = (round(side) for side in font.getbbox(character))
    page = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(page).text((-left, -top), character, font=font, fill=255)
    return np.asarray(page)


def font_glyph(
    name: str,
    character: str,
    thickening: tuple[float, float] = (0, 0),
    width: float = CELL[0],
    height: float = CELL[1],
) -> np.ndarray:
    """Coverage of a character of a packaged font, side bearings and all, stretched to the cell.

    Parameters
    ----------
    name
        One of `LATIN_FONTS` or a font of `CHINESE_FACES` or `STRAYED_FACES`.
    character
        A character that the font's subset has.
    thickening
        Millimetres added to the width of upright and of level strokes.
    width, height
        The cell in mm.

    Returns
    -------
    np.ndarray
        uint8 ``[height * FINE, width * FINE]``.
    """
    cell = np.zeros((round(height * FINE), round(width * FINE)), np.uint8)
    ink = _ink(name, character)
    across = cell.shape[1]
    if character in LATIN:
        ratio = ink.shape[1] / _ink(name, "0").shape[1]
        if ratio < NARROW:
            across = round(across * ratio)
    start = (cell.shape[1] - across) // 2
    cell[:, start : start + across] = cv2.resize(
        ink, (across, cell.shape[0]), interpolation=cv2.INTER_AREA
    )
    if any(thickening):
        sides = tuple(max(1, round(t * FINE)) for t in thickening)
        return cv2.dilate(cell, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, sides))
    return cell


def province_glyph(
    name: str,
    character: str,
    thickening: tuple[float, float],
    part: tuple[float, float],
    width: float = CELL[0],
    height: float = CELL[1],
) -> np.ndarray:
    """As `font_glyph`, in the middle of its cell and filling `part` of its width and height."""
    glyph = font_glyph(name, character, thickening, width * part[0], height * part[1])
    cell = np.zeros((round(height * FINE), round(width * FINE)), np.uint8)
    top, left = ((a - b) // 2 for a, b in zip(cell.shape, glyph.shape))
    cell[top : top + glyph.shape[0], left : left + glyph.shape[1]] = glyph
    return cell


@cache
def province_faces(
    strayed: bool,
) -> tuple[tuple[str, tuple[float, float], tuple[float, float]], ...]:
    """Font, thickening and part of the cell of each face of the provinces."""
    faces = [(*face, part) for part in CHINESE_SIZES for face in CHINESE_FACES]
    if strayed:
        faces += [(*face, part) for part in STRAYED_SIZES for face in CHINESE_FACES]
        every = (*CHINESE_SIZES, *STRAYED_SIZES)
        faces += [(*face, part) for part in every for face in STRAYED_FACES]
    return tuple(faces)


@cache
def latin_atlas(width: int, height: int) -> np.ndarray:
    """Digits and letters of all faces for one cell size; the drawn faces come first.

    Parameters
    ----------
    width, height
        Cell in mm.

    Returns
    -------
    np.ndarray
        uint8 ``[faces, 34, height * DRAWN, width * DRAWN]`` (rounded), in the order of `LATIN`.
    """
    faces = [[stroke_glyph(c, s, width, height) for c in LATIN] for s in STROKE_WIDTHS]
    faces += [
        [font_glyph(name, c, (t, t), width, height) for c in LATIN]
        for name in LATIN_FONTS
        for t in FONT_THICKENING
    ]
    return np.stack([[_drawn(glyph, width, height) for glyph in face] for face in faces])


@cache
def province_glyphs(width: int, height: int, face: int) -> np.ndarray:
    """All provinces of a face of `province_faces`, as `latin_atlas` has the others."""
    name, thickening, part = province_faces(True)[face]
    return np.stack(
        [
            _drawn(province_glyph(name, c, thickening, part, width, height), width, height)
            for c in PROVINCES
        ]
    )


def _drawn(glyph: np.ndarray, width: int, height: int) -> np.ndarray:
    size = (round(width * DRAWN), round(height * DRAWN))
    return cv2.resize(glyph, size, interpolation=cv2.INTER_AREA)
