"""Model cards: the figures are those of the plates, and the tables say them."""

from __future__ import annotations

import pytest
import torch

from lprnet_nb.datasets.alphabet import Alphabet
from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.errors import DataError, ParameterError
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.model.train import exact_match
from lprnet_nb.model.weights import Weights
from lprnet_nb.proof import card

FACTS = {
    "name": "w",
    "digest": "0",
    "seed": 1,
    "rows": [{"set": "photographs", "k": 894, "n": 1000}],
    "provinces": {"京": [9, 10], "沪": [5, 10]},
    "margins": {"w": {-0.05: 0.5, 0.0: 0.894}, "published": {-0.05: 0.25, 0.0: 0.9}},
}


def test_tables_have_intervals_worst_provinces_first_and_a_curve_each():
    lines = card.card_text(FACTS).splitlines()
    assert "| photographs | 1,000 | 0.894 | 0.873–0.912 |" in lines
    assert "Provinces at the default severity, worst first: 沪 0.500, 京 0.900." in lines
    assert lines[-4:] == [
        "| | -5 % | 0 % |",
        "| --- | --- | --- |",
        "| w | 0.500 | 0.894 |",
        "| published | 0.250 | 0.900 |",
    ]


def test_figures_are_those_of_the_plates(monkeypatch):
    def missing():
        raise DataError("no network")

    monkeypatch.setattr(card, "load_published", missing)
    said = []
    facts = card.measure_card(load_own_weights(), 155, report=said.append)
    rows = {row["set"]: (row["k"], row["n"]) for row in facts["rows"]}
    right, plates = rows["generated, severity 1, the default"]
    assert plates == 155 and rows["generated, severity 0.5"][1] == 31
    drawn = generate_plates(155, card.SEED, workers=0)
    assert right == round(155 * exact_match(load_own_weights(), drawn))
    for part in (
        [rows["- of 7 characters"], rows["- of 8 characters"]],
        facts["provinces"].values(),
    ):
        assert [sum(column) for column in zip(*part)] == [right, plates]
    assert len(facts["provinces"]) == 31 and facts["margins"] is None
    assert "no photographs: no network" in said


def test_other_classes_and_too_few_plates_are_refused():
    toy = Weights("toy", {"a": torch.zeros(1)}, Alphabet(tuple("AB-"), blank=2))
    with pytest.raises(ParameterError, match="another class list"):
        card.measure_card(toy)
    with pytest.raises(ParameterError, match="at least 155"):
        card.measure_card(load_own_weights(), 100)
