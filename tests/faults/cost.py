"""``PYTHONPATH=tests python -m faults.cost`` says what checking and isolating take of a report.

The quick report is made twice. In the second, where everything is found, the processor time that
each process spends inside the functions named below is added up, each once where one calls another.
What starts a child by way of a supervisor costs is measured by itself, on a program that does
nothing, and counted as often as the report starts one.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from lprnet_nb import children

# Digests of what is found and of the code that would make it; who may write where code is taken
# from; seals; inputs that are regular and bounded; environments and folders for children; pages.
CHECKS = {
    "lprnet_nb.cache": ["_intact", "untrusted_part", "is_made_here", "file_digest"],
    "lprnet_nb.sources": ["code_digest"],
    "lprnet_nb.toolchain.bmodel": ["_altered"],
    "lprnet_nb.files": ["read_bytes", "private_folder", "keep_from_others"],
    "lprnet_nb.children": ["environment", "clean_own_environment"],
    "lprnet_nb.report.notebook_pages": ["clean"],
}
STARTS = ("lprnet_nb.children", "start")
_INTO_EVERY_PROCESS = """
import atexit, functools, importlib.machinery, json, os, sys, threading, time

CHECKS, STARTS, FOLDER = json.loads(os.environ["FAULTS_COST"])
spent, starts, inside = {}, [], threading.local()


def timed(name, function):
    @functools.wraps(function)
    def call(*arguments, **options):
        if getattr(inside, "already", False):
            return function(*arguments, **options)
        inside.already, started = True, time.thread_time()
        try:
            return function(*arguments, **options)
        finally:
            inside.already = False
            spent[name] = spent.get(name, 0.0) + time.thread_time() - started
    return call


def counted(function):
    @functools.wraps(function)
    def call(*arguments, **options):
        starts.append(1)
        return function(*arguments, **options)
    return call


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name not in CHECKS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            for each in CHECKS[name]:
                setattr(module, each, timed(f"{name}.{each}", getattr(module, each)))
            if name == STARTS[0]:
                setattr(module, STARTS[1], counted(getattr(module, STARTS[1])))

        spec.loader.exec_module = exec_module
        return spec


def leave():
    if spent or starts:
        with open(f"{FOLDER}/{os.getpid()}.json", "w") as file:
            json.dump([spent, len(starts)], file)


sys.meta_path.insert(0, Finder())
atexit.register(leave)
"""


def of_supervisor(times: int = 20) -> float:
    """Processor seconds that a child costs more by way of `children.run`."""
    taken = []
    for run in (lambda: children.run(["true"], timeout=60), lambda: subprocess.run(["true"])):
        before = _children_seconds()
        for _ in range(times):
            run()
        taken.append((_children_seconds() - before) / times)
    return taken[0] - taken[1]


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Make the report twice; what the second spent goes to standard output, as JSON."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "sitecustomize.py").write_text(_INTO_EVERY_PROCESS, "utf8")
        (folder / "spent").mkdir()
        command = ["lprnet-nb", "report", "--profile", "quick", "--name", "cost"]
        plain = {**os.environ, "LPRNET_REPORTS": str(folder / "reports")}
        watched = {
            "PYTHONPATH": str(folder),
            "FAULTS_COST": json.dumps([CHECKS, STARTS, str(folder / "spent")]),
        }
        subprocess.run([*command, *sys.argv[1:]], env=plain, check=True)
        before = _children_seconds()
        subprocess.run([*command, *sys.argv[1:]], env={**plain, **watched}, check=True)
        whole = _children_seconds() - before
        spent: dict[str, float] = {}
        starts = 0
        for path in (folder / "spent").iterdir():
            one, number = json.loads(path.read_text("utf8"))
            starts += number
            for name, seconds in one.items():
                spent[name] = spent.get(name, 0.0) + seconds
    spent["supervisors"] = starts * of_supervisor()
    found = {
        "report_seconds": round(whole, 1),
        "checking_and_isolating_seconds": round(sum(spent.values()), 2),
        "percent": round(100 * sum(spent.values()) / whole, 2),
        "children": starts,
        "seconds": {name: round(seconds, 3) for name, seconds in sorted(spent.items())},
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
