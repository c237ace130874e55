from __future__ import annotations

import time

import nbclient
import nbformat

from lprnet_nb.progress import progress_bar, stopwatches

CELL = """
from lprnet_nb.language import phrase
from lprnet_nb.progress import progress_bar
with progress_bar(6, {label}, {wanted}) as advance:
    for _ in range(3):
        advance(2)
"""


def outputs(wanted, label='"simulator <BM1688>"'):
    code = CELL.format(wanted=wanted, label=label)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    return notebook.cells[0].outputs


def test_leaves_one_still_picture_in_a_notebook():
    [output] = outputs(True)
    assert output["data"]["text/html"] == (
        "<progress value='6' max='6'></progress> simulator &lt;BM1688&gt;: 6 of 6"
    )


def test_a_report_finds_the_picture_in_the_other_language():
    [output] = outputs(True, 'phrase("compiling")')
    other = output["metadata"]["languages"]["zh"]["text/html"]
    assert other == "<progress value='6' max='6'></progress> 编译：6 / 6"


def test_is_silent_where_it_is_not_wanted():
    assert outputs(False) == []


def test_is_silent_off_a_terminal(capfd):
    with progress_bar(3, "images") as advance:
        advance(3)
    assert capfd.readouterr() == ("", "")


def test_stopwatches_run_one_below_the_other_in_a_terminal(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich's word for a terminal
    with stopwatches() as timed, timed("first step"), timed("[second]") as say:
        time.sleep(0.3)
        say("[said] meanwhile")
        time.sleep(0.3)
    shown = capsys.readouterr().err
    before, after = shown.split("[said] meanwhile\n")
    assert before.endswith("\x1b[1A\x1b[2K")  # in the place of the labels, which follow it
    assert all(label in after for label in ("first step", "[second]", "0:00:00"))


def test_stopwatches_are_lines_elsewhere(monkeypatch, capsys):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with stopwatches() as timed, timed("first step"), timed("[second]") as say:
        say("[said]")
    assert capsys.readouterr().err.splitlines() == ["first step …", "[second] …", "[said]"]
