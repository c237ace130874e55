"""Logits of a set of plates from a model on a backend: made once in shards, resumable."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ..cache import array_digest, artifact
from ..datasets.images import PlateImages, preprocess
from ..errors import DataError
from ..progress import progress_bar
from .engine import open_engine
from .interface import Engine

# Images of a shard: what a stopped run loses, and what one worker does at a time. Half a minute of
# simulator time; a fraction of a second where that is long beside what handing a shard out costs.
_SHARDS = {"simulator": 64, "device": 64}
_SHARD = 256
_NO_INPUT = ("workers", "shim", "threads")  # parts of a description that change no logit
# Which option of an engine takes a number of cores.
_WORKERS_OPTION = {
    "simulator": "workers",
    "emulator": "threads",
    "torch": "threads",
    "onnxruntime": "threads",
}


@dataclass(frozen=True)
class Inference:
    """What a model made of a set of plates.

    Parameters
    ----------
    logits
        float32 ``[N, classes, steps]``, in the order of the plates.
    description
        `Engine.description` of the engine that made (or, from the cache, would make) them.
    seconds
        Wall time of ``"preprocess"`` and ``"inference"`` when they were made, and of
        ``"runtime"``, the part inside the runtime's own call, where the backend can tell.
    """

    logits: np.ndarray
    description: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)


def infer_plates(
    model: Any,
    plates: PlateImages,
    backend: str = "auto",
    *,
    progress: bool = False,
    **options: Any,
) -> Inference:
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
    libraries, so a run that was stopped goes on where it was. A device is always run again.
    """
    if not len(plates):
        raise DataError(f"{plates.name} has no images to run.")
    with _Model(model, backend, options) as opened:
        folders = []
        label = f"{opened.description['backend']} {opened.description.get('chip', '')}".strip()
        with progress_bar(len(plates), label, progress) as advance:
            for part in shards(len(plates), opened.batch, opened.description["backend"]):
                images = plates.images[part]
                ahead = [0]

                def moved(count: int, ahead: list[int] = ahead) -> None:
                    ahead[0] += count
                    advance(count)

                folders.append(_shard(opened, images, moved))
                advance(len(images) - ahead[0])
        return replace(read_shards(folders), description=opened.description)


def shards(count: int, batch: int, backend: str) -> list[slice]:
    """How `count` images are cut: whole batches, as many as make a piece of work."""
    size = batch * max(1, _SHARDS.get(backend, _SHARD) // batch)
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def infer_shard(model: Any, images: np.ndarray, backend: str, cores: int | None = None) -> Path:
    """Make the logits of one shard, or find them; the model stays open for this thread's next one.

    Parameters
    ----------
    model, backend
        As `open_engine` takes them.
    images
        uint8 BGR ``[N, height, width, 3]``, one of the `shards`.
    cores
        How many the engine may use; all by default.

    Returns
    -------
    Path
        Folder for `read_shards`.
    """
    return _shard(_kept_model(model, backend, cores), images, lambda count: None)


def kept_engine(model: Any, backend: str, cores: int | None = None) -> Engine:
    """An engine that stays open for this thread's next piece; see `infer_shard`."""
    return _kept_model(model, backend, cores).engine


def kept_description(model: Any, backend: str, cores: int | None = None) -> dict[str, Any]:
    """What changes the logits of such an engine, to know its results by."""
    return _fixed(_kept_model(model, backend, cores))


def _kept_model(model: Any, backend: str, cores: int | None) -> _Model:
    option = _WORKERS_OPTION.get(backend)
    return _keep(_Model(model, backend, {option: cores} if option and cores else {}))


def read_shards(folders: Sequence[Path]) -> Inference:
    """What `infer_shard` left of a set of plates, part by part.

    Its description lacks what changes no logit, such as the number of workers.
    """
    seconds: dict[str, float] = {}
    for folder in folders:
        for step, value in json.loads((folder / "seconds.json").read_text("utf8")).items():
            seconds[step] = seconds.get(step, 0.0) + value
    engine = json.loads((folders[0] / "inputs.json").read_text("utf8"))["engine"]
    return Inference(np.concatenate([np.load(f / "logits.npy") for f in folders]), engine, seconds)


_kept: dict[int, _Model] = {}
_keeping = threading.Lock()


def _keep(wanted: _Model) -> _Model:
    """This thread's open model if it is the one that is wanted, else that one in its place."""
    with _keeping:
        last = _kept.get(threading.get_ident())
        if last is not None and last.identity == wanted.identity is not None:
            return last
        _kept[threading.get_ident()] = wanted
    if last is not None:
        last.close()
    return wanted


def close_models() -> None:
    """Let go of the models that `infer_shard` keeps open, and of their processes."""
    with _keeping:
        models = list(_kept.values())
        _kept.clear()
    for model in models:
        model.close()


class _Model:
    """A model on a backend, opened when it is needed; what it is like is found out once.

    A BModel's description costs a simulator process, and everything that is in the cache can be
    found by the description alone.
    """

    _facts: ClassVar[dict[Any, tuple[dict[str, Any], int]]] = {}

    def __init__(self, model: Any, backend: str, options: dict[str, Any]) -> None:
        self._open = lambda: open_engine(model, backend, **options)
        self._engine: Engine | None = None
        self.identity = _identity(model, backend, options)

    @property
    def engine(self) -> Engine:
        if self._engine is None:
            self._engine = self._open()
        return self._engine

    @property
    def description(self) -> dict[str, Any]:
        return self._known()[0]

    @property
    def batch(self) -> int:
        return self._known()[1]

    def _known(self) -> tuple[dict[str, Any], int]:
        if self.identity not in self._facts or self.identity is None:
            found = dict(self.engine.description), self.engine.batch
            if self.identity is None:
                return found
            self._facts[self.identity] = found
        return self._facts[self.identity]

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def __enter__(self) -> _Model:
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


def _identity(model: Any, backend: str, options: dict[str, Any]) -> Any:
    """By what a model of ours is known again; None for what is not: it may be another one."""
    if not hasattr(model, "digest"):
        return None
    try:
        file = Path(model.path).stat()
    except OSError:
        return None
    return (
        model.digest,
        getattr(model, "sha256", None),
        str(model.path),
        file.st_mtime_ns,
        file.st_size,
        backend,
        repr(sorted(options.items())),
    )


def _shard(model: _Model, images: np.ndarray, moved: Callable[[int], None]) -> Path:
    inputs = {"images": array_digest(images), "engine": _fixed(model)}
    if model.description["backend"] == "device":
        # A time that was measured is of that run alone: no later run may take it for its own.
        inputs["measured"] = secrets.token_hex(16)
    return artifact(
        "logits",
        inputs,
        lambda folder: _run_shard(model.engine, images, moved, folder),
    )


def _fixed(model: _Model) -> dict[str, Any]:
    return {key: value for key, value in model.description.items() if key not in _NO_INPUT}


def _run_shard(
    engine: Engine, images: np.ndarray, moved: Callable[[int], None], folder: Path
) -> None:
    started, before, inside = time.perf_counter(), engine.seconds, engine.runtime_seconds
    inputs = preprocess(images, engine.interface.input)
    seconds = {"preprocess": time.perf_counter() - started}
    np.save(folder / "logits.npy", engine.infer(inputs, moved))
    seconds["inference"] = engine.seconds - before
    if inside is not None and engine.runtime_seconds is not None:
        seconds["runtime"] = engine.runtime_seconds - inside
    (folder / "seconds.json").write_text(json.dumps(seconds), "utf8")
