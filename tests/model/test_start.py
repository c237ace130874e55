"""Going on from weights of another class list."""

import numpy as np
import pytest
import torch

from lprnet_nb import inputs
from lprnet_nb.datasets.alphabet import PUBLISHED, PUBLISHED_CLASSES, Alphabet
from lprnet_nb.datasets.images import PlateImages
from lprnet_nb.errors import DataError
from lprnet_nb.model.lprnet.layers import LPRNet, initialize
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.model.start import CONTEXT, carry_over, load_start
from lprnet_nb.model.train import TrainConfig, _generated, exact_match, train
from lprnet_nb.model.trainee import lprnet
from lprnet_nb.model.weights import Weights, load_weights

ADDED = "学警港澳挂使领"
LONGER = Alphabet((*PUBLISHED_CLASSES[:-1], *ADDED, "-"), 74)
# Backwards, the blank first, without 京 and with three more.
TURNED = Alphabet(("-", *reversed(PUBLISHED_CLASSES[1:-1]), *"学警港"), 0)


@pytest.fixture
def network():
    def make(classes):
        torch.manual_seed(1)
        network = LPRNet(classes)
        initialize(network)
        return network.eval()

    return make


@pytest.mark.parametrize(
    "alphabet, told",
    [
        (LONGER, "68 of 75 classes carried over by character, 7 fresh (学警港澳挂使领)"),
        (TURNED, "67 of 70 classes carried over by character, 3 fresh (学警港)"),
        (PUBLISHED, "all 68 classes carried over"),
    ],
)
def test_a_new_class_list_reads_what_the_old_one_read(weights, published, network, alphabet, told):
    some = published.take([i for i, label in enumerate(published.labels) if "京" not in label][:60])
    found = network(alphabet.size)
    assert told in carry_over(weights, found, alphabet)
    read = exact_match(Weights("", found.state_dict(), alphabet), some)
    assert read == pytest.approx(exact_match(weights, some), abs=0.02) and read > 0.8


def test_rows_and_columns_of_shared_classes_are_the_old_ones(weights, network):
    found = network(70)
    fresh = {name: value.clone() for name, value in found.state_dict().items()}
    carry_over(weights, found, TURNED)
    state, old = found.state_dict(), weights.state
    for character in "皖A0-":
        new, before = TURNED.characters.index(character), PUBLISHED.characters.index(character)
        for layer in (
            "20.weight",
            "20.bias",
            "21.weight",
            "21.bias",
            "21.running_mean",
            "21.running_var",
        ):
            assert torch.equal(state[f"backbone.{layer}"][new], old[f"backbone.{layer}"][before])
        row, expected = state["container.0.weight"][new], old["container.0.weight"][before]
        assert torch.equal(row[:CONTEXT], expected[:CONTEXT])
        for other in "川Z9-":
            assert torch.equal(
                row[CONTEXT + TURNED.characters.index(other)],
                expected[CONTEXT + PUBLISHED.characters.index(other)],
            )
        assert not row[CONTEXT + TURNED.characters.index("学")].any()
    new = TURNED.characters.index("学")
    assert torch.equal(state["backbone.20.weight"][new], fresh["backbone.20.weight"][new])
    rows = state["container.0.weight"][[TURNED.characters.index(c) for c in "学警"]]
    assert not torch.equal(rows[0], rows[1])


def test_weights_of_an_unknown_list_give_their_layers(network, tmp_path):
    first = network(37)
    torch.save(first.state_dict(), tmp_path / "latin.pth")
    given = load_start(tmp_path / "latin.pth", LONGER)
    found = network(75)
    before = found.container[0].weight.clone()
    told = carry_over(given, found, LONGER)
    assert "its 37 classes are of an unknown list" in told and "all 75 classes fresh" in told
    assert torch.equal(found.backbone[16].weight, first.backbone[16].weight)
    assert torch.equal(found.container[0].weight, before)


def test_the_class_list_of_a_start_is_known_by_digest_then_by_number(weights, network, tmp_path):
    torch.save(weights.state, tmp_path / "copy.pth")
    turned = Alphabet(tuple(reversed(PUBLISHED_CLASSES)), 0)
    assert load_start(tmp_path / "copy.pth", turned).alphabet == PUBLISHED
    assert load_start("published", turned).digest == weights.digest
    assert load_start("generated", turned).digest == load_own_weights().digest
    torch.save(network(68).state_dict(), tmp_path / "mine.pth")
    assert load_start(tmp_path / "mine.pth", turned).alphabet == turned
    assert load_start(tmp_path / "mine.pth", LONGER).alphabet == PUBLISHED


def test_training_goes_on_from_the_published_weights_with_more_classes(
    weights, published, tmp_path, monkeypatch, capsys
):
    """The road of case 20: more classes, plates with a new character, one small step."""
    plates = PlateImages(
        "mine",
        published.images[:6],
        published.names[:6],
        tuple(label[:-1] + "学" for label in published.labels[:6]),
    )
    config = TrainConfig(
        tmp_path / "out.pth",
        tmp_path / "out.checkpoint",
        steps=1,
        batch=2,
        learning_rate=1e-9,
        easy_steps=0,
        align_steps=0,
        start_from="published",
    )
    monkeypatch.setattr(inputs, "_said", set())
    found = load_weights(train(config, plates, lprnet(LONGER)), LONGER)
    assert capsys.readouterr().err == (
        "note: start from published: 68 of 75 classes carried over by character, "
        f"7 fresh ({ADDED})\n"
    )
    some = published.take(np.arange(0, 1000, 20))
    assert exact_match(found, some) == pytest.approx(exact_match(weights, some), abs=0.03)


def test_generated_plates_need_their_characters_in_the_class_list(tmp_path):
    config = TrainConfig(
        tmp_path / "out.pth",
        tmp_path / "out.checkpoint",
        steps=1,
        batch=2,
        workers=0,
        report_plates=2,
    )
    with pytest.raises(DataError, match="has no 京沪津渝冀晋蒙辽吉黑…, which generated plates"):
        train(config, trainee=lprnet(Alphabet(tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-"), 36)))
    turned = Alphabet(tuple(reversed(PUBLISHED_CLASSES)), 0)  # learnt by character, in any order
    batches = [next(_generated(config, 0, lprnet(alphabet))) for alphabet in (PUBLISHED, turned)]
    texts = [alphabet.decode(batch[1]) for alphabet, batch in zip((PUBLISHED, turned), batches)]
    assert texts[0] == texts[1] and "-" not in texts[0]
    told = [
        alphabet.decode(batch[3].flatten()) for alphabet, batch in zip((PUBLISHED, turned), batches)
    ]
    assert told[0] == told[1] and told[0].count("-") > 10  # the blank between them
