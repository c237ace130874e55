"""Classes of a recognizer: which character each output channel stands for."""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..inputs import note, read_text

# Class order of the published weights (sirius-ai/LPRNet_Pytorch, data/load_data.py): 31 provinces,
# 10 digits, 24 letters without I and O, then I, O, and the CTC blank.
PUBLISHED_CLASSES = (
    "京沪津渝冀晋蒙辽吉黑苏浙皖闽赣鲁豫鄂湘粤桂琼川贵云藏陕甘青宁新"
    "0123456789ABCDEFGHJKLMNPQRSTUVWXYZIO-"
)
PROVINCES = PUBLISHED_CLASSES[:31]

# Written into plates by hand, by detectors and by input methods, and not part of them.
_NOT_OF_PLATES = frozenset("·•・･‧∙⋅●'\"`“”‘’「」 \t\r\n\u00a0\u3000\u200b\u200e\u200f\ufeff")
_NOT_OF_LISTS = frozenset(",;，；、'\"[](){}")


@dataclass(frozen=True)
class Alphabet:
    """Characters by class index, and which index is the CTC blank.

    Parameters
    ----------
    characters
        One text per class, the blank's included (by custom ``"-"``); commonly one character, but
        class names of several characters are read as such.
    blank
        Index of the CTC blank.
    """

    characters: tuple[str, ...]
    blank: int

    def __post_init__(self) -> None:
        if "" in self.characters:
            raise DataError("class list: a class has no text. Give each a character or a name.")
        if len(set(self.characters)) != len(self.characters):
            twice = sorted({c for c in self.characters if self.characters.count(c) > 1})
            raise DataError(f"class list: {''.join(twice)!r} occurs more than once.")
        if not 0 <= self.blank < len(self.characters):
            raise DataError(
                f"class list: blank index {self.blank} is outside 0 to {len(self.characters) - 1}."
            )

    @property
    def size(self) -> int:
        """Number of classes, the blank included."""
        return len(self.characters)

    @property
    def classes(self) -> str:
        """All characters in class order, as one string."""
        return "".join(self.characters)

    @property
    def listed(self) -> str | list[str]:
        """`classes`, or a list where a class name has several characters: for keys and JSON."""
        return self.classes if len(self.classes) == self.size else list(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """Class indices of a text, int64 ``[len(text)]``; of class names the longest that fits.

        Raises
        ------
        DataError
            When a character is not a class, or is the blank.

        Examples
        --------
        >>> PUBLISHED.encode("皖A1").tolist()
        [12, 41, 32]
        """
        indices, position = [], 0
        while position < len(text):
            name = self._name_at(text, position)
            if not name:
                raise DataError(
                    f"label {text!r}: character {text[position]!r} at position "
                    f"{position + 1} is not in the class list. Correct the label, or "
                    "name the class list of your weights."
                )
            indices.append(self.characters.index(name))
            position += len(name)
        return np.array(indices, np.int64)

    def _name_at(self, text: str, position: int) -> str:
        """The longest class, the blank aside, that a text goes on with; "" for none."""
        for length in range(self.longest, 0, -1):
            if text[position : position + length] in self._readable:
                return text[position : position + length]
        return ""

    @cached_property
    def longest(self) -> int:
        """Characters of the longest class name."""
        return max(map(len, self.characters))

    def writes(self, text: str) -> bool:
        """Whether a text is written in classes, the blank aside."""
        if self.longest == 1:
            return self._readable.issuperset(text)
        try:
            return bool(len(self.encode(text))) or not text
        except DataError:
            return False

    def normalize(self, text: str) -> str:
        """A text as the classes write it, see `normalize`; what is no class stays to be refused.

        Examples
        --------
        >>> PUBLISHED.normalize(" 皖ａ·12b34 ")
        '皖A12B34'
        """
        return normalize(text, self._readable)

    @cached_property
    def _readable(self) -> frozenset[str]:
        return frozenset(self.characters) - {self.characters[self.blank]}

    def decode(self, indices: Iterable[int]) -> str:
        """Text of class indices; blanks are not dropped here (that is CTC's affair)."""
        return "".join(self.characters[int(index)] for index in indices)


PUBLISHED = Alphabet(tuple(PUBLISHED_CLASSES), blank=67)


def with_blank(characters: str, blank: int) -> Alphabet:
    """Characters in class order, with the blank ``-`` as class number `blank`.

    Raises
    ------
    DataError
        When there is no such place, or a character occurs twice.
    """
    if not 0 <= blank <= len(characters):
        raise DataError(f"blank index {blank} is outside 0 to {len(characters)}.")
    return Alphabet((*characters[:blank], "-", *characters[blank:]), blank)


def normalize(text: str, known: Container[str]) -> str:
    """A plate as it is meant: half width, the known case, without dots, spaces and quotes.

    Only characters that are not in `known` are changed, so that a class list may hold any of them.
    """
    return "".join(_known(character, known) for character in text)


def _known(character: str, known: Container[str]) -> str:
    if character in known:
        return character
    half = _half_width(character)
    for form in (half, half.upper(), half.lower()):
        if form in known:
            return form
    return "" if half in _NOT_OF_PLATES else character


def _half_width(character: str) -> str:
    return chr(ord(character) - 0xFEE0) if "！" <= character <= "～" else character


def read_alphabet(path: str | Path, *, blank: int | None = None) -> Alphabet:
    """Read a class list: one line of characters, or one character a line; the blank is ``-``.

    Where the list has none, `blank` is the index that it has among the network's classes.

    Spaces, quotes, commas and brackets between the characters are passed over, and full-width
    letters taken as half-width ones; a note says so.

    Raises
    ------
    DataError
        When the file cannot be read or has no blank.
    """
    written = "".join(read_text(path, "class list").split())
    text = "".join(_half_width(c) for c in written)
    if any(text.count(c) > 1 for c in _NOT_OF_LISTS):  # a class occurs once, a separator often
        text = "".join(c for c in text if c not in _NOT_OF_LISTS)
    if text != written:
        note(
            f"class list {path}: quotes, separators or full width were dropped; there are "
            f"{len(text)} classes."
        )
    if blank is not None and "-" not in text:
        return with_blank(text, blank)
    if blank is not None and text.index("-") != blank:
        raise DataError(
            f"class list {path}: the blank '-' is number {text.index('-')} in it, and --blank says "
            f"{blank}. Leave one of them out."
        )
    if "-" not in text:
        raise DataError(
            f"class list {path}: no '-' for the CTC blank. Add it at the place that "
            "the blank has in your network's output."
        )
    try:
        return Alphabet(tuple(text), text.index("-"))
    except DataError as error:
        raise DataError(f"{error} Mend {path}.") from error
