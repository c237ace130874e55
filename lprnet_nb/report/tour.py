"""What is packaged of the compiler's work, made anew: ``python -m lprnet_nb.report.tour``.

Needs the compiler; see `toolchain.packaged` for what it is and who reads it. To be run when the
packaged weights, the recommended strategies or the pinned release have changed.
"""

from __future__ import annotations

import json
import lzma
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..cache import array_digest
from ..datasets.images import PlateImages
from ..explain.bmodel import explained
from ..files import atomic_write, private_folder
from ..language import LANGUAGES, within
from ..lessons.quantize import EXPLAINED
from ..lessons.strategies import plan_of
from ..measure.data import CALIBRATION_SEED, Data, datasets_for
from ..measure.models import Compiled, compile_all
from ..measure.parameters import check
from ..model.trace import TracedModel
from ..runtime.crosscheck import SAMPLE
from ..runtime.inference import infer_plates
from ..study.cells import run_study
from ..toolchain import packaged
from ..toolchain.bmodel import INSPECTED, BModel, inspect_bmodel
from ..toolchain.compile import PROFILE, compile_bmodel, top_graph
from ..toolchain.releases import PINNED
from ..toolchain.strategies import Strategy
from .profiles import PROFILES

COMPILED: dict[str, Any] = {**PROFILES["tour"], "TOOLCHAIN": "mlir", "TPU_MLIR": PINNED}
# As in notebook 06.
STUDY = {"CHIPS": "BM1684X", "IMAGES": 240, "STRATEGIES": "mse-20,kl-20", "DRAWS": 2, "FOLDS": 2}
LOOKED_AT = "bm1684x_int8_1b_kl"  # by notebook 03
KEPT = (PROFILE, "calibration_table")


def gather(folder: Path) -> Path:
    """Compile what is to be packaged, and lay it out in an empty folder as it is unpacked."""
    parameters = check(**COMPILED)
    data = datasets_for(parameters)
    sample = data.plates.take(slice(SAMPLE))
    np.savez(folder / packaged.PLATES, images=sample.images, labels=np.array(sample.labels))
    models, traces = [], {}
    for item in compile_all(parameters, data):
        traces[item.traced.form] = item.traced
        models.append(_kept(folder, item.bmodel, item, data, sample))
        if item.id == LOOKED_AT:
            _explain(item, data, folder / models[-1]["folder"])
    named = {(model["chip"], model["precision"], model["form"]) for model in models}
    for form, traced in traces.items():  # layers are held against float's of the same form
        for chip in parameters.chips:
            if (chip, "fp32", form) not in named:
                exact = compile_bmodel(traced, chip, "fp32", release=PINNED)
                models.append(_kept(folder, exact, None, data, sample))
    atomic_write(
        folder / packaged.INDEX, json.dumps(_index(data, models, traces), indent=1, sort_keys=True)
    )
    atomic_write(folder / packaged.STUDY, json.dumps(_study()))
    return folder


def _explain(item: Compiled, data: Data, place: Path) -> None:
    """What notebook 03 finds out in a minute."""
    some = data.plates.take(slice(EXPLAINED))
    found = explained(item.bmodel, item.exact(), some)
    said = {language: within(found, language) for language in LANGUAGES}
    kept = {"plates": some.digest, "said": said}
    atomic_write(place / packaged.EXPLAINED, json.dumps(kept, ensure_ascii=False))


def _study() -> dict[str, Any]:
    parameters = check(**COMPILED | STUDY)
    data = datasets_for(parameters)
    return run_study(plan_of(parameters, data), data.plates, data.weights)


def _index(
    data: Data, models: list[dict[str, Any]], traces: Mapping[str, TracedModel]
) -> dict[str, Any]:
    layers = {form: top_graph(traced, release=PINNED).layers for form, traced in traces.items()}
    return {
        "tpu_mlir": PINNED,
        "weights": data.weights.digest,
        "models": models,
        "layers": layers,
    }


def _kept(
    folder: Path, bmodel: BModel, item: Compiled | None, data: Data, sample: PlateImages
) -> dict[str, Any]:
    """Lay out one model; gives its entry of the index."""
    quantization = item.quantization if item else None
    assert quantization is None or isinstance(quantization, Strategy)  # of TPU-MLIR
    asked = item.strategy if item else None
    name = "_".join(filter(None, (bmodel.chip.lower(), bmodel.precision, bmodel.form, asked)))
    place = folder / name
    (place / "graph").mkdir(parents=True)
    for file in KEPT:
        if (bmodel.folder / file).exists():
            shutil.copy(bmodel.folder / file, place / file)
    # Not compressed: what models have in common is then found by the archive's compression.
    shutil.copy(bmodel.exported / "graph.json", place / "graph" / "graph.json")
    with np.load(bmodel.exported / "graph.npz") as arrays:
        np.savez(place / "graph" / "graph.npz", **arrays)
    found = inspect_bmodel(bmodel.path)
    atomic_write((place / bmodel.path.name).with_suffix(INSPECTED), json.dumps(found, indent=1))
    judged = infer_plates(bmodel, sample, "simulator")
    (place / packaged.SIMULATED).mkdir()
    np.save(place / packaged.SIMULATED / "logits.npy", judged.logits)
    atomic_write(
        place / packaged.SIMULATED / "inputs.json", json.dumps({"engine": judged.description})
    )
    atomic_write(place / packaged.SIMULATED / "seconds.json", "{}")
    path = place / bmodel.path.name
    replace(bmodel, path=path, graph=place / "graph", without_file=True).save(place)
    return {
        "folder": name,
        "chip": bmodel.chip,
        "precision": bmodel.precision,
        "batch": bmodel.batch,
        "form": bmodel.form,
        "asked": asked,
        "strategy": quantization.model_dump(mode="json") if quantization else None,
        "calibration": _calibration(data, quantization),
    }


def _calibration(data: Data, strategy: Strategy | None) -> dict[str, Any] | None:
    if strategy is None:
        return None
    images = data.calibration_images(strategy.images)
    return {"images": len(images), "seed": CALIBRATION_SEED, "digest": array_digest(images)}


def pack(folder: Path, archive: Path) -> Path:
    """Write an archive of a folder, the same bytes for the same contents and library."""

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.mtime = entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        entry.mode = 0o755 if entry.isdir() else 0o644
        return entry

    with (
        lzma.open(archive, "wb", preset=9 | lzma.PRESET_EXTREME) as file,
        tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(folder.iterdir()):
            tar.add(path, path.name, filter=plain)
    return archive


if __name__ == "__main__":
    place = Path(packaged.__file__).with_name(packaged.ARCHIVE)
    with tempfile.TemporaryDirectory(dir=private_folder()) as made:
        pack(gather(Path(made)), place)
    print(f"{place}: {place.stat().st_size:,} bytes", file=sys.stderr)
