from __future__ import annotations

import nbclient
import nbformat

from lprnet_nb.progress import progress_bar

CELL = """
from lprnet_nb.progress import progress_bar
with progress_bar(6, "simulator <BM1688>", {wanted}) as advance:
    for _ in range(3):
        advance(2)
"""


def outputs(wanted):
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(CELL.format(wanted=wanted))]
    )
    nbclient.NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    return notebook.cells[0].outputs


def test_leaves_one_still_picture_in_a_notebook():
    [output] = outputs(True)
    assert output["data"]["text/html"] == (
        "<progress value='6' max='6'></progress> simulator &lt;BM1688&gt;: 6 of 6"
    )


def test_is_silent_where_it_is_not_wanted():
    assert outputs(False) == []


def test_is_silent_off_a_terminal(capfd):
    with progress_bar(3, "images") as advance:
        advance(3)
    assert capfd.readouterr() == ("", "")
