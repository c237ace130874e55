"""What a kit says of itself, and what is refused of what comes back."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kit_results import RUN, model_of, plates_of

from lprnet_nb.cache import file_digest
from lprnet_nb.datasets.images import InputFormat, preprocess
from lprnet_nb.datasets.interface import Interface
from lprnet_nb.errors import DataError, ParameterError
from lprnet_nb.measure import schema
from lprnet_nb.measure.box import (
    box_facts,
    box_runs,
    measured_logits,
    plate_digest,
    read_fitting,
    read_results,
)
from lprnet_nb.proof.kit import kit_digest, kit_for, read_kit, save_kit


def test_boxes_pythons_can_read_the_program():
    source = RUN.read_text("utf8")
    ast.parse(source, feature_version=(3, 6))
    assert "from __future__" not in source  # `annotations` is of 3.7
    pythons = {
        *Path.home().glob(".pyenv/versions/3.*/bin/python"),
        *Path("/usr/bin").glob("python3.[0-9]*[0-9]"),
    }
    for python in pythons:
        subprocess.run([python, "-c", "import sys; compile(sys.stdin.read(), '', 'exec')"],
                       input=source, text=True, encoding="utf8", check=True)  # fmt: skip


def test_times_are_medians_and_quartiles_of_an_image(program):
    found = program.per_image([0.4, 0.1, 0.2, 0.3, 0.5], 2)
    assert found["median"] == 150 and found["least"] == 50 and found["most"] == 250
    assert found["quartiles"] == pytest.approx([75, 225])  # Tukey's hinges, the median left out
    assert (found["calls"], found["images_per_call"]) == (5, 2)
    assert program.per_image([0.1], 1)["quartiles"] == [100, 100]


@pytest.mark.parametrize("layout", ["nct", "ntc", "tnc", "nc1t", "nc"])
def test_the_program_lays_outputs_out_as_the_package_does(program, layout):
    sizes = {"n": 2, "c": 5, "t": 3, "1": 1}
    outputs = np.random.default_rng(0).standard_normal([sizes[axis] for axis in layout])
    interface = Interface(layout=layout, kind="logits")
    assert np.array_equal(program.arranged(outputs, layout), interface.arranged(outputs))


@pytest.mark.parametrize("order", ["bgr", "rgb"])
@pytest.mark.parametrize("mean", [127.5, [90.0, 127.5, 150.0]])
def test_the_program_prepares_pictures_as_the_package_does(program, order, mean):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 12, 3), np.uint8)
    entry = {"stages": [{"inputs": [{"dtype": "BM_FLOAT32", "shape": [2, 3, 8, 12]}]}]}
    how = {"mean": mean, "scale": 0.01, "order": order}
    planes = tuple(mean) if isinstance(mean, list) else (mean,) * 3
    wanted = preprocess(images, InputFormat(8, 12, planes, (0.01,) * 3, order))
    found = program.preprocess(images, entry, {"preprocessing": how})
    assert found.dtype == np.float32 and np.array_equal(found, wanted)


def test_a_kit_says_what_is_in_it(kit):
    found = read_kit(kit)
    assert [model.id for model in found.models] == [
        "fp32_1b",
        "fp32_4b",
        "int8_1b",
        "fp32_combined",
    ]
    combined = found.models[-1]
    assert combined.parts == {"1": "fp32_1b", "4": "fp32_4b"} and combined.record is None
    assert [stage.inputs[0].shape[0] for stage in combined.stages] == [4, 1]
    assert combined.expected == found.models[1].expected
    assert found.plates[0].sha256 == plate_digest(np.load(kit / "plates.npy")[0])
    assert set(found.made) == {"lprnet-nb", "tpu_mlir", "revision"}
    listed = {path.relative_to(kit).as_posix() for path in kit.rglob("*") if path.is_file()}
    assert listed - set(found.files) == {"kit.json", "files.json", "inputs.json"}
    assert not any(part in (kit / "kit.json").read_text("utf8") for part in (str(kit), "/cache"))


def test_a_kit_that_was_changed_is_refused(carried):
    plate = carried / "plates" / "00000.png"
    plate.write_bytes(plate.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"00000.png was changed after the kit was made"):
        read_kit(carried)
    plate.unlink()
    with pytest.raises(DataError, match="00000.png is missing from the kit"):
        read_kit(carried)
    values = json.loads((carried / "kit.json").read_text("utf8"))
    for changes, said in [
        ({"files": {"../secret": "0" * 64}}, "leads out of the kit"),
        ({"format": 2}, "is no kit file: format: Input should be 1"),
        ({"models": []}, "is no kit file: models: List should have at least 1"),
        ({"extra": 1}, "is no kit file: extra: Extra inputs"),
    ]:
        (carried / "kit.json").write_text(json.dumps(values | changes), "utf8")
        with pytest.raises(DataError, match=said):
            read_kit(carried)
    (carried / "kit.json").write_text("no JSON", "utf8")
    with pytest.raises(DataError, match="is no kit file: the whole: Invalid JSON"):
        read_kit(carried)


def test_results_come_back_with_the_logits_that_the_box_gave(kit, results):
    expected = np.load(kit / "expected" / "int8_1b.npy")
    [model] = read_results(results()).models
    assert np.array_equal(measured_logits(model, expected), expected)
    read = read_results(results(0.25))
    [model] = read.models
    logits = measured_logits(model, expected)
    assert np.array_equal(logits[3], expected[3] + np.float32(0.25))
    assert np.array_equal(np.delete(logits, 3, 0), np.delete(expected, 3, 0))
    assert model.programs["plates"].times_ms["inference"].median == 125
    assert read.kit == kit_digest(kit) and read.checks[0].passed


def test_edited_results_are_refused(results, program):
    path = results()
    text = path.read_text("ascii")
    path.write_text(text.replace('"median": 125.0', '"median": 12.0'), "ascii")
    with pytest.raises(DataError, match="was changed after run.py wrote it"):
        read_results(path)
    path.write_text(text.replace('"median": 125.0', '"median": "fast"'), "ascii")
    with pytest.raises(DataError, match=r"models.0.programs.plates.times_ms.inference.median: "):
        read_results(path)
    path.write_text(text[:-100], "ascii")
    with pytest.raises(DataError, match="Invalid JSON"):
        read_results(path)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_results(path.with_name("none.json"))
    # Even with a new seal: logits that have another digest than is said.
    values = json.loads(results(0.25).read_text("ascii"))
    del values["seal"]
    other = program.base64.b64encode(np.zeros((68, 18), np.float32).tobytes()).decode()
    values["models"][0]["programs"]["plates"]["different"]["3"] = other
    program.write_results(str(path), values)
    with pytest.raises(DataError, match="int8_1b, plate 3: logits and digest differ"):
        read_results(path)


def test_results_of_other_plates_models_or_chips_are_refused(kit, results, capsys):
    path = results()
    ours = {"mine": model_of(kit, "int8_1b"), "other": model_of(kit, "fp32_1b")}
    found = box_runs([path], plates_of(kit), ours)
    assert list(found) == ["mine"] and found["mine"].model.id == "int8_1b"
    assert "also measured" not in capsys.readouterr().err
    with pytest.raises(DataError, match=r"other plates: 5 there, 5 here, 4 of them the same"):
        box_runs([path], plates_of(kit, 1), ours)
    with pytest.raises(DataError, match=r"no model of this report: it is of int8_1b \("):
        box_runs([path], plates_of(kit), {"other": model_of(kit, "fp32_1b")})
    with pytest.raises(DataError, match="is of a BM1688, and the report's models are for BM1684X"):
        read_fitting([path], plates_of(kit), ["BM1684X"])
    with pytest.raises(DataError, match="none.json cannot be read: No such file"):
        read_fitting([path.with_name("none.json")], plates_of(kit), ["BM1688"])


def test_of_models_that_are_one_file_each_has_its_own_times(kit, results, program):
    path = results()
    values = json.loads(path.read_text("ascii"))
    del values["seal"]
    values["models"].append(values["models"][0] | {"id": "int8_1b_2core"})
    program.write_results(str(path), values)
    same = model_of(kit, "int8_1b")
    found = box_runs([path], plates_of(kit), {"int8_1b_2core": same, "int8_1b": same, "x": same})
    assert {name: run.model.id for name, run in found.items()} == {
        "int8_1b_2core": "int8_1b_2core",
        "int8_1b": "int8_1b",
        "x": "int8_1b",
    }


def test_two_boxes_of_one_model_are_refused(kit, results, tmp_path):
    first = Path(shutil.copy(results(), tmp_path / "first.json"))
    with pytest.raises(DataError, match=r"first.json and .*results.json both measured int8_1b"):
        read_fitting([first, results()], plates_of(kit), ["BM1688"])


def test_what_did_not_come_through_is_said(kit, results, program, capsys):
    path = results()
    values = json.loads(path.read_text("ascii"))
    del values["seal"]
    fallen = {"passed": False, "detail": "the process fell with SIGSEGV", "seconds": None}
    values["models"][0]["programs"]["plates"] = fallen | {"temperature": {}}
    values["models"].append(values["models"][0] | {"id": "foreign", "sha256": "0" * 64})
    program.write_results(str(path), values)
    assert box_runs([path], plates_of(kit), {"mine": model_of(kit, "int8_1b")}) == {}
    said = capsys.readouterr().err
    assert "mine has no readings: the process fell with SIGSEGV" in said
    assert "also measured foreign, which are no models of this report" in said


def test_times_are_by_program_and_the_sdks_own_is_preferred(kit, results):
    ours = {"mine": model_of(kit, "int8_1b")}
    run = box_runs([results()], plates_of(kit), ours)["mine"]
    spread = run.plates.times_ms["inference"]

    def with_times(**programs):
        done = {
            name: run.plates.model_copy(update={"times_ms": times})
            for name, times in programs.items()
        }
        return replace(run, model=run.model.model_copy(update={"programs": done}))

    slow = spread.model_copy(update={"median": 9.0})
    steps = {"inference": spread, "runtime": slow}
    assert with_times(plates=steps).call == (9.0, "run alone, DEVIO")
    every = with_times(plates=steps, bmcv={"decode": slow}, bmrt_test={"bmrt_test": spread})
    assert every.call == (spread.median, "bmrt_test")
    assert every.times == {
        every.program: {**steps, "bmrt_test": spread},
        "bmcv": {"decode": slow},
    }
    assert every.stages == {"inference": spread.median}


def test_the_manifest_says_what_the_box_is_and_not_whose(kit, results):
    path = results()
    facts = schema.written(schema.BoxFacts, box_facts(path))
    assert facts["kit"] == kit_digest(kit) and facts["sha256"] == file_digest(path)
    assert facts["checks"] == {"passed": 1, "failed": []}
    assert {"board", "chip", "sdk", "driver", "sail", "runtime", "clock_hz"} <= set(facts["box"])
    assert not {"host", "sail_module", "bmrt_test"} & set(facts["box"])


def test_impossible_kits_are_refused(tmp_path, kit):
    for values, said in [
        ({"CHIPS": "BM1684,BM1688"}, "a kit is for one chip"),
        ({"CHIPS": "BM1684X", "CORES": "1,2"}, "cores=2 is not possible: BM1684X has 1"),
        ({"CHIPS": "BM1699"}, "chip 'BM1699' is not known"),
    ]:
        with pytest.raises(ParameterError, match=said):
            kit_for(tmp_path / "new", **values)
    with pytest.raises(ParameterError, match="is there already. Name a new folder"):
        kit_for(tmp_path, CHIPS="BM1688")
    with pytest.raises(ParameterError, match="backend 'torch' makes no kit"):
        save_kit(tmp_path / "new", [], plates_of(kit), backend="torch")
    assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".new*"))
