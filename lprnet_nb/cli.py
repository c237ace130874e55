"""`lprnet-nb`: the steps of the workbook on the command line; each command calls one function."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer import rich_utils
from typer.core import TyperGroup

from . import __version__
from .errors import LprnetError, ParameterError
from .language import ENGLISH, LANGUAGES, phrase, speaking, translated_paragraphs
from .settings import wished_language

_FULL = (errno.ENOSPC, errno.EDQUOT)
_NO_PATH = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR)

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="LPRNet from PyTorch to a Sophgo TPU, with or without the device.",
)
bench_app = typer.Typer(no_args_is_help=True, help="Measure; one JSON line comes last.")
app.add_typer(bench_app, name="bench")
network_app = typer.Typer(no_args_is_help=True, help="A network of your own; see docs/network.md.")
app.add_typer(network_app, name="network")

Chips = Annotated[str | None, typer.Option(help="Comma-separated, such as BM1684X,BM1684.")]
Precisions = Annotated[str | None, typer.Option(help="Of fp32, fp16, bf16, int8.")]
Batches = Annotated[str | None, typer.Option(help="Images per call, such as 1,4.")]
Cores = Annotated[
    str | None, typer.Option(help="TPU cores a call is spread over, such as 1,2 on BM1688.")
]
BatchMean = Annotated[str | None, typer.Option(help="batch (as published) or image.")]
Strategies = Annotated[str | None, typer.Option(help="INT8 strategies by name, or JSON files.")]
Decoders = Annotated[str | None, typer.Option(help="greedy, beam, plate, …, or a grammar file.")]
Images = Annotated[int | None, typer.Option(help="How many images; 0 for all.")]
DataOption = Annotated[
    str | None, typer.Option("--data", help="auto, published, generated, or a folder of images.")
]
WeightsOption = Annotated[
    str | None, typer.Option("--weights", help="auto, published, generated, or a file.")
]
Classes = Annotated[str | None, typer.Option(help="Class list of the weights, a text file.")]
NetworkOption = Annotated[
    str | None,
    typer.Option("--network", help="lprnet, or a file: .onnx, TorchScript .pt, or .py."),
]
Backend = Annotated[str | None, typer.Option(help="auto, device, simulator, emulator.")]
Scheduler = Annotated[
    str | None,
    typer.Option(
        help="Address of a dask scheduler, such as tcp://host:8786; else this machine's cores."
    ),
]
Toolchain = Annotated[
    str | None, typer.Option(help="mlir (TPU-MLIR), nntc (TPU-NNTC), or packaged (none).")
]
TpuMlir = Annotated[
    str | None,
    typer.Option(
        help="Release of TPU-MLIR that generates code, or for a report several side by side, such "
        "as 1.18.1,1.30.2; see `lprnet-nb releases`."
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(help="Of a BModel without a record: (x - MEAN) * SCALE; 127.5, or one a channel."),
]
Scale = Annotated[str | None, typer.Option(help="Of a BModel without a record; 0.0078125.")]
PixelFormat = Annotated[str | None, typer.Option(help="Of a BModel without a record: bgr or rgb.")]
MarginOption = Annotated[
    str | None,
    typer.Option(
        "--margin",
        help="Add to each side of every crop: X/Y in percent of its width and height, auto (chosen "
        "by confidence, without labels), or none.",
    ),
]
SkipUnknown = Annotated[
    bool,
    typer.Option(
        "--skip-unknown",
        help="Leave out plates whose labels have characters that are not in the class list.",
    ),
]
Language = Annotated[str | None, typer.Option(help="en or zh.")]
Calibration = Annotated[
    str | None,
    typer.Option(help="pinned (release that chooses thresholds), or release (the one named)."),
]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"lprnet-nb {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Say which it is.")
    ] = False,
) -> None:
    """LPRNet from PyTorch to a Sophgo TPU, with or without the device."""


def _upper(**values: Any) -> dict[str, Any]:
    return {key.upper(): value for key, value in values.items() if value is not None}


@app.command()
def download() -> None:
    """Fetch the published weights and test images, each checked by its SHA-256."""
    from .datasets.fetch import fetch_published

    print(f"weights, images and labels are in {fetch_published()}")


@app.command()
def trace(
    batches: Batches = "1,4",
    batch_mean: BatchMean = "image",
    network: NetworkOption = None,
    weights: WeightsOption = None,
    classes: Classes = None,
) -> None:
    """Trace the network and export it to ONNX, into data/models/torch/ (a file's: onnx/)."""
    from .measure.parameters import check
    from .steps import gen_traces

    for path in gen_traces(
        check(
            **_upper(
                batches=batches,
                batch_mean=batch_mean,
                network=network,
                weights=weights,
                classes=classes,
            )
        )
    ):
        print(path)


@app.command("compile")
def compile_(
    target: Annotated[str, typer.Argument(help="Chip, such as BM1684X.")],
    precisions: Precisions = "fp32",
    batches: Batches = "1,4",
    cores: Cores = None,
    batch_mean: BatchMean = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            help="INT8 strategy by name, or a JSON file; by default the recommended one, with "
            "TPU-NNTC or a network of your own kl."
        ),
    ] = None,
    data: DataOption = None,
    network: NetworkOption = None,
    weights: WeightsOption = None,
    classes: Classes = None,
    toolchain: Toolchain = None,
    tpu_mlir: TpuMlir = None,
    calibration: Calibration = None,
) -> None:
    """Compile BModels into data/models/TARGET/ under the names that users know."""
    from .measure.parameters import NETWORK, check
    from .steps import gen_bmodels

    own = toolchain == "nntc" or network not in (None, NETWORK)
    chosen = strategy or ("kl" if own else "recommended")
    for path in gen_bmodels(
        check(
            **_upper(
                chips=target,
                precisions=precisions,
                batches=batches,
                cores=cores,
                batch_mean=batch_mean,
                strategies=chosen,
                data=data,
                network=network,
                weights=weights,
                classes=classes,
                images=0,
                toolchain=toolchain,
                tpu_mlir=tpu_mlir,
                calibration=calibration,
            )
        )
    ):
        print(path)


