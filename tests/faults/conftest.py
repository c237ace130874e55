"""The world that all faults happen in, and the table of how they ended."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lprnet_nb.places import repository

from .scene import Stage
from .world import World


@pytest.fixture(scope="session")
def world(compiler, tmp_path_factory) -> World:
    return World(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="session")
def stage(world) -> Iterator[Stage]:
    made = Stage(world)
    yield made
    made.close()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    facts = dict(report.user_properties)
    if report.when == "call" and "fault" in facts:
        _rows.append(
            {
                "fault": facts["fault"],
                "ended": _plain(facts.get("ended") or _why(report)),
                "ok": report.passed,
                "seconds": round(report.duration, 1),
                "test": report.nodeid.split("/")[-1].split("[")[0],
            }
        )


_rows: list[dict] = []


def _why(report: pytest.TestReport) -> str:
    """The reason of a skip, or the last line of a failure."""
    if report.skipped:
        return f"skipped: {report.longrepr[2] if report.longrepr else ''}"
    return str(report.longreprtext).strip().splitlines()[-1]


def _plain(text: str) -> str:
    """A text without the folders of this machine."""
    short = re.sub(r"/[^\s'\"]*/faults(\d+|-\w+)/", "", text)
    return short.replace(str(repository()), "…").replace(str(Path.home()), "~")


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    file = config.getoption("--faults-table")
    if not file or not _rows:
        return
    Path(file).write_text(json.dumps(_rows, ensure_ascii=False, indent=1) + "\n", "utf8")
    terminalreporter.section(f"faults, in {file}")
    for row in _rows:
        state = "ok  " if row["ok"] else "    " if "skipped" in row["ended"] else "OPEN"
        terminalreporter.line(f"{state} {row['seconds']:6.1f} s  {row['fault']}: {row['ended']}")
    ended = sum(row["ok"] for row in _rows)
    terminalreporter.line(f"{ended} of {len(_rows)} ended as they must")
