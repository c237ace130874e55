from __future__ import annotations

import json
from pathlib import Path

import pytest

from lprnet_nb.errors import ParameterError
from lprnet_nb.measure import parameters
from lprnet_nb.measure.parameters import check, placed
from lprnet_nb.toolchain.nntc.strategies import NNTC_STRATEGIES
from lprnet_nb.toolchain.strategies import recommended


def test_lists_are_parsed_from_text_and_from_sequences():
    p = check(
        CHIPS="bm1684x, BM1684",
        PRECISIONS="INT8,fp32",
        BATCHES="1,4",
        IMAGES="0",
        STRATEGIES="kl,mse",
        DECODERS="greedy",
        OUTPUT_DIR="out",
    )
    assert p.chips == ("BM1684X", "BM1684") and p.precisions == ("int8", "fp32")
    assert p.batches == (1, 4) and p.images == 0
    assert [asked.name for asked in p.strategies] == ["kl", "mse"]
    assert p.output == Path("out")
    assert check(CHIPS=["BM1688"], BATCHES=2).batches == (2,)
    assert check().output is None and check(OUTPUT_DIR="").output is None


def strategy_file(folder: Path, **fields: object) -> str:
    path = folder / f"{len(list(folder.iterdir()))}.json"
    path.write_text(json.dumps(fields))
    return str(path)


def test_strategies_are_what_they_are_on_each_chip_of_the_toolchain():
    [asked] = check(CHIPS="BM1684X,BM1684", STRATEGIES="recommended").strategies
    assert asked.by_chip == {chip: recommended(chip) for chip in ("BM1684X", "BM1684")}
    [asked] = check(CHIPS="BM1684", STRATEGIES="tutorial", TOOLCHAIN="nntc").strategies
    assert asked.by_chip == {"BM1684": NNTC_STRATEGIES["tutorial"]}
    assert [asked.name for asked in check(PRECISIONS="int8").strategies] == ["kl", "recommended"]
    assert check(PRECISIONS="fp32", TOOLCHAIN="nntc").strategies == ()  # nothing to quantize


@pytest.mark.parametrize("given", [{}, {"STRATEGIES": "auto", "DECODERS": "auto"}])
def test_what_is_not_named_suits_the_network_and_the_classes(given):
    usual, own, classes = (
        check(**given, **more) for more in ({}, {"NETWORK": "a.py"}, {"CLASSES": "classes.txt"})
    )
    assert [len(p.strategies) for p in (usual, own, classes)] == [2, 1, 2]
    assert [p.decoders[-1] for p in (usual, own, classes)] == ["plate", "beam", "beam"]
    assert check(**given | {"DECODERS": "beam"}, NETWORK="a.py").decoders == ("beam",)
    for name in ("STRATEGIES", "DECODERS"):
        with pytest.raises(ParameterError, match="'auto' is not known"):
            check(**{name: "auto,greedy"})


def test_two_strategies_of_one_name_are_refused(tmp_path):
    file = strategy_file(tmp_path, name="kl", method="mse")
    [asked] = check(CHIPS="BM1684", STRATEGIES=file).strategies
    assert (asked.name, asked.by_chip["BM1684"].method) == ("kl", "mse")
    for names in (("kl", file), (file, "kl")):
        with pytest.raises(ParameterError, match=f"two of {', '.join(names)} are called 'kl'"):
            check(STRATEGIES=names)


def test_a_recommendation_under_a_registry_name_that_is_another_strategy(tmp_path, monkeypatch):
    monkeypatch.setenv("LPRNET_DATA", str(tmp_path))
    place = tmp_path / "models" / "BM1684X" / "recommended.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps({"strategy": {"name": "mse", "method": "mse", "about": "Here."}}))
    check(CHIPS="BM1684X", STRATEGIES="mse,recommended")  # the same, described otherwise
    place.write_text(json.dumps({"strategy": {"name": "mse", "method": "max"}}))
    with pytest.raises(ParameterError, match="mse and recommended for BM1684X are different"):
        check(CHIPS="BM1684X", STRATEGIES="mse,recommended")


