"""Every command of the pages is one that the command line takes: names, options, values."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from lprnet_nb.cli import app

UsageError = typer.BadParameter.__base__  # what Typer raises of a command line that is wrong
ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/*.md", "samples/**/*.md", "lprnet_nb/**/*.md")
    for page in ROOT.glob(pattern)
)
FENCED = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.M | re.S)
INDENTED = re.compile(r"^    (lprnet-nb .*)$", re.M)


def commands(page: Path) -> list[str]:
    """Command lines of a page's blocks, without their comments."""
    text = page.read_text("utf8")
    blocks = FENCED.findall(text) + INDENTED.findall(text)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [
        line[line.index("lprnet-nb ") :] for line in lines if "lprnet-nb " in line.split("#")[0]
    ]


def check(line: str) -> None:
    """Let the command line take a command as it would before it runs it."""
    words = shlex.split(line, comments=True)[1:]
    for end in ("|", ">", "&&", ";", "||", "2>"):
        words = words[: words.index(end)] if end in words else words
    with typer.main.get_command(app).make_context("lprnet-nb", words) as context:
        while isinstance(context.command, TyperGroup):
            rest = [*context._protected_args, *context.args]
            name, command, rest = context.command.resolve_command(context, rest)
            assert command is not None
            context = command.make_context(name, rest, parent=context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_command_line_takes_what_the_page_says(page):
    wrong = {}
    for line in commands(page):
        try:
            check(line)
        except UsageError as error:
            wrong[line] = error.format_message()
    assert wrong == {}


def test_a_wrong_option_would_be_noticed():
    with pytest.raises(UsageError, match="--chips"):
        check("lprnet-nb compile BM1684X --chips BM1684X")
