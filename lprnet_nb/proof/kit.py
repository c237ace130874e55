"""Kits: all that proves and measures a port on the box where the chip is, in one folder.

A kit is made where the compiler is. It holds BModels with their SHA-256, plates as files and as
arrays, their labels, the logits that the chip simulator (or the emulator) gives for them, the
program that runs it all there (``run.py``, which needs Python 3.6, numpy and sail), and the C++
sample. What the program found comes back as one file, see `measure.box`.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
from pydantic import Field

from .. import __version__
from ..cache import digest, file_digest
from ..datasets.images import PlateImages
from ..datasets.interface import LAYOUT
from ..errors import DataError, ParameterError
from ..files import private_folder
from ..measure.box import FORMAT, KitBackend, Part, Sha256, plate_digest, read_part
from ..places import repository
from ..runtime.bmodel_file import read_contents
from ..runtime.inference import infer_plates
from ..toolchain.bmodel import NETWORK, BModel, without_time
from ..toolchain.environment import compiler

# At batch 1 on one core the emulator is exact. Of floats of several images, or over two cores,
# it was only shown that they lie this near (tests/measure/test_cores.py, the contract): largest
# difference allowed, as a part of the largest logit.
_FLOAT_TOLERANCE = 2e-5
BACKENDS: tuple[KitBackend, ...] = get_args(KitBackend)


class KitTensor(Part):
    """An input or output of a stage, as sail describes it."""

    name: str
    shape: list[int]
    dtype: str
    scale: float


class KitStage(Part):
    """One set of shapes that a BModel was compiled for."""

    inputs: list[KitTensor]
    outputs: list[KitTensor]


class Expected(Part):
    """The logits that a model must give: who made them, and how far apart others may lie.

    `tolerance` is a part of the largest logit; 0 asks for the same bits.
    """

    file: str
    sha256: str = Sha256
    backend: KitBackend
    tolerance: float = Field(ge=0)


class KitModel(Part):
    """A BModel of a kit.

    One that holds several batch sizes has no `record`, but `parts`: the models of the kit that it
    was put together from, by their batch. Its expected logits are those of the largest.
    """

    id: str
    file: str
    sha256: str = Sha256
    record: str | None
    parts: dict[str, str] | None = None
    precision: str
    batch: int = Field(ge=1)
    batch_mean: str
    cores: int = Field(ge=1)
    strategy: str | None
    predicted_latency_ms: float | None
    graph: str
    stages: list[KitStage]
    expected: Expected


class KitPlate(Part):
    """A plate: where it came from, its file in the kit, its pixels' SHA-256, its text if known."""

    name: str
    file: str
    sha256: str = Sha256
    label: str | None


class Preprocessing(Part):
    """``(x - mean) * scale`` on a plain resize to ``size`` (height, width), channels as named.

    Mean and scale are one number, or one a channel.
    """

    mean: float | list[float]
    scale: float | list[float]
    order: Literal["bgr", "rgb"]
    size: tuple[int, int]


class Kit(Part):
    """``kit.json``."""

    format: Literal[1]
    made: dict[str, str | None]
    chip: str
    dataset: str
    preprocessing: Preprocessing
    output: Literal["ctc", "logits"] = "ctc"
    layout: str = LAYOUT
    classes: list[str]
    blank: int
    models: list[KitModel] = Field(min_length=1)
    plates: list[KitPlate] = Field(min_length=1)
    files: dict[str, str]


def emulator_tolerance(precision: str, cores: int, batch: int) -> float:
    """How far the emulator's logits may lie from the chip's, as a part of the largest.

    Floats were held to the bit on one core at batch 1; sums over more images are in another order.
    """
    return 0.0 if precision == "int8" or cores == batch == 1 else _FLOAT_TOLERANCE


# Making


@dataclass(frozen=True)
class Wanted:
    """A model that goes into a kit, and its name there."""

    id: str
    bmodel: BModel