@app.command("one-key")
def one_key(
    target: Annotated[str, typer.Argument(help="BM1684 or BM1684X.")],
    strategy: Annotated[
        str, typer.Option(help="TPU-NNTC strategy by name, or a JSON file.")
    ] = "kl",
    batch_mean: BatchMean = None,
    data: DataOption = None,
    weights: WeightsOption = None,
    classes: Classes = None,
) -> None:
    """Compile INT8 with TPU-NNTC's one-key tool into data/models/TARGET/."""
    from .measure.parameters import check
    from .steps import gen_one_key

    print(
        gen_one_key(
            check(
                **_upper(
                    chips=target,
                    precisions="int8",
                    batches="1",
                    batch_mean=batch_mean,
                    strategies=strategy,
                    data=data,
                    weights=weights,
                    classes=classes,
                    images=0,
                    toolchain="nntc",
                )
            )
        )
    )


@app.command()
def combine(
    bmodels: Annotated[list[Path], typer.Argument(help="Two or more BModels of ours.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="BModel to write.")],
) -> None:
    """Put several batch sizes into one BModel with TPU-NNTC's tpu_model."""
    from .steps import combine

    print(combine(bmodels, output))


@app.command()
def infer(
    bmodel: Annotated[
        Path, typer.Argument(help="A .bmodel; without its record beside it --trust is needed.")
    ],
    images: Annotated[
        list[Path], typer.Argument(help="Plate crops: pictures, folders, .txt lists of paths.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="JSON file, or CSV by its suffix .csv; else JSON is printed."),
    ] = None,
    backend: Backend = "auto",
    decoder: Annotated[str, typer.Option()] = "greedy",
    views: Annotated[
        bool,
        typer.Option("--views", help="Read each plate three times, stretched; needs a grammar."),
    ] = False,
    trust: Annotated[
        bool, typer.Option("--trust", help="Run a BModel that was not made here.")
    ] = False,
    details: Annotated[
        bool,
        typer.Option(
            "--details",
            help="With each plate: confidence, that of each character, second choice, whether the "
            "grammar holds; and the time of each stage.",
        ),
    ] = False,
    reject: Annotated[
        float | None, typer.Option(help="Leave out readings of less confidence, such as 0.95.")
    ] = None,
    margin: MarginOption = None,
    mean: Mean = None,
    scale: Scale = None,
    pixel_format: PixelFormat = None,
    classes: Annotated[
        Path | None, typer.Option(help="Class list of a BModel without a record, a text file.")
    ] = None,
    blank: Annotated[
        int | None, typer.Option(help="Index of the CTC blank, for a class list without '-'.")
    ] = None,
) -> None:
    """Read plates with a BModel: JSON {file: plate}."""
    from .runtime.foreign import Said, model_at
    from .steps import read_plates

    model = model_at(bmodel, Said(mean, scale, pixel_format, classes, blank), trust=trust)
    read, left_out = read_plates(
        model,
        images,
        backend or "auto",
        decoder,
        views=views,
        trust=trust,
        reject=reject,
        margin=margin or "none",
    )
    if output and output.suffix.lower() == ".csv":
        plain = [["file", "plate"], *map(list, read.plates().items())]
        _emit_table(read.table() if details else plain, output)
        return
    facts: dict[str, Any] = read.facts() if details else read.plates()
    if details and reject is not None:
        facts = {"rejected": {"below": reject, "images": left_out}, **facts}
    _emit(facts, output)


@network_app.command("new")
def network_new(
    target: Annotated[Path, typer.Argument(help="Name of the two files, without suffix.")],
) -> None:
    """Write an example: a Python file that builds a network, and the TOML beside it."""
    from .model.network_file import write_template

    for path in write_template(target):
        print(path)


@network_app.command("check")
def network_check(
    network: Annotated[str, typer.Argument(help="File: .onnx, TorchScript .pt, or .py.")],
    chips: Chips = "BM1684X,BM1684",
    compiler: Annotated[
        bool, typer.Option(help="Also compile it, and hold the emulator against the simulator.")
    ] = True,
) -> None:
    """Say what is wrong with a network of your own before a run; then the exit status is 1."""
    from .proof.network import check_network

    failed = False
    for line in check_network(network, chips or "", compiler=compiler):
        print(f"{'ok  ' if line.ok else 'FAIL'} {line.what}: {line.found}", flush=True)
        failed |= not line.ok
    if failed:
        raise typer.Exit(1)


@app.command()
def compare(
    network: NetworkOption = None,
    data: DataOption = None,
    weights: WeightsOption = None,
    classes: Classes = None,
    images: Images = 100,
    chips: Chips = None,
    precisions: Precisions = "fp32,int8",
    batches: Batches = "1",
    strategies: Strategies = "kl",
    backend: Backend = None,
    output: Annotated[Path | None, typer.Option(help="JSON file; else printed.")] = None,
) -> None:
    """Hold every BModel's logits against the float network's; no labels are needed."""
    from .measure.fidelity import compare_models
    from .measure.parameters import check

    given = _upper(
        network=network,
        data=data,
        weights=weights,
        classes=classes,
        images=images,
        chips=chips,
        precisions=precisions,
        batches=batches,
        strategies=strategies,
        backend=backend,
    )
    _emit(compare_models(check(**given)), output)


@app.command()
def survey(
    model: Annotated[Path, typer.Argument(help="A .bmodel with its record beside it.")],
    folder: Annotated[Path, typer.Argument(help="Folder that CCPD was unpacked to.")],
    output: Annotated[Path | None, typer.Option(help="JSON file; else printed.")] = None,
    backend: Annotated[str, typer.Option()] = "emulator",
    decoder: Annotated[str, typer.Option()] = "greedy",
    images: Annotated[int | None, typer.Option(help="Only the first so many.")] = None,
    margin: Annotated[
        str, typer.Option(help="X/Y: what of the scene to take in around each plate, in percent.")
    ] = "none",
    scheduler: Scheduler = None,
) -> None:
    """Read all of CCPD and judge it, on all cores or a cluster; the same command resumes."""
    from .datasets.margins import said_margin
    from .measure.survey import survey as run
    from .toolchain.bmodel import BModel

    _use_scheduler(scheduler)
    found = run(
        BModel.load(model),
        folder,
        backend=backend,
        decoder=decoder,
        margin=said_margin(margin),
        limit=images,
    )
    _emit(found.facts(), output)


@app.command()
def evaluate(
    results: Annotated[Path, typer.Argument(help="JSON {file: plate} as infer writes.")],
    labels: Annotated[Path, typer.Argument(help="Labels: JSON, CSV or text, or the folder.")],
    skip_unknown: SkipUnknown = False,
    classes: Classes = None,
) -> None:
    """Judge a results file: exact match with its 95 % interval, character accuracy."""
    from .steps import judge_results

    _emit(judge_results(results, labels, skip_unknown=skip_unknown, classes=classes), None)


@app.command()
def report(
    profile: Annotated[str, typer.Option(help="quick, full, or tour (no compiler).")] = "quick",
    name: Annotated[str | None, typer.Option(help="Folder below reports/.")] = None,
    chips: Chips = None,
    precisions: Precisions = None,
    batches: Batches = None,
    cores: Cores = None,
    images: Images = None,
    data: DataOption = None,
    network: NetworkOption = None,
    weights: WeightsOption = None,
    classes: Classes = None,
    strategies: Strategies = None,
    decoders: Decoders = None,
    batch_mean: BatchMean = None,
    backend: Backend = None,
    measured: Annotated[
        str | None,
        typer.Option(help="Results of kits that ran on boxes, such as a.json,b.json."),
    ] = None,
    toolchain: Toolchain = None,
    tpu_mlir: TpuMlir = None,
    calibration: Calibration = None,
    bmodel: Annotated[
        str | None,
        typer.Option(
            "--bmodel",
            "--bmodels",
            help="BModels from elsewhere to judge as well, such as a.bmodel,b.bmodel.",
        ),
    ] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Run these BModels.")] = False,
    mean: Mean = None,
    scale: Scale = None,
    pixel_format: PixelFormat = None,
    margin: MarginOption = None,
    skip_unknown: SkipUnknown = False,
    tolerance: Annotated[
        float | None, typer.Option(help="Points of exact match that INT8 may lose (1.0).")
    ] = None,
    require: Annotated[
        bool,
        typer.Option(
            "--require", help="Exit with status 3 unless every model is within the tolerance."
        ),
    ] = False,
    language: Language = None,
    scheduler: Scheduler = None,
    status: Annotated[
        bool, typer.Option("--status", help="Only list what is done, running and missing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The status as JSON.")] = False,
) -> None:
    """Run the notebooks and leave reports/NAME/ with index.html and metrics.json.

    A report that was stopped goes on where it was.
    """
    values = _upper(
        chips=chips,
        precisions=precisions,
        batches=batches,
        cores=cores,
        images=images,
        data=data,
        network=network,
        weights=weights,
        classes=classes,
        strategies=strategies,
        decoders=decoders,
        batch_mean=batch_mean,
        backend=backend,
        measured=measured,
        toolchain=toolchain,
        tpu_mlir=tpu_mlir,
        calibration=calibration,
        tolerance=tolerance,
        margin=margin,
        bmodels=bmodel,
        trust=trust or None,
        mean=mean,
        scale=scale,
        pixel_format=pixel_format,
        language=language,
    )
    if skip_unknown:
        values["DATA"] = f"skip-unknown:{data or 'auto'}"
    if status:
        _show_states(profile, values, as_json)
        return
    from .report.run import make_report

    _use_scheduler(scheduler)
    index = make_report(profile, name=name, **values)
    print(index)
    if require:
        _require(index.parent)


def _use_scheduler(address: str | None) -> None:
    """Hand the work of this process, and of the kernels that it starts, to a scheduler."""
    from .work.scheduler import SCHEDULER_VARIABLE

    if address is not None:
        os.environ[SCHEDULER_VARIABLE] = address


def _require(folder: Path) -> None:
    """End with status 3 where a model of a report is not shown to be within the tolerance."""
    from .measure.schema import read_manifest, read_metrics
    from .report.profiles import command
    from .report.verdict import losers

    again = partial(command, read_manifest(folder / "manifest.json"), folder.name)
    found = losers(read_metrics(folder / "metrics.json"), again)
    for line in found:
        Console(stderr=True, highlight=False, soft_wrap=True).print(line, markup=False)
    if found:
        raise typer.Exit(3)


def _show_states(profile: str, values: dict[str, Any], as_json: bool) -> None:
    from .report.status import report_states

    states = report_states(profile, **values)
    counts = {
        state: sum(row.state == state for row in states) for state in ("done", "running", "missing")
    }
    if as_json:
        _emit(
            {
                "profile": profile,
                "parameters": values,
                **counts,
                "pieces": [asdict(row) for row in states],
            },
            None,
        )
        return
    table = Table("piece", "state", "notebooks", box=None)
    for row in states:
        table.add_row(row.name, row.state, ", ".join(row.notebooks))
    console = Console(width=160, highlight=False)
    console.print(table)
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()))


@app.command()
def doctor(
    model: Annotated[
        Path | None, typer.Argument(help="A BModel: what of it the emulator does not know.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Say which backends, compilers, data and versions are there, and what is missing.

    Of a BModel: the operations that the emulator does not know, and which backend takes them.
    """
    from .doctor import examine, unknown_operations

    if model is not None:
        found = unknown_operations(model)
        _emit(found, None) if as_json else _show_unknown(found)
        return
    facts = examine()
    if as_json:
        _emit(facts, None)
        return
    table = Table("what", "state", "found", show_lines=False, box=None)
    for row in facts["checks"]:
        lacks = "optional" if row["optional"] else "missing"
        table.add_row(row["what"], "ok" if row["ok"] else lacks, row["found"])
    console = Console(width=160, highlight=False)
    console.print(table)
    console.print(facts["summary"], markup=False, soft_wrap=True)


def _show_unknown(found: dict[str, Any]) -> None:
    console = Console(width=160, highlight=False)
    if found["unknown"]:
        table = Table("operation", "layer", "what is not known", "taken by", box=None)
        for row in found["unknown"]:
            table.add_row(*(escape(row[k]) for k in ("operation", "layer", "what", "taken_by")))
        console.print(table)
    count = len(found["unknown"])
    kernels = f"; its {found['kernels']} kernels run it" if found["kernels"] else ""
    console.print(
        f"{found['chip']}: {found['operations']} operations, {count or 'none'} unknown to the "
        f"emulator{kernels}.",
        markup=False,
    )


@app.command()
def explain(
    model: Annotated[Path, typer.Argument(help="INT8 BModel with its record beside it.")],
    plates: Annotated[
        list[Path], typer.Argument(help="Plate crops: pictures, folders, .txt lists of paths.")
    ],
    float_model: Annotated[
        Path | None,
        typer.Option("--float", help="The same network in fp32; else made from the weights."),
    ] = None,
    network: NetworkOption = None,
    weights: WeightsOption = None,
    classes: Classes = None,
    images: Annotated[int, typer.Option(help="How many plates; 0 for all.")] = 16,
    top: Annotated[int, typer.Option(help="Layers to find cures for.")] = 5,
    output: Annotated[Path | None, typer.Option(help="JSON file with everything.")] = None,
) -> None:
    """Say why an INT8 BModel loses: what each layer costs at the output, why, and what helps."""
    from .explain.bmodel import explain_bmodel
    from .explain.table import headline, layer_rows

    found = explain_bmodel(
        model,
        plates,
        float_model=float_model,
        network=network,
        weights=weights,
        classes=classes,
        images=images,
        top=top,
    )
    console = Console(width=max(120, Console().width), highlight=False)
    table = Table("layer", "share", "alone", "why", "what helps, in dB at the output", box=None)
    for row in layer_rows(found):
        table.add_row(*map(escape, row))
    console.print(table)
    console.print(headline(found), markup=False, soft_wrap=True)
    if output is not None:
        _emit(found, output)


@app.command()
def strategies(
    chips: Chips = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """INT8 strategies: what each does, its share in float, exact match in the committed study."""
    from .study.standing import standings
    from .toolchain.chips import CHIPS, parse_chip

    named = [parse_chip(chip) for chip in chips.split(",")] if chips else list(CHIPS)
    found = standings(named)
    if as_json:
        _emit(found, None)
        return
    table = Table("strategy", "what it does", "in float", *named, box=None)
    for one in found:
        table.add_row(
            one["name"],
            one["about"],
            f"{100 * one['in_float']:.0f} %",
            *(_stands(one["exact_match"][chip], chip in one["recommended"]) for chip in named),
        )
    console = Console(width=max(120, Console().width), highlight=False)
    console.print(table)
    console.print(
        "Exact match, mean over calibration draws, on plates that did not calibrate; * is "
        "recommended, – was not studied. Any of them, or a JSON file, goes to --strategies."
    )


def _stands(read: dict[str, Any] | None, best: bool) -> str:
    if read is None:
        return "–"
    return "refused" if "refused" in read else f"{read['mean']:.3f}{'*' if best else ''}"


@app.command()
def releases(as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False) -> None:
    """Say what every release of TPU-MLIR can do, and which are installed."""
    from .doctor import list_releases
    from .toolchain.sdks import SDKS, SOURCE, sdk_rows

    rows = list_releases()
    if as_json:
        _emit({"releases": rows, "sdks": sdk_rows()}, None)
        return
    faults = list(dict.fromkeys(fault for row in rows for fault in row["faults"]))
    table = Table("release", "", "thresholds by", "asked as", "calibrator", "faults", box=None)
    for row in rows:
        state = ", ".join(word for word in ("pinned", "installed") if row[word])
        known = ", ".join(str(faults.index(fault) + 1) for fault in row["faults"])
        methods, asked = ", ".join(row["methods"]), row["methods"]["max"]
        table.add_row(row["version"], state, methods, asked, row["calibrator"], known)
    console = Console(width=180, highlight=False)
    console.print(table)
    for number, fault in enumerate(faults, 1):
        console.print(f"fault {number}: {fault}")
    sdks = Table("SDK, at least", "chips", "TPU-MLIR, at least", "sophon-demo", box=None)
    for one in SDKS:
        samples = " to ".join(dict.fromkeys(one.samples))
        sdks.add_row(one.sdk, ", ".join(one.chips), one.tpu_mlir, samples)
    console.print()
    console.print(sdks)
    console.print(
        f"What the vendor's samples ask for ({SOURCE}). Up to which release the runtime of an SDK "
        "takes BModels, no public document says that was found.",
        soft_wrap=True,
    )


@app.command()
def generate(
    output: Annotated[Path, typer.Argument(help="Folder to write into.")],
    count: Annotated[int, typer.Option(help="How many plates.")] = 1000,
    seed: Annotated[int, typer.Option()] = 0,
    forms: Annotated[str | None, typer.Option(help="Comma-separated plate forms.")] = None,
) -> None:
    """Write generated plates as PNG files with labels.json."""
    from .steps import write_generated

    print(write_generated(output, count, seed, tuple(forms.split(",")) if forms else None))


@app.command("lmdb")
def lmdb_(
    imageset_rootfolder: Annotated[Path, typer.Option(help="Folder of images.")],
    imageset_lmdbfolder: Annotated[
        Path | None, typer.Option(help="Gets data.mdb; the folder of images by default.")
    ] = None,
    resize_height: Annotated[
        int | None, typer.Option(help="0: as it is; LPRNet's by default.")
    ] = None,
    resize_width: Annotated[int | None, typer.Option(help="0: as it is; so too.")] = None,
    shuffle: Annotated[bool, typer.Option(help="Random order.")] = False,
    bgr2rgb: Annotated[bool, typer.Option(help="Store RGB.")] = False,
    gray: Annotated[bool, typer.Option(help="One channel.")] = False,
) -> None:
    """Make the LMDB data set that TPU-NNTC calibrates with; the same command resumes.

    Options may be written as for the vendor's convert_imageset.py: --resize_height=24,
    --shuffle=True, --bgr2rgb False.
    """
    from .datasets.images import image_files
    from .datasets.lmdb import convert_imageset
    from .progress import progress_bar

    folder = imageset_lmdbfolder or imageset_rootfolder
    sizes = {"resize_height": resize_height, "resize_width": resize_width}
    with progress_bar(len(image_files(imageset_rootfolder)), "images") as advance:
        count = convert_imageset(
            imageset_rootfolder,
            folder,
            **{key: value for key, value in sizes.items() if value is not None},
            shuffle=shuffle,
            bgr2rgb=bgr2rgb,
            gray=gray,
            advance=advance,
        )
    print(f"{count} arrays are in {folder / 'data.mdb'}")


@app.command()
def train(
    output: Annotated[Path, typer.Argument(help="Weights to write, a .pth file.")],
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 25_000,
    batch: Annotated[int, typer.Option(help="Plates a step.")] = 16,
    candidates: Annotated[
        int,
        typer.Option(
            help="Plates drawn for a step, to learn from BATCH that the weights are in doubt of, "
            "such as 96; with --start-from."
        ),
    ] = 0,
    seed: Annotated[int, typer.Option()] = 0,
    images: Annotated[
        Path | None, typer.Option(help="Folder of labelled plates; else plates are generated.")
    ] = None,
    classes: Classes = None,
    start_from: Annotated[
        str | None,
        typer.Option(
            help="Weights to start from, also of another class list: published, generated or a "
            "file; else random ones."
        ),
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Peak of the cycle.")] = 1.5e-3,
    optimizer: Annotated[str, typer.Option(help="adamw or muon.")] = "adamw",
    objective: Annotated[
        str, typer.Option(help="likelihood, or accuracy for the end, with --start-from.")
    ] = "likelihood",
    glyphs: Annotated[
        float, typer.Option(help="How far generated plates stray from the drawn faces, such as 1.")
    ] = 0.0,
    soft: Annotated[
        float, typer.Option(help="Largest further blur of generated plates, such as 1.2.")
    ] = 0.0,
    wild: Annotated[
        float,
        typer.Option(
            help="How far generated plates have other detectors' margins, slant, frames, night, "
            "glare and JPEG, such as 1."
        ),
    ] = 0.0,
    plain: Annotated[
        float, typer.Option(help="Part of each step's plates that do not stray so, such as 0.4.")
    ] = 0.0,
    workers: Annotated[int, typer.Option(help="Processes that draw plates; 0 in this one.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    network: Annotated[
        Path | None,
        typer.Option(help="A .py file with a function untrained() to train; else LPRNet."),
    ] = None,
) -> None:
    """Train from scratch or from weights; the same command goes on where a stopped run was."""
    from .steps import train_weights

    print(
        train_weights(
            output,
            steps=steps,
            batch=batch,
            seed=seed,
            images=images,
            classes=classes,
            start_from=start_from,
            learning_rate=learning_rate,
            device=device,
            network=network,
            optimizer=optimizer,
            objective=objective,
            candidates=candidates,
            glyphs=glyphs,
            soft=soft,
            wild=wild,
            plain=plain,
            workers=workers,
        )
    )


@app.command()
def card(
    weights: Annotated[
        str | None, typer.Argument(help="published, generated (the packaged ones), or a file.")
    ] = None,
    plates: Annotated[int, typer.Option(help="Generated plates at the default severity.")] = 4960,
    network: NetworkOption = None,
) -> None:
    """Accuracy of weights or of a network of your own, set by set: a model card's tables."""
    from .measure.data import weights_for
    from .measure.parameters import check
    from .proof.card import card_text, measure_card

    usual = "generated" if network is None else None
    facts = measure_card(
        weights_for(check(**_upper(weights=weights or usual, network=network))),
        plates,
        report=lambda line: print(line, file=sys.stderr),
    )
    print(card_text(facts), end="")


@app.command()
def study(
    output: Annotated[Path, typer.Argument(help="Study's JSON file, made or grown.")],
    network: NetworkOption = None,
    data: Annotated[
        str | None, typer.Option("--data", help="Labelled plates of such a network, a folder.")
    ] = None,
    images: Annotated[int | None, typer.Option(help="How many of them; 0 for all.")] = None,
    strategies: Strategies = None,
    chips: Chips = None,
    draws: Annotated[
        int | None, typer.Option(help="Calibration draws; 5, or 3 with --worlds.")
    ] = None,
    decoder: Annotated[str, typer.Option(help="How logits are read.")] = "greedy",
    tpu_mlir: TpuMlir = None,
    calibration: Calibration = None,
    worlds: Annotated[
        str | None,
        typer.Option(
            help="Ask the study's findings again of other weights and plates: of photographs, "
            "margin+5, margin+10, margin+20, generated, or all."
        ),
    ] = None,
    releases: Annotated[
        str | None,
        typer.Option(
            help="Study releases of TPU-MLIR in place of strategies: such as 1.6,1.30.2, or all."
        ),
    ] = None,
    recommend: Annotated[
        bool,
        typer.Option(
            help="Write data/models/CHIP/recommended.json as the study finds it; of a network of "
            "your own, into a folder beside the study."
        ),
    ] = False,
) -> None:
    """Run strategies over calibration draws on the published plates; the same command resumes.

    With --network, on plates that it reads: --data.
    """
    from .measure.parameters import NETWORK
    from .study.full import grow_own, grow_published, recommend_from

    own = network not in (None, NETWORK)
    if not own and (data is not None or images is not None):
        raise ParameterError(
            "--data and --images are for a --network of your own: LPRNet is studied on all "
            "published plates."
        )
    asked: list[object] = [network, strategies, chips, tpu_mlir, calibration, recommend or None]
    asked += [None if decoder == "greedy" else decoder, draws if worlds is None else None]
    alone = [name for name, one in (("releases", releases), ("worlds", worlds)) if one is not None]
    if alone and (len(alone) > 1 or any(one is not None for one in asked)):
        raise ParameterError(
            f"--{alone[0]} studies the same strategies, chips and draws on every one: it takes "
            "none of the other options."
        )
    if releases is not None:
        from .study.releases import grow_releases

        named = None if releases == "all" else releases.split(",")
        print(grow_releases(output, named, report=lambda line: print(line, file=sys.stderr)))
        return
    if worlds is not None:
        from .study.worlds import DRAWS, grow_worlds

        of_them = None if worlds == "all" else worlds.split(",")
        count = DRAWS if draws is None else draws
        print(grow_worlds(output, of_them, count, lambda line: print(line, file=sys.stderr)))
        return
    grow = grow_own if own else grow_published
    print(
        grow(
            output,
            **_upper(
                network=network,
                data=data,
                images=images,
                strategies=strategies,
                chips=chips,
                draws=5 if draws is None else draws,
                decoders=decoder,
                tpu_mlir=tpu_mlir,
                calibration=calibration,
            ),
        )
    )
    if recommend:
        print(*recommend_from(output), sep="\n")


@app.command()
def search(
    chip: Annotated[str, typer.Argument(help="Chip, such as BM1684X.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File of searches, made or grown.")
    ],
    budget: Annotated[
        float | None,
        typer.Option(
            help="Predicted ms of a call (BM1684: part of the work in float); the recommended "
            "strategy's by default; a network of one's own has none."
        ),
    ] = None,
    draws: Annotated[int, typer.Option(help="Calibration draws that are searched on.")] = 1,
    save: Annotated[
        Path | None, typer.Option(help="Strategy file of the best, for --strategies.")
    ] = None,
    network: NetworkOption = None,
    data: DataOption = None,
    weights: WeightsOption = None,
    classes: Classes = None,
    images: Images = None,
) -> None:
    """Search which layers stay in float and how thresholds are chosen; the same command resumes.

    See docs/search.md.
    """
    from .study.searched import grow_search, read_search, said

    given = _upper(network=network, data=data, weights=weights, classes=classes, images=images)
    path = grow_search(output, chip, budget, draws, save, **given)
    print(path)
    for sentence in said(read_search(path)):
        print(sentence)


@app.command()
def kit(
    what: Annotated[
        str, typer.Argument(help="Chip to make a kit for, such as BM1684X; or a kit's folder.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="New folder for the kit.")
    ] = None,
    run: Annotated[
        str | None, typer.Option(help="Box to copy the kit to and run it on: user@box.")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Where a run's results go; results.json in the kit.")
    ] = None,
    precisions: Precisions = "fp32,fp16,int8",
    batches: Batches = "1,4",
    cores: Cores = None,
    strategies: Annotated[
        str | None,
        typer.Option(
            help="INT8 strategies by name, or JSON files; by default the recommended one, of a "
            "network of your own kl."
        ),
    ] = None,
    images: Images = 100,
    data: DataOption = None,
    network: NetworkOption = None,
    weights: WeightsOption = None,
    classes: Classes = None,
    batch_mean: BatchMean = None,
    tpu_mlir: TpuMlir = None,
    calibration: Calibration = None,
    backend: Annotated[
        str, typer.Option(help="Who makes the expected logits: simulator, or emulator (faster).")
    ] = "simulator",
    ssh: Annotated[str, typer.Option(help='With options: "ssh -p 2222".')] = "ssh",
    python: Annotated[str, typer.Option(help="Python on the box.")] = "python3",
    option: Annotated[
        list[str] | None, typer.Option(help="For run.py, such as --repetitions=50; again for more.")
    ] = None,
) -> None:
    """Make a folder that proves and measures a port on a box; or run one there over ssh.

    The box needs Python 3.6, numpy and sail; see docs/device.md.
    """
    folder = Path(what)
    if not folder.exists() and "/" not in what:
        from .measure.parameters import NETWORK
        from .proof.kit import kit_for
        from .report.run import git_revision

        usual = "recommended" if network in (None, NETWORK) else "kl"
        folder = kit_for(
            output,
            backend=backend,
            revision=git_revision(),
            **_upper(
                chips=what,
                precisions=precisions,
                batches=batches,
                cores=cores,
                strategies=strategies or usual,
                images=images,
                data=data,
                network=network,
                weights=weights,
                classes=classes,
                batch_mean=batch_mean,
                tpu_mlir=tpu_mlir,
                calibration=calibration,
            ),
        )
        print(folder)
    elif run is None:
        from .proof.kit import read_kit

        found = read_kit(folder)
        print(f"{folder}: {found.chip}, {len(found.models)} models, {len(found.plates)} plates")
    if run is not None:
        from .proof.ssh import run_over_ssh

        print(
            run_over_ssh(
                run,
                folder,
                results,
                ssh=ssh,
                python=python,
                options=option or (),
                report=lambda line: print(line, file=sys.stderr),
            )
        )


@app.command()
def contract(
    backend: Annotated[str, typer.Option(help="device, simulator or emulator.")] = "device",
    chip: Annotated[str, typer.Option(help="Chip to make the BModels for.")] = "BM1688",
    kit: Annotated[
        Path | None, typer.Option(help="Folder that `lprnet-nb kit` made, such as elsewhere.")
    ] = None,
    sail_module: Annotated[str, typer.Option(help="Import path of sail.")] = "sophon.sail",
    only: Annotated[
        list[str] | None, typer.Option(help="Name of a check to run; may be given again.")
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds for one process of checks: all, where none falls.")
    ] = 600.0,
) -> None:
    """Prove a backend: the same checks for device, simulator and emulator."""
    from .proof.contract import run_contract

    results = run_contract(
        backend, chip=chip, kit=kit, sail_module=sail_module, only=only, timeout=timeout
    )
    for result in results:
        print(f"{'ok  ' if result.passed else 'FAIL'} {result.check}: {result.detail}")
    failed = sum(not result.passed for result in results)
    print(f"{backend}: {len(results) - failed} passed, {failed} failed")
    if failed:
        raise typer.Exit(1)


@app.command()
def notebooks(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write them into.")],
    language: Annotated[str, typer.Option(help="en or zh.")] = "zh",
    network: NetworkOption = None,
) -> None:
    """Write the notebooks with their prose in a language, to be opened in JupyterLab.

    With --network, those that take one, for it and without what is said of LPRNet alone.
    """
    from .measure.parameters import NETWORK
    from .steps import write_notebooks

    for path in write_notebooks(output, language, None if network == NETWORK else network):
        print(path)


@app.command()
def html(folder: Annotated[Path, typer.Argument(help="Folder of a report.")]) -> None:
    """Write a report's pages again from its files."""
    from .report.html import write_html

    print(write_html(folder))


@bench_app.command("emulator")
def bench_emulator(
    chip: Annotated[str, typer.Option()] = "BM1684X",
    strategy: Annotated[str, typer.Option()] = "kl",
    rounds: Annotated[int, typer.Option(help="Turns of each rival.")] = 3,
) -> None:
    """Emulator, vendor interpreter, simulator and float forward side by side."""
    from .proof.benches import measure_emulator

    _print_json(measure_emulator(chip, strategy, rounds))


@bench_app.command("device")
def bench_device_(
    device: Annotated[str, typer.Option(help="Torch's; cpu shows that it works.")] = "cuda",
    chip: Annotated[str, typer.Option(help="Whose packaged INT8 model.")] = "BM1684X",
    images: Annotated[int, typer.Option(help="Generated plates.")] = 1000,
    rounds: Annotated[int, typer.Option(help="Turns of each.")] = 3,
) -> None:
    """INT8 by torch on a GPU: bit-identical to the native kernels or not, and its throughput."""
    from .proof.device_bench import bench_device

    _print_json(
        bench_device(
            device,
            chip=chip,
            images=images,
            rounds=rounds,
            report=lambda line: print(line, file=sys.stderr),
        )
    )


@bench_app.command("ccpd")
def bench_ccpd_(
    images: Annotated[str, typer.Option(help="Numbers of images, rising.")] = "1000,10000",
    chip: Annotated[str, typer.Option()] = "BM1684X",
) -> None:
    """Time and memory of a CCPD survey by the number of images, and what all of CCPD would take."""
    from .proof.survey_bench import bench_ccpd

    _print_json(
        bench_ccpd(
            [int(count) for count in images.split(",")],
            chip=chip,
            report=lambda line: print(line, file=sys.stderr),
        )
    )


@bench_app.command("workers")
def bench_workers_(
    images: Annotated[int, typer.Option(help="Pictures, 256 a piece.")] = 8192,
    rounds: Annotated[int, typer.Option(help="Turns of each.")] = 3,
    chip: Annotated[str, typer.Option()] = "BM1684X",
) -> None:
    """Two workers against one: the same CCPD survey on a cluster of each, in turn."""
    from .proof.workers_bench import bench_workers

    _print_json(
        bench_workers(images, rounds, chip=chip, report=lambda line: print(line, file=sys.stderr))
    )


@bench_app.command("exactness")
def bench_exactness(
    chips: Chips = None,
    judge: Annotated[str, typer.Option(help="interpreter, simulator or both.")] = "both",
    images: Annotated[int, typer.Option(help="For the interpreter.")] = 304,
    simulator_images: Annotated[int, typer.Option(help="For the simulator.")] = 40,
    cases: Annotated[
        str | None,
        typer.Option(help="Such as mse,kl:4:batch (strategy or float precision, batch, mean)."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Record that gets the rows; other rows of it stay.")
    ] = None,
) -> None:
    """Judge the emulator by the vendor's interpreter and by the simulator; see docs/emulator.md."""
    from .proof.exactness import measure_exactness

    record = measure_exactness(
        chips,
        judge,
        images,
        simulator_images,
        cases,
        output,
        report=lambda line: print(line, file=sys.stderr),
    )
    _print_json(record["summary"])


@bench_app.command("networks")
def bench_networks(
    networks: Annotated[
        str | None, typer.Option(help="Such as resnet,crnn; all of them by default.")
    ] = None,
    chips: Chips = None,
    judge: Annotated[str, typer.Option(help="interpreter, simulator or both.")] = "both",
    images: Annotated[int, typer.Option(help="Random images for each judge.")] = 20,
    output: Annotated[
        Path | None, typer.Option(help="Record that gets the rows; other rows of it stay.")
    ] = None,
) -> None:
    """Judge the emulator on small networks of many kinds with random weights."""
    from .proof.foreign_exactness import measure_networks

    record = measure_networks(
        networks, chips, judge, images, output, report=lambda line: print(line, file=sys.stderr)
    )
    _print_json(record["summary"])


@bench_app.command("speed")
def bench_speed(
    networks: Annotated[
        str, typer.Option(help="Of those that `bench networks` knows.")
    ] = "lprnet,resnet,mobilenet-v2,crnn",
    chip: Annotated[str, typer.Option()] = "BM1684X",
    rounds: Annotated[int, typer.Option(help="Turns of each rival.")] = 3,
) -> None:
    """Emulator and vendor interpreter side by side on networks of several kinds."""
    from .proof.foreign_bench import bench_networks

    _print_json(
        bench_networks(networks, chip, rounds, report=lambda line: print(line, file=sys.stderr))
    )


@bench_app.command("releases")
def bench_releases(
    tpu_mlir: Annotated[
        str | None, typer.Option(help="Releases, such as 1.6,1.18.1; all by default.")
    ] = None,
    chips: Chips = None,
    strategies: Annotated[str, typer.Option(help="INT8 strategies by name.")] = "kl",
    calibrations: Annotated[
        str, typer.Option(help="Who chooses thresholds: pinned, release, or both.")
    ] = "pinned,release",
    images: Annotated[int, typer.Option(help="For each simulator.")] = 4,
    output: Annotated[
        Path | None, typer.Option(help="Record that gets the rows; other rows of it stay.")
    ] = None,
) -> None:
    """Run releases of TPU-MLIR whole: the emulator against each one's own simulator."""
    from .proof.releases import measure_releases

    record = measure_releases(
        tpu_mlir,
        chips,
        strategies,
        calibrations,
        images,
        output,
        report=lambda line: print(line, file=sys.stderr),
    )
    _print_json(record["summary"])


@bench_app.command("margins")
def bench_margins(
    plates: Annotated[int, typer.Option(help="Of each set.")] = 300,
    output: Annotated[Path | None, typer.Option(help="Record of all figures.")] = None,
) -> None:
    """Which margin crops want, by confidence without labels, against the best by labels."""
    from .proof.margin_bench import measure_margins

    record = measure_margins(plates, output, report=lambda line: print(line, file=sys.stderr))
    _print_json([{key: row[key] for key in ("set", "chosen", "best")} for row in record["rows"]])


@bench_app.command("doubt")
def bench_doubt(
    plates: Annotated[int, typer.Option(help="Of each set, at most 500.")] = 400,
    output: Annotated[Path | None, typer.Option(help="Record of all figures.")] = None,
) -> None:
    """Where a confidence holds that was calibrated elsewhere, and what the warning tells of it."""
    from .proof.doubt_bench import measure_doubt

    record = measure_doubt(plates, output, report=lambda line: print(line, file=sys.stderr))
    _print_json(record["warning"])


@bench_app.command("decode")
def bench_decode(
    decoder: Annotated[str, typer.Option()] = "plate", images: Annotated[int, typer.Option()] = 1000
) -> None:
    """Plates a second of a decoder, in processor time."""
    from .proof.decode_bench import bench

    _print_json(bench(decoder, images=images))


@bench_app.command("generate")
def bench_generate(
    plates: Annotated[int, typer.Option()] = 20_000, rounds: Annotated[int, typer.Option()] = 3
) -> None:
    """Generated plates a second, on all cores."""
    from .proof.benches import measure_generator

    _print_json(measure_generator(plates, rounds))


def _emit(value: Any, output: Path | None) -> None:
    from .files import atomic_write

    if output:
        print(atomic_write(output, json.dumps(value, ensure_ascii=False, indent=1) + "\n"))
    else:
        _print_json(value, indent=1)


def _emit_table(rows: Iterable[Sequence[str]], output: Path) -> None:
    from .files import atomic_write

    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    print(atomic_write(output, text.getvalue()))


def _print_json(value: Any, **layout: Any) -> None:
    """JSON is in UTF-8 (RFC 8259, 8.1), whatever the terminal's encoding is."""
    if sys.stdout is not None:
        sys.stdout.flush()
        text = json.dumps(value, ensure_ascii=False, **layout) + "\n"
        sys.stdout.buffer.write(text.encode("utf8"))


_TRUTH = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _our_spelling(arguments: list[str]) -> list[str]:
    """Options as the vendor writes them in our spelling: dashes, and flags without a value.

    >>> _our_spelling(["lmdb", "--resize_height=24", "--shuffle=True", "--gray", "False"])
    ['lmdb', '--resize-height=24', '--shuffle', '--no-gray']
    """
    waiting, ours = list(arguments), []
    while waiting:
        argument = waiting.pop(0)
        if argument.startswith("--"):
            name, sign, value = argument.partition("=")
            name = name.replace("_", "-")
            argument = name + sign + value
            if name in ("--shuffle", "--bgr2rgb", "--gray"):
                if not sign and waiting and waiting[0].lower() in _TRUTH:
                    value = waiting.pop(0)
                if sign and value.lower() not in _TRUTH:
                    raise ParameterError(f"{argument}: write {name}=True or {name}=False.")
                argument = name if _TRUTH.get(value.lower(), True) else f"--no-{name[2:]}"
        ours.append(argument)
    return ours


def _language(arguments: Sequence[str]) -> str:
    """The language of help texts: the one that is named, else the one that the system asks for.

    >>> _language(["report", "--language", "zh", "--help"])
    'zh'
    """
    pairs = zip(arguments, [*arguments[1:], ""])
    named = [value for name, value in pairs if name == "--language"]
    named += [one.partition("=")[2] for one in arguments if one.startswith("--language=")]
    found = (named or [wished_language()])[0]
    return found if found in LANGUAGES else ENGLISH


def _commands(language: str) -> TyperGroup:
    """All commands, with help in a language."""
    commands = typer.main.get_group(app)
    if language != ENGLISH:
        with speaking(language):
            rich_utils.OPTIONS_PANEL_TITLE = phrase("Options")
            rich_utils.ARGUMENTS_PANEL_TITLE = phrase("Arguments")
            rich_utils.COMMANDS_PANEL_TITLE = phrase("Commands")
            phrase("Show this message and exit.")  # click's own; `_translate` looks it up
            _translate(commands, language)
    return commands


def _translate(command: Any, language: str) -> None:
    """Put a command's help, its options' and its subcommands' into a language."""
    command.help = translated_paragraphs(command.help or "", language)
    for parameter in command.get_params(typer.Context(command)):
        if getattr(parameter, "help", None):
            parameter.help = translated_paragraphs(parameter.help, language)
    for one in getattr(command, "commands", {}).values():
        _translate(one, language)


def main() -> None:
    """Entry point: whatever goes wrong is one message and an exit status other than 0.

    Errors of ours end with status 2, an interrupt with 130. What slips through, a defect of ours,
    ends with 70; its traceback is kept in a log that the message names.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a character that the locale lacks is no reason
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            arguments = _our_spelling(sys.argv[1:])
            _commands(_language(arguments))(arguments, standalone_mode=True)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # while it can still be told that this failed
    except LprnetError as error:
        _end(2, str(error))
    except KeyboardInterrupt:
        _end(130, "stopped; finished work is kept, the same command goes on.")
    except BrokenPipeError:  # who read it has enough
        _end(1)
    except OSError as error:
        if error.errno in _NO_PATH and error.filename is not None:
            long = error.errno == errno.ENAMETOOLONG
            remedy = "Name another place" if long else "Check the path and its permissions"
            _end(2, f"{error.strerror}: {error.filename}. {remedy}.")
        if error.errno not in _FULL:
            _end(70, _defect(error))
        where = error.filename or "standard output, or the disk of the cache"
        _end(1, f"{error.strerror}: {where}. Free some space, and run the same command again.")
    except Exception as error:
        _end(70, _defect(error))


def _end(status: int, message: str = "") -> NoReturn:
    with contextlib.suppress(OSError):
        if message:
            Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(
                f"lprnet-nb: {message}"
            )
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:  # Python would try again when it ends, and say so
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)


def _defect(error: Exception) -> str:
    """Keep a traceback; returns what is to be said of it."""
    from .files import atomic_write
    from .places import cache_dir

    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    text = f"lprnet-nb {__version__}, Python {sys.version}\n{sys.argv}\n\n"
    text += "".join(traceback.format_exception(error))
    said = f"{type(error).__name__}: {error}".rstrip(".")
    for folder in (cache_dir() / "logs" / "errors", Path(tempfile.gettempdir())):
        with contextlib.suppress(LprnetError):
            log = atomic_write(folder / name, text)
            return (
                f"{said}. This is a defect of lprnet-nb, or a state of this machine that it does "
                f"not know. The traceback is in {log}; docs/security.md says how to report it."
            )
    return f"{said}. No folder can be written to keep the traceback:\n{text}"
