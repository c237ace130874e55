"""CCPD: plates in street scenes, all that is known of each written into its file name.

CCPD (MIT licence; Xu et al., ECCV 2018, and CCPD2020 with new-energy plates) names a file
``area-tilt_tilt-bbox-vertices-plate-brightness-blur.jpg``. The crop is cut out along the plate's
four vertices. File names are read strictly: what does not fit is an error that says what and where.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from ..errors import DataError, ParameterError
from ..files import LARGEST_IMAGE
from ..inputs import read_bytes
from .images import (
    HEIGHT,
    IMAGE_SUFFIXES,
    WIDTH,
    PlateImages,
    decode_image,
    image_folder,
    is_hidden,
)

# Orders of CCPD's indices, not LPRNet's. The last of each, the letter O, stands for no character.
PROVINCES = "皖沪津渝冀晋蒙辽吉黑苏浙京闽赣鲁豫鄂湘粤桂琼川贵云藏陕甘青宁新警学O"
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZO"
OTHERS = "ABCDEFGHJKLMNPQRSTUVWXYZ0123456789O"
LENGTHS = (7, 8)  # characters of ordinary and of new-energy plates
MAX_MARGIN = 1.0

Point = tuple[int, int]
Margins = tuple[float, float]  # parts of the plate's width and height, on either side

# A whole listing of CCPD takes tens of MB; this many names are sorted at a time.
_NAMES_AT_ONCE = 20_000
_LONGEST_NUMBER = 9  # digits of a coordinate, index or angle; `area` may be longer
_NUMBER = rf"[0-9]{{1,{_LONGEST_NUMBER}}}"
_POINT = rf"{_NUMBER}&{_NUMBER}"
_FIELDS = (
    ("area", r"[0-9.]{1,40}"),
    ("tilt", rf"-?{_NUMBER}_-?{_NUMBER}"),
    ("bounding box", rf"{_POINT}_{_POINT}"),
    ("vertices", "_".join([_POINT] * 4)),
    ("plate", rf"{_NUMBER}(_{_NUMBER})*"),
    ("brightness", _NUMBER),
    ("blur", _NUMBER),
)
_LOOKS_LIKE = re.compile(rf"[^-]+-[^-]+-{_POINT}_{_POINT}-[0-9&_]+-[0-9_]+-[^-]+-[^-]+", re.ASCII)


@dataclass(frozen=True)
class CcpdLabel:
    """What a CCPD file name says.

    Parameters
    ----------
    plate
        The text, seven characters or (new energy) eight.
    vertices
        Corners of the plate in pixels: bottom right, bottom left, top left, top right.
    box
        Top left and bottom right corner of the bounding box, pixels.
    tilt
        Horizontal and vertical angle, degrees.
    brightness, blur
        CCPD's own measures; lower is darker, lower is more blurred.
    """

    plate: str
    vertices: tuple[Point, Point, Point, Point]
    box: tuple[Point, Point]
    tilt: tuple[int, int]
    brightness: int
    blur: int


def looks_like_ccpd(name: str) -> bool:
    """Whether a file name is built like CCPD's, however wrong its values may be."""
    if name.count("&") < 2:  # most names, at a tenth of the time
        return False
    return bool(_LOOKS_LIKE.fullmatch(Path(name).stem))


def parse_name(name: str) -> CcpdLabel:
    """Read the label in a file name.

    Parameters
    ----------
    name
        File name with or without folder and suffix.

    Raises
    ------
    DataError
        Naming the field that is wrong and what was expected.

    Examples
    --------
    >>> parse_name("025-95_113-154&383_386&473-386&473_177&454_154&383_363&402-"
    ...            "0_0_22_27_27_33_16-37-15.jpg").plate
    '皖AY339S'
    """
    base = Path(name).name
    stem = Path(base).stem if base.lower().endswith(IMAGE_SUFFIXES) else base
    # Tilts may be negative, and then a minus follows a separator.
    fields = re.split(r"(?<=[^-_])-", stem)
    if len(fields) != len(_FIELDS):
        raise DataError(
            f"CCPD file name {base!r} has {len(fields)} fields, expected "
            f"{len(_FIELDS)}: {'-'.join(field for field, _ in _FIELDS)}."
        )
    for text, (field, pattern) in zip(fields, _FIELDS):
        if not re.fullmatch(pattern, text, re.ASCII):
            raise DataError(
                f"CCPD file name {base!r}: {field} is {text!r}, which is not how CCPD writes it."
            )
    horizontal, vertical = fields[1].split("_")
    left_top, right_bottom = _points(fields[2])
    first, second, third, fourth = vertices = _points(fields[3])
    if left_top[0] >= right_bottom[0] or left_top[1] >= right_bottom[1]:
        raise DataError(
            f"CCPD file name {base!r}: bounding box {fields[2]!r} is empty; expected "
            "left&top_right&bottom."
        )
    _check_vertices(base, vertices)
    return CcpdLabel(
        _plate(base, fields[4]),
        (first, second, third, fourth),
        (left_top, right_bottom),
        (int(horizontal), int(vertical)),
        int(fields[5]),
        int(fields[6]),
    )


