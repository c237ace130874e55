"""Are these plates like those that a confidence was calibrated on? Told without any label.

A calibrated confidence is the share of readings that would be right among plates like those that it
was fitted on. Its mean falls with the accuracy as plates move away from those [1]_; readings that
are no plates, and text that stands elsewhere in the crops, say so too.

References
----------
.. [1] D. Guillory et al., "Predicting with Confidence on Unseen Distributions", ICCV 2021,
   arXiv:2107.03315: the difference of confidences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..datasets.labels import is_plate
from ..language import Text, clauses, phrase, sentences

FEWEST = 20  # plates that a mean says something of
ERRORS = 3  # standard errors that a difference must have, against chance
# What a difference must come to, against plates that differ and are read as well all the same: five
# points of expected accuracy, as many of readings that are no plates; of the first character, which
# is one of seven, as many as of all; and a step of the network, 4 of 94 columns.
APART = {"confidence": 0.05, "province": 0.05, "no plate": 0.05, "first": 1.0, "last": 1.0}
FALLS = ("confidence", "province")  # of which only less is a sign

Signs = Mapping[str, tuple[float, float]]  # mean and standard deviation over plates


def signs_of(
    texts: Sequence[str],
    confidence: np.ndarray,
    province: np.ndarray,
    path: np.ndarray,
    blank: int,
) -> dict[str, tuple[float, float]]:
    """What greedy readings look like.

    Parameters
    ----------
    texts
        A reading a plate.
    confidence
        float ``[N]``, calibrated.
    province
        float ``[N]``: confidence in the first character, 0 of an empty reading.
    path
        int ``[N, T]``: class of each time step.
    blank
        Class of the steps between characters.

    Returns
    -------
    dict
        Mean and standard deviation of ``confidence`` and ``province``; of ``no plate``, 1 for a
        reading that is none by its length or characters; of ``first`` and ``last``, the time steps
        at which the text begins and ends, which follow the margins of the crops (NaN where no
        plate has a text: no sign).
    """
    spoken = path != blank
    some = spoken.any(axis=1)
    steps = path.shape[1]
    values = {
        "confidence": confidence,
        "province": province,
        "no plate": np.array([not is_plate(text) for text in texts], float),
        "first": spoken.argmax(axis=1)[some],
        "last": steps - 1 - spoken[:, ::-1].argmax(axis=1)[some],
    }
    return {
        name: (float(np.mean(of)), float(np.std(of))) if len(of) else (np.nan, 0.0)
        for name, of in values.items()
    }


def unlike(found: Signs, plates: int, known: Signs, known_plates: int) -> dict[str, list[float]]:
    """Signs by which plates are unlike the known ones, with their mean here and there.

    Parameters
    ----------
    found, known
        See `signs_of`.
    plates, known_plates
        Of how many plates they are; of fewer than `FEWEST` nothing is said.
    """
    if min(plates, known_plates) < FEWEST:
        return {}
    signs = {}
    for name, least in APART.items():
        (here, spread), (there, other) = found[name], known[name]
        apart = there - here if name in FALLS else abs(here - there)
        if name == "no plate":
            apart = here - there
        chance = ERRORS * np.hypot(spread / plates**0.5, other / known_plates**0.5)
        if apart > max(least, chance):
            signs[name] = [round(here, 3), round(there, 3)]
    return signs


def unlike_said(signs: Mapping[str, Sequence[float]], plates: int, on: str) -> Text:
    """Advice for a set of plates that `unlike` found signs of.

    Parameters
    ----------
    signs
        Of `unlike`, at least one.
    plates
        How many were read.
    on
        What the confidence was calibrated on.
    """
    return sentences(
        phrase(
            "These {plates} crops are unlike those that the confidence was calibrated on ({on}): "
            "{signs}.",
            plates=plates,
            on=on,
            signs=clauses(_said(name, here, there) for name, (here, there) in signs.items()),
        ),
        phrase(
            "Expect fewer readings to be right than there, and perhaps than their confidence says; "
            "label some and judge them, and try --margin auto or the other weights."
        ),
    )


def sign_name(name: str) -> Text | str:
    """A sign's name for people."""
    known = {
        "confidence": phrase("confidence"),
        "province": phrase("province"),
        "no plate": phrase("no plate"),
        "first": phrase("first step"),
        "last": phrase("last step"),
    }
    return known.get(name, name)


def _said(name: str, here: float, there: float) -> Text:
    match name:
        case "confidence":
            return phrase("mean confidence {here:.2f}, there {there:.2f}", here=here, there=there)
        case "province":
            return phrase(
                "confidence in the first character {here:.2f}, there {there:.2f}",
                here=here,
                there=there,
            )
        case "no plate":
            return phrase(
                "{here:.0%} of the readings are no plates, there {there:.0%}",
                here=here,
                there=there,
            )
        case "first":
            return phrase(
                "the text begins at time step {here:.1f}, there at {there:.1f}",
                here=here,
                there=there,
            )
    return phrase(
        "the text ends at time step {here:.1f}, there at {there:.1f}", here=here, there=there
    )
