"""A. Code is run that nobody asked for."""

from __future__ import annotations

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import torch

from lprnet_nb import children
from lprnet_nb.cache import file_digest
from lprnet_nb.report.run import git_revision
from lprnet_nb.toolchain.bmodel import BModel

from .probes import Table
from .scene import Scene, read_output, same
from .world import Skip

A = Table()
SIMULATE = (
    "infer",
    "--backend",
    "simulator",
)  # runs the BModel, where the emulator reads its graph
IMPORTED = "a module in the current folder was imported"


def _read(scene: Scene, model: Path, *options: str, **variables: str) -> str:
    """Read a plate standing in the user's folder."""
    picture = scene.picture()
    ended = scene.done("infer", model, picture, *options, cwd=scene.folder, **variables)
    return same(read_output(ended), scene.stage.read)


@A.probe(
    "A1",
    "libraries beside the pictures while the emulator's kernels are compiled",
    before="libmpc.so.3 was loaded by the C compiler",
    slow=True,
)
def _(scene: Scene) -> str:
    model = scene.model()
    shutil.rmtree(scene.cache / "artifacts" / "emulator-kernels")
    scene.hostile()
    return _read(scene, model, "--backend", "emulator", LD_LIBRARY_PATH="/usr/lib:")


@A.probe(
    "A1",
    "libraries and programs beside the pictures while the simulator runs",
    before="any user may put a library into its folder",
)
def _(scene: Scene) -> str:
    model = scene.model()
    scene.hostile()
    path = f":.:{os.environ['PATH']}"
    return _read(scene, model, "--backend", "simulator", LD_LIBRARY_PATH=":", PATH=path)


@A.probe(
    "A1",
    "libraries in the common temporary folder while the simulator runs",
    before="any user may put a library into its folder",
)
def _(scene: Scene) -> str:
    model = scene.model()
    libraries = [
        scene.library(scene.temporary / name)
        for name in ("libz.so.1", "libbmlib.so.0", "libstdc++.so.6", "libm.so.6")
    ]
    ended = _read(scene, model, "--backend", "simulator", LD_LIBRARY_PATH=":")
    for library in libraries:
        library.unlink()
    return ended


@A.probes(
    "A1",
    {
        "LD_PRELOAD with a part of the current folder": ({"LD_PRELOAD": "./libz.so.1"},),
        "LD_AUDIT in the environment": ({"LD_AUDIT": "./libz.so.1"},),
    },
)
def _(scene: Scene, variables: dict[str, str]) -> str:
    model = scene.model()
    scene.hostile()
    return _read(scene, model, "--backend", "simulator", **variables)


@A.probe("A2", "doctor among modules and programs of a stranger", before="a venv.py was run")
def _(scene: Scene) -> str:
    scene.hostile()
    ended = scene.done("doctor", "--json", cwd=scene.folder, PATH=f":.:{os.environ['PATH']}")
    states = {row["what"]: row["ok"] for row in json.loads(read_output(ended))["checks"]}
    return same(states["lprnet-nb"] and states["cache"], True)


@A.probe("A2", "infer on the simulator among modules of a stranger", before="a csv.py was run")
def _(scene: Scene) -> str:
    model = scene.model()
    scene.hostile()
    return _read(scene, model, "--backend", "simulator", PYTHONPATH=":")


@A.probe(
    "A2",
    "the command itself, from its start, among modules of a stranger",
    before=IMPORTED,
    slow=True,
)
def _(scene: Scene) -> str:
    scene.hostile()
    plates = scene.plates()
    ended = scene.alone("evaluate", plates / "labels.json", plates, cwd=scene.folder)
    return same((ended.status, json.loads(ended.output)["exact_match"]), (0, 1.0))


@A.probes(
    "A2",
    {
        "PYTHONSTARTUP of the user in a child": ({"PYTHONSTARTUP": "csv.py"},),
        "PYTHONHOME of the user in a child": ({"PYTHONHOME": "."},),
        "BASH_ENV and ENV of the user in a child": ({"BASH_ENV": "./cc", "ENV": "./cc"},),
        "GCC_EXEC_PREFIX and COMPILER_PATH in a child": (
            {"GCC_EXEC_PREFIX": "./", "COMPILER_PATH": "."},
        ),
    },
    slow=True,
)
def _(scene: Scene, variables: dict[str, str]) -> str:
    scene.hostile()
    ended = scene.done("doctor", "--json", cwd=scene.folder, **variables)
    states = {row["what"]: row["ok"] for row in json.loads(read_output(ended))["checks"]}
    return same(states["lprnet-nb"], True)


