"""``PYTHONPATH=tests python -m faults.table FILE`` writes docs/faults.md from a run's table.

FILE is what ``--faults-table`` left.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from lprnet_nb.places import repository

from .record import read
from .test_probes import ALL

PAGE = repository() / "docs" / "faults.md"
FAMILIES = {
    "A": "Code is run that nobody asked for",
    "B": "Wrong answers with exit status 0",
    "C": "Hangs and leftovers",
    "D": "Loss",
    "E": "A traceback, or wrong advice",
}
HEAD = """# Faults, and how each ends

Each fault is put in on purpose: it must end in the same result, or in one error with the true
cause and a remedy, with an exit status other than 0, nothing lost and nothing left. The first five
tables are of traps, each in a folder of its own, where a real command is run, or a function where
no command reaches. Those marked "everywhere" can also be tried from another folder, as another
user, with umask 077, in zh_CN.GBK and in an ASCII locale. The last table is of damaged artifacts,
full disks, strange names and killed processes.

"Before" is how a trap ended when it was first tried, where that is known; "now" is how it ended in
what this page was made from, or "not seen"; "test" is the test that holds it, in `tests/faults`.

```sh
scripts/test.sh -m "slow or not slow" tests/faults --repetitions 20 --faults-table faults.json
PYTHONPATH=tests .venv/bin/python -m faults.table faults.json
```

The table is written as the run goes. The same command with a table that is there tries again what
did not end well in it, and what is new.

"""
KILLS = re.compile(r"(\d+) kills while it was at work")
TIMES = re.compile(r"(.*), (\d+) times at random")


def page(runs: list[dict[str, Any]], found: list[dict[str, Any]]) -> str:
    """The page, from runs and the rows that they left."""
    rows = {row["fault"]: row for row in found}
    lines = [HEAD + "\n".join([*_made(runs, found), "", *_counted(found), "", *_kills(found)])]
    for family, title in FAMILIES.items():
        lines += [
            f"## {family}. {title}\n",
            "| | probe | before | now | test |",
            "|---|---|---|---|---|",
        ]
        for probe in ALL:
            if probe.family == family:
                whole = f"{probe.item} {probe.name}"
                row = rows.pop(whole, None)
                name = probe.name + " (everywhere)" * probe.everywhere
                lines.append(_line(probe.item, name, probe.before or "not tried", *_now(row)))
                for other in [key for key in rows if key.startswith(f"{whole} (")]:
                    lines.append(_line("", other[len(whole) + 1 :], "", *_now(rows.pop(other))))
        lines.append("")
    if rows:
        lines += ["## The others\n", "| fault | now | test |", "|---|---|---|"]
        lines += [*(_line(name, *_now(row)) for name, row in rows.items()), ""]
    return "\n".join(lines)


def _made(runs: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[str]:
    """When and how they were tried."""
    said = ["Made in one run:" if len(runs) == 1 else f"Made in {len(runs)} runs:", ""]
    for number, run in enumerate(runs):
        seen = [row for row in rows if row["run"] == number]
        said.append(
            f"- {run['on']}, revision `{(run['revision'] or 'unknown')[:10]}`, {len(seen)} faults, "
            f"{run['minutes']} minutes on {run['cores']} cores: `{run['command']}`"
        )
    return said


def _counted(rows: list[dict[str, Any]]) -> list[str]:
    ended = sum(row["ok"] for row in rows)
    skipped = sum("skipped" in row["ended"] for row in rows)
    return [
        f"{len(rows)} faults were tried: {ended} ended as they must, {skipped} could not be put in "
        f"there, {len(rows) - ended - skipped} ended badly."
    ]


def _kills(rows: list[dict[str, Any]]) -> list[str]:
    """How many kills at random moments met work."""
    said = []
    for row in rows:
        named, counted = TIMES.match(row["fault"]), KILLS.search(row["ended"])
        if named and counted:
            said.append(f"- {named[1]}: {counted[1]} of {named[2]}")
    return ["Kills at random moments that met work:", "", *said, ""] if said else []


def _now(row: dict[str, Any] | None) -> tuple[str, str]:
    """How a fault ended, and the test that says so."""
    if row is None:
        return "not seen", ""
    good = row["ok"] or "skipped" in row["ended"]
    return row["ended"] if good else f"open: {row['ended']}", row["test"].split("::")[-1]


def _line(*cells: str) -> str:
    return "| " + " | ".join(map(_cell, cells)) + " |"


def _cell(text: str) -> str:
    for mark, shown in (("\n", " "), ("|", "\\|"), ("<", "&lt;"), ("*", "\\*"), ("`", "'")):
        text = text.replace(mark, shown)
    return text


def main() -> None:
    """Write it."""
    PAGE.write_text(page(*read(Path(sys.argv[1]))), "utf8")


if __name__ == "__main__":
    main()
