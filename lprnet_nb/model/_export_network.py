"""Run by a process of its own: a user's network of torch, exported to ONNX with a free batch.

Usage: ``python -P -m lprnet_nb.model._export_network FILE TARGET PLANES HEIGHT WIDTH BATCH_AXIS``.
FILE is TorchScript, or a Python file with a function ``network()``; its code is run because the
user named it. What goes wrong is one line on standard error, after ``error:``.
"""

from __future__ import annotations

import logging
import runpy
import sys
import traceback
import warnings
from pathlib import Path
from typing import NoReturn

import torch

from .trace import OPSET

FUNCTION = "network"
FAILED = 3  # exit status of what is said after "error:"


def main() -> None:
    """Export as the arguments say."""
    file, target = Path(sys.argv[1]), Path(sys.argv[2])
    planes, height, width, axis = map(int, sys.argv[3:])
    module = _built(file) if file.suffix == ".py" else _loaded(file)
    example = torch.zeros(1, planes, height, width)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module(example)
            torch.onnx.export(
                module,
                (example,),
                str(target),
                input_names=["input"],
                output_names=["logits"],
                dynamic_axes={"input": {0: "batch"}, "logits": {axis: "batch"}},
                opset_version=OPSET,
                dynamo=False,
            )
    except Exception as error:
        _end(
            f"the network does not run on [1, {planes}, {height}, {width}]: "
            f"{error_line(error, file)}"
        )


def _built(file: Path) -> torch.nn.Module:
    sys.path.insert(0, str(file.parent))  # for what it imports from beside it
    try:
        made = runpy.run_path(str(file)).get(FUNCTION)
        if not callable(made):
            _end(f"it has no function {FUNCTION}() that gives a torch.nn.Module")
        module, again = made(), made()
    except Exception as error:
        _end(f"it raises {error_line(error, file)}")
    except SystemExit as error:
        if error.code == FAILED:
            raise
        _end("it ends the program (sys.exit)")
    if not isinstance(module, torch.nn.Module):
        _end(f"{FUNCTION}() gives a {type(module).__name__}, not a torch.nn.Module")
    first, second = module.state_dict(), again.state_dict()
    if any(not _same(first[name], second.get(name, first[name])) for name in first):
        _end(
            f"{FUNCTION}() gives other weights each time: load trained ones in it, or call "
            "torch.manual_seed first"
        )
    return module.eval()


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal, where NaN is too: that it is there is told of the output."""
    return torch.equal(one.nan_to_num(), other.nan_to_num())


def _loaded(file: Path) -> torch.nn.Module:
    try:
        return torch.jit.load(str(file), map_location="cpu").eval()
    except (RuntimeError, ValueError, OSError):
        _end(
            "it is not TorchScript. Save torch.jit.trace(network, example); a state dict alone has "
            "no network: write a Python file that builds one and loads it"
        )


def error_line(error: Exception, file: Path) -> str:
    """An error in a line, with the line of the user's file that it comes from."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    where = f" (line {lines[-1]})" if lines else ""
    said = (str(error).strip() or "without a message").splitlines()[0]
    return f"{type(error).__name__}{where}: {said}"


def _end(message: str) -> NoReturn:
    print("error:", message, file=sys.stderr, flush=True)
    sys.exit(FAILED)


if __name__ == "__main__":
    main()
