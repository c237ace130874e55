"""Model cards: the figures are those of the plates, and the tables say them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lprnet_nb.datasets.alphabet import PUBLISHED, Alphabet
from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.errors import DataError, ParameterError
from lprnet_nb.model.network_file import network_weights, read_network
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.model.train import exact_match
from lprnet_nb.model.weights import Weights
from lprnet_nb.proof import card

WRAPPED = """
import torch.nn.functional as F
from torch import nn
from lprnet_nb.model import own

class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = own.load_own_weights().network("image")

    def forward(self, x):
        return self.inner(F.avg_pool2d(x, 2))

def network():
    return Wrapped()
"""
TOML = """
[input]
height = 48
width = 188
mean = 127.5
scale = 0.0078125

[output]
layout = "nct"
"""
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


def test_a_network_of_ones_own_is_read_at_its_own_size(monkeypatch, tmp_path):
    """LPRNet as somebody's file, of a larger input that it brings to its own."""
    monkeypatch.setattr(card, "load_published", lambda: generate_plates(40, 5, workers=0))
    (tmp_path / "mine.py").write_text(WRAPPED, "utf8")
    characters = "".join(PUBLISHED.characters)
    (tmp_path / "mine.toml").write_text(TOML + f'classes = "{characters}"\n', "utf8")
    own, mine = load_own_weights(), network_weights(read_network(tmp_path / "mine.py"))
    facts = card.measure_card(mine, 155)
    drawn = generate_plates(155, card.SEED, workers=0)
    halved = np.stack([_halved(image) for image in drawn.fitted((48, 188)).images])
    right = round(155 * exact_match(own, replace(drawn, images=halved)))
    rows = {row["set"]: row["k"] for row in facts["rows"]}
    assert rows["generated, severity 1, the default"] == pytest.approx(right, abs=2)
    assert rows["published photographs"] > 30  # the 40 that stand for them
    assert list(facts["margins"]) == ["mine", "published"]


def _halved(image: np.ndarray) -> np.ndarray:
    return image.reshape(24, 2, 94, 2, 3).mean((1, 3)).round().astype(np.uint8)


def test_other_classes_and_too_few_plates_are_refused():
    toy = Weights("toy", {"a": torch.zeros(1)}, Alphabet(tuple("AB-"), blank=2))
    with pytest.raises(ParameterError, match="another class list"):
        card.measure_card(toy)
    with pytest.raises(ParameterError, match="at least 155"):
        card.measure_card(load_own_weights(), 100)
