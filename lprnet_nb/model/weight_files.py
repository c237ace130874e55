"""Tensors out of the files that people keep weights in. No code of a file is ever run.

Taken: torch's zip archives and its older pickles, TorchScript, safetensors; a state dict alone or
somewhere in a checkpoint; names with a prefix in front, as ``nn.DataParallel``, ``torch.compile``
and Lightning give them.
"""

from __future__ import annotations

import io
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..errors import DataError
from ..inputs import read_bytes
from .lprnet.names import LAST

ANCHOR = LAST
DEPTH = 4  # of a state dict in a checkpoint
LARGEST = 1 << 30  # bytes of a file; a checkpoint of LPRNet with its optimizer has 6 million

_PICKLES = 4  # of torch's older files, up to the object: number, protocol, machine, object
_TENSORS = re.compile(
    r"torch\._utils\._rebuild_\w+|torch\.(storage\.)?\w*Storage|torch\.\w+"
    r"|collections\.OrderedDict"
)
_NOT_WEIGHTS = {
    rb"version https://git-lfs": "is a pointer of Git LFS, not the file itself. Run `git lfs pull`",
    rb"\s*<(!doctype )?html": "is a web page, not the file behind it. Download the file itself",
    rb"\x89HDF": "is an HDF5 file, of Keras or another framework. Give what PyTorch saved",
    rb"\x08[\x01-\x20]\x12.[ -~]": "is an ONNX graph. Give the weights it was exported from",
}
_SAVE = 'Save `torch.save(network.state_dict(), "weights.pth")` and name that file'


class _Inert:
    """Stands for an object of any class but a tensor's: keeps its state and does nothing."""

    state: Any = None

    def __new__(cls, *_: Any) -> _Inert:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors of the one network that a file holds, by layer name without prefix.

    Parameters
    ----------
    path
        The file, of any of the kinds above.

    Returns
    -------
    dict
        Dense tensors on the CPU. Floats are float32, others as they were saved.

    Raises
    ------
    DataError
        When there is no such file, or it does not hold one state dict.
    """
    path = Path(path)
    every = list(_state_dicts(_read(path)))
    found = [item for item in every if _has_anchor(item[1])] or sorted(
        every, key=lambda item: -len(item[1])
    )[:1]
    if not found:
        raise DataError(f"weights {path} are not a state dict of tensors. {_SAVE}.")
    if any(not _same(tensors, found[0][1]) for _, tensors in found):
        raise DataError(
            f"weights {path} hold several networks: "
            f"{', '.join(place for place, _ in found)}. Save the one that you mean "
            "alone."
        )
    return {
        name: _plain(path, name, tensor) for name, tensor in _without_prefix(found[0][1]).items()
    }


def load_checked(path: Path, device: str | torch.device = "cpu") -> Any:
    """`torch.load` that runs no code from the file and checks the sums in it, which torch does not.

    Raises
    ------
    Exception
        Whatever some part of torch's reader raises; ``zipfile.BadZipFile`` where a sum is wrong.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as members:
            altered = members.testzip()
        if altered is not None:
            raise zipfile.BadZipFile(f"{altered} in it was altered")
    return torch.load(path, map_location=device, weights_only=True)


def _read(path: Path) -> Any:
    raw = read_bytes(path, "weights", LARGEST)
    for start, what in _NOT_WEIGHTS.items():
        if re.match(start, raw, re.IGNORECASE | re.DOTALL):
            raise DataError(f"weights {path}: the file {what}.")
    names: set[str] = set()
    try:
        if raw[8:9] == b"{":  # after the length of its header
            return safetensors.torch.load(raw)
        return _read_torch(io.BytesIO(raw), names)
    except Exception as error:  # on a damaged file, whatever some part of the readers raises
        foreign = sorted(
            (name for name in names if not _TENSORS.fullmatch(name)),
            key=lambda name: name.startswith(("torch.", "__builtin__.")),
        )
        if foreign:
            raise _pickled(path, foreign) from error
        raise DataError(
            f"weights {path} cannot be read: the file is empty, damaged, cut off or of a kind "
            "other than .pth, .pt and .safetensors. Copy or download it again, or save it again "
            "in PyTorch."
        ) from error


def _pickled(path: Path, classes: list[str]) -> DataError:
    shown = ", ".join(re.sub(r"[^\w.]", "?", name)[:60] for name in classes[:3])
    return DataError(
        f"weights {path} are pickled objects ({shown}{', …' * (len(classes) > 3)}), "
        "such as a whole network, and reading those would run code from the file. "
        f"{_SAVE}."
    )


