"""``PYTHONPATH=tests python -m faults.table FILE`` writes docs/faults.md from a run's table.

FILE is what ``--faults-table`` left; several are several parts of one run.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from lprnet_nb.places import repository

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

"Before" is how a trap ended when it was first tried, where that is known; "now" is from the runs
that this page was made from; "test" is the test that holds it, in `tests/faults`. "Not in those
runs" says of a probe that its end has not been seen since it was last changed.

```sh
scripts/test.sh -m "slow or not slow" tests/faults --repetitions 20 --faults-table faults.json
PYTHONPATH=tests .venv/bin/python -m faults.table faults.json
```

"""


def page(rows: dict[str, dict[str, Any]]) -> str:
    """The page, from the rows of a run by the name of their fault."""
    ended = sum(row["ok"] for row in rows.values())
    skipped = sum("skipped" in row["ended"] for row in rows.values())
    lines = [
        HEAD + f"{len(rows)} were tried in those runs: {ended} ended as they must, {skipped} could "
        f"not be put in there, {len(rows) - ended - skipped} ended badly.\n"
    ]
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


def _now(row: dict[str, Any] | None) -> tuple[str, str]:
    """How a fault ended, and the test that says so."""
    if row is None:
        return "not in those runs", ""
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
    found = [row for file in sys.argv[1:] for row in json.loads(Path(file).read_text("utf8"))]
    PAGE.write_text(page({row["fault"]: row for row in found}), "utf8")


if __name__ == "__main__":
    main()
