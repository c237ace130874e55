"""Faults that were planted are found, with the cure that removes them; told nothing of where."""

from __future__ import annotations

import json

import numpy as np
import planted
import pytest

from lprnet_nb.evaluate.fidelity import sqnr_db
from lprnet_nb.explain.cures import Cure
from lprnet_nb.explain.explanation import Judge, _best, explain
from lprnet_nb.explain.table import first_cure, gain, headline, helpful, layer_rows
from lprnet_nb.runtime.emulator import Emulator
from lprnet_nb.runtime.pair import Trial

QUICK = "a saturating threshold"


@pytest.fixture(scope="module")
def found(compiler):
    kept = {}

    def of(name):
        if name not in kept:
            made = planted.planted(planted.FAULTS[name])
            kept[name] = made, explain(made.quantized, made.reference, made.images, top=1)
        return kept[name]

    return of


@pytest.mark.parametrize("name", planted.FAULTS)
def test_a_planted_fault_is_found_with_its_cure(found, name):
    fault, (_, said) = planted.FAULTS[name], found(name)
    worst = said["layers"][0]
    assert worst["layer"].startswith(fault.place)
    assert worst["share"] > 0.5
    assert worst["reasons"][0]["kind"] == fault.reason
    gains = {cure["kind"]: cure["gain_db"] for cure in worst["cures"]}
    # Nothing but floats helps as much, and these no more than a little.
    others = [gain for kind, gain in gains.items() if kind not in (fault.cure, "float")]
    assert gains[fault.cure] > max(2, *others)
    assert gains[fault.cure] > gains["float"] - 3


@pytest.mark.parametrize("name", planted.FAULTS)
def test_figures_are_those_of_the_graphs(found, name):
    made, said = found(name)
    reference, int8 = (
        Emulator(folder, arithmetic="interpreter").run(made.images)
        for folder in (made.reference, made.quantized)
    )
    assert said["int8"]["snr_db"] == pytest.approx(sqnr_db(reference, int8), abs=0.1)
    assert sum(row["share"] for row in said["layers"]) == pytest.approx(1, abs=0.01)
    worst = said["layers"][0]
    assert worst["without"]["snr_db"] > said["int8"]["snr_db"] + 2  # what it alone takes away
    assert json.loads(json.dumps(said)) == said


def test_a_mended_threshold_brings_what_was_said(found):
    """The compiler's own graph with the threshold that was advised."""
    made, said = found(QUICK)
    [cure] = [c for c in said["layers"][0]["cures"] if c["kind"] == "threshold"]
    mended = planted.planted(planted.FAULTS[QUICK], threshold=float(cure["do"].split()[1]))
    reference = Emulator(made.reference, arithmetic="interpreter").run(made.images)
    after = Emulator(mended.quantized, arithmetic="interpreter").run(made.images)
    assert sqnr_db(reference, after) == pytest.approx(cure["snr_db"], abs=1.0)


def test_readings_are_counted(found):
    """Against labels where there are some, else against what float reads."""
    made, _ = found(QUICK)

    def read(logits):
        return ["".join(map(str, steps.argmax(-1))) for steps in logits]

    reference = Emulator(made.reference, arithmetic="interpreter").run(made.images)
    wrong = ["0", *read(reference)[1:]]
    for labels, key, of_float in ((wrong, "right", 5), (None, "as_float", 6)):
        said = explain(made.quantized, made.reference, made.images, read=read, labels=labels, top=0)
        assert said["float"][key] == of_float > said["int8"][key]
        assert said["layers"][0]["without"][key] >= said["int8"][key]


def test_images_go_in_goes_of_what_fits(found, monkeypatch):
    made, said = found(QUICK)
    monkeypatch.setattr("lprnet_nb.explain.explanation.VALUES", 1)  # one image at a time
    alone = explain(made.quantized, made.reference, made.images, top=1)
    assert alone["int8"] == said["int8"]
    assert [row["layer"] for row in alone["layers"][:3]] == [r["layer"] for r in said["layers"][:3]]
    for mine, other in zip(alone["layers"], said["layers"]):
        assert mine["alone"]["snr_db"] == pytest.approx(other["alone"]["snr_db"], abs=0.05)
        assert mine["peak"] == pytest.approx(other["peak"])


def test_the_table_says_what_to_try(found):
    _, said = found(QUICK)
    rows = layer_rows(said)
    assert rows[0][0].startswith("/stack/stack.4") and rows[0][4].startswith("+")
    assert "threshold" in headline(said) and "First to try" in headline(said)
    assert helpful({"cures": [{"gain_db": 0.05}]}) == []
    hopeless = {**said, "layers": [{**row, "cures": []} for row in said["layers"]]}
    assert "No cure" in headline(hopeless)
    near = [
        {"kind": "float", "gain_db": 1.8, "do": "f"},
        {"kind": "fork", "gain_db": 1.5, "do": "k"},
    ]
    assert first_cure({"layers": [{"cures": near}]})[1]["kind"] == "fork"
    near[0]["gain_db"] = 2.1
    assert first_cure({"layers": [{"cures": []}, {"cures": near}]})[1]["kind"] == "float"
    assert np.isclose(float(rows[0][1].split()[0]), 100 * said["layers"][0]["share"], atol=0.05)


def test_a_cure_that_removes_all_noise_is_the_best():
    """Its gain has no end: none is said, and it comes before what helps a little."""
    reference = np.arange(8.0, dtype=np.float32).reshape(4, 2)
    judge = Judge(reference, None, None)

    def tried(int8, *outputs):
        names = tuple(f"do {k}" for k in range(len(outputs)))
        return _best(Cure("fork", names, (Trial(),) * len(outputs)), list(outputs), judge, int8)

    whole = tried(reference + 1, reference + 0.5, reference)
    assert (whole["do"], whole["gain_db"], whole["snr_db"]) == ("do 1", None, None)
    tenth = tried(reference + 1, reference + 0.1) | {"kind": "float"}
    assert tenth["gain_db"] == pytest.approx(20, abs=0.01)
    assert tried(reference, reference)["gain_db"] == 0  # there is no noise to remove
    assert gain(whole) > gain(tenth) and helpful({"cures": [whole]}) == [whole]
    exact = [whole | {"kind": "float"}, whole]
    for cures in (exact, [whole, tenth]):
        assert first_cure({"layers": [{"cures": cures}]})[1] == whole
    found = {"chip": "BM1684X", "images": 4, "int8": judge.worth(reference + 1), "layers": []}
    found["layers"] = [{"layer": "a", "share": 1.0, "cures": [whole]}]
    assert "First to try, +inf dB: do 1." in headline(found)