def kit_for(
    output: str | Path | None,
    *,
    backend: str = "simulator",
    revision: str | None = None,
    **parameters: Any,
) -> Path:
    """Compile what the parameters ask for and write a kit of it.

    Parameters
    ----------
    output
        New folder; ``kit-<chip>`` by default.
    backend, revision
        See `save_kit`.
    parameters
        As the report takes them, by their upper-case names; ``CHIPS`` is one chip.

    Raises
    ------
    ParameterError
        For more than one chip, or an impossible parameter.
    """
    # Here, since a machine with a device, where a kit is only read, may well be without torch.
    from ..measure.data import datasets_for
    from ..measure.models import compile_all
    from ..measure.parameters import check

    checked = check(**parameters)
    if len(checked.chips) != 1:
        raise ParameterError("a kit is for one chip. Make one for each.")
    [chip] = checked.chips
    target = Path(output or f"kit-{chip}")
    check_target(target)
    data = datasets_for(checked)
    models = [Wanted(item.id, item.bmodel) for item in compile_all(checked, data)]
    return save_kit(target, models, data.plates, backend=backend, revision=revision)


def check_target(target: Path) -> None:
    """Raise a ParameterError when a kit's new folder is there already."""
    if target.exists():
        raise ParameterError(f"{target} is there already. Name a new folder for the kit.")


