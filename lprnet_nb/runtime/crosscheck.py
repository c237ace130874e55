"""The simulator as judge: a sample of every BModel is run on it, in the same run.

Emulators and devices are judged alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..datasets.images import PlateImages
from ..inputs import note
from .inference import Inference, infer_plates

SAMPLE = 4  # images; a BM1684X image takes about half a second on the simulator


def crosscheck(
    model: Any,
    plates: PlateImages,
    logits: np.ndarray,
    backend: str = "emulator",
    *,
    images: int = SAMPLE,
    progress: bool = False,
) -> dict[str, Any]:
    """Run the first images on the simulator and compare them with another backend's logits.

    Parameters
    ----------
    model
        The `BModel`.
    plates
        All images that `logits` belong to.
    logits
        float32 ``[N, classes, 18]`` of the backend that is checked.
    backend
        That one's name.
    images
        How many to run, rounded up to whole batches (a batch may couple its images).
    progress
        Show a bar.

    Returns
    -------
    dict
        See `compare`.

    """
    sample = plates.take(slice(sample_size(model.batch, len(plates), images)))
    judged = infer_plates(model, sample, "simulator", progress=progress)
    return compare(model, sample.names, logits, judged, backend)


def compare(
    model: Any, names: Sequence[str], logits: np.ndarray, judged: Inference, backend: str
) -> dict[str, Any]:
    """Hold a backend's logits of the first images against the simulator's.

    Parameters
    ----------
    model
        The `BModel`.
    names
        File names of the images that the simulator ran.
    logits
        float32 ``[N, classes, 18]`` of the backend that is checked, at least of those images.
    judged
        What the simulator said.
    backend
        Name of the backend that is checked.

    Returns
    -------
    dict
        ``images``, ``identical`` (bit for bit), ``max_abs_difference``, ``same_classes`` (the
        arg-max of every time step), ``same_readings`` (greedy), where they are not all the same
        ``read_otherwise`` (the file names of the others; the simulator runs the BModel itself and
        is right), ``simulator`` (its description).
    """
    count = len(names)
    mine, judge = logits[:count], judged.logits
    blank = model.alphabet.blank if model.interface.kind == "ctc" else None
    different = [
        name
        for name, a, b in zip(names, mine.argmax(1), judge.argmax(1))
        if _characters(a, blank) != _characters(b, blank)
    ]
    if different:
        note(
            f"{model.chip} {model.name}: {len(different)} of {count} images read differently on "
            f"the {backend} and on the chip simulator, the first is {different[0]}. The simulator "
            "runs the BModel itself and is right: use backend 'simulator' for this one, and report "
            "it."
        )
    return {
        "images": count,
        "identical": bool((mine == judge).all()),
        "max_abs_difference": float(np.abs(mine - judge).max()),
        "same_classes": bool((mine.argmax(1) == judge.argmax(1)).all()),
        "same_readings": not different,
        **({"read_otherwise": different} if different else {}),
        "simulator": judged.description,
    }


def sample_size(batch: int, there: int, images: int = SAMPLE) -> int:
    """How many of the first images are run: whole batches, as far as there are any."""
    return min(there, -(-images // batch) * batch)


def _characters(path: np.ndarray, blank: int | None) -> list[int]:
    """Classes of a greedy path: repeats collapsed, blanks dropped; all where there is no blank."""
    if blank is None:
        return path.tolist()
    begins = np.concatenate([[True], path[1:] != path[:-1]])
    return path[begins & (path != blank)].tolist()
