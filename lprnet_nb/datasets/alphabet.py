"""Classes of a recognizer: which character each output channel stands for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import DataError

# Class order of the published weights (sirius-ai/LPRNet_Pytorch, data/load_data.py): 31 provinces,
# 10 digits, 24 letters without I and O, then I, O, and the CTC blank.
PUBLISHED_CLASSES = (
    "京沪津渝冀晋蒙辽吉黑苏浙皖闽赣鲁豫鄂湘粤桂琼川贵云藏陕甘青宁新"
    "0123456789ABCDEFGHJKLMNPQRSTUVWXYZIO-"
)
PROVINCES = PUBLISHED_CLASSES[:31]


@dataclass(frozen=True)
class Alphabet:
    """Characters by class index, and which index is the CTC blank.

    Parameters
    ----------
    characters
        One character per class, the blank's included (by custom ``"-"``).
    blank
        Index of the CTC blank.
    """

    characters: tuple[str, ...]
    blank: int

    def __post_init__(self) -> None:
        wrong = [c for c in self.characters if len(c) != 1]
        if wrong:
            raise DataError(f"class list: {wrong[0]!r} is not one character. Give one per class.")
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

    def encode(self, text: str) -> np.ndarray:
        """Class indices of a text, int64 ``[len(text)]``.

        Raises
        ------
        DataError
            When a character is not a class, or is the blank.

        Examples
        --------
        >>> PUBLISHED.encode("皖A1").tolist()
        [12, 41, 32]
        """
        indices = np.empty(len(text), np.int64)
        for position, character in enumerate(text):
            try:
                index = self.characters.index(character)
            except ValueError:
                index = self.blank
            if index == self.blank:
                raise DataError(
                    f"label {text!r}: character {character!r} at position "
                    f"{position + 1} is not in the class list. Correct the label, or "
                    "name the class list of your weights."
                )
            indices[position] = index
        return indices

    def decode(self, indices: Iterable[int]) -> str:
        """Text of class indices; blanks are not dropped here (that is CTC's affair)."""
        return "".join(self.characters[int(index)] for index in indices)


PUBLISHED = Alphabet(tuple(PUBLISHED_CLASSES), blank=67)


def read_alphabet(path: str | Path) -> Alphabet:
    """Read a class list: one line of characters, or one character a line; the blank is ``-``.

    Raises
    ------
    DataError
        When the file cannot be read or has no blank.
    """
    try:
        text = Path(path).read_text("utf8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"class list {path}: {error}. Give a UTF-8 text file.") from error
    characters = tuple(text.replace("\r", "").replace("\n", ""))
    if "-" not in characters:
        raise DataError(
            f"class list {path}: no '-' for the CTC blank. Add it at the place that "
            "the blank has in your network's output."
        )
    return Alphabet(characters, characters.index("-"))
