"""Plates and weights of one's own through the whole command line: a Latin toy of 37 classes.

The toy is trained here, then traced, compiled for BM1684X in INT8 on its own pictures, read on the
emulator and the simulator, and judged.
"""

from __future__ import annotations

import csv
import json

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from lprnet_nb.cli import app
from lprnet_nb.datasets.alphabet import read_alphabet
from lprnet_nb.datasets.folder import load_plates
from lprnet_nb.decode import decode
from lprnet_nb.measure.parameters import check
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.model.trace import float_logits
from lprnet_nb.model.weights import load_weights
from lprnet_nb.proof.survey_bench import write_scenes
from lprnet_nb.report.run import profile_values

CLASSES = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-"
PLATES = 12


def run(*arguments) -> str:
    done = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def latin_plate(text: str, rng: np.random.Generator) -> np.ndarray:
    """Twice the network's input in size, black on light, in a stock font."""
    image = np.full((48, 188, 3), rng.integers(190, 240), np.uint8)
    for place, character in enumerate(text):
        cv2.putText(
            image,
            character,
            (10 + 44 * place, 40),
            cv2.FONT_HERSHEY_SIMPLEX,
            1.5,
            (20, 20, 20),
            4,
            cv2.LINE_AA,
        )
    return image


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The same twelve plates with labels in file names, in a CSV and in a JSON; class list."""
    root = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(0)
    texts = [
        "".join(rng.choice(list(CLASSES[10:36]), 2)) + "".join(rng.choice(list(CLASSES[:10]), 2))
        for _ in range(PLATES)
    ]
    rows = []
    for folder in ("named", "csv", "json"):
        (root / folder).mkdir()
    for number, text in enumerate(texts):
        image = cv2.imencode(".png", latin_plate(text, rng))[1].tobytes()
        plain = f"{number:02d}.png"
        (root / "named" / f"{text}_{number:02d}.png").write_bytes(image)
        for folder in ("csv", "json"):
            (root / folder / plain).write_bytes(image)
        rows.append((plain, text))
    with open(root / "csv" / "labels.csv", "w", newline="", encoding="utf8") as file:
        csv.writer(file).writerows([("file", "plate"), *rows])
    (root / "json" / "labels.json").write_text(json.dumps(dict(rows)), "utf8")
    (root / "classes.txt").write_text(CLASSES + "\n", "utf8")
    return root


@pytest.fixture(scope="module")
def trained(toy):
    """Weights of 37 classes, trained by the command line on the folder with names."""
    path = toy / "toy.pth"
    run(
        "train",
        path,
        "--images",
        toy / "named",
        "--classes",
        toy / "classes.txt",
        "--steps",
        110,
        "--batch",
        6,
        "--learning-rate",
        0.003,
        "--device",
        "cpu",
    )
    return path


def test_labels_are_the_same_wherever_they_are_written(toy):
    alphabet = read_alphabet(toy / "classes.txt")
    sets = {name: load_plates(toy / name, alphabet) for name in ("named", "csv", "json")}
    assert sets["csv"].labels == sets["json"].labels
    assert sorted(sets["named"].labels) == sorted(sets["csv"].labels)
    by_text = dict(zip(sets["named"].labels, sets["named"].images))
    for text, image in zip(sets["csv"].labels, sets["csv"].images):
        np.testing.assert_array_equal(image, by_text[text])


def test_own_plates_and_weights_go_through_the_whole_chain(compiler, toy, trained, monkeypatch):
    monkeypatch.setenv("LPRNET_DATA", str(toy / "data"))
    own = ("--weights", trained, "--classes", toy / "classes.txt")
    weights = load_weights(trained, read_alphabet(toy / "classes.txt"))
    plates = load_plates(toy / "csv", weights.alphabet)
    logits = float_logits(weights, plates)
    expected = decode(logits, weights.alphabet).texts
    learnt = sum(a == b for a, b in zip(expected, plates.labels))
    assert learnt >= PLATES - 2

    traces = run("trace", "--batches", 1, *own).split()
    traced = torch.jit.load(traces[0])
    assert traced(torch.zeros(1, 3, 24, 94)).shape == (1, 37, 18)

    strategy = toy / "kl-12.json"
    strategy.write_text(json.dumps({"name": "kl-12", "images": PLATES, "tune": 0}), "utf8")
    (bmodel,) = run(
        "compile",
        "BM1684X",
        "--precisions",
        "int8",
        "--batches",
        1,
        "--strategy",
        strategy,
        "--data",
        toy / "json",
        *own,
    ).split()
    for backend in ("emulator", "simulator"):
        results = toy / f"{backend}.json"
        run("infer", bmodel, toy / "csv", "--backend", backend, "--output", results)
        read = json.loads(results.read_text("utf8"))
        same = sum(read[name] == text for name, text in zip(plates.names, expected))
        assert same >= PLATES - 2, (backend, read, expected)
        judged = json.loads(run("evaluate", results, toy / "json" / "labels.json"))
        right = sum(read[name] == label for name, label in zip(plates.names, plates.labels))
        assert judged["images"] == PLATES and judged["exact_match"] == right / PLATES
        assert right >= PLATES - 3
    assert json.loads((toy / "emulator.json").read_text("utf8")) == json.loads(
        (toy / "simulator.json").read_text("utf8")
    )


def test_a_ccpd_folder_goes_through_the_whole_chain(compiler, tmp_path, monkeypatch):
    monkeypatch.setenv("LPRNET_DATA", str(tmp_path / "data"))
    scenes = write_scenes(tmp_path / "ccpd", 24)  # whole pictures, labels in their names
    (bmodel,) = run(
        "compile",
        "BM1684X",
        "--precisions",
        "int8",
        "--batches",
        1,
        "--strategy",
        "kl-20",
        "--data",
        scenes,
        "--weights",
        "generated",
    ).split()
    run("infer", bmodel, scenes, "--backend", "emulator", "--output", tmp_path / "read.json")
    read = json.loads((tmp_path / "read.json").read_text("utf8"))
    plates = load_plates(scenes)
    assert sorted(read) == sorted(plates.names)
    truth = dict(zip(plates.names, plates.labels))
    (tmp_path / "truth.json").write_text(json.dumps(truth), "utf8")
    right = sum(read[name] == text for name, text in truth.items())
    in_float = decode(float_logits(load_own_weights(), plates)).texts
    assert sum(read[name] == text for name, text in zip(plates.names, in_float)) >= 22
    assert right >= 20
    judged = json.loads(run("evaluate", tmp_path / "read.json", tmp_path / "truth.json"))
    assert judged["images"] == 24 and judged["exact_match"] == right / 24
    found = json.loads(run("survey", bmodel, scenes))
    assert (found["images"], found["right"], found["skipped"]) == (24, right, 0)


def test_a_report_on_other_classes_decodes_without_chinese_grammars(toy):
    given = {"CLASSES": str(toy / "classes.txt")}
    for more, decoders in (({}, "beam"), ({"DECODERS": "plate"}, "plate")):
        assert check(**profile_values("quick", given | more)).decoders[-1] == decoders
    assert check(**profile_values("quick", {})).decoders == ("greedy", "plate")
