"""The picture of docs/architecture.md, drawn from the import contract of pyproject.toml.

``python tests/architecture.py`` writes it into the page.
"""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "lprnet_nb"
PAGE = ROOT / "docs" / "architecture.md"
BLOCK = re.compile(r"(?<=<!-- house -->\n).*?(?=<!-- /house -->)", re.S)
WIDTH = 58


def layers() -> list[list[str]]:
    """Rooms that are there, top line first, from the contract."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))
    (house,) = [
        contract
        for contract in settings["tool"]["importlinter"]["contracts"]
        if contract["id"] == "house"
    ]
    lines = [re.findall(r"\w+", line) for line in house["layers"]]
    return [there for line in lines if (there := [room for room in line if _file(room).exists()])]


def _file(room: str) -> Path:
    folder = PACKAGE / room
    return folder / "__init__.py" if folder.is_dir() else PACKAGE / f"{room}.py"


def about(room: str) -> str:
    """What a room says of itself: the first line of its docstring."""
    return (ast.get_docstring(ast.parse(_file(room).read_text("utf8"))) or "").partition("\n")[0]


def drawn() -> str:
    """The house as boxes, and a line on every room."""
    edge = "+" + "-" * WIDTH + "+"
    picture = [edge]
    for line in layers():
        share, rest = divmod(WIDTH - len(line) + 1, len(line))
        cells = [room.center(share + (place < rest)) for place, room in enumerate(line)]
        picture += ["|" + "|".join(cells) + "|", edge]
    rows = [
        f"| `{_file(room).relative_to(ROOT).as_posix().removesuffix('__init__.py')}` "
        f"| {about(room)} |"
        for line in layers()
        for room in line
    ]
    table = ["| Room | What is in it |", "|---|---|", *rows]
    return "\n".join(["```text", *picture, "```", "", *table, ""])


if __name__ == "__main__":
    PAGE.write_text(BLOCK.sub(lambda _: drawn(), PAGE.read_text("utf8")), "utf8")
