"""Networks of users in training: what it takes of them, and what is said of those it cannot."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from networks import description

from lprnet_nb.datasets.images import InputFormat, PlateImages, preprocess
from lprnet_nb.errors import DataError, ParameterError
from lprnet_nb.model.lprnet import LPRNET
from lprnet_nb.model.lprnet.training import COLUMNS
from lprnet_nb.model.network_file import network_weights, read_network, write_template
from lprnet_nb.model.trace import float_logits
from lprnet_nb.model.train import TrainConfig, alignment, train
from lprnet_nb.model.trainee import lprnet, read_trainee
from lprnet_nb.steps import train_weights

CLASSES = "01234-"
NETWORK = """
from pathlib import Path
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(12)
        self.dropout = nn.Dropout(0.3)
        self.sequence = nn.Conv1d(12, 12, 3, padding=1)
        self.out = nn.Linear(12, CLASSES)

    def forward(self, x):
        x = self.dropout(torch.relu(self.norm(self.wide(x)))).mean(2)
        return self.out(torch.relu(self.sequence(x)).permute(LAYOUT))

def untrained():
    return Small()

def network():
    module = untrained()
    module.load_state_dict(torch.load(Path(__file__).with_name("w.pth"), weights_only=True))
    return module
"""


@pytest.mark.parametrize("order", ["bgr", "rgb", "gray"])
def test_inputs_are_those_of_preprocess(order):
    planes = 1 if order == "gray" else 3
    mean, scale = tuple(100.3 + np.arange(planes)), tuple(0.013 + 0.001 * np.arange(planes))
    taken = InputFormat(12, 30, mean, scale, order)
    trainee = replace(lprnet(), interface=replace(LPRNET.interface, input=taken))
    images = np.random.default_rng(1).integers(0, 256, (3, 12, 30, 3), np.uint8)
    found = trainee.inputs(images, torch.device("cpu"))
    assert found.is_contiguous() and np.array_equal(found.numpy(), preprocess(images, taken))


def written(folder, text=NETWORK, classes=6, layout="ntc", name="small.py", **facts):
    """A network of 8x12 pixels and 12 steps, and its TOML."""
    order = {"ntc": "0, 2, 1", "tnc": "2, 0, 1"}[layout]
    text = text.replace("CLASSES", str(classes)).replace("LAYOUT", order)
    (folder / name).write_text(text, "utf8")
    toml = description(layout=layout, classes=CLASSES, **facts)
    (folder / name).with_suffix(".toml").write_text(toml, "utf8")
    return folder / name


@pytest.fixture(scope="module")
def stripes():
    """A stripe of one of five colours on each half of a picture: two characters that are easy."""
    colours = np.random.default_rng(1).integers(0, 256, (5, 3))
    labels = [f"{k}{j}" for k in range(5) for j in range(5)]
    images = np.zeros((25, 16, 24, 3), np.uint8)
    for image, (left, right) in zip(images, labels):
        image[:, 2:10], image[:, 14:22] = colours[int(left)], colours[int(right)]
    return PlateImages("stripes", images, tuple(f"{t}.png" for t in labels), tuple(labels))


def config(folder, **options):
    usual = dict(steps=6, batch=8, workers=0, easy_steps=0, align_steps=0, report_plates=4)
    return TrainConfig(folder / "w.pth", folder / "w.checkpoint", **usual | options)


@pytest.mark.parametrize("layout", ["ntc", "tnc"])
def test_a_network_of_ones_own_learns_to_read(tmp_path, stripes, layout):
    """Pictures of another size than its input, no time step or class where LPRNet has them."""
    file = written(tmp_path, layout=layout)
    options = dict(steps=150, learning_rate=0.03, average=0.9, batch=16)
    train(config(tmp_path, **options), stripes, read_trainee(file))
    weights = network_weights(read_network(file))
    logits = float_logits(weights, stripes.fitted((8, 12)))
    from lprnet_nb.decode import decode

    texts = decode(logits, weights.alphabet).texts
    assert np.mean([a == b for a, b in zip(texts, stripes.known_labels)]) > 0.9


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_an_interrupted_run_of_it_ends_in_the_same_weights(tmp_path, stripes, optimizer):
    trainee, made = read_trainee(written(tmp_path)), {}
    for name, stops in (("straight", (None,)), ("broken", (2, None))):
        (tmp_path / name).mkdir()
        for stop in stops:
            path = train(
                config(tmp_path / name, optimizer=optimizer), stripes, trainee, stop_at=stop
            )
        made[name] = torch.load(path, weights_only=True)
    for key, value in made["straight"].items():
        assert torch.equal(value, made["broken"][key]), key
    torch.manual_seed(0)
    fresh = trainee.build().state_dict()
    unlearnt = [
        name
        for name, value in fresh.items()
        if torch.equal(value.half(), made["broken"][name].half())
    ]
    assert not unlearnt  # a Conv1d's weights are no view in channels last


def test_a_run_is_of_its_file(tmp_path, stripes):
    file = written(tmp_path)
    train(config(tmp_path, steps=1), stripes, read_trainee(file))
    file.write_text(file.read_text("utf8").replace("relu", "tanh"), "utf8")
    with pytest.raises(ParameterError, match="is of a run with network="):
        train(config(tmp_path, steps=2), stripes, read_trainee(file))


def test_it_starts_from_weights_of_its_own(tmp_path, stripes):
    trainee = read_trainee(written(tmp_path))
    first = train(config(tmp_path, steps=1), stripes, trainee)
    (tmp_path / "more").mkdir()
    options = dict(steps=1, learning_rate=1e-9, start_from=first)
    found = train(config(tmp_path / "more", **options), stripes, trainee)
    first, found = (torch.load(path, weights_only=True)["out.weight"] for path in (first, found))
    assert torch.equal(first, found)
    torch.save({"out.weight": torch.zeros(2, 2)}, tmp_path / "other.pth")
    (tmp_path / "third").mkdir()
    with pytest.raises(DataError, match="weights other do not fit the network: .*wide.weight"):
        train(config(tmp_path / "third", start_from=tmp_path / "other.pth"), stripes, trainee)


def test_its_steps_look_side_by_side_over_the_plate(tmp_path):
    columns = read_trainee(written(tmp_path, width=24)).columns
    assert len(columns) == 24 and columns[0] == pytest.approx(94 / 48)
    assert columns[-1] == pytest.approx(94 - 94 / 48)
    told = alignment(np.array([[2.0, 48.0, 93.0]]), np.array([[0, 1, 2]]), 5, columns)[0]
    assert {int(k): int(told[k]) for k in np.flatnonzero(told != 5)} == {0: 0, 12: 1, 23: 2}
    assert COLUMNS.tolist() == [*range(11, 83, 4)] and len(COLUMNS) == LPRNET.steps


WRONG = {
    "no function": (lambda text: text.replace("untrained", "other"), "has no function untrained"),
    "one that raises": (
        lambda text: text.replace("return Small()", "raise OSError('gone')"),
        r"it raises OSError \(line \d+\): gone",
    ),
    "no module": (lambda text: text.replace("return Small()", "return 3"), "gives a int, not"),
    "does not run": (lambda text: text.replace("Linear(12", "Linear(9"), "does not run on .1, 3"),
    "other classes": (
        lambda text: text.replace("CLASSES)", "7)"), "7 classes; the class list has 6",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_trained_is_named(tmp_path, name):
    change, said = WRONG[name]
    with pytest.raises(DataError, match=said):
        read_trainee(written(tmp_path, change(NETWORK)))


def test_only_a_ctc_network_of_layers_is_trained(tmp_path):
    with pytest.raises(DataError, match="training needs an output of kind ctc"):
        read_trainee(written(tmp_path, kind="logits"))
    (tmp_path / "small.onnx").touch()
    with pytest.raises(DataError, match="is a Python file with a function untrained"):
        read_trainee(tmp_path / "small.onnx")


def test_the_command_takes_it_and_not_a_class_list_beside_it(tmp_path, stripes):
    file, folder = written(tmp_path), tmp_path / "plates"
    folder.mkdir()
    for image, label in zip(stripes.images, stripes.known_labels):
        cv2.imwrite(str(folder / f"{label}.png"), image)
    (folder / "labels.csv").write_text("".join(f"{t}.png,{t}\n" for t in stripes.known_labels))
    options = dict(
        steps=1, batch=4, seed=0, images=folder, start_from=None, learning_rate=1e-3, device="cpu",
        network=file,
    )  # fmt: skip
    made = train_weights(tmp_path / "w.pth", classes=None, **options)
    assert "sequence.weight" in torch.load(made, weights_only=True)
    with pytest.raises(ParameterError, match="--classes does not go with --network"):
        train_weights(tmp_path / "x.pth", classes=file, **options)


def test_the_example_can_be_trained(tmp_path):
    file = write_template(tmp_path / "mine")[0]
    assert read_trainee(file).steps == 24
