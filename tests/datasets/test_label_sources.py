"""Where labels are taken from when there are several, and pixels of other sizes."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from lprnet_nb.datasets.folder import load_plates
from lprnet_nb.datasets.images import HEIGHT, WIDTH, fit, read_image
from lprnet_nb.errors import DataError

NAMES, TEXTS = ("京A11111_0.png", "京A11111_1.png"), ("皖A12345", "苏B67890")


@pytest.fixture
def folder(tmp_path) -> Path:
    place = tmp_path / "plates"
    place.mkdir()
    for name in NAMES:
        (place / name).write_bytes(cv2.imencode(".png", np.zeros((24, 94, 3), np.uint8))[1])
    return place


def write_json(folder: Path, texts) -> None:
    (folder / "labels.json").write_text(json.dumps(dict(zip(NAMES, texts))), "utf8")


def write_csv(folder: Path, texts, encoding: str = "utf8", heading: str = "") -> None:
    lines = "".join(f"{name},{text}\n" for name, text in zip(NAMES, texts))
    (folder / "labels.csv").write_text(heading + lines, encoding)


def write_beside(folder: Path, texts) -> None:
    (folder.parent / f"{folder.name}_label.json").write_text(
        json.dumps(dict(zip(NAMES, texts))), "utf8"
    )


def test_a_label_file_goes_before_one_beside_before_names_and_two_are_refused(folder):
    assert load_plates(folder).labels == ("京A11111", "京A11111")
    write_beside(folder, ("沪A00000", "沪A00000"))
    assert load_plates(folder).labels == ("沪A00000", "沪A00000")
    write_csv(folder, ("粤A00000", "粤A00000"))
    assert load_plates(folder).labels == ("粤A00000", "粤A00000")
    write_json(folder, TEXTS)
    with pytest.raises(DataError, match=r"several label files: .*labels\.csv, .*labels\.json"):
        load_plates(folder)
    (folder / "labels.csv").unlink()
    assert load_plates(folder).labels == TEXTS


@pytest.mark.parametrize("encoding", ["utf8", "utf-8-sig"])
@pytest.mark.parametrize("heading", ["", "file,plate\n"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(folder, encoding, heading):
    write_csv(folder, TEXTS, encoding, heading)
    assert load_plates(folder).labels == TEXTS


def test_other_sizes_are_resized_between_the_nearest_pixels(tmp_path):
    # As the weights were trained: bilinear. A mean over areas would blur what is made smaller.
    image = np.random.default_rng(0).integers(0, 256, (61, 203, 3), dtype=np.uint8)
    found = fit(image)
    np.testing.assert_array_equal(
        found, cv2.resize(image, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    )
    row, column = 10, 40
    y, x = (row + 0.5) * 61 / HEIGHT - 0.5, (column + 0.5) * 203 / WIDTH - 0.5
    top, left = int(y), int(x)
    down, right = y - top, x - left
    four = image[top : top + 2, left : left + 2].astype(float)
    wanted = (1 - down) * ((1 - right) * four[0, 0] + right * four[0, 1]) + down * (
        (1 - right) * four[1, 0] + right * four[1, 1]
    )
    np.testing.assert_allclose(found[row, column], wanted, atol=1)
    path = tmp_path / "x.png"
    path.write_bytes(cv2.imencode(".png", image)[1])
    np.testing.assert_array_equal(read_image(path), found)
