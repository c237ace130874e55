"""``python -m tests.faults.table FILE`` writes docs/faults.md from what ``--faults-table`` left."""

from __future__ import annotations

import json
import sys
from pathlib import Path

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
HEAD = """# Faults outside the common ones, and how each ends

Each probe sets a trap in a folder of its own and runs a real command there, or a function where no
command reaches. It must end in the same result, or in one error with the true cause and a remedy,
with an exit status other than 0, nothing lost and nothing left. Those marked "everywhere" can also
be tried from another folder, as another user, with umask 077, in zh_CN.GBK and in an ASCII locale.
"Before" is how it ended when it was first tried, where that is known; "now" is from the runs whose
tables this page was written from (`tests/faults/table.py`). So far these were parts of a run, kept
where they ended well; "not in that run" says of a probe that its end has not been seen. Sixteen
that ended badly have not been looked into (`UNJUDGED` in `tests/faults/test_probes.py`).

```sh
scripts/test.sh tests/faults/test_probes.py --faults-table faults.json
python -m tests.faults.table faults.json
```
"""


def page(ended: dict[str, str]) -> str:
    """The page, from how each probe ended by its name."""
    lines = [HEAD]
    for family, title in FAMILIES.items():
        lines += [f"## {family}. {title}\n", "| | probe | before | now |", "|---|---|---|---|"]
        for probe in ALL:
            if probe.family == family:
                name = probe.name + " (everywhere)" * probe.everywhere
                now = ended.get(f"{probe.item} {probe.name}", "not in that run")
                cells = (probe.item, name, probe.before or "not tried", now)
                lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    for mark, shown in (("\n", " "), ("|", "\\|"), ("<", "&lt;"), ("*", "\\*"), ("`", "'")):
        text = text.replace(mark, shown)
    return text


def main() -> None:
    """Write it; several files are several parts of one run."""
    ended = {}
    for file in sys.argv[1:]:
        for row in json.loads(Path(file).read_text("utf8")):
            known = row["ended"].replace("reason: ", "")
            ended[row["fault"]] = known if row["ok"] or "skipped" in known else f"open: {known}"
    PAGE.write_text(page(ended), "utf8")


if __name__ == "__main__":
    main()