def _points(text: str) -> tuple[Point, ...]:
    return tuple((int(x), int(y)) for x, y in (pair.split("&") for pair in text.split("_")))


def _check_vertices(name: str, vertices: tuple[Point, ...]) -> None:
    """A plate's outline turns the same way at every corner: clockwise as seen on the screen."""
    for index in range(4):
        (ax, ay), (bx, by), (cx, cy) = (vertices[(index + step) % 4] for step in range(3))
        if (bx - ax) * (cy - by) - (by - ay) * (cx - bx) <= 0:
            raise DataError(
                f"CCPD file name {name!r}: vertices {list(vertices)} are not the "
                "corners of a plate, clockwise from the bottom right."
            )


def _plate(name: str, text: str) -> str:
    indices = [int(part) for part in text.split("_")]
    if len(indices) not in LENGTHS:
        raise DataError(
            f"CCPD file name {name!r}: the plate has {len(indices)} characters, "
            f"expected {' or '.join(map(str, LENGTHS))}."
        )
    characters = []
    for position, index in enumerate(indices):
        table = (PROVINCES, LETTERS)[position] if position < 2 else OTHERS
        if index >= len(table):
            raise DataError(
                f"CCPD file name {name!r}: index {index} of character {position + 1} "
                f"is too large, {len(table) - 1} is the last."
            )
        if index == len(table) - 1:
            raise DataError(
                f"CCPD file name {name!r}: character {position + 1} is 'O', CCPD's "
                "sign for none, so the plate is not known."
            )
        characters.append(table[index])
    return "".join(characters)


