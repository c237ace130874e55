"""Weights to go on from: the layers, and the classes that the old and the new class list share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ..datasets import fetch
from ..datasets.alphabet import Alphabet
from .lprnet import LPRNet
from .lprnet.names import JOIN, PER_CLASS
from .own import load_own_weights
from .weight_files import ANCHOR
from .weights import PUBLISHED_DIGEST, Weights, load_published_weights, load_weights

CONTEXT = 448  # channels of the three context maps, before those of the classes


def load_start(source: str | Path, alphabet: Alphabet) -> Weights:
    """Weights to start from, with the class list that they were trained with.

    Parameters
    ----------
    source
        "published", "generated" (the packaged ones), or a file.
    alphabet
        Class list of the new weights. A file of as many classes is taken to have it; else one of 68
        to have the published list. Of any other the list is not known, and no class is shared.

    Raises
    ------
    DataError
        When they cannot be read.
    """
    if str(source) == "published":
        if not fetch.weights_path().exists():
            fetch.fetch_published()
        return load_published_weights()
    own = load_own_weights()
    if str(source) == "generated":
        return own
    given = load_weights(source, None)
    listed = given.digest in (PUBLISHED_DIGEST, own.digest)
    return given if listed or given.classes != alphabet.size else replace(given, alphabet=alphabet)


def carry_over(given: Weights, network: LPRNet, alphabet: Alphabet) -> str:
    """Put weights into a freshly initialized network; classes that are new stay fresh.

    A fresh class starts as the mean of the others in the last layer, so it wins over none of them,
    and gets its own direction from the network's random weights.

    Parameters
    ----------
    given
        What to start from, see `load_start`.
    network
        Gets them, in place; as many classes as `alphabet` has.
    alphabet
        Class list of the network.

    Returns
    -------
    str
        What was carried over, for the user.
    """
    sources = [_index(given.alphabet, alphabet, place) for place in range(alphabet.size)]
    new = torch.tensor([place for place, source in enumerate(sources) if source is not None])
    fresh = [place for place, source in enumerate(sources) if source is None]
    old = torch.tensor([source for source in sources if source is not None])
    state = network.state_dict()
    with torch.no_grad():
        for name, value in given.state.items():
            if not name.startswith(PER_CLASS) or not value.ndim:
                state[name].copy_(value)
            elif name == ANCHOR and len(new):
                rows = torch.zeros(len(new), state[name].shape[1], 1, 1)
                rows[:, :CONTEXT] = value[old, :CONTEXT]
                rows[:, CONTEXT + new] = value[old][:, CONTEXT + old]
                state[name][new] = rows
                state[name][fresh] += rows.mean(0)
            elif len(new):
                state[name][new] = value[old]
                if name.startswith(JOIN):
                    state[name][fresh] = value[old].mean()
    return _told(given, alphabet, fresh)


def _index(given: Alphabet, wanted: Alphabet, place: int) -> int | None:
    """Where a class of `wanted` is in `given`; a blank only as the blank."""
    character = wanted.characters[place]
    found = given.characters.index(character) if character in given.characters else None
    return found if (place == wanted.blank) == (found == given.blank) else None


def _told(given: Weights, alphabet: Alphabet, fresh: list[int]) -> str:
    carried = alphabet.size - len(fresh)
    if not fresh:
        return f"start from {given.name}: all {carried} classes carried over"
    if not carried:
        return (
            f"start from {given.name}: its {given.classes} classes are of an unknown list; the "
            f"layers below them carried over, all {alphabet.size} classes fresh"
        )
    texts = "".join(alphabet.characters[place] for place in fresh)
    return (
        f"start from {given.name}: {carried} of {alphabet.size} classes carried over by "
        f"character, {len(fresh)} fresh ({texts})"
    )
