"""What notebook 02 shows: inside a BModel, its predicted run, and a proof on the simulator."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..datasets.images import PlateImages
from ..decode import decode
from ..decode.top import top
from ..evaluate.fidelity import cosine
from ..evaluate.published import LATEST, published_latency
from ..language import Text, clauses, listed, phrase, sentences
from ..measure.box import BoxRun
from ..measure.data import Data
from ..measure.models import Compiled, Planned, model_label, planned
from ..measure.parameters import Parameters, combinations
from ..measure.rows import boxes_of
from ..model.trace import TracedModel
from ..toolchain.bmodel import NETWORK, inspect_bmodel
from ..toolchain.compile import top_graph
from ..toolchain.environment import compiler
from ..toolchain.layers import grouped
from ..toolchain.packaged import TOOLCHAIN as PACKAGED
from ..toolchain.packaged import packaged_index, packaged_layers, simulated_plates
from ..toolchain.profile import COMPUTE, MEMORY, Profile, read_profile
from ..work import scheduler
from ..work.pieces import Piece, Run, model_run, packaged_run

PROOF_IMAGES = 4  # of each BModel on the simulator, which takes half a second for each


def opening(parameters: Parameters) -> Text:
    """Which tools work here, and how much there is to compile."""
    if parameters.toolchain == PACKAGED:
        return phrase(
            "graphs by tpu_mlir {version}, packaged: {count} models",
            version=packaged_index()["tpu_mlir"],
            count=len(combinations(parameters)),
        )
    version = compiler().version
    return phrase(
        "graphs by tpu_mlir {version} | BModels by {toolchain} | to compile: {count}",
        version=", ".join(parameters.tpu_mlir) or version,
        toolchain=parameters.toolchain,
        count=len(combinations(parameters)),
    )


def latency_rows(
    parameters: Parameters, data: Data, compiled: Sequence[Compiled]
) -> list[dict[str, Any]]:
    """`latency_row` of each model, with what boxes have measured of it."""
    boxes = boxes_of(parameters, data, compiled)
    return [latency_row(item, boxes.get(item.id)) for item in compiled]


def latency_row(item: Compiled, box: BoxRun | None = None) -> dict[str, Any]:
    """Predicted latency an image, the vendor's measured one where published, and a box's."""
    bmodel = item.bmodel
    known = [
        row
        for row in published_latency(bmodel.chip, bmodel.precision, cores=bmodel.cores)
        if row.batch == bmodel.batch and row.source == LATEST and bmodel.network == NETWORK
    ]
    predicted = bmodel.predicted_latency_ms
    measured, by = box.call if box else (None, None)
    return {
        "label": model_label(item),
        "precision": bmodel.precision,
        "predicted_ms": predicted / bmodel.batch if predicted else None,
        "published_ms": known[0].bmrt_test_ms_per_image if known else None,
        **({"measured_ms": measured, "measured_by": by} if box else {}),
    }


def profiles(compiled: Sequence[Compiled]) -> dict[str, Profile]:
    """The compiler's predicted runs, by label; models without one are left out."""
    found = {model_label(item): read_profile(item.bmodel.folder) for item in compiled}
    return {label: profile for label, profile in found.items() if profile}


def contents(compiled: Sequence[Compiled]) -> list[dict[str, Any]]:
    """Size of each BModel and its device memory by use, as `model_tool` says, in bytes."""
    rows = []
    for item in compiled:
        facts = inspect_bmodel(item.bmodel.path)
        found = re.search(
            r"device mem size: \d+ \(weight: (\d+), instruct: (\d+), runtime: (\d+)\)",
            facts["text"],
        )
        weight, instruct, runtime = map(int, found.groups()) if found else (0, 0, 0)
        rows.append(
            {
                "label": model_label(item),
                "file": facts["file_size"],
                "weight": weight,
                "instruct": instruct,
                "runtime": runtime,
            }
        )
    return rows