def crop(
    scene: np.ndarray, vertices: tuple[Point, ...], margin: float | Margins = 0.0
) -> np.ndarray:
    """Cut a plate out of a scene and straighten it.

    Parameters
    ----------
    scene
        uint8 BGR ``[H, W, 3]``.
    vertices
        Corners in pixels: bottom right, bottom left, top left, top right.
    margin
        How much of the surroundings to take in, as a share of the plate's width (height) on either
        side, or of each apart; more than -0.5 (cut off, below 0), to `MAX_MARGIN`. Beyond the
        scene's edge its last pixels are repeated.

    Returns
    -------
    np.ndarray
        uint8 BGR ``[24, 94, 3]``. A plate larger than that is straightened at a whole multiple of
        the size and then averaged down, so that no stroke falls between two samples.
    """
    corners = np.array(vertices, np.float32)
    sides = np.linalg.norm(corners - np.roll(corners, 1, axis=0), axis=1)
    # Share of the crop that the plate itself takes, across and down.
    across, down = (1 / (1 + 2 * part) for part in _each(margin))
    needed = max(sides[1::2].max() / WIDTH / across, sides[0::2].max() / HEIGHT / down)
    finer = max(1, min(16, round(float(needed))))
    width, height = WIDTH * finer, HEIGHT * finer
    # Pixel i covers i - 0.5 to i + 0.5; a vertex is the centre of the plate's corner pixel.
    left, right = width * (1 - across) / 2, width * (1 + across) / 2
    top, bottom = height * (1 - down) / 2, height * (1 + down) / 2
    target = (
        np.array([[right, bottom], [left, bottom], [left, top], [right, top]], np.float32) - 0.5
    )
    warp = cv2.getPerspectiveTransform(corners, target)
    straight = cv2.warpPerspective(
        scene, warp, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    if finer == 1:
        return straight
    return cv2.resize(straight, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)


def _each(margin: float | Margins) -> Margins:
    return margin if isinstance(margin, tuple) else (margin, margin)


def read_plate(path: str | Path, margin: float | Margins = 0.0) -> tuple[np.ndarray, CcpdLabel]:
    """Read one scene: its crop, see `crop`, and its label.

    Raises
    ------
    DataError
        When the name is not CCPD's, the file is gone or damaged, or the plate lies outside it.
    """
    path = Path(path)
    label = parse_name(path.name)
    scene = decode_image(read_bytes(path, "image", LARGEST_IMAGE), f"image {path}")
    height, width = scene.shape[:2]
    if any(x > width or y > height for x, y in label.vertices):
        raise DataError(
            f"image {path} is {width}x{height} pixels, its vertices "
            f"{list(label.vertices)} lie outside."
        )
    return crop(scene, label.vertices, margin), label


def ccpd_files(folder: str | Path) -> Iterator[str]:
    """Names of all images below a folder, relative to it, in a fixed order; never all at once.

    The order is that of the names within each folder, a folder's files before its subfolders.
    Memory does not grow with the number of files: the folder is read once for every
    20,000 of them, which is nothing beside decoding them.

    Raises
    ------
    DataError
        When the folder cannot be read.
    """
    yield from _files(image_folder(folder), "")


def _files(root: Path, below: str) -> Iterator[str]:
    last = ""
    while names := heapq.nsmallest(_NAMES_AT_ONCE, _entries(root / below, files=True, after=last)):
        yield from (below + name for name in names)
        last = names[-1]
    for name in sorted(_entries(root / below, files=False)):
        yield from _files(root, f"{below}{name}/")


def _entries(folder: Path, *, files: bool, after: str = "") -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                if files:
                    if (
                        entry.name > after
                        and entry.name.lower().endswith(IMAGE_SUFFIXES)
                        and entry.is_file()
                    ):
                        yield entry.name
                elif entry.is_dir(follow_symlinks=False):
                    yield entry.name
    except OSError as error:
        raise DataError(f"image folder {folder} cannot be read: {error.strerror}.") from error


def stream_ccpd(
    folder: str | Path,
    *,
    batch: int = 256,
    margin: float = 0.0,
    limit: int | None = None,
    on_skip: Callable[[str, DataError], None] | None = None,
) -> Iterator[PlateImages]:
    """Read CCPD piece by piece; memory does not grow with the number of images.

    Parameters
    ----------
    folder
        Where CCPD was unpacked, or one of its subsets such as ``ccpd_base``.
    batch
        Images a piece; the last may have fewer.
    margin
        See `crop`.
    limit
        Only the first images in the order of `ccpd_files`, skipped ones counted.
    on_skip
        Called with the name and the error of each image that cannot be used, which is then left
        out. Without it the first such image ends the stream with its error.

    Yields
    ------
    PlateImages
        Crops with labels; names are relative to `folder`.

    Raises
    ------
    DataError
        For an image or name that cannot be read (without `on_skip`), and when nothing at all can.
    ParameterError
        For an impossible batch or margin.
    """
    if batch < 1:
        raise ParameterError(f"batch={batch} is not possible. Choose 1 or more.")
    if not 0 <= margin <= MAX_MARGIN:
        raise ParameterError(f"margin={margin} is not possible. Choose 0 to {MAX_MARGIN:g}.")
    return _stream(Path(folder), batch, margin, limit, on_skip)


def _stream(
    folder: Path,
    batch: int,
    margin: float,
    limit: int | None,
    on_skip: Callable[[str, DataError], None] | None,
) -> Iterator[PlateImages]:
    images = np.empty((batch, HEIGHT, WIDTH, 3), np.uint8)
    names: list[str] = []
    labels: list[str] = []
    found = used = 0
    for name in islice(ccpd_files(folder), limit):
        found += 1
        try:
            images[len(names)], label = read_plate(folder / name, margin)
        except DataError as error:
            if on_skip is None:
                raise
            on_skip(name, error)
            continue
        names.append(name)
        labels.append(label.plate)
        if len(names) == batch:
            yield PlateImages(folder.name, images.copy(), tuple(names), tuple(labels))
            used += batch
            names, labels = [], []
    if names:
        yield PlateImages(folder.name, images[: len(names)].copy(), tuple(names), tuple(labels))
    elif not used:
        raise DataError(
            f"image folder {folder} has no CCPD image that can be used ({found} found)."
        )
