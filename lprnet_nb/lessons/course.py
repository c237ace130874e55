"""The course as a whole: how a notebook opens, what it says of its data, and answers in folds."""

from __future__ import annotations

import ast
import html
from collections.abc import Mapping
from typing import Any

from ..datasets import fetch
from ..errors import ParameterError
from ..language import Text, phrase, sentences, speak, text, within
from ..measure import parameters
from ..measure.data import Data
from ..measure.output import show
from ..measure.parameters import AUTO, NETWORK, Parameters
from ..measure.rows import fitting
from ..runtime.device import device_there
from ..toolchain.packaged import TOOLCHAIN as PACKAGED
from ..toolchain.packaged import packaged_index

INJECTED = "# Parameters"  # first line of the cell that papermill puts in
# Notebooks that TPU-NNTC cannot serve, and why.
NEEDS_MLIR = {
    "03_quantize": "it reads thresholds from TPU-MLIR's calibration tables and layers from the "
    "graphs that TPU-MLIR exports, and TPU-NNTC leaves neither",
    "06_strategies": "a study runs the graphs that TPU-MLIR exports, and TPU-NNTC exports none",
}
# What "auto" is of STRATEGIES in a notebook on LPRNet, where it is not what it is everywhere.
STRATEGIES = {"03_quantize": "kl,mse,kl-forked"}  # of the published form, and one forked beside it

# JupyterLab keeps the class of a marked passage (`language.PASSAGE`), by which it is hidden.
HIDDEN = "<style>.of-lprnet { display: none }</style>"


def checked(notebook: str, variables: Mapping[str, Any], **instead: Any) -> Parameters:
    """A notebook's parameters, checked; see `measure.parameters.check`.

    Parameters
    ----------
    notebook
        Its name.
    variables
        Its globals, of which the parameters are taken.
    instead
        What stands for some of them.

    Raises
    ------
    ParameterError
        Also for a parameter that papermill put in and the notebook does not declare, and for a
        toolchain that cannot serve this notebook.
    """
    refuse_undeclared()
    given = {name: variables[name] for name in parameters.NAMES if name in variables}
    found = parameters.check(**with_strategies(notebook, given | instead))
    speak(found.language)
    if found.toolchain == "nntc" and notebook in NEEDS_MLIR:
        raise ParameterError(
            f'notebook {notebook} cannot be run with TOOLCHAIN="{found.toolchain}": '
            f'{NEEDS_MLIR[notebook]}. Run it with TOOLCHAIN="mlir".'
        )
    if found.toolchain == PACKAGED:
        tell(packaged_said())
    if found.network != NETWORK:
        _without_passages(
            phrase(
                "{network} takes the place of LPRNet. Left out, being of LPRNet alone: what others "
                "published, what the vendor measured on boards, the emulator's long record, prose "
                "about its layers and its grammar.",
                network=found.network,
            )
        )
    return found


def with_strategies(notebook: str, given: dict[str, Any]) -> dict[str, Any]:
    """Parameters of a notebook, with the strategies that "auto" is there on LPRNet."""
    auto = given.get("STRATEGIES", AUTO) == AUTO and given.get("NETWORK", NETWORK) == NETWORK
    special = {"STRATEGIES": STRATEGIES[notebook]} if auto and notebook in STRATEGIES else {}
    return given | special


def packaged_said() -> Text:
    """What a run of packaged graphs is."""
    return phrase(
        "Nothing is compiled here: the graphs are those that TPU-MLIR {release} made of the "
        "packaged weights on generated plates, as packaged, and the emulator runs them.",
        release=packaged_index()["tpu_mlir"],
    )


def _without_passages(said: Text) -> None:
    """Say that another network is at hand, and hide what the prose around says of LPRNet."""
    show(
        lambda language: {
            "text/plain": within(said, language),
            "text/html": f"{HIDDEN}<p>{html.escape(within(said, language), quote=False)}</p>",
        }
    )


def of_lprnet(given: Parameters) -> bool:
    """Whether what follows in a cell is about the network at hand; else a line leaves it out."""
    if given.network != NETWORK:
        tell(phrase("Left out: it is about LPRNet alone."))
    return given.network == NETWORK


def decoded(data: Data) -> bool:
    """Whether texts are read off the logits, which a cell is about; else a line leaves it out."""
    if data.weights.of.interface.kind == "ctc":
        return True
    tell(phrase("Left out: these logits are no CTC, and no texts are decoded of them."))
    return False


def fitted(given: Parameters, data: Data) -> Parameters:
    """`measure.rows.fitting`, said where nothing is decoded."""
    found = fitting(given, data)
    if found.decoders != given.decoders:
        tell(
            phrase(
                "{network} gives logits that are no CTC: they are compared as they are, and by the "
                "likeliest class of each position (top-1), without decoding and without labels.",
                network=data.weights.of.name,
            )
        )
    return found


def refuse_undeclared() -> None:
    """Refuse what papermill put in beside the parameters that the notebook declares.

    Papermill itself only warns, and the notebook would run with its defaults.

    Raises
    ------
    ParameterError
        Naming the parameter and those that there are.
    """
    from IPython import get_ipython

    shell = get_ipython()
    cells = list(shell.user_ns.get("In", ())) if shell else []
    places = [k for k, cell in enumerate(cells) if cell.startswith(INJECTED)]
    if not places:
        return
    declared = [name for cell in cells[: places[0]] for name in _assigned(cell)]
    unknown = [name for name in _assigned(cells[places[-1]]) if name not in declared]
    if unknown:
        raise ParameterError(
            f"this notebook has no parameter {unknown[0]!r}. It has: {', '.join(declared)}."
        )


def _assigned(source: str) -> list[str]:
    """Names that a cell gives values to, in order; none of a cell that is not plain Python."""
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return []
    targets = [t for s in statements if isinstance(s, ast.Assign) for t in s.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def here() -> list[Text]:
    """What of the course's needs is on this machine, a line each; nothing is fetched."""
    return [
        phrase("published images and weights: here")
        if fetch.is_published_data_here()
        else phrase("published images and weights: not yet"),
        phrase("a TPU: here")
        if device_there()
        else phrase("a TPU: none; the simulator and the emulator stand in"),
    ]


def tell(*texts: str) -> None:
    """Print texts, a line each."""
    lines = [text(one) for one in texts]
    show(lambda language: {"text/plain": "\n".join(within(line, language) for line in lines)})


def see(*said: str) -> None:
    """Show what there is to see, in sentences that were computed from what is shown."""
    whole = sentences(phrase("**What to see:**"), *map(text, said))
    show(lambda language: {"text/markdown": within(whole, language)})


def answer(*said: str) -> None:
    """Show the answer to a question, folded until it is asked for."""
    whole, title = sentences(*map(text, said)), phrase("The answer")
    show(
        lambda language: {
            "text/html": f"<details><summary>{within(title, language)}</summary>"
            f"<p>{html.escape(within(whole, language), quote=False)}</p></details>"
        }
    )
