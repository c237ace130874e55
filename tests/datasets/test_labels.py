"""Label lists as tools and people write them, and file names that are labels or are not."""

from __future__ import annotations

import json

import numpy as np
import pytest

from lprnet_nb import inputs
from lprnet_nb.datasets import labels as lab
from lprnet_nb.datasets.alphabet import PROVINCES, PUBLISHED, Alphabet, normalize
from lprnet_nb.datasets.labels import labels_in_names, read_labels, read_list
from lprnet_nb.decode import compile_grammar, load_grammar
from lprnet_nb.errors import DataError

TRUTH = {"0.jpg": "京N038VD", "1.jpg": "沪M74826D", "2.jpg": "皖A12345"}
MORE = Alphabet((*PUBLISHED.characters[:-1], *"学警港澳挂使领", "-"), 74)
LATIN = Alphabet(tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-"), 36)


@pytest.fixture(autouse=True)
def notes(monkeypatch):
    monkeypatch.setattr(inputs, "_said", set())


def lines(delimiter: str, *columns: str, heading: str = "", end: str = "\n") -> str:
    """A list of `TRUTH` with further columns behind."""
    rows = [delimiter.join((name, plate, *columns)) for name, plate in TRUTH.items()]
    return end.join([heading] * bool(heading) + rows) + end


LISTS = {
    "rec_gt.txt": lines("\t"),
    "rec_gt_train.txt": lines("\t", end="\r\n"),
    "train.txt": lines(" ", "普通蓝牌"),  # CBLPRD: name, plate, kind
    "old-mac.txt": lines("\t", end="\r"),
    "spaces.txt": lines("   "),
    "labels.json": json.dumps(TRUTH),
    "labels.csv": lines(","),
    "semicolons.csv": lines(";", heading="文件名;车牌号"),
    "excel.csv": lines(";", heading="sep=;"),
    "wide-commas.csv": lines("，", heading="图片，车牌"),
    "bars.txt": lines("|"),
    "heading.csv": lines(",", "blue", heading="file,plate,colour"),
    "foreign-heading.csv": lines(",", heading="bild,kennzeichen"),
    "capitals.csv": lines(",", heading="Image Name,License Plate"),
    "blank-lines.csv": "\n\n" + lines(",").replace("\n", "\n\n,\n  \n"),
    "quoted.csv": "\n".join(f'"{n}","{p}"' for n, p in TRUTH.items()),
    "spaced.csv": lines(" , "),
    "turned.csv": "plate,file\n" + "\n".join(f"{p},{n}" for n, p in TRUTH.items()),
    "turned-bare.csv": "\n".join(f"{p},{n}" for n, p in TRUTH.items()),
    "pandas.csv": ",file,plate\n"
    + "\n".join(f"{i},{n},{p}" for i, (n, p) in enumerate(TRUTH.items())),
    "numbered.csv": "\n".join(f"{i},{n},{p}" for i, (n, p) in enumerate(TRUTH.items())),
    "plate-with-space.txt": lines(" ").replace("京N", "京N "),
}


def matched(path, images=tuple(TRUTH)) -> dict[str, str]:
    texts, _ = lab.label_of_each(read_list(path), path.parent, images)
    return dict(zip(images, lab.normalized(path, images, texts, PUBLISHED)))


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_every_tool(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(LISTS[name].encode())
    assert matched(path) == TRUTH


@pytest.mark.parametrize(
    "write",
    [
        "images/{}",
        "./{}",
        "images\\{}",
        "D:\\plates\\set 1\\{}",
        "/data/plates/{}",
        '"{}"',
        "plates/{}",
    ],
)
@pytest.mark.parametrize("kind", ["csv", "txt", "json"])
def test_names_are_matched_by_path_with_either_slash(tmp_path, write, kind):
    named = {write.format(name): plate for name, plate in TRUTH.items()}
    path = tmp_path / f"labels.{kind}"
    delimiter = "," if kind == "csv" else "\t"
    path.write_text(
        json.dumps(named)
        if kind == "json"
        else "\n".join(delimiter.join(row) for row in named.items()),
        "utf8",
    )
    assert matched(path) == TRUTH


@pytest.mark.parametrize("change", [str.upper, lambda name: name[:-4]])
def test_the_suffix_may_be_missing_and_capitals_do_not_matter(tmp_path, change):
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(f"{change(n)},{p}" for n, p in TRUTH.items()), "utf8")
    assert matched(path) == TRUTH


def test_of_paths_that_end_alike_the_one_that_leads_to_the_image_counts(tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    path = folder / "labels.csv"
    path.write_text("val/0.jpg,沪B12345\ntrain/0.jpg,京A12345\n", "utf8")
    assert matched(path, ("0.jpg",)) == {"0.jpg": "京A12345"}
    assert matched(path, ("val/0.jpg",)) == {"val/0.jpg": "沪B12345"}


@pytest.mark.parametrize(
    "text, images, said",
    [
        ("0.jpg,京A12345\n0.jpg,京A12346\n", ("0.jpg",), "line 2: '0.jpg' occurs twice"),
        ("a/0.jpg,京A12345\nb/0.jpg,京A12346\n", ("0.jpg",), "different plates, 京A12345 and"),
        ("0.jpg,京A12345\nx/0.jpg,京A12346\n", ("0.jpg",), "different plates, 京A12345 and"),
        ("0.jpg,京A12345\n", ("a/0.jpg", "b/0.jpg"), "may be a/0.jpg or b/0.jpg. Write paths"),
        ("0.jpg,京A12345\n1.jpg,\n", ("0.jpg", "1.jpg"), "label of 1.jpg is empty. Fill it in"),
        ("0.jpg,京A12345\n", ("0.jpg", "1.jpg"), "the first is 1.jpg. Add"),
        ("x.jpg,京A12345\n", ("0.jpg",), "it names is 'x.jpg' and so on. Add them"),
        ("0.jpg\n1.jpg\n", ("0.jpg",), "line 1: expected a file name and a plate, such as"),
        ("", ("0.jpg",), "empty: expected a file name and a plate"),
        ("0.jpg,京A12345,x\n1.jpg,京A12345,y\n2.jpg\n", ("0.jpg",), "line 3: expected a file"),
        ("0.jpg AB12 CDE\n1.jpg AB34 XYZ\n", ("0.jpg",), "line 1: 'AB12 CDE' may be a plate with"),
        ('0.jpg,"京A12345\n1.jpg,京A12346\n', ("1.jpg",), "line 2: a quote before or in"),
    ],
)
def test_what_is_wrong_in_a_list_is_said_with_the_place(tmp_path, text, images, said):
    path = tmp_path / "labels.csv"
    path.write_text(text, "utf8")
    with pytest.raises(DataError, match=rf"labels\.csv.*{said}"):
        matched(path, images)


def test_doubles_that_agree_are_counted_and_labels_of_no_image_too(tmp_path, capsys):
    path = tmp_path / "labels.csv"
    path.write_text(lines(",") + lines(",") + "9.jpg,京A12345\n", "utf8")
    texts, unused = lab.label_of_each(read_list(path), tmp_path, list(TRUTH))
    assert texts == list(TRUTH.values()) and unused == 1
    assert "3 lines say again what others say" in capsys.readouterr().err
    with pytest.raises(DataError, match="line 4: '0.jpg' occurs twice"):
        read_labels(path, doubles=False)


@pytest.mark.parametrize("text", ['{"0.jpg": "京A1"', '{"0.jpg": 1}', '["0.jpg"]', '{"0.jpg": {}}'])
def test_json_that_is_no_list_of_labels(tmp_path, text):
    path = tmp_path / "labels.json"
    path.write_text(text, "utf8")
    with pytest.raises(DataError, match="labels.json.* is not (JSON at line 1|a mapping)"):
        read_labels(path)
    path.write_text('{"0.jpg": "京A12345", "0.jpg": "京A12346"}', "utf8")
    with pytest.raises(DataError, match="entry 2: '0.jpg' occurs twice, as '京A12345' and"):
        read_labels(path)


def test_what_is_normalized_is_said_once_with_a_count(tmp_path, capsys):
    written = ["京ａ·１２345", " 沪B 12345", "“皖A12345”", "粤z12345", "京A12345", "豫A•12345"]
    path = tmp_path / "labels.csv"
    path.write_text("\n".join(f"{i}.jpg,{text}" for i, text in enumerate(written)), "utf8")
    found = matched(path, tuple(f"{i}.jpg" for i in range(6)))
    assert list(found.values()) == [
        "京A12345", "沪B12345", "皖A12345", "粤Z12345", "京A12345", "豫A12345"
    ]  # fmt: skip
    [told] = capsys.readouterr().err.splitlines()
    assert "5 labels were written in another way" in told and "京ａ·１２345' for '京A12345'" in told


def test_only_characters_that_are_no_class_are_changed():
    assert normalize("aＢ·c", set("abcABC")) == "aBc"
    assert normalize("ab·", set("AB·")) == "AB·"
    assert normalize("AB", set("ab")) == "ab" and normalize("Ａ", set("ＡA")) == "Ａ"
    assert normalize("³-", set("3")) == "³-"  # no digit, and to be refused


# File names

rng = np.random.default_rng(0)


def test_what_is_a_plate_is_what_the_packaged_grammar_says():
    automaton = compile_grammar(load_grammar("plate"), PUBLISHED)
    letters, digits = list("ABCDEFGHJKLMNPQRSTUVWXYZIO"), list("0123456789")
    accepted = 0
    for _ in range(20_000):
        tail = rng.choice([*letters[:4], *"DFKIO", *digits * 3], rng.integers(5, 8))
        text = str(rng.choice(list(PROVINCES))) + str(rng.choice(letters)) + "".join(tail)
        fits = bool(lab._ORDINARY.fullmatch(text) or lab._NEW_ENERGY.fullmatch(text))
        assert fits == automaton.accepts(PUBLISHED.encode(text)), text
        accepted += fits
    assert 1000 < accepted < 15_000


@pytest.mark.parametrize(
    "name, plate",
    [
        ("京A12345.jpg", "京A12345"),
        ("京A12345-2.jpg", "京A12345"),
        ("京A12345_2_x.jpg", "京A12345"),
        ("京AD12345 (1).png", "京AD12345"),
        ("京A12345（2）.png", "京A12345"),
        ("京A12345 copy.png", "京A12345"),
        ("京a·12345.png", "京A12345"),
        ("京A-12345.png", "京A12345"),
        ("京A12_345.png", None),
        ("京AD1234-5.png", "京AD1234"),  # not the new-energy plate 京AD12345
        ("京A12345.1.jpg", "京A12345"),
        ("blue/京A12345.jpg", "京A12345"),
        ("0001_京A12345_blue.jpg", "京A12345"),
        ("京A12345_沪B12345.jpg", "京A12345"),
        ("0001_京A12345_沪B12345.jpg", None),
        ("0001.jpg", None),
        ("A01_GT4K05_1.jpg", None),
        ("01b50154334ff85591a1a75bea54c728.jpg", None),
        ("京A1234.jpg", None),
        ("IMG_20240101_120000.jpg", None),
        ("京.jpg", None),
        ("_.jpg", None),
        ("京ABCD12.jpg", None),
    ],
)
def test_a_name_is_a_label_only_if_it_is_a_plate(name, plate):
    assert labels_in_names([name], PUBLISHED) == [plate]


def test_special_plates_are_labels_where_the_classes_have_them():
    names = ["京A12345.jpg", "京GT4K0警_1.jpg", "粤Z1234港.jpg", "0001.jpg"]
    assert labels_in_names(names, MORE) == ["京A12345", "京GT4K0警", "粤Z1234港", None]


def test_with_other_classes_a_name_is_a_label_by_the_shape_that_most_share():
    names = [f"{a}{b}{n:02d}XY_{n}.png" for n, (a, b) in enumerate(["AB", "CD", "QR", "ZA", "KM"])]
    assert labels_in_names([*names, "x.png"], LATIN) == [n.split("_")[0] for n in names] + [None]


@pytest.mark.parametrize(
    "names",
    [
        [f"{n:04d}.jpg" for n in range(9)],
        [f"IMG{n:04d}.jpg" for n in range(9)],
        [f"DSC{n:04d}_1.jpg" for n in range(9)] + [f"IMG{n:04d}.jpg" for n in range(60)],
        [f"A{n:02d}_GT4K05.jpg" for n in range(9)],
        [f"{n:032X}.jpg" for n in rng.integers(2**62, size=9)],
        [f"{n:08X}-{n:04X}.jpg" for n in rng.integers(2**28, 2**32, size=9)],
        [f"plate{chr(97 + n)}.jpg" for n in range(9)],
        ["ABCD12.jpg"],
    ],
)
def test_numbers_codes_and_digests_are_no_labels_of_any_class_list(names):
    for alphabet in (LATIN, MORE, PUBLISHED):
        assert labels_in_names(names, alphabet) == [None] * len(names)


def test_every_published_image_is_labelled_by_its_name(published):
    found = labels_in_names(published.names, PUBLISHED)
    assert tuple(found) == published.labels
    assert tuple(labels_in_names(published.names, MORE)) == published.labels


def test_a_pattern_of_a_name_with_regular_expressions_does_no_harm():
    names = [f"{c}{'(' * 200}{'a' * 5000}.jpg" for c in "京A1"]
    assert labels_in_names(names, MORE) == [None] * 3
    assert not lab.is_plate("京A" + "A1" * 50_000)
