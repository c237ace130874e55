from __future__ import annotations

from pathlib import Path

import pytest

from lprnet_nb.errors import DataError
from lprnet_nb.report import learnt_page
from lprnet_nb.report.blocks import block, filled

ROOT = Path(__file__).parents[2]


def test_the_page_says_what_the_committed_data_say():
    text = (ROOT / learnt_page.PAGE).read_text("utf8")
    assert filled(text, learnt_page.blocks()) == text, "run: python -m lprnet_nb.report.learnt_page"


def test_a_layer_gains_what_the_output_has_more_without_its_error():
    explained = {
        "int8": {"snr_db": 20.0},
        "layers": [
            {"layer": "a", "operation": "Conv", "without": {"snr_db": 20.5}},
            {"layer": "b", "operation": "Mul", "without": {"snr_db": 22.0}},
            {"layer": "c", "operation": "Add"},
        ],
    }
    assert learnt_page.gains(explained) == [("b Mul", 2.0), ("a Conv", 0.5)]


@pytest.mark.parametrize("text", ["no part", "<!-- a -->\n<!-- /a -->\n<!-- a -->\n<!-- /a -->\n"])
def test_a_part_stands_once(text):
    with pytest.raises(DataError, match="parts '<!-- a -->'"):
        block(text, "a")


def test_parts_are_made_anew_and_the_rest_is_kept():
    text = "x\n<!-- a -->\nold $\n<!-- /a -->\ny\n<!-- b -->\n<!-- /b -->\n"
    made = filled(text, {"a": "new \\1", "b": "and"})
    assert made == "x\n<!-- a -->\nnew \\1\n<!-- /a -->\ny\n<!-- b -->\nand\n<!-- /b -->\n"
    assert filled(made, {"a": "new \\1", "b": "and"}) == made
