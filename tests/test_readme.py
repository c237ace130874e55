"""The READMEs: their numbers are those of committed runs, and every command in them runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from lprnet_nb.report import pictures, readme
from lprnet_nb.report.blocks import filled

ROOT = Path(__file__).resolve().parent.parent
read_runs = cache(readme.read_runs)


@cache
def results(language: str) -> str:
    """What `readme` says of the committed runs."""
    return readme.results(read_runs(), language)


def commands(name: str) -> list[str]:
    """Commands in the shell blocks of a README, comments off."""
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / name).read_text("utf8"), re.S)
    lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.mark.parametrize("name, language", readme.READMES.items())
def test_results_are_those_of_the_committed_runs(name: str, language: str) -> None:
    text, wanted = (ROOT / name).read_text("utf8"), readme.headline(read_runs(), language)
    made = {"headline": wanted, "results": results(language)}
    assert filled(text, made) == text, "run: python -m lprnet_nb.report.readme"
    # What is recommended, of plates that its choice has not seen, by its own record.
    for chip in readme.HEADLINE_CHIPS:
        record = json.loads((ROOT / "data/models" / chip / "recommended.json").read_text("utf8"))
        assert f"{record['evidence']['unbiased']['mean']:.3f}" in wanted
    assert "**0.867 / 0.858**" in wanted


def test_the_headline_figure_shows_each_step_of_each_chip() -> None:
    """By hand: vendor, KL, recommended (nested), grammar on BM1684X; float by the decoder."""
    [axes] = readme.headline_figure(read_runs()).axes
    points = {
        (round(x), round(y, 3))
        for line in axes.lines
        if line.get_marker() == "o"
        for x, y in line.get_xydata()
    }
    assert points == {(1, 0.867), (2, 0.877), (3, 0.894), (4, 0.935)}
    drawn = [line for line in axes.lines if line.get_linestyle() == "--" and len(line.get_xydata())]
    levels = [float(line.get_ydata()[0]) for line in drawn]
    assert [round(y, 3) for y in levels] == [0.894] * 4 + [0.934, 0.948]
    names = [text.get_text().replace("\n", " ") for text in axes.get_xticklabels()]
    assert names[2] == "INT8, the compiler's default" and names[-1] == "three looks, in float"


def test_the_figures_were_drawn_from_the_committed_study() -> None:
    for name in ("results", "headline"):
        text = (ROOT / "docs" / "figures" / f"{name}.svg").read_text("utf8")
        assert readme.source_digest(read_runs()) in text, "run: python -m lprnet_nb.report.readme"
    for name in ("results", "headline", "workflow"):
        assert (ROOT / "docs" / "figures" / f"{name}.svg").stat().st_size < 200_000


def test_the_pictures_are_light_and_of_our_own_plates() -> None:
    folder = ROOT / "docs" / "figures"
    assert (folder / "plates.png").read_bytes() == pictures.plates_picture()
    for name in ("plates", "report"):
        assert (folder / f"{name}.png").stat().st_size < 150_000, "python -m …report.pictures"


def test_the_table_says_what_the_data_say() -> None:
    """Cells by hand: the recommendation where its choice did not see the plates, the vendor's."""
    runs = read_runs()
    chosen = json.loads(
        (ROOT / "data" / "models" / "BM1684X" / "recommended.json").read_text("utf8")
    )
    apart, draws = chosen["evidence"]["unbiased"], []
    for row in runs.study["rows"]:
        same = (row["strategy"], row["chip"]) == (chosen["strategy"]["name"], "BM1684X")
        if same and row["scheme"] == "cross-fit" and "correct" in row:
            draws.append(row["correct"] / row["images"])
    assert len(draws) >= 5 and sum(draws) / len(draws) > apart["mean"]  # chosen on these plates
    lines = {
        line.split("|")[1].strip(): line.split("|")
        for line in results("en").splitlines()[:12]
        if line.startswith("|")
    }
    cell = f"**{apart['mean']:.3f} ({apart['low']:.3f}–{apart['high']:.3f})**"
    assert lines["**INT8, recommended**"][2].strip() == cell
    assert [c.strip() for c in lines["INT8, published by the vendor"][2:5]] == [
        "0.867",
        "0.858",
        "0.886",
    ]
    assert f"it reads {sum(draws) / len(draws):.3f} /" in results("en")


def test_predicted_times_stand_beside_measured_ones() -> None:
    """BM1684X in FP32: 0.277 ms are predicted, 0.883 were measured on the vendor's board."""
    line = next(one for one in results("en").splitlines() if one.startswith("| FP32 | 0.277"))
    assert line.split("|")[2].strip() == "0.277 → 0.88, measured 0.883"
    # No predicted time stands without its like on the board.
    assert " ms |" not in results("en")


