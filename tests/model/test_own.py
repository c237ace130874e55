from dataclasses import replace

import numpy as np
import pytest

from lprnet_nb.datasets.generate import Severity, generate_plates
from lprnet_nb.errors import DataError
from lprnet_nb.model import own
from lprnet_nb.model.train import by_group, exact_match, plate_losses, read


def test_packaged_weights_read_plates_they_never_saw():
    plates = generate_plates(93, 31338, severity=Severity(0.5, 0.5))
    weights = own.load_own_weights()
    assert weights.name == "generated" and weights.classes == 68
    score = exact_match(weights, plates)
    assert score >= 0.988  # 0.999 on 992 such plates: one of 93 may be missed
    rows = by_group(weights, plates)
    for kind in ("length", "province"):
        of_kind = [row for row in rows if row["kind"] == kind]
        assert sum(row["n"] for row in of_kind) == 93
        assert sum(row["k"] for row in of_kind) == round(93 * score)


def test_a_loss_is_the_probability_of_the_text():
    """Likely texts are read; an impossible one has no chance; what is read is the likeliest."""
    weights = own.load_own_weights()
    plates = generate_plates(31, 31339)
    losses = plate_losses(weights, plates)
    texts = read(weights, plates)
    right = np.array([a == b for a, b in zip(texts, plates.labels)])
    assert losses.shape == (31,) and losses.min() >= 0
    assert right[losses < 0.5].all() and right.sum() >= 20
    other = replace(plates, labels=(plates.labels[1], *plates.labels[1:]))
    assert plate_losses(weights, other)[0] > 5 > losses[0]
    assert plate_losses(weights, other)[1:] == pytest.approx(losses[1:])


def test_altered_weights_are_refused(monkeypatch):
    monkeypatch.setattr(own, "file_digest", lambda path: "0" * 64)
    with pytest.raises(DataError, match="not the packaged file"):
        own.load_own_weights()