def save_kit(
    target: str | Path,
    models: Sequence[Wanted],
    plates: PlateImages,
    *,
    backend: str = "simulator",
    revision: str | None = None,
    progress: bool = True,
) -> Path:
    """Write a kit into a new folder, which appears whole.

    Parameters
    ----------
    target
        Folder that is not there yet.
    models
        Of one chip. Where two of them differ in nothing but their batch size, one BModel that holds
        both is added (not on BM1684, whose BModels the compiler's tool does not combine).
    plates
        What every model must read.
    backend
        Who makes the expected logits: "simulator", or "emulator", which is faster and gives the
        chip's logits to the bit, floats at batch 4 or over two cores nearly.
    revision
        Of the checkout, to be noted.

    Raises
    ------
    ParameterError
        When the folder is there already, for an unknown backend, or for models of several chips.
    """
    target = Path(target)
    check_target(target)
    maker = next((known for known in BACKENDS if known == backend), None)
    if maker is None:
        raise ParameterError(f"backend {backend!r} makes no kit. Choose {' or '.join(BACKENDS)}.")
    chips = {each.bmodel.chip for each in models}
    if len(chips) != 1:
        named = ", ".join(sorted(chips)) or "none"
        raise ParameterError(f"a kit is for one chip, not for {named}.")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        os.chmod(temporary, 0o755)
        fill_kit(temporary, models, plates, maker, revision=revision, progress=progress)
        os.rename(temporary, target)
    except OSError as error:
        raise DataError(f"cannot write the kit {target}: {error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def fill_kit(
    folder: Path,
    models: Sequence[Wanted],
    plates: PlateImages,
    backend: KitBackend = "simulator",
    *,
    graphs: bool = False,
    revision: str | None = None,
    progress: bool = True,
) -> None:
    """Write a kit into an empty folder; see `save_kit`. With `graphs` the emulator can run it."""
    interface = models[0].bmodel.interface
    taken = interface.input
    if taken.order == "gray":
        raise ParameterError(
            "a kit's program gives a network three planes, and this one takes gray pictures. Run "
            "its BModel on the device with `lprnet-nb infer`."
        )
    for name in ("models", "expected"):
        (folder / name).mkdir()
    entries = []
    for wanted in models:
        entries.append(_add_model(folder, wanted, plates, backend, graphs, progress))
    entries += _add_combined(folder, models, entries)
    alphabet = models[0].bmodel.alphabet
    written = _add_plates(folder, plates)
    _add_programs(folder, models[0].bmodel.network)
    kit = Kit(
        format=FORMAT,
        made={
            "lprnet-nb": __version__,
            "tpu_mlir": models[0].bmodel.tools.get("tpu_mlir"),
            "revision": revision,
        },
        chip=models[0].bmodel.chip,
        dataset=plates.name,
        preprocessing=Preprocessing(
            mean=_one_of(taken.mean),
            scale=_one_of(taken.scale),
            order="rgb" if taken.order == "rgb" else "bgr",
            size=taken.shape[1:],
        ),
        output="ctc" if interface.kind == "ctc" else "logits",
        layout=interface.layout,
        classes=list(alphabet.characters),
        blank=alphabet.blank,
        models=entries,
        plates=written,
        files={
            path.relative_to(folder).as_posix(): file_digest(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        },
    )
    (folder / "kit.json").write_text(kit.model_dump_json(indent=1) + "\n", "utf8")


def _add_model(
    folder: Path,
    wanted: Wanted,
    plates: PlateImages,
    backend: KitBackend,
    graphs: bool,
    progress: bool,
) -> KitModel:
    bmodel, path = wanted.bmodel, folder / "models" / f"{wanted.id}.bmodel"
    shutil.copy(bmodel.path, path)
    graph = None
    if graphs and bmodel.graph:
        graph = Path(shutil.copytree(bmodel.graph, path.with_suffix(".graph")))
    replace(bmodel, path=path, graph=graph).save_beside(path)
    expected = folder / "expected" / f"{wanted.id}.npy"
    np.save(expected, infer_plates(bmodel, plates, backend, progress=progress).logits)
    return KitModel(
        id=wanted.id,
        record=path.with_suffix(".json").relative_to(folder).as_posix(),
        precision=bmodel.precision,
        batch=bmodel.batch,
        batch_mean=bmodel.batch_mean,
        cores=bmodel.cores,
        strategy=bmodel.strategy,
        predicted_latency_ms=bmodel.predicted_latency_ms,
        expected=Expected(
            file=expected.relative_to(folder).as_posix(),
            sha256=file_digest(expected),
            backend=backend,
            tolerance=emulator_tolerance(bmodel.precision, bmodel.cores, bmodel.batch)
            if backend == "emulator"
            else 0.0,
        ),
        **_contents(folder, path),
    )


def _contents(folder: Path, path: Path) -> dict[str, Any]:
    """What a BModel file is, and what it says of itself."""
    [graph] = read_contents(path).graphs
    stages = [
        KitStage(
            inputs=[KitTensor(**vars(tensor)) for tensor in stage.inputs],
            outputs=[KitTensor(**vars(tensor)) for tensor in stage.outputs],
        )
        for stage in graph.stages
    ]
    name = path.relative_to(folder).as_posix()
    return {"file": name, "sha256": file_digest(path), "graph": graph.name, "stages": stages}


def _add_combined(
    folder: Path, models: Sequence[Wanted], entries: Sequence[KitModel]
) -> list[KitModel]:
    """One BModel of the first network that is there at several batch sizes."""
    if models[0].bmodel.chip == "BM1684":
        return []
    groups: dict[Any, dict[int, tuple[BModel, KitModel]]] = {}
    for wanted, entry in zip(models, entries):
        model = wanted.bmodel
        key = (model.precision, model.strategy, model.cores, model.input_dtype, model.batch_mean)
        groups.setdefault(key, {})[model.batch] = model, entry
    several = next((group for group in groups.values() if len(group) > 1), None)
    if several is None:
        return []
    largest = several[max(several)][1]
    path = folder / "models" / f"{largest.precision}_combined.bmodel"
    with tempfile.TemporaryDirectory(prefix="combine-", dir=private_folder()) as scratch:
        made = combine_stages([model for model, _ in several.values()], Path(scratch) / "combined")
        shutil.copy(made, path)
    changes = {
        "id": path.stem,
        "record": None,
        "parts": {str(batch): entry.id for batch, (_, entry) in several.items()},
        "predicted_latency_ms": None,
        **_contents(folder, path),
    }
    return [largest.model_copy(update=changes)]


def _add_plates(folder: Path, plates: PlateImages) -> list[KitPlate]:
    """Plates as PNG under plain names, whatever they were called: boxes have no UTF-8 locale."""
    (folder / "plates").mkdir()
    np.save(folder / "plates.npy", plates.images)
    written = []
    for index, (image, name) in enumerate(zip(plates.images, plates.names)):
        file = f"plates/{index:05d}.png"
        (folder / file).write_bytes(cv2.imencode(".png", image)[1].tobytes())
        label = plates.labels[index] if plates.labels else None
        written.append(KitPlate(name=name, file=file, sha256=plate_digest(image), label=label))
    if plates.labels:
        labels = {Path(each.file).name: each.label for each in written}
        text = json.dumps(labels, ensure_ascii=False, indent=1)
        (folder / "labels.json").write_text(text + "\n", "utf8")
    return written


def _one_of(values: tuple[float, ...]) -> float | list[float]:
    """The one number that all planes have, else one a plane."""
    return values[0] if len({*values}) == 1 else list(values)


def _add_programs(folder: Path, network: str) -> None:
    """``run.py``, and with LPRNet the C++ program, which is written for it."""
    for name, path in _programs().items():
        if name.startswith("cpp/") and network != NETWORK:
            continue
        target = folder / name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(path, target)


def _programs() -> dict[str, Path]:
    samples = repository() / "samples"
    sample = {f"cpp/{path.name}": path for path in sorted((samples / "cpp").iterdir())}
    return {"run.py": samples / "kit" / "run.py", **sample}


def programs_digest() -> str:
    """SHA-256 over the programs that go into every kit."""
    return digest({name: file_digest(path) for name, path in _programs().items()})


def combine_stages(models: Sequence[BModel], place: Path) -> Path:
    """Put the same network at several batch sizes into one BModel with TPU-MLIR's tool.

    The largest batch goes first whatever the order given: the other way round, batch 1 gives wrong
    logits on BM1684X (TPU-MLIR 1.30.2, chip simulator).

    Parameters
    ----------
    models
        One for each batch size.
    place
        Folder to make, for ``lprnet.bmodel`` and the tool's log.

    Raises
    ------
    ToolchainError
        When the tool fails, as it does for BM1684.
    """
    place.mkdir()
    ordered = sorted(models, key=lambda model: -model.batch)
    compiler().run(
        [
            "model_tool",
            "--combine",
            *(model.path for model in ordered),
            "-o",
            place / "lprnet.bmodel",
        ],
        cwd=place,
        log=place / "combine.log",
        what="combining BModels",
    )
    without_time(place / "lprnet.bmodel")
    return place / "lprnet.bmodel"


# Reading


def read_kit(folder: str | Path) -> Kit:
    """A kit's description, after every file that it names was compared with its SHA-256.

    Raises
    ------
    DataError
        When the folder is no kit, or a file of it is missing or was changed.
    """
    folder = Path(folder)
    kit = read_part(folder / "kit.json", Kit, "comes with a kit, which `lprnet-nb kit` makes")
    for name, expected in kit.files.items():
        path = folder / name
        try:
            inside, there = path.resolve().is_relative_to(folder.resolve()), path.is_file()
        except (OSError, ValueError) as error:  # no file has such a name
            raise DataError(f"{folder}/kit.json names {name!r}: {error}.") from error
        if not inside:
            raise DataError(f"{folder}/kit.json names {name!r}, which leads out of the kit.")
        if not there:
            raise DataError(f"{path} is missing from the kit. Copy or make the kit again.")
        if file_digest(path) != expected:
            raise DataError(
                f"{path} was changed after the kit was made: its SHA-256 is not the one that "
                "kit.json says. Copy or make the kit again."
            )
    return kit


def kit_digest(folder: str | Path) -> str:
    """What a kit is known by: the SHA-256 of its ``kit.json``."""
    return file_digest(Path(folder) / "kit.json")
