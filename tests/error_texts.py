"""docs/errors.md, from the package's `raise` statements: `python tests/error_texts.py`."""

from __future__ import annotations

import ast
import inspect
from functools import cache
from pathlib import Path

from lprnet_nb import errors

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "errors.md"
KINDS = {
    name
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, errors.LprnetError)
}
ABOUT = (
    "# What can go wrong, in its own words\n\n"
    "Every error text of the package, by the file that raises it; `…` stands for a value. Each says"
    " what is wrong and where, and what to do. `lprnet-nb` ends with exit status 2 after one of"
    " them, without a traceback. Made from the code by `python tests/error_texts.py`; a test holds"
    " the two together.\n"
)


@cache
def texts() -> dict[str, list[str]]:
    """Error texts by file of the package, in the order in which they stand there."""
    found: dict[str, list[str]] = {}
    for path in sorted((ROOT / "lprnet_nb").rglob("*.py")):
        if "inside" in path.parts:  # runs in the compiler's Python
            continue
        for node in ast.walk(ast.parse(path.read_text("utf8"))):
            call = node.exc if isinstance(node, ast.Raise) else None
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") in KINDS and call.args:
                text = _text(call.args[0])
                if text.strip("… "):
                    place = path.relative_to(ROOT / "lprnet_nb").as_posix()
                    found.setdefault(place, []).append(text)
    return found


def _text(node: ast.expr) -> str:
    """A message with its values left out."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return "…"


def page() -> str:
    """The whole of docs/errors.md."""
    parts = [ABOUT]
    for place, lines in texts().items():
        listed = "\n".join(f"- {' '.join(line.split())}" for line in dict.fromkeys(lines))
        parts.append(f"\n## `{place}`\n\n{listed}\n")
    return "".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), "utf8")
