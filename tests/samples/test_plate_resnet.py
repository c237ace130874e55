"""The second network: its files fit one another, it reads, and its page tells what was measured."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lprnet_nb.cache import file_digest
from lprnet_nb.cli import app
from lprnet_nb.datasets.alphabet import PUBLISHED
from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.evaluate.decision import paired_difference
from lprnet_nb.evaluate.intervals import wilson
from lprnet_nb.model.network_file import network_weights, read_network
from lprnet_nb.model.train import exact_match
from lprnet_nb.model.trainee import read_trainee

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "samples" / "networks" / "plate_resnet"
FILE, WEIGHTS = FOLDER / "plate_resnet.py", FOLDER / "plate_resnet.pth"
MEASURED = FOLDER / "measured.json"
PAGE = (ROOT / "docs" / "second-network.md").read_text("utf8")
LARGEST = 2_000_000  # bytes of its weights
PLATES = 124  # whose reading holds the weights; seed of none that they were trained on
RIGHT = 0.7  # share of them; 0.758 where it was measured


@pytest.fixture(scope="module")
def weights():
    return network_weights(read_network(FILE))


def test_its_files_fit_one_another(weights):
    """A class list in another order, other weights, or a layer that the file has no more."""
    assert weights.of.size == (24, 94) and weights.of.steps == 24 and weights.of.batches
    assert weights.alphabet.listed == PUBLISHED.listed
    assert weights.alphabet.blank == PUBLISHED.blank
    assert WEIGHTS.stat().st_size < LARGEST
    assert json.loads(MEASURED.read_text("utf8"))["weights"] == file_digest(WEIGHTS)
    trained = torch.load(WEIGHTS, weights_only=True)
    fresh = read_trainee(FILE).build().state_dict()
    assert {name: value.shape for name, value in fresh.items()} == {
        name: value.shape for name, value in trained.items()
    }


def test_it_reads_plates_that_it_was_not_trained_on(weights):
    plates = generate_plates(PLATES, 31338, workers=0)
    assert exact_match(weights, plates) >= RIGHT


def test_the_page_says_what_was_measured():
    measured = json.loads(MEASURED.read_text("utf8"))
    for row in measured["rows"]:
        low, high = wilson(row["k"], row["n"])
        assert f"{row['k'] / row['n']:.3f} | {low:.3f}–{high:.3f}" in PAGE, row["id"]
        if "simulator" in row:
            assert row["simulator"]["identical"] and row["simulator"]["images"] >= 20
    for pair in measured["pairs"]:
        n = measured["rows"][0]["n"]
        low, high = paired_difference(pair["only_b"], pair["only_a"], n)
        difference = (pair["only_a"] - pair["only_b"]) / n
        assert f"{difference:+.3f} ({low:+.3f} to {high:+.3f})" in PAGE, pair


def test_the_page_says_what_explain_found():
    for found in json.loads(MEASURED.read_text("utf8"))["explained"]:
        said = PAGE[PAGE.index("Found on 16 plates") :]
        for figure in (
            f"{found['snr_db']:.1f} dB",
            f"{found['share']:.0%}".replace("%", " %"),
            f"+{found['gain_db']} dB",
        ):
            assert figure in said.partition("That cure")[0]


def test_the_page_says_what_the_study_found():
    study = json.loads((FOLDER / "study.json").read_text("utf8"))
    found: dict[tuple[str, str], list[float]] = {}
    for row in study["rows"]:
        found.setdefault((row["chip"], row["strategy"]), []).append(row["correct"] / row["images"])
    for (chip, strategy), draws in found.items():
        mean, ends = sum(draws) / len(draws), f"{min(draws):.3f}–{max(draws):.3f}"
        assert len(draws) == 3 and f"| {chip}, `{strategy}` | {mean:.3f} | {ends} |" in PAGE
    for chip in ("BM1684X", "BM1684"):  # the cure gains nothing
        assert sum(found[chip, "kl-last"]) <= sum(found[chip, "kl"])
    assert f"float reads {study['float']['correct'] / 1000:.3f} of" in PAGE


def commands() -> list[list[str]]:
    """Those of the page's shell blocks, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    lines = [line.partition("  #")[0] for block in blocks for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("lprnet-nb ")]


# What takes minutes is asked for less of.
SMALLER = {"--count": "40", "--images": "8", "--steps": "1", "--plates": "155"}


@pytest.mark.slow
def test_the_pages_commands_run_in_their_order(tmp_path, monkeypatch):
    shutil.copytree(FOLDER, tmp_path / FOLDER.relative_to(ROOT))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LPRNET_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("LPRNET_REPORTS", str(tmp_path / "reports"))
    said = {}
    for command in commands():
        for option, value in SMALLER.items():
            if option in command:
                command[command.index(option) + 1] = value
        done = CliRunner().invoke(app, command, catch_exceptions=False)
        assert done.exit_code == 0, (command, done.output)
        said[command[0]] = done.stdout
    assert {
        "network",
        "train",
        "generate",
        "compare",
        "compile",
        "explain",
        "study",
        "report",
    } <= set(said)
    assert "equal to the bit" in said["network"] and "First to try" in said["explain"]
    assert (tmp_path / "reports/plate_resnet/index.html").is_file()


def test_nothing_in_the_package_names_it():
    named = [
        path
        for path in (ROOT / "lprnet_nb").rglob("*.py")
        if re.search("plate.?resnet", path.read_text("utf8"), re.I)
    ]
    assert not named
