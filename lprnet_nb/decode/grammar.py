"""Plate grammars: small TOML files that say which texts a plate can bear.

The format::

    description = "one line"              # optional
    source = "where the rules come from"  # optional
    include = ["plate-ordinary"]          # optional: all forms of other grammars as well

    [sets]                                # named sets of characters
    digit = "0123456789"

    [[form]]                              # as many as there are; a text is valid if one form fits
    name = "two digits"
    slots = ["digit", "digit"]            # one set per character
    limits = [{ set = "digit", from = 1, to = 2, at_most = 2 }]   # optional: how many of a set

    [pairs]                               # optional, for all forms: what may follow the first
    "1" = "0123"                          # character; one that is not listed here is refused

An included grammar is a packaged one by name, or a file beside this one by path.
"""

from __future__ import annotations

import os
import re
import tomllib
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..datasets.alphabet import Alphabet
from ..errors import ParameterError
from ..inputs import find_path, read_text

# Endings of special plates (trailer, police, ...); no published weights have them as classes.
SPECIAL = "学警港澳挂使领"


@dataclass(frozen=True)
class Limit:
    """At most `count` characters of `characters` in the slots `first` to `last` (from 0)."""

    characters: str
    first: int
    last: int
    count: int


@dataclass(frozen=True)
class Form:
    """One way to write a plate: the characters allowed at each place, and limits over places."""

    name: str
    slots: tuple[str, ...]
    limits: tuple[Limit, ...] = ()
    pairs: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Grammar:
    """A finite set of valid texts, as the union of forms."""

    name: str
    description: str
    source: str
    forms: tuple[Form, ...]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class _LimitFile(_Strict):
    set: str
    first: int = Field(alias="from", ge=1)
    last: int = Field(alias="to", ge=1)
    at_most: int = Field(ge=0)


class _FormFile(_Strict):
    name: str
    slots: list[str] = Field(min_length=1, max_length=32)
    limits: list[_LimitFile] = []


class _GrammarFile(_Strict):
    description: str = ""
    source: str = ""
    include: list[str] = []
    sets: dict[str, str] = {}
    form: list[_FormFile] = []
    pairs: dict[str, str] = {}


def packaged_grammars() -> tuple[str, ...]:
    """Names of the grammars that come with the package."""
    folder = resources.files(__package__).joinpath("grammars")
    return tuple(
        sorted(
            entry.name.removesuffix(".toml")
            for entry in folder.iterdir()
            if entry.name.endswith(".toml")
        )
    )


def load_grammar(name: str | Path) -> Grammar:
    """Load a packaged grammar by name, or a user's by the path of its file.

    Raises
    ------
    ParameterError
        When there is no such grammar, or its file breaks the format; with the file and the place.

    Examples
    --------
    >>> [form.name for form in load_grammar("plate").forms]
    ['ordinary', 'small', 'large']
    """
    return _load(str(name), None, ())


def _load(name: str, folder: Path | None, within: tuple[str, ...]) -> Grammar:
    """Load a grammar that the user names, or one that a grammar in `folder` includes."""
    if name in within:
        raise ParameterError(
            f"grammar {within[0]}: includes itself by way of "
            f"{' > '.join((*within, name))}. Remove one of these includes."
        )
    if name in packaged_grammars():
        text = resources.files(__package__).joinpath("grammars", f"{name}.toml").read_text("utf8")
    else:
        path = find_path(name) if folder is None else folder / os.path.expanduser(name)
        if not os.path.isfile(path):  # unlike Path's, it is false for impossible names too
            raise ParameterError(
                f"grammar {' > '.join((*within, name))}: neither a packaged one "
                f"({', '.join(packaged_grammars())}) nor a file: {path} does not exist. Name one "
                "of these or the path of a TOML file."
            )
        folder = path.resolve().parent
        text = read_text(path, "grammar", ParameterError)
    return _parse(text, name, folder, (*within, name))


