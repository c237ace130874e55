"""English and Chinese of every text: one catalog of pairs (gettext PO), read by babel.

A text is written in English where it is needed, as `phrase("{count} plates", count=8)`. What comes
back is a `Text`: a string in the language that is spoken now, which knows itself in the others.
``python tests/language.py`` puts new messages into the catalog; a test holds it complete.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from .errors import ParameterError

ENGLISH = "en"
LANGUAGES = {ENGLISH: "English", "zh": "中文"}
HTML = {ENGLISH: "en", "zh": "zh-Hans"}
CATALOG = "locale/zh_CN.po"
_spoken = ENGLISH


class Text(str):
    """A text in the language spoken when it was made, with its other languages.

    Parameters
    ----------
    variants
        The text by language, all of `LANGUAGES`.
    """

    variants: Mapping[str, str]

    def __new__(cls, variants: Mapping[str, str]) -> Text:
        made = super().__new__(cls, variants[_spoken])
        made.variants = variants
        return made

    def __getnewargs__(self) -> tuple[Any, ...]:
        return (self.variants,)


def speak(language: str) -> None:
    """Speak a language from here on.

    Raises
    ------
    ParameterError
        For one that the catalog does not have.
    """
    global _spoken
    _spoken = known(language)


def known(language: str) -> str:
    """A language that there is.

    Raises
    ------
    ParameterError
        For another.
    """
    if language not in LANGUAGES:
        raise ParameterError(
            f"LANGUAGE={language!r} is not known. Choose from {', '.join(LANGUAGES)}."
        )
    return language


def spoken() -> str:
    """The language that is spoken now."""
    return _spoken


@contextlib.contextmanager
def speaking(language: str) -> Iterator[None]:
    """Speak a language for a while."""
    before = _spoken
    speak(language)
    try:
        yield
    finally:
        speak(before)


def phrase(message: str, /, **values: object) -> Text:
    """A message with its values, in every language.

    Parameters
    ----------
    message
        English, a literal: ``python tests/language.py`` looks for it in the code. Values stand in
        braces, with a format where they need one.
    values
        By name; a `Text` among them is put in by its own translation.

    Examples
    --------
    >>> phrase("{share:.1f} points", share=0.51)
    '0.5 points'
    """
    return every(
        lambda language: translated(message, language).format(
            **{name: within(value, language) for name, value in values.items()}
        )
    )


def counted(count: int, one: str, many: str, /, **values: object) -> Text:
    """A message for one of something, or the message for any other count of it.

    Parameters
    ----------
    count
        Stands in both messages as ``{count}``, if at all.
    one, many
        As `phrase`'s message.
    values
        As `phrase`'s.

    Examples
    --------
    >>> counted(1, "{count} draw", "{count} draws"), counted(1000, "{count} draw", "{count} draws")
    ('1 draw', '1,000 draws')
    """
    return phrase(one if count == 1 else many, count=number(count), **values)


def number(value: int) -> str:
    """A count with thousands apart."""
    return f"{value:,}"


def text(value: str) -> Text:
    """A text as it is, or a plain string by its translation, if the catalog has one."""
    if isinstance(value, Text):
        return value
    return every(lambda language: translated(value, language))


def heading(key: str) -> Text:
    """A table's column for people, of the name that programs use.

    >>> heading("only_float")
    'only float'
    """
    return text(key.replace("_", " "))


def every(make: Callable[[str], str]) -> Text:
    """The text that a function makes for each language."""
    return Text({language: make(language) for language in LANGUAGES})


def within(value: Any, language: str) -> Any:
    """A value as it stands in a text of a language, texts in lists and tables too."""
    if isinstance(value, Text):
        return value.variants[language]
    if isinstance(value, list | tuple):
        return type(value)(within(one, language) for one in value)
    if isinstance(value, dict):
        return {within(k, language): within(v, language) for k, v in value.items()}
    return value


def together(variants: Mapping[str, Any]) -> Any:
    """What `within` took apart into languages; strings that differ are a `Text`.

    Examples
    --------
    >>> found = {"share": 0.5, "said": [phrase("yes")]}
    >>> together({language: within(found, language) for language in LANGUAGES}) == found
    True
    """
    english = variants[ENGLISH]
    if isinstance(english, dict | list):
        keys = english if isinstance(english, dict) else range(len(english))
        parts = {key: together({name: one[key] for name, one in variants.items()}) for key in keys}
        return parts if isinstance(english, dict) else list(parts.values())
    if isinstance(english, str) and len(set(variants.values())) > 1:
        return Text(variants)
    return english


def sentences(*texts: str) -> Text:
    """Sentences side by side: with a capital after a full stop, in Chinese without spaces.

    Examples
    --------
    >>> sentences("One.", "two.")
    'One. Two.'
    """
    return every(lambda language: side_by_side([within(one, language) for one in texts], language))


def side_by_side(texts: Iterable[str], language: str) -> str:
    """Sentences of one language, joined as it joins them; markup stays markup.

    Examples
    --------
    >>> side_by_side(["一。", "", "二。"], "zh")
    '一。二。'
    """
    whole = ""
    for text in filter(None, texts):
        apart = " " if whole and not _CLOSED.search(whole) else ""
        if language == ENGLISH and whole.endswith("."):
            text = text[:1].upper() + text[1:]
        whole = whole + apart + text
    return whole


_CLOSED = re.compile("[。；！？：](</[a-z]+>)*$")  # what no space follows


def clauses(texts: Iterable[str]) -> Text:
    """Parts of one sentence, by semicolons."""
    parts = list(texts)
    marks = {ENGLISH: "; "}
    return every(
        lambda language: marks.get(language, "；").join(str(within(one, language)) for one in parts)
    )


# Chinese characters beside each other have no space between them.
_SPACED = re.compile(r"(?<=[\u4e00-\u9fff）]) (?=和)|(?<=和) (?=[\u4e00-\u9fff])")


def listed(names: Iterable[str]) -> Text:
    """Names in a sentence.

    Examples
    --------
    >>> listed(["a", "b", "c"])
    'a, b and c'
    >>> listed(["a", "b", "c"]).variants["zh"]
    'a、b 和 c'
    """
    found = list(names)
    marks = {ENGLISH: (", ", " and ")}

    def joined(language: str) -> str:
        comma, last = marks.get(language, ("、", " 和 "))
        *before, end = [str(within(name, language)) for name in found] or [""]
        whole = comma.join(before) + last + end if before else end
        return whole if language == ENGLISH else _SPACED.sub("", whole)

    return every(joined)


def translated(message: str, language: str) -> str:
    """A message in a language; as it is where the catalog has none."""
    return message if language == ENGLISH else catalog().get(message, message)


@cache
def catalog() -> dict[str, str]:
    """Chinese by English, of the messages that have both."""
    from babel.messages.pofile import read_po

    with (files(__package__) / CATALOG).open("rb") as source:
        return {str(one.id): str(one.string) for one in read_po(source) if one.id and one.string}


_HEADING = re.compile(r"#+ (?:\d+ (?:· )?)?")
_OPENING = re.compile(r"\s*(?:[-*]|\d+\.) |> ?")
_MARK = '<span class="of-lprnet">'
PASSAGE = re.compile(f"{_MARK}.*?</span>", re.DOTALL)  # in prose: of LPRNet alone
LEFT_OUT = "*What stands here of LPRNet alone is left out.*"
_MARKS = re.compile(f"{_MARK}|</span>")
_COMMENT = re.compile("<!--.*?-->", re.DOTALL)
_CONTENTS = re.compile(r"\[(.+)\]\(#(\d+)-[^)]*\)")


def markdown_parts(source: str) -> Iterator[tuple[str, str]]:
    """Parts of a Markdown text: what stays as it is, and the message after it.

    A message is a heading, a paragraph, an item of a list or a row of a table, in one line; an
    empty one has nothing to translate. Comments, which no reader sees, are left out.
    """
    lines = iter(_COMMENT.sub("", source).split("\n"))
    before, message = "", ""
    for line in lines:
        opening = _HEADING.match(line) or _OPENING.match(line)
        quoted = before.startswith(">") and line.startswith("> ")
        if line.startswith("```"):
            if message:
                yield before, message
            before = message = ""
            yield line, ""
            for code in lines:
                yield code, ""
                if code.startswith("```"):
                    break
        elif message and quoted:
            message += " " + line[2:].strip()
        elif message and line.strip() and not opening and not line.startswith("|"):
            message += " " + line.strip()
        else:
            if message:
                yield before, message
            before = opening[0] if opening else ""
            message = line[len(before) :].strip()
            if not message or re.fullmatch(r"[|\s:-]+", message):
                yield line, ""
                before = message = ""
    if message:
        yield before, message


def translated_markdown(source: str, language: str) -> str:
    """A Markdown text in a language, part by part; contents follow the headings they lead to."""
    if language == ENGLISH:
        return source
    lines = []
    for before, message in markdown_parts(source):
        entry = _CONTENTS.fullmatch(message)
        if entry:
            heading = translated(entry[1], language)
            lines.append(f"{before}[{heading}](#{entry[2]}-{heading.replace(' ', '-')})")
        else:
            lines.append(before + (_translated_message(message, language) if message else ""))
    return "\n".join(lines)


def _translated_message(message: str, language: str) -> str:
    """A message in a language: what is of LPRNet alone as a whole stays marked, a part does not."""
    said = translated(_MARKS.sub("", message), language)
    return said if PASSAGE.sub("", message).strip() else f"{_MARK}{said}</span>"


def paragraphs(value: str) -> list[str]:
    """Paragraphs of a plain text, each in one line.

    >>> paragraphs("One\\n  line.\\n\\nTwo.")
    ['One line.', 'Two.']
    """
    return [" ".join(part.split()) for part in value.split("\n\n")]


def translated_paragraphs(value: str, language: str) -> str:
    """A plain text in a language, paragraph by paragraph."""
    return "\n\n".join(translated(part, language) for part in paragraphs(value))


def markdown_messages(source: str) -> list[str]:
    """Messages of a Markdown text that the catalog must have."""
    messages = (_MARKS.sub("", message) for _, message in markdown_parts(source))
    return [
        message
        for message in messages
        if re.search("[A-Za-z]", message) and not _CONTENTS.fullmatch(message)
    ]


def without_lprnet(prose: str) -> str:
    """A notebook's prose for another network: passages marked as LPRNet's are taken out.

    What is a heading then says so; what is nothing is "".

    Examples
    --------
    >>> without_lprnet('One step<span class="of-lprnet"> of 18</span>.')
    'One step.'
    """
    left = PASSAGE.sub("", prose).rstrip()
    said = [line for line in left.splitlines() if line.strip() and not line.startswith("#")]
    return left if said or left in ("", prose) else f"{left}\n\n{LEFT_OUT}"


def leave_out_lprnet(notebook: Any) -> None:
    """Take what is said of LPRNet alone out of a notebook's English prose."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell["source"] = without_lprnet("".join(cell["source"]))
    notebook["cells"] = [cell for cell in notebook["cells"] if cell["source"]]


def translate_cells(notebook: Any, language: str) -> None:
    """Put a notebook's prose into a language; a cell keeps its English in its metadata."""
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            english = english_source(cell)
            cell["metadata"]["english"] = english
            cell["source"] = translated_markdown(english, language)


def english_source(cell: Any) -> str:
    """The English of a cell of prose, be the cell translated or not."""
    kept = cell["metadata"].get("english")
    return kept if isinstance(kept, str) else "".join(cell["source"])
