"""From image files to logits, each step timed: decode, preprocess, inference.

Preprocessing runs on the processor (`"numpy"`, the one of all other stages) or, on a device, in
bmcv: hardware decoding, resizing and scaling, the tensor never leaving the device. bmcv decodes and
interpolates a little differently, so its logits are close to the others', not equal.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.images import HEIGHT, MEAN, SCALE, WIDTH, decode_image, fit, preprocess
from ..errors import DataError, EngineError, ParameterError
from ..files import read_picture
from ..progress import progress_bar
from .bmodel_file import Stage
from .device import DeviceEngine
from .engine import open_engine
from .inference import Inference
from .interface import Engine

PREPROCESSING = ("numpy", "bmcv")
_BMCV = ("Bmcv", "Decoder", "BMImage", "Format")


def infer_files(
    model: Any,
    paths: Sequence[str | Path],
    backend: str = "auto",
    *,
    preprocessing: str = "numpy",
    progress: bool = False,
    **options: Any,
) -> Inference:
    """Read image files and run them through a model; nothing is cached.

    Parameters
    ----------
    model, backend, options
        As `open_engine` takes them.
    paths
        Image files.
    preprocessing
        "numpy", or "bmcv" on a device.
    progress
        Show a bar, in a notebook or a terminal.

    Returns
    -------
    Inference
        Its seconds are ``"decode"``, ``"preprocess"`` and ``"inference"``.

    Raises
    ------
    DataError
        Naming the file, when an image cannot be read, or when there is none.
    ParameterError
        For an unknown preprocessing.
    EngineError
        As `open_engine`, and where sail has no bmcv.
    """
    if preprocessing not in PREPROCESSING:
        raise ParameterError(
            f"unknown preprocessing {preprocessing!r}. Choose {' or '.join(PREPROCESSING)}."
        )
    if not paths:
        raise DataError("there are no image files to run.")
    run = _on_device if preprocessing == "bmcv" else _on_processor
    if preprocessing == "bmcv":
        options.setdefault("io_mode", "DEVIO")  # the tensors that bmcv makes lie on the device
        if backend not in ("auto", "device"):
            raise EngineError(
                f'preprocessing "bmcv" needs backend "device", not {backend!r}: '
                'it runs in the device\'s own hardware. Use "numpy".'
            )
        backend = "device"
    files = [Path(path) for path in paths]
    with (
        open_engine(model, backend, **options) as engine,
        progress_bar(len(files), engine.backend, progress) as advance,
    ):
        logits, seconds = run(engine, files, advance)
        seconds["inference"] = engine.seconds
        return Inference(logits, engine.description | {"preprocessing": preprocessing}, seconds)


def _on_processor(
    engine: Engine, files: list[Path], advance: Callable[[int], None]
) -> tuple[np.ndarray, dict[str, float]]:
    started = time.perf_counter()
    images = [decode_image(_bytes(file), f"image {file}") for file in files]
    decoded = time.perf_counter()
    inputs = preprocess(np.stack([fit(image) for image in images]))
    seconds = {"decode": decoded - started, "preprocess": time.perf_counter() - decoded}
    return engine.infer(inputs, advance), seconds


def _on_device(
    engine: Engine, files: list[Path], advance: Callable[[int], None]
) -> tuple[np.ndarray, dict[str, float]]:
    if not isinstance(engine, DeviceEngine):
        raise EngineError('preprocessing "bmcv" needs backend "device".')
    if engine.convention is not None:
        raise EngineError('preprocessing "bmcv" is for BModels made here; use "numpy".')
    missing = [part for part in _BMCV if not hasattr(engine.sail, part)]
    if missing:
        raise EngineError(
            f"this sail has no {', '.join(missing)}: it was built for the runtime "
            "alone, without bmcv. Install the full SDK, or use preprocessing "
            '"numpy".'
        )
    seconds = {"decode": 0.0, "preprocess": 0.0}
    pictures = _Pictures(engine, seconds)
    logits = []
    for graph, stage, start, stop in engine.plan(len(files)):
        part = files[start:stop]
        size = stage.inputs[0].shape[0]
        tensor = pictures.tensor(stage, [*part, *[part[-1]] * (size - len(part))])
        [outputs] = engine.run_tensors(graph, stage, tensor).values()
        logits.append(outputs[: len(part)])
        advance(len(part))
    return np.concatenate(logits), seconds


class _Pictures:
    """Decoding and preprocessing in bmcv, as sail's samples do it."""

    def __init__(self, engine: DeviceEngine, seconds: dict[str, float]) -> None:
        self.sail, self.handle, self.seconds = engine.sail, engine.handle, seconds
        self.tpu = engine.get_device_id()
        self.bmcv = self.sail.Bmcv(self.handle)

    def tensor(self, stage: Stage, files: list[Path]) -> Any:
        """Files as the input of a stage, on the device, scaled as the stage wants."""
        started = time.perf_counter()
        images = [self._decode(file) for file in files]
        decoded = time.perf_counter()
        wanted = stage.inputs[0]
        dtype = getattr(self.sail.Dtype, wanted.dtype)
        if wanted.dtype == "BM_UINT8":  # the model preprocesses by itself
            scale, shift = 1.0, 0.0
        else:
            scale, shift = SCALE * wanted.scale, -MEAN * SCALE * wanted.scale
        made = [self._scaled(image, dtype, scale, shift) for image in images]
        if len(made) == 1:
            batch = made[0]
        else:
            batch = getattr(self.sail, f"BMImageArray{len(made)}D")()
            for index, image in enumerate(made):
                batch[index] = image.data()
        tensor = self.sail.Tensor(self.handle, list(wanted.shape), dtype, False, False)
        self.bmcv.bm_image_to_tensor(batch, tensor)
        self.seconds["decode"] += decoded - started
        self.seconds["preprocess"] += time.perf_counter() - decoded
        return tensor

    def _decode(self, file: Path) -> Any:
        _bytes(file)  # sail does not say why it cannot read a file
        image = self.sail.BMImage()
        if self.sail.Decoder(str(file), True, self.tpu).read(self.handle, image) != 0:
            raise DataError(
                f"image {file} cannot be decoded by the device. Remove it, or use "
                'preprocessing "numpy".'
            )
        return image

    def _scaled(self, image: Any, dtype: Any, scale: float, shift: float) -> Any:
        planar = self.sail.Format.FORMAT_BGR_PLANAR
        colours = self.sail.BMImage(
            self.handle, image.height(), image.width(), planar, image.dtype()
        )
        self.bmcv.convert_format(image, colours)
        if (image.height(), image.width()) != (HEIGHT, WIDTH):
            colours = self.bmcv.resize(colours, WIDTH, HEIGHT)
        scaled = self.sail.BMImage(
            self.handle, HEIGHT, WIDTH, planar, self.bmcv.get_bm_image_data_format(dtype)
        )
        self.bmcv.convert_to(colours, scaled, ((scale, shift),) * 3)
        return scaled


def _bytes(file: Path) -> bytes:
    try:
        return read_picture(file)
    except OSError as error:
        raise DataError(
            f"image {file} cannot be read: {error.strerror}. Check the path."
        ) from error
