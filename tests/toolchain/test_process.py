from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from lprnet_nb.errors import ToolchainError
from lprnet_nb.toolchain.process import log_tail, run_logged


def run(script, tmp_path, timeout=30.0):
    run_logged(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        log=tmp_path / "log",
        env=dict(os.environ),
        python=sys.executable,
        timeout=timeout,
        what="the tool",
    )


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(path):
    for _ in range(200):
        if path.exists() and path.read_text():
            return int(path.read_text())
        time.sleep(0.05)
    raise AssertionError(f"{path} did not appear")


def test_output_goes_to_the_log_and_files_to_the_folder(tmp_path):
    run("print('said'); open('made', 'w').write('x')", tmp_path)
    assert "said" in (tmp_path / "log").read_text() and (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "script, message",
    [
        ("import sys; print('the reason'); sys.exit(3)", "exit status 3"),
        ("import os; print('the reason', flush=True); os.abort()", "signal 6"),
    ],
)
def test_a_failure_shows_how_it_ended_and_the_end_of_the_log(tmp_path, script, message):
    with pytest.raises(ToolchainError, match=message) as caught:
        run(script, tmp_path)
    assert "the reason" in str(caught.value) and str(tmp_path / "log") in str(caught.value)


def test_a_tool_that_hangs_is_killed_with_its_children(tmp_path):
    script = (
        "import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', "
        "'import time; time.sleep(60)']); open('pid', 'w').write(str(p.pid)); time.sleep(60)"
    )
    with pytest.raises(ToolchainError, match="within 2 s"):
        run(script, tmp_path, timeout=2.0)
    assert not alive(wait_for(tmp_path / "pid"))


def test_a_tool_dies_with_the_process_that_started_it(tmp_path):
    tool = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(60)"
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            (
                "import os, sys; from pathlib import Path; "
                "from lprnet_nb.toolchain.process import run_logged; "
                f"run_logged([sys.executable, '-c', {tool!r}], cwd=Path({str(tmp_path)!r}), "
                f"log=Path({str(tmp_path / 'log')!r}), env=dict(os.environ), "
                "python=sys.executable, timeout=60, what='x')"
            ),
        ]
    )
    pid = wait_for(tmp_path / "pid")
    assert alive(pid)
    parent.kill()
    parent.wait()
    for _ in range(100):
        if not alive(pid):
            return
        time.sleep(0.05)
    raise AssertionError("the tool outlived its parent")


def test_progress_bars_are_left_out_of_the_tail(tmp_path):
    (tmp_path / "log").write_text("start\r 10%|#    | 1/10\r 99%|####| 9/10\nreason\n\n")
    assert log_tail(tmp_path / "log") == "start\nreason"
    assert log_tail(tmp_path / "none") == "(no log)"
