"""Pictures to read, as users name them: one, several, folders, lists of paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..inputs import find_path, read_text
from .folder import PlateFiles, list_plates, load_images
from .images import HEIGHT, IMAGE_SUFFIXES, WIDTH, PlateImages, read_image

LIST_SUFFIX = ".txt"


def load_pictures(
    places: Sequence[str | Path], size: tuple[int, int] = (HEIGHT, WIDTH)
) -> PlateImages:
    """Read what `list_pictures` lists."""
    return list_pictures(places, size).read()


def list_pictures(
    places: Sequence[str | Path], size: tuple[int, int] = (HEIGHT, WIDTH)
) -> PlateImages | PlateFiles:
    """Plate crops whose truth need not be known: a folder's are listed, others read.

    Parameters
    ----------
    places
        Each a picture, a folder (see `folder.load_images`), or a ``.txt`` list with a path a line:
        absolute, or from the list's folder, or as `inputs.find_path` finds it. A plate after it is
        not read, so a label list is such a list too.
    size
        Height and width that they are read at.

    Returns
    -------
    PlateImages or PlateFiles
        In the order given. A picture is named by its file name, by its path as it was written where
        several have that name; in a folder as `folder.load_images` names it.

    Raises
    ------
    DataError
        Naming the place or picture that is wrong, or is named twice.
    """
    if len(places) == 1 and find_path(places[0]).is_dir():
        return replace(list_plates(places[0], None), size=size)
    parts, loose = [], []
    for place in places:
        path = find_path(place)
        if path.suffix.lower() == LIST_SUFFIX and not path.is_dir():
            loose += _listed(path)
        elif path.suffix.lower() in IMAGE_SUFFIXES and not path.is_dir():
            loose.append((str(place), path))
        else:
            parts.append(load_images(place, size))
    if loose:
        parts.append(_pictures(loose, size))
    names = [name for part in parts for name in part.names]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(
            f"{len(twice)} pictures are named more than once, the first is {twice[0]}. Name each "
            "once, or read the folders one by one."
        )
    name = parts[0].name if len(parts) == 1 else "pictures"
    return PlateImages(name, np.concatenate([part.images for part in parts]), tuple(names))


def _listed(path: Path) -> list[tuple[str, Path]]:
    """Paths in a list, as they are written and as they are found."""
    lines = enumerate(read_text(path, "list of pictures").splitlines(), 1)
    written = [_written(path, number, line) for number, line in lines if line.strip()]
    if not written:
        raise DataError(f"list of pictures {path} is empty. Write a path into each line.")
    beside = [path.parent / name for name in written]
    return [
        (name, place if place.exists() else find_path(name)) for name, place in zip(written, beside)
    ]


def _written(path: Path, number: int, line: str) -> str:
    """The path in a line of a list; a label list has the plate after it."""
    first = line.split("\t")[0]
    for text in (first, *(first.split(mark)[0] for mark in ",; ")):
        name = text.strip().strip("\"'").replace("\\", "/")
        if name.lower().endswith(IMAGE_SUFFIXES):
            return name
    raise DataError(
        f"list of pictures {path}, line {number}: {line.strip()[:60]!r} does not begin with the "
        "path of a picture. Write one path into each line."
    )


def _pictures(loose: list[tuple[str, Path]], size: tuple[int, int]) -> PlateImages:
    counts = Counter(path.name for _, path in loose)
    names = [
        path.name if counts[path.name] == 1 else written.removeprefix("./")
        for written, path in loose
    ]
    images = np.stack([read_image(path, size) for _, path in loose])
    return PlateImages("pictures", images, tuple(names))
