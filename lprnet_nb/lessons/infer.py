"""What notebook 04 shows: exactness, CTC paths step by step, telling plates, stage times."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..datasets.alphabet import Alphabet
from ..datasets.images import PlateImages
from ..decode import best_path, decode, log_softmax
from ..decode.ctc import PAD
from ..evaluate.accuracy import error_kinds
from ..measure.data import Data
from ..measure.models import Reference, model_label, planned
from ..measure.parameters import Parameters
from ..measure.rows import Measured, measuring
from ..runtime.views import read_views
from ..work.pieces import Piece


def crosschecks(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """What the simulator said of each BModel that another backend ran; one row per model."""
    rows = {}
    for item in measured:
        if isinstance(item.compiled, Reference):
            continue
        check = item.crosscheck
        rows[item.compiled.id] = {
            "model": model_label(item.compiled),
            "backend": item.row["backend"],
            "checked images": check["images"] if check else 0,
            "bit-identical": check["identical"] if check else None,
            "largest difference": check["max_abs_difference"] if check else None,
        }
    return list(rows.values())


def exactness_table(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The emulator's judgements, see `runtime.exactness`: chips of one outcome share a row."""
    rows: dict[tuple, list[str]] = {}
    for row in record["rows"]:
        if "images" in row:
            alike = (
                row["judge"],
                row["name"],
                row["batch"],
                row["batch_mean"],
                row["images"],
                row["identical"],
                f"{row['max_abs_difference']:.2g}",
                row["images"] - row["same_greedy"],
            )
            rows.setdefault(alike, []).append(row["chip"])
    names = (
        "judge",
        "model",
        "batch",
        "mean over",
        "images",
        "bit-identical",
        "largest difference",
        "readings unlike",
    )
    return [dict(zip(names, alike)) | {"chips": ", ".join(chips)} for alike, chips in rows.items()]


def paths(
    logits: np.ndarray, decoders: Sequence[str], alphabet: Alphabet
) -> Callable[[int], dict[str, np.ndarray]]:
    """The path of each decoder through the logits of a plate, as a function of its number.

    Greedy's is the best class of each step; any other's is the best path of the text it chose.
    """
    log_probs = log_softmax(logits)
    found = {name: decode(logits, alphabet, name).texts for name in decoders}

    def of(plate: int) -> dict[str, np.ndarray]:
        shown = {}
        for name, texts in found.items():
            text = texts[plate]
            if name == "greedy":
                path = logits[plate].argmax(axis=0)
            else:
                indices = alphabet.encode(text) if text else np.array([PAD])
                path = best_path(log_probs[plate : plate + 1], indices[None], alphabet.blank)[0]
            shown[f"{name}: {text or '(nothing)'}"] = path
        return shown

    return of


def cases(
    logits: np.ndarray, labels: Sequence[str], decoders: Sequence[str], alphabet: Alphabet
) -> dict[str, int]:
    """Numbers of three telling plates.

    Returns
    -------
    dict
        ``"repeat"``: read right, with a character that occurs twice in a row. ``"mended"``: the
        first decoder is wrong and the last right. ``"unmended"``: the last is wrong, if possible
        where the first is right. 0 where there is no such plate.
    """
    first, last = (
        np.array([a == b for a, b in zip(labels, decode(logits, alphabet, name).texts)])
        for name in (decoders[0], decoders[-1])
    )
    mended, spoiled, lost = ~first & last, first & ~last, ~first & ~last
    unmended = spoiled if spoiled.any() else lost
    repeat = np.array([any(a == b for a, b in pairwise(label)) for label in labels])
    return {
        "repeat": int((repeat & first).argmax()),
        "mended": int(mended.argmax()),
        "unmended": int(unmended.argmax()),
    }


def step_table(logits: np.ndarray, alphabet: Alphabet) -> list[dict[str, Any]]:
    """Greedy decoding of one plate ``[C, T]``, step by step."""
    probs = np.exp(log_softmax(logits[None])[0])
    order = np.argsort(-probs, axis=0)
    rows, before = [], None
    for step in range(logits.shape[1]):
        best, second = (int(k) for k in order[:2, step])
        if best == alphabet.blank:
            does = "blank: dropped"
        elif best == before:
            does = "repeat: merged"
        else:
            does = f"writes {alphabet.characters[best]}"
        rows.append(
            {
                "step": step,
                "best": _name(best, alphabet),
                "probability": float(probs[best, step]),
                "second": _name(second, alphabet),
                "its probability": float(probs[second, step]),
                "greedy": does,
            }
        )
        before = best
    return rows


def _name(index: int, alphabet: Alphabet) -> str:
    return "blank" if index == alphabet.blank else alphabet.characters[index]


def error_table(measured: Sequence[Measured], labels: Sequence[str]) -> list[dict[str, Any]]:
    """How the wrong plates are wrong, by model and decoder."""
    return [
        {
            "model": model_label(item.compiled),
            "decoder": item.row["decoder"],
            "wrong": int((~item.correct).sum()),
            **error_kinds(labels, item.readings.texts),
        }
        for item in measured
    ]


def view_rows(
    measured: Sequence[Measured], plates: PlateImages, decoder: str
) -> list[dict[str, Any]]:
    """One reading beside three of each BModel of the smallest batch, for `figures.forest`."""
    batch = min(item.row["batch"] for item in measured)
    rows = []
    for item in measured:
        model = item.compiled
        if isinstance(model, Reference) or (item.row["decoder"], item.row["batch"]) != (
            decoder,
            batch,
        ):
            continue
        three = read_views(model.bmodel, plates, decoder, item.row["backend"])
        right = sum(a == b for a, b in zip(plates.labels, three.texts))
        rows += [
            {
                "label": f"{model_label(item.compiled)} · {name}",
                "images": len(plates),
                "precision": item.row["precision"],
                "right": int(count),
            }
            for name, count in (("one look", item.correct.sum()), ("three looks", right))
        ]
    return rows


def time_rows(measured: Sequence[Measured], decoder: str) -> list[dict[str, Any]]:
    """Milliseconds an image by stage, for one decoder."""
    return [
        {
            "label": model_label(item.compiled)
            if isinstance(item.compiled, Reference)
            else f"{model_label(item.compiled)} ({item.row['backend']})",
            **{
                stage: item.milliseconds.get(stage)
                for stage in ("decode", "preprocess", "inference", "postprocess")
            },
        }
        for item in measured
        if item.row["decoder"] == decoder
    ]


def pieces(parameters: Parameters, data: Data) -> list[Piece]:
    """The long work of this notebook, as of notebook 05: its BModels, measured."""
    models = planned(parameters, data)
    trials = measuring(parameters, data, models)
    return [item.model for item in models] + [p for trial in trials for p in trial.pieces]
