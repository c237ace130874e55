"""What TPU-MLIR made of the packaged weights, in the package: a look without the compiler.

``packaged.tar.xz`` holds, for a few models, what compiling them left but the BModels themselves:
record, quantized graph, calibration table, layers, the compiler's prediction, what its tool says of
the BModel, and the simulator's logits of a few plates. The emulator runs the graphs; its logits are
held against the simulator's. `report.tour` makes the archive, and a test compares it with what
the compiler gives.
"""

from __future__ import annotations

import contextlib
import json
import lzma
import tarfile
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import artifact, file_digest
from ..datasets.images import PlateImages
from ..errors import DataError, ParameterError
from ..files import open_input, read_bytes
from .bmodel import BModel
from .strategies import Strategy, make_strategy

TOOLCHAIN = "packaged"  # as TOOLCHAIN names it
ARCHIVE = "packaged.tar.xz"
INDEX, PLATES, STUDY = "index.json", "plates.npz", "study.json"
EXPLAINED = "explained.json"  # in a model's folder
SIMULATED = "simulator"  # folder of a model's logits, as `runtime.inference` leaves them
WEIGHTS = "generated"


def archive_digest() -> str:
    """SHA-256 of the archive."""
    with _archive() as path:
        return file_digest(path)


def packaged() -> Path:
    """Folder with what is packaged, unpacked into the cache once.

    Raises
    ------
    DataError
        When the package lacks the archive, or it cannot be read.
    """

    def build(folder: Path) -> None:
        with (
            _archive() as path,
            open_input(path) as file,
            tarfile.open(fileobj=file, mode="r:xz") as tar,
        ):
            tar.extractall(folder, filter="data")

    return artifact("packaged", {"sha256": archive_digest()}, build)


@contextlib.contextmanager
def _archive() -> Iterator[Path]:
    with resources.as_file(resources.files(__package__) / ARCHIVE) as path:
        try:
            yield path
        except (tarfile.TarError, lzma.LZMAError, EOFError, OSError) as error:
            raise DataError(
                f"the packaged graphs cannot be read: {path}: {error}. Install the package again."
            ) from error


def packaged_index() -> dict[str, Any]:
    """What is packaged, of which weights, calibrated on what, by which release.

    Returns
    -------
    dict
        ``tpu_mlir``; ``weights``, the digest of theirs; ``layers`` by form; ``models``: ``folder
        chip precision batch form asked strategy calibration``.
    """
    return json.loads(read_bytes(packaged() / INDEX))


def packaged_study() -> dict[str, Any]:
    """A small study of quantization strategies, see `study.cells.run_study`."""
    return json.loads(read_bytes(packaged() / STUDY))


def packaged_model(
    weights: str,
    chip: str,
    precision: str,
    batch: int,
    strategy: Strategy | None,
    *,
    form: str = "published",
) -> BModel:
    """A packaged model; its BModel file is not there, see `BModel.without_file`.

    Parameters
    ----------
    weights
        `Weights.digest` of those that it is to be of.
    chip, precision, batch, strategy
        As `compile.compile_bmodel` takes them.
    form
        Of a float model; a strategy has its own.

    Raises
    ------
    ParameterError
        When it is not packaged, saying what is.
    """
    index = packaged_index()
    if index["weights"] != weights:
        raise ParameterError(
            "the packaged graphs are of the packaged weights, and these are others: set "
            f"WEIGHTS={WEIGHTS!r}, or compile: TOOLCHAIN='mlir'."
        )
    wanted = (chip, precision, batch, strategy.form if strategy else form)
    for model in index["models"]:
        found = tuple(model[name] for name in ("chip", "precision", "batch", "form"))
        if found == wanted and _same(model["strategy"], strategy):
            return BModel.load(packaged() / model["folder"])
    named = f"{chip} {precision} batch {batch}" + (f" {strategy.name}" if strategy else "")
    raise ParameterError(
        f"{named} is not packaged. There are: {', '.join(_named(index['models']))}. Any other "
        "takes the compiler: TOOLCHAIN='mlir'."
    )


def float_of(model: BModel) -> BModel:
    """The packaged FP32 model of the same chip and form."""
    weights = packaged_index()["weights"]
    return packaged_model(weights, model.chip, "fp32", model.batch, None, form=model.form)


def _same(packaged: dict[str, Any] | None, strategy: Strategy | None) -> bool:
    """Whether two strategies give the same BModels; a field that is new has its default."""
    if packaged is None or strategy is None:
        return packaged is None and strategy is None
    return make_strategy(**packaged).key() == strategy.key()


def _named(models: Sequence[dict[str, Any]]) -> list[str]:
    """Packaged models as they are asked for."""
    words = (
        (model["chip"], model["precision"], f"batch {model['batch']}", model["asked"])
        for model in models
    )
    return list(dict.fromkeys(" ".join(filter(None, each)) for each in words))


def packaged_layers(form: str) -> list[dict[str, Any]]:
    """Layers of the top-level graph of a form of the network, see `compile.TopGraph`."""
    return packaged_index()["layers"][form]


def packaged_calibration(model: BModel) -> dict[str, Any]:
    """What a packaged INT8 model was calibrated on: ``images seed digest``."""
    [entry] = (e for e in packaged_index()["models"] if e["folder"] == model.folder.name)
    return entry["calibration"]


def packaged_explanation(model: BModel, plates: str) -> dict[str, Any] | None:
    """What `explain.bmodel.explained` found of a packaged model on plates of that digest.

    By language, as it is kept in the cache; None where it is not packaged: it takes a minute.
    """
    path = model.folder / EXPLAINED
    if not model.without_file or not path.is_file():
        return None
    kept = json.loads(read_bytes(path))
    return kept["said"] if kept["plates"] == plates else None


def simulated(model: BModel) -> Path:
    """Folder of the simulator's logits of `simulated_plates`, for `inference.read_shards`."""
    return model.folder / SIMULATED


def simulated_plates() -> PlateImages:
    """The generated plates that the simulator read when the models were packaged."""
    with open_input(packaged() / PLATES) as file, np.load(file) as arrays:
        images, labels = arrays["images"], arrays["labels"].tolist()
    return PlateImages(
        "packaged plates", images, tuple(f"{k}.png" for k in range(len(images))), tuple(labels)
    )
