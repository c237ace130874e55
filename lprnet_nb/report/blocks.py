"""Parts of committed pages that are made from data, each between two comments of a tag."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import DataError


def block(text: str, tag: str) -> str:
    """What stands between ``<!-- tag -->`` and ``<!-- /tag -->``, the two comments included.

    Raises
    ------
    DataError
        When there is no such part, or more than one.
    """
    found = re.findall(rf"<!-- {tag} -->\n.*?<!-- /{tag} -->", text, re.S)
    if len(found) != 1:
        raise DataError(
            f"the page has {len(found)} parts '<!-- {tag} -->' … '<!-- /{tag} -->'. Put the two "
            "comments once where it goes."
        )
    return found[0]


def filled(text: str, made: Mapping[str, str]) -> str:
    """A page with its parts made anew, by tag."""
    for tag, part in made.items():
        text = text.replace(block(text, tag), f"<!-- {tag} -->\n{part}\n<!-- /{tag} -->")
    return text


def markdown(table: Sequence[Sequence[str]]) -> str:
    """Rows as a Markdown table, the first its head."""
    head, *body = ["| " + " | ".join(row) + " |" for row in table]
    return "\n".join([head, "|" + "---|" * len(table[0]), *body])


def markdown_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows by column as a Markdown table."""
    return markdown([list(rows[0]), *[[str(cell) for cell in row.values()] for row in rows]])
