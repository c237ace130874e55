"""The accuracy part of a model card: how well weights read, set by set, as Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..datasets.alphabet import PROVINCES, PUBLISHED
from ..datasets.fetch import load_published
from ..datasets.generate import Severity, generate_plates
from ..datasets.images import PlateImages
from ..errors import DataError, ParameterError
from ..evaluate.intervals import wilson
from ..memory import keep_memory
from ..model.train import by_group, margin_curve, read
from ..model.weights import Weights, load_published_weights

SEED = 31337  # of no plate that the packaged weights were trained on
SEVERITIES = ((0.25, 0.25), (0.5, 0.5), (0.75, 0.75), (1, 0.5), (0.5, 1), (1, 1))  # view, image


def measure_card(
    weights: Weights, plates: int = 4960, *, report: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Read generated plates of all severities, and the published photographs where they are.

    Parameters
    ----------
    weights
        Of the published class list.
    plates
        Generated plates at the default severity; the other severities get a fifth of them.
    report
        Called with a line for each set.

    Returns
    -------
    dict
        JSON-able: ``name``, ``digest``; ``rows`` of ``set``, ``k`` right of ``n``; ``provinces``,
        the same of each at the default severity; ``margins``, exact match of the photographs by
        margin, of these weights and of the published ones, None without photographs.

    Raises
    ------
    ParameterError
        When the weights have other classes, or too few plates are asked for.
    """
    if weights.alphabet.classes != PUBLISHED.classes:
        raise ParameterError(
            f"weights {weights.name} have another class list than generated "
            "plates and the published photographs are labelled in."
        )
    if plates < 5 * len(PROVINCES):
        raise ParameterError(f"{plates} plates are too few. Give at least {5 * len(PROVINCES)}.")
    keep_memory()
    rows: list[dict[str, Any]] = []

    def row(name: str, k: int, n: int) -> None:
        rows.append({"set": name, "k": k, "n": n})
        report(f"{name}: {k} of {n}")

    for view, image in SEVERITIES:
        default = (view, image) == (1, 1)
        drawn = generate_plates(
            plates if default else plates // 5, SEED, workers=0, severity=Severity(view, image)
        )
        groups = by_group(weights, drawn)
        lengths = [group for group in groups if group["kind"] == "length"]
        hard = f"severity {view:g}" if view == image else f"view {view:g}, image {image:g}"
        row(
            f"generated, {hard}" + (", the default" if default else ""),
            sum(group["k"] for group in lengths),
            len(drawn),
        )
        for group in lengths if default else []:
            row(f"- of {group['group']} characters", group["k"], group["n"])
    margins = None
    try:
        photographs: PlateImages | None = load_published()
    except DataError as error:
        photographs = None
        report(f"no photographs: {error}")
    if photographs is not None:
        pairs = list(zip(read(weights, photographs), photographs.known_labels))
        row("published photographs", sum(a == b for a, b in pairs), len(pairs))
        row("- without the province", sum(a[1:] == b[1:] for a, b in pairs), len(pairs))
        row("- the province alone", sum(a[:1] == b[:1] for a, b in pairs), len(pairs))
        margins = {weights.name: margin_curve(weights, photographs)}
        published = load_published_weights()
        if published.digest != weights.digest:
            margins[published.name] = margin_curve(published, photographs)
    return {
        "name": weights.name,
        "digest": weights.digest,
        "seed": SEED,
        "rows": rows,
        "provinces": {
            group["group"]: [group["k"], group["n"]]
            for group in groups
            if group["kind"] == "province"
        },
        "margins": margins,
    }


def card_text(facts: dict[str, Any]) -> str:
    """What `measure_card` found, as Markdown tables with Wilson's 95 % intervals."""
    lines = ["| set | plates | exact match | 95 % |", "| --- | --- | --- | --- |"]
    for row in facts["rows"]:
        low, high = wilson(row["k"], row["n"])
        lines.append(
            f"| {row['set']} | {row['n']:,} | {row['k'] / row['n']:.3f} | {low:.3f}–{high:.3f} |"
        )
    shares = {name: k / n for name, (k, n) in facts["provinces"].items()}
    ranked = sorted(shares, key=lambda name: shares[name])
    lines += [
        "",
        "Provinces at the default severity, worst first: "
        + ", ".join(f"{name} {shares[name]:.3f}" for name in ranked)
        + ".",
    ]
    if facts["margins"]:
        curves = list(facts["margins"].items())
        steps = list(curves[0][1])
        lines += [
            "",
            "Margin added to the photographs (edge pixels repeated; cut where negative):",
            "",
            "| | " + " | ".join(f"{100 * step:g} %" for step in steps) + " |",
            "| --- |" + " --- |" * len(steps),
        ]
        lines += [
            f"| {name} | " + " | ".join(f"{curve[step]:.3f}" for step in steps) + " |"
            for name, curve in curves
        ]
    return "\n".join(lines) + "\n"
