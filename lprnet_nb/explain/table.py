"""An explanation in a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHOWN = 0.005  # part of the noise from which on a layer is listed
HELPS = 0.1  # dB from which on a cure is
NEAR = 0.5  # dB that are not worth floats


def layer_rows(found: Mapping[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """The costliest layers: name and operation, share, SNR with it alone, reasons, cures."""
    return [
        (
            f"{row['layer']} {row['operation']} {shape(row)}",
            f"{100 * row['share']:.1f} %",
            decibels(row["alone"]["snr_db"]),
            "; ".join(reason["said"] for reason in row["reasons"]) or "rounding to 8 bits",
            "\n".join(f"{c['gain_db']:+.1f}: {c['do']}" for c in helpful(row)) or "–",
        )
        for row in found["layers"]
        if row["share"] >= SHOWN
    ]


def shape(row: Mapping[str, Any]) -> str:
    """``256x18x44``, the batch left out."""
    return "x".join(map(str, row["shape"][1:]))


def helpful(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Cures of a layer that bring something, the best first."""
    return [cure for cure in row.get("cures", []) if cure["gain_db"] >= HELPS]


def decibels(value: float | None) -> str:
    """An SNR; no value is no difference."""
    return "exact" if value is None else f"{value:.1f} dB"


def headline(found: Mapping[str, Any]) -> str:
    """What the whole comes to: the output's SNR, what is read, and the first thing to try."""
    int8, exact, count = found["int8"], found["float"], found["images"]
    said = f"{found['chip']}, {count} images: the output's SNR is {decibels(int8['snr_db'])}"
    if "right" in int8:
        said += f", and INT8 reads {int8['right']} right, float {exact['right']}"
    elif "as_float" in int8:
        said += f", and INT8 reads {int8['as_float']} as float does"
    best = first_cure(found)
    if best is None:
        return f"{said}. No cure that was tried brings {HELPS} dB."
    row, cure = best
    return (
        f"{said}. {row['layer']!r} alone makes {100 * row['share']:.0f} % of the noise. First to "
        f"try, {cure['gain_db']:+.1f} dB: {cure['do']}."
    )


def first_cure(found: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The costliest layer that a cure helps, and the best that is not float, unless float is far
    better: it costs time."""
    for row in found["layers"]:
        if cures := helpful(row):
            near = [cure for cure in cures if cure["gain_db"] > cures[0]["gain_db"] - NEAR]
            return row, next((cure for cure in near if cure["kind"] != "float"), cures[0])
    return None