def layer_table(traced: TracedModel, toolchain: str) -> list[dict[str, Any]]:
    """Layers of the compiler's top-level graph by role: how many of which operations, and sizes."""
    packaged = toolchain == PACKAGED
    layers = packaged_layers(traced.form) if packaged else top_graph(traced).layers
    by_name = {layer["name"]: layer for layer in layers}
    rows = []
    for role, names in grouped(layers, traced.network).items():
        kinds = [by_name[name]["op"].removeprefix("top.") for name in names]
        shape = by_name[names[-1]]["shape"]
        rows.append(
            {
                "role": role,
                "layers": ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)),
                "output": "×".join(map(str, shape[1:])),
            }
        )
    return rows


def proof_on_simulator(compiled: Sequence[Compiled], plates: PlateImages) -> list[dict[str, Any]]:
    """Every BModel on the chip simulator against its float network, image by image."""
    rows = []
    pairs = proof_runs([item.planned for item in compiled], plates)
    done = scheduler.make(
        [p for pair in pairs for run in pair for p in run.shards], phrase("proof")
    )
    for item, pair in zip(compiled, pairs):
        reference, logits = (run.read(done).logits for run in pair)
        read = decode if item.bmodel.interface.kind == "ctc" else top
        texts = read(logits, item.traced.alphabet).texts
        same = [a == b for a, b in zip(read(reference, item.traced.alphabet).texts, texts)]
        rows.append(
            {
                "model": model_label(item),
                "images": len(same),
                "same text as float": sum(same),
                "largest difference": float(np.abs(logits - reference).max()),
                "cosine": cosine(reference, logits),
            }
        )
    return rows


