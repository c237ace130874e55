"""B. Wrong answers with exit status 0."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from lprnet_nb import children
from lprnet_nb.cache import artifact, file_digest
from lprnet_nb.datasets.fetch import is_published_data_here, weights_path
from lprnet_nb.datasets.generate import generate_plates
from lprnet_nb.datasets.lmdb import convert_imageset, read_lmdb
from lprnet_nb.measure.parameters import check
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.model.weights import load_weights
from lprnet_nb.places import repository
from lprnet_nb.report.run import profile_values
from lprnet_nb.toolchain.strategies import make_strategy
from lprnet_nb.work.pieces import compile_piece, trace_piece

from .probes import Table
from .scene import READ, Scene, read_output, same
from .world import Skip

B = Table()


# 6: paths


@B.probes(
    "B6",
    {
        "DATA relative, of a name that the checkout has too": ("DATA", "samples"),
        "WEIGHTS relative, of a name that the checkout has too": ("WEIGHTS", "docs/device.md"),
        "CLASSES relative, of a name that the checkout has too": ("CLASSES", "README.md"),
    },
    before="the checkout's was used",
)
def _(scene: Scene, name: str, path: str) -> str:
    own = scene.folder / path
    own.parent.mkdir(exist_ok=True)
    own.mkdir() if "." not in path else own.write_text("mine")
    before = Path.cwd()
    os.chdir(scene.folder)
    try:
        return same(profile_values("quick", {name: path})[name], str(own))
    finally:
        os.chdir(before)


@B.probe(
    "B6",
    "a cache, data and reports folder named by relative paths",
    before="children took other folders",
    slow=True,
)
def _(scene: Scene) -> str:
    model = scene.model()
    stand = scene.root
    ended = scene.done(
        "infer",
        model,
        scene.picture(),
        "--backend",
        "simulator",
        cwd=stand,
        LPRNET_CACHE="cache",
        LPRNET_DATA="data",
        LPRNET_REPORTS="reports",
    )
    if not (scene.cache / "artifacts" / "logits").exists() or (scene.folder / "cache").exists():
        raise AssertionError("another cache was used")
    return same(read_output(ended), scene.stage.read)


@B.probe("B6", "labels of a name that the checkout has too", everywhere=True)
def _(scene: Scene) -> str:
    plates = scene.plates()
    mine = scene.text("README.md", "a.png,皖A12345\nb.png,京A12345\n")
    ended = scene.run("evaluate", mine, plates)
    return same(ended.status, 2)  # its names are not those of the plates; not text of the checkout


@B.probe("B6", "a command from another folder, as another user, in any locale", everywhere=True)
def _(scene: Scene) -> str:
    plates = scene.plates()
    ended = scene.done("evaluate", plates / "labels.json", plates)
    return same(json.loads(read_output(ended))["exact_match"], 1.0)


# 7: identity is a key


@B.probe(
    "B7",
    "a strategy file that bears a registry's name",
    before="it got the other's calibration",
)
def _(scene: Scene) -> str:
    strategy = make_strategy(name="kl", method="max", images=4, tune=0)
    path = scene.text("kl.json", strategy.model_dump_json())
    given = check(STRATEGIES=str(path), CHIPS="BM1688", PRECISIONS="int8")
    kept = check(STRATEGIES="kl", CHIPS="BM1688", PRECISIONS="int8")
    one, other = (each.strategies[0].by_chip["BM1688"] for each in (given, kept))
    trace = trace_piece(load_own_weights(), 1, "image", one.form)
    images = generate_plates(4, seed=6, workers=0).images
    keys = {compile_piece("m", trace, "BM1688", "int8", s, images).key for s in (one, other)}
    return same((one.method, len(keys)), ("max", 2))


@B.probe("B7", "a strategy of another name that is the same", before="it was compiled again")
def _(scene: Scene) -> str:
    trace = trace_piece(load_own_weights(), 1, "image", "published")
    images = generate_plates(4, seed=6, workers=0).images
    keys = {
        compile_piece(
            "m",
            trace,
            "BM1688",
            "int8",
            make_strategy(name=name, method="max", images=4, tune=0),
            images,
        ).key
        for name in ("one", "two")
    }
    return same(len(keys), 1)


# 8: what is sealed


def _in_place(scene: Scene, change: Callable[[Path], None], file: str, says: str) -> str:
    """Change the cached BModel, its list of files too, as a careless hand would."""
    model = scene.model()
    change(model)
    files = json.loads((model / "files.json").read_text())
    if file:
        files[file] = file_digest(model / file)
        (model / "files.json").write_text(json.dumps(files))
    return scene.refused(*READ, model, scene.picture(), says=says)


def _other_weights(model: Path) -> None:
    with np.load(model / "graph" / "graph.npz") as kept:
        arrays = {name: np.roll(array, 1) for name, array in kept.items()}
    np.savez(model / "graph" / "graph.npz", **arrays)


def _permuted(model: Path) -> None:
    record = json.loads((model / "record.json").read_text("utf8"))
    record["alphabet"]["classes"] = record["alphabet"]["classes"][::-1]
    (model / "record.json").write_text(json.dumps(record))


def _other_graph(model: Path) -> None:
    graph = json.loads((model / "graph" / "graph.json").read_text("utf8"))
    (model / "graph" / "graph.json").write_text(json.dumps(graph, indent=3))


def _older(model: Path) -> None:
    record = json.loads((model / "record.json").read_text("utf8"))
    del record["seals"]
    (model / "record.json").write_text(json.dumps(record))


@B.probes(
    "B8",
    {
        "an altered graph.npz": (_other_weights, "graph/graph.npz", "graph"),
        "the graph of another model": (_other_graph, "graph/graph.json", "graph"),
        "permuted classes in the record": (_permuted, "record.json", "class list"),
        "a record without seals": (_older, "record.json", "older version"),
        "an extra file in the BModel's folder": (
            lambda model: (model / "extra.so").write_bytes(b"x"),
            "",
            "does not hold what the compile left",
        ),
    },
    before="garbage plates",
)
def _(scene: Scene, change: Callable[[Path], None], file: str, says: str) -> str:
    return _in_place(scene, change, file, says)


@B.probes(
    "B8",
    {
        "files.json = {}": (lambda folder: (folder / "files.json").write_text("{}"),),
        "an extra file in an artifact": (lambda folder: (folder / "more").write_text("x"),),
        "a link in an artifact": (lambda folder: (folder / "more").symlink_to("/etc"),),
    },
    before="it passed as intact",
)
def _(scene: Scene, change: Callable[[Path], None]) -> str:
    with children.variables(LPRNET_CACHE=str(scene.cache)):
        made = []
        for _ in range(2):
            folder = artifact("thing", {}, lambda folder: made.append((folder / "x").touch()))
            change(folder)
    return same(len(made), 2)


@B.probe("B8", "a published copy whose record names another model's graph")
def _(scene: Scene) -> str:
    model = scene.model()
    record = json.loads((model / "record.json").read_text("utf8"))
    other = shutil.copytree(model / "graph", scene.folder / "graph")
    _other_weights(other.parent)
    path = scene.text("m.bmodel", (model / record["path"]).read_bytes())
    record |= {"path": path.name, "graph": str(other)}
    scene.text("m.json", json.dumps(record))
    return scene.refused(*READ, path, scene.picture(), says="not the graph")


@B.probe("B8", "the record of another BModel beside one")
def _(scene: Scene) -> str:
    model = scene.model()
    record = json.loads((model / "record.json").read_text("utf8"))
    path = scene.text("m.bmodel", (model / record["path"]).read_bytes() + b"\0")
    scene.text("m.json", json.dumps(record | {"path": path.name, "graph": None}))
    return scene.refused(*READ, path, scene.picture(), says="differs from its record")


# 9: keys


@B.probe(
    "B9",
    "another preprocess() in a second version",
    before="it got the first one's plates",
    slow=True,
)
def _(scene: Scene) -> str:
    copy = scene.folder / "copy"
    shutil.copytree(repository() / "lprnet_nb", copy / "lprnet_nb")
    source = copy / "lprnet_nb" / "datasets" / "images.py"
    text = source.read_text("utf8")
    script = (
        "from lprnet_nb.work import pieces, scheduler; from lprnet_nb.model.own import *;"
        "from lprnet_nb.datasets.generate import generate_plates as g;"
        "run = pieces.float_run(load_own_weights(), g(2, seed=1, workers=0), 1, 'image');"
        "scheduler.make(run.shards, 'x', progress=False)"
    )
    made = []
    kept, other = "- _each(taken.mean)", "- _each(taken.mean) / 2"
    assert text.count(kept) == 1
    for mean in (kept, kept, other):
        source.write_text(text.replace(kept, mean))
        subprocess.run(
            [sys.executable, "-P", "-c", script],
            env=scene.environment() | {"PYTHONPATH": str(copy)},
            check=True,
        )
        made.append(len([*(scene.cache / "artifacts" / "logits").glob("*/logits.npy")]))
    return same(made, [1, 1, 2])


# 10: what was asked for is what is done


@B.probe(
    "B10",
    "train m.pth, then with --images",
    before="same file, images never used",
    slow=True,
)
def _(scene: Scene) -> str:
    out, plates = scene.folder / "m.pth", scene.plates()
    command = ("train", out, "--steps", 2, "--batch", 2)
    scene.done(*command)
    first = out.read_bytes()
    ended = scene.run(*command, "--images", plates)
    if ended.status == 0 and out.read_bytes() == first:
        raise AssertionError("the images were not used")
    return "same result" if ended.status == 0 else f"one error: {scene.plain(ended.errors)}"


@B.probe(
    "B10",
    "lmdb over replaced pictures of the same size",
    before="it kept the old",
)
def _(scene: Scene) -> str:
    folder, store = scene.folder / "bmp", scene.folder / "lmdb"
    folder.mkdir()
    plates = scene.stage.plates.images
    cv2.imwrite(str(folder / "a.bmp"), plates[0])
    command = ("lmdb", "--imageset-rootfolder", folder, "--imageset-lmdbfolder", store)
    scene.done(*command)
    cv2.imwrite(str(folder / "a.bmp"), plates[1])
    ended = scene.run(*command)
    if ended.status:
        return f"one error: {scene.plain(ended.errors)}"
    convert_imageset(folder, scene.folder / "expected")
    found, expected = (next(read_lmdb(each))[1] for each in (store, scene.folder / "expected"))
    return same(found, expected)


@B.probe(
    "B10",
    "two lmdb commands at once into one folder",
    before="a set that says 1,000 and is altered",
)
def _(scene: Scene) -> str:
    folder, store = scene.plates(), scene.folder / "lmdb"
    failed = []

    def convert() -> None:
        try:
            convert_imageset(folder, store)
        except Exception as error:
            failed.append(error)

    several = [threading.Thread(target=convert) for _ in range(4)]
    for each in several:
        each.start()
    for each in several:
        each.join()
    if failed:
        raise failed[0]
    return same(len([*read_lmdb(store)]), 3)


# 11: one report, one set of parameters


@B.probe(
    "B11",
    "a report of the same name with other parameters",
    before="old models, figures and results in the new page",
    slow=True,
)
def _(scene: Scene) -> str:
    script = (
        "import sys; from lprnet_nb.report.run import make_report;"
        "make_report('quick', name='b11', notebooks=('05_compare',), DATA='generated',"
        "CHIPS=sys.argv[1], PRECISIONS='fp32', IMAGES=8)"
    )

    def report(chip: str) -> str:
        environment = {**os.environ, **scene.environment()}
        return children.run(["python", "-c", script, chip], timeout=1200, env=environment).stderr

    def pages() -> dict[str, str]:
        files = [path for path in scene.reports.rglob("*") if path.is_file()]
        return {path.name: file_digest(path) for path in files}

    said = report("BM1688")
    before = pages()
    if "metrics.json" not in before:
        raise AssertionError(said[-1500:])
    refused = report("CV186X").strip().splitlines()[-1]
    same("ParameterError" in refused and "chips BM1688, not CV186X" in refused, True)
    same(pages(), before)
    shutil.rmtree(scene.home)  # notebooks' kernels keep fonts and histories there
    scene.home.mkdir()
    return f"one error: {scene.plain(refused)}"


# 12: labels

_CONTRADICTORY = '{"a.png": "皖A12345", "a.png": "京A12345"}'


@B.probes(
    "B12",
    {
        "labels with two plates for one name, CSV": (
            "l.csv",
            "a.png,皖A12345\na.png,京A12345\n",
            ("twice",),
        ),
        "labels with two plates for one name, JSON": ("l.json", _CONTRADICTORY, ("a.png",)),
        "labels with a plate left empty": ("l.csv", "a.png,\nb.png,京A12345\n", ("empty",)),
        "labels of other pictures": ("l.csv", "c.png,皖A12345\n", ("no label",)),
        "labels that are a list": ("l.json", '["皖A12345"]', ("not a mapping",)),
        "labels that are numbers": ("l.json", '{"a.png": 12345}', ("not a mapping",)),
    },
    before="the last one won, in silence",
)
def _(scene: Scene, name: str, text: str, says: tuple[str, ...]) -> str:
    results = scene.text("results.json", '{"a.png": "皖A12345"}')
    return scene.refused("evaluate", results, scene.text(name, text), says=(name, *says))


@B.probes(
    "B12",
    {
        "results with a doubled key": (_CONTRADICTORY,),
        "results with a doubled key of one plate": ('{"a.png": "皖A12345", "a.png": "皖A12345"}',),
        "results without a plate": ("{}",),
    },
    before="judged",
)
def _(scene: Scene, results: str) -> str:
    labels = scene.text("labels.json", '{"a.png": "皖A12345"}')
    return scene.refused("evaluate", scene.text("r.json", results), labels, says="r.json")


@B.probe("B12", "CSV and JSON labels in one folder that differ", before="one was taken")
def _(scene: Scene) -> str:
    plates = scene.plates()
    (plates / "labels.csv").write_text("a.png,皖A12345\n")
    results = scene.text("r.json", (plates / "labels.json").read_bytes())
    return scene.refused("evaluate", results, plates, says=("several label files", "labels.csv"))


@B.probe("B12", "labels of pictures that are not there", before="ignored in silence")
def _(scene: Scene) -> str:
    plates = scene.plates()
    labels = json.loads((plates / "labels.json").read_text("utf8"))
    results = scene.text("r.json", json.dumps(labels))
    (plates / "labels.json").write_text(json.dumps(labels | {"gone.png": "皖A12345"}))
    ended = scene.done("evaluate", results, plates)
    if "1 labels are of images that are not there" not in " ".join(ended.errors.split()):
        raise AssertionError(f"nothing was said: {ended.errors}")
    return same(json.loads(read_output(ended))["images"], 3)


@B.probe("B12", "results that lack most pictures", before="judged as if they were all")
def _(scene: Scene) -> str:
    plates = scene.plates()
    labels = json.loads((plates / "labels.json").read_text("utf8"))
    results = scene.text("r.json", json.dumps(dict([*labels.items()][:1])))
    ended = scene.done("evaluate", results, plates)
    facts = json.loads(read_output(ended))
    return same((facts["images"], facts["missing"], "lacks 2" in ended.errors), (1, 2, True))


@B.probe("B12", "other weights renamed published.pth", before="they were called published")
def _(scene: Scene) -> str:
    import torch

    from lprnet_nb.model.own import load_own_weights

    path = scene.folder / "published.pth"
    torch.save(load_own_weights().state, path)
    return same(load_weights(path).name == "published", False)


@B.probe("B12", "the published weights under another name", before="they were a stranger's")
def _(scene: Scene) -> str:
    if not is_published_data_here():
        raise Skip("the published data is not here")
    path = shutil.copyfile(weights_path(), scene.folder / "mine.pth")
    return same(load_weights(path).name, "published")


# 13: encodings and clocks

_BOTH_WAYS = '{"0.png": "鲁A12345", "1.png": "皖A12345"}'


@B.probes(
    "B13",
    {
        "labels in GBK": ("gbk",),
        "labels in UTF-16": ("utf-16",),
        "labels in UTF-8 with a byte-order mark": ("utf-8-sig",),
    },
    before="a traceback, or plates of other characters",
    everywhere=True,
)
def _(scene: Scene, encoding: str) -> str:
    results = scene.text("r.json", _BOTH_WAYS)
    labels = scene.text("l.csv", "0.png,鲁A12345\r\n1.png,皖A12345\r\n".encode(encoding))
    ended = scene.done("evaluate", results, labels)
    return same(json.loads(read_output(ended))["exact_match"], 1.0)


@B.probe("B13", "what generate writes in any locale", before="GBK, or a traceback", everywhere=True)
def _(scene: Scene) -> str:
    if scene.context.locale == "POSIX":
        return scene.refused("generate", scene.folder / "g", "--count", 2, says="LC_ALL")
    scene.done("generate", scene.folder / "g", "--count", 2)
    labels = json.loads((scene.folder / "g" / "labels.json").read_bytes().decode("utf8"))
    encoding = {"zh_CN.GBK": "gbk"}.get(scene.context.locale, "utf8")
    names = {name.decode(encoding) for name in os.listdir(os.fsencode(scene.folder / "g"))}
    return same(names, {*labels, "labels.json"})


@B.probe("B13", "results in any locale", before="names in UTF-8, plates in GBK", everywhere=True)
def _(scene: Scene) -> str:
    model, plates = scene.model(), scene.plates()
    out = scene.folder / "out.json"
    scene.done(*READ, model, plates, "--output", out)
    labels = json.loads((plates / "labels.json").read_bytes().decode("utf8"))
    return same(list(json.loads(out.read_bytes().decode("utf8"))), sorted(labels))


# A clock that is set back by an hour when a process has lived for two seconds.
_BACKWARD = """
#define _GNU_SOURCE
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static struct timespec from;
__attribute__((constructor)) static void start(void)
{ syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &from); }
int clock_gettime(clockid_t which, struct timespec *found) {
    struct timespec now;
    int failed = syscall(SYS_clock_gettime, which, found);
    syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
    if (!failed && which == CLOCK_REALTIME && now.tv_sec - from.tv_sec >= 2)
        found->tv_sec -= 3600;
    return failed;
}
int gettimeofday(struct timeval *found, void *zone) {
    struct timespec now;
    int failed = clock_gettime(CLOCK_REALTIME, &now);
    found->tv_sec = now.tv_sec; found->tv_usec = now.tv_nsec / 1000;
    return failed;
}
time_t time(time_t *found) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (found) *found = now.tv_sec;
    return now.tv_sec;
}
"""


@B.probe("B13", "the clock is set back while work goes on", before="negative seconds", slow=True)
def _(scene: Scene) -> str:
    scene.model()
    clock = scene.library(scene.folder / "clock.so", _BACKWARD)
    shutil.rmtree(scene.cache / "artifacts" / "logits")
    with scene.world._using(scene.cache):
        work = scene.world.start(LD_PRELOAD=str(clock))
        try:
            ended = scene.world.finish(work)
        finally:
            work.kill()
    files = [*(scene.cache / "artifacts" / "logits").glob("*/seconds.json")]
    seconds = [value for path in files for value in json.loads(path.read_text()).values()]
    if not seconds or min(seconds) < 0:
        raise AssertionError(f"negative seconds: {seconds}")
    return ended


# and what thinking along them finds


@B.probe("B12", "one picture named twice")
def _(scene: Scene) -> str:
    picture = scene.picture()
    return scene.refused(*READ, scene.model(), picture, picture, says="more than once")


@B.probe("B12", "two folders with a picture of the same name")
def _(scene: Scene) -> str:
    model = scene.model()
    paths = []
    for name in ("one", "two"):
        (scene.folder / name).mkdir()
        paths.append(scene.picture(f"{name}/a.png"))
    ended = scene.done(*READ, model, *paths)
    return same(len(json.loads(read_output(ended))), 2)


@B.probes(
    "B8",
    {
        "a gray PNG": (lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), True),
        "a PNG of 16 bits": (lambda image: image.astype(np.uint16) * 257, False),
        "a PNG with transparency": (lambda image: cv2.cvtColor(image, cv2.COLOR_BGR2BGRA), False),
    },
    slow=True,
)
def _(scene: Scene, change: Callable, gray: bool) -> str:
    model = scene.model()
    image = scene.stage.plates.images[0]
    path = scene.text("a.png", cv2.imencode(".png", change(image))[1].tobytes())
    found = json.loads(read_output(scene.done(*READ, model, path)))
    if gray:  # its colours are gone, so what is read may differ
        return same(list(found), ["a.png"])
    return same(found, json.loads(scene.stage.read))
