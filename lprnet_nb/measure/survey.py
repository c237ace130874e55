"""Read CCPD with a model, however many images it has: piece by piece, on any number of machines.

A piece is a few hundred files. Whoever makes it reads them, cuts the plates out, runs them and
reads the logits; only texts and labels come back, so memory does not grow with the images. Files
are known by name, size and time of change: a survey that is started again reads no image twice.
"""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import artifact, digest, is_made_here
from ..datasets import ccpd
from ..datasets.images import fit, preprocess
from ..decode import decode
from ..errors import DataError, ParameterError
from ..evaluate.intervals import wilson
from ..inputs import find_path
from ..runtime.inference import kept_description, kept_engine
from ..work import scheduler
from ..work.pieces import Piece, decoder_key

FILES = 256  # of a piece: a few seconds' work
_SECONDS = 0.006  # of one image on one core; measured, rounded up
_SKIPPED_SHOWN = 20


@dataclass
class Survey:
    """What came of a survey so far.

    Parameters
    ----------
    images, right
        Plates read, and those that equal their label.
    skipped
        How many files could not be used, and the errors of the first of them by name.
    pieces, seconds
        Pieces made or found, and the wall time.
    """

    images: int = 0
    right: int = 0
    skipped: int = 0
    errors: dict[str, str] = field(default_factory=dict)
    pieces: int = 0
    seconds: float = 0.0

    def facts(self) -> dict[str, Any]:
        """JSON-able, with the exact match and its 95 % interval."""
        return {
            "images": self.images,
            "right": self.right,
            "exact_match": self.right / self.images if self.images else None,
            "ci95": list(wilson(self.right, self.images)) if self.images else None,
            "skipped": self.skipped,
            "errors": self.errors,
            "pieces": self.pieces,
            "seconds": round(self.seconds, 3),
        }


def survey(
    model: Any,
    folder: str | Path,
    *,
    backend: str = "emulator",
    decoder: str = "greedy",
    margin: float | ccpd.Margins = 0.0,
    limit: int | None = None,
    files: int = FILES,
    progress: bool = True,
) -> Survey:
    """Read every plate of a CCPD folder and compare with the labels in the file names.

    Parameters
    ----------
    model
        A `BModel` or `TracedModel`.
    folder
        Where CCPD was unpacked; all workers must see it under this path.
    backend, decoder
        See `open_engine` and `decode`.
    margin
        See `ccpd.crop`.
    limit
        Only the first images.
    files
        Images of a piece; a multiple of the model's batch.

    Raises
    ------
    ParameterError
        For an impossible number or backend.
    DataError
        When the folder cannot be read or nothing in it can be used.
    """
    if files < 1 or files % model.batch:
        raise ParameterError(
            f"files={files} is not possible. Choose a multiple of the model's batch, {model.batch}."
        )
    path = getattr(model, "path", None)  # a float network has none
    if backend in ("simulator", "device") and path and path.is_file() and not is_made_here(path):
        raise ParameterError(
            f"{path} was not made in this machine's cache, and it holds instructions that are run "
            "as they are. A survey runs only what was made here: compile it here, or choose the "
            "emulator, which runs the graph in its record."
        )
    folder = find_path(folder).resolve()
    total = sum(1 for _ in islice(ccpd.ccpd_files(folder), limit))
    found, started = Survey(), time.perf_counter()
    shared = {
        "folder": str(folder),
        "model": model,
        "backend": backend,
        "decoder": decoder,
        "margin": margin,
    }
    for _, result in scheduler.stream(
        _pieces(folder, shared, limit, files),
        "plates",
        -(-total // files),
        total * _SECONDS,
        progress=progress,
    ):
        facts = json.loads((result / "readings.json").read_text("utf8"))
        found.images += len(facts["labels"])
        found.right += sum(a == b for a, b in zip(facts["labels"], facts["texts"]))
        found.skipped += len(facts["skipped"])
        room = _SKIPPED_SHOWN - len(found.errors)
        found.errors |= dict(islice(facts["skipped"].items(), max(0, room)))
        found.pieces += 1
    found.seconds = time.perf_counter() - started
    if not found.images:
        raise DataError(
            f"image folder {folder} has no CCPD image that can be used ({total} found)."
            + "".join(f" {error}" for error in list(found.errors.values())[:1])
        )
    return found


def _pieces(folder: Path, shared: dict[str, Any], limit: int | None, files: int) -> Iterator[Piece]:
    names = islice(ccpd.ccpd_files(folder), limit)
    first = 0
    while part := tuple(islice(names, files)):
        yield Piece(
            f"infer/{folder.name}/{first:09d}-{first + len(part) - 1:09d}",
            _read,
            {**shared, "names": part},
            seconds=len(part) * _SECONDS,
        )
        first += len(part)


def _read(
    folder: str,
    names: tuple[str, ...],
    model: Any,
    backend: str,
    decoder: str,
    margin: float | ccpd.Margins,
    cores: int | None = None,
) -> Path:
    """Read, cut out, run and read off some files."""
    root = Path(folder)
    inputs = {
        "files": digest([_state(root, name) for name in names]),
        "margin": margin,
        "crop": digest([inspect.getsource(ccpd)]),
        "engine": kept_description(model, backend, cores),
        "decoder": decoder_key(decoder),
        "classes": model.alphabet.listed,
    }

    def build(made: Path) -> None:
        taken = model.interface.input
        images = np.empty((len(names), taken.height, taken.width, 3), np.uint8)
        labels: list[str] = []
        skipped: dict[str, str] = {}
        for name in names:
            try:
                image, label = ccpd.read_plate(root / name, margin)
                images[len(labels)] = fit(image, (taken.height, taken.width))
            except DataError as error:
                skipped[name] = str(error)
                continue
            labels.append(label.plate)
        texts: list[str] = []
        if labels:
            inputs = preprocess(images[: len(labels)], model.interface.input)
            logits = kept_engine(model, backend, cores).infer(inputs)
            texts = decode(logits, model.alphabet, decoder).texts
        (made / "readings.json").write_text(
            json.dumps({"labels": labels, "texts": texts, "skipped": skipped}, ensure_ascii=False),
            "utf8",
        )

    return artifact("survey", inputs, build)


def _state(root: Path, name: str) -> list[Any]:
    try:
        state = (root / name).stat()
    except OSError:  # it vanished since the folder was listed; reading it will say so
        return [name, None, None]
    return [name, state.st_size, state.st_mtime_ns]
