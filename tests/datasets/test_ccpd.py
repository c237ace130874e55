"""CCPD: strict labels, crops that come back as they were, streaming in bounded memory."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lprnet_nb.datasets import ccpd
from lprnet_nb.datasets.folder import load_plates
from lprnet_nb.errors import DataError, ParameterError

NAME = "025-95_113-154&383_386&473-386&473_177&454_154&383_363&402-0_0_22_27_27_33_16-37-15.jpg"
GREEN = (
    "00360785590278-91_265-311&485_406&524-406&524_313&520_311&485_402&487-"
    "0_0_3_24_28_24_31_33-117-16.jpg"
)


def plate_name(vertices, indices=(0, 0, 22, 27, 27, 33, 16), brightness=37):
    xs, ys = [x for x, _ in vertices], [y for _, y in vertices]
    corners = "_".join(f"{x}&{y}" for x, y in vertices)
    return (
        f"025-95_113-{min(xs)}&{min(ys)}_{max(xs)}&{max(ys)}-{corners}-"
        f"{'_'.join(map(str, indices))}-{brightness}-15.jpg"
    )


def drawn_plate(size=1):
    """A plate with strokes, uint8 BGR ``[24 size, 94 size, 3]``."""
    image = np.full((24 * size, 94 * size, 3), (150, 60, 20), np.uint8)
    cv2.putText(
        image,
        "A12B45",
        (6 * size, 19 * size),
        cv2.FONT_HERSHEY_SIMPLEX,
        0.62 * size,
        (235, 235, 235),
        2 * size,
        cv2.LINE_AA,
    )
    return image


def scene(plate, vertices, size=(300, 500)):
    """A grey scene with `plate` warped to `vertices` (bottom right, clockwise)."""
    height, width = plate.shape[:2]
    corners = np.array([[width, height], [0, height], [0, 0], [width, 0]], np.float32) - 0.5
    warp = cv2.getPerspectiveTransform(corners, np.array(vertices, np.float32))
    mask = cv2.warpPerspective(np.ones(plate.shape, np.uint8), warp, size[::-1], flags=0)
    there = cv2.warpPerspective(plate, warp, size[::-1], borderMode=cv2.BORDER_REPLICATE)
    return np.where(mask > 0, there, 128).astype(np.uint8)


def psnr(a, b):
    return 10 * np.log10(255**2 / max(np.mean((a.astype(float) - b.astype(float)) ** 2), 1e-9))


# Labels


def test_label_of_an_ordinary_plate():
    label = ccpd.parse_name("ccpd_base/" + NAME)
    assert label == ccpd.CcpdLabel(
        "皖AY339S",
        ((386, 473), (177, 454), (154, 383), (363, 402)),
        ((154, 383), (386, 473)),
        (95, 113),
        37,
        15,
    )


def test_label_of_a_new_energy_plate_has_eight_characters():
    assert ccpd.parse_name(GREEN).plate == "皖AD04079"


def test_orders_are_ccpds_own():
    indices = (12, 8, 24, 33, 8, 23, 0)  # 京 J 0 9 J Z A
    name = plate_name(ccpd.parse_name(NAME).vertices, indices)
    assert ccpd.parse_name(name).plate == "京J09JZA"
    assert len(ccpd.PROVINCES) == 34 and len(ccpd.LETTERS) == 25 and len(ccpd.OTHERS) == 35


def test_tilts_may_be_negative():
    assert ccpd.parse_name(NAME.replace("95_113", "-5_-13")).tilt == (-5, -13)


@pytest.mark.parametrize(
    "old,new,said",
    [
        ("-37-15", "-37", "6 fields, expected 7"),
        ("025-", "x-", "area is 'x'"),
        ("95_113", "95", "tilt is '95'"),
        ("154&383_386&473-", "154&383-", "bounding box is"),
        ("154&383_386&473-", "386&473_154&383-", "is empty"),
        ("_363&402", "", "vertices is"),
        ("386&473_177&454_154&383_363&402", "363&402_154&383_177&454_386&473", "clockwise"),
        ("386&473_177&454_154&383_363&402", "5&5_5&5_5&5_5&5", "clockwise"),
        ("0_0_22_27_27_33_16", "0_0_22_27_27_33", "6 characters"),
        ("0_0_22_27_27_33_16", "34_0_22_27_27_33_16", "index 34 of character 1 is too large"),
        ("0_0_22_27_27_33_16", "0_25_22_27_27_33_16", "index 25 of character 2"),
        ("0_0_22_27_27_33_16", "0_0_35_27_27_33_16", "index 35 of character 3"),
        ("0_0_22_27_27_33_16", "33_0_22_27_27_33_16", "character 1 is 'O'"),
        ("0_0_22_27_27_33_16", "0_0_22_27_27_33_34", "character 7 is 'O'"),
        ("-37-", "-٣٧-", "brightness is"),
    ],
)
def test_wrong_names_say_what_is_wrong(old, new, said):
    with pytest.raises(DataError, match=said.replace("(", r"\(")):
        ccpd.parse_name(NAME.replace(old, new))


digits = st.text("0123456789&_-.O٣ xX", max_size=90)


@given(
    st.one_of(
        st.text(max_size=80),
        digits,
        st.builds(
            lambda at, text: NAME[:at] + text + NAME[at + 1 :], st.integers(0, len(NAME)), digits
        ),
    )
)
@settings(max_examples=300, deadline=None)
def test_any_name_is_a_label_or_an_error(name):
    try:
        label = ccpd.parse_name(name)
    except DataError:
        return
    assert len(label.plate) in (7, 8) and len(label.vertices) == 4
    assert label.plate[0] in ccpd.PROVINCES[:-1] and label.plate[1] in ccpd.LETTERS[:-1]


# Crops


@pytest.mark.parametrize(
    "vertices,size,least",
    [
        (((293, 173), (199, 173), (199, 149), (293, 149)), 1, 99),  # its own size, on whole pixels
        (
            ((386, 273), (177, 254), (154, 183), (363, 202)),
            4,
            35,
        ),  # tilted, two to three times larger
        (((480, 260), (110, 280), (100, 180), (470, 170)), 4, 35),  # four times larger, perspective
    ],
)
def test_crop_comes_back(vertices, size, least):
    if size == 1:
        vertices = [(x - 0.5, y - 0.5) for x, y in vertices]
    street = scene(drawn_plate(size), vertices)
    cut = ccpd.crop(street, tuple(vertices))
    assert cut.shape == (24, 94, 3) and cut.dtype == np.uint8
    assert psnr(cut[1:-1, 1:-1], drawn_plate(1)[1:-1, 1:-1]) > (least if size == 1 else 15)
    reference = cv2.resize(drawn_plate(size), (94, 24), interpolation=cv2.INTER_AREA)
    assert psnr(cut[1:-1, 1:-1], reference[1:-1, 1:-1]) > least


def test_margin_takes_in_the_surroundings():
    vertices = ((386, 273), (177, 254), (154, 183), (363, 202))
    street = scene(drawn_plate(4), vertices)
    wide = ccpd.crop(street, vertices, margin=0.25)
    inner = wide[4:20, 16:78]  # the plate itself: 1 / (1 + 2 * 0.25) of either side
    again = cv2.resize(ccpd.crop(street, vertices), (62, 16), interpolation=cv2.INTER_AREA)
    assert psnr(inner[1:-1, 1:-1], again[1:-1, 1:-1]) > 22
    assert (wide[0] == 128).all() and (wide[-1] == 128).all()
    assert not (ccpd.crop(street, vertices)[2:-2] == 128).all(2).any()


def test_each_side_has_a_margin_of_its_own():
    street = np.zeros((300, 500, 3), np.uint8)
    street[183:273, 154:386] = 255
    vertices = ((385, 272), (154, 272), (154, 183), (385, 183))
    wide = ccpd.crop(street, vertices, margin=(0.5, 0.1))[..., 0] > 127
    assert wide[12].sum() in (46, 47, 48) and wide[:, 47].sum() in (19, 20, 21)
    cv2.rectangle(street, (154, 183), (385, 272), (0, 0, 0), 12)  # 2.6 % of the width, 6.7 % down
    assert (ccpd.crop(street, vertices)[0] < 50).all()
    assert (ccpd.crop(street, vertices, margin=(-0.05, -0.1)) == 255).all()


def test_a_plate_at_the_edge_repeats_the_last_pixels():
    street = np.full((60, 200, 3), 77, np.uint8)
    cut = ccpd.crop(street, ((200, 60), (20, 60), (20, 5), (200, 5)), margin=1.0)
    assert (cut == 77).all()


# Folders


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    vertices = ((386, 273), (177, 254), (154, 183), (363, 202))
    street = scene(drawn_plate(4), vertices)
    root = tmp_path / "ccpd"
    for below, count in (("", 2), ("b", 3), ("a", 2)):
        (root / below).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            name = plate_name(vertices, (0, 0, 24, 25, 26, 27, 28 + index), brightness=index)
            cv2.imwrite(str(root / below / name), street)
    (root / "readme.txt").write_text("not an image")
    return root


def test_stream_is_ordered_labelled_and_cut_in_batches(folder):
    pieces = list(ccpd.stream_ccpd(folder, batch=3))
    assert [len(piece) for piece in pieces] == [3, 3, 1]
    names = [name for piece in pieces for name in piece.names]
    assert [name.partition("/")[0] if "/" in name else "" for name in names] == [
        "",
        "",
        "a",
        "a",
        "b",
        "b",
        "b",
    ]
    labels = [text for piece in pieces for text in piece.labels]
    assert labels == ["皖A01234", "皖A01235"] * 2 + ["皖A01234", "皖A01235", "皖A01236"]
    reference = cv2.resize(drawn_plate(4), (94, 24), interpolation=cv2.INTER_AREA)
    for piece in pieces:
        for image in piece.images:
            assert psnr(image[1:-1, 1:-1], reference[1:-1, 1:-1]) > 25  # JPEG on top


def test_order_is_the_same_however_few_names_are_sorted_at_once(folder, monkeypatch):
    whole = list(ccpd.ccpd_files(folder))
    monkeypatch.setattr(ccpd, "_NAMES_AT_ONCE", 1)
    assert list(ccpd.ccpd_files(folder)) == whole and len(whole) == 7


def test_load_plates_knows_ccpd(folder):
    plates = load_plates(folder)
    assert len(plates) == 7 and plates.labels[0] == "皖A01234"
    assert load_plates(folder / "a", limit=1).labels == ("皖A01234",)
    (folder / "labels.json").write_text("{}")
    with pytest.raises(DataError, match="no label"):
        load_plates(folder)


def test_load_plates_names_a_plate_that_the_network_cannot_read(folder):
    name = next(ccpd.ccpd_files(folder / "a"))
    police = folder / "a" / name.replace("-0_0_", "-31_0_")
    (folder / "a" / name).rename(police)
    with pytest.raises(DataError, match="'警' at position 1"):
        load_plates(folder / "a")


def test_bad_images_are_one_error_or_recorded(folder):
    files = list(ccpd.ccpd_files(folder))
    (folder / files[1]).write_bytes(b"not a jpeg")
    (folder / files[3]).rename(folder / "a" / "zz.jpg")
    with pytest.raises(DataError, match="cannot be decoded"):
        list(ccpd.stream_ccpd(folder))
    skipped = []
    pieces = list(ccpd.stream_ccpd(folder, on_skip=lambda *what: skipped.append(what)))
    assert sum(map(len, pieces)) == 5
    assert [name for name, _ in skipped] == [files[1], "a/zz.jpg"]
    assert "1 fields, expected 7" in str(skipped[1][1])


def test_an_image_that_vanishes_is_one_error(folder):
    stream = ccpd.stream_ccpd(folder / "a", batch=1)
    next(stream)
    for path in (folder / "a").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="cannot be read: No such file"):
        list(stream)


def test_vertices_outside_the_image(folder):
    name = next(ccpd.ccpd_files(folder))
    cv2.imwrite(str(folder / name), np.zeros((50, 50, 3), np.uint8))
    with pytest.raises(DataError, match="lie outside"):
        ccpd.read_plate(folder / name)


@pytest.mark.parametrize(
    "options", [{"batch": 0}, {"margin": -0.1}, {"margin": 1.1}, {"margin": float("nan")}]
)
def test_impossible_options(folder, options):
    with pytest.raises(ParameterError, match="is not possible"):
        ccpd.stream_ccpd(folder, **options)


def test_nothing_usable_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no CCPD image that can be used \(0 found\)"):
        list(ccpd.stream_ccpd(tmp_path))
    with pytest.raises(DataError, match="does not exist"):
        list(ccpd.stream_ccpd(tmp_path / "none"))


def test_memory_does_not_grow(folder):
    """Thirty times the images (hard links) take no more memory than the first few batches."""
    source = folder / next(ccpd.ccpd_files(folder))
    many = folder.parent / "many"
    many.mkdir()
    for index in range(240):
        os.link(source, many / source.name.replace("-0-15", f"-{index}-15"))
    tracemalloc.start()
    peaks = []
    for number, _ in enumerate(ccpd.stream_ccpd(many, batch=8)):
        if number in (4, 29):
            peaks.append(tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.05 + 50_000
