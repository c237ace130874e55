"""Which of the package's code decides an artifact's result: a part of its key.

Another version of that code makes other artifacts, be it one with another `preprocess`, other
options for a compiler or another tolerance. Comments, docstrings and layout make no difference, nor
does code of the same module that the result does not depend on.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import threading
from pathlib import Path

# A module, or definitions of one after the colon.
_PREPROCESS = "datasets/images.py: WIDTH HEIGHT PUBLISHED_INPUT InputFormat _each preprocess"
_INTERFACE = "datasets/interface.py"
_LMDB = "datasets/lmdb.py: encode_datum _varint key_of write_lmdb"
_FLOAT = ("model/lprnet/layers.py", _INTERFACE, "model/trace.py: float_logits")
_EMULATOR = "runtime/emulator/*.*"
_ENGINES = (
    _INTERFACE,
    "runtime/interface.py",
    "runtime/torch_engine.py",
    "runtime/onnx_engine.py",
    "model/onnx_files.py: open_session run_session",
    "runtime/emulator_engine.py",
    "runtime/simulator.py",
    "runtime/_simulator_worker.py",
    "runtime/device.py",
    _EMULATOR,
)
_DECODERS = ("decode/*.*", "decode/grammars/*.*")
DECIDED_BY: dict[str, tuple[str, ...]] = {
    "plates": (
        "datasets/generate.py: CHUNK ONE_ROW DRAWN_SHARE draw_chunk generate_plates",
        "datasets/generator/*.*",
        "datasets/images.py: WIDTH HEIGHT",
    ),
    "trace": (
        "model/lprnet/__init__.py",
        "model/lprnet/layers.py",
        "model/trace.py: OPSET trace_model _export_onnx",
    ),
    "network": ("model/onnx_files.py: with_shape",),
    "top": (
        _PREPROCESS,
        "toolchain/compile.py: sample_plate top_graph equalized write_images",
        "toolchain/inside/list_layers.py",
    ),
    "calibration": (_PREPROCESS, "toolchain/compile.py: SEARCH_IMAGES write_images calibrate"),
    "mixed-table": (
        "toolchain/compile.py: mixed_table _lines_by_layer",
        "toolchain/layers.py",
        "model/lprnet/roles.py",
    ),
    "learnt": (
        _PREPROCESS,
        "learnt.py",
        "runtime/pair.py",
        "runtime/reference.py",
        "model/qat.py: distillation_loss",
        "toolchain/compile.py: float_lines",
        "runtime/emulator/*.py",
    ),
    "bmodel": (
        "toolchain/compile.py: _QUANTIZE _TOLERANCE compile_bmodel _deploy float_lines _export",
        "toolchain/layers.py",
        "model/lprnet/roles.py",
        "toolchain/bmodel.py: NETWORK TIME without_time predicted_latency_ms",
        "toolchain/inside/deploy.py",
        "toolchain/inside/export_graph.py",
    ),
    "packaged": ("toolchain/packaged.py: packaged",),
    "tables": (
        _PREPROCESS,
        "toolchain/compile.py: write_images",
        "toolchain/lowering.py",
        "toolchain/inside/quantize_worker.py",
    ),
    "lowered": (
        "toolchain/compile.py: float_lines",
        "toolchain/layers.py",
        "model/lprnet/roles.py",
        "toolchain/lowering.py",
        "toolchain/inside/quantize_worker.py",
        "toolchain/inside/export_graph.py",
    ),
    "lowered-by": (
        "toolchain/compile.py: float_lines",
        "toolchain/layers.py",
        "toolchain/lower_once.py",
        "toolchain/inside/lower_graphs.py",
        "toolchain/inside/export_graph.py",
    ),
    "qat": ("model/qat.py", "model/lprnet/layers.py", "toolchain/finetune.py", _PREPROCESS),
    "nntc-umodel": (
        _PREPROCESS,
        _LMDB,
        "toolchain/nntc/compile.py",
        "toolchain/nntc/installation.py",
        "toolchain/nntc/strategies.py",
    ),
    "nntc-bmodel": (
        _PREPROCESS,
        _LMDB,
        "toolchain/nntc/compile.py",
        "toolchain/nntc/installation.py",
        "toolchain/nntc/strategies.py",
    ),
    "logits": (
        _PREPROCESS,
        "runtime/inference.py: _run_shard",
        *_ENGINES,
    ),
    "survey": (
        _PREPROCESS,
        "datasets/ccpd.py",
        "datasets/images.py: decode_image fit",
        "measure/survey.py: _read",
        *_ENGINES,
    ),
    "score": ("work/pieces.py: _score", *_DECODERS),
    "study-cell": (_PREPROCESS, "study/cells.py: network_input", _EMULATOR),
    "search-read": (
        _PREPROCESS,
        "study/search.py: read",
        "study/cells.py: network_input",
        "decode/ctc.py",
        _EMULATOR,
    ),
    "search-margins": (_PREPROCESS, "study/search.py: margins", "decode/ctc.py", *_FLOAT),
    "study-float": (_PREPROCESS, *_FLOAT),
    "study-role": (_PREPROCESS, *_FLOAT, _EMULATOR),
    "shim": ("runtime/simulator.py", "runtime/shim.c"),
    "emulator-kernels": ("runtime/emulator/kernels.c", "runtime/emulator/native.py: FLAGS"),
    "contract-kit": ("proof/contract.py", "proof/kit.py", _PREPROCESS),
    "example-onnx": (
        "model/lprnet/layers.py",
        "proof/networks.py",
        "proof/foreign.py: OPSET",
        "model/onnx_files.py: INPUT OUTPUT export_onnx",
    ),
    "sample-onnx": (
        "model/lprnet/layers.py",
        "model/lprnet/sample.py",
        "model/onnx_files.py: INPUT OUTPUT export_onnx",
        "study/sample.py: sample_onnx",
    ),
    "foreign": ("toolchain/bmodel.py: UNKNOWN",),  # a copy of the file
    "foreign-top": ("proof/foreign.py: translated",),
    "foreign-bmodel": (
        "proof/foreign.py: _QUANTIZE compiled_network",
        "toolchain/inside/deploy.py",
        "toolchain/inside/export_graph.py",
    ),
    "foreign-judged": (
        "proof/foreign_exactness.py: _interpreted _simulated",
        "proof/interpreter.py",
        "toolchain/inside/interpreter_worker.py",
    ),
    "explained": (
        _PREPROCESS,
        "explain/*.*",
        "runtime/pair.py",
        "runtime/reference.py",
        "decode/ctc.py",
        _EMULATOR,
    ),
    "interpreted": ("proof/interpreter.py", "toolchain/inside/interpreter_worker.py"),
}
_PACKAGE = Path(__file__).parent
_TRIES = 20
_parsing = threading.Lock()


@functools.cache
def code_digest(kind: str) -> str:
    """SHA-256 over the code that decides results of a kind of artifact; "" for an unknown kind."""
    found = [part for source in DECIDED_BY.get(kind, ()) for part in _parts(source)]
    return hashlib.sha256("\0".join(found).encode("utf8")).hexdigest() if found else ""


def _parts(source: str) -> list[str]:
    """The code that an entry of `DECIDED_BY` names, as texts."""
    pattern, _, names = source.partition(":")
    paths = sorted(path for path in _PACKAGE.glob(pattern) if path.is_file())
    if not paths:
        raise LookupError(f"there is no {pattern} in {_PACKAGE}")
    return [part for path in paths for part in _code(path, tuple(names.split()))]


@functools.cache
def _code(path: Path, names: tuple[str, ...]) -> list[str]:
    if path.suffix != ".py":
        return [path.read_text("utf8")]
    tree = _tree(path)
    if not names:
        return [ast.dump(tree)]
    there = {name: node for node in tree.body for name in _defines(node)}
    return [ast.dump(there[name]) for name in names]


@functools.cache
def _tree(path: Path) -> ast.Module:
    for _ in range(_TRIES):
        # Python 3.11 counts the depth of what it parses for all threads together: one at a time
        # here, and again where another part of the process parsed at the same moment.
        with _parsing, contextlib.suppress(SystemError):
            return _without_docstrings(ast.parse(path.read_bytes()))
    return _without_docstrings(ast.parse(path.read_bytes()))


def _defines(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return [node.name]
    targets: list[ast.expr] = node.targets if isinstance(node, ast.Assign) else []
    if isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return [
        part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)
    ]


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        documented = (ast.Module, ast.FunctionDef, ast.ClassDef)
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return tree