@A.probe("A2", "a git repository of a stranger, with a monitor program, as the current folder")
def _(scene: Scene) -> str:
    children.run(["git", "init", "-q", scene.folder], timeout=60)
    monitor = scene.text("monitor", f"#!/bin/sh\n: > {scene.marks}/monitor\n")
    monitor.chmod(0o755)
    with open(scene.folder / ".git" / "config", "a") as config:
        config.write(f"[core]\n\tfsmonitor = {monitor}\n")
    before = Path.cwd()
    expected = git_revision()
    os.chdir(scene.folder)
    try:
        with children.variables(GIT_DIR=str(scene.folder / ".git")):
            return same(git_revision(), expected)
    finally:
        os.chdir(before)


@A.probe(
    "A3",
    "another user of the machine asks the embedded cluster to run code",
    before="it ran as the report's user",
    slow=True,
)
def _(scene: Scene) -> str:
    from distributed import Client

    from lprnet_nb.work.scheduler import _cluster

    with scene.world._using(scene.cache), _cluster(True, False) as cluster:
        address = cluster.client.scheduler.address
        try:
            with Client(address, timeout=5) as stranger:
                stranger.submit(os.mkdir, str(scene.marks / "dask")).result(30)
        except (OSError, TypeError) as error:
            return f"one error: {str(error).replace(address, '…')}"
    raise AssertionError("a stranger was let in")


@A.probe(
    "A3",
    "a working folder of the cluster that a stranger has made in the common temporary folder",
    before="a folder in it came first on the import path",
    slow=True,
)
def _(scene: Scene) -> str:
    strangers = scene.temporary / "dask-scratch-space"
    strangers.mkdir()
    strangers.chmod(0o777)
    before = strangers.stat().st_mtime_ns
    scene.done("survey", scene.model(), scene.ccpd())
    used = strangers.stat().st_mtime_ns != before or [*strangers.iterdir()]
    shutil.rmtree(strangers)
    return same(bool(used), False)


def _open_to_all(scene: Scene) -> Path:
    model = scene.model()
    for place in (scene.cache, *scene.cache.rglob("*")):
        if not place.is_symlink():
            place.chmod(place.stat().st_mode | 0o022)
    return model


def _put(folder: Path, name: str, source: Path) -> None:
    """Replace a file of an artifact, and its digest in the list as a stranger would."""
    shutil.copyfile(source, folder / name)
    listed = json.loads((folder / "files.json").read_text())
    (folder / "files.json").write_text(json.dumps(listed | {name: file_digest(folder / name)}))


@A.probe(
    "A4",
    "kernels of a stranger in a cache that all may write",
    before="kernels.so was loaded",
    slow=True,
)
def _(scene: Scene) -> str:
    model = _open_to_all(scene)
    own = scene.library(scene.folder / "own.so")
    for path in (scene.cache / "artifacts" / "emulator-kernels").glob("*/kernels.so"):
        _put(path.parent, path.name, own)
    own.unlink()
    return _read(scene, model, "--backend", "emulator", "--trust")


@A.probe("A4", "a BModel in a cache that all may write", before="it was run")
def _(scene: Scene) -> str:
    return scene.refused(*SIMULATE, _open_to_all(scene), scene.picture(), says="--trust")


@A.probe("A4", "doctor names a cache that all may write", before="nothing was said")
def _(scene: Scene) -> str:
    scene.cache.chmod(0o777)
    rows = json.loads(read_output(scene.done("doctor", "--json")))["checks"]
    [found] = [row["found"] for row in rows if row["what"] == "cache"]
    return same("may be written by everybody" in found and "no code is run" in found, True)


@A.probe("A4", "a cache of another user's", before="it was trusted")
def _(scene: Scene) -> str:
    model = scene.model()
    if os.geteuid():
        raise Skip("only root can give a folder away")
    os.chown(scene.cache, 4242, 4242)
    return scene.refused(*SIMULATE, model, scene.picture(), says="--trust")


