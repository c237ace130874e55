"""What a notebook leaves: figures, tables and values, shown and, in a report, written."""

from __future__ import annotations

import html
import io
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ..cache import atomic_write
from ..errors import ParameterError

SVG_LIMIT = 200_000  # bytes; a heavier figure is drawn as PNG


class Output:
    """Shows results, and writes them into a report's folder when there is one.

    Parameters
    ----------
    folder
        The report's folder, or None to show only.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.folder = Path(folder) if folder else None

    def figure(self, figure: Figure, name: str, caption: str) -> None:
        """Show a figure; write ``figures/<name>.svg`` (or ``.png`` where that is lighter)."""
        from IPython.display import Image, display

        shown = io.BytesIO()
        figure.savefig(shown, format="png", dpi=144)
        # A Figure made without pyplot has no display of its own in a notebook.
        display(Image(shown.getvalue(), width=int(96 * figure.get_figwidth()), alt=caption))
        if self.folder:
            svg = io.BytesIO()
            # No date and fixed ids: the same figure gives the same bytes.
            figure.savefig(svg, format="svg", metadata={"Date": None})
            kind, data = "svg", svg.getvalue()
            if len(data) > SVG_LIMIT:
                kind, data = "png", _png(figure)
            atomic_write(self._path("figures", name, kind), data)
            self._write("figures", name, {"file": f"{name}.{kind}", "caption": caption})

    def table(self, name: str, rows: list[dict[str, Any]], caption: str) -> None:
        """Show a table, also from within an ``if``; write ``tables/<name>.json``.

        One without rows is neither shown nor written.
        """
        from IPython.display import display

        if not rows:
            return
        if self.folder:
            self._write("tables", name, {"caption": caption, "rows": rows})
        shown = pd.DataFrame(rows).style.set_uuid(name).hide(axis="index")
        # What is text in the rows is text in the page, whatever it looks like.
        shown = shown.set_caption(html.escape(caption)).format_index(escape="html", axis=1)
        display(shown.format(_cell, na_rep="–", escape="html"))

    def json(self, name: str, value: Any) -> None:
        """Write ``<name>.json`` into the report's folder."""
        if self.folder:
            atomic_write(self.folder / f"{_checked(name)}.json", to_json(value))

    def _path(self, part: str, name: str, kind: str) -> Path:
        assert self.folder is not None  # nothing is written without one
        return self.folder / part / f"{_checked(name)}.{kind}"

    def _write(self, part: str, name: str, value: Any) -> None:
        atomic_write(self._path(part, name, "json"), to_json(value))


def _cell(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def _png(figure: Figure) -> bytes:
    """A figure as PNG, coarser where it would be too heavy."""
    for dots in (110, 90, 75, 60):
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=dots)
        if png.tell() <= SVG_LIMIT:
            break
    return png.getvalue()


def to_json(value: Any) -> str:
    """JSON as this project writes it: UTF-8, one-space indent, a final newline, no NaN."""
    return json.dumps(value, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _checked(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*(/[A-Za-z0-9][A-Za-z0-9_.-]*)*", name):
        raise ParameterError(f"{name!r} cannot be a file name here. Use letters, digits, '_', '-'.")
    return name
