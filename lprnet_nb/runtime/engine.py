"""Open a model on a backend."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cache import file_digest, is_made_here
from ..datasets.interface import Interface
from ..errors import EngineError, ParameterError
from ..toolchain.bmodel import BModel
from .bmodel_file import read_contents
from .interface import Engine

if TYPE_CHECKING:
    from typing_extensions import TypeIs

    from ..model.trace import TracedModel

BACKENDS = ("auto", "device", "simulator", "emulator", "torch", "onnxruntime")


def open_engine(
    model: BModel | TracedModel | str | Path,
    backend: str = "auto",
    *,
    trust: bool = False,
    **options: Any,
) -> Engine:
    """Open a model; the result has sail's methods and is closed by `close()` or `with`.

    Parameters
    ----------
    model
        A `BModel` record, the path of a ``.bmodel`` file (its record is used if it lies beside
        it), or a `TracedModel`.
    backend
        "device" (sophon.sail), "simulator" (the BModel on Sophgo's chip simulator), "emulator"
        (the compiler's quantized graph, exact and fast), "torch" or, for a user's network,
        "onnxruntime" (a traced model, the float reference), or "auto": the device if there is one,
        else the simulator; the float reference for a traced model. `Engine.description` says which
        it is.
    trust
        Run a BModel or TorchScript that was not made here. Both hold instructions that the vendor's
        runtime and torch execute as they are.
    options
        Of the backend: see `DeviceEngine`, `SimulatorEngine`, `EmulatorEngine`.

    Raises
    ------
    ParameterError
        For an unknown backend or option, a backend that does not take this kind of model, or a
        model that was not made here and is not trusted.
    EngineError
        When the model cannot be loaded, is not the one that its record describes, or the backend
        is not there.
    """
    if backend not in BACKENDS:
        raise ParameterError(f"unknown backend {backend!r}. Choose one of {', '.join(BACKENDS)}.")
    if _is_traced(model):
        usual = model.network.backend
        if backend not in ("auto", usual):
            raise ParameterError(
                f"backend {backend!r} runs BModels; a traced model runs on "
                f'"{usual}". Compile it first.'
            )
        from .onnx_engine import OnnxEngine
        from .torch_engine import TorchEngine

        _check_made_here(model.path, trust)
        kind = OnnxEngine if usual == OnnxEngine.backend else TorchEngine
        return _with_interface(_make(kind, options, model), model.network.interface)
    if backend in ("torch", "onnxruntime"):
        raise ParameterError(
            f'backend "{backend}" runs traced models, not BModels. Use "simulator" for a BModel.'
        )
    path, record = _path_and_record(model)
    if backend == "emulator":
        if record is None:
            raise ParameterError(
                f'backend "emulator" needs the record of a compiled BModel, '
                f"not the file {path} alone: it runs the exported graph. Use "
                "BModel.load or another backend."
            )
        from .emulator_engine import EmulatorEngine

        return _with_interface(_make(EmulatorEngine, options, record), record.interface)
    if record and record.without_file:
        raise ParameterError(
            f"backend {backend!r} runs BModels, and of {record.chip} {record.name} the quantized "
            "graph alone is packaged. Use backend 'emulator', or compile it: TOOLCHAIN='mlir'."
        )
    _check_made_here(path, trust)
    if record:
        options["batch_mean"] = record.batch_mean
    engine = _runs_bmodels(path, record, backend, options)
    if record and record.foreign:  # taken from what was said of it
        engine.description["interface"] = record.interface.described()
    return engine


def _runs_bmodels(
    path: Path, record: BModel | None, backend: str, options: dict[str, Any]
) -> Engine:
    """A device or the simulator, as is there and as is asked."""
    if backend == "auto":
        from .device import device_there

        backend = (
            "device" if device_there(options.get("sail_module", "sophon.sail")) else "simulator"
        )
    if backend == "device":
        from .device import DeviceEngine

        engine = _make(DeviceEngine, options, path)
    else:
        engine = _simulator(path, record, options)
    return _with_interface(engine, record.interface) if record else engine


def _with_interface(engine: Engine, interface: Interface) -> Engine:
    engine.interface = interface
    return engine


def _check_made_here(path: str | Path, trust: bool) -> None:
    """Refuse code of unknown origin; what is not there at all is for the backend to say."""
    path = Path(path)
    if not trust and path.is_file() and not is_made_here(path):
        raise ParameterError(
            f"{path} was not made in this machine's cache, and it holds instructions that are run "
            "as they are. If you know where it comes from, say so: `--trust`, or trust=True."
        )


def _is_traced(model: Any) -> TypeIs[TracedModel]:
    """Whether a model is a `TracedModel`, without importing torch where BModels alone are run."""
    trace = sys.modules.get(f"{__package__.rpartition('.')[0]}.model.trace")
    return trace is not None and isinstance(model, trace.TracedModel)


def _path_and_record(model: BModel | str | Path) -> tuple[Path, BModel | None]:
    """A BModel's file, which is made sure to be the one that the record describes."""
    if isinstance(model, BModel):
        path, record = Path(model.path), model
    else:
        path = Path(model)
        beside = path / "record.json" if path.is_dir() else path.with_suffix(".json")
        if not beside.is_file():
            return path, None
        record = BModel.load(path)
        path = record.path
    if record.without_file:
        return path, record
    contents = read_contents(path)
    if contents.chip != record.chip:
        raise EngineError(
            f"BModel {path} is for {contents.chip}, its record says {record.chip}. "
            "Compile it again."
        )
    found = file_digest(path)
    if found != record.sha256:
        raise EngineError(
            f"BModel {path} was altered after it was compiled: its SHA-256 is "
            f"{found}, its record says {record.sha256}. Compile it again."
        )
    return path, record


def _simulator(path: Path, record: BModel | None, options: dict[str, Any]) -> Engine:
    """The chip's simulator: of the release that made the BModel where that is installed.

    The simulators of all releases give the same, so that another one is not worth an installation.
    """
    from .simulator import SimulatorEngine

    if "libraries" not in options:
        from ..toolchain.environment import compiler, find_compiler
        from ..toolchain.releases import RELEASES

        made_by = record.tools.get("tpu_mlir") if record else None
        own = find_compiler(made_by) if made_by in RELEASES else None
        found = own or compiler()
        options |= {"libraries": found.library_folder, "tool": f"tpu_mlir {found.version}"}
    return _make(SimulatorEngine, options, path)


def _make(kind: type[Engine], options: dict[str, Any], *arguments: Any) -> Engine:
    possible = list(inspect.signature(kind).parameters)[len(arguments) :]
    unknown = set(options) - set(possible)
    if unknown:
        raise ParameterError(
            f"backend {kind.backend!r} has no option "
            f"{', '.join(sorted(unknown))}. It has: "
            f"{', '.join(possible) or 'none'}."
        )
    return kind(*arguments, **options)