def test_both_languages_give_the_same_commands_and_chapters() -> None:
    one, two = (commands(name) for name in readme.READMES)
    assert one == two
    chapters = [
        re.findall(r"^#+ ", (ROOT / name).read_text("utf8"), re.M) for name in readme.READMES
    ]
    assert chapters[0] == chapters[1]


# What is put behind a command to make it small. Those of `SLOW` take minutes.
BEHIND = {
    "scripts/report.sh": "--images 4",
    "scripts/test.sh": "tests/decode/test_ctc.py",
    "scripts/lab.sh": "--no-browser --ServerApp.allow_root=True",
    "scripts/report.sh --profile full": "--images 4",
    "scripts/report.sh --profile tour": "",
    "scripts/report.sh --chips BM1688 --precisions int8 --strategies kl,recommended "
    "--name mine": "--images 4",
    ".venv/bin/papermill notebooks/04_infer.ipynb reports/04_mine.ipynb -p CHIPS BM1688 "
    "-p IMAGES 20": "-p DECODERS greedy",
    "scripts/gen_fp32bmodel.sh BM1684X": "",
    "scripts/gen_int8bmodel.sh BM1684X": "",
    ".venv/bin/lprnet-nb generate data/images/mine --count 100": "--seed 5",
    "scripts/report.sh --data data/images/mine --weights published "
    "--name mine-plates": "--images 4 --chips BM1684X",
    ".venv/bin/lprnet-nb infer data/models/BM1684X/lprnet_int8_1b.bmodel data/images/mine "
    "--output reports/mine.json": "--backend emulator",
    ".venv/bin/lprnet-nb evaluate reports/mine.json data/images/mine": "",
    ".venv/bin/lprnet-nb infer vendor.bmodel data/images/mine --trust --details": "",
    "scripts/report.sh --bmodel vendor.bmodel --trust --name vendor": "--images 4",
    ".venv/bin/lprnet-nb train data/models/mine.pth": "--steps 2 --batch 4",
    "scripts/report.sh --weights data/models/mine.pth "
    "--name mine-weights": "--images 4 --chips BM1684X",
    "scripts/report.sh --language zh": "--images 4 --chips BM1684X",
    ".venv/bin/lprnet-nb notebooks --language zh -o notebooks-zh": "",
    ".venv/bin/lprnet-nb network new mine": "",
    ".venv/bin/lprnet-nb network check mine.py": "",
    ".venv/bin/lprnet-nb report --network mine.py --data plates/": "",
    ".venv/bin/lprnet-nb contract --backend simulator": "",
    ".venv/bin/lprnet-nb contract --backend device": "",
    ".venv/bin/lprnet-nb kit BM1684X -o kit/": "--images 2 --precisions int8 --batches 1 "
    "--strategies kl-20 --backend emulator",
    ".venv/bin/lprnet-nb kit kit/ --run linaro@box": "--ssh no-such-ssh",
    ".venv/bin/lprnet-nb report --chips BM1684X --measured kit/results.json": "",
    "scripts/gen_int8bmodel.sh BM1684X --toolchain nntc": "",
    ".venv/bin/lprnet-nb doctor": "",
}
SLOW = {
    command
    for command in BEHIND
    if command.startswith("scripts/report.sh")
    or command.endswith(("contract --backend simulator", "network check mine.py"))
}
# Nothing of the vendor's that these need can be installed here: they say so, and what to do.
ERRORS = {
    ".venv/bin/lprnet-nb infer vendor.bmodel data/images/mine --trust --details": "is not there",
    "scripts/report.sh --bmodel vendor.bmodel --trust --name vendor": "cannot read BModel",
    ".venv/bin/lprnet-nb report --network mine.py --data plates/": "plates does not exist",
    ".venv/bin/lprnet-nb contract --backend device": "sophon.sail",
    ".venv/bin/lprnet-nb kit kit/ --run linaro@box": "no-such-ssh is not installed",
    ".venv/bin/lprnet-nb report --chips BM1684X --measured kit/results.json": "cannot be read",
    "scripts/gen_int8bmodel.sh BM1684X --toolchain nntc": "envsetup.sh",
}
PRINTS = {
    "scripts/test.sh": r"\d+ passed",
    ".venv/bin/lprnet-nb network check mine.py": r"BM1684 int8, .*equal to the bit",
    ".venv/bin/lprnet-nb doctor": r"simulator",
    ".venv/bin/lprnet-nb evaluate reports/mine.json data/images/mine": r'"images": 100',
}
LEAVES = {
    "scripts/gen_fp32bmodel.sh BM1684X": "data/models/BM1684X/lprnet_fp32_4b.bmodel",
    "scripts/gen_int8bmodel.sh BM1684X": "data/models/BM1684X/lprnet_int8_4b.bmodel",
    ".venv/bin/lprnet-nb train data/models/mine.pth": "data/models/mine.pth",
    ".venv/bin/lprnet-nb network new mine": "mine.toml",
    ".venv/bin/lprnet-nb kit BM1684X -o kit/": "kit/run.py",
    ".venv/bin/lprnet-nb notebooks --language zh -o notebooks-zh": "notebooks-zh/00_start.ipynb",
    "scripts/report.sh --data data/images/mine --weights published "
    "--name mine-plates": "reports/mine-plates/index.html",
}
# What commands find, left by others: when one runs alone, those run first.
MADE_BY = {
    "data/images/mine": ".venv/bin/lprnet-nb generate data/images/mine --count 100",
    "kit/": ".venv/bin/lprnet-nb kit BM1684X -o kit/",
    "mine.py": ".venv/bin/lprnet-nb network new mine",
    "data/models/mine.pth": ".venv/bin/lprnet-nb train data/models/mine.pth",
    "data/models/BM1684X/lprnet_int8_1b.bmodel": "scripts/gen_int8bmodel.sh BM1684X",
    "reports/mine.json": ".venv/bin/lprnet-nb infer "
    "data/models/BM1684X/lprnet_int8_1b.bmodel data/images/mine --output reports/mine.json",
}