def test_auto_is_a_backend_by_name(monkeypatch):
    monkeypatch.setattr(parameters, "device_there", lambda: False)
    assert check().backend == check(BACKEND="auto").backend == "emulator"
    assert check(TOOLCHAIN="nntc", PRECISIONS="fp32").backend == "simulator"
    assert check(BACKEND="simulator").backend == "simulator"
    monkeypatch.setattr(parameters, "device_there", lambda: True)
    assert check().backend == check(TOOLCHAIN="nntc", PRECISIONS="fp32").backend == "device"
    assert check(BACKEND="emulator").backend == "emulator"


@pytest.mark.parametrize(
    "given, message",
    [
        ({"CHIP": "BM1684X"}, "'CHIP' is not known. There are: DATA,.*CHIPS"),
        ({"chips": "BM1684X"}, "'chips' is not known"),
        ({"CHIPS": "BM9999"}, "Choose from BM1684, BM1684X, BM1688, CV186X"),
        ({"CHIPS": "BM1684,"}, "empty entry"),
        ({"CHIPS": "BM1684,bm1684"}, "twice"),
        ({"PRECISIONS": "int4"}, "fp32, fp16, bf16, int8"),
        ({"BATCHES": "0"}, "from 1 to 256"),
        ({"BATCHES": "1,1"}, "twice"),
        ({"IMAGES": -1}, "from 0 to"),
        ({"IMAGES": True}, "from 0 to"),
        ({"STRATEGIES": "best"}, "Choose from recommended, "),
        ({"DECODERS": "psychic"}, "greedy, beam, plate"),
        ({"BACKEND": "gpu"}, "auto, "),
        ({"BATCH_MEAN": "none"}, "batch, image"),
        ({"DATA": "publishd"}, "auto, published, generated, or the path"),
        ({"TOOLCHAIN": "gcc"}, "mlir, nntc"),
        ({"DATA": "skip-unknown:auto"}, "only a folder of one's own .* Name it"),
        ({"BMODELS": "a.bmodel"}, "run as they are. .* --trust, in a notebook TRUST = True"),
        ({"BMODELS": "a.bmodel", "TRUST": 1}, "neither True nor False"),
        ({"MEAN": "127.5"}, "--mean: for BMODELS, and none is named"),
        ({"BMODELS": "a.bmodel", "TRUST": True, "SCALE": "1,2"}, "one number, or three"),
        ({"BMODELS": "a.bmodel", "TRUST": True, "PIXEL_FORMAT": "gray"}, "Choose bgr or rgb"),
        ({"NETWORK": "a.py", "STRATEGIES": "kl-in-out"}, "'kl-in-out' names layers or a form that"),
        ({"NETWORK": "a.py", "STRATEGIES": "mse-ends,qat"}, "'qat' names .* such as mse-ends"),
    ],
)
def test_what_is_impossible_is_refused_with_what_is_valid(given, message):
    with pytest.raises(ParameterError, match=message):
        check(**given)


def test_a_folder_of_which_unknown_labels_are_skipped_is_placed_like_any_other(tmp_path):
    found = check(DATA=f"skip-unknown:{tmp_path}")
    assert found.data == f"skip-unknown:{tmp_path}"
    assert placed("DATA", f"skip-unknown:{tmp_path}") == f"skip-unknown:{tmp_path}"
    with pytest.raises(ParameterError, match="no-such-folder"):
        check(DATA="skip-unknown:no-such-folder")


def test_bmodels_from_elsewhere_are_found_from_anywhere(tmp_path, monkeypatch):
    (tmp_path / "v.bmodel").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    found = check(
        BMODELS="v.bmodel", TRUST=True, MEAN="0", SCALE="0.0039215686", PIXEL_FORMAT="rgb"
    )
    assert found.bmodels == (str(tmp_path / "v.bmodel"),)
    assert placed("BMODELS", "v.bmodel") == str(tmp_path / "v.bmodel")
    assert check().bmodels == check(BMODELS="").bmodels == ()
