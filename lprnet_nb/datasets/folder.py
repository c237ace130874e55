"""Users' own plates: a folder of crops with their labels, wherever those are written."""

from __future__ import annotations

import csv
from pathlib import Path

from ..errors import DataError
from .alphabet import PUBLISHED, Alphabet
from .ccpd import is_ccpd_folder, load_ccpd
from .images import PlateImages, image_files, load_folder, read_labels

LABEL_FILES = ("labels.json", "labels.csv")


def load_plates(
    folder: str | Path, alphabet: Alphabet = PUBLISHED, *, limit: int | None = None
) -> PlateImages:
    """Read a folder of plate crops with labels.

    Labels come from ``labels.json`` (``{file name: plate}``) or ``labels.csv`` (two columns, file
    name and plate, with or without a heading) in the folder, from ``<folder>_label.json`` beside it
    (the vendor's layout), else from the file names: CCPD's, whose plates are then cut out of their
    scenes, or the plate up to the first ``_`` or ``.``.

    Parameters
    ----------
    folder
        Crops of any size, which are resized to 94x24; or CCPD, with or without its subfolders.
    alphabet
        Class list that the labels must be written in.
    limit
        Only the first images by name.

    Raises
    ------
    DataError
        Naming the image or label that is wrong.
    """
    folder = Path(folder)
    if _is_ccpd(folder):
        plates = load_ccpd(folder, limit=limit)
        _check_labels(folder, dict(zip(plates.names, plates.labels or ())), alphabet)
        return plates
    files = image_files(folder)
    beside = folder.with_name(f"{folder.name}_label.json")
    if (folder / "labels.json").exists():
        labels = read_labels(folder / "labels.json")
    elif (folder / "labels.csv").exists():
        labels = _read_csv(folder / "labels.csv", {path.name for path in files})
    elif beside.exists():
        labels = read_labels(beside)
    else:
        labels = {path.name: path.name.split(".")[0].split("_")[0] for path in files}
    _check_labels(
        folder, {path.name: labels[path.name] for path in files if path.name in labels}, alphabet
    )
    return load_folder(folder, labels, limit=limit)


def load_images(folder: str | Path) -> PlateImages:
    """Read a folder of plates whose truth need not be known, for reading them.

    Crops, or CCPD as for `load_plates`: its plates are cut out of their scenes by what their file
    names say, and are named as there.

    Raises
    ------
    DataError
        Naming the image that is wrong.
    """
    return load_ccpd(folder) if _is_ccpd(Path(folder)) else load_folder(folder)


def _is_ccpd(folder: Path) -> bool:
    """Whether the plates are to be cut out of CCPD's scenes, whose names are their labels."""
    return folder.is_dir() and not _label_files(folder) and is_ccpd_folder(folder)


def _label_files(folder: Path) -> list[Path]:
    places = [folder / name for name in LABEL_FILES]
    return [
        place
        for place in (*places, folder.with_name(f"{folder.name}_label.json"))
        if place.exists()
    ]


def _check_labels(folder: Path, labels: dict[str, str], alphabet: Alphabet) -> None:
    for name, text in labels.items():
        try:
            alphabet.encode(text)
        except DataError as error:
            raise DataError(f"{folder / name}: {error}") from error


def _read_csv(path: Path, names: set[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            for number, row in enumerate(csv.reader(file), 1):
                if len(row) < 2:
                    raise DataError(
                        f"label file {path}, line {number}: expected 'file name,plate'."
                    )
                if number == 1 and row[0] not in names:
                    continue  # a heading
                labels[row[0]] = row[1]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"label file {path} cannot be read: {error}.") from error
    return labels
