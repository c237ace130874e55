"""What notebooks 04 and 05 show: decoding step by step, and models compared plate by plate."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.alphabet import Alphabet
from ..datasets.images import PlateImages
from ..decode import Readings, best_path, decode, log_softmax, packaged_grammars
from ..decode.ctc import PAD
from ..decode.views import decode_views, stretched
from ..errors import ParameterError
from ..evaluate.accuracy import Confusion, confusion, error_kinds
from ..evaluate.calibration import (Coverage, Reliability, accuracy_coverage, log_loss,
                                    reliability)
from ..evaluate.fidelity import cosine
from ..evaluate.paired import holm, mcnemar_exact
from ..evaluate.published import published_accuracy
from ..runtime.inference import infer_plates
from .lessons import model_label
from .measure import Data, Measured

BINS = 5
PUBLISHED_IMAGES = 1000  # size of the set that published figures are about


def crosschecks(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """What the simulator said of each BModel that another backend ran; one row per model."""
    rows = {}
    for item in measured:
        if item.compiled.bmodel is None:
            continue
        check = item.crosscheck
        rows[item.compiled.id] = {
            "model": model_label(item.compiled), "backend": item.row["backend"],
            "checked images": check["images"] if check else 0,
            "bit-identical": check["identical"] if check else None,
            "largest difference": check["max_abs_difference"] if check else None}
    return list(rows.values())


def exactness_table(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The emulator's judgements, see `runtime.exactness`: chips of one outcome share a row."""
    rows: dict[tuple, list[str]] = {}
    for row in record["rows"]:
        if "images" in row:
            alike = (row["judge"], row["name"], row["batch"], row["batch_mean"], row["images"],
                     row["identical"], f"{row['max_abs_difference']:.2g}",
                     row["images"] - row["same_greedy"])
            rows.setdefault(alike, []).append(row["chip"])
    names = ("judge", "model", "batch", "mean over", "images", "bit-identical",
             "largest difference", "readings unlike")
    return [dict(zip(names, alike)) | {"chips": ", ".join(chips)} for alike, chips in rows.items()]


