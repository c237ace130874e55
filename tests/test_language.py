"""English and Chinese: the catalog is complete, its pairs agree, and its terms are the field's."""

from __future__ import annotations

import csv
import json
import re
import string
import subprocess
from pathlib import Path

import language as tool
import mistune
import nbformat
import pytest

from lprnet_nb import cli
from lprnet_nb.errors import ParameterError
from lprnet_nb.language import (
    LANGUAGES,
    Text,
    catalog,
    clauses,
    listed,
    markdown_messages,
    phrase,
    sentences,
    speak,
    speaking,
    spoken,
    translated_markdown,
    within,
)
from lprnet_nb.places import repository
from lprnet_nb.steps import write_notebooks

PAIRS = [(one.id, one.string) for one in tool.read() if one.id]
GLOSSARY = [
    (row["english"], row["chinese"])
    for row in csv.DictReader((tool.PO.parent / "glossary.csv").read_text("utf8").splitlines())
]
FIELD = re.compile(r"\{[^{}]*\}")
CODE = re.compile(r"`[^`]*`|<code>.*?</code>")
# Not words of today: what they mean is said plainly.
DATED = re.compile(
    r"leaves? away|left away|belongs? into|company of|cannot be had|can be had|in other company",
    re.I,
)


def _fields(text: str) -> list[tuple[str | None, str | None]]:
    return sorted(
        (name, form) for _, name, form, _ in string.Formatter().parse(text) if name is not None
    )


def _numbers(text: str) -> set[str]:
    without = re.sub(r"\{[^{}]*\}|<[^>]*>|\]\([^)]*\)", " ", CODE.sub(" ", text))
    return set(re.findall(r"(?<![A-Za-z\d.])\d[\d,.]*\d|(?<![A-Za-z\d.])\d", without))


def test_every_message_has_its_chinese_and_none_is_left_over() -> None:
    known, found = {one for one, _ in PAIRS}, set(tool.messages())
    assert sorted(found - known) == [], "run `python tests/language.py` and translate"
    assert sorted(known - found) == [], "run `python tests/language.py`"
    assert [one for one, chinese in PAIRS if not chinese.strip()] == []


def test_the_catalog_is_as_its_tool_writes_it() -> None:
    assert tool.PO.read_text("utf8") == tool.updated(tool.messages(), tool.read())


@pytest.mark.parametrize("part", ["placeholders", "numbers", "code", "links", "tags"])
def test_pairs_agree(part: str) -> None:
    take = {
        "placeholders": lambda text: _fields(text) if "|" not in text[:1] else [],
        "numbers": _numbers,
        "code": lambda text: sorted(CODE.findall(text)),
        "links": lambda text: sorted(re.findall(r"\]\(([^)]*)\)|href=\"([^\"]*)\"", text)),
        "tags": lambda text: sorted(re.findall(r"</?\w+", text)),
    }[part]
    prose = {m for m, place in tool.messages().items() if place.endswith(".ipynb")}
    wrong = {
        english: (take(english), take(chinese))
        for english, chinese in PAIRS
        if not (part == "placeholders" and english in prose and "`" in english)
        and take(english) != take(chinese)
    }
    assert wrong == {}


def test_terms_are_those_of_the_glossary() -> None:
    wrong = [
        (english, term, chinese)
        for term, words in GLOSSARY
        for english, chinese in PAIRS
        if re.search(rf"\b(?:{term})\b", FIELD.sub(" ", CODE.sub(" ", english)), re.I)
        and not re.search(words, chinese)
    ]
    assert wrong == []


def test_chinese_is_set_as_chinese() -> None:
    for english, chinese in PAIRS:
        assert not re.search(r"[\u4e00-\u9fff][,;:?!]|[,;?!][\u4e00-\u9fff]", chinese), chinese
        assert not re.search(r"[\u4e00-\u9fff][A-Za-z]|[A-Za-z\d][\u4e00-\u9fff]", re.sub(
            r"<[^>]*>|\{[^}]*\}", "", chinese)) or "「" in chinese, chinese  # fmt: skip
        shown = re.sub(r"<code>.*?</code>", "", str(mistune.html(chinese)))
        assert "**" not in shown, f"bold does not close: {chinese}"
        assert english.count("**") == chinese.count("**"), chinese


def test_the_english_is_of_today() -> None:
    files = [*(repository() / "notebooks").glob("*.ipynb"), *tool.PACKAGE.rglob("*.j2")]
    files += [*tool.PACKAGE.rglob("*.py"), *(repository() / "docs").glob("*.md")]
    files += [repository() / "README.md"]
    found = {path.name: words for path in files if (words := DATED.findall(path.read_text("utf8")))}
    assert found == {}


def test_the_english_is_spelled_right(tmp_path: Path) -> None:
    (tmp_path / "messages.txt").write_text("\n".join(tool.messages()), "utf8")
    done = subprocess.run(
        ["codespell", str(tmp_path / "messages.txt")], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_contents_lead_to_headings_in_chinese_too() -> None:
    for path in sorted((repository() / "notebooks").glob("*.ipynb")):
        cells = [c.source for c in nbformat.read(path, 4).cells if c.cell_type == "markdown"]
        text = "\n\n".join(translated_markdown(source, "zh") for source in cells)
        headings = {h.replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.M)}
        wanted = set(re.findall(r"\]\(#([^)]*)\)", text))
        assert wanted <= headings and (wanted or path.stem == "00_start")


