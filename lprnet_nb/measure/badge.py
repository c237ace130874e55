"""How near logits are to those that they are held against: one word and one badge everywhere.

Report pages and notebooks' tables show the same `Badge`; sentences put it in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import JsonValue

from ..language import Text, clauses, number, phrase

STATES = {"good": "good", "fair": "open", "bad": "bad"}  # and the page's class for each


class Badge(Text):
    """A word or two that are shown on a ground of their colour.

    Attributes
    ----------
    state
        One of `STATES`.
    """

    state: str


def badge(state: str, said: Text) -> Badge:
    """A text as a badge."""
    made = Badge(said.variants)
    made.state = state
    return made


def exactness(check: Mapping[str, JsonValue] | None) -> Badge | None:
    """What logits come to beside those that they are held against; None where none are.

    Parameters
    ----------
    check
        Of `runtime.crosscheck.compare`; or of a box, which counts: of ``images``, ``exact`` are to
        the bit and ``same_readings`` read alike.
    """
    if not check:
        return None
    images = number(int(figure(check, "images")))
    if "exact" in check:
        return _counted(check, images)
    if check.get("identical"):
        return badge("good", phrase("to the bit"))
    if check.get("same_readings", check.get("same_classes", True)):
        return badge("fair", phrase("same readings, up to {far} of a logit", far=farthest(check)))
    others = check.get("read_otherwise")
    if others is None:  # a record of before they were named
        return badge("bad", phrase("differs"))
    count = number(
        len(others) if isinstance(others, list) else int(figure(check, "read_otherwise"))
    )
    return badge(
        "bad", phrase("{count} of {images} plates read otherwise", count=count, images=images)
    )


def _counted(check: Mapping[str, JsonValue], images: str) -> Badge:
    """The same where plates are counted."""
    total, exact, alike = (int(figure(check, key)) for key in ("images", "exact", "same_readings"))
    here = {"exact": number(exact), "images": images}
    if exact == total:
        return badge("good", phrase("to the bit, {exact} of {images} plates", **here))
    counted = phrase("{exact} of {images} plates to the bit", **here)
    if alike == total:
        far = farthest(check)
        said = phrase("{counted}, same readings, up to {far} of a logit", counted=counted, far=far)
        return badge("fair", said)
    other = number(total - alike)
    return badge("bad", phrase("{counted}, {other} read otherwise", counted=counted, other=other))


def outcomes(checks: Iterable[Mapping[str, JsonValue]]) -> Text:
    """What several checks come to, with how many of each where they are not alike."""
    by_state: dict[str, list[Mapping[str, JsonValue]]] = {}
    for check in checks:
        found = exactness(check)
        if found is not None:
            by_state.setdefault(found.state, []).append(check)
    near = by_state.get("fair") or [{}]
    said = {
        "good": phrase("the same logits to the bit"),
        "fair": phrase("the same readings, up to {far} of a logit", far=farthest(*near)),
        "bad": phrase("other readings"),
    }
    there = [state for state in said if state in by_state]
    if len(there) == 1:
        return said[there[0]]
    return clauses(
        phrase("{count} with {what}", count=len(by_state[state]), what=said[state])
        for state in there
    )


def read_alike(check: Mapping[str, JsonValue]) -> bool:
    """Whether all plates are read as by the logits that a check holds against."""
    found = exactness(check)
    return found is None or found.state != "bad"


def farthest(*checks: Mapping[str, JsonValue]) -> str:
    """Largest difference of a logit; what is smaller than a thousandth is not told apart."""
    far = max(figure(check, "max_abs_difference") for check in checks)
    return f"{max(far, 0.001):.2g}"


def figure(check: Mapping[str, JsonValue], key: str) -> float:
    """A number of a check; 0 where it has none of that name."""
    value = check.get(key)
    return value if isinstance(value, int | float) else 0
