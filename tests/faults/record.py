"""How each fault ended, in the file that ``--faults-table`` names, written as the run goes.

A run in which a table is already there does again what did not end well in it, and what is new.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import time
from pathlib import Path
from typing import Any

import pytest

from lprnet_nb.places import repository
from lprnet_nb.report.run import git_revision


class Recorder:
    """A plugin of pytest that keeps a table.

    Parameters
    ----------
    file
        JSON: ``runs``, how and when, and ``rows``, one for each fault; may be there already.
    config
        Of this run, or of one of its processes, which only read.
    """

    def __init__(self, file: Path, config: pytest.Config) -> None:
        self._file = file
        self._leads = not hasattr(config, "workerinput")
        self._runs, self._rows = read(file) if file.exists() else ([], [])
        self._done = {row["id"] for row in self._rows if row["ok"]}
        self._started = time.monotonic()
        self._run: dict[str, Any] = {
            "on": time.strftime("%Y-%m-%d", time.gmtime()),
            "revision": git_revision(),
            "command": shlex.join(["scripts/test.sh", *map(str, config.invocation_params.args)]),
            "cores": len(os.sched_getaffinity(0)),
        }

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list) -> None:
        again = [item for item in items if item.nodeid in self._done]
        config.hook.pytest_deselected(items=again)
        items[:] = [item for item in items if item.nodeid not in self._done]
        # What takes longest begins first, else one process ends long after the others.
        items.sort(key=lambda item: "times at random" not in item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        facts = dict(report.user_properties)
        if not self._leads or report.when != "call" or "fault" not in facts:
            return
        if not self._runs or self._runs[-1] is not self._run:
            self._runs.append(self._run)
        row = {
            "fault": facts["fault"],
            "ended": _plain(facts.get("ended") or _why(report)),
            "ok": report.passed,
            "seconds": round(report.duration, 1),
            "test": report.nodeid.split("/")[-1].split("[")[0],
            "id": report.nodeid,
            "run": len(self._runs) - 1,
        }
        self._rows = [other for other in self._rows if other["id"] != row["id"]] + [row]
        self._run["minutes"] = round((time.monotonic() - self._started) / 60)
        whole = {"runs": self._runs, "rows": self._rows}
        part = self._file.with_name(f".{self._file.name}.part")
        part.write_text(json.dumps(whole, ensure_ascii=False, indent=1) + "\n", "utf8")
        part.replace(self._file)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._rows:
            terminalreporter.section(f"faults, in {self._file}")
            for row in self._rows:
                state = "ok  " if row["ok"] else "    " if "skipped" in row["ended"] else "OPEN"
                terminalreporter.line(
                    f"{state} {row['seconds']:6.1f} s  {row['fault']}: {row['ended']}"
                )
            ended = sum(row["ok"] for row in self._rows)
            terminalreporter.line(f"{ended} of {len(self._rows)} ended as they must")


def read(file: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Runs and rows of a table."""
    whole = json.loads(file.read_text("utf8"))
    return whole["runs"], whole["rows"]


def _why(report: pytest.TestReport) -> str:
    """The reason of a skip, the message of a failure, or the last line of what there is."""
    if report.skipped:
        return f"skipped: {report.longrepr[2] if report.longrepr else ''}"
    crash = getattr(report.longrepr, "reprcrash", None)
    if crash is not None:
        return str(crash.message).splitlines()[0]
    return str(report.longreprtext).strip().splitlines()[-1]


def _plain(text: str) -> str:
    """A text without the folders of this machine, and names drawn for one run."""
    short = re.sub(r"/[^\s'\"]*/(faults(\d+|-\w+)|lprnet-\d+-\w+)/", "", text)
    short = short.replace(str(repository()), "…").replace(str(Path.home()), "~")
    return re.sub(r"\bscene-\w+/", "", short)
