"""Every child starts from one module, and runs nothing that lies where the user stands."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from lprnet_nb import children
from lprnet_nb.places import repository

PACKAGE = repository() / "lprnet_nb"
# What runs in the compiler's own Python, where this package is not.
APART = PACKAGE / "toolchain" / "inside"
STARTERS = {
    "execl", "execle", "execlp", "execlpe", "execv", "execve", "execvp", "execvpe", "fork",
    "forkpty", "popen", "posix_spawn", "posix_spawnp", "spawnl", "spawnle", "spawnlp", "spawnlpe",
    "spawnv", "spawnve", "spawnvp", "spawnvpe", "system", "startfile", "ProcessPoolExecutor",
    "create_subprocess_exec", "create_subprocess_shell",
}  # fmt: skip
MODULES = {"subprocess", "multiprocessing", "pty", "pexpect"}


def starts(tree: ast.AST) -> list[int]:
    """Lines that import a module which starts processes, or name a function that does."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            named = {alias.name.split(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            named = {(node.module or "").split(".")[0]} & MODULES
            named |= {alias.name for alias in node.names} & STARTERS
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) != "platform":
            named = {node.attr} & STARTERS  # platform.system only says what the system is
        else:
            continue
        if named:
            lines.append(node.lineno)
    return lines


def test_nothing_else_in_the_package_starts_processes():
    found = [
        f"{path.relative_to(PACKAGE)}:{line}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "children.py" and not path.is_relative_to(APART)
        for line in starts(ast.parse(path.read_text("utf8")))
    ]
    assert not found, found
    known = "import subprocess\nfrom os import system\nos.execv('a', [])"
    assert starts(ast.parse(known)) == [1, 2, 3]


@pytest.mark.parametrize(
    "name, value, cleaned",
    [
        ("LD_LIBRARY_PATH", "/site/cv2/../../lib64:", "/site/cv2/../../lib64"),
        ("LD_LIBRARY_PATH", "/a;.;/b", "/a:/b"),
        ("LD_LIBRARY_PATH", ":", None),
        ("PATH", "/usr/bin::bin:.", "/usr/bin"),
        ("PYTHONPATH", ":/opt/sail", "/opt/sail"),
        ("CPATH", "", None),
        ("LD_PRELOAD", "./evil.so:/usr/lib/a.so libgomp.so.1", "/usr/lib/a.so libgomp.so.1"),
        ("PYTHONSTARTUP", "/home/you/start.py", None),
        ("PYTHONHOME", "/usr", None),
        ("BASH_ENV", "x", None),
        ("LPRNET_CACHE", "mine", os.path.abspath("mine")),
        ("OMP_NUM_THREADS", "2", "2"),
    ],
)
def test_variables_that_lead_to_the_current_folder_are_cleaned(monkeypatch, name, value, cleaned):
    monkeypatch.setenv(name, value)
    assert children.environment().get(name) == cleaned
    assert children.environment()["PYTHONSAFEPATH"] == "1"
    children.clean_own_environment()
    assert os.environ.get(name) == cleaned


def test_what_torch_makes_in_the_common_temporary_folder_goes_with_the_process(tmp_path):
    (tmp_path / "step.py").write_text(
        "import os, torch\n"
        "torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))]).step()\n"
        "import torch._dynamo.package  # what a step brings in, whether or not it had a gradient\n"
        "print(os.path.isdir(os.environ['TORCHINDUCTOR_CACHE_DIR']))\n"
    )
    script = textwrap.dedent("""
        import runpy, sys
        from lprnet_nb import children
        print(children.run([sys.executable, sys.argv[1]], timeout=120).stdout.strip())
        children.clean_own_environment()
        runpy.run_path(sys.argv[1])
    """)
    variables = {**os.environ, "TMPDIR": str(tmp_path / "temporary")}
    variables.pop("TORCHINDUCTOR_CACHE_DIR", None)
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, "-P", "-c", script, tmp_path / "step.py"]
    done = subprocess.run(command, env=variables, text=True, capture_output=True)
    assert done.stdout.split() == ["True", "True"], done.stderr
    assert not [*(tmp_path / "temporary").iterdir()]


