"""How many plates, and how many of their characters, are read right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import ParameterError

GAP = "∅"  # stands for "no character" in alignments: a character dropped or inserted


def check_pairs(labels: Sequence[str], predictions: Sequence[str]) -> None:
    """Refuse lists that are empty or of different lengths.

    Raises
    ------
    ParameterError
    """
    if len(labels) != len(predictions):
        raise ParameterError(
            f"{len(labels)} labels but {len(predictions)} predictions: give one "
            "prediction for each label, in the same order."
        )
    if not len(labels):
        raise ParameterError("no labels: accuracy is not defined over an empty set.")


def correct(labels: Sequence[str], predictions: Sequence[str]) -> np.ndarray:
    """Which plates are read exactly right, bool ``[N]``."""
    check_pairs(labels, predictions)
    return np.array([a == b for a, b in zip(labels, predictions)])


def exact_match(labels: Sequence[str], predictions: Sequence[str]) -> float:
    """Share of plates with every character right and none too many.

    >>> exact_match(["皖A1", "皖A2"], ["皖A1", "皖A22"])
    0.5
    """
    return float(correct(labels, predictions).mean())


def align(label: str, prediction: str) -> list[tuple[str, str]]:
    """A cheapest alignment of two texts: pairs of characters, `GAP` where one has none.

    Substitution, insertion and deletion cost 1 each (Levenshtein); among equally cheap alignments,
    a substitution goes before a gap, from the end of the texts backwards.

    >>> align("皖A11", "皖A1")
    [('皖', '皖'), ('A', 'A'), ('1', '∅'), ('1', '1')]
    """
    if label == prediction:
        return list(zip(label, prediction))
    rows, columns = len(label), len(prediction)
    cost = [[i + j if not (i and j) else 0 for j in range(columns + 1)] for i in range(rows + 1)]
    for i in range(1, rows + 1):
        for j in range(1, columns + 1):
            cost[i][j] = min(
                cost[i - 1][j - 1] + (label[i - 1] != prediction[j - 1]),
                cost[i - 1][j] + 1,
                cost[i][j - 1] + 1,
            )
    pairs = []
    i, j = rows, columns
    while i or j:
        if i and j and cost[i][j] == cost[i - 1][j - 1] + (label[i - 1] != prediction[j - 1]):
            i, j = i - 1, j - 1
            pairs.append((label[i], prediction[j]))
        elif i and cost[i][j] == cost[i - 1][j] + 1:
            i -= 1
            pairs.append((label[i], GAP))
        else:
            j -= 1
            pairs.append((GAP, prediction[j]))
    return pairs[::-1]


def edit_distance(label: str, prediction: str) -> int:
    """Levenshtein distance.

    >>> edit_distance("皖AK383K", "宁AK383")
    2
    """
    return sum(a != b for a, b in align(label, prediction))


def character_accuracy(labels: Sequence[str], predictions: Sequence[str]) -> float:
    """1 less the edit distance over the labels' length, both summed over all plates.

    Can be negative where predictions are much longer than labels.

    >>> character_accuracy(["皖A12"], ["皖A1"])
    0.75
    """
    check_pairs(labels, predictions)
    length = sum(len(label) for label in labels)
    if not length:
        raise ParameterError("all labels are empty: character accuracy is not defined.")
    return 1.0 - sum(edit_distance(a, b) for a, b in zip(labels, predictions)) / length


@dataclass(frozen=True)
class Confusion:
    """Counts of what was read for what, by alignment.

    Attributes
    ----------
    characters
        The characters that occur, sorted, then `GAP`; they name rows and columns.
    counts
        int64 ``[K, K]``: ``counts[i, j]`` times character i of a label was read as character j. The
        last column counts dropped characters, the last row inserted ones.
    """

    characters: tuple[str, ...]
    counts: np.ndarray

    def accuracy(self) -> dict[str, tuple[int, int]]:
        """By character: how often it was read right, and how often the labels have it."""
        return {
            character: (int(self.counts[k, k]), int(self.counts[k].sum()))
            for k, character in enumerate(self.characters[:-1])
            if self.counts[k].any()
        }

    def worst(self, limit: int = 10) -> list[tuple[str, str, int]]:
        """The most frequent errors as (label's character, read as, times), `GAP` for none."""
        wrong = self.counts - np.diag(np.diag(self.counts))
        order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
        rows, columns = np.unravel_index(order, wrong.shape)
        return [
            (self.characters[i], self.characters[j], int(wrong[i, j]))
            for i, j in zip(rows, columns)
            if wrong[i, j]
        ]


def confusion(labels: Sequence[str], predictions: Sequence[str]) -> Confusion:
    """Count what was read for what over all plates, each aligned with its label."""
    check_pairs(labels, predictions)
    characters = (*sorted(set("".join(labels)) | set("".join(predictions))), GAP)
    index = {character: k for k, character in enumerate(characters)}
    counts = np.zeros((len(characters), len(characters)), np.int64)
    for label, prediction in zip(labels, predictions):
        for a, b in align(label, prediction):
            counts[index[a], index[b]] += 1
    return Confusion(characters, counts)


def error_kinds(labels: Sequence[str], predictions: Sequence[str]) -> dict[str, int]:
    """How the wrong plates are wrong: too short, too long, or of the right length.

    >>> error_kinds(["皖A11", "皖A12", "皖A13"], ["皖A1", "皖A12", "皖B13"])
    {'short': 1, 'long': 0, 'substituted': 1}
    """
    check_pairs(labels, predictions)
    kinds = {"short": 0, "long": 0, "substituted": 0}
    for label, prediction in zip(labels, predictions):
        if len(prediction) < len(label):
            kinds["short"] += 1
        elif len(prediction) > len(label):
            kinds["long"] += 1
        elif prediction != label:
            kinds["substituted"] += 1
    return kinds
