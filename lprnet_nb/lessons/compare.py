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
from ..evaluate.likeness import sign_name
from ..evaluate.paired import holm, mcnemar_exact
from ..evaluate.published import LATEST, OURS, published_accuracy
from ..evaluate.timings import STAGES
from ..language import Text, clauses, listed, phrase, sentences, text
from ..measure.box import Spread, judge_said
from ..measure.data import Data
from ..measure.models import Compiled, Reference
from ..measure.parameters import Parameters
from ..measure.rows import Measured, run_here
from ..model.lprnet import LPRNET
from ..proof.doubt_bench import HOLDS, committed_doubt
from ..toolchain.bmodel import NETWORK
from .compile import latency_row

BINS = 5
STEPS = (*STAGES, "runtime", "bmrt_test")  # of a kit's times
GALLERY = 12  # plates that one picture shows
PUBLISHED_IMAGES = 1000  # size of the set that published figures are about


def opening(data: Data) -> Text:
    """How many plates are read, and how they begin: with the province."""
    if data.plates.labels is None:
        return phrase("{count} images of {name}", count=len(data.plates), name=data.plates.name)
    return phrase(
        "{count} images of {name}; by first character: {provinces}",
        count=len(data.plates),
        name=data.plates.name,
        provinces=spread(data),
    )


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
    """The columns of ``metrics.json`` that a reader compares; without labels those of logits."""
    if measured[0].row["exact_match"] is None:
        return [
            {
                "model": item.label,
                "same likeliest class": item.row.get("same_top1"),
                "images all alike": item.row["agreement_with_float"],
                "cosine": item.row["logits_cosine"],
                "SQNR dB": item.row["logits_sqnr_db"],
                "predicted ms": item.row["predicted_latency_ms"],
            }
            for item in measured
        ]
    return [
        {
            "model": item.label,
            "decoder": item.row["decoder"],
            "exact match": item.row["exact_match"],
            "95 % interval": phrase("{low} to {high}", low=f"{low:.3f}", high=f"{high:.3f}"),
            "characters": item.row["character_accuracy"],
            "same as float": item.row["agreement_with_float"],
            "McNemar p": item.row["mcnemar_p"],
            "cosine": item.row["logits_cosine"],
            "SQNR dB": item.row["logits_sqnr_db"],
            "predicted ms": item.row["predicted_latency_ms"],
        }
        for item in measured
        for low, high in [item.row["ci95"]]
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
            "note": text(row.note),
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
                    "exactness": item.exactness if own else None,
                    "as the": judge_said(check["judge"]) if own else None,
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


def box_caption(measured: Sequence[Measured]) -> Text:
    """Whose times `box_latency` has."""
    if any(row["published_ms"] for row in box_latency(measured)):
        return phrase(
            "Time of the network alone: predicted, measured by the vendor, measured here."
        )
    return phrase("Time of the network alone: predicted, measured here.")


def boxes_said(measured: Sequence[Measured]) -> Text:
    """How many models of each box are exact, and which of its checks failed."""
    said = []
    boxes = {item.box.file: item.box.results for item in measured if item.box is not None}
    for file, results in boxes.items():
        own = {m.compiled.id: m for m in measured if m.box is not None and m.box.file == file}
        exact = sum(bool((item.crosscheck or {})["identical"]) for item in own.values())
        failed = [f"{one.check} {one.model}" for one in results.checks if not one.passed]
        checks = phrase("all {count} checks passed", count=len(results.checks))
        if failed:
            checks = phrase(
                "{failed} of {count} checks failed ({names})",
                failed=len(failed),
                count=len(results.checks),
                names=listed(failed),
            )
        said.append(
            phrase(
                "{box}: {exact} of {models} models gave the expected logits of all {plates} plates "
                "to the bit; {checks}.",
                box=results.name,
                exact=exact,
                models=len(own),
                plates=len(results.plates),
                checks=checks,
            )
        )
    return sentences(*said)


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


def release_rows(upgrades: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """`schema.Upgrade` of each model, by its own names; a predicted time of each release."""
    return [
        {
            "chip": one["chip"],
            "precision": one["precision"],
            "batch": one["batch"],
            "cores": one["cores"],
            "strategy": one["strategy"],
            "decoder": one["decoder"],
            "release": one["release"],
            "to": one["to"],
            "images": one["images"],
            "difference": one["difference"],
            "only_release": one["only_release"],
            "only_to": one["only_to"],
            "p": one["p"],
            "same_logits": one["same_logits"],
            "predicted_ms": one["predicted_latency_ms"][0],
            "predicted_ms_to": one["predicted_latency_ms"][1],
        }
        for one in upgrades
    ]


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


def worlds_rows(parameters: Parameters) -> list[dict[str, Any]]:
    """Where a calibrated confidence holds, of the committed record (`lprnet-nb bench doubt`).

    Nothing for another network, which it is not of.
    """
    record = committed_doubt() if parameters.network == LPRNET.name else None
    return [
        {
            "weights": row["weights"],
            "plates": row["set"],
            "exact match": row["right"] / row["n"],
            "ECE": row["ece"],
            "calibrated on photographs": row["calibrated"]["photographs"]["ece"],
            "calibrated on generated": row["calibrated"]["generated"]["ece"],
            "warned by": listed(map(sign_name, row["unlike"])),
        }
        for row in (record["rows"] if record else [])
    ]


def worlds_said(rows: Sequence[Mapping[str, Any]]) -> Text:
    """On how many of the record's worlds each set of weights' calibration holds."""
    said = []
    for name in dict.fromkeys(row["weights"] for row in rows):
        here = [row for row in rows if row["weights"] == name]
        holds = [row for row in here if row["calibrated on photographs"] <= HOLDS]
        worst = max(here, key=lambda row: row["calibrated on photographs"])
        said.append(
            phrase(
                "{name}: calibrated on photographs, the error stays within {level:.2f} on {count} "
                "of {all} worlds; worst on {plates}, {error:.2f}",
                name=name,
                level=HOLDS,
                count=len(holds),
                all=len(here),
                plates=worst["plates"],
                error=worst["calibrated on photographs"],
            )
        )
    return phrase("{said}.", said=clauses(said))


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


def metrics_said(measured: Sequence[Measured]) -> Text:
    """Whether FP32 reads as float does, and what moves more plates, decoder or precision."""
    exact = [
        m for m in measured if isinstance(m.compiled, Compiled) and m.row["precision"] == "fp32"
    ]
    said = []
    if exact:
        same = sum(m.row["agreement_with_float"] == 1 for m in exact)
        said.append(
            phrase(
                "{same} of {all} FP32 rows read every plate as float does.",
                same=same,
                all=len(exact),
            )
        )
    if measured[0].row["exact_match"] is None:
        lower = [m for m in measured if m.row["precision"] not in ("fp32", "unknown")]
        said += [
            phrase(
                "{model}: the likeliest class is float's at {share:.1f} % of the positions.",
                model=item.label,
                share=100 * item.row["same_top1"],
            )
            for item in lower
        ]
        return sentences(*said)
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
        phrase(
            "Between decoders one model's exact match moves by {decoder:.1f} points at most, "
            "between a model and float with one decoder by {precision:.1f}.",
            decoder=100 * decoder,
            precision=100 * precision,
        )
    )
    return sentences(*said)


def paired_said(tests: Sequence[Mapping[str, Any]], level: float = 0.05) -> Text:
    """What the corrected tests say."""
    found = [
        phrase("{model} (corrected p {p:.2g})", model=t["label"], p=t["p_holm"])
        for t in tests
        if t["p_holm"] < level
    ]
    least = min(tests, key=lambda t: t["p_holm"])
    if found:
        return phrase(
            "below {level:g} after Holm's correction: {found}.", level=level, found=listed(found)
        )
    return phrase(
        "none of the {count} differences is more than chance would bring: the smallest corrected p "
        "is {p:.2g} ({model}).",
        count=len(tests),
        p=least["p_holm"],
        model=least["label"],
    )


def accuracy_said(rows: Sequence[Mapping[str, Any]]) -> Text:
    """How wide an interval is, beside the distance of the models."""
    shares = [row["right"] / row["images"] for row in rows]
    low, high = wilson(rows[0]["right"], rows[0]["images"])
    return phrase(
        "the interval of {model} is {width:.0f} points wide, and all models and decoders lie "
        "within {span:.0f} points.",
        model=rows[0]["label"],
        width=100 * (high - low),
        span=100 * (max(shares) - min(shares)),
    )


def logit_figure(models: Mapping[str, Measured]) -> Figure | None:
    """Cosine of each image's logits with float's, changed plates marked; None without INT8."""
    near = logit_cosines(models)
    return figures.fidelity(near["cosine"], near["differs"]) if near["cosine"] else None


def logits_said(models: Mapping[str, Measured]) -> Text:
    """Whether a bound on the cosine could tell the plates that change."""
    near, said = logit_cosines(models), []
    for name, cosines in near["cosine"].items():
        differs = near["differs"][name]
        if differs.any() and not differs.all():
            below = int((cosines[~differs] < cosines[differs].max()).sum())
            said.append(
                phrase(
                    "{model}: {count} plates change; a bound that finds them all also rejects "
                    "{below} of the {others} that do not",
                    model=name,
                    count=int(differs.sum()),
                    below=below,
                    others=int((~differs).sum()),
                )
            )
        else:
            said.append(
                phrase(
                    "{model}: {count} of {all} plates change",
                    model=name,
                    count=int(differs.sum()),
                    all=len(differs),
                )
            )
    return phrase("{parts}.", parts=clauses(said))


def confusions_said(models: Mapping[str, Measured], labels: Sequence[str]) -> Text:
    """How each model's wrong plates are wrong."""
    said = []
    for name, item in models.items():
        kinds = error_kinds(labels, item.readings.texts)
        wrong = int((~item.correct).sum())
        said.append(
            phrase(
                "{model}: {length} of {wrong} wrong plates have another number of characters, "
                "{misread} a character misread",
                model=name,
                length=kinds["short"] + kinds["long"],
                wrong=wrong,
                misread=kinds["substituted"],
            )
        )
    return phrase("{parts}.", parts=clauses(said))


def gallery_of(models: Mapping[str, Measured], plates: PlateImages) -> tuple[Figure, str]:
    """Plates that not all models read alike, and the caption of their picture."""
    changed = differing(models)
    texts = {name: [item.readings.texts[k] for k in changed] for name, item in models.items()}
    labels = [plates.known_labels[k] for k in changed]
    figure = figures.gallery(plates.images[changed], labels, texts)
    shown = min(GALLERY, len(changed))
    return figure, phrase(
        "The first {shown} of {all} plates on which the models differ."
        if shown < len(changed)
        else "All {shown} plates on which the models differ.",
        shown=shown,
        all=len(changed),
    )


def gallery_said(models: Mapping[str, Measured]) -> Text:
    """How many plates each model mends and spoils against the first."""
    (first, base), *others = models.items()
    said = [
        phrase(
            "{model} mends {mended} and spoils {spoiled}",
            model=name,
            mended=int((~base.correct & item.correct).sum()),
            spoiled=int((base.correct & ~item.correct).sum()),
        )
        for name, item in others
    ]
    if not said:
        return phrase("there is no model beside float.")
    return phrase("against {first}, {parts}.", first=text(first), parts=listed(said))


def confidence_said(rows: Sequence[Mapping[str, Any]]) -> Text:
    """What refusing a tenth of the plates gains, and whether INT8 costs confidence."""
    base = rows[0]
    lift = phrase(
        "refusing the least certain tenth lifts {model} from {before:.3f} to {after:.3f}.",
        model=text(base["model"]),
        before=base["exact match, all"],
        after=base["best 90 %"],
    )
    others = [f"{row['model']} {row['ECE']:.3f}" for row in rows[1:]]
    if not others:
        return lift
    errors = phrase(
        "ECE: {model} {error:.3f}, {others}.",
        model=text(base["model"]),
        error=base["ECE"],
        others=listed(others),
    )
    return sentences(lift, errors)


def against_each_other(models: Mapping[str, Measured]) -> str:
    """McNemar's exact test of the last two models."""
    (name, one), (other_name, other) = list(models.items())[-2:]
    return phrase(
        "{one} against {other}: {test}",
        one=name,
        other=other_name,
        test=str(mcnemar_exact(one.correct, other.correct)),
    )
