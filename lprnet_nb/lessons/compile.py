"""What notebook 02 shows: inside a BModel, its predicted run, and a proof on the simulator."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..datasets.images import PlateImages
from ..decode import decode
from ..evaluate.fidelity import cosine
from ..evaluate.published import LATEST, published_latency
from ..measure.data import Data
from ..measure.models import Compiled, Planned, model_label, planned
from ..measure.parameters import Parameters
from ..model.trace import TracedModel
from ..toolchain.bmodel import inspect_bmodel
from ..toolchain.compile import top_graph
from ..toolchain.layers import roles_of_layers
from ..toolchain.profile import Profile, read_profile
from ..work import scheduler
from ..work.pieces import Piece, Run, model_run

PROOF_IMAGES = 4  # of each BModel on the simulator, which takes half a second for each


def latency_rows(compiled: Sequence[Compiled]) -> list[dict[str, Any]]:
    """Predicted latency an image of each model, and the vendor's measured one where published."""
    rows = []
    for item in compiled:
        bmodel = item.bmodel
        known = [
            row
            for row in published_latency(bmodel.chip, bmodel.precision)
            if row.batch == bmodel.batch and row.source == LATEST
        ]
        predicted = bmodel.predicted_latency_ms
        rows.append(
            {
                "label": model_label(item),
                "precision": bmodel.precision,
                "predicted_ms": predicted / bmodel.batch if predicted else None,
                "published_ms": known[0].bmrt_test_ms_per_image if known else None,
            }
        )
    return rows


def profiles(compiled: Sequence[Compiled]) -> dict[str, Profile]:
    """The compiler's predicted runs, by label; models without one are left out."""
    found = {model_label(item): read_profile(item.bmodel.folder) for item in compiled}
    return {label: profile for label, profile in found.items() if profile}


def contents(compiled: Sequence[Compiled]) -> list[dict[str, Any]]:
    """Size of each BModel and its device memory by use, as `model_tool` says, in bytes."""
    rows = []
    for item in compiled:
        text = inspect_bmodel(item.bmodel.path)["text"]
        found = re.search(
            r"device mem size: \d+ \(weight: (\d+), instruct: (\d+), runtime: (\d+)\)", text
        )
        weight, instruct, runtime = map(int, found.groups()) if found else (0, 0, 0)
        rows.append(
            {
                "label": model_label(item),
                "file": item.bmodel.path.stat().st_size,
                "weight": weight,
                "instruct": instruct,
                "runtime": runtime,
            }
        )
    return rows


def layer_table(traced: TracedModel) -> list[dict[str, Any]]:
    """Layers of the compiler's top-level graph by role: how many of which operations, and sizes."""
    graph = top_graph(traced)
    by_name = {layer["name"]: layer for layer in graph.layers}
    rows = []
    for role, names in roles_of_layers(graph.layers).items():
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
    done = scheduler.make([p for pair in pairs for run in pair for p in run.shards], "proof")
    for item, pair in zip(compiled, pairs):
        reference, logits = (run.read(done).logits for run in pair)
        texts = decode(logits, item.traced.alphabet).texts
        same = [a == b for a, b in zip(decode(reference, item.traced.alphabet).texts, texts)]
        rows.append(
            {
                "model": model_label(item),
                "images": len(plates),
                "same text as float": sum(same),
                "largest difference": float(np.abs(logits - reference).max()),
                "cosine": cosine(reference, logits),
            }
        )
    return rows


def proof_runs(models: Sequence[Planned], plates: PlateImages) -> list[tuple[Run, Run]]:
    """What `proof_on_simulator` compares: each float network on torch, and its BModel."""
    return [
        (
            model_run(f"{item.id}_float", item.trace, plates, "torch", item.batch),
            model_run(item.id, item.model, plates, "simulator", item.batch),
        )
        for item in models
    ]


def pieces(parameters: Parameters, data: Data) -> list[Piece]:
    """The long work of this notebook: its BModels, and the proof of each."""
    models = planned(parameters, data)
    pairs = proof_runs(models, data.plates.take(slice(PROOF_IMAGES)))
    return [item.model for item in models] + [
        p for pair in pairs for run in pair for p in run.shards
    ]
