from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lprnet_nb.datasets.alphabet import PUBLISHED, Alphabet, read_alphabet
from lprnet_nb.datasets.folder import load_images, load_plates
from lprnet_nb.datasets.images import PlateImages, decode_image, preprocess, subset
from lprnet_nb.datasets.labels import read_labels
from lprnet_nb.errors import DataError, ParameterError


def write_plate(path, value=128, size=(24, 94)):
    path.write_bytes(cv2.imencode(".png", np.full((*size, 3), value, np.uint8))[1].tobytes())


def test_preprocess_is_the_published_normalization_in_bgr_planes():
    image = np.zeros((2, 24, 94, 3), np.uint8)
    image[1, 5, 7] = (0, 128, 255)
    planes = preprocess(image)
    assert planes.shape == (2, 3, 24, 94) and planes.dtype == np.float32
    assert planes.flags.c_contiguous
    assert planes[1, :, 5, 7].tolist() == [-0.99609375, 0.00390625, 0.99609375]


@given(st.binary(max_size=300))
def test_bytes_that_are_no_image_are_refused_by_name(raw):
    try:
        image = decode_image(raw, "plate.jpg")
    except DataError as error:
        assert "plate.jpg" in str(error)
    else:
        assert image.dtype == np.uint8 and image.ndim == 3


def test_an_undecodable_image_is_named(tmp_path):
    write_plate(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    with pytest.raises(DataError, match=r"b\.jpg cannot be decoded"):
        load_images(tmp_path)


def test_an_empty_or_missing_folder_says_so(tmp_path):
    with pytest.raises(DataError, match="has no image"):
        load_images(tmp_path)
    with pytest.raises(DataError, match="does not exist"):
        load_images(tmp_path / "none")


def test_other_sizes_are_resized_and_odd_names_do_no_harm(tmp_path):
    names = ["皖A 1'2\".png", "x\ny.png", "$(rm -rf).png"]
    for name in names:
        write_plate(tmp_path / name, size=(48, 200))
    plates = load_images(tmp_path)
    assert plates.images.shape == (3, 24, 94, 3) and set(plates.names) == set(names)


def test_labels_outside_the_class_list_are_refused_with_the_file(tmp_path):
    write_plate(tmp_path / "皖A12345.png")
    write_plate(tmp_path / "皖A1234学.png")
    with pytest.raises(DataError, match=r"皖A1234学\.png.*'学' at position 7"):
        load_plates(tmp_path)


@pytest.mark.parametrize("layout", ["names", "json", "csv", "csv with heading", "beside"])
def test_labels_are_found_in_every_layout(tmp_path, layout):
    folder = tmp_path / "plates"
    folder.mkdir()
    stem = "京A12345_2" if layout == "names" else "img"
    write_plate(folder / f"{stem}.png")
    entry = {f"{stem}.png": "京A12345"}
    if layout == "json":
        (folder / "labels.json").write_text(json.dumps(entry), "utf8")
    if layout.startswith("csv"):
        heading = "file,plate\n" if "heading" in layout else ""
        (folder / "labels.csv").write_text(f"{heading}{stem}.png,京A12345\n", "utf8")
    if layout == "beside":
        (tmp_path / "plates_label.json").write_text(json.dumps(entry), "utf8")
    assert load_plates(folder).labels == ("京A12345",)


def test_a_missing_label_is_named(tmp_path):
    write_plate(tmp_path / "a.png")
    (tmp_path / "labels.json").write_text("{}")
    with pytest.raises(DataError, match="first is a.png"):
        load_plates(tmp_path)


@pytest.mark.parametrize("text", ["", "[1]", '{"a": 1}', "{", "\udcff"])
def test_a_broken_label_file_is_one_clear_error(tmp_path, text):
    path = tmp_path / "labels.json"
    path.write_bytes(text.encode("utf8", "surrogateescape"))
    with pytest.raises(DataError, match=r"labels\.json"):
        read_labels(path)


def test_subset_is_fixed_ordered_and_bounded():
    plates = PlateImages(
        "p", np.zeros((50, 24, 94, 3), np.uint8), tuple(f"{i:02d}" for i in range(50))
    )
    chosen = subset(plates, 10, seed=3)
    assert chosen.names == subset(plates, 10, seed=3).names != subset(plates, 10, seed=4).names
    assert list(chosen.names) == sorted(chosen.names) and len(set(chosen.names)) == 10
    with pytest.raises(ParameterError, match="1 to 50"):
        subset(plates, 51, seed=0)


def test_plate_images_check_their_shape_and_digest_everything():
    images = np.zeros((1, 24, 94, 3), np.uint8)
    with pytest.raises(DataError, match="float64"):
        PlateImages("p", images.astype(float), ("a",))
    base = PlateImages("p", images, ("a",), ("京A",)).digest
    assert base == PlateImages("q", images, ("a",), ("京A",)).digest
    assert base != PlateImages("p", images + 1, ("a",), ("京A",)).digest
    assert base != PlateImages("p", images, ("b",), ("京A",)).digest
    assert base != PlateImages("p", images, ("a",), ("沪A",)).digest
    assert PlateImages("p", images, ("a",), ("京A",)).known_labels == ("京A",)
    with pytest.raises(DataError, match="p: no labels"):
        _ = PlateImages("p", images, ("a",)).known_labels


def test_the_class_order_is_the_published_one():
    assert PUBLISHED.size == 68 and PUBLISHED.blank == 67
    assert PUBLISHED.encode("京新09AZIO").tolist() == [0, 30, 31, 40, 41, 64, 65, 66]
    assert PUBLISHED.decode([12, 41, 32]) == "皖A1"
    with pytest.raises(DataError, match="'-'"):
        PUBLISHED.encode("皖-")


def test_class_lists_are_read_and_checked(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("0\n1\nA\n-\n", "utf8")
    assert read_alphabet(path) == Alphabet(("0", "1", "A", "-"), 3)
    for text, message in (("01A", "blank"), ("0 0-", "more than once")):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_alphabet(path)


def test_published_images(published):
    assert len(published) == 1000 and list(published.names) == sorted(published.names)
    assert sum(label[0] == "皖" for label in published.labels) == 956
