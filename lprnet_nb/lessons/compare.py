"""What notebook 05 shows: measured models as rows that figures and tables take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .. import figures
from ..datasets.images import PlateImages
from ..evaluate.accuracy import Confusion, confusion, error_kinds
from ..evaluate.calibration import Coverage, Reliability, accuracy_coverage, log_loss, reliability
from ..evaluate.fidelity import cosine
from ..evaluate.intervals import wilson
from ..evaluate.paired import holm, mcnemar_exact
from ..evaluate.published import LATEST, OURS, published_accuracy
from ..evaluate.timings import STAGES
from ..measure.box import Spread
from ..measure.data import Data
from ..measure.models import Compiled, Reference
from ..measure.rows import Measured, run_here
from ..toolchain.bmodel import NETWORK
from .compile import latency_row
from .course import listed

BINS = 5
STEPS = (*STAGES, "runtime", "bmrt_test")  # of a kit's times
GALLERY = 12  # plates that one picture shows
PUBLISHED_IMAGES = 1000  # size of the set that published figures are about


def accuracy_rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Plates read right by model and decoder, as `figures.forest` takes them.

    Published figures stand beside greedy readings of all published images.
    """
    decoders = {item.row["decoder"] for item in measured}
    rows = []
    for item in measured:
        label = item.label
        rows.append(
            {
                "label": f"{label} · {item.row['decoder']}" if len(decoders) > 1 else label,
                "precision": item.row["precision"],
                "right": int(item.correct.sum()),
                "images": len(item.correct),
                "published": _published(item),
            }
        )
    return rows


def _published(item: Measured) -> float | None:
    if isinstance(item.compiled, Reference):
        return None
    bmodel = item.compiled.bmodel
    if (
        item.row["decoder"] != "greedy"
        or (bmodel.network, bmodel.weights) != (NETWORK, "published")
        or item.row["images"] != PUBLISHED_IMAGES
    ):
        return None
    for row in published_accuracy(bmodel.chip, bmodel.precision):
        if row.source == LATEST and row.program in OURS and row.batch == bmodel.batch:
            return row.exact_match
    return None


def metric_rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """The columns of ``metrics.json`` that a reader compares."""
    return [
        {
            "model": item.label,
            "decoder": item.row["decoder"],
            "exact match": item.row["exact_match"],
            "95 % interval": "{:.3f} to {:.3f}".format(*item.row["ci95"]),
            "characters": item.row["character_accuracy"],
            "same as float": item.row["agreement_with_float"],
            "McNemar p": item.row["mcnemar_p"],
            "cosine": item.row["logits_cosine"],
            "SQNR dB": item.row["logits_sqnr_db"],
            "predicted ms": item.row["predicted_latency_ms"],
        }
        for item in measured
    ]


def published_rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """What others published for the same chips, precisions and batches, images prepared as here."""
    keys = {
        (item.compiled.bmodel.chip, item.compiled.bmodel.precision, item.compiled.bmodel.batch)
        for item in measured
        if isinstance(item.compiled, Compiled) and item.compiled.bmodel.network == NETWORK
    }
    return [
        {
            "source": row.source,
            "program": row.program,
            "chip": row.chip,
            "precision": row.model,
            "batch": row.batch,
            "exact match": row.exact_match,
            "note": row.note,
        }
        for row in published_accuracy()
        if (row.chip, row.model, row.batch) in keys and row.program in OURS
    ]


def box_rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """What boxes measured, a row for each model and program, in the vendor's columns.

    Times are medians, milliseconds an image; "±" is half of the middle half of the calls.
    """
    rows = []
    for item in {one.label: one for one in measured if one.box is not None}.values():
        box, check = item.box, item.crosscheck or {}
        assert box is not None  # as chosen
        for program, times in box.times.items():
            own = program != "bmcv"
            rows.append(
                {
                    "model": item.label,
                    "program": program,
                    "exact": f"{check['exact']} of {check['images']}" if own else None,
                    "as the": check["judge"] if own else None,
                    **{step: _median(times.get(step)) for step in STEPS},
                    "SDK": box.results.box.sdk,
                    "driver": box.results.box.driver,
                    "sail": box.results.box.sail,
                }
            )
    return rows