@A.probe("A4", "a folder above the cache that all may write", before="it was trusted")
def _(scene: Scene) -> str:
    model = scene.model()
    scene.root.chmod(0o777)
    return scene.refused(*SIMULATE, model, scene.picture(), says="--trust")


@A.probe(
    "A5",
    "what a command writes below the home folder",
    before="onnxruntime wrote a device id and events",
    slow=True,
)
def _(scene: Scene) -> str:
    plates = scene.plates()
    script = (
        "import onnxruntime, sys; from lprnet_nb.steps import judge_results;"
        "judge_results(sys.argv[1], sys.argv[2])"
    )
    whole = f"import lprnet_nb; {script}"
    done = children.run(
        [sys.executable, "-c", whole, plates / "labels.json", plates],
        timeout=300,
        env=scene.environment(),
    )
    return same((done.returncode, [*scene.home.rglob("*")]), (0, []))


class _Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


@A.probes(
    "A4",
    {
        "weights with code in them to trace": ("w.pth", ("trace", "--weights"), False),
        "weights with code in them to start training from": (
            "w.pth",
            ("train", "out.pth", "--steps", 1, "--start-from"),
            False,
        ),
        "weights with code in them, called safetensors": (
            "w.safetensors",
            ("trace", "--weights"),
            False,
        ),
        "weights of old torch with code in them": ("w.pth", ("trace", "--weights"), True),
    },
)
def _(scene: Scene, name: str, command: tuple, old: bool) -> str:
    path = scene.folder / name
    torch.save(
        {"container.0.weight": _Evil(scene.marks / "pickle")},
        path,
        _use_new_zipfile_serialization=not old,
    )
    return scene.refused(*command, path, says=name)


@A.probe("A4", "an archive of weights with a program beside the tensors")
def _(scene: Scene) -> str:
    path = scene.folder / "w.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "w/data.pkl", b"cos\nmkdir\n(V" + str(scene.marks / "p").encode() + b"\ntR."
        )
        archive.writestr("w/code/__torch__.py", "def forward(self): pass")
    return scene.refused("trace", "--weights", path, says="w.pth")


@A.probe("A4", "a BModel from elsewhere with a record of one's own")
def _(scene: Scene) -> str:
    model = BModel.load(scene.model())
    path = scene.text("foreign.bmodel", model.path.read_bytes() + bytes(8))
    record = json.loads((model.folder / "record.json").read_text("utf8"))
    record |= {"path": path.name, "sha256": file_digest(path), "graph": str(model.graph)}
    scene.text("foreign.json", json.dumps(record))
    return scene.refused(*SIMULATE, path, scene.picture(), says="--trust")


@A.probes(
    "A4",
    {
        "a class list that is a program": ("c.txt", "--classes", "$(touch {marks}/c)\n`id`\n"),
        "a strategy that is a program": (
            "s.json",
            "--strategy",
            '{{"__reduce__": "os.mkdir({marks}/s)"}}',
        ),
    },
)
def _(scene: Scene, name: str, option: str, text: str) -> str:
    path = scene.text(name, text.format(marks=scene.marks))
    return scene.refused(
        "compile",
        "BM1688",
        "--precisions",
        "int8",
        "--weights",
        "generated",
        "--data",
        "generated",
        option,
        path,
        says=name,
    )


@A.probe("A4", "pictures whose names are commands", everywhere=True)
def _(scene: Scene) -> str:
    scene.plates()
    names = [
        f"$(touch {scene.marks.name}).png",
        "; touch owned.png",
        "`touch owned`.png",
        "-rf.png",
    ]
    folder = scene.folder / "names"
    folder.mkdir()
    for name in names:
        shutil.copyfile(scene.picture(), folder / name)
    labels = dict.fromkeys(names, "皖A12345")
    results = scene.text("r.json", json.dumps(labels))
    (folder / "labels.json").write_text(json.dumps(labels))
    ended = scene.done("evaluate", results, folder)
    if [*scene.root.rglob("owned*")]:
        raise AssertionError("a name was run")
    return same(json.loads(read_output(ended))["exact_match"], 1.0)