def paths(logits: np.ndarray, decoders: Sequence[str], alphabet: Alphabet
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
                path = best_path(log_probs[plate:plate + 1], indices[None], alphabet.blank)[0]
            shown[f"{name}: {text or '(nothing)'}"] = path
        return shown

    return of


def cases(logits: np.ndarray, labels: Sequence[str], decoders: Sequence[str], alphabet: Alphabet
          ) -> dict[str, int]:
    """Numbers of three telling plates.

    Returns
    -------
    dict
        ``"repeat"``: read right, with a character that occurs twice in a row. ``"mended"``: the
        first decoder is wrong and the last right. ``"unmended"``: the last is wrong, if possible
        where the first is right. 0 where there is no such plate.
    """
    first, last = (np.array([a == b for a, b in zip(labels, decode(logits, alphabet, name).texts)])
                   for name in (decoders[0], decoders[-1]))
    mended, spoiled, lost = ~first & last, first & ~last, ~first & ~last
    unmended = spoiled if spoiled.any() else lost
    repeat = np.array([any(a == b for a, b in zip(label, label[1:])) for label in labels])
    return {"repeat": int((repeat & first).argmax()), "mended": int(mended.argmax()), "unmended": int(unmended.argmax())}


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
        rows.append({"step": step, "best": _name(best, alphabet), "probability": float(probs[best, step]),
                     "second": _name(second, alphabet),
                     "its probability": float(probs[second, step]), "greedy": does})
        before = best
    return rows


def _name(index: int, alphabet: Alphabet) -> str:
    return "blank" if index == alphabet.blank else alphabet.characters[index]


def accuracy_rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Plates read right by model and decoder, as `figures.forest` takes them.

    Published figures stand beside greedy readings of all published images.
    """
    decoders = {item.row["decoder"] for item in measured}
    rows = []
    for item in measured:
        label = model_label(item.compiled)
        rows.append({"label": f"{label} · {item.row['decoder']}" if len(decoders) > 1 else label,
                     "precision": item.row["precision"], "right": int(item.correct.sum()),
                     "images": len(item.correct), "published": _published(item)})
    return rows


def _published(item: Measured) -> float | None:
    bmodel = item.compiled.bmodel
    if bmodel is None or item.row["decoder"] != "greedy" or bmodel.weights != "published" \
            or item.row["images"] != PUBLISHED_IMAGES:
        return None
    for row in published_accuracy(bmodel.chip, bmodel.precision):
        if row.source.endswith("2024-10") and row.batch == bmodel.batch:
            return row.exact_match
    return None


def metric_rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """The columns of ``metrics.json`` that a reader compares."""
    return [{"model": model_label(item.compiled), "decoder": item.row["decoder"],
             "exact match": item.row["exact_match"],
             "95 % interval": "{:.3f} to {:.3f}".format(*item.row["ci95"]),
             "characters": item.row["character_accuracy"],
             "same as float": item.row["agreement_with_float"],
             "McNemar p": item.row["mcnemar_p"], "cosine": item.row["logits_cosine"],
             "SQNR dB": item.row["logits_sqnr_db"],
             "predicted ms": item.row["predicted_latency_ms"]} for item in measured]


def published_rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """What others published for the same chips, precisions and batches."""
    keys = {(item.compiled.bmodel.chip, item.compiled.bmodel.precision, item.compiled.bmodel.batch)
            for item in measured if item.compiled.bmodel}
    return [{"source": row.source, "program": row.program, "chip": row.chip,
             "precision": row.model, "batch": row.batch, "exact match": row.exact_match,
             "note": row.note} for row in published_accuracy()
            if (row.chip, row.model, row.batch) in keys]


def error_table(measured: Sequence[Measured], labels: Sequence[str]) -> list[dict[str, Any]]:
    """How the wrong plates are wrong, by model and decoder."""
    return [{"model": model_label(item.compiled), "decoder": item.row["decoder"],
             "wrong": int((~item.correct).sum()), **error_kinds(labels, item.readings.texts)}
            for item in measured]


def read_views(model: Any, plates: PlateImages, decoder: str | Path, backend: str = "auto",
               **options: Any) -> Readings:
    """Read each plate three times, as it is and stretched to either side, as one reading.

    Parameters
    ----------
    model, backend, options
        As `infer_plates` takes them; every view is an inference of its own.
    plates
        The images.
    decoder
        A grammar, packaged or of one's own: see `decode.views.decode_views`.

    Raises
    ------
    ParameterError
        For a decoder without a grammar.
    """
    if decoder in ("greedy", "beam"):
        raise ParameterError(f"views are read with a grammar, which {decoder!r} has not. Choose "
                             f"{', '.join(packaged_grammars())} or the path of a grammar file.")
    logits = [infer_plates(model, replace(plates, images=view), backend, **options).logits
              for view in stretched(plates.images)]
    return decode_views(np.stack(logits), model.alphabet, decoder)


def view_rows(measured: Sequence[Measured], plates: PlateImages, decoder: str
              ) -> list[dict[str, Any]]:
    """One reading beside three of each BModel of the smallest batch, for `figures.forest`."""
    batch = min(item.row["batch"] for item in measured)
    rows = []
    for item in measured:
        bmodel = item.compiled.bmodel
        if bmodel is None or (item.row["decoder"], item.row["batch"]) != (decoder, batch):
            continue
        three = read_views(bmodel, plates, decoder, item.row["backend"])
        right = sum(a == b for a, b in zip(plates.labels, three.texts))
        rows += [{"label": f"{model_label(item.compiled)} · {name}", "images": len(plates),
                  "precision": item.row["precision"], "right": int(count)}
                 for name, count in (("one look", item.correct.sum()), ("three looks", right))]
    return rows


def time_rows(measured: Sequence[Measured], decoder: str) -> list[dict[str, Any]]:
    """Milliseconds an image by stage, for one decoder."""
    return [{"label": f"{model_label(item.compiled)} ({item.row['backend']})"
             if item.compiled.bmodel else model_label(item.compiled),
             **{stage: item.milliseconds.get(stage)
                for stage in ("decode", "preprocess", "inference", "postprocess")}}
            for item in measured if item.row["decoder"] == decoder]


def of_decoder(measured: Sequence[Measured], decoder: str) -> dict[str, Measured]:
    """Models by label, read by one decoder; the float reference of the first batch comes first."""
    return {model_label(item.compiled): item for item in measured
            if item.row["decoder"] == decoder}


def paired_rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Each model below FP32 against the float network of its batch, plate by plate, by decoder.

    ``"p"`` is exact McNemar's; ``"p_holm"`` is corrected for the number of models.
    """
    rows = []
    for decoder in dict.fromkeys(item.row["decoder"] for item in measured):
        models = [item for item in measured if item.row["decoder"] == decoder]
        base = {item.row["batch"]: item.correct for item in models if not item.compiled.bmodel}
        lower = [item for item in models if item.row["precision"] != "fp32"]
        tests = [mcnemar_exact(base[item.row["batch"]], item.correct) for item in lower]
        rows += [{"label": f"{model_label(item.compiled)} · {decoder}", "only_float": test.b,
                  "only_other": test.c, "p": test.p, "p_holm": float(corrected)}
                 for item, test, corrected in zip(lower, tests, holm([t.p for t in tests]))]
    return rows


def few_models(measured: Sequence[Measured], decoder: str, limit: int = 3) -> dict[str, Measured]:
    """Float and the INT8 models of the first chip that has some, by short names, for figures."""
    models = [item for item in measured if item.row["decoder"] == decoder]
    chip = next((item.row["chip"] for item in models if item.row["precision"] == "int8"), None)
    found = {"float": next(item for item in models if item.compiled.bmodel is None)}
    for item in models:
        if item.compiled.bmodel and item.row["chip"] == chip and item.row["precision"] == "int8":
            batch = f" batch {item.row['batch']}" if item.row["batch"] > 1 else ""
            found[f"int8 {item.compiled.strategy}{batch}"] = item
    return dict(list(found.items())[:limit])


def confusion_of(models: Mapping[str, Measured], labels: Sequence[str]) -> dict[str, Confusion]:
    """What was read for what, by model."""
    return {name: confusion(labels, item.readings.texts) for name, item in models.items()}


def logit_cosines(models: Mapping[str, Measured]) -> dict[str, dict[str, np.ndarray]]:
    """Cosine of the logits with float's by image, and whether the text differs, by INT8 model.

    Returns
    -------
    dict
        ``"cosine"`` float64 ``[N]`` and ``"differs"`` bool ``[N]`` by model.
    """
    base = {item.row["batch"]: item for item in models.values() if item.compiled.bmodel is None}
    found: dict[str, dict[str, np.ndarray]] = {"cosine": {}, "differs": {}}
    for name, item in models.items():
        if item.compiled.bmodel is None or item.row["precision"] == "fp32":
            continue
        reference = base[item.row["batch"]]
        found["cosine"][name] = cosine(reference.inference.logits, item.inference.logits,
                                       by_image=True)
        found["differs"][name] = np.array([a != b for a, b in zip(
            reference.readings.texts, item.readings.texts)])
    return found


def differing(models: Mapping[str, Measured]) -> np.ndarray:
    """Numbers of the plates that not all models read alike, those with most readings first."""
    texts = [item.readings.texts for item in models.values()]
    kinds = np.array([len(set(column)) for column in zip(*texts)])
    found = np.flatnonzero(kinds > 1)
    return found[np.argsort(-kinds[found], kind="stable")]


def reliabilities(models: Mapping[str, Measured]) -> dict[str, Reliability]:
    """Reliability diagrams by model, in bins of equal widths."""
    return {name: reliability(item.readings.confidence, item.correct, bins=BINS)
            for name, item in models.items()}


def coverages(models: Mapping[str, Measured]) -> dict[str, Coverage]:
    """Accuracy over coverage by model."""
    return {name: accuracy_coverage(item.readings.confidence, item.correct)
            for name, item in models.items()}


def confidence_rows(models: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """How far confidence can be trusted, by model."""
    rows = []
    for name, item in models.items():
        curve = accuracy_coverage(item.readings.confidence, item.correct)
        rows.append({"model": name,
                     "ECE": reliability(item.readings.confidence, item.correct, bins=BINS).ece,
                     "log loss": log_loss(item.readings.confidence, item.correct),
                     "exact match, all": curve.at(1.0), "best 95 %": curve.at(0.95),
                     "best 90 %": curve.at(0.9), "best 80 %": curve.at(0.8)})
    return rows


def spread(data: Data) -> dict[str, int]:
    """How the plates of a set are spread over provinces, most frequent first."""
    count: dict[str, int] = {}
    for label in data.plates.labels:
        count[label[:1]] = count.get(label[:1], 0) + 1
    return dict(sorted(count.items(), key=lambda item: -item[1]))
