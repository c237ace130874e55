"""Users' own plates: a folder of pictures with their labels, wherever those are written.

A folder is listed and labelled first and read later, so that a choice of 100 plates of 300,000
reads 100 pictures.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..errors import DataError, UnlabelledError
from ..inputs import find_path, note
from .alphabet import PUBLISHED, Alphabet
from .ccpd import Margins, looks_like_ccpd, parse_name, read_plate
from .images import HEIGHT, WIDTH, Listing, PlateImages, fit, list_images, read_image
from .labels import (
    LIST_SUFFIXES,
    LabelList,
    check_labels,
    label_of_each,
    labels_in_names,
    names_a_picture,
    normalized,
    note_skipped,
    picture_keys,
    read_list,
    unwritable,
)

# Names that only label lists have; what is wrong in them is an error. JSON is told by its name
# only, since results of a reading look the same.
_SURE = re.compile(r"labels?\.(json|csv|tsv)|.*_labels?\.json|rec_gt.*\.txt", re.IGNORECASE)
_NO_PLATES = "ccpd_np"  # CCPD's scenes without a plate
_HOW = (
    "Write a labels.csv into it with a line 'FILE NAME,PLATE' for each picture, or name the "
    "files by their plates."
)


@dataclass(frozen=True)
class PlateFiles:
    """Plates of a folder, listed but not read.

    Parameters
    ----------
    folder
        Absolute.
    names
        Paths of the pictures relative to it.
    labels
        Plate of each, or None: not asked for, or (CCPD) read from the names with the pictures.
    scenes
        Whether the plates are to be cut out of CCPD's scenes.
    alphabet
        Class list that labels must be written in; None where no labels were asked for.
    size
        Height and width that the pictures are read at.
    margin
        What scenes are cut with around each plate, see `ccpd.crop`.
    """

    folder: Path
    names: tuple[str, ...]
    labels: tuple[str, ...] | None = None
    scenes: bool = False
    alphabet: Alphabet | None = None
    size: tuple[int, int] = (HEIGHT, WIDTH)
    margin: Margins = (0.0, 0.0)

    @property
    def name(self) -> str:
        """What the set is called in results."""
        return self.folder.name

    def __len__(self) -> int:
        return len(self.names)

    def take(self, indices: Sequence[int] | np.ndarray) -> PlateFiles:
        """The plates at `indices`, in that order."""
        chosen = [int(index) for index in indices]
        return replace(
            self,
            names=tuple(self.names[i] for i in chosen),
            labels=None if self.labels is None else tuple(self.labels[i] for i in chosen),
        )

    def read(self) -> PlateImages:
        """Read the pictures.

        Raises
        ------
        DataError
            Naming the picture, or CCPD's label, that is wrong.
        """
        images = np.empty((len(self), *self.size, 3), np.uint8)
        labels = list(self.labels or ())
        for index, name in enumerate(self.names):
            if self.scenes:
                image, label = read_plate(self.folder / name, self.margin)
                images[index] = fit(image, self.size)
                labels.append(label.plate)
            else:
                images[index] = read_image(self.folder / name, self.size)
        if self.scenes and self.alphabet is not None:
            check_labels(self.folder, self.names, labels, self.alphabet)
        return PlateImages(self.name, images, self.names, tuple(labels) or None)


def list_plates(
    folder: str | Path,
    alphabet: Alphabet | None = PUBLISHED,
    *,
    check: bool = True,
    skip_unknown: bool = False,
) -> PlateFiles:
    """List the plates below a folder, with their labels.

    Labels come from a list in the folder (see `labels.read_list`) or, as the vendor has it, from
    ``<folder>_label.json`` beside it; else from the file names: CCPD's, whose plates are cut out of
    their scenes, or the plate in the name (see `labels.labels_in_names`). Each subfolder may have a
    list of its own.

    Parameters
    ----------
    folder
        Crops of any size, or CCPD, with or without subfolders.
    alphabet
        Class list that the labels must be written in; None where no labels are needed.
    check
        Whether a character that is no class is an error.
    skip_unknown
        Leave out the plates whose labels have such characters, and say which, in place of that
        error.

    Raises
    ------
    DataError
        When there is no picture, or labels are needed and are missing, contradictory or not in the
        class list.
    """
    listing = list_images(folder)
    scenes = tuple(name for name in listing.images if looks_like_ccpd(name))
    others = sum(_NO_PLATES not in name.split("/") for name in listing.images) - len(scenes)
    ours = bool(scenes) and len(scenes) >= others
    lists = _label_lists(listing, sniff=not ours)
    listing.note_left_out(
        path.relative_to(listing.folder).as_posix()
        for paths in lists.values()
        for path in paths
        if path.is_relative_to(listing.folder)
    )
    if ours and not lists:
        _note_unnamed(listing, scenes)
        files = PlateFiles(listing.folder, scenes, None, True, alphabet)
        return _without_unknown(files, alphabet) if alphabet and skip_unknown else files
    labels = None
    if alphabet is not None:
        labels = _listed(listing, lists, alphabet) if lists else _named(listing, alphabet)
        if skip_unknown:
            files = PlateFiles(listing.folder, listing.images, labels, False, alphabet)
            return _without_unknown(files, alphabet)
        if check:
            check_labels(listing.folder, listing.images, labels, alphabet)
    return PlateFiles(listing.folder, listing.images, labels, False, alphabet)


def _without_unknown(files: PlateFiles, alphabet: Alphabet) -> PlateFiles:
    labels = files.labels or tuple(parse_name(name).plate for name in files.names)
    unknown = unwritable(files.names, labels, alphabet)
    kept = [index for index, name in enumerate(files.names) if name not in unknown]
    note_skipped(files.folder, unknown, len(kept))
    return files.take(kept)


def _note_unnamed(listing: Listing, scenes: Sequence[str]) -> None:
    unnamed = set(listing.images) - set(scenes)
    if unnamed:
        note(
            f"{listing.folder}: {len(unnamed)} pictures left out whose names are not CCPD's and "
            f"say no plate, such as {min(unnamed)}; {len(scenes)} remain."
        )


def load_plates(
    folder: str | Path, alphabet: Alphabet = PUBLISHED, *, limit: int | None = None
) -> PlateImages:
    """Read a folder of plates with labels, or its first `limit`; see `list_plates`.

    Raises
    ------
    DataError
        Naming the image or label that is wrong.
    """
    files = list_plates(folder, alphabet)
    return files.take(range(len(files))[:limit]).read()


def load_images(folder: str | Path, size: tuple[int, int] = (HEIGHT, WIDTH)) -> PlateImages:
    """Read a folder of plates whose truth need not be known; see `list_plates`.

    CCPD's plates are cut out of their scenes by what their file names say; `size` is the height
    and width that all are read at.

    Raises
    ------
    DataError
        Naming the image that is wrong.
    """
    return replace(list_plates(folder, None), size=size).read()


def read_truth(
    source: str | Path, read: Mapping[str, str], results: str | Path
) -> tuple[list[str], int]:
    """The truth of what was read, from a label file of any kind or a folder of plates.

    Parameters
    ----------
    source
        Label file, or folder as for `list_plates`.
    read
        What was read, by file name.
    results
        Where that comes from, for messages.

    Returns
    -------
    tuple
        A plate for each name of `read`, and how many labelled pictures are not among them. A plate
        may have characters that no class stands for; it is then read wrongly.

    Raises
    ------
    DataError
        When a name has no label or two labels.
    """
    path = find_path(source)
    extra = dict.fromkeys(c for text in read.values() for c in text if c not in PUBLISHED.classes)
    alphabet = Alphabet((*PUBLISHED.characters, *extra), PUBLISHED.blank)
    if path.is_dir():
        files = list_plates(path, alphabet, check=False)
        plates = files.labels or [parse_name(name).plate for name in files.names]
        labels = LabelList(path, tuple(("its name", *row) for row in zip(files.names, plates)))
    else:
        labels = read_list(path)
    texts, unused = label_of_each(labels, Path(results), list(read))
    return list(normalized(path, list(read), texts, alphabet)), unused


def _label_lists(listing: Listing, *, sniff: bool) -> dict[str, list[Path]]:
    """Label lists by the subfolder (``""`` or ``a/b/``) that they are for.

    With `sniff`, also texts of any name that name a picture.
    """
    texts = [name for name in sorted(listing.others) if name.lower().endswith(LIST_SUFFIXES)]
    stems = {name.rpartition(".")[0] for name in listing.images} if texts else set()
    pictures = picture_keys(listing.images) if texts else frozenset()
    found = defaultdict(list)
    for name in texts:
        below, base = name[: name.rfind("/") + 1], name.rsplit("/", 1)[-1]
        # A text beside the picture of its name is an annotation of another tool.
        if _SURE.fullmatch(base) or (
            sniff
            and base.lower().endswith(LIST_SUFFIXES[1:])
            and name.rpartition(".")[0] not in stems
            and names_a_picture(listing.folder / name, pictures)
        ):
            found[below].append(listing.folder / name)
    if not found:
        place = listing.folder.parent
        beside = [
            place / f"{listing.folder.name}_{word}{suffix}"
            for word in ("label", "labels")
            for suffix in LIST_SUFFIXES
        ]
        found[""] = [path for path in beside if os.path.isfile(path)]  # too long a name is none
    return {below: paths for below, paths in found.items() if paths}


def _listed(listing: Listing, lists: dict[str, list[Path]], alphabet: Alphabet) -> tuple[str, ...]:
    labels: dict[str, str] = {}
    for below in lists:
        paths = [path for other, more in lists.items() if below.startswith(other) for path in more]
        if len(paths) > 1:
            raise DataError(
                f"{listing.folder / below} has several label files: "
                f"{', '.join(map(str, sorted(paths)))}. Keep one of them."
            )
        path, inside = paths[0], [name for name in listing.images if name.startswith(below)]
        texts, unused = label_of_each(
            read_list(path), listing.folder / below, [name.removeprefix(below) for name in inside]
        )
        if unused:
            note(f"label file {path}: {unused} labels are of images that are not there.")
        labels |= zip(inside, normalized(path, inside, texts, alphabet))
    lacking = [name for name in listing.images if name not in labels]
    if lacking:
        raise DataError(
            f"{len(lacking)} images of {listing.folder} have no label, the first is "
            f"{lacking[0]}: the label files are those of other subfolders. {_HOW}"
        )
    return tuple(labels[name] for name in listing.images)


def _named(listing: Listing, alphabet: Alphabet) -> tuple[str, ...]:
    found = labels_in_names(listing.images, alphabet)
    lacking = [name for name, text in zip(listing.images, found) if text is None]
    if len(lacking) * 2 >= len(found):
        raise UnlabelledError(
            f"{listing.folder} has no labels: there is no label file, and its file "
            f"names are not plates, such as {lacking[0]!r}. {_HOW}"
        )
    if lacking:
        raise DataError(
            f"{listing.folder / lacking[0]}: its name is not a plate, as those of most "
            f"pictures there are ({len(lacking)} are not). Rename it, move it away, or "
            "write a labels.csv with a line 'FILE NAME,PLATE' for each picture."
        )
    return tuple(text for text in found if text is not None)
