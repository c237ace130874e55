"""Stand-ins for TPU-NNTC's tools: documented arguments in, documented files out.

`install` writes them into a folder. Each tool records its arguments and its working folder, demands
the files that the real one reads, and misbehaves when STANDIN_FAULT says so (``tool:kind``).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

TRACE = "LPRNet_model_trace"

PROTOTXT = "\n".join(
    [
        'name: "LPRNet_model_trace"',
        'layer { name: "x.1" type: "Data" top: "x.1"',
        '  data_param { source: "lmdb/" backend: LMDB name: "not this" } }',
    ]
    + [
        f'layer {{ name: "< 1 >{i}" type: "Convolution" bottom: "< 1 >{i - 1}" '
        f"convolution_param {{ num_output: 64 }} }}\n"
        f'layer {{ name: "relu{i}" type: "ReLU" }}  # a comment, a brace }}'
        for i in range(1, 17)
    ]
    + ['layer { name: "237" type: "Reduction" tag: "layer-9@#aten::mean" }', ""]
)

BODY = r"""
import json, os, signal, struct, sys, time
from pathlib import Path

def values(arguments):
    found = {}
    for index, word in enumerate(arguments):
        if word.startswith("-"):
            key, equals, value = word.lstrip("-").partition("=")
            after = arguments[index + 1] if index + 1 < len(arguments) else ""
            found[key] = value if equals else ("" if after.startswith("-") else after)
    return found

def need(*paths):
    for path in paths:
        if not Path(path).exists():
            sys.exit(f"E: cannot open {path}")

def write(path, text):
    if fault in ("nothing", "empty"):
        text = "" if fault == "empty" else None
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    if text is not None:
        Path(path).write_text(text)

def main(tool, arguments):
    global fault
    with open(os.environ["STANDIN_RECORD"], "a") as file:
        file.write(json.dumps({"tool": tool, "arguments": arguments, "cwd": os.getcwd()}) + "\n")
    where, _, fault = os.environ.get("STANDIN_FAULT", "").partition(":")
    fault = fault if where == tool else ""
    print(f"[{tool}] working on it")
    for done in range(0, 101, 10):
        print(f"\r {done}%|#####     | {done}/100", end="")
    if fault == "exit":
        print("\nE: CHECK failed: unknown operator aten::strange")
        sys.exit(3)
    if fault == "signal":
        print("\nabout to crash", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if fault == "hang":
        print("\nstuck", flush=True)
        time.sleep(600)
    given = values(arguments)
    stem = Path("compilation", "LPRNet_model_trace_bmnetp")
    if tool == "bmnetp":
        need(given["model"])
        write(Path(given["outdir"], "compilation.bmodel"),
              f"bmodel {given['target']} {given['shapes']}")
        write(Path(given["outdir"], "io_info.dat"), "io")
    elif tool == "pt_to_umodel":
        need(given["m"], Path(given["D"], "data.mdb"))
        write(f"{stem}_test_fp32.prototxt", os.environ["STANDIN_PROTOTXT"])
        write(f"{stem}.fp32umodel", "weights")
    elif tool == "calibration_use_pb":
        need(given["model"], given["weights"], "lmdb/data.mdb")
        write(f"{stem}.int8umodel", "int8 " + " ".join(arguments))
        for part in ("deploy_int8", "deploy_fp32", "test_int8", "test_fp32"):
            write(f"{stem}_{part}_unique_top.prototxt", "layer {}")
        if "dump_dist" in given:
            write(given["dump_dist"], "measured")
        if "load_dist" in given:
            need(given["load_dist"])
    elif tool == "bmnetu":
        need(given["model"], given["weight"])
        write(Path(given["outdir"], "compilation.bmodel"),
              f"bmodel {given['target']} {given['shapes']} " + Path(given["weight"]).read_text())
    elif tool == "cali_model":
        need(given["model"], Path(given["cali_lmdb"], "data.mdb"))
        write(Path(given["outdir"], given["net_name"] + "_batch1", "compilation.bmodel"), "one key")
    elif tool == "tpu_model":
        need(arguments[1], arguments[2])
        write(given["o"], Path(arguments[1]).read_text() + Path(arguments[2]).read_text())
"""

DOCKER = r"""
import json, os, subprocess, sys
with open(os.environ["STANDIN_RECORD"], "a") as file:
    file.write(json.dumps({"tool": "docker", "arguments": sys.argv[1:]}) + "\n")
if sys.argv[1] != "run":
    sys.exit()
mounts = dict(word.removeprefix("type=bind,source=").split(",target=")[::-1]
              for word in sys.argv if word.startswith("type=bind"))
words = sys.argv[sys.argv.index("bash"):]
os.execvp("bash", [mounts.get(word, word) for word in words])
"""


def install(folder: Path) -> None:
    """Write ``bin/`` (programs, a ``python3`` that has the modules) and ``modules/``."""
    binaries, modules = folder / "bin", folder / "modules"
    for place, name in (
        ("bmnetp", "__main__"),
        ("ufw/tools", "pt_to_umodel"),
        ("ufw/cali", "cali_model"),
    ):
        (modules / place).mkdir(parents=True)
        tool = "bmnetp" if name == "__main__" else name
        (modules / place / f"{name}.py").write_text(
            f"import sys, standin\nstandin.main({tool!r}, sys.argv[1:])\n"
        )
    for package in ("bmnetp", "ufw", "ufw/tools", "ufw/cali"):
        (modules / package / "__init__.py").write_text("")
    (modules / "standin.py").write_text(BODY)
    binaries.mkdir()
    script(
        binaries / "python3", f'#!/bin/sh\nPYTHONPATH="{modules}" exec {sys.executable} -S "$@"\n'
    )
    for tool in ("bmnetu", "calibration_use_pb", "tpu_model"):
        script(
            binaries / tool,
            f"#!{sys.executable} -S\nimport sys\n"
            f"sys.path.insert(0, {str(modules)!r})\nimport standin\n"
            f"standin.main({tool!r}, sys.argv[1:])\n",
        )


def install_docker(folder: Path) -> None:
    """Write a ``docker`` that runs the command here, its mounts put back."""
    folder.mkdir(exist_ok=True)
    script(folder / "docker", f"#!{sys.executable}\n{DOCKER}")


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def recorded(path: Path) -> list[dict]:
    """What the stand-ins were called with."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