def _read_torch(file: io.BytesIO, names: set[str]) -> Any:
    """What a file of torch holds; the classes that its pickle names are put into `names`."""
    script = False
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("a member was altered")
            pickled = next(n for n in archive.namelist() if n.rpartition("/")[2] == "data.pkl")
            names |= _classes(io.BytesIO(archive.read(pickled)))
            script = any(n.rpartition("/")[2] == "constants.pkl" for n in archive.namelist())
            if script:
                file = _without_code(archive, pickled.rpartition("/")[0])
    else:
        file.seek(0)
        for _ in range(_PICKLES):
            names |= _classes(file)
    file.seek(0)
    # torch's own come first, so these stand for others
    inert: list[Any] = [(_Inert, name) for name in names]
    with torch.serialization.safe_globals(inert), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        content = torch.load(file, map_location="cpu", weights_only=True)
    if script:
        content = {"TorchScript": _parameters(content)}
    elif _holds_network(content):
        raise ValueError("objects are pickled, and no state dict")
    return content


def _classes(pickled: Any) -> set[str]:
    """Names of the classes and functions that a pickle asks for; reads up to its end."""
    return {
        str(argument).replace(" ", ".", 1)
        for code, argument, _ in pickletools.genops(pickled)
        if code.name == "GLOBAL"
    }


def _without_code(archive: zipfile.ZipFile, top: str) -> io.BytesIO:
    """The values of a TorchScript archive as a plain one: torch reads the first only to run it."""
    values = io.BytesIO()
    with zipfile.ZipFile(values, "w") as copy:
        for name in archive.namelist():
            inner = name.removeprefix(f"{top}/")
            if inner in ("data.pkl", "version", "byteorder") or inner.startswith("data/"):
                copy.writestr(f"archive/{inner}", archive.read(name))
    return values


def _parameters(module: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """Tensors of a TorchScript module and of those inside it, by the names of a state dict."""
    found: dict[str, torch.Tensor] = {}
    for name, value in (module.state if isinstance(module.state, dict) else {}).items():
        if torch.is_tensor(value):
            found[prefix + name] = value
        elif isinstance(value, _Inert):
            found |= _parameters(value, f"{prefix}{name}.")
    return found


def _inside(content: Any, place: str = "", depth: int = DEPTH) -> Iterator[tuple[str, Any]]:
    """All that is within mappings and sequences, `content` itself first, each with its place."""
    yield place, content
    items = (
        content.items()
        if isinstance(content, Mapping)
        else enumerate(content)
        if isinstance(content, list | tuple)
        else ()
    )
    for name, value in items if depth else ():
        yield from _inside(value, f"{place}.{name}".lstrip("."), depth - 1)


def _state_dicts(content: Any) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Mappings of names to tensors within `content`, each with its place."""
    for place, value in _inside(content):
        if isinstance(value, Mapping):
            tensors = {
                name: tensor
                for name, tensor in value.items()
                if isinstance(name, str) and torch.is_tensor(tensor)
            }
            if tensors:
                yield place, tensors


def _holds_network(content: Any) -> bool:
    """Whether a network was pickled as it is, or other objects, and no state dict beside them."""
    objects = [value for _, value in _inside(content) if isinstance(value, _Inert)]
    found = [_has_anchor(tensors) for _, tensors in _state_dicts(content)]
    network = any(isinstance(o.state, dict) and "_modules" in o.state for o in objects)
    return not any(found) if network else bool(objects) and not found


def _has_anchor(tensors: Mapping[str, torch.Tensor]) -> bool:
    return any(f".{name}".endswith(f".{ANCHOR}") for name in tensors)


def _same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    return one is other or (
        one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    )


def _without_prefix(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    prefix = next(
        (name.removesuffix(ANCHOR) for name in tensors if f".{name}".endswith(f".{ANCHOR}")), ""
    )
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}


def _plain(path: Path, name: str, tensor: torch.Tensor) -> torch.Tensor:
    if tensor.is_meta or tensor.is_complex() or tensor.is_quantized:
        kind = (
            "a place without values"
            if tensor.is_meta
            else "complex"
            if tensor.is_complex()
            else "quantized"
        )
        raise DataError(f"weights {path}: {name} is {kind}. {_SAVE}, from the float network.")
    dense = tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
    return (dense.float() if dense.is_floating_point() else dense).contiguous()
