"""What notebook 04 shows: exactness, CTC paths step by step, telling plates, stage times."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .. import figures
from ..datasets.alphabet import Alphabet
from ..datasets.fetch import weights_path
from ..datasets.folder import PlateFiles
from ..datasets.images import PlateImages
from ..datasets.margins import Margin, with_margin
from ..decode import best_path, decode, log_softmax
from ..decode.ctc import PAD
from ..decode.top import top
from ..evaluate.accuracy import error_kinds
from ..language import Text, clauses, listed, phrase
from ..measure.badge import Badge, exactness
from ..measure.box import judge_said
from ..measure.data import Data, float_readings
from ..measure.models import Reference, model_label, planned
from ..measure.parameters import NETWORK, Parameters
from ..measure.rows import Measured, expected_pieces, measuring, run_here
from ..model.own import load_own_weights
from ..model.weights import Weights, load_published_weights
from ..proof.exactness import committed_record
from ..runtime.views import read_views
from ..toolchain.bmodel import BModel
from ..work.pieces import Piece

MARGINS = tuple(Margin(x, 2 * x) for x in (-0.05, -0.025, 0.0, 0.025, 0.05, 0.1, 0.15))
MARGIN_PLATES = 50  # read at each margin


def crosschecks(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """What the simulator said of each BModel that another backend ran; a row for each.

    Every plate that a box has run is held against the logits of its kit.
    """
    rows = {}
    for item in measured:
        if isinstance(item.compiled, Reference):
            continue
        check = item.crosscheck
        rows[item.label] = {
            "model": item.label,
            "backend": item.row["backend"],
            "judge": "none" if check is None else check.get("judge", "simulator"),
            "checked images": check["images"] if check else 0,
            "exactness": item.exactness,
            "largest difference": check["max_abs_difference"] if check else None,
        }
    return list(rows.values())


def whole_chip(bmodel: BModel) -> str:
    """The backend nearest to the chip that runs a BModel: its simulator, where its file is."""
    return "emulator" if bmodel.without_file else "simulator"


def record_of(parameters: Parameters) -> Mapping[str, Any] | None:
    """The committed record, see `proof.exactness`; None for another network, which it is not of."""
    return committed_record() if parameters.network == NETWORK else None


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
                _exactness(row),
            )
            rows.setdefault(alike, []).append(row["chip"])
    return [
        {
            "judge": judge,
            "model": model,
            "batch": batch,
            "mean over": mean,
            "images": images,
            "exactness": found,
            "chips": ", ".join(chips),
        }
        for (judge, model, batch, mean, images, found), chips in rows.items()
    ]


def _exactness(row: Mapping[str, Any]) -> Badge | None:
    """The badge of a row of the record, which counts the plates that read the same."""
    unlike = row["images"] - row["same_greedy"]
    return exactness({**row, "same_readings": not unlike, "read_otherwise": unlike})


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
) -> dict[str, int | None]:
    """Numbers of telling plates, None where there is none.

    Returns
    -------
    dict
        ``"repeat"``: read right by the first decoder, with a character that occurs twice in a row.
        ``"mended"``: the first decoder is wrong and the last right. ``"spoiled"``: the other way
        round. ``"lost"``: both are wrong.
    """
    first, last = (
        np.array([a == b for a, b in zip(labels, decode(logits, alphabet, name).texts)])
        for name in (decoders[0], decoders[-1])
    )
    repeat = np.array([any(a == b for a, b in itertools.pairwise(label)) for label in labels])
    masks = {
        "repeat": repeat & first,
        "mended": ~first & last,
        "spoiled": first & ~last,
        "lost": ~first & ~last,
    }
    return {kind: int(mask.argmax()) if mask.any() else None for kind, mask in masks.items()}


# Where no plate of a kind is among those read, it is said in its place.
KINDS = ("mended", "spoiled", "lost")


def kind_said(kind: str) -> Text:
    """A telling plate of `cases` in words."""
    return {
        "mended": phrase("a plate that the first decoder misreads and the last one reads"),
        "spoiled": phrase("a plate that the first decoder reads and the last one misreads"),
        "lost": phrase("a plate that both misread"),
    }[kind]


def case_figure(
    kind: str,
    number: int,
    plates: PlateImages,
    logits: np.ndarray,
    alphabet: Alphabet,
    walk: Callable[[int], dict[str, np.ndarray]],
) -> Figure:
    """The paths of two decoders through the logits of a telling plate."""
    return figures.ctc_paths(
        plates.images[number],
        log_softmax(logits[number][None])[0],
        alphabet,
        walk(number),
        title=f"{kind}: the label is {plates.known_labels[number]}",
    )


def missing_cases(found: Mapping[str, int | None], images: int) -> str:
    """Which kinds of telling plates there are none of."""
    none = [kind_said(kind) for kind in KINDS if found[kind] is None]
    if not none:
        return ""
    return phrase(
        "Among these {images} plates there is none of: {kinds}.", images=images, kinds=clauses(none)
    )


def certainty(logits: np.ndarray, alphabet: Alphabet, decoder: str, count: int = 5) -> list[tuple]:
    """``(number, text, runner-up, margin)`` of the plates that a decoder was least sure of."""
    read = decode(logits, alphabet, decoder)
    return [
        (int(k), read.texts[k], read.runner_up[k], round(float(read.margin[k]), 2))
        for k in read.margin.argsort()[:count]
    ]


def text_of(data: Data, logits: np.ndarray) -> str:
    """What is read of the first image: its text, or the likeliest class of each position."""
    read = decode if data.weights.of.interface.kind == "ctc" else top
    return read(logits[:1], data.weights.alphabet).texts[0]


def label_of(plates: PlateImages, number: int) -> Text | str:
    """Label of an image, or that there is none."""
    return phrase("none") if plates.labels is None else plates.labels[number]


def greedy_readings(measured: Sequence[Measured], decoder: str) -> Measured:
    """The last model's readings by a decoder: the one that the notebook looks into."""
    return next(m for m in reversed(run_here(measured)) if m.row["decoder"] == decoder)


