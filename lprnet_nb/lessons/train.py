"""What notebook 07 shows: drawn plates, the first steps of a training, and what reads how well."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets import fetch
from ..datasets.generate import ONE_ROW, Severity, generate_plates
from ..datasets.images import PlateImages
from ..language import Text, clauses, listed, phrase
from ..model import train
from ..model.weights import Weights, load_published_weights

SEVERITIES = (0.25, 0.5, 0.75, 1.0)
SHARES = (0.02, 0.05, 0.1, 0.25, 0.5)  # of the plates, the ones most in doubt first
SHEET = 36  # plates on a contact sheet


def opening(real: PlateImages | None) -> Text:
    """Whether there are photographs to compare with."""
    if real is None:
        return phrase("published images: not here; run scripts/download.sh to compare")
    return phrase("published images: {count}", count=len(real))


def photographs(count: int) -> PlateImages | None:
    """Published images, `count` or all for 0; None where they are not here."""
    return fetch.load_published(count or None) if fetch.is_published_data_here() else None


def forms(seed: int) -> dict[str, PlateImages]:
    """Plates of each form as drawn, before any camera."""
    flat = Severity(view=0, image=0)
    names = {
        "blue": phrase("blue"),
        "yellow": phrase("yellow"),
        "green": phrase("green"),
        "two-row": phrase("two-row"),
    }
    return {
        names[form]: generate_plates(6, seed, forms=(form,), severity=flat)
        for form in (*ONE_ROW, "two-row")
    }


def timed_plates(count: int, seed: int) -> tuple[PlateImages, float]:
    """Generated plates, and how many were drawn a second, start of the processes included."""
    start = time.perf_counter()
    plates = generate_plates(count, seed)
    return plates, count / (time.perf_counter() - start)


def sheets(seed: int, real: PlateImages | None) -> dict[str, PlateImages]:
    """Blue plates: as generated, as the packaged weights were trained on last, and published."""
    stray = Severity(glyphs=1, soft=1.2)
    found: dict[str, PlateImages] = {
        phrase("generated plates"): generate_plates(SHEET, seed, forms=("blue",)),
        phrase("as trained on last"): generate_plates(SHEET, seed, forms=("blue",), severity=stray),
    }
    if real and len(real) >= SHEET:
        found[phrase("photographs")] = real.take(range(0, len(real), len(real) // SHEET)[:SHEET])
    return found


def first_steps(folder: str, steps: int, seed: int) -> list[dict[str, Any]]:
    """Reports of a training's first steps; its checkpoint stays in `folder` where one is named."""
    if not folder:
        with tempfile.TemporaryDirectory(prefix="lprnet-train-") as made:
            return first_steps(made, steps, seed)
    config = train.TrainConfig(
        Path(folder) / "weights.pth",
        Path(folder) / "state.pt",
        steps=steps,
        report_every=max(1, steps // 6),
        report_plates=64,
        seed=seed,
    )
    train.train(config)
    lines = config.checkpoint.with_suffix(".jsonl").read_text("utf8").splitlines()
    return [json.loads(line) for line in lines]


def steps_said(reports: Sequence[Mapping[str, Any]]) -> Text:
    """What the first steps bring."""
    first, last = reports[0], reports[-1]
    return phrase(
        "from step {first} to step {last} the loss goes from {before:.2g} to {after:.2g}, and "
        "{read:.0f} % of the held-out plates are read ({pace:.0f} plates a second).",
        first=first["step"],
        last=last["step"],
        before=first["loss"],
        after=last["loss"],
        read=100 * last["exact_match"],
        pace=last["plates_per_second"],
    )


def accuracy_rows(
    sets: Sequence[PlateImages | None], weights: Weights, groups: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Exact match on each set, and on the lengths among the groups."""
    rows = [
        {"set": one.name, "plates": len(one), "exact match": train.exact_match(weights, one)}
        for one in sets
        if one
    ]
    return rows + [
        {
            "set": f"length {group['group']}",
            "plates": group["n"],
            "exact match": group["k"] / group["n"],
        }
        for group in groups
        if group["kind"] == "length"
    ]


def provinces(groups: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The provinces among the groups."""
    return [group for group in groups if group["kind"] == "province"]


def severity_curve(weights: Weights, plates: int, seed: int) -> dict[float, float]:
    """Exact match on generated plates by how hard the pictures are."""
    return {
        hard: train.exact_match(
            weights, generate_plates(plates, seed + 1, severity=Severity(hard, hard))
        )
        for hard in SEVERITIES
    }


def severity_said(curve: Mapping[float, float]) -> Text:
    """What `severity_curve` shows."""
    parts = [
        phrase("{share:.0f} % at {severity:g}", share=100 * share, severity=hard)
        for hard, share in curve.items()
    ]
    return phrase("of the plates drawn at each severity, {parts} are read.", parts=listed(parts))


def doubts(weights: Weights, plates: PlateImages) -> np.ndarray:
    """Doubt in each plate: one minus the probability that the weights give its text, ``[N]``."""
    return 1 - np.exp(-train.plate_losses(weights, plates))


def doubt_rows(doubt: np.ndarray) -> list[dict[str, Any]]:
    """How much of all doubt lies in the plates most in doubt."""
    falling = -np.sort(-doubt)
    return [
        {
            "plates": phrase("{share:.0%}, the ones most in doubt", share=share),
            "of all doubt": float(falling[: round(share * len(falling))].sum() / doubt.sum()),
        }
        for share in SHARES
    ]


def doubt_said(rows: Sequence[Mapping[str, Any]]) -> Text:
    """What `doubt_rows` shows."""
    parts = [
        phrase("{share:.0%} hold {doubt:.0%}", share=share, doubt=row["of all doubt"])
        for share, row in zip(SHARES[:3], rows)
    ]
    return phrase("of the plates, those most in doubt, {parts} of all doubt.", parts=listed(parts))


def margin_curves(weights: Weights, plates: PlateImages, real: bool) -> dict[str, Any]:
    """Exact match by added margin, of the packaged weights and, on photographs, the published."""
    curves = {"trained here": train.margin_curve(weights, plates)}
    if real:
        curves["published"] = train.margin_curve(load_published_weights(), plates)
    return curves


def margins_said(curves: Mapping[str, Mapping[float, float]]) -> Text:
    """Within which margins each set of weights stays near its best."""
    said = []
    for name, curve in curves.items():
        best = max(curve.values())
        near = [margin for margin, share in curve.items() if share > best - 0.05]
        said.append(
            phrase(
                "{weights}: best {best:.2f}, within five points of it from {low:+.0f} % to "
                "{high:+.0f} % of the side",
                weights=name,
                best=best,
                low=100 * min(near),
                high=100 * max(near),
            )
        )
    return phrase("{parts}.", parts=clauses(said))
