"""Generated plates: seeded, labelled, balanced, and without licence strings attached.

Plates come in chunks of `CHUNK`, each from its own seed, so the images depend on the seed alone and
not on the number of worker processes.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import PIL

from .. import children
from ..cache import artifact, file_digest
from ..errors import DataError, ParameterError
from ..files import atomic_write, open_input, read_bytes
from .alphabet import PROVINCES
from .generator.camera import Severity, homographies, photograph, project
from .generator.glyphs import (
    FONT_THICKENING,
    LATIN_FONTS,
    STROKE_WIDTHS,
    province_faces,
)
from .generator.layout import FORMS, draw_mask, draw_texts, strayed
from .images import HEIGHT, WIDTH, PlateImages

CHUNK = 64
ONE_ROW = ("blue", "yellow", "green")
FONTS = Path(__file__).parent / "fonts"
_KEPT = "plates.npz"
DRAWN_SHARE = 0.8  # of plates in the stroke face, which is nearest to the standard's


@dataclass(frozen=True)
class Chunk:
    """A chunk of generated plates.

    Parameters
    ----------
    images
        uint8 BGR ``[N, 24, 94, 3]``.
    labels
        Plate texts.
    forms
        Form of each plate.
    centres
        float32 ``[N, 8]``: column of each character's centre in the crop, NaN past the text's end.
    """

    images: np.ndarray
    labels: tuple[str, ...]
    forms: tuple[str, ...]
    centres: np.ndarray


def draw_chunk(
    seed: int,
    index: int,
    forms: Sequence[str] = ONE_ROW,
    severity: Severity = Severity(),
    size: int = CHUNK,
) -> Chunk:
    """Chunk `index` of the endless sequence of plates that `seed` stands for.

    Forms and provinces are dealt like cards: over many chunks each occurs equally often.
    """
    rng = np.random.default_rng([seed, index, size])
    places = np.arange(index * size, (index + 1) * size)
    of_form = places % len(forms)
    # Provinces step by one a round of forms, so that every pair of the two occurs.
    provinces = (places // len(forms)) % len(PROVINCES)
    images = np.empty((size, HEIGHT, WIDTH, 3), np.uint8)
    centres = np.full((size, 8), np.nan, np.float32)
    labels = [""] * size
    for number, form in enumerate(forms):
        chosen = np.flatnonzero(of_form == number)
        if not len(chosen):  # fewer plates than forms
            continue
        texts = draw_texts(form, provinces[chosen], rng)
        drawn = rng.random(len(chosen)) < DRAWN_SHARE
        latin = np.where(
            drawn,
            rng.integers(0, len(STROKE_WIDTHS), len(chosen)),
            len(STROKE_WIDTHS)
            + rng.integers(0, len(LATIN_FONTS) * len(FONT_THICKENING), len(chosen)),
        )
        chinese = rng.integers(0, len(province_faces(severity.glyphs > 0)), len(chosen))
        masks = [draw_mask(form, *face) for face in zip(texts, latin, chinese)]
        if severity.glyphs:
            masks = [strayed(mask, FORMS[form].cells[0], severity.glyphs, rng) for mask in masks]
        maps = homographies(form, len(chosen), severity, rng)
        images[chosen] = photograph(form, masks, maps, severity, rng)
        middles = np.array([(x + w / 2, y + h / 2) for x, y, w, h in FORMS[form].cells])
        centres[chosen, : len(middles)] = project(maps, middles)[..., 0]
        for place, text in zip(chosen, texts):
            labels[place] = text
    return Chunk(images, tuple(labels), tuple(forms[int(i)] for i in of_form), centres)


def generate_plates(
    count: int,
    seed: int,
    *,
    forms: Sequence[str] = ONE_ROW,
    severity: Severity = Severity(),
    workers: int | None = None,
) -> PlateImages:
    """Generate labelled plates.

    Parameters
    ----------
    count
        How many.
    seed
        The same seed gives the same images, however many workers draw them.
    forms
        Names in `FORMS`. Two-row plates are not in the default: LPRNet reads from left to right.
    severity
        How hard the images are.
    workers
        Processes; 0 draws in this one, None takes one a core when there is enough to draw.

    Raises
    ------
    ParameterError
        For an impossible count, seed or an unknown form.

    Examples
    --------
    >>> plates = generate_plates(3, seed=1)
    >>> len(plates), [len(label) for label in plates.labels]
    (3, [7, 7, 8])
    """
    if count < 1 or seed < 0:
        raise ParameterError(
            f"cannot generate {count} plates of seed {seed}. Give at least one "
            "plate and a seed of zero or more."
        )
    check_forms(forms)
    chunks = -(-count // CHUNK)
    if workers is None:
        workers = 0 if chunks < 40 else os.cpu_count() or 1
    jobs = [(seed, i, tuple(forms), severity) for i in range(chunks)]
    if workers:
        with children.pool(workers, _one_thread) as pool:
            drawn = list(pool.map(_draw, jobs, chunksize=4))
    else:
        drawn = [_draw(job) for job in jobs]
    labels = tuple(label for chunk in drawn for label in chunk.labels)[:count]
    images = np.concatenate([chunk.images for chunk in drawn])[:count]
    return _named(images, labels, seed)


def _named(images: np.ndarray, labels: tuple[str, ...], seed: int) -> PlateImages:
    count = len(labels)
    width = len(str(count - 1))
    names = tuple(f"{i:0{width}d}_{label}.png" for i, label in enumerate(labels))
    return PlateImages(f"generated-{count}-seed{seed}", images, names, labels)


def kept_plates(count: int, seed: int) -> PlateImages:
    """`generate_plates` of the usual forms and severity, drawn once and kept in the cache."""
    inputs = {
        "count": count,
        "seed": seed,
        "fonts": [file_digest(path) for path in sorted(FONTS.glob("*.ttf"))],
        "drawn_by": f"opencv {cv2.__version__}, Pillow {PIL.__version__}, numpy {np.__version__}",
    }

    def build(folder: Path) -> None:
        plates = generate_plates(count, seed)
        np.savez(folder / _KEPT, images=plates.images, labels=np.array(plates.known_labels))

    with (
        open_input(artifact("plates", inputs, build) / _KEPT) as file,
        np.load(file) as arrays,
    ):
        return _named(arrays["images"], tuple(arrays["labels"].tolist()), seed)


def stream_chunks(
    seed: int,
    *,
    first: int = 0,
    forms: Sequence[str] = ONE_ROW,
    severities: dict[int, Severity] | None = None,
    workers: int = 1,
    size: int = CHUNK,
) -> Iterator[Chunk]:
    """Endless chunks, drawn ahead in other processes.

    Parameters
    ----------
    seed, forms
        As for `generate_plates`.
    first
        Index of the first chunk: where an interrupted training goes on.
    severities
        Severity by the first chunk index at which it holds; the default one from the start.
    workers
        Processes; 0 draws in this one.
    size
        Plates a chunk.
    """
    check_forms(forms)
    steps = sorted((severities or {0: Severity()}).items())

    def job(index: int) -> tuple:
        held = [s for start, s in steps if start <= index]
        return seed, index, tuple(forms), held[-1] if held else steps[0][1], size

    if not workers:
        while True:
            yield _draw(job(first))
            first += 1
    with children.pool(workers, _one_thread) as pool:
        ahead: deque = deque()
        while True:
            while len(ahead) < 2 * workers + 2:
                ahead.append(pool.submit(_draw, job(first)))
                first += 1
            yield ahead.popleft().result()


def check_forms(forms: Sequence[str]) -> None:
    """Raise a ParameterError unless every form is known."""
    unknown = [form for form in forms if form not in FORMS]
    if unknown or not forms:
        raise ParameterError(
            f"plate form {unknown[0] if unknown else forms!r} is not known. "
            f"Choose from {', '.join(FORMS)}."
        )


def _one_thread() -> None:
    cv2.setNumThreads(1)


def _draw(job: tuple) -> Chunk:
    return draw_chunk(*job)


def contact_sheet(plates: PlateImages, columns: int = 6, zoom: int = 3) -> np.ndarray:
    """All crops of a set side by side, enlarged, uint8 BGR."""
    tiles = [
        cv2.resize(image, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
        for image in plates.images
    ]
    tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
    return np.vstack([np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)])


def write_plates(plates: PlateImages, folder: str | Path) -> Path:
    """Write a set as PNG files and ``labels.json``, as `load_plates` takes them.

    Parameters
    ----------
    plates
        A labelled set.
    folder
        Made where it is missing. One that was stopped goes on; anything else in it is an error.

    Returns
    -------
    Path
        The label file, ``{file name: plate}``.

    Raises
    ------
    ParameterError
        When the set has no labels.
    DataError
        When the folder holds something else, or cannot be written.
    """
    if plates.labels is None:
        raise ParameterError(f"{plates.name} has no labels to write beside the images.")
    folder = Path(folder)
    labels = dict(zip(plates.names, plates.labels))
    text = json.dumps(labels, ensure_ascii=False, indent=0) + "\n"
    images = dict(zip(plates.names, plates.images))
    there = _files_in(folder)
    for name in there:
        ours = _png(images[name]) if name in images else text.encode("utf8")
        if name not in (*images, "labels.json") or not _holds(folder / name, ours):
            raise DataError(
                f"{folder / name} is not of these plates. Name a new folder to write them into: "
                "labels of two sets would be mixed."
            )
    for name in images.keys() - there:
        atomic_write(folder / name, _png(images[name]))
    return atomic_write(folder / "labels.json", text)


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def _files_in(folder: Path) -> set[str]:
    """Names in a folder that may be there already, hidden ones left out."""
    try:
        return {name for name in os.listdir(folder) if not name.startswith(".")}
    except FileNotFoundError:
        return set()
    except OSError as error:
        raise DataError(
            f"cannot write into {folder}: {error.strerror}. Name a folder that you may write to."
        ) from error


def _holds(path: Path, raw: bytes) -> bool:
    try:
        return read_bytes(path) == raw
    except OSError:
        return False