def crosschecks_said(rows: Sequence[Mapping[str, Any]]) -> Text:
    """What `crosschecks` shows."""
    checked = [row for row in rows if row["checked images"]]
    if not checked:
        return phrase("this run's backend is the simulator, and was not compared with itself.")
    alike: dict[tuple[str, str], list[str]] = {}
    for row in checked:
        alike.setdefault((row["judge"], row["exactness"]), []).append(row["model"])
    said = [
        phrase(
            "{models} beside the {judge}: {exactness}",
            models=listed(models),
            judge=judge_said(judge),
            exactness=found,
        )
        for (judge, found), models in alike.items()
    ]
    return phrase("{parts}.", parts=clauses(said))


def errors_said(rows: Sequence[Mapping[str, Any]]) -> Text:
    """How the errors of each decoder are made up, over all models."""
    said = []
    for decoder in dict.fromkeys(row["decoder"] for row in rows):
        here = [row for row in rows if row["decoder"] == decoder]
        total = {key: sum(row[key] for row in here) for key in ("short", "long", "substituted")}
        parts = [
            phrase("{count} too short", count=total["short"]),
            phrase("{count} too long", count=total["long"]),
            phrase("{count} of the right length", count=total["substituted"]),
        ]
        said.append(phrase("{decoder}: {parts}", decoder=decoder, parts=listed(parts)))
    return phrase("{parts}, all models together.", parts=clauses(said))


def times_said(rows: Sequence[Mapping[str, Any]]) -> Text:
    """What reading a file costs beside decoding its logits, in the middle of the models."""
    before, after = (
        float(np.median([row[stage] for row in rows if row[stage] is not None] or [0]))
        for stage in ("decode", "postprocess")
    )
    return phrase(
        "reading an image file takes {before:.2g} ms here, decoding its logits {after:.2g} ms (the "
        "middle of the models).",
        before=before,
        after=after,
    )


