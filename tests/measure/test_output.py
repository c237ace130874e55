"""What a notebook leaves: tables show themselves, and their text stays text."""

from __future__ import annotations

import json

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from lprnet_nb.measure.output import Output


def shown(rows, caption: str = "Caption") -> list[str]:
    InteractiveShell.instance()
    with capture_output() as captured:
        left = Output(None).table("name", rows, caption)
    assert left is None  # a cell that ends with it shows it once
    return [output.data["text/html"] for output in captured.outputs]


def test_a_table_shows_itself() -> None:
    [table] = shown([{"model": "kl", "share": 0.123456, "note": None, "count": 3}])
    for text in (">0.1235</td>", ">–</td>", ">3</td>", "Caption", 'id="T_name"'):
        assert text in table


def test_text_in_a_table_stays_text() -> None:
    [table] = shown([{"<i>a</i>": "<img src=x>", "b": "1 < 2"}], "of <u>all</u>")
    assert "&lt;img src=x&gt;" in table and "1 &lt; 2" in table
    assert "<i>" not in table and "<img" not in table and "<u>" not in table


def test_a_report_keeps_the_values(tmp_path) -> None:
    InteractiveShell.instance()
    with capture_output():
        Output(tmp_path).table("name", [{"a": "<b>", "v": 0.1234567}], "c")
    kept = json.loads((tmp_path / "tables" / "name.json").read_text("utf8"))
    assert kept == {"caption": "c", "rows": [{"a": "<b>", "v": 0.1234567}]}