def test_a_folder_that_the_user_chose_for_torch_stays(monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/mine")
    assert children.environment()["TORCHINDUCTOR_CACHE_DIR"] == "/mine"


@pytest.fixture
def hostile(tmp_path) -> Path:
    """A folder of pictures with modules, a library and programs that say so when they are run."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for module in (
        "csv", "venv", "ensurepip", "sitecustomize", "usercustomize", "ctypes", "multiprocessing",
        "json", "numpy", "distributed", "ipykernel_launcher",
    ):  # fmt: skip
        (folder / f"{module}.py").write_text(
            f"import os; os.close(os.open({str(tmp_path / module)!r}, os.O_CREAT))\n"
        )
    for library in ("libmpc.so.3", "libmpfr.so.6", "libz.so.1"):
        (folder / library).write_bytes(b"no library")  # "file too short" where it is found
    for name in ("cc", "git", "docker", "uv", "python3.10"):
        (folder / name).write_text(f"#!/bin/sh\n: > {tmp_path / name}\n")
        (folder / name).chmod(0o755)
    return folder


def test_a_hostile_folder_is_stood_in_and_none_of_it_runs(hostile):
    script = textwrap.dedent("""
        import os, sys
        from lprnet_nb import children
        from lprnet_nb.report.run import git_revision
        from lprnet_nb.toolchain import environment
        os.environ["LD_LIBRARY_PATH"] = "/nowhere:"  # as `import cv2` leaves it
        os.environ["PATH"] = f":.:{os.environ['PATH']}"
        child = "import csv, venv, json, os; print(*os.listdir()); print(csv.__file__)"
        print(children.run([sys.executable, "-c", child], timeout=60).stdout)
        made = children.run([children.program("cc"), "-x", "c", "-shared", "-o", sys.argv[1], "-"],
                            timeout=60, input="int f(void) { return 1; }")
        assert made.returncode == 0, made.stderr
        git_revision()
        environment.find_python310()
        if __name__ == "__main__":
            with children.pool(1, os.getpid) as pool:
                print(pool.submit(os.getppid).result() == os.getpid())
    """)
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, hostile.parent / "made.so"],
        cwd=hostile,
        text=True,
        capture_output=True,
    )
    if "no Python 3.10 was found" not in done.stderr:  # that search comes last but one
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "True"
    assert done.stdout.splitlines()[0] == ""  # it stood in an empty folder
    assert {path.name for path in hostile.parent.iterdir()} == {"pictures", "made.so"}


def gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return True
    return state == "Z"


def test_a_child_and_its_folder_go_with_a_killed_parent(tmp_path):
    script = (
        "import sys, time; from lprnet_nb import children\n"
        "children.start(['sh', '-c', 'pwd > $0.part; echo $$ >> $0.part; mv $0.part $0; sleep 60',"
        " sys.argv[1]])\n"
        "time.sleep(60)"
    )
    said = tmp_path / "said"
    parent = subprocess.Popen([sys.executable, "-c", script, said])
    wait_until(said.exists)
    folder, pid = said.read_text().split()
    assert Path(folder).is_dir() and os.stat(folder).st_mode & 0o77 == 0
    parent.kill()
    parent.wait()
    wait_until(lambda: gone(int(pid)) and not Path(folder).exists())


def wait_until(done) -> None:
    end = time.monotonic() + 60
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_child_that_takes_too_long_is_one_os_error():
    with pytest.raises(TimeoutError, match="did not end within 1 s"):
        children.run(["sleep", "60"], timeout=1.0)
    with pytest.raises(FileNotFoundError):
        children.run(["no-such-program"], timeout=1.0)
