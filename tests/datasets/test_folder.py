"""Folders as people have them: what is taken with which label, and what is left out and counted."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from lprnet_nb import inputs
from lprnet_nb.datasets import folder as f
from lprnet_nb.datasets.folder import list_plates, load_images, load_plates, read_truth
from lprnet_nb.datasets.images import choose, image_files
from lprnet_nb.datasets.lmdb import convert_imageset, read_lmdb
from lprnet_nb.errors import DataError

PLATES = ("京GT4K05", "京JEE6518", "京N038VD", "沪B6Z00X", "沪M74826D", "沪R10840")
SCENE = "025-95_113-154&183_386&273-386&273_177&254_154&183_363&202-0_0_22_27_27_33_16-37-15.jpg"


@pytest.fixture(autouse=True)
def notes(monkeypatch):
    monkeypatch.setattr(inputs, "_said", set())


@pytest.fixture
def told(capsys):
    return lambda: capsys.readouterr().err.splitlines()


def picture(path: Path, value: int = 0, size: tuple[int, int] = (24, 94)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = path.suffix if path.suffix not in (".jfif", ".jpe") else ".jpg"
    path.write_bytes(cv2.imencode(suffix, np.full((*size, 3), value, np.uint8))[1].tobytes())


def numbered(folder: Path, count: int = 6, suffix: str = ".png") -> Path:
    for index in range(count):
        picture(folder / f"{index:04d}{suffix}", 10 * index % 256)
    return folder


def named(folder: Path, names: list[str]) -> Path:
    for index, name in enumerate(names):
        picture(folder / name, index)
    return folder


LABELS = dict(zip((f"{i:04d}.png" for i in range(6)), PLATES))
CSV = "".join(f"{name},{plate}\n" for name, plate in LABELS.items())


@pytest.mark.parametrize(
    "file, raw",
    [
        ("rec_gt.txt", CSV.replace(",", "\t").encode()),
        ("labels.csv", (CSV + "\n").encode()),
        ("labels.csv", ("文件,车牌\n" + CSV).encode("gbk")),
        ("labels.csv", ("file,plate\n" + CSV.replace("00", "images/00", 1)).encode()),
        ("labels.json", b"\xef\xbb\xbf" + json.dumps(LABELS).encode()),
        ("labels.json", json.dumps(LABELS).encode("utf-16")),
        ("my plates.tsv", CSV.replace(",", "\t").encode()),
        ("../plates_label.json", json.dumps(LABELS).encode()),
        ("../plates_label.txt", CSV.replace(",", " ").encode()),
    ],
)
def test_numbered_pictures_get_the_labels_of_the_list_beside_them(tmp_path, file, raw):
    folder = numbered(tmp_path / "plates")
    (folder / file).write_bytes(raw)
    plates = load_plates(folder)
    assert plates.names == tuple(LABELS) and plates.labels == PLATES
    assert plates.images[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]


@pytest.mark.parametrize(
    "names",
    [
        [f"{i:04d}.jpg" for i in range(6)],
        [f"{i * 7919:032x}.jpg" for i in range(6)],
        [f"A01_{plate[1:]}_{i}.jpg" for i, plate in enumerate(PLATES)],
        ["京GT4K05.jpg", "0001.jpg"],
    ],
)
def test_without_labels_plates_are_read_and_not_judged(tmp_path, names):
    folder = named(tmp_path / "plates", names)
    assert load_images(folder).labels is None and len(load_images(folder)) == len(names)
    with pytest.raises(DataError, match="plates has no labels.*Write a labels.csv into it"):
        list_plates(folder)


def test_one_name_that_is_no_plate_among_many_is_named(tmp_path):
    folder = named(tmp_path / "plates", [*(f"{p}-1.jpg" for p in PLATES), "readme.jpg"])
    with pytest.raises(DataError, match=r"plates/readme\.jpg: its name is not a plate.*Rename it"):
        list_plates(folder)
    (folder / "readme.jpg").unlink()
    assert list_plates(folder).labels == PLATES


def test_subfolders_are_walked_and_names_stay_unique_by_their_path(tmp_path):
    folder = named(tmp_path, [f"{c}/京N038VD.jpg" for c in ("b", "a", "a/deep")] + ["沪B6Z00X.jpg"])
    plates = load_plates(folder)
    assert plates.names == ("沪B6Z00X.jpg", "a/京N038VD.jpg", "a/deep/京N038VD.jpg",
                            "b/京N038VD.jpg")  # fmt: skip
    assert plates.labels == ("沪B6Z00X", *["京N038VD"] * 3)
    assert plates.images[:, 0, 0, 0].tolist() == [3, 1, 2, 0]
    assert [path.relative_to(folder).as_posix() for path in image_files(folder)] == [*plates.names]


def test_subfolders_may_have_lists_of_their_own(tmp_path):
    for place, plate in (("blue", "京N038VD"), ("green", "京JEE6518")):
        numbered(tmp_path / place, 1)
        (tmp_path / place / "labels.csv").write_text(f"0000.png,{plate}\n", "utf8")
    assert list_plates(tmp_path).labels == ("京N038VD", "京JEE6518")
    numbered(tmp_path / "other", 1)
    with pytest.raises(DataError, match="1 images .* first is other/0000.png: the label files are"):
        list_plates(tmp_path)


@pytest.mark.parametrize("second", ["labels.json", "train.txt", "blue/labels.csv"])
def test_several_lists_for_the_same_pictures_are_an_error(tmp_path, second):
    numbered(tmp_path)
    numbered(tmp_path / "blue", 1)
    (tmp_path / "labels.csv").write_text(CSV + "blue/0000.png,京N038VD\n", "utf8")
    assert len(list_plates(tmp_path)) == 7
    text = json.dumps(LABELS) if second.endswith("json") else CSV.replace(",", "\t")
    (tmp_path / second).write_text(text, "utf8")
    with pytest.raises(DataError, match=r"several label files: .*labels\.csv.*Keep one"):
        list_plates(tmp_path)
    assert len(load_images(tmp_path)) == 7  # needs none of them


def test_other_texts_and_results_are_no_label_lists(tmp_path, told):
    folder = numbered(tmp_path / "plates", 2)
    (folder / "results.json").write_text(json.dumps(LABELS), "utf8")  # of a reading
    (folder / "0000.txt").write_text("0000.png,京N038VD\n", "utf8")  # of an annotation tool
    (folder / "readme.txt").write_text("Plates, taken in May.\nBy night, too.\n", "utf8")
    (folder / "classes.txt").write_bytes("京\n沪\n".encode("gbk"))
    with pytest.raises(DataError, match="has no labels"):
        list_plates(folder)
    [line] = told()
    assert "4 files that are no pictures (1 .json, 3 .txt) left out; 2 pictures remain" in line


def test_every_format_is_read(tmp_path):
    for suffix in (".jpg", ".JPEG", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff", ".ppm"):
        picture(tmp_path / f"a{suffix.lower()}", 77)
        (tmp_path / f"a{suffix.lower()}").rename(tmp_path / f"a{suffix}")
    plates = load_images(tmp_path)
    assert len(plates) == 9 and abs(plates.images.astype(int) - 77).max() <= 2


def test_what_is_left_out_is_counted_once(tmp_path, told):
    folder = numbered(tmp_path / "plates", 2)
    for name in (".DS_Store", "._0000.png", "Thumbs.db", ".git/x.png", "__MACOSX/._a.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    for name in ("a.heic", "b.heic", "LICENSE", "old.zip"):
        (folder / name).write_bytes(b"x")
    os.mkfifo(folder / "c.png")
    (folder / "more").symlink_to(tmp_path)
    (folder / "labels.csv").write_text("0000.png,京N038VD\n0001.png,沪B6Z00X\n", "utf8")
    for _ in range(2):
        assert len(load_plates(folder)) == 2
    [line] = told()
    kinds = "2 .heic, 1 .png, 1 .zip, 1 without suffix"
    assert f"5 files that are no pictures ({kinds}) and 5 hidden and 1 links to folders" in line


@pytest.mark.parametrize("kind", ["zip", "inside", "picture", "missing", "empty", "latin1"])
def test_what_is_no_folder_of_pictures_is_named(tmp_path, kind, monkeypatch):
    path = tmp_path / "plates"
    if kind == "zip":
        path, said = tmp_path / "p.zip", r"p\.zip is an archive. Unpack it and name the folder"
        zipfile.ZipFile(path, "w").close()
    elif kind == "inside":
        path.mkdir()
        zipfile.ZipFile(path / "p.zip", "w").close()
        said = r"plates has no image .* but p\.zip. Unpack it"
    elif kind == "picture":
        path, said = tmp_path / "a.png", r"a\.png is a file, not a folder of images"
        picture(path)
    elif kind == "missing":
        monkeypatch.chdir(tmp_path)
        path, said = Path("plates"), f"{tmp_path}/plates does not exist, nor does .*/plates. Run"
    elif kind == "empty":
        path.mkdir()
        said = r"plates has no image \(\.jpg, .*Name the folder of your plates"
    else:
        path.mkdir()
        said = r"file name '\\udcbe\\udca9A12345.png' is not UTF-8.*Rename it; `convmv"
        (path / os.fsdecode("京A12345.png".encode("gbk"))).write_bytes(b"x")
    for read in (list_plates, load_images, image_files):
        with pytest.raises(DataError, match=said):
            read(path)


def test_ccpd_without_plates_is_left_out_and_counted(tmp_path, told):
    scene = np.full((300, 500, 3), 90, np.uint8)
    for name in (f"ccpd_base/{SCENE}", "ccpd_np/1000.jpg", "ccpd_np/1001.jpg", "ccpd_np/1002.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / name), scene)
    (tmp_path / "splits").mkdir()
    (tmp_path / "splits" / "train.txt").write_text(f"ccpd_base/{SCENE}\n")
    for plates in (load_plates(tmp_path), load_images(tmp_path)):
        assert plates.names == (f"ccpd_base/{SCENE}",) and plates.labels == ("皖AY339S",)
    assert any("3 pictures left out whose names are not CCPD's and say no plate, such as ccpd_np/1"
               in line for line in told())  # fmt: skip


def test_choosing_a_few_reads_those_only(tmp_path, monkeypatch):
    folder = numbered(tmp_path / "plates", 300)
    (folder / "labels.csv").write_text(
        "".join(f"{i:04d}.png,京A{i:05d}\n" for i in range(300)), "utf8"
    )
    read = []
    original = f.read_image
    monkeypatch.setattr(
        f, "read_image", lambda path, size: read.append(path.name) or original(path, size)
    )
    files = list_plates(folder)
    assert len(files) == 300 and not read
    chosen = choose(len(files), 7, seed=3)
    plates = files.take(chosen).read()
    assert read == [f"{i:04d}.png" for i in chosen] == list(plates.names)
    assert plates.labels == tuple(f"京A{i:05d}" for i in chosen)


def test_ccpd_reads_the_chosen_scenes_only(tmp_path, monkeypatch):
    scene = np.full((300, 500, 3), 90, np.uint8)
    for index in range(30):
        cv2.imwrite(str(tmp_path / SCENE.replace("-37-", f"-{index}-")), scene)
    read = []
    original = f.read_plate
    monkeypatch.setattr(f, "read_plate", lambda *given: read.append(given) or original(*given))
    assert len(list_plates(tmp_path).take([3, 5]).read()) == 2 and len(read) == 2


def test_an_lmdb_takes_subfolders_and_pictures_without_labels(tmp_path):
    named(tmp_path / "plates", [f"{c}/{'0' * 32}.png" for c in "ab"])
    assert convert_imageset(tmp_path / "plates", tmp_path / "lmdb") == 2
    values = [array[0, 0, 0, 0] * 128 + 127.5 for _, array in read_lmdb(tmp_path / "lmdb")]
    assert values == [0, 1]


# The truth of results

READ = {"0000.png": "京GT4K05", "0001.png": "京JEE6518", "0002.png": "京N038V0"}


@pytest.mark.parametrize("kind", ["csv", "txt", "json", "folder", "names", "bare names"])
def test_truth_comes_from_every_source_of_labels(tmp_path, kind):
    read, source = dict(READ), tmp_path / "plates"
    if kind in ("names", "bare names"):
        named(source, [f"{plate}-1.png" for plate in PLATES])
        read = {f"{p}-1.png": text for p, text in zip(PLATES, READ.values())}
        if kind == "bare names":
            read = {name[:-4]: text for name, text in read.items()}
    else:
        numbered(source)
        text = {"json": json.dumps(LABELS), "txt": CSV.replace(",", "\t")}.get(kind, CSV)
        place = source / ("labels.csv" if kind == "folder" else f"truth.{kind}")
        place.write_text(text, "utf8")
        source = source if kind == "folder" else place
    truth, missing = read_truth(source, read, "results.json")
    assert truth == list(PLATES[:3]) and missing == 3


def test_truth_may_have_characters_that_nothing_reads(tmp_path):
    (tmp_path / "t.csv").write_text("0000.png,京a·1234警\n", "utf8")
    assert read_truth(tmp_path / "t.csv", {"0000.png": "京A12341"}, "r") == (["京A1234警"], 0)
    # A class list with small letters keeps them.
    assert read_truth(tmp_path / "t.csv", {"0000.png": "京a12341"}, "r") == (["京a1234警"], 0)


def with_unknown(folder: Path) -> Path:
    texts = ("京A1234学", PLATES[1], "京A1234警", PLATES[3])
    lines = [f"{n},{text}\n" for n, text in zip((f"{i:04d}.png" for i in range(4)), texts)]
    numbered(folder, 4)
    (folder / "labels.csv").write_text("".join(lines), "utf8")
    return folder


def test_all_labels_outside_the_class_list_are_named_at_once(tmp_path):
    folder = with_unknown(tmp_path / "plates")
    with pytest.raises(DataError) as error:
        list_plates(folder)
    for part in ("2 of 4 labels", "0000.png '京A1234学'", "0002.png '京A1234警'", "--skip-unknown"):
        assert part in str(error.value)
    (folder / "labels.csv").write_text("0000.png,京A1234学\n" + CSV[CSV.index("0001") :], "utf8")
    with pytest.raises(
        DataError, match="0000.png: label '京A1234学': character '学' at position 7"
    ):
        list_plates(folder)


def test_the_rest_is_judged_when_that_is_said(tmp_path, told):
    files = list_plates(with_unknown(tmp_path / "plates"), skip_unknown=True)
    assert files.names == ("0001.png", "0003.png") and files.labels == (PLATES[1], PLATES[3])
    [said] = told()
    assert "2 plates left out" in said and "2 remain" in said
    assert "0000.png '京A1234学', 0002.png '京A1234警'" in said
    assert [image[0, 0, 0] for image in files.read().images] == [10, 30]
    (tmp_path / "plates" / "labels.csv").write_text(
        "".join(f"{index:04d}.png,京A1234学\n" for index in range(4)), "utf8"
    )
    with pytest.raises(DataError, match="0 remain. Name the class list"):
        list_plates(tmp_path / "plates", skip_unknown=True)


def test_scenes_whose_plates_no_class_writes_are_left_out_by_their_names(tmp_path, told):
    fields = SCENE.split("-")
    for number, plate in enumerate(("0_0_22_27_27_33_16", "31_0_22_27_27_33_16")):  # 皖…, 警…
        picture(
            tmp_path / "-".join([str(number), *fields[1:4], plate, *fields[5:]]), 9, (1160, 720)
        )
    files = list_plates(tmp_path, skip_unknown=True)
    assert len(files) == 1 and files.names[0].startswith("0-")
    assert "1 plates left out" in told()[0]
    assert files.read().labels == ("皖AY339S",)


def test_a_result_without_label_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("0000.png,京N038VD\n", "utf8")
    with pytest.raises(DataError, match=r"2 images of r.json have no label in .*t\.csv, .* 0001"):
        read_truth(tmp_path / "t.csv", READ, "r.json")


def test_a_folder_whose_label_list_could_have_no_name(tmp_path):
    """``<folder>_label.json`` beside it would be longer than a name can be."""
    folder = tmp_path / ("f" * 250)
    folder.mkdir()
    cv2.imwrite(str(folder / "a.png"), np.zeros((24, 94, 3), np.uint8))
    assert len(load_images(folder)) == 1
