"""Text as Windows, Excel and hand edits write it; what is no regular file; where files are."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lprnet_nb import inputs
from lprnet_nb.datasets.alphabet import PROVINCES, PUBLISHED, read_alphabet
from lprnet_nb.decode import load_grammar
from lprnet_nb.errors import DataError, ParameterError
from lprnet_nb.toolchain.nntc.strategies import read_nntc_strategy
from lprnet_nb.toolchain.strategies import read_strategy

TEXT = "京A12345,皖·B\r\n沪C\n"


@pytest.fixture(autouse=True)
def notes(monkeypatch):
    monkeypatch.setattr(inputs, "_said", set())


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "gb18030", "gbk", "gb2312"]
)
def test_text_is_read_in_every_encoding_of_a_chinese_windows(tmp_path, capsys, encoding):
    path = tmp_path / "t.csv"
    text = TEXT.replace("·", "") if encoding == "gb2312" else TEXT
    path.write_bytes(text.encode(encoding))
    assert inputs.read_text(path, "label file") == text
    inputs.read_text(path, "label file")
    told = capsys.readouterr().err.splitlines()
    assert len(told) == encoding.startswith("gb")  # once
    assert all("t.csv is not UTF-8 and was taken as GB18030" in line for line in told)


@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le"])
def test_both_orders_of_utf_16(tmp_path, order):
    path = tmp_path / "t"
    path.write_bytes(("\ufeff" + TEXT).encode(order))
    assert inputs.read_text(path, "x") == TEXT


@example("鲁", "A12345")
@example("豫鲁豫", "A1\n")
@given(st.text(PROVINCES, min_size=1, max_size=6), st.text("A1\n,", max_size=8))
def test_provinces_in_gbk_are_never_taken_for_utf_8(tmp_path_factory, provinces, rest):
    # 鲁 and 豫 alone are: their bytes are those of two Latin and Cyrillic characters.
    path = tmp_path_factory.mktemp("gbk") / "t"
    path.write_bytes((provinces + rest).encode("gbk"))
    assert inputs.read_text(path, "x") == provinces + rest


@pytest.mark.parametrize("text", ["Ärger 12\n", "СТУХ АВЕК", "é"])
def test_other_languages_in_utf_8_stay_what_they_are(tmp_path, text):
    path = tmp_path / "t"
    path.write_text(text, "utf8")
    assert inputs.read_text(path, "x") == text


@pytest.mark.parametrize(
    "raw, said",
    [
        ("京沪津渝冀\n晋蒙".encode()[:-1], "line 2: its characters are damaged UTF-8"),
        (b"a.jpg,\xff\xff\n", "line 1: its characters are neither UTF-8 nor GB18030"),
        (b"\xff\xfea", "damaged UTF-16"),
        (b"a\0b", "zero bytes"),
    ],
)
def test_what_is_no_text_is_refused_with_the_line(tmp_path, raw, said):
    path = tmp_path / "t.csv"
    path.write_bytes(raw)
    with pytest.raises(DataError, match=rf"t\.csv.*{said}.*UTF-8"):
        inputs.read_text(path, "label file")


@pytest.mark.parametrize("kind", ["fifo", "folder", "zero", "sparse", "missing", "null", "below"])
def test_only_regular_files_of_bounded_size_are_opened(tmp_path, kind):
    path = tmp_path / "f"
    said = "device or pipe"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
        said = "is a folder, not a file"
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 1 << 40)
        said = "larger than 128 MiB"
    elif kind == "null":
        path, said = tmp_path / "a\0b", "not a possible path"
    elif kind == "below":
        path.touch()
        path, said = path / "x", "No such file"
    else:
        said = "No such file"
    with pytest.raises(ParameterError, match=said):
        inputs.read_bytes(path, "strategy file", error=ParameterError)


def test_a_missing_file_is_named_by_the_absolute_paths_that_were_tried(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=f"{tmp_path}/a/b does not exist, nor does .*/a/b"):
        inputs.read_bytes("a/b", "label file")
    (tmp_path / "README.md").write_text("mine")
    assert inputs.find_path("README.md") == tmp_path / "README.md"  # the user's comes first
    assert inputs.find_path("pyproject.toml") == inputs.repository() / "pyproject.toml"


def test_json_says_where_it_is_broken_and_doubles_are_refused(tmp_path):
    path = tmp_path / "s.json"
    for text, said in (
        ('{"a": 1,\n "b" 2}', "line 2, column 6"),
        ('{"a": 1, "a": 2}', "'a' occurs more than once"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a": ["\\ud800"]}', r"'\\ud800', which is half of a character"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=said):
            inputs.read_json(path, "file")
    path.write_text(r'{"a": "\ud83d\ude97 \u4eac"}')  # both halves are one character
    assert inputs.read_json(path, "file") == {"a": "🚗 京"}


def test_notes_show_no_escape_codes(capsys):
    inputs.note("a\x1b[31mb\nc")
    assert capsys.readouterr().err == "note: a\\x1b[31mb\\nc\n"


# Every kind of text file that the project reads, by the same reader.

STRATEGY = '{"name": "own", "about": "京的策略", "images": 7}'
GRAMMAR = '[sets]\na = "京沪"\nb = "01"\n[[form]]\nname = "x"\nslots = ["a", "b"]\n'


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gb18030"])
def test_class_lists_strategies_and_grammars_as_windows_saves_them(tmp_path, encoding):
    def saved(name: str, text: str):
        (tmp_path / name).write_bytes(text.replace("\n", "\r\n").encode(encoding))
        return tmp_path / name

    assert read_alphabet(saved("c.txt", PUBLISHED.classes + "\n")) == PUBLISHED
    assert read_strategy(saved("s.json", STRATEGY)).images == 7
    assert read_nntc_strategy(saved("n.json", STRATEGY)).iterations == 7
    assert load_grammar(saved("g.toml", GRAMMAR)).forms[0].slots == ("京沪", "01")


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(PUBLISHED.classes),
        "\n\n".join(f" {c} " for c in PUBLISHED.classes),
        repr(list(PUBLISHED.classes)),
        ",".join(f'"{c}"' for c in PUBLISHED.classes),
        PUBLISHED.classes.replace("A", "Ａ").replace("-", "－"),
    ],
)
def test_class_lists_as_hands_write_them(tmp_path, text):
    path = tmp_path / "classes.txt"
    path.write_text(text, "utf8")
    assert read_alphabet(path) == PUBLISHED


@pytest.mark.parametrize(
    "read, name, raw, said",
    [
        (read_alphabet, "c.txt", b"01A", "class list .*c.txt: no '-' for the CTC blank. Add it"),
        (read_alphabet, "c.txt", b"001-", "'0' occurs more than once. Mend .*c.txt"),
        (read_strategy, "s.json", b"{", "strategy file .*s.json is not JSON at line 1, column 2"),
        (read_nntc_strategy, "n.json", b"\xff\xff", "n.json, line 1: .*Save it as UTF-8"),
        (load_grammar, "g.toml", b"a = \n[", "not valid TOML at line 1, column 5. Mend"),
        (load_grammar, "g.toml", b"a\0", "g.toml holds zero bytes"),
    ],
)
def test_errors_have_cause_place_and_remedy(tmp_path, read, name, raw, said):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises((DataError, ParameterError), match=said) as caught:
        read(tmp_path / name)
    assert "\x1b" not in str(caught.value) and str(caught.value).endswith(".")
