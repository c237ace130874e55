"""E. A traceback, or wrong advice; and pages that show more than they should."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from unittest.mock import patch

import report_sample
import torch

from lprnet_nb import children
from lprnet_nb.model.own import load_own_weights
from lprnet_nb.model.weights import load_weights
from lprnet_nb.places import repository
from lprnet_nb.report.html import write_html
from lprnet_nb.report.notebook_pages import clean
from lprnet_nb.toolchain.bmodel import BModel
from lprnet_nb.work import scheduler

from .probes import Table
from .scene import OTHER_USER, POSIX, READ, Scene, read_output, same
from .storage import read_only, small_disk
from .world import Skip

E = Table()
LONG = "x" * 300


@E.probes(
    "E19",
    {
        "infer M . where there are no pictures": (".", "mine"),
        "infer M /": ("/", "/"),
        "a picture's name of 300 letters": (f"{LONG}.png", "xxx"),
        "a picture's name with a null character": ("a\\0.png", ".png"),
        "a picture that is not there": ("nix.png", "nix.png"),
        "an empty name": ("", "mine"),
        "a folder of nothing but texts": ("texts", "texts"),
        "a picture that is text": ("text.png", "text.png"),
        "a list that is empty": ("empty.txt", "empty.txt"),
    },
    before="a traceback, or all of the disk searched",
)
def _(scene: Scene, path: str, says: str) -> str:
    (scene.folder / "texts").mkdir()
    scene.text("texts/readme.md", "x")
    scene.text("text.png", "<html>404</html>")
    scene.text("empty.txt", "\n")
    model = scene.model()
    return scene.refused(*READ, str(model), path, says=says, cwd=scene.folder)


@E.probes(
    "E19",
    {
        "a label file's name of 300 letters": ("evaluate", "r.json", LONG),
        "a results file's name of 300 letters": ("evaluate", LONG, "r.json"),
        "weights' name of 300 letters": ("trace", "--weights", LONG),
        "a BModel's name of 300 letters": ("infer", f"{LONG}.bmodel", "r.json"),
        "a folder's name of 300 letters to generate into": ("generate", LONG, "--count", "1"),
        "a report's folder of 300 letters": ("html", LONG),
    },
    before="a traceback",
)
def _(scene: Scene, *command: str) -> str:
    scene.text("r.json", '{"a.png": "皖A12345"}')
    return scene.refused(*command, says="xxx", cwd=scene.folder)


@E.probes(
    "E19",
    {
        "a parent that may not be entered": ("shut/r.json", "Permission denied: "),
        "a file that may not be read": ("closed.json", "'closed.json' is not readable"),
    },
    before="a traceback",
)
def _(scene: Scene, name: str, says: str) -> str:
    labels = scene.text("l.csv", "a.png,皖A12345\n")
    (scene.folder / "shut").mkdir()
    path = scene.text(name, '{"a.png": "皖A12345"}')
    scene.context = OTHER_USER
    scene.hand_over()
    closed = path if path.parent == scene.folder else path.parent
    closed.chmod(0)
    try:
        return scene.refused("evaluate", path, labels, says=says)
    finally:
        closed.chmod(0o700)


@E.probe("E19", "a folder that may not be written, as another user", before="a traceback")
def _(scene: Scene) -> str:
    scene.context = OTHER_USER
    says = ("/etc/g", "may write to")
    return scene.refused("generate", "/etc/g", "--count", 1, says=says)


@E.probe("E19", "a name that is not UTF-8", before="a traceback")
def _(scene: Scene) -> str:
    plates = scene.plates()
    picture = scene.picture()
    picture.rename(os.fsdecode(os.fsencode(plates) + b"/\xff\xfe.png"))
    return scene.refused(*READ, scene.model(), plates, says=("not UTF-8", "convmv"))


@E.probe(
    "E19",
    "names in UTF-8 where the locale is ASCII",
    before="advises to rename them, though they are UTF-8",
    slow=True,
)
def _(scene: Scene) -> str:
    plates, model = scene.plates(), scene.model()
    scene.context = POSIX
    return scene.refused(*READ, model, plates, says="LC_ALL")


def _saved(scene: Scene, change: Callable) -> Path:
    path = scene.folder / "w.pth"
    state = load_own_weights().state
    torch.save({name: change(tensor) for name, tensor in state.items()}, path)
    return path


@E.probes(
    "E19",
    {
        "weights of nn.Parameter in a state dict": (
            lambda t: torch.nn.Parameter(t) if t.is_floating_point() else t,
        ),
        "weights of sparse tensors": (lambda t: t.to_sparse() if t.dim() else t,),
    },
    before="a traceback",
)
def _(scene: Scene, change: Callable) -> str:
    path = _saved(scene, change)
    found, expected = load_weights(path).state, load_own_weights().state
    return same(all(torch.equal(found[name], expected[name]) for name in expected), True)


@E.probes(
    "E19",
    {
        "weights of complex numbers": (
            lambda t: t.to(torch.complex64) if t.is_floating_point() else t,
        ),
        "weights of tensors without data": (lambda t: t.to("meta"),),
    },
    before="a traceback",
)
def _(scene: Scene, change: Callable) -> str:
    return scene.refused("trace", "--weights", _saved(scene, change), says="w.pth")


@E.probes(
    "E19",
    {
        "evaluate > /dev/full": (
            lambda scene, plates: ("evaluate", plates / "labels.json", plates),
        ),
        "doctor > /dev/full": (lambda scene, plates: ("doctor",),),
        "doctor --json > /dev/full": (lambda scene, plates: ("doctor", "--json"),),
        "generate > /dev/full": (
            lambda scene, plates: ("generate", scene.folder / "g", "--count", 1),
        ),
        "infer > /dev/full": (lambda scene, plates: (*READ, scene.model(), plates),),
        "--help > /dev/full": (lambda scene, plates: ("--help",),),
    },
    before="a traceback, or exit status 0",
)
def _(scene: Scene, command: Callable) -> str:
    words = command(scene, scene.plates())
    return scene.refused(*words, says="No space left on device", output="/dev/full")


@E.probe("E19", "a full disk under papermill", before="a traceback", slow=True)
def _(scene: Scene) -> str:
    script = (
        "from lprnet_nb.report.run import run_notebook; from pathlib import Path; import sys;"
        "from lprnet_nb.errors import LprnetError\n"
        "try: run_notebook('01_trace', Path(sys.argv[1]), {'OUTPUT_DIR': sys.argv[2],"
        " 'WEIGHTS': 'generated'})\n"
        "except LprnetError as error: print(error)"
    )
    scene.model()
    with small_disk(scene.folder / "small", 1 << 14) as small:
        done = children.run(
            [sys.executable, "-c", script, small / "x.ipynb", scene.folder / "out"],
            timeout=600,
            env={**os.environ, **scene.environment()},
        )
    if done.returncode or "LPRNET_REPORTS" not in done.stdout:
        raise AssertionError(done.stderr[-1500:] + done.stdout)
    shutil.rmtree(scene.home, ignore_errors=True)
    scene.home.mkdir()
    return f"one error: {scene.plain(done.stdout)}"


@E.probe("E19", "worker processes without the package that certificates need", before="a traceback")
def _(scene: Scene) -> str:
    with patch.dict(sys.modules, {"cryptography": None}):
        return scene.world.error(lambda: scheduler._local_cluster(2, "secret"), "cryptography")


@E.probe("E19", "a read-only /dev/shm", before="a traceback", slow=True)
def _(scene: Scene) -> str:
    command = (
        "mount -t tmpfs -o ro tmpfs /dev/shm && exec lprnet-nb generate g --count 1000 --seed 3"
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command],
        cwd=scene.folder,
        env=scene.environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    if "unshare" in done.stderr or "mount:" in done.stderr:
        raise Skip(f"no mounts of one's own here: {done.stderr.strip()}")
    if done.returncode == 0:
        return same(len([*(scene.folder / "g").glob("*.png")]), 1000)
    if "Traceback" in done.stderr or done.returncode not in (1, 2):
        raise AssertionError(done.stderr[-1500:])
    return f"one error: {scene.plain(done.stderr)}"


@E.probes(
    "E19",
    {
        "an own grammar with spaces in its path": ("my own grammar.toml",),
        "an own grammar with Chinese in its path": ("车牌 语法.toml",),
        "an own grammar with a comma in its path": ("a,b.toml",),
    },
    before="fails in the last notebook",
    slow=True,
)
def _(scene: Scene, name: str) -> str:
    packaged = repository() / "lprnet_nb" / "decode" / "grammars" / "plate.toml"
    path = scene.text(name, packaged.read_bytes())
    model, picture = scene.model(), scene.picture()
    found = read_output(scene.done(*READ, model, picture, "--decoder", path))
    return same(found, read_output(scene.done(*READ, model, picture, "--decoder", "plate")))


@E.probe(
    "E19",
    "a user's startup files and matplotlibrc with TeX, in a kernel's environment",
    before="they were run; figures failed",
    slow=True,
)
def _(scene: Scene) -> str:
    scene.text("matplotlibrc", "text.usetex: True\n")
    startup = scene.folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "a.py").write_text(f"open({str(scene.marks / 'startup')!r}, 'w')\n")
    script = (
        "import matplotlib, IPython; IPython.start_ipython(argv=['--quick', '-c', 'pass']);"
        "print(matplotlib.rcParams['text.usetex'])"
    )
    names = {
        "MATPLOTLIBRC": str(scene.folder / "matplotlibrc"),
        "IPYTHONDIR": str(scene.folder / "ipython"),
        "HOME": str(scene.root / "elsewhere"),
    }
    with children.variables(**names), children.kernel_environment() as clean:
        done = children.run([sys.executable, "-c", script], timeout=120, env=clean)
    return same(done.stdout.split()[-1:], ["False"])


@E.probe(
    "E19",
    "a cache of another user's, that may only be read",
    before="advises to name a writable cache folder",
)
def _(scene: Scene) -> str:
    model = scene.model()
    shutil.rmtree(scene.cache / "artifacts" / "logits")
    picture = scene.picture()
    scene.context = OTHER_USER
    scene.hand_over()
    for path in (scene.cache, *scene.cache.rglob("*")):
        os.chown(path, 0, 0, follow_symlinks=False)
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o755 | 0o444 | path.is_dir() * 0o111)
    return scene.refused(*READ, model, picture, says=("belongs to root", "LPRNET_CACHE"))


@E.probes(
    "E19",
    {
        "a data folder that cannot be written": (
            "LPRNET_DATA",
            ("trace", "--weights", "generated"),
        ),
        "a cache that cannot be written": ("LPRNET_CACHE", ("trace", "--weights", "generated")),
    },
    before="advises the wrong variable",
)
def _(scene: Scene, variable: str, command: tuple) -> str:
    blocked = scene.text("file", "x")
    if variable == "LPRNET_DATA":
        scene.model()  # its trace is there
        command = (*command, "--batches", "1")
    return scene.refused(*command, says=variable, **{variable: str(blocked / "below")})


@E.probe(
    "E19",
    "survey with a BModel from elsewhere",
    before="told to use --trust, which it lacks",
    slow=True,
)
def _(scene: Scene) -> str:
    model = BModel.load(scene.model())
    path = scene.text("foreign.bmodel", model.path.read_bytes() + bytes(8))
    record = json.loads((model.folder / "record.json").read_text("utf8"))
    from lprnet_nb.cache import file_digest

    record |= {"path": path.name, "sha256": file_digest(path), "graph": str(model.graph)}
    scene.text("foreign.json", json.dumps(record))
    ended = scene.run("survey", path, scene.ccpd(), "--backend", "simulator")
    if ended.status != 2 or "Traceback" in ended.errors:
        raise AssertionError(f"ended with {ended.status}: {ended.errors[-1500:]}")
    said = "foreign.bmodel was not made in this machine's cache" in ended.errors
    same((said, "--trust" in ended.errors), (True, False))  # which a survey has not
    return f"one error: {scene.plain(ended.errors)}"


@E.probe(
    "E19",
    "forty mutated graphs on the native emulator",
    before="43 tracebacks, 6 endless of 400",
    slow=True,
)
def _(scene: Scene) -> str:
    model = BModel.load(scene.model())
    text = (model.graph / "graph.json").read_text("utf8")
    dice, ends = random.Random(7), []
    picture = scene.picture()
    for _ in range(40):
        (model.graph / "graph.json").write_text(_mutated(text, dice))
        for listed in ("record.json", "files.json"):
            (model.folder / listed).unlink(missing_ok=True)
        model.save(model.folder)
        ended = scene.run(*READ, model.folder, picture, "--trust")
        ends.append(ended.status)
        if ended.status not in (0, 2) or "Traceback" in ended.errors:
            raise AssertionError(f"ended with {ended.status}: {ended.errors[-1500:]}")
    return f"one error: {ends.count(2)} of {len(ends)}; the others ran"


def _mutated(text: str, dice: random.Random) -> str:
    """A graph with one of its values replaced by one that is as wrong as can be."""
    graph = json.loads(text)
    place = graph
    while True:
        keys = [*place] if isinstance(place, dict) else [*range(len(place))]
        key = dice.choice(keys)
        if not isinstance(place[key], dict | list) or not place[key] or dice.random() < 0.05:
            place[key] = dice.choice([None, -1, 0, 2**31, 2**63, 1e308, "x", [], {}, [[1]], True])
            return json.dumps(graph)
        place = place[key]


# and what thinking along them finds


@E.probes(
    "E19",
    {
        "an unknown command": (("nix",), "nix"),
        "an unknown option": (("doctor", "--nix"), "--nix"),
        "a decoder that is not known": (
            (*READ, "{model}", "{picture}", "--decoder", "nix"),
            "nix",
        ),
        "a backend that is not known": (
            ("infer", "{model}", "{picture}", "--backend", "nix"),
            "nix",
        ),
        "a chip that is not known": (("compile", "BM9999"), "BM9999"),
        "no plates to generate": (("generate", "g", "--count", "0"), "plate"),
        "a seed below zero": (("generate", "g", "--count", "1", "--seed", "-1"), "seed"),
        "a form of plates that is not known": (("generate", "g", "--forms", "nix"), "nix"),
        "a report's name that leads elsewhere": (("report", "--name", "../x"), "../x"),
        "training with no steps": (("train", "m.pth", "--steps", "0"), "steps"),
        "combining one BModel": (("combine", "{model}", "-o", "x.bmodel"), "x"),
    },
)
def _(scene: Scene, command: tuple[str, ...], says: str) -> str:
    given = {"model": "", "picture": ""}
    if any("{" in word for word in command):
        given = {"model": str(scene.model()), "picture": str(scene.picture())}
    words = [word.format(**given) for word in command]
    return scene.refused(*words, says="" if says == "x" else says, cwd=scene.folder)


@E.probes(
    "E19",
    {
        "labels that are a picture": (b"\x89PNG\r\n\x1a\n\0\0", "text"),
        "labels of 100,000 brackets": (b"[" * 100_000, "nested"),
        "labels with a number of 5,000 digits": (b"[" + b"9" * 5000 + b"]", ""),
        "labels that are cut off": (b'{"a.png": "\xe7\x9a', ""),
        "labels with zero bytes": (b'{"a.png": "\0"}', "zero bytes"),
        "labels with a lone surrogate": (b'{"a.png": "\\ud800"}', ""),
        "labels that are empty": (b"", ""),
    },
    everywhere=False,
)
def _(scene: Scene, text: bytes, says: str) -> str:
    results = scene.text("r.json", '{"a.png": "皖A12345"}')
    labels = scene.text("labels.json", text)
    return scene.refused("evaluate", results, labels, says=("labels.json", says))


@E.probes(
    "E19",
    {
        "no HOME": ({"HOME": None, "LPRNET_CACHE": None},),
        "a HOME that is not there": ({"HOME": "/nowhere", "LPRNET_CACHE": None},),
        "a terminal of one column": ({"COLUMNS": "1"},),
        "a terminal of no kind": ({"TERM": "dumb", "NO_COLOR": "1"},),
        "no PATH": ({"PATH": None},),
        "a time zone that is none": ({"TZ": "Nowhere/Nix"},),
        "a threads variable that is no number": ({"OMP_NUM_THREADS": "many"},),
    },
    slow=True,
)
def _(scene: Scene, variables: dict[str, str | None]) -> str:
    plates = scene.plates()
    ended = scene.done("evaluate", plates / "labels.json", plates, **variables)
    scene.done("doctor", **{**variables, "LPRNET_CACHE": str(scene.cache)})
    return same(json.loads(read_output(ended))["exact_match"], 1.0)


@E.probes(
    "E19",
    {
        "a temporary folder that is not there": ("/nowhere",),
        "a temporary folder that is a file": ("file",),
    },
    slow=True,
)
def _(scene: Scene, place: str) -> str:
    scene.text("file", "x")
    model, picture = scene.model(), scene.picture()
    ended = scene.run(
        "infer", model, picture, "--backend", "simulator", cwd=scene.folder, TMPDIR=place
    )
    if ended.status == 0:
        return same(read_output(ended), scene.stage.read)
    if ended.status not in (1, 2):
        raise AssertionError(f"ended with {ended.status}: {ended.errors[-1500:]}")
    return f"one error: {scene.plain(ended.errors)}"


@E.probe("E19", "a defect of ours", before="a traceback of 80 lines, and nothing kept", slow=True)
def _(scene: Scene) -> str:
    script = (
        "import sys; from lprnet_nb import cli, doctor; doctor.examine = lambda: 1 / 0;"
        "sys.argv = ['lprnet-nb', 'doctor']; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=scene.environment(), capture_output=True, text=True
    )
    [log] = (scene.cache / "logs" / "errors").iterdir()
    kept = log.read_text("utf8")
    return same(
        (
            done.returncode,
            "Traceback" in done.stderr,
            log.name in done.stderr,
            "1 / 0" in kept or "ZeroDivisionError" in kept,
        ),
        (70, False, True, True),
    )


# 20: pages


@E.probes(
    "E20",
    {
        "raw HTML in a table's cell": (
            "<table><tr><td><img src=x onerror=evil()><script>evil()</script></td></tr></table>",
        ),
        "raw HTML in a table's caption": (
            "<table><caption><svg onload=evil()></caption><tr><td>a</td></tr></table>",
        ),
        "a style that loads": ('<p style="background:url(http://evil.example)">a</p>',),
        "a picture of SVG with a program": (
            '<img src="data:image/svg+xml,<svg onload=evil()>" alt="a">',
        ),
        "an alt text that breaks out": ('<img alt=\'"><script>evil()</script>\' src="x">',),
    },
    before="got past the cleaner",
)
def _(scene: Scene, markup: str) -> str:
    return _harmless(clean(markup))


def _harmless(page: str) -> str:
    """Raise unless a page has nothing that runs or loads."""
    bad: list[str] = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            bad.extend([tag] * (tag in ("script", "svg", "iframe", "style", "link", "object")))
            for name, value in attributes:
                wrong = name.startswith("on") or name in ("style", "srcset", "action", "data")
                # In a picture nothing runs, whatever its kind; in another text nothing loads.
                wrong |= name == "src" and not (value or "").startswith("data:image/")
                wrong |= name == "href" and "evil" in (value or "")
                bad.extend([f"{tag} {name}={value}"] * wrong)

    Tags().feed(page)
    if bad:
        raise AssertionError(f"it got past the cleaner: {bad}")
    return "same result"


@E.probe(
    "E20",
    "markup in the metadata of a notebook's picture",
    before="got past the cleaner",
    slow=True,
)
def _(scene: Scene) -> str:
    import nbformat

    from lprnet_nb.report.notebook_pages import convert

    new = nbformat.v4
    evil = '"><script>evil()</script><img src=x onerror="evil()'
    output = new.new_output(
        "display_data",
        data={"image/png": "iVBORw0KGgo="},
        metadata={
            "image/png": {"width": evil, "height": evil, "alt": evil},
            "width": evil,
            "filenames": {"image/png": evil},
        },
    )
    cell = new.new_code_cell("1", outputs=[output], metadata={"tags": [evil], "id": evil})
    path = scene.folder / "01_x.ipynb"
    nbformat.write(new.new_notebook(cells=[cell]), path)
    return _harmless(str(convert(path).body))


@E.probes(
    "E20",
    {
        "a figure that is a link to a file of the user's": (
            lambda figure, secret: figure.symlink_to(secret),
        ),
        "a figure that is a FIFO": (lambda figure, secret: os.mkfifo(figure),),
    },
    before="it was embedded",
)
def _(scene: Scene, trap: Callable[[Path, Path], None]) -> str:
    report = report_sample.build(scene.folder / "report")
    secret = scene.text("secret", "my secret key")
    figure = next(
        path for path in sorted((report / "figures").rglob("*")) if path.suffix in (".svg", ".png")
    )
    figure.unlink()
    trap(figure, secret)
    return scene.world.error(lambda: write_html(report), figure.name)


@E.probe("E20", "a report that is read-only")
def _(scene: Scene) -> str:
    report = report_sample.build(scene.folder / "report")
    with read_only(report):
        return scene.refused("html", report, says="report")


@E.probe("E20", "a report whose metrics are a FIFO")
def _(scene: Scene) -> str:
    report = report_sample.build(scene.folder / "report")
    (report / "metrics.json").unlink()
    os.mkfifo(report / "metrics.json")
    return scene.refused("html", report, says="metrics.json")
