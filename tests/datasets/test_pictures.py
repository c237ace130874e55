"""Pictures as `infer` takes them: one, several, folders, lists; whole scenes are named."""

import re

import cv2
import numpy as np
import pytest

from lprnet_nb.datasets.images import is_scene, read_image
from lprnet_nb.datasets.pictures import load_pictures
from lprnet_nb.errors import DataError


@pytest.fixture
def plates(tmp_path, monkeypatch):
    """Crops in two folders, each of one gray; two of them share a name. Its gray is its number."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(["a/1.png", "a/2.png", "b/1.png", "b/沪 A.png", "b/c,d.png"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        gray = np.full((30, 100, 3), 10 * number, np.uint8)
        (tmp_path / name).write_bytes(cv2.imencode(".png", gray)[1].tobytes())
    return tmp_path


def read(*places):
    found = load_pictures(places)
    return {name: int(image.mean()) // 10 for name, image in zip(found.names, found.images)}


@pytest.mark.parametrize(
    "places, expected",
    [
        (["a/2.png"], {"2.png": 1}),
        (["b/沪 A.png", "a/1.png"], {"沪 A.png": 3, "1.png": 0}),
        (["b/1.png", "a/1.png"], {"b/1.png": 2, "a/1.png": 0}),
        (["a"], {"1.png": 0, "2.png": 1}),
        (["a", "b/沪 A.png"], {"1.png": 0, "2.png": 1, "沪 A.png": 3}),
    ],
)
def test_pictures_and_folders_in_the_order_given(plates, places, expected):
    assert list(read(*places).items()) == list(expected.items())


@pytest.mark.parametrize(
    "text",
    [
        "b/沪 A.png\nb/c,d.png\na/2.png",
        "\ufeffb/沪 A.png\r\n\r\n./b/c,d.png\r\na\\2.png\r\n",
        "b/沪 A.png\t沪A12345\nb/c,d.png\t沪A1\na/2.png\t沪A2",
        "'b/沪 A.png', 沪A12345\n\"b/c,d.png\"\na/2.png 沪A2 普通蓝牌",
        "HERE/b/沪 A.png\nHERE/b/c,d.png\nHERE/a/2.png",
    ],
    ids=["paths", "Windows", "PaddleOCR", "quotes, columns", "absolute"],
)
def test_a_list_names_pictures_from_its_folder_or_from_here(plates, text, monkeypatch):
    (plates / "list.txt").write_text(text.replace("HERE", str(plates)), "utf8", newline="")
    assert read("list.txt") == {"沪 A.png": 3, "c,d.png": 4, "2.png": 1}
    (plates / "elsewhere").mkdir()
    monkeypatch.chdir(plates / "elsewhere")
    assert read("../list.txt") == {"沪 A.png": 3, "c,d.png": 4, "2.png": 1}


def test_a_list_elsewhere_names_pictures_from_here(plates):
    (plates / "lists").mkdir()
    (plates / "lists" / "l.txt").write_text("a/2.png", "utf8")
    assert read("lists/l.txt") == {"2.png": 1}


@pytest.mark.parametrize(
    "places, message",
    [
        (["no.png"], "image .*no.png cannot be read: No such file"),
        (["nowhere"], "image folder .*nowhere does not exist"),
        (["empty.txt"], "list of pictures .*empty.txt is empty"),
        (["words.txt"], "words.txt, line 2: 'hello' does not begin with the path of a picture"),
        (["no.txt"], "list of pictures .*no.txt cannot be read: No such file"),
        (["a", "a/1.png"], "1 pictures are named more than once, the first is 1.png"),
        (["a/1.png", "a/1.png"], "named more than once"),
        (["plates.zip"], "is an archive. Unpack it"),
        (["broken.png"], "broken.png cannot be decoded"),
    ],
)
def test_what_cannot_be_read_is_named(plates, places, message):
    for name, text in {
        "empty.txt": "\n",
        "words.txt": "a/1.png\nhello",
        "broken.png": "x",
        "plates.zip": "PK",
    }.items():
        (plates / name).write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        load_pictures(places)
    assert re.search(r"\. [A-Z]", str(caught.value))


CROPS = [
    (24, 94),
    (30, 90),
    (140, 440),
    (140, 480),
    (220, 440),
    (110, 170),
    (60, 90),
    (400, 1300),
    (700, 2200),
    (20, 20),
    (112, 520),
]
SCENES = [
    (1160, 720),
    (1080, 1920),
    (720, 1280),
    (480, 640),
    (240, 320),
    (200, 352),
    (1080, 2160),
    (1080, 2560),
    (100, 100),
    (94, 24 * 2),
    (3000, 4000),
]


def test_scenes_are_told_from_crops_by_their_shape():
    assert not [size for size in CROPS if is_scene(*size)]
    assert not [size for size in SCENES if not is_scene(*size)]


def test_a_scene_is_named_with_its_size(plates):
    scene = np.zeros((1160, 720, 3), np.uint8)
    (plates / "a" / "0.png").write_bytes(cv2.imencode(".png", scene)[1].tobytes())
    for place in ("a", "a/0.png"):
        with pytest.raises(DataError, match=r"a/0\.png is 720x1160 pixels, the shape of a whole"):
            load_pictures([place])
    assert read_image("a/1.png").shape == (24, 94, 3)
