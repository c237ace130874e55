"""Widgets live: a real JupyterLab in a real browser. Slow; run with ``scripts/test.sh -m slow``."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

PATIENCE = 180  # seconds for one thing to appear


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    """Address of a JupyterLab over `tmp_path`, its application open to scripts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "jupyterlab",
            "--no-browser",
            f"--port={port}",
            "--allow-root",
            "--expose-app-in-browser",
            "--IdentityProvider.token=",
            "--ServerApp.disable_check_xsrf=True",
            f"--ServerApp.root_dir={tmp_path}",
            "--LabApp.news_url=None",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
        start_new_session=True,
        env={
            **os.environ,
            "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "settings"),
            "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "workspaces"),
            "OMP_NUM_THREADS": "1",
        },
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert server.poll() is None, "JupyterLab stopped"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/lab"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


def _until(browser, expression: str) -> object:
    deadline = time.monotonic() + PATIENCE
    while not (found := browser.run(expression)):
        assert time.monotonic() < deadline, f"never came: {expression}"
        time.sleep(0.5)
    return found


@pytest.mark.slow
def test_dragging_a_threshold_changes_the_picture(
    lab: str, browser, published, weights, tmp_path: Path
) -> None:
    cells = [
        """from lprnet_nb.datasets.fetch import load_published
from lprnet_nb.model.weights import load_published_weights
from lprnet_nb.lessons import widgets
from lprnet_nb.measure.output import Output
widgets.threshold(Output(""), "drag", load_published_weights(), load_published(12), 13,
                  {"kl": 60.0})"""
    ]
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
        metadata={
            "kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}
        },
    )
    nbformat.write(notebook, tmp_path / "drag.ipynb")
    browser.call(
        "Emulation.setDeviceMetricsOverride",
        width=1280,
        height=1000,
        deviceScaleFactor=1,
        mobile=False,
    )
    browser.visit(f"{lab}/tree/drag.ipynb")
    _until(browser, "!!window.jupyterapp && !!document.querySelector('.jp-Notebook .jp-CodeCell')")
    browser.run("window.jupyterapp.restored.then(() => 1)")
    _until(
        browser,
        "window.jupyterapp.shell.currentWidget?.context?.sessionContext?.session"
        "?.kernel?.status === 'idle'",
    )
    browser.run("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    picture = "document.querySelector('.jp-OutputArea img.widget-image')"
    before = _until(browser, f"{picture} && {picture}.naturalWidth > 300 && {picture}.src")
    readout = "document.querySelector('.widget-readout').textContent"
    said = browser.run(readout)
    browser.run("document.querySelector('.noUi-handle').focus()")
    for _ in range(5):
        browser.key("ArrowRight")
    after = _until(browser, f"{picture}.src !== {before!r} && {picture}.src")
    assert after != before
    assert float(browser.run(readout)) > float(said)
    if folder := os.environ.get("LPRNET_SCREENSHOTS"):
        browser.screenshot(Path(folder) / "lab.png")


@pytest.mark.slow
def test_prose_of_lprnet_is_hidden_where_another_network_is_at_hand(
    lab: str, browser, tmp_path: Path
) -> None:
    """When the cell that checks the parameters has run, and not before; the rest of it stays."""
    prose = 'Steps<span class="of-lprnet">, **18** of them</span>, one a character.'
    code = """from lprnet_nb.lessons import course
course.checked("02_compile", {"NETWORK": "mine.onnx", "CHIPS": "BM1684X"})"""
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell(prose), nbformat.v4.new_code_cell(code)],
        metadata={
            "kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}
        },
    )
    nbformat.write(notebook, tmp_path / "own.ipynb")
    browser.visit(f"{lab}/tree/own.ipynb")
    passage = "document.querySelector('.jp-MarkdownCell .of-lprnet')"
    _until(browser, f"!!window.jupyterapp && !!{passage}")
    assert browser.run(f"{passage}.offsetWidth") > 0
    _until(
        browser,
        "window.jupyterapp.shell.currentWidget?.context?.sessionContext?.session"
        "?.kernel?.status === 'idle'",
    )
    browser.run("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    _until(browser, f"{passage}.offsetWidth === 0")
    shown = browser.run("document.querySelector('.jp-MarkdownCell').innerText")
    assert "Steps, one a character." in shown
    told = browser.run("document.querySelector('.jp-OutputArea').innerText")
    assert "takes the place of LPRNet" in told