def test_markdown_is_taken_apart_and_put_together() -> None:
    source = (
        "## 2 The network\n\nOne paragraph\nin two lines.\n\n"
        "- an item that\n  goes on\n- another\n\n"
        "> **Before.** A quote\n> of two.\n\n| a | b |\n|---|---|\n| c | 1 |\n\n```\nkept | as\n```"
    )
    assert markdown_messages(source) == [
        "The network",
        "One paragraph in two lines.",
        "an item that goes on",
        "another",
        "**Before.** A quote of two.",
        "| a | b |",
        "| c | 1 |",
    ]
    chinese = translated_markdown(source, "zh")
    assert chinese.startswith("## 2 网络结构\n\nOne paragraph in two lines.\n\n- an item that")
    assert chinese.endswith("| a | b |\n|---|---|\n| c | 1 |\n\n```\nkept | as\n```")
    assert translated_markdown(source, "en") == source


def test_what_is_of_lprnet_alone_stays_marked_in_chinese() -> None:
    """So that a notebook in Chinese hides it, too, once NETWORK is set; code has no marks."""
    mark = '<span class="of-lprnet">'
    source = (
        f"## 2 {mark}The network</span>\n\n- {mark}The answer</span>\n- The{mark} answer</span>"
    )
    assert translated_markdown(source, "zh") == (
        f"## 2 {mark}网络结构</span>\n\n- {mark}答案</span>\n- 答案"
    )
    assert markdown_messages(source) == ["The network", "The answer", "The answer"]
    kept = translated_markdown(f"{mark}The</span> answer {mark}b</span>", "zh")
    assert kept == "The answer b"


def test_a_phrase_knows_itself_in_each_language() -> None:
    inner = phrase("The answer")
    outer = phrase("Table {number}", number=inner)
    assert outer == "Table The answer" and outer.variants["zh"] == "表 答案"
    with speaking("zh"):
        assert phrase("The answer") == "答案" and within(inner, "en") == "The answer"
    assert spoken() == "en"
    assert clauses([inner, "b"]).variants == {"en": "The answer; b", "zh": "答案；b"}
    assert listed(["a", inner]).variants["zh"] == "a 和答案"
    assert sentences(inner, "b.", "c").variants == {"en": "The answer b. C", "zh": "答案 b. c"}
    assert within({inner: [inner, 1]}, "zh") == {"答案": ["答案", 1]}
    assert set(catalog()) == {one for one, _ in PAIRS} and set(LANGUAGES) == {"en", "zh"}
    assert isinstance(outer, Text)


def test_another_language_is_refused() -> None:
    with pytest.raises(ParameterError, match="LANGUAGE='fr' is not known. Choose from en, zh"):
        speak("fr")


def test_every_command_has_its_help_in_chinese(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPTIONS_PANEL_TITLE", "ARGUMENTS_PANEL_TITLE", "COMMANDS_PANEL_TITLE"):
        monkeypatch.setattr(cli.rich_utils, name, "")
    waiting, seen = [cli._commands("zh")], 0
    while waiting:
        command = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        options = [one.help for one in command.params if getattr(one, "help", None)]
        for said in (command.help, *options):
            assert said and re.search("[一-鿿]|^[A-Z0-9、。 ]+$|^BM", said)
            seen += 1
    assert seen > 200 and cli.rich_utils.OPTIONS_PANEL_TITLE == "选项"
    assert cli._commands("en").help.startswith("LPRNet from PyTorch")


def test_the_command_line_speaks_what_is_named_else_what_the_system_asks_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LANGUAGE", "zh_CN:en")
    assert cli._language(["report", "--help"]) == "zh"
    assert cli._language(["report", "--language=en", "--help"]) == "en"
    monkeypatch.setenv("LANGUAGE", "fr:zh")
    assert cli._language(["report"]) == "en"
    assert cli._language(["report", "--language", "zh"]) == "zh"


def test_notebooks_are_written_in_chinese_and_nothing_is_overwritten(tmp_path: Path) -> None:
    written = write_notebooks(tmp_path / "zh", "zh")
    assert len(written) == 8
    notebook = nbformat.read(tmp_path / "zh" / "03_quantize.ipynb", 4)
    nbformat.validate(notebook)
    assert notebook.cells[0].source.startswith("# 03 · 逐层量化到 INT8")
    assert 'LANGUAGE = "zh"' in notebook.cells[1].source
    english = nbformat.read(repository() / "notebooks" / "03_quantize.ipynb", 4)
    assert notebook.cells[0].metadata["english"] == english.cells[0].source
    code = [[c.source for c in one.cells if c.cell_type == "code"] for one in (notebook, english)]
    assert code[0][1:] == code[1][1:]
    before = {path: path.read_bytes() for path in written}
    foreign = tmp_path / "mine" / "05_compare.ipynb"
    foreign.parent.mkdir()
    foreign.write_text(json.dumps({}))
    for folder in (tmp_path / "zh", tmp_path / "mine"):
        with pytest.raises(ParameterError, match="is there already"):
            write_notebooks(folder, "zh")
    assert {path: path.read_bytes() for path in written} == before
    assert [path.name for path in foreign.parent.iterdir()] == ["05_compare.ipynb"]
