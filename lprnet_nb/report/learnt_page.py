"""The measured parts of docs/learnt.md: `python -m lprnet_nb.report.learnt_page`.

It rewrites what stands between ``<!-- judged -->`` and ``<!-- /judged -->``, ``<!-- left -->``
likewise, and ``docs/figures/left.svg``. A test holds the page to the committed data.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import DataError
from ..figures import as_svg
from ..figures import study as figures
from ..files import atomic_write
from ..inputs import read_json
from ..places import repository
from ..study import full, results
from .blocks import filled, markdown_rows

PAGE = Path("docs") / "learnt.md"
STUDY = Path("data") / "studies" / "learnt" / "2026-11.json"
# What `lprnet-nb explain` says of `mse-forked`, see the page for the commands; by chip.
LEFT = Path("data") / "studies" / "learnt" / "left-2026-11.json"
CHIPS = ("BM1684X", "BM1684")
SHOWN = 12  # layers a chip


def blocks() -> dict[str, str]:
    """What the page says of the committed data, by tag.

    Raises
    ------
    DataError
        When the committed study is not there.
    """
    return {
        "judged": markdown_rows(_judged()),
        "left": _left(read_json(repository() / LEFT, "layers that are left")),
    }


def _judged() -> list[dict[str, str]]:
    """The learnt strategies beside where they start from."""
    committed = results.committed_study()
    if committed is None:
        raise DataError("the committed study is not in this checkout.")
    study = full.merge(committed, results.read_study(repository() / STUDY))
    rows = []
    for chip in CHIPS:
        for name in ("mse-forked", "learnt-forked", "learnt-forked-rounding"):
            shares = [right.mean() for right in results.outcomes(study, name, chip).values()]
            mean = sum(shares) / len(shares)
            row = {
                "chip": chip,
                "strategy": f"`{name}`",
                "exact match (lowest and highest draw)": (
                    f"{mean:.4f} ({min(shares):.3f}–{max(shares):.3f})"
                ),
                "against `mse-forked`": "–",
            }
            found = results.difference(study, name, "mse-forked", chip)
            if name != "mse-forked" and found is not None:
                low, high = (100 * bound for bound in found["interval"])
                row["against `mse-forked`"] = (
                    f"{100 * found['difference']:+.1f} ({low:+.1f} … {high:+.1f})"
                )
            rows.append(row)
    return rows


def gains(explained: dict[str, Any]) -> list[tuple[str, float]]:
    """Layers, named with their operation, and what the output gains without their error, dB."""
    now = explained["int8"]["snr_db"]
    found = [
        (f"{layer['layer']} {layer['operation']}", layer["without"]["snr_db"] - now)
        for layer in explained["layers"]
        if "without" in layer
    ]
    return sorted(found, key=lambda row: -row[1])


def _explained() -> dict[str, Any]:
    return read_json(repository() / LEFT, "what explain said")


def _left(explained: dict[str, Any]) -> str:
    said = []
    for chip in CHIPS:
        found, rows = explained[chip], gains(explained[chip])
        total = sum(gain for _, gain in rows[:SHOWN])
        said.append(
            f"{chip}: {found['int8']['snr_db']:.1f} dB on {found['images']} images, "
            f"{found['int8']['right']} of them read right where float reads "
            f"{found['float']['right']}. Without the error of `{rows[0][0]}` alone they were "
            f"{rows[0][1]:.1f} dB more; the {SHOWN} layers of the figure add up to {total:.1f} dB, "
            f"and each of the other {len(rows) - SHOWN} brings {rows[SHOWN][1]:.2f} dB at most."
        )
    return "\n\n".join([*said, "![Gain where one layer makes no error](figures/left.svg)"])


def figure_bytes() -> bytes:
    """The figure of what is left, SVG."""
    explained = _explained()
    return as_svg(figures.layers_left({chip: gains(explained[chip])[:SHOWN] for chip in CHIPS}))


if __name__ == "__main__":
    page = repository() / PAGE
    print(atomic_write(page, filled(page.read_text("utf8"), blocks())))
    print(atomic_write(repository() / "docs" / "figures" / "left.svg", figure_bytes()))
