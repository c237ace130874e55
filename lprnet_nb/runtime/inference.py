"""Logits of a set of plates from a model on a backend: made once, resumable."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import array_digest, artifact
from ..datasets.images import PlateImages, preprocess
from ..errors import DataError
from .engine import open_engine
from .progress import progress_bar

_SHARD = 64  # images: a stopped run loses less than half a minute of simulator time
_NO_INPUT = ("workers", "shim", "threads")  # parts of a description that change no logit


@dataclass(frozen=True)
class Inference:
    """What a model made of a set of plates.

    Parameters
    ----------
    logits
        float32 ``[N, classes, 18]``, in the order of the plates.
    description
        `Engine.description` of the engine that made (or, from the cache, would make) them.
    batch
        Images per call of the model's largest stage.
    seconds
        Wall time of ``"preprocess"`` and ``"inference"`` when they were made, and of
        ``"runtime"``, the part inside the runtime's own call, where the backend can tell.
    """

    logits: np.ndarray
    description: dict[str, Any]
    batch: int
    seconds: dict[str, float] = field(default_factory=dict)


def infer_plates(model: Any, plates: PlateImages, backend: str = "auto", *,
                 progress: bool = False, **options: Any) -> Inference:
    """Preprocess plates and run them through a model, or fetch what an earlier run made.

    Parameters
    ----------
    model, backend, options
        As `open_engine` takes them.
    plates
        The images.
    progress
        Show a bar, in a notebook or a terminal.

    Raises
    ------
    DataError
        When there are no images.
    ParameterError, EngineError
        As `open_engine` and `Engine.infer` raise them.

    Notes
    -----
    Results are cached in shards by the digests of the images, of the model and of the runtime's
    libraries, so a run that was stopped goes on where it was.
    """
    if not len(plates):
        raise DataError(f"{plates.name} has no images to run.")
    with open_engine(model, backend, **options) as engine:
        size = engine.batch * max(1, _SHARD // engine.batch)
        logits, seconds = [], {}
        label = f"{engine.backend} {engine.description.get('chip', '')}".strip()
        with progress_bar(len(plates), label, progress) as advance:
            for start in range(0, len(plates), size):
                images = plates.images[start:start + size]
                ahead = [0]

                def moved(count: int, ahead: list[int] = ahead) -> None:
                    ahead[0] += count
                    advance(count)

                folder = artifact("logits", _key(engine, images),
                                  lambda folder, images=images, moved=moved:
                                  _run_shard(engine, images, moved, folder))
                logits.append(np.load(folder / "logits.npy"))
                for part, value in json.loads((folder / "seconds.json").read_text()).items():
                    seconds[part] = seconds.get(part, 0.0) + value
                advance(len(images) - ahead[0])
        return Inference(np.concatenate(logits), engine.description, engine.batch, seconds)


def _key(engine: Any, images: np.ndarray) -> dict[str, Any]:
    fixed = {key: value for key, value in engine.description.items() if key not in _NO_INPUT}
    return {"images": array_digest(images), "engine": fixed}


def _run_shard(engine: Any, images: np.ndarray, moved: Any, folder: Path) -> None:
    started, before, inside = time.perf_counter(), engine.seconds, engine.runtime_seconds
    inputs = preprocess(images)
    seconds = {"preprocess": time.perf_counter() - started}
    np.save(folder / "logits.npy", engine.infer(inputs, moved))
    seconds["inference"] = engine.seconds - before
    if inside is not None:
        seconds["runtime"] = engine.runtime_seconds - inside
    (folder / "seconds.json").write_text(json.dumps(seconds))