def _parse(text: str, name: str, folder: Path | None, within: tuple[str, ...]) -> Grammar:
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError itself for a number of 5,000 digits
        found = re.search(r"at line \d+, column \d+|at end of document", str(error))
        raise ParameterError(
            f"grammar {name}: not valid TOML {found[0] if found else 'at all'}. "
            "Mend that place; values of text stand in quotes."
        ) from error
    try:
        file = _GrammarFile.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ParameterError(
            f"grammar {name}: {where}: {first['msg']}. The format is described "
            "in lprnet_nb.decode.grammar."
        ) from error
    for key, characters in (file.sets | file.pairs).items():
        if not characters or len(set(characters)) != len(characters):
            raise ParameterError(
                f"grammar {name}: {key!r} = {characters!r}: give each character "
                "once, and at least one."
            )
    forms = [_form(form, file.sets, name) for form in file.form]
    for included in file.include:
        forms += _load(included, folder, within).forms
    if not forms:
        raise ParameterError(f"grammar {name}: no [[form]] and nothing included. Add one.")
    if file.pairs:
        if any(len(first) != 1 for first in file.pairs):
            raise ParameterError(f"grammar {name}: keys of [pairs] are single characters.")
        pairs = tuple(file.pairs.items())
        forms = [replace(form, pairs=pairs) for form in forms]
    return Grammar(Path(name).stem, file.description, file.source, tuple(forms))


def _form(form: _FormFile, sets: dict[str, str], name: str) -> Form:
    used = [*form.slots, *(limit.set for limit in form.limits)]
    unknown = [key for key in used if key not in sets]
    if unknown:
        raise ParameterError(
            f"grammar {name}: form {form.name!r} uses the set {unknown[0]!r}, "
            f"which [sets] does not have. It has: {', '.join(sets) or 'none'}."
        )
    for limit in form.limits:
        if not limit.first <= limit.last <= len(form.slots):
            raise ParameterError(
                f"grammar {name}: form {form.name!r}: limit from {limit.first} to "
                f"{limit.last} does not lie within its {len(form.slots)} slots."
            )
    return Form(
        form.name,
        tuple(sets[slot] for slot in form.slots),
        tuple(
            Limit(sets[limit.set], limit.first - 1, limit.last - 1, limit.at_most)
            for limit in form.limits
        ),
    )


@dataclass(frozen=True, eq=False)
class Automaton:
    """Minimal deterministic automaton of a grammar over class indices.

    State 0 is the start; every state comes before those it leads to. Every state can be reached,
    and an end can be reached from it.

    Attributes
    ----------
    target
        int32 ``[states, classes]``: next state, -1 where the class is not allowed.
    final
        bool ``[states]``: may the text end here?
    """

    target: np.ndarray
    final: np.ndarray

    def accepts(self, text: np.ndarray) -> bool:
        """Is a text (class indices, not padded) in the grammar?"""
        state = 0
        for index in text:
            state = int(self.target[state, index])
            if state < 0:
                return False
        return bool(self.final[state])


@lru_cache(maxsize=32)
def compile_grammar(grammar: Grammar, alphabet: Alphabet) -> Automaton:
    """Turn a grammar into its minimal automaton over the classes of a network.

    Raises
    ------
    ParameterError
        When the grammar has a character that is not a class, or no text at all.
    """
    _check_characters(grammar, alphabet)
    index = {character: k for k, character in enumerate(alphabet.characters)}
    # Subset construction: a state is the set of (form, place, counts of limits, first character
    # if it still matters) that the text so far may be at.
    start = frozenset((f, 0, (0,) * len(form.limits), "") for f, form in enumerate(grammar.forms))
    numbers = {start: 0}
    queue = [start]
    target: list[dict[int, int]] = []
    final: list[bool] = []
    for state in queue:
        moves: dict[str, set] = {}
        for item in state:
            for character, following in _moves(grammar.forms, item):
                moves.setdefault(character, set()).add(following)
        row = {}
        for character, items in moves.items():
            reached = frozenset(items)
            if reached not in numbers:
                numbers[reached] = len(queue)
                queue.append(reached)
            row[index[character]] = numbers[reached]
        target.append(row)
        final.append(any(place == len(grammar.forms[f].slots) for f, place, _, _ in state))
    return _minimal(target, final, alphabet.size, grammar.name)