@pytest.fixture(scope="module")
def checkout(published, compiler, tmp_path_factory) -> Iterator[Path]:
    """A copy of the checkout whose environment is this one, for commands that write into it."""
    stamp = Path(sys.prefix, ".lprnet-nb")
    sums = subprocess.run(
        "cat pyproject.toml requirements.lock | cksum",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        text=True,
    ).stdout.strip()
    if not stamp.exists() or stamp.read_text("utf8").strip() != f"{sums} [lab,test]":
        pytest.skip(
            "this environment is not the one that scripts/setup.sh makes: its scripts "
            "would install another. Run scripts/test.sh."
        )
    copy = tmp_path_factory.mktemp("checkout") / "lprnet-nb"
    shutil.copytree(
        ROOT,
        copy,
        ignore=shutil.ignore_patterns(
            ".git", ".venv", "reports", "*.bmodel", "__pycache__", ".hypothesis", ".pytest_cache"
        ),
    )
    shutil.rmtree(copy / "data" / "images", ignore_errors=True)
    (copy / "reports").mkdir()
    (copy / ".venv").symlink_to(sys.prefix)
    yield copy


def _environment(copy: Path) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": str(copy),
        "LPRNET_VENV": sys.prefix,
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "160",
    }


def test_every_command_is_known_here() -> None:
    assert set(commands("README.md")) == set(BEHIND)


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(command, marks=[pytest.mark.slow] if command in SLOW else [])
        for command in BEHIND
        if command != "scripts/lab.sh"
    ],
)
def test_command_runs(command: str, checkout: Path) -> None:
    """In the READMEs' order, since some use what others left."""
    done = _run(command, checkout)
    said = done.stdout + done.stderr
    assert "Traceback" not in said, said
    if command in ERRORS:
        assert done.returncode != 0 and ERRORS[command] in said, said
        return
    assert done.returncode == 0, said
    assert re.search(PRINTS.get(command, ""), said), said
    assert (checkout / LEAVES.get(command, "")).exists()


def _run(command: str, checkout: Path) -> subprocess.CompletedProcess:
    for path, maker in MADE_BY.items():
        if path in command and maker != command and not (checkout / path).exists():
            assert _run(maker, checkout).returncode == 0
    return subprocess.run(
        f"{command} {BEHIND[command]}",
        shell=True,
        cwd=checkout,
        text=True,
        capture_output=True,
        env=_environment(checkout),
    )


def _fetched(address: str, deadline: float) -> dict:
    while True:  # the address is told a moment before the server listens
        try:
            with urllib.request.urlopen(address, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def test_lab_serves_the_notebooks(checkout: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        f"exec scripts/lab.sh {BEHIND['scripts/lab.sh']} --port={port}",
        shell=True,
        cwd=checkout,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        env=_environment(checkout),
    )
    try:
        deadline, found = time.monotonic() + 120, None
        while found is None and time.monotonic() < deadline:
            found = re.search(
                r"http://(127\.0\.0\.1:\d+)/lab\?token=(\w+)", server.stdout.readline()
            )
        assert found, "the server named no address"
        address = f"http://{found[1]}/api/contents/?token={found[2]}"
        listed = {entry["name"] for entry in _fetched(address, deadline)["content"]}
        assert {path.name for path in (ROOT / "notebooks").glob("*.ipynb")} <= listed
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)
        server.stdout.close()
