"""An explanation in a few lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..language import Text, clauses, phrase, sentences

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
            why(row),
            "\n".join(f"{gain(c):+.1f}: {c['do']}" for c in helpful(row)) or "–",
        )
        for row in found["layers"]
        if row["share"] >= SHOWN
    ]


def shape(row: Mapping[str, Any]) -> str:
    """``256x18x44``, the batch left out."""
    return "x".join(map(str, row["shape"][1:]))


def helpful(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Cures of a layer that bring something, the best first."""
    return [cure for cure in row.get("cures", []) if gain(cure) >= HELPS]


def gain(cure: Mapping[str, Any]) -> float:
    """What a cure brings in dB; no value is all noise removed, and infinite."""
    return float("inf") if cure["gain_db"] is None else cure["gain_db"]


def why(row: Mapping[str, Any], count: int | None = None) -> Text:
    """The first reasons of a layer, or all."""
    found = [reason["said"] for reason in row["reasons"][:count]]
    return clauses(found) if found else phrase("rounding to 8 bits")


def decibels(value: float | None) -> str:
    """An SNR; no value is no difference."""
    return phrase("exact") if value is None else f"{value:.1f} dB"


def headline(found: Mapping[str, Any]) -> Text:
    """What the whole comes to: the output's SNR, what is read, and the first thing to try."""
    best = first_cure(found)
    if best is None:
        next_ = phrase("No cure that was tried brings {decibels} dB.", decibels=HELPS)
        return sentences(_read(found), next_)
    row, cure = best
    return sentences(
        _read(found),
        phrase(
            "{layer!r} alone makes {share:.0f} % of the noise.",
            layer=row["layer"],
            share=100 * row["share"],
        ),
        phrase("First to try, {gain:+.1f} dB: {cure}.", gain=gain(cure), cure=cure["do"]),
    )


def _read(found: Mapping[str, Any]) -> Text:
    """The output's SNR, and what is read."""
    int8 = found["int8"]
    whole = phrase(
        "{chip}, {count} images: the output's SNR is {snr}",
        chip=found["chip"],
        count=found["images"],
        snr=decibels(int8["snr_db"]),
    )
    if "right" in int8:
        return phrase(
            "{whole}, and INT8 reads {right} right, float {exact}.",
            whole=whole,
            right=int8["right"],
            exact=found["float"]["right"],
        )
    if "as_float" in int8:
        return phrase(
            "{whole}, and INT8 reads {count} as float does.", whole=whole, count=int8["as_float"]
        )
    return phrase("{parts}.", parts=whole)


def first_cure(found: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The costliest layer that a cure helps, and the best that is not float, unless float is far
    better: it costs time."""
    for row in found["layers"]:
        if cures := helpful(row):
            near = [cure for cure in cures if gain(cure) >= gain(cures[0]) - NEAR]
            return row, next((cure for cure in near if cure["kind"] != "float"), cures[0])
    return None