def _check_characters(grammar: Grammar, alphabet: Alphabet) -> None:
    readable = set(alphabet.characters) - {alphabet.characters[alphabet.blank]}
    for form in grammar.forms:
        missing = sorted(set("".join(form.slots)) - readable)
        special = [character for character in missing if character in SPECIAL]
        if special:
            raise ParameterError(
                f"grammar {grammar.name}: form {form.name!r} has {''.join(special)!r}: special "
                f"plates ({SPECIAL}) cannot be read, since the network's class list has no such "
                "characters. Leave them out, or use weights trained with them."
            )
        if missing:
            raise ParameterError(
                f"grammar {grammar.name}: form {form.name!r} has {''.join(missing)!r}, not in the "
                "network's class list. Leave it out, or give the class list of your weights."
            )


def _moves(forms: tuple[Form, ...], item: tuple) -> list[tuple[str, tuple]]:
    """All (character, next item) of one item of a subset."""
    f, place, counts, first = item
    form = forms[f]
    if place == len(form.slots):
        return []
    allowed = form.slots[place]
    if place == 1 and form.pairs:
        allowed = [c for c in allowed if c in dict(form.pairs).get(first, "")]
    result = []
    for character in allowed:
        after = []
        for limit, count in zip(form.limits, counts):
            inside = limit.first <= place <= limit.last and character in limit.characters
            # Past its last slot a limit is done with; forgetting the count merges states.
            after.append(
                count + inside if place < limit.last or count + inside > limit.count else 0
            )
        if all(count <= limit.count for limit, count in zip(form.limits, after)):
            keep = character if place == 0 and form.pairs else ""
            result.append((character, (f, place + 1, tuple(after), keep)))
    return result


def _minimal(target: list[dict[int, int]], final: list[bool], classes: int, name: str) -> Automaton:
    """Drop states that lead nowhere, and merge those from which the same texts follow.

    Goes by depth-first post-order, which finishes targets before sources: there are no cycles.
    """
    order: list[int] = []
    seen = {0}
    stack = [(0, iter(target[0].values()))]
    while stack:
        state, following = stack[-1]
        for other in following:
            if other not in seen:
                seen.add(other)
                stack.append((other, iter(target[other].values())))
                break
        else:
            order.append(state)
            stack.pop()
    merged: dict[int, int | None] = {}
    by_future: dict[tuple, int] = {}
    rows: list[dict[int, int]] = []
    ends: list[bool] = []
    for state in order:
        row = {c: k for c, other in target[state].items() if (k := merged[other]) is not None}
        if not row and not final[state]:
            merged[state] = None
            continue
        key = (final[state], tuple(sorted(row.items())))
        if key not in by_future:
            by_future[key] = len(rows)
            rows.append(row)
            ends.append(final[state])
        merged[state] = by_future[key]
    start = merged[0]
    if start is None or not rows[start]:
        raise ParameterError(f"grammar {name}: no text fits it. Loosen its limits or pairs.")
    # Number by the longest way from the start: sources before targets, and lengths together. The
    # start is last in post-order.
    depth = [0] * len(rows)
    for state in range(len(rows) - 1, -1, -1):
        for other in rows[state].values():
            depth[other] = max(depth[other], depth[state] + 1)
    order = sorted(range(len(rows)), key=lambda state: (depth[state], -state))
    number = {state: k for k, state in enumerate(order)}
    table = np.full((len(rows), classes), -1, np.int32)
    for state, row in enumerate(rows):
        for c, other in row.items():
            table[number[state], c] = number[other]
    return Automaton(table, np.array([ends[state] for state in order]))