def step_table(logits: np.ndarray, alphabet: Alphabet) -> list[dict[str, Any]]:
    """Greedy decoding of one plate ``[C, T]``, step by step."""
    probs = np.exp(log_softmax(logits[None])[0])
    order = np.argsort(-probs, axis=0)
    rows, before = [], None
    for step in range(logits.shape[1]):
        best, second = (int(k) for k in order[:2, step])
        if best == alphabet.blank:
            does = phrase("blank: dropped")
        elif best == before:
            does = phrase("repeat: merged")
        else:
            does = phrase("writes {character}", character=alphabet.characters[best])
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
            "model": item.label,
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
    for item in run_here(measured):
        model = item.compiled
        if isinstance(model, Reference) or (item.row["decoder"], item.row["batch"]) != (
            decoder,
            batch,
        ):
            continue
        three = read_views(model.bmodel, plates, decoder, item.row["backend"])
        right = sum(a == b for a, b in zip(plates.known_labels, three.texts))
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


def margin_rows(data: Data) -> list[dict[str, Any]]:
    """The first plates at several margins, read in float by these weights and by others at hand.

    Greedy readings; without labels the confidence alone. Of a network without CTC nothing.
    """
    if data.weights.of.interface.kind != "ctc":
        return []
    count = min(MARGIN_PLATES, len(data.judged))
    plates, labels = data.judged.take(range(count)), (data.plates.labels or ())[:count]
    rows = []
    for weights in (data.weights, *_other_weights(data.weights)):
        if not all(weights.alphabet.writes(text) for text in labels):
            continue
        for margin in MARGINS:
            rows.append({"weights": weights.name, **_at_margin(weights, plates, margin)})
    return rows


def _other_weights(weights: Weights) -> list[Weights]:
    """The packaged weights beside others; beside those the published ones, where they are."""
    if weights.of.onnx:
        return []
    if weights.name != "generated":
        return [load_own_weights()]
    return [load_published_weights()] if weights_path().exists() else []


def _at_margin(
    weights: Weights, plates: PlateImages | PlateFiles, margin: Margin
) -> dict[str, Any]:
    cut = with_margin(plates, margin)
    read = float_readings(weights, cut)
    right = [a == b for a, b in zip(read.texts, cut.labels)] if cut.labels else None
    return {
        "margin, %": str(margin),
        "exact match": None if right is None else float(np.mean(right)),
        "mean confidence": float(read.confidence.mean()),
    }


def margins_said(rows: Sequence[Mapping[str, Any]]) -> Text:
    """Where each set of weights is surest, and where it reads best."""
    said = []
    for name in dict.fromkeys(row["weights"] for row in rows):
        here = [row for row in rows if row["weights"] == name]
        surest = max(here, key=lambda row: row["mean confidence"])
        if surest["exact match"] is None:
            said.append(phrase("{name}: surest at {margin}", name=name, margin=surest["margin, %"]))
            continue
        best = max(row["exact match"] for row in here)
        said.append(
            phrase(
                "{name}: surest at {margin}, where it reads {there:.2f} right; at best {best:.2f}",
                name=name,
                margin=surest["margin, %"],
                there=surest["exact match"],
                best=best,
            )
        )
    return phrase("{said}.", said=clauses(said))


def time_rows(measured: Sequence[Measured], decoder: str) -> list[dict[str, Any]]:
    """Milliseconds an image by stage, for one decoder; a box's own where it has run a model."""
    return [
        {
            "label": item.label
            if isinstance(item.compiled, Reference) or item.box
            else f"{item.label} ({item.row['backend']})",
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
    boxes = expected_pieces(parameters, data, models)
    return [item.model for item in models] + [p for trial in trials for p in trial.pieces] + boxes
