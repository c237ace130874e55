from __future__ import annotations

import random

import pytest

from lprnet_nb.errors import EngineError
from lprnet_nb.runtime.bmodel_file import Instructions, read_contents, read_instructions


@pytest.mark.parametrize("chip", ["BM1684", "BM1684X", "BM1688"])
def test_tells_chip_and_tensors(bmodel, chip):
    contents = read_contents(bmodel(chip).path)
    [graph] = contents.graphs
    [stage] = graph.stages
    assert contents.chip == chip and not graph.dynamic
    assert stage.inputs[0].shape == (1, 3, 24, 94) and stage.inputs[0].dtype == "BM_FLOAT32"
    assert stage.outputs[0].shape == (1, 68, 18) and stage.outputs[0].scale == 1.0


def _broken(data: bytes, kind: str) -> bytes:
    metadata = 64 + int.from_bytes(data[8:12], "little")
    if kind == "weights":  # BM1684 stores them first
        return (
            data[: metadata + 5000] + bytes([data[metadata + 5000] ^ 1]) + data[metadata + 5001 :]
        )
    return {
        "empty": b"",
        "garbage": b"plate" * 999,
        "magic": b"\0" + data[1:],
        "head only": data[:64],
        "truncated": data[:-1],
        "half": data[: len(data) // 2],
        "no metadata": data[:64] + bytes(metadata - 64) + data[metadata:],
    }[kind]


@pytest.mark.parametrize(
    "kind, message",
    [
        ("empty", "is empty"),
        ("garbage", "not a BModel"),
        ("magic", "not a BModel"),
        ("head only", "truncated"),
        ("truncated", "truncated"),
        ("half", "truncated"),
        ("no metadata", "damaged"),
        ("weights", "do not match the SHA-256"),
    ],
)
def test_refuses_a_broken_file(bmodel, tmp_path, kind, message):
    path = tmp_path / "broken.bmodel"
    path.write_bytes(_broken(bmodel("BM1684").path.read_bytes(), kind))
    with pytest.raises(EngineError, match=message) as error:
        read_contents(path)
    assert str(path) in str(error.value)


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(EngineError, match="No such file"):
        read_contents(tmp_path / "none.bmodel")


def test_damaged_metadata_never_does_more_than_raise(bmodel, tmp_path):
    data = bmodel("BM1684").path.read_bytes()
    metadata = int.from_bytes(data[8:12], "little")
    dice = random.Random(5)
    path = tmp_path / "damaged.bmodel"
    refused = 0
    for _ in range(200):
        damaged = bytearray(data)
        for _ in range(20):
            damaged[64 + dice.randrange(metadata)] = dice.randrange(256)
        path.write_bytes(damaged)
        try:
            read_contents(path)
        except EngineError:
            refused += 1
    assert refused > 20


@pytest.mark.parametrize("chip", ["BM1684", "BM1684X"])
def test_instructions_are_those_of_the_file(bmodel, chip, tmp_path):
    path = bmodel(chip).path
    found = read_instructions(path)
    assert found.compute > 20 and found.memory > 20 and found.like(found) == 1.0
    data = path.read_bytes()
    start = data.index(found.code[:256])
    changed = tmp_path / "changed.bmodel"
    changed.write_bytes(data[:start] + bytes([data[start] ^ 1]) + data[start + 1 :])
    other = read_instructions(changed)
    assert found.like(other) == pytest.approx(1 - 1 / len(found.code))
    assert found.like(Instructions(0, 0, b"")) == 0.0
    changed.write_bytes(data[:-1])
    with pytest.raises(EngineError, match="truncated"):
        read_instructions(changed)