def _median(spread: Spread | None) -> str | None:
    if spread is None:
        return None
    low, high = spread.quartiles
    return f"{spread.median:.3f} ± {(high - low) / 2:.3f}"


def box_latency(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Predicted, published and measured times of the models that boxes ran, for `latency`."""
    boxed = {one.compiled.id: one for one in measured if one.box is not None}
    return [
        latency_row(item.compiled, item.box)
        for item in boxed.values()
        if isinstance(item.compiled, Compiled)
    ]


def box_caption(measured: Sequence[Measured]) -> str:
    """Whose times `box_latency` has."""
    vendors = any(row["published_ms"] for row in box_latency(measured))
    by = ", measured by the vendor" if vendors else ""
    return f"Time of the network alone: predicted{by}, measured here."


def boxes_said(measured: Sequence[Measured]) -> str:
    """How many models of each box are exact, and which of its checks failed."""
    said = []
    boxes = {item.box.file: item.box.results for item in measured if item.box is not None}
    for file, results in boxes.items():
        own = {m.compiled.id: m for m in measured if m.box is not None and m.box.file == file}
        exact = sum(bool((item.crosscheck or {})["identical"]) for item in own.values())
        failed = [f"{one.check} {one.model}" for one in results.checks if not one.passed]
        checks = f"all {len(results.checks)} checks passed"
        if failed:
            checks = f"{len(failed)} of {len(results.checks)} checks failed ({listed(failed)})"
        said.append(
            f"{results.name}: {exact} of {len(own)} models gave the expected logits of all "
            f"{len(results.plates)} plates to the bit; {checks}."
        )
    return " ".join(said)


def of_decoder(measured: Sequence[Measured], decoder: str) -> dict[str, Measured]:
    """Models by label, read here by one decoder; the float network of the first batch is first."""
    return {item.label: item for item in run_here(measured) if item.row["decoder"] == decoder}


def paired_rows(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Each INT8 model against the float network of its batch, plate by plate, by decoder.

    ``"p"`` is exact McNemar's; ``"p_holm"`` is corrected for the number of models of a decoder.
    What a box has read is no further model, and would be corrected for like one.
    """
    rows = []
    for decoder in dict.fromkeys(item.row["decoder"] for item in measured):
        models = [item for item in run_here(measured) if item.row["decoder"] == decoder]
        base = {
            item.row["batch"]: item.correct
            for item in models
            if isinstance(item.compiled, Reference)
        }
        lower = [item for item in models if item.row["precision"] == "int8"]
        tests = [mcnemar_exact(base[item.row["batch"]], item.correct) for item in lower]
        rows += [
            {
                "label": f"{item.label} · {decoder}",
                "only_float": test.b,
                "only_other": test.c,
                "p": test.p,
                "p_holm": float(corrected),
            }
            for item, test, corrected in zip(lower, tests, holm([t.p for t in tests]))
        ]
    return rows


def few_models(measured: Sequence[Measured], decoder: str, limit: int = 3) -> dict[str, Measured]:
    """Float and the INT8 models of the first chip that has some, by short names, for figures."""
    models = [item for item in run_here(measured) if item.row["decoder"] == decoder]
    chip = next((item.row["chip"] for item in models if item.row["precision"] == "int8"), None)
    found = {"float": next(item for item in models if isinstance(item.compiled, Reference))}
    for item in models:
        if item.row["chip"] == chip and item.row["precision"] == "int8":
            batch = f" batch {item.row['batch']}" if item.row["batch"] > 1 else ""
            cores = f" {item.row['cores']} cores" if item.row["cores"] > 1 else ""
            by = f" by {item.row['release']}" if item.row.get("release") else ""
            found[f"int8 {item.row['strategy']}{by}{batch}{cores}"] = item
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
    base = {
        item.row["batch"]: item for item in models.values() if isinstance(item.compiled, Reference)
    }
    found: dict[str, dict[str, np.ndarray]] = {"cosine": {}, "differs": {}}
    for name, item in models.items():
        if item.row["precision"] == "fp32":
            continue
        reference = base[item.row["batch"]]
        found["cosine"][name] = cosine(
            reference.inference.logits, item.inference.logits, by_image=True
        )
        found["differs"][name] = np.array(
            [a != b for a, b in zip(reference.readings.texts, item.readings.texts)]
        )
    return found


def differing(models: Mapping[str, Measured]) -> np.ndarray:
    """Numbers of the plates that not all models read alike, those with most readings first."""
    texts = [item.readings.texts for item in models.values()]
    kinds = np.array([len(set(column)) for column in zip(*texts)])
    found = np.flatnonzero(kinds > 1)
    return found[np.argsort(-kinds[found], kind="stable")]


def reliabilities(models: Mapping[str, Measured]) -> dict[str, Reliability]:
    """Reliability diagrams by model, in bins of equal widths."""
    return {
        name: reliability(item.readings.confidence, item.correct, bins=BINS)
        for name, item in models.items()
    }


def coverages(models: Mapping[str, Measured]) -> dict[str, Coverage]:
    """Accuracy over coverage by model."""
    return {
        name: accuracy_coverage(item.readings.confidence, item.correct)
        for name, item in models.items()
    }


def confidence_rows(models: Mapping[str, Measured]) -> list[dict[str, Any]]:
    """How far confidence can be trusted, by model."""
    rows = []
    for name, item in models.items():
        curve = accuracy_coverage(item.readings.confidence, item.correct)
        rows.append(
            {
                "model": name,
                "ECE": reliability(item.readings.confidence, item.correct, bins=BINS).ece,
                "log loss": log_loss(item.readings.confidence, item.correct),
                "exact match, all": curve.at(1.0),
                "best 95 %": curve.at(0.95),
                "best 90 %": curve.at(0.9),
                "best 80 %": curve.at(0.8),
            }
        )
    return rows


def spread(data: Data) -> dict[str, int]:
    """How labels of a set are spread over first characters (provinces), most frequent first."""
    count: dict[str, int] = {}
    for label in data.plates.known_labels:
        count[label[:1]] = count.get(label[:1], 0) + 1
    return dict(sorted(count.items(), key=lambda item: -item[1]))


def metrics_said(measured: Sequence[Measured]) -> str:
    """Whether FP32 reads as float does, and what moves more plates, decoder or precision."""
    exact = [
        m for m in measured if isinstance(m.compiled, Compiled) and m.row["precision"] == "fp32"
    ]
    said = []
    if exact:
        same = sum(m.row["agreement_with_float"] == 1 for m in exact)
        said.append(f"{same} of {len(exact)} FP32 rows read every plate as float does.")
    by_model: dict[str, list[float]] = {}
    for item in run_here(measured):
        by_model.setdefault(item.compiled.id, []).append(item.row["exact_match"])
    float_by = {
        m.row["decoder"]: m.row["exact_match"]
        for m in measured
        if isinstance(m.compiled, Reference)
    }
    decoder = max(max(rates) - min(rates) for rates in by_model.values())
    precision = max(
        abs(m.row["exact_match"] - float_by[m.row["decoder"]])
        for m in measured
        if m.row["decoder"] in float_by
    )
    said.append(
        f"Between decoders one model's exact match moves by {100 * decoder:.1f} points at most, "
        f"between a model and float with one decoder by {100 * precision:.1f}."
    )
    return " ".join(said)


def paired_said(tests: Sequence[Mapping[str, Any]], level: float = 0.05) -> str:
    """What the corrected tests say."""
    found = [f"{t['label']} (corrected p {t['p_holm']:.2g})" for t in tests if t["p_holm"] < level]
    least = min(tests, key=lambda t: t["p_holm"])
    if found:
        return f"below {level:g} after Holm's correction: {listed(found)}."
    return (
        f"none of the {len(tests)} differences is more than chance would bring: the smallest "
        f"corrected p is {least['p_holm']:.2g} ({least['label']})."
    )


def accuracy_said(rows: Sequence[Mapping[str, Any]]) -> str:
    """How wide an interval is, beside the distance of the models."""
    shares = [row["right"] / row["images"] for row in rows]
    low, high = wilson(rows[0]["right"], rows[0]["images"])
    return (
        f"the interval of {rows[0]['label']} is {100 * (high - low):.0f} points wide, and all "
        f"models and decoders lie within {100 * (max(shares) - min(shares)):.0f} points."
    )


def logit_figure(models: Mapping[str, Measured]) -> Figure | None:
    """Cosine of each image's logits with float's, changed plates marked; None without INT8."""
    near = logit_cosines(models)
    return figures.fidelity(near["cosine"], near["differs"]) if near["cosine"] else None


def logits_said(models: Mapping[str, Measured]) -> str:
    """Whether a bound on the cosine could tell the plates that change."""
    near, said = logit_cosines(models), []
    for name, cosines in near["cosine"].items():
        differs = near["differs"][name]
        if differs.any() and not differs.all():
            below = int((cosines[~differs] < cosines[differs].max()).sum())
            said.append(
                f"{name}: {int(differs.sum())} plates change; a bound that finds them all also "
                f"rejects {below} of the {int((~differs).sum())} that do not"
            )
        else:
            said.append(f"{name}: {int(differs.sum())} of {len(differs)} plates change")
    return f"{'; '.join(said)}."


def confusions_said(models: Mapping[str, Measured], labels: Sequence[str]) -> str:
    """How each model's wrong plates are wrong."""
    said = []
    for name, item in models.items():
        kinds = error_kinds(labels, item.readings.texts)
        wrong = int((~item.correct).sum())
        said.append(
            f"{name}: {kinds['short'] + kinds['long']} of {wrong} wrong plates have another number "
            f"of characters, {kinds['substituted']} a character misread"
        )
    return f"{'; '.join(said)}."


def gallery_of(models: Mapping[str, Measured], plates: PlateImages) -> tuple[Figure, str]:
    """Plates that not all models read alike, and the caption of their picture."""
    changed = differing(models)
    texts = {name: [item.readings.texts[k] for k in changed] for name, item in models.items()}
    labels = [plates.known_labels[k] for k in changed]
    figure = figures.gallery(plates.images[changed], labels, texts)
    shown = min(GALLERY, len(changed))
    which = f"The first {shown} of {len(changed)}" if shown < len(changed) else f"All {shown}"
    return figure, f"{which} plates on which the models differ."


def gallery_said(models: Mapping[str, Measured]) -> str:
    """How many plates each model mends and spoils against the first."""
    (first, base), *others = models.items()
    said = [
        f"{name} mends {int((~base.correct & item.correct).sum())} and spoils "
        f"{int((base.correct & ~item.correct).sum())}"
        for name, item in others
    ]
    return f"against {first}, {listed(said)}." if said else "there is no model beside float."


def confidence_said(rows: Sequence[Mapping[str, Any]]) -> str:
    """What refusing a tenth of the plates gains, and whether INT8 costs confidence."""
    base = rows[0]
    text = (
        f"refusing the least certain tenth lifts {base['model']} from "
        f"{base['exact match, all']:.3f} to {base['best 90 %']:.3f}."
    )
    others = [f"{row['model']} {row['ECE']:.3f}" for row in rows[1:]]
    return text + (f" ECE: {base['model']} {base['ECE']:.3f}, {listed(others)}." if others else "")


def against_each_other(models: Mapping[str, Measured]) -> str:
    """McNemar's exact test of the last two models."""
    (name, one), (other_name, other) = list(models.items())[-2:]
    return f"{name} against {other_name}: {mcnemar_exact(one.correct, other.correct)}"
