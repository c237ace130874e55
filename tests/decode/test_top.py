import numpy as np
import pytest

from lprnet_nb.datasets.alphabet import Alphabet
from lprnet_nb.decode.top import top

NAMED = Alphabet(("red", "green", "\ue000"), blank=2)


def test_the_likeliest_class_of_each_step():
    logits = np.log([[[0.7, 0.2], [0.2, 0.3], [0.1, 0.5]]])
    found = top(logits, NAMED)
    assert found.texts == ["red 2"]  # a class without a name is its number
    assert found.confidence == pytest.approx([0.35])
    assert found.runner_up == ["red green"]  # step 2 leads by the least
    assert found.margin == pytest.approx([np.log(0.5 / 0.3)])


def test_one_step_is_a_classifier():
    found = top(np.log([[[0.1], [0.6], [0.3]]]), NAMED)
    assert (found.texts, found.runner_up) == (["green"], ["2"])
