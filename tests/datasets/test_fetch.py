"""Fetching against a small registry of our own, served by a mirror folder and by real HTTP."""

from __future__ import annotations

import hashlib
import http.server
import json
import threading
import zipfile

import pytest

from lprnet_nb.datasets import fetch
from lprnet_nb.errors import DataError

FILES = {"Final_LPRNet_model.pth": b"weights", "test/皖A12345.jpg": b"one", "test/沪B1.jpg": b"two"}


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.setenv("LPRNET_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("LPRNET_MIRROR", raising=False)
    monkeypatch.setattr(
        fetch,
        "registry",
        lambda: {name: hashlib.sha256(raw).hexdigest() for name, raw in FILES.items()},
    )
    mirror = tmp_path / "mirror"
    for name, raw in FILES.items():
        path = mirror / ("weights" if name.endswith(".pth") else "") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    return mirror


def test_a_mirror_fills_the_places_that_users_know(small, tmp_path):
    data = fetch.fetch_published(mirror=small)
    assert data == tmp_path / "data"
    assert (data / "models/torch/Final_LPRNet_model.pth").read_bytes() == b"weights"
    assert (data / "images/test/皖A12345.jpg").read_bytes() == b"one"
    assert json.loads((data / "images/test_label.json").read_text("utf8")) == {
        "沪B1.jpg": "沪B1",
        "皖A12345.jpg": "皖A12345",
    }
    assert fetch.is_published_data_here()


@pytest.mark.parametrize("harm", [b"", b"on", b"onE"])
def test_an_altered_or_truncated_file_is_refused_by_name_and_not_used(small, harm):
    (small / "test/皖A12345.jpg").write_bytes(harm)
    with pytest.raises(DataError, match="皖A12345.jpg is not the published file"):
        fetch.fetch_published(mirror=small)
    assert not (fetch.images_folder() / "皖A12345.jpg").exists()


def test_what_is_right_is_kept_and_what_is_damaged_later_is_noticed(small):
    fetch.fetch_published(mirror=small)
    fetch.weights_path().write_bytes(b"other")
    assert not fetch.is_published_data_here()
    with pytest.raises(DataError, match="SHA-256 differs"):
        fetch.check_file(fetch.weights_path(), fetch.registry()[fetch.WEIGHTS])
    fetch.fetch_published(mirror=small)
    assert fetch.weights_path().read_bytes() == b"weights"


def test_a_missing_mirror_says_what_to_do(small, tmp_path):
    with pytest.raises(DataError, match="LPRNET_MIRROR"):
        fetch.fetch_published(mirror=tmp_path / "nowhere")


def archive(path, files, prefix="LPRNet_Pytorch-7c97/"):
    with zipfile.ZipFile(path, "w") as target:
        for name, raw in files.items():
            where = f"weights/{name}" if name.endswith(".pth") else f"data/{name}"
            target.writestr(prefix + where, raw)
        target.writestr("../../outside.txt", b"hostile")


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{running.server_port}/upstream.zip"
        running.shutdown()


def test_upstream_comes_as_one_archive_and_writes_nowhere_else(small, server, tmp_path):
    folder, url = server
    archive(folder / "upstream.zip", FILES)
    fetch.fetch_published(url=url, progress=False)
    assert fetch.is_published_data_here()
    assert not list(tmp_path.rglob("outside.txt"))


def test_upstream_that_changed_or_is_broken_is_refused(small, server):
    folder, url = server
    archive(folder / "upstream.zip", {**FILES, "test/沪B1.jpg": b"changed"})
    with pytest.raises(DataError, match="not the published file"):
        fetch.fetch_published(url=url, progress=False)
    (folder / "upstream.zip").write_bytes(b"PK\x03\x04 truncated")
    with pytest.raises(DataError, match="could not be fetched"):
        fetch.fetch_published(url=url, progress=False)
    with pytest.raises(DataError, match="LPRNET_MIRROR"):
        fetch.fetch_published(url=url + ".none", progress=False)


def test_the_committed_registry_lists_weights_and_a_thousand_images():
    known = fetch.registry()
    assert len(known) == 1001 and fetch.WEIGHTS in known
    assert all(len(value) == 64 for value in known.values())
