"""All faults, one after another, as a table."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import artifacts, names, processes, storage
from .world import Fault, Skip, World, inject


def faults(repetitions: int = 20) -> list[Fault]:
    """Every fault; those at random moments repeated so often."""
    return [*artifacts.faults(), *storage.faults(), *names.faults(),
            *processes.faults(repetitions)]


def bench_faults(repetitions: int = 20, only: str = "", *,
                 report: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Put every fault in and say how each ended.

    Parameters
    ----------
    repetitions
        Of each kill at a random moment.
    only
        Part of the names of those to run.
    report
        Called with a line for each.

    Returns
    -------
    dict
        JSON-able: ``rows`` of ``fault``, ``ended``, ``ok`` (None where it was skipped) and
        ``seconds``; ``faults``, ``passed``, ``failed``, ``skipped``.
    """
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="lprnet-faults-") as folder:
        world = World(Path(folder))
        for fault in [each for each in faults(repetitions) if only in each.name]:
            started = time.monotonic()
            try:
                ended, ok = inject(fault, world), True
            except Skip as reason:
                ended, ok = f"skipped: {reason}", None
            except Exception as error:  # whatever breaks the promise is a row of the table
                ended, ok = f"BROKEN {type(error).__name__}: {error}", False
            rows.append({"fault": fault.name, "ended": ended.replace(folder, "…"), "ok": ok,
                         "seconds": round(time.monotonic() - started, 1)})
            mark = {True: "ok", False: "FAIL", None: "--"}[ok]
            shown = rows[-1]["ended"] if ok is False else rows[-1]["ended"][:200]
            report(f"{mark:4} {fault.name} ({rows[-1]['seconds']} s): {shown}")
    count = [row["ok"] for row in rows]
    return {"bench": "faults", "faults": len(rows), "passed": count.count(True),
            "failed": count.count(False), "skipped": count.count(None), "rows": rows}
