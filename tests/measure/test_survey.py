"""CCPD by pieces: the same readings as all at once, and nothing read twice."""

from __future__ import annotations

import shutil

import pytest

from lprnet_nb.datasets.folder import load_plates
from lprnet_nb.decode import decode
from lprnet_nb.errors import DataError, ParameterError
from lprnet_nb.measure import survey as s
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.model.trace import trace_model
from lprnet_nb.proof.survey_bench import write_scenes
from lprnet_nb.runtime.inference import infer_plates


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("ccpd") / "scenes", 10)


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("LPRNET_CACHE", str(tmp_path / "cache"))
    return trace_model(load_own_weights())


def test_by_pieces_as_all_at_once_and_again_from_the_cache(scenes, model, monkeypatch):
    plates = load_plates(scenes)
    texts = decode(infer_plates(model, plates, "torch").logits, model.alphabet).texts
    right = sum(a == b for a, b in zip(texts, plates.labels))
    found = s.survey(model, scenes, backend="torch", files=4, progress=False).facts()
    assert (found["images"], found["right"], found["pieces"]) == (10, right, 3) and right
    monkeypatch.setattr(s.ccpd, "read_plate", None)  # no image is read again
    again = s.survey(model, scenes, backend="torch", files=4, progress=False).facts()
    assert again | {"seconds": 0} == found | {"seconds": 0}


def test_what_cannot_be_used_is_counted_and_named(scenes, model, tmp_path):
    folder = tmp_path / "some"
    shutil.copytree(scenes, folder)
    first = sorted(folder.iterdir())[0]
    first.write_bytes(b"not a picture")
    (folder / "holiday.jpg").write_bytes(first.read_bytes())
    found = s.survey(model, folder, backend="torch", files=4, progress=False).facts()
    assert found["images"] == 9 and found["skipped"] == 2
    assert set(found["errors"]) == {first.name, "holiday.jpg"}
    assert "cannot be decoded" in found["errors"][first.name]


def test_impossible_requests_are_refused(scenes, model, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no CCPD image that can be used"):
        s.survey(model, tmp_path / "empty", backend="torch", progress=False)
    with pytest.raises(ParameterError, match="multiple of the model's batch"):
        s.survey(model, scenes, files=0)
