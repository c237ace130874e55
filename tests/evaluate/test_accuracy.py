import pytest

from lprnet_nb.errors import ParameterError
from lprnet_nb.evaluate import (
    GAP,
    align,
    character_accuracy,
    confusion,
    edit_distance,
    error_kinds,
    exact_match,
)

LABELS = ["皖A05100", "皖B12345", "沪C11111"]
READ = ["皖A05100", "皖B1234", "沪D111112"]


def test_exact_match_counts_whole_plates():
    assert exact_match(LABELS, READ) == pytest.approx(1 / 3)


def test_character_accuracy_is_edit_distance_over_label_length():
    labels, read = ["皖A12345", "皖A12345"], ["皖A1234", "沪A123456"]
    assert character_accuracy(labels, read) == pytest.approx(1 - (1 + 2) / 14)


@pytest.mark.parametrize(
    "a, b, distance",
    [
        ("kitten", "sitting", 3),
        ("", "abc", 3),
        ("abc", "", 3),
        ("flaw", "lawn", 2),
        ("皖A11", "皖A1", 1),
        ("same", "same", 0),
    ],
)
def test_edit_distance(a, b, distance):
    assert edit_distance(a, b) == distance


def test_alignment_is_cheapest_and_complete():
    pairs = align("皖AJ998V", "皖AAJ98N")
    assert sum(a != b for a, b in pairs) == 3
    assert "".join(a for a, _ in pairs if a != GAP) == "皖AJ998V"
    assert "".join(b for _, b in pairs if b != GAP) == "皖AAJ98N"


def test_confusion_by_hand():
    table = confusion(["A10", "A10", "B"], ["A1D", "A1", "BB"])
    at = {c: k for k, c in enumerate(table.characters)}
    assert table.characters[-1] == GAP
    assert table.counts.sum() == 8
    assert table.counts[at["0"], at["D"]] == 1
    assert table.counts[at["0"], at[GAP]] == 1
    assert table.counts[at[GAP], at["B"]] == 1
    assert table.accuracy() == {"0": (0, 2), "1": (2, 2), "A": (2, 2), "B": (1, 1)}
    assert {row[2] for row in table.worst()} == {1}
    assert len(table.worst()) == 3


def test_error_kinds():
    assert error_kinds(LABELS, READ) == {"short": 1, "long": 1, "substituted": 0}


@pytest.mark.parametrize("labels, read, word", [(["A"], [], "1 labels but 0"), ([], [], "empty")])
def test_unpaired_lists_are_refused(labels, read, word):
    with pytest.raises(ParameterError, match=word):
        exact_match(labels, read)
