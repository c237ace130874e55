"""A small report folder for tests: made-up values, clearly so, in the shape that a run leaves."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import nbformat
import numpy as np

from lprnet_nb.evaluate.decision import decide
from lprnet_nb.evaluate.intervals import wilson
from lprnet_nb.measure.schema import model_id

HOSTILE = (
    "<script>document.title='broken'</script>.jpg",
    "a\"b'c&d.jpg",
    "line\nbreak.jpg",
    "right-to-left \u202egpj.exe",
    "../../etc/passwd",
    "皖A\u200b12345.jpg",
    "]]>--><!--.jpg",
)
IMAGES = 1000
FLOAT_RIGHT = 894
FLOAT_OF = {"greedy": 894, "plate": 905}
# (chip, precision, batch, strategy, decoder, right, agreement, p, cosine, sqnr, predicted)
ROWS = (
    (None, "fp32", 1, None, "greedy", 894, None, None, None, None, None),
    ("BM1684X", "fp32", 1, None, "greedy", 894, 1.0, 1.0, 1.0, None, 0.244),
    ("BM1684X", "fp16", 1, None, "greedy", 894, 0.999, 1.0, 0.999998, 52.31, 0.091),
    ("BM1684X", "int8", 1, "kl", "greedy", 868, 0.942, 0.00031, 0.98213, 14.52, 0.052),
    ("BM1684X", "int8", 1, "recommended", "greedy", 892, 0.981, 0.8145, 0.99817, 24.38, 0.041),
    ("BM1684", "fp32", 1, None, "greedy", 894, 1.0, 1.0, 1.0, None, None),
    ("BM1684", "int8", 1, "kl", "greedy", 859, 0.931, 0.0000021, 0.97911, 13.87, None),
    ("BM1684", "int8", 1, "recommended", "greedy", 881, 0.969, 0.0241, 0.99406, 19.25, None),
    (None, "fp32", 1, None, "plate", 905, None, None, None, None, None),
    ("BM1684X", "fp32", 1, None, "plate", 905, 1.0, 1.0, 1.0, None, 0.244),
    ("BM1684X", "int8", 1, "kl", "plate", 886, 0.951, 0.0041, 0.98213, 14.52, 0.052),
    ("BM1684X", "int8", 1, "recommended", "plate", 904, 0.985, 1.0, 0.99817, 24.38, 0.041),
    ("BM1684", "fp32", 1, None, "plate", 905, 1.0, 1.0, 1.0, None, None),
    ("BM1684", "int8", 1, "kl", "plate", 877, 0.94, 0.00017, 0.97911, 13.87, None),
    ("BM1684", "int8", 1, "recommended", "plate", 897, 0.974, 0.2153, 0.99406, 19.25, None),
)


def row(
    chip: str | None,
    precision: str,
    batch: int,
    strategy: str | None,
    decoder: str,
    right: int,
    agreement: float | None,
    p: float | None,
    cosine: float | None,
    sqnr: float | None,
    predicted: float | None,
    images: int = IMAGES,
) -> dict[str, Any]:
    """One row of metrics.json."""
    return {
        "chip": chip,
        "precision": precision,
        "batch": batch,
        "batch_mean": "image",
        "strategy": strategy,
        "backend": "emulator" if chip else "torch",
        "decoder": decoder,
        "images": images,
        "exact_match": right / images,
        "ci95": [round(end, 6) for end in wilson(right, images)],
        "character_accuracy": round(1 - (1 - right / images) / 6, 6),
        "agreement_with_float": agreement,
        "mcnemar_p": p,
        "logits_cosine": cosine,
        "logits_sqnr_db": sqnr,
        "predicted_latency_ms": predicted,
        "loss": loss(right, FLOAT_OF[decoder], images) if chip else None,
    }


def loss(right: int, reference: int, images: int, both_ways: int = 4) -> dict[str, Any]:
    """What `measure.rows` says of so many right plates, with some that only one reads right."""
    lost, won = max(reference - right, 0) + both_ways, max(right - reference, 0) + both_ways
    model, base = np.ones(images, bool), np.ones(images, bool)
    model[:lost], base[lost : lost + won] = False, False
    found = decide(model, base)
    return {
        "difference": found.difference,
        "ci95": [found.low, found.high],
        "outcome": found.outcome,
        "decides": found.decides,
    }


def metrics(source: str = "published", **changes: Any) -> dict[str, Any]:
    """A metrics.json."""
    name = {"published": "fixture-published"}.get(source, f"fixture-{source}")
    return {
        "schema": 2,
        "tolerance": 1.0,
        "dataset": {"name": name, "images": IMAGES, "digest": "ab" * 32},
        "data": {
            "source": source,
            "weights": "generated" if source == "generated" else "published",
            "calibration": {"name": name, "images": IMAGES, "among_evaluated": True},
        },
        "rows": [row(*values) for values in ROWS],
        **changes,
    }


def build(
    folder: Path, source: str = "published", hostile: bool = False, network: str | None = None
) -> Path:
    """Fill a report folder; with `hostile`, names and texts try to break out of the page.

    With `network`, a file's name, the report is of that one.
    """
    facts = metrics(source)
    if network:
        facts["data"]["weights"] = Path(network).stem
        facts["rows"] = [
            {**one, "backend": one["backend"].replace("torch", "onnxruntime")}
            for one in facts["rows"]
        ]
    _json(folder / "metrics.json", facts)
    timings = []
    for one in facts["rows"]:
        name = model_id(one["chip"], one["precision"], one["batch"], one["strategy"])
        inference = 6.2 if one["chip"] is None else 28.4 if one["precision"] == "int8" else 21.7
        timings.append(
            {
                "id": name,
                "decoder": one["decoder"],
                "backend": one["backend"],
                "decode_ms": 0.31,
                "preprocess_ms": 0.12,
                "inference_ms": inference,
                "postprocess_ms": 0.05 if one["decoder"] == "greedy" else 1.9,
            }
        )
        _json(folder / "results" / f"{name}_{one['decoder']}.json", _results(one, hostile))
        if one["chip"]:
            _json(folder / "bmodels" / f"{name}.json", _facts(name, one, hostile))
    _json(
        folder / "timings.json",
        {
            "schema": 1,
            "note": "Fixture values.",
            "rows": timings,
            "notebooks": {"01_trace": 12.5, "05_compare": 81.0},
            "total_s": 143.2,
        },
    )
    _json(
        folder / "manifest.json",
        {
            "schema": 1,
            "profile": "quick",
            "parameters": {
                "CHIPS": "BM1684X,BM1684",
                "PRECISIONS": "fp32,int8",
                "BATCHES": "1",
                "IMAGES": 0,
                **({"DATA": HOSTILE[1]} if hostile else {}),
                **({"NETWORK": network} if network else {}),
            },
            "versions": {"python": "3.11.0", "lprnet-nb": "0.0.fixture", "sophon-sail": None},
            "data": {**facts["dataset"], **facts["data"]},
            "bmodels": {"bm1684x_int8_1b_kl": "cd" * 32},
            "metrics_sha256": "ef" * 32,
            "revision": "0123456789abcdef0123456789abcdef01234567+changes",
            "machine": {"system": "fixture", "processors": 2},
            "created": "2026-01-02T03:04:05Z",
        },
    )
    bad = HOSTILE[0] if hostile else ""
    _figure(folder, "confusion", f"Fixture: which characters are taken for which. {bad}", svg=True)
    _figure(folder, "thresholds", "Fixture: activations and thresholds of two layers.", svg=True)
    _figure(folder, "plates", "Fixture: plates on which float and INT8 differ.", svg=False)
    _json(
        folder / "tables" / "forms.json",
        {
            "caption": "Fixture: forms of the network agree",
            "rows": [
                {"form": "traced", "exact match": 0.894, "largest difference": 0.0, "same": True},
                {
                    "form": HOSTILE[0] if hostile else "ONNX",
                    "exact match": 0.894,
                    "largest difference": 3.1e-06,
                    "same": True,
                },
            ],
        },
    )
    _notebook(
        folder / "notebooks" / "01_trace.ipynb", "Trace the network", "forms", "thresholds", hostile
    )
    _notebook(
        folder / "notebooks" / "05_compare.ipynb",
        "Compare float and INT8",
        "confusion",
        "plates",
        hostile,
    )
    return folder


def _results(one: dict[str, Any], hostile: bool) -> dict[str, str]:
    names = [f"plate {number:02d}.jpg" for number in range(12)] + list(HOSTILE if hostile else ())
    texts = {name: f"皖A{number:05d}" for number, name in enumerate(names)}
    if one["precision"] == "int8":
        for name in list(texts)[::3] + list(HOSTILE if hostile else ()):
            texts[name] = "皖B0<b>0" if hostile else texts[name].replace("0", "D", 1)
    return texts


def _facts(name: str, one: dict[str, Any], hostile: bool) -> dict[str, Any]:
    quantized = one["precision"] == "int8"
    layers = [
        {
            "name": f"x.{number}_Conv" + (HOSTILE[0] if hostile and number == 3 else ""),
            "op": "Conv",
            "role": "block4" if number < 8 else "context-pool",
            "cosine": 0.9999 - 0.0008 * (number * 7 % 23),
            "sqnr_db": 41.0 - 1.3 * (number * 7 % 23),
        }
        for number in range(24)
    ]
    return {
        "id": name,
        "chip": one["chip"],
        "precision": one["precision"],
        "batch": 1,
        "strategy": one["strategy"],
        "form": "published",
        "predicted_latency_ms": one["predicted_latency_ms"],
        "sha256": "12" * 32,
        "tools": {"tpu_mlir": "0.fixture"},
        "info": "bmodel version: fixture\nnet 0: [lprnet]\n" + (HOSTILE[0] if hostile else ""),
        "memory": {"device_bytes": 1097344, "host_bytes": 0, "file_bytes": 843776},
        "layers": layers if quantized else [],
        "latency_by_layer": []
        if one["chip"] == "BM1684"
        else [
            {
                "name": f"Conv2D_{number}",
                "unit": "compute" if number % 3 else "memory",
                "cycles": 300 + number * 977 % 1900,
            }
            for number in range(30)
        ],
        "crosscheck": {
            "images": 4,
            "identical": True,
            "max_abs_difference": 0.0,
            "same_classes": True,
            "simulator": {"backend": "simulator"},
        },
    }


def _figure(folder: Path, name: str, caption: str, *, svg: bool) -> None:
    file = f"{name}.{'svg' if svg else 'png'}"
    path = folder / "figures" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    if svg:
        bars = "".join(
            f'<rect x="{60 + 52 * n}" y="{260 - 17 * (n * 5 % 13)}" width="34" '
            f'height="{17 * (n * 5 % 13)}" fill="#0072B2"/>'
            for n in range(10)
        )
        path.write_text(
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 640 320">'
            f'{bars}<path d="M50 20v240h560" stroke="#222" fill="none"/></svg>',
            "utf8",
        )
    else:
        path.write_bytes(_png(96, 40))
    _json(folder / "figures" / f"{name}.json", {"file": file, "caption": caption})


def _png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    pixels = b"".join(
        b"\0" + bytes(value for x in range(width) for value in (20, 60 + x, 120 + 2 * y))
        for y in range(height)
    )
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(pixels))
        + chunk(b"IEND", b"")
    )


def _notebook(path: Path, title: str, first: str, second: str, hostile: bool) -> None:
    new = nbformat.v4
    bad = HOSTILE[0] if hostile else "two dimensions"
    cells = [
        new.new_markdown_cell(f"# {title}\n\nWhat you learn: `{bad}`, and more."),
        new.new_code_cell("IMAGES = 100  # how many", metadata={"tags": ["parameters"]}),
        new.new_markdown_cell("## A claim\n\nThe network is *traced* once. See [DESIGN](x.md)."),
        new.new_code_cell(
            f'measured = measure_all(p, data)\nout.figure(fig, "{first}", "caption")',
            outputs=[
                new.new_output("stream", text=f"read 100 images {bad}\n"),
                new.new_output(
                    "display_data",
                    data={
                        "text/html": "<style>#T td{color:red}</style><table id='T'><thead><tr>"
                        "<th>a</th><th>b</th></tr></thead><tbody><tr><td>1</td><td>皖A00000</td></tr>"
                        "</tbody></table><script>document.title='broken'</script>",
                        "text/plain": "a b",
                    },
                ),
            ],
        ),
        new.new_code_cell(
            f'out.table("{second}", rows, "caption")',
            outputs=[
                new.new_output(
                    "display_data",
                    data={
                        "image/svg+xml": '<svg xmlns="http://www.w3.org/2000/svg" '
                        "viewBox='0 0 9 9'><circle cx='4' cy='4' r='3'/></svg>",
                        "text/plain": "figure",
                    },
                ),
                new.new_output(
                    "display_data",
                    data={"application/javascript": "document.title='broken'", "text/plain": "js"},
                ),
            ],
        ),
    ]
    for index, cell in enumerate(cells):
        cell["id"] = f"{path.stem[:2]}-{index}"
    notebook = new.new_notebook(cells=cells)
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)


def _json(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", "utf8")
