"""Strategies as data."""

from __future__ import annotations

import json

import pytest

from lprnet_nb.errors import ParameterError
from lprnet_nb.toolchain import strategies
from lprnet_nb.toolchain.chips import CHIPS
from lprnet_nb.toolchain.strategies import (
    METHODS,
    STRATEGIES,
    make_strategy,
    read_strategy,
    recommended,
    strategy_named,
)


def test_registry_is_whole():
    assert all(name == strategy.name and strategy.about for name, strategy in STRATEGIES.items())
    assert {strategy.method for strategy in STRATEGIES.values()} == set(METHODS)
    assert STRATEGIES["kl-450"].images == 450 and STRATEGIES["kl-20"].images == 20
    assert STRATEGIES["kl-in-out"].float_roles == ("input", "output")


@pytest.mark.parametrize(
    "fields, said",
    [
        ({"method": "median"}, "method"),
        ({"images": 0}, "images"),
        ({"colour": "bgr"}, "colour"),
        ({"float_roles": ("x.1",)}, "choose from input"),
        ({"form": "folded"}, "form"),
    ],
)
def test_impossible_fields_are_named(fields, said):
    with pytest.raises(ParameterError, match=said):
        make_strategy(name="mine", **fields)


def test_roles_have_one_order():
    one, other = (
        make_strategy(name="mine", float_roles=roles)
        for roles in (("output", "input"), ("input", "output", "input"))
    )
    assert one == other and one.float_roles == ("input", "output")


def test_key_is_what_decides_the_result():
    one, other = (make_strategy(name=name, about=name) for name in ("a", "b"))
    assert one.key() == other.key() != make_strategy(name="a", method="mse").key()


def test_file_round_trip(tmp_path):
    path = tmp_path / "mine.json"
    mine = make_strategy(name="mine", method="mse", float_roles=("concat",))
    path.write_text(mine.model_dump_json())
    assert read_strategy(path) == strategy_named(str(path)) == mine
    path.write_text(json.dumps({"strategy": mine.model_dump(mode="json"), "evidence": {}}))
    assert read_strategy(path) == mine


@pytest.mark.parametrize("content", ["", "[1]", '{"name": 3}', "not json"])
def test_unreadable_file(tmp_path, content):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(ParameterError):
        read_strategy(path)


def test_unknown_name_lists_what_there_is():
    with pytest.raises(ParameterError, match="recommended, kl, "):
        strategy_named("klx")
    with pytest.raises(ParameterError, match="depends on the chip"):
        strategy_named("recommended")


@pytest.mark.parametrize("chip", CHIPS)
def test_every_chip_has_a_recommendation(chip):
    assert recommended(chip) == strategy_named("recommended", chip)


def test_own_recommendation_comes_first(tmp_path, monkeypatch):
    monkeypatch.setenv("LPRNET_DATA", str(tmp_path))
    place = tmp_path / "models" / "BM1684X"
    place.mkdir(parents=True)
    (place / "recommended.json").write_text(make_strategy(name="mine").model_dump_json())
    assert recommended("bm1684x").name == "mine"
    assert recommended("BM1684").name != "mine"


def test_default_is_in_the_registry():
    assert strategies.DEFAULT in STRATEGIES
