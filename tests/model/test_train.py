import json
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from lprnet_nb.datasets.alphabet import PUBLISHED, Alphabet
from lprnet_nb.datasets.generate import Severity, draw_chunk
from lprnet_nb.datasets.images import PlateImages
from lprnet_nb.errors import DataError, ParameterError
from lprnet_nb.model.lprnet.training import COLUMNS
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.model.train import (
    LEAST_DOUBT,
    OBJECTIVES,
    OPTIMIZERS,
    PLAIN_SEED,
    TrainConfig,
    _choose,
    _generated,
    _logits,
    _loss,
    _losses,
    _packed,
    alignment,
    inclusion,
    learning_rate,
    train,
    write_weights,
)
from lprnet_nb.model.trainee import lprnet
from lprnet_nb.model.weights import load_weights

LATIN = Alphabet(tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-"), blank=36)


def config_in(folder, **options):
    defaults = dict(
        output=folder / "weights.pth",
        checkpoint=folder / "state.pt",
        steps=4,
        batch=4,
        report_every=4,
        report_plates=4,
        workers=0,
        easy_steps=2,
        align_steps=3,
    )
    return TrainConfig(**defaults | options)


@pytest.fixture(scope="module")
def latin_plates():
    """Two-letter, two-digit texts in a stock font, black on light: another country's toy."""
    rng = np.random.default_rng(0)
    images, labels = [], []
    for _ in range(6):
        text = "".join(rng.choice(list(LATIN.characters[10:36]), 2)) + "".join(
            rng.choice(list(LATIN.characters[:10]), 2)
        )
        image = np.full((24, 94, 3), 230, np.uint8)
        for place, character in enumerate(text):
            cv2.putText(
                image,
                character,
                (5 + 22 * place, 20),
                cv2.FONT_HERSHEY_SIMPLEX,
                0.75,
                (20, 20, 20),
                2,
                cv2.LINE_AA,
            )
        images.append(image)
        labels.append(text)
    return PlateImages("latin", np.stack(images), tuple(f"{t}.png" for t in labels), tuple(labels))


def test_each_character_is_told_at_the_step_that_looks_at_it():
    centres = np.array([[11, 31, 79, np.nan], [11, 11.5, 12, 94], [90, 92, np.nan, np.nan]])
    texts = np.array([[1, 2, 3, 0], [4, 5, 6, 7], [8, 9, 0, 0]])
    classes = alignment(centres, texts, 67, COLUMNS)
    assert {int(t): int(classes[0, t]) for t in np.flatnonzero(classes[0] != 67)} == {
        0: 1,
        5: 2,
        17: 3,
    }
    assert classes[1, [0, 1, 2, 17]].tolist() == [4, 5, 6, 7]  # in order, one step each
    assert classes[2, [16, 17]].tolist() == [8, 9]


def test_the_rate_rises_and_falls_once(tmp_path):
    config = config_in(tmp_path, steps=1000, learning_rate=1e-3)
    assert learning_rate(config, 0) == pytest.approx(2e-5)
    assert learning_rate(config, 49) == pytest.approx(1e-3)
    assert learning_rate(config, 525) == pytest.approx(0.505e-3, rel=1e-3)
    assert learning_rate(config, 1000) == pytest.approx(1e-5)


def test_plates_in_doubt_are_taken_and_none_is_favoured():
    losses = np.concatenate([np.zeros(70), np.full(20, 0.1), np.full(6, 9.0)])
    chances = inclusion(losses, 16)
    assert chances.sum() == pytest.approx(16)
    assert chances[90:].tolist() == [1] * 6
    doubt = 1 - np.exp(-0.1)
    assert chances[70] / chances[0] == pytest.approx(doubt / LEAST_DOUBT)
    assert inclusion(np.full(5, 2.0), 2) == pytest.approx(np.full(5, 0.4))


class _Said(torch.nn.Module):
    """Says again what a network said of these images: it is asked 400 times."""

    def __init__(self, network: torch.nn.Module, images: np.ndarray) -> None:
        super().__init__()
        logits = _logits(network.eval(), images)
        self.logits = torch.nn.Parameter(logits.clone(), requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        assert len(images) == len(self.logits)
        return self.logits


def test_chosen_plates_stand_for_all():
    """Weighted by one over their chances, any sum over the chosen is that over all on average."""
    drawn = draw_chunk(4, 0, severity=Severity(0.5, 0.5), size=12)
    scorer = _Said(load_own_weights().network("image"), drawn.images)
    drawn = replace(drawn, labels=("皖A00000", "皖A00001", *drawn.labels[2:]))  # in doubt of two
    targets, lengths = _packed(drawn.labels, PUBLISHED)
    value = drawn.images.mean(axis=(1, 2, 3)).astype(np.float64)
    sums, met = [], set()
    for number in range(400):
        images, texts, sizes, weights = _choose(
            scorer, drawn.images, targets, lengths, lprnet(), 4, np.random.default_rng(number)
        )
        places = [
            int(np.flatnonzero((drawn.images == image).all((1, 2, 3)))[0]) for image in images
        ]
        assert len(set(places)) == 4
        parts = texts.split(sizes.tolist())
        assert [PUBLISHED.decode(part.numpy()) for part in parts] == [
            drawn.labels[i] for i in places
        ]
        assert {0, 1} <= set(places) and len({round(float(w), 6) for w in weights}) > 1
        sums.append(float((weights * torch.from_numpy(value[places])).sum()))
        met |= set(places)
    assert met == set(range(12))
    error = np.std(sums) / 20
    assert np.mean(sums) == pytest.approx(value.mean(), abs=4 * error + 1e-9)
    assert np.mean(sums) != pytest.approx(value.mean() * 4 / 12, rel=0.2)


def test_accuracy_lets_go_of_the_unreadable():
    """Its value is the expected share misread; a lost plate pulls a tenth, a likely one all."""
    targets, lengths = torch.tensor([1, 1]), torch.tensor([1, 1])
    logits = torch.zeros(2, 3, 18)
    logits[0, 2] = 9.0  # blank at every step but one, of which the first plate is rather sure
    logits[0, :, 4] = torch.tensor([0.0, 2.0, 0.0])
    logits[1, 0] = 20.0  # the second is sure of another text
    alphabet = Alphabet(("A", "B", "-"), blank=2)
    found = {}
    for objective in OBJECTIVES:
        leaf = logits.clone().requires_grad_()
        loss = _loss(leaf, targets, lengths, None, 0.0, alphabet, None, objective)
        loss.backward()
        found[objective] = loss.item(), leaf.grad.abs().sum((1, 2))
    nats = _losses(logits, targets, lengths, alphabet)
    chance = torch.exp(-nats)
    assert 0.5 < chance[0] < 0.9 and chance[1] < 1e-9
    assert found["likelihood"][0] == pytest.approx(nats.mean().item())
    assert found["accuracy"][0] == pytest.approx((1 - chance + 0.1 * nats).mean().item())
    ratio = found["accuracy"][1] / found["likelihood"][1]
    assert ratio.tolist() == pytest.approx([chance[0].item() + 0.1, 0.1], rel=1e-3)


def test_plain_plates_are_those_of_the_default_severity(tmp_path):
    config = config_in(tmp_path, batch=8, plain=0.25, glyphs=1.0, wild=1.0, easy_steps=0, workers=0)
    batches = _generated(config, 3, lprnet())
    images, targets, lengths, _ = next(batches)
    batches.close()
    strayed = draw_chunk(
        config.seed, 3, config.forms, severity=Severity(glyphs=1.0, wild=1.0), size=6
    )
    plain = draw_chunk(config.seed + PLAIN_SEED, 3, config.forms, size=2)
    assert np.array_equal(images, np.concatenate([strayed.images, plain.images]))
    texts = strayed.labels + plain.labels
    assert targets.tolist() == [c for text in texts for c in PUBLISHED.encode(text)]
    assert lengths.tolist() == [len(text) for text in texts]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_an_interrupted_run_ends_in_the_same_weights(tmp_path, optimizer):
    options = dict(dropout=0.2, optimizer=optimizer, glyphs=1.0, soft=1.2, wild=1.0)
    if optimizer == "muon":
        options |= dict(candidates=9, align_steps=0, objective="accuracy")
    straight = config_in(tmp_path / "straight", **options)
    broken = config_in(tmp_path / "broken", **options)
    expected = torch.load(train(straight), weights_only=True)
    train(broken, stop_at=2)
    found = torch.load(train(broken), weights_only=True)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    reports = [
        json.loads(line)
        for line in broken.checkpoint.with_suffix(".jsonl").read_text("utf8").splitlines()
    ]
    assert [report["step"] for report in reports] == [2, 4]
    assert set(reports[0]) >= {"loss", "rate", "plates_per_second", "exact_match"}


def test_a_step_of_muon_is_orthogonal(tmp_path):
    """Of `torch.optim.Muon` with AdamW's size: 0.2 sqrt(larger side) times the rate, all ways."""
    rate, states = 1e-2, []
    config = config_in(tmp_path, steps=2, optimizer="muon", learning_rate=rate, weight_decay=0.0)
    for step in (1, 2):
        train(config, stop_at=step)
        states.append(torch.load(config.checkpoint, weights_only=True)["network"])
    rate = learning_rate(config, 1)
    for name, least in (("backbone.0.weight", 20), ("backbone.16.weight", 150)):
        before, after = (state[name].permute(0, 2, 3, 1).flatten(1) for state in states)
        lengths = torch.linalg.svdvals((before - after) / (rate * 0.2 * max(before.shape) ** 0.5))
        assert lengths.max() < 1.4
        assert (lengths > 0.5).sum() >= least, lengths


def test_the_weights_load_and_are_small(tmp_path):
    weights = load_weights(train(config_in(tmp_path, steps=1)))
    assert weights.classes == 68
    assert (tmp_path / "weights.pth").stat().st_size < 1.1e6
    raw = torch.load(tmp_path / "weights.pth", weights_only=True)
    assert raw["backbone.0.weight"].dtype == torch.float16
    assert raw["backbone.12.running_var"].dtype == torch.float32  # may exceed fp16's 65504


def test_a_variance_beyond_fp16_survives(tmp_path):
    state = {
        "a.weight": torch.ones(2),
        "a.running_var": torch.full((2,), 1e5),
        "b.weight": torch.full((2,), 0.1),
    }
    found = torch.load(write_weights(tmp_path / "w.pth", state), weights_only=True)
    assert found["a.running_var"].tolist() == [1e5, 1e5]
    assert found["b.weight"].dtype == torch.float16


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    config = config_in(tmp_path, steps=1)
    train(config)
    with pytest.raises(ParameterError, match="seed"):
        train(replace(config, seed=1))
    config.checkpoint.write_bytes(b"torn")
    with pytest.raises(DataError, match="cannot be read"):
        train(config)


def test_a_checkpoint_knows_its_plates(tmp_path, latin_plates):
    """More steps go on, other plates do not, be they of the same number and labels."""
    config = config_in(tmp_path, steps=1, align_steps=0)
    before = train(config, latin_plates, lprnet(LATIN)).read_bytes()
    others = replace(latin_plates, images=255 - latin_plates.images)
    for steps in (1, 2):
        with pytest.raises(ParameterError, match="state.pt is of a run on other plates"):
            train(replace(config, steps=steps), others, lprnet(LATIN))
    assert config.output.read_bytes() == before
    assert train(replace(config, steps=2), latin_plates, lprnet(LATIN)).read_bytes() != before


@pytest.mark.parametrize("name", ["weights.pth", "state.jsonl"])
def test_what_training_did_not_write_it_does_not_replace(tmp_path, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(ParameterError, match=f"{name} is there, and training did not write it"):
        train(config_in(tmp_path))
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_files_that_cannot_be_written_are_told_before_the_first_step(tmp_path):
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "file").touch()
    for output in ("folder.pth", "file/w.pth", "x" * 300):
        with pytest.raises(DataError, match="cannot write"):
            train(config_in(tmp_path, output=tmp_path / output))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.pth"]


def test_labels_that_cannot_be_learnt_are_named(tmp_path, latin_plates):
    without = PlateImages("nameless", latin_plates.images, latin_plates.names)
    with pytest.raises(DataError, match="no labels"):
        train(config_in(tmp_path), without, lprnet(LATIN))
    long = PlateImages("long", latin_plates.images, latin_plates.names, ("A" * 10,) * 6)
    with pytest.raises(DataError, match="does not fit 18"):
        train(config_in(tmp_path), long, lprnet(LATIN))


def test_a_warm_start_goes_on_from_given_weights(tmp_path):
    first = train(config_in(tmp_path / "first", steps=1))
    raw = torch.load(first, weights_only=True)
    warm = config_in(tmp_path / "warm", steps=1, learning_rate=1e-9, start_from=first)
    found = torch.load(train(warm), weights_only=True)
    fresh = torch.load(
        train(config_in(tmp_path / "fresh", steps=1, learning_rate=1e-9, seed=1)), weights_only=True
    )
    name = "backbone.0.weight"
    assert torch.equal(found[name], raw[name]) and not torch.equal(fresh[name], raw[name])
    again = train(config_in(tmp_path / "other", steps=1, seed=2))
    with pytest.raises(ParameterError, match="start_from"):
        train(replace(warm, start_from=again, steps=2))
    with pytest.raises(DataError, match="No such file"):
        train(
            replace(
                warm,
                output=tmp_path / "c.pth",
                checkpoint=tmp_path / "c.pt",
                start_from=tmp_path / "none.pth",
            )
        )


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"learning_rate": 2.0},
        {"device": "tpu"},
        {"optimizer": "sgd"},
        {"soft": -1.0},
        {"wild": -1.0},
        {"plain": 1.0},
        {"candidates": 4, "align_steps": 0},
        {"candidates": 9},
        {"objective": "likely"},
        {"objective": "accuracy"},
    ],
)
def test_impossible_options_are_refused(tmp_path, wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        config_in(tmp_path, **wrong)
