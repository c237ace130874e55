"""What is special about LPRNet is in its own folder: a list of files that still name it shrinks."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import lprnet_nb

PACKAGE = Path(lprnet_nb.__file__).parent
HOME = "model/lprnet/"
LAYERS = re.compile(
    r"\bbackbone\b|\bblock(4|8|11)\b|\bcontext-(pool|square|mean|divide)|\bcontainer\b|\bconv(0|20)\b"
)
CLASSES = re.compile("京沪")
SIZES = {94, 68}  # its width and its classes; no other number of the package is one of these
MODULES = ("lprnet.layers", "lprnet.roles")
# Files outside that name its layers, sizes or classes, each with its reason. None may be added.
STILL = {
    "datasets/alphabet.py": "the published class list",
    "datasets/images.py": "size of the published plates",
    "figures/network.py": "the diagram of the course",
    "lessons/quantize.py": "the story of its layer 13",
    "lessons/trace.py": "the porting traps of the course",
    "model/qat.py": "training on its grid",
    "proof/networks.py": "LPRNet and a public fork are among the networks that it judges",
    "study/details.py": "the study of its roles",
    "toolchain/grid.py": "the grid that it is trained on",
    "toolchain/nntc/strategies.py": "TPU-NNTC's names of its layers",
    "toolchain/strategies.py": "the registry that was studied on it",
}


def names(path: Path) -> set[str]:
    """What of LPRNet a file names, documentation aside."""
    tree = ast.parse(path.read_text("utf8"))
    documentation = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in documentation:
            if isinstance(node.value, str) and (
                LAYERS.search(node.value) or CLASSES.search(node.value)
            ):
                found.add(node.value[:40])
            elif type(node.value) is int and node.value in SIZES:
                found.add(str(node.value))
        elif isinstance(node, ast.ImportFrom) and (node.module or "").endswith(MODULES):
            found.add(str(node.module))
        elif isinstance(node, ast.Attribute) and LAYERS.fullmatch(node.attr):
            found.add(node.attr)
    return found


def test_nothing_outside_its_folder_names_lprnets_layers_sizes_or_classes():
    found = {
        path.relative_to(PACKAGE).as_posix(): names(path)
        for path in sorted(PACKAGE.rglob("*.py"))
        if not path.relative_to(PACKAGE).as_posix().startswith(HOME)
    }
    named = {name: what for name, what in found.items() if what}
    added = {name: what for name, what in named.items() if name not in STILL}
    assert not added, "give the network's value (model/network.py) in place of these"
    assert sorted(named) == sorted(STILL), "these no longer do: take them off the list"
