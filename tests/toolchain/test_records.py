"""A BModel's record seals what it describes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from lprnet_nb.cache import artifact, file_digest
from lprnet_nb.datasets.alphabet import PUBLISHED
from lprnet_nb.errors import DataError
from lprnet_nb.toolchain.bmodel import BModel


def compiled(seed: int) -> BModel:
    """A record as a compile leaves it, in the cache, of a file and a graph that nothing runs."""

    def build(folder: Path) -> None:
        (folder / "lprnet.bmodel").write_bytes(bytes([seed]) * 100)
        (folder / "deploy.log").write_text("made")
        (folder / "graph").mkdir()
        (folder / "graph" / "graph.json").write_text(json.dumps({"seed": seed}))
        np.savez(folder / "graph" / "graph.npz", weights=np.full(9, seed))
        BModel(
            path=folder / "lprnet.bmodel",
            chip="BM1684X",
            precision="int8",
            batch=1,
            batch_mean="image",
            form="published",
            strategy="kl",
            predicted_latency_ms=None,
            sha256=file_digest(folder / "lprnet.bmodel"),
            digest="0",
            tools={},
            input_shape=(1, 3, 24, 94),
            output_shape=(1, 68, 18),
            input_dtype="float32",
            weights="published",
            graph=folder / "graph",
        ).save(folder)

    return BModel.load(artifact("bmodel", {"seed": seed}, build))


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LPRNET_CACHE", str(tmp_path / "cache"))
    return tmp_path


def change(record: Path, key: str, alter) -> None:
    values = json.loads(record.read_text("utf8"))
    values[key] = alter(values[key])
    record.write_text(json.dumps(values), "utf8")


def test_a_record_reads_back_with_its_graph_from_its_folder_and_from_beside_a_copy(own_cache):
    model = compiled(1)
    copy = own_cache / "mine.bmodel"
    shutil.copy(model.path, copy)
    model.save_beside(copy)
    again = BModel.load(copy)
    assert again.graph == model.graph and again.alphabet == PUBLISHED and again.path == copy
    assert BModel.load(model.folder) == model


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(
    "harm", ["graph.npz", "graph.json", "another's", "classes", "blank", "old"]
)
def test_what_is_not_as_the_record_says_is_refused(own_cache, beside, harm):
    model, other = compiled(1), compiled(2)
    place = model.folder
    if beside:
        place = own_cache / "mine.bmodel"
        shutil.copy(model.path, place)
        model.save_beside(place)
    record = place.with_suffix(".json") if beside else place / "record.json"
    if harm == "graph.npz":
        np.savez(model.graph / harm, weights=np.full(9, 7))
    elif harm == "graph.json":
        (model.graph / harm).write_text(json.dumps({"seed": 7}))
    elif harm == "another's":
        change(record, "graph", lambda graph: str(other.graph))
    elif harm == "old":
        change(record, "seals", lambda seals: None)
    else:  # the first two classes change places, or the blank is another one
        change(record, "alphabet", lambda known: known | ALTERED[harm])
    with pytest.raises(DataError, match=MESSAGE[harm]):
        BModel.load(place)


ALTERED = {
    "classes": {"classes": [PUBLISHED.classes[1], PUBLISHED.classes[0], *PUBLISHED.classes[2:]]},
    "blank": {"blank": 3},
}
MESSAGE = {
    "graph.npz": "is not the graph that the BModel was made from",
    "graph.json": "is not the graph that the BModel was made from",
    "another's": "is not the graph that the BModel was made from",
    "classes": "its class list is not the one",
    "blank": "its class list is not the one",
    "old": "of an older version",
}


def test_a_list_of_files_that_was_written_anew_does_not_hide_another_file(own_cache):
    folder = compiled(1).folder
    (folder / "more").write_text("x")
    change(folder / "files.json", "inputs.json", lambda value: value)
    listed = json.loads((folder / "files.json").read_text())
    listed["more"] = file_digest(folder / "more")
    (folder / "files.json").write_text(json.dumps(listed))
    with pytest.raises(DataError, match="does not hold what the compile left there"):
        BModel.load(folder)