def content_rows(facts: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`contents` for reading, in kB."""
    return [
        {
            "model": f["label"],
            "file kB": f["file"] // 1000,
            "weights kB": f["weight"] // 1000,
            "instructions kB": f["instruct"] // 1000,
            "working memory kB": f["runtime"] // 1000,
        }
        for f in facts
    ]


def contents_said(compiled: Sequence[Compiled], facts: Sequence[Mapping[str, Any]]) -> Text:
    """What `contents` shows of INT8's weights, and of what is neither weight nor instruction."""
    weights = {
        (m.bmodel.chip, m.bmodel.precision, m.bmodel.batch): f["weight"]
        for m, f in zip(compiled, facts)
    }
    shares = [
        100 * size / weights[chip, "fp32", batch]
        for (chip, precision, batch), size in weights.items()
        if precision == "int8" and weights.get((chip, "fp32", batch))
    ]
    other = max(facts, key=lambda f: f["file"] - f["weight"] - f["instruct"])
    rest = 1 - (other["weight"] + other["instruct"]) / other["file"]
    left = phrase(
        "{rest:.0%} of the file of {model} is neither weight nor instruction.",
        rest=rest,
        model=other["label"],
    )
    if not shares:
        return left
    weights_said = phrase("INT8 weights take {span} % of FP32's, not 25.", span=_span(shares))
    return sentences(weights_said, left)


def memory_said(facts: Sequence[Mapping[str, Any]]) -> Text:
    """What share of the device's memory is working space."""
    shares = [100 * f["runtime"] / (f["weight"] + f["instruct"] + f["runtime"]) for f in facts]
    return phrase(
        "{span} % of the memory is working space (runtime) for feature maps.", span=_span(shares)
    )


def latency_said(rows: Sequence[Mapping[str, Any]]) -> Text:
    """How far predicted and measured times lie apart."""
    here = [r for r in rows if r.get("measured_ms")]
    both = [r for r in rows if r["predicted_ms"] and r["published_ms"]]
    none = [r["label"] for r in rows if not r["predicted_ms"]]
    said = _pace_said(rows)
    if both:
        times = [r["published_ms"] / r["predicted_ms"] for r in both]
        said.append(
            phrase("measured times are {span} times the predicted ones.", span=_span(times, 1))
        )
    if here:
        said.append(_here_said(here))
    if none:
        said.append(phrase("The compiler predicts nothing for {models}.", models=listed(none)))
    return sentences(*said) or phrase("no measured time was published for these models.")


def latency_caption(rows: Sequence[Mapping[str, Any]]) -> Text:
    """Where the times of `latency_rows` are from: what no row has is not named."""
    by = [
        place
        for place, column in (
            (phrase("on the vendor's boards (sophon-demo, 2024-10)"), "published_ms"),
            (phrase("on a box of yours"), "measured_ms"),
        )
        if any(row.get(column) for row in rows)
    ]
    if not by:
        return phrase("Predicted by the compiler.")
    return phrase("Predicted by the compiler, and measured: {places}.", places=clauses(by))


def _pace_said(rows: Sequence[Mapping[str, Any]]) -> list[Text]:
    """How much faster INT8 is predicted to be than FP32 on the same chip."""
    times: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row["predicted_ms"]:
            times.setdefault((row["label"].split()[0], row["precision"]), []).append(
                row["predicted_ms"]
            )
    paces = [
        slow / fast
        for (chip, precision), found in times.items()
        if precision == "int8"
        for fast in found
        for slow in times.get((chip, "fp32"), [])
    ]
    if not paces:
        return []
    return [phrase("by prediction, INT8 is {span} times as fast as FP32.", span=_span(paces, 1))]


def _here_said(rows: Sequence[Mapping[str, Any]]) -> Text:
    """How far a box's times lie from predicted and published ones."""
    parts = []
    for other in ("predicted", "published"):
        times = [r["measured_ms"] / r[f"{other}_ms"] for r in rows if r[f"{other}_ms"]]
        if times:
            parts.append(
                phrase(
                    "{span} times the predicted ones"
                    if other == "predicted"
                    else "{span} times the published ones",
                    span=_span(times, 1),
                )
            )
    count = phrase(
        "{count} models were measured on a box"
        if len(rows) != 1
        else "{count} model was measured on a box",
        count=len(rows),
    )
    if not parts:
        return phrase("{parts}.", parts=count)
    return phrase("{count}: {parts}.", count=count, parts=listed(parts))


def _span(values: Sequence[float], digits: int = 0) -> str:
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return low if low == high else phrase("{low} to {high}", low=low, high=high)


def unit_rows(found: Mapping[str, Profile]) -> list[dict[str, Any]]:
    """Share of the call in which each unit works, and both do, by model."""
    return [
        {"model": name, "µs": 1000 * q.milliseconds, **{k: f"{v:.0%}" for k, v in q.busy().items()}}
        for name, q in found.items()
    ]


def fastest(found: Mapping[str, Profile]) -> tuple[str, Profile]:
    """The model whose call is the shortest, by label."""
    return min(found.items(), key=lambda item: item[1].milliseconds)


def units_said(found: Mapping[str, Profile]) -> Text:
    """Which unit each model waits for."""
    said = []
    for name, profile in found.items():
        share = profile.busy()
        busier = max((COMPUTE, MEMORY), key=share.__getitem__)
        said.append(
            phrase(
                "{model}: the {unit} unit is the busier one and works {share:.0%} of the call, "
                "both work at once {both:.0%} of it.",
                model=name,
                unit=busier,
                share=share[busier],
                both=share["both"],
            )
        )
    return sentences(*said)


def proof_said(rows: Sequence[Mapping[str, Any]]) -> Text:
    """What `proof_on_simulator` shows."""
    worst = max(rows, key=lambda row: row["largest difference"])
    unlike = sum(row["images"] - row["same text as float"] for row in rows)
    total = sum(row["images"] for row in rows)
    return phrase(
        "{same} of {total} readings are float's own; logits differ most in {model}, by {far:.2g}.",
        same=total - unlike,
        total=total,
        model=worst["model"],
        far=worst["largest difference"],
    )


def proof_runs(models: Sequence[Planned], plates: PlateImages) -> list[tuple[Run, Run]]:
    """What `proof_on_simulator` compares: each float network, and its BModel."""
    return [_proof(item, plates) for item in models]


def _proof(item: Planned, plates: PlateImages) -> tuple[Run, Run]:
    if item.judged:
        plates = simulated_plates()
        on_chip = packaged_run(item.id, item.model, item.judged)
    else:
        on_chip = model_run(item.id, item.model, plates, "simulator", item.batch)
    exact = model_run(f"{item.id}_float", item.trace, plates, item.float_backend, item.batch)
    return exact, on_chip


def pieces(parameters: Parameters, data: Data) -> list[Piece]:
    """The long work of this notebook: its BModels, and the proof of each."""
    models = planned(parameters, data)
    pairs = proof_runs(models, data.plates.take(slice(PROOF_IMAGES)))
    return [item.model for item in models] + [
        p for pair in pairs for run in pair for p in run.shards
    ]
