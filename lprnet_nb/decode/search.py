"""The most probable text of a grammar, exactly, for many images at once.

A text's probability is the sum over all its CTC paths. Finding the text that maximises it is hard
without a grammar, but a plate grammar is small enough for this:

1. *Backward.* For each state of the grammar's automaton, the class last written and the time step:
   the probability of finishing validly from there, summed over all ways. This is the CTC backward
   recursion (Graves et al. 2006) with the automaton's transitions in place of a text's. It also
   gives the probability of the whole grammar.
2. *Forward.* Prefixes grow by one character at a time. With step 1, the joint probability of all
   valid texts that begin with a prefix is known exactly (Graves' prefix search), so the `width`
   best prefixes are kept, and the best one dropped bounds every text that was not looked at.

When the best complete text is at least as probable as that bound, it is proved to be the best; the
rest are searched again with a larger width. For the best *path* in place of the best sum, replace
sums by maxima: the same bound then always holds at once.

Step 1 has the images last, so that numpy adds and multiplies long rows; step 2 has them first, so
that the sums over time are matrix products. Neither loops over classes or images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np

from .ctc import PAD
from .grammar import Automaton

# Images a pass of step 2, and of step 1: large arrays save calls, small ones stay in the
# processor's cache. No powers of two: rows at such a distance share a few places of a cache.
CHUNK, PART = 504, 126
WIDTHS = (3, 32, 256)  # prefixes kept per image; the next width is for those not proved
TINY = np.float32(1e-18)  # least factor of a float32 product: keeps it a normal number
ROUNDING = 1e-5  # of a logarithm: bounds are added up in float32


Logs = TypeVar("Logs", np.ndarray, np.float64)


@dataclass(frozen=True)
class Semiring:
    """Sums and products to search with."""

    plus: np.ufunc
    times: np.ufunc
    zero: float
    one: float
    kept_as: type  # dtype of what step 1 leaves to step 2
    floor: float = 0.0  # least probability of a class; keeps products of many from underflow
    reliable: float = 0.0  # when all texts together have less, floor and rounding could show

    @property
    def linear(self) -> bool:
        """Are these ordinary sums and products of probabilities?"""
        return self.times is np.multiply


LINEAR = Semiring(np.add, np.multiply, 0.0, 1.0, np.float32, 1e-20, 1e-11)
DOUBLE = Semiring(np.add, np.multiply, 0.0, 1.0, np.float64, 1e-30, 1e-21)
LOGARITHMIC = Semiring(np.logaddexp, np.add, -np.inf, 0.0, np.float64)
BEST_PATH = Semiring(np.maximum, np.add, -np.inf, 0.0, np.float64)


@dataclass(frozen=True)
class Found:
    """The two best texts of each image.

    Attributes
    ----------
    texts
        int64 ``[N, 2, L]``, padded with `PAD`.
    score
        float64 ``[N, 2]``: their log-probability (or that of their best path), best first; ``-inf``
        where there is no second text, or none that fits into the time steps.
    log_total
        float64 ``[N]``: log-probability of all texts of the grammar together (or of the best path).
    exact
        bool ``[N]``: is it proved that no valid text has a better score than the first, but for
        `ROUNDING`?
    """

    texts: np.ndarray
    score: np.ndarray
    log_total: np.ndarray
    exact: np.ndarray


@dataclass(frozen=True, eq=False)
class Plan:
    """An automaton unrolled for a number of time steps.

    A node is a state together with the class that led to it. Nodes are in order of their states.
    One node more than there are, with number M, stands for none.
    """

    state: np.ndarray  # [M] state of each node
    label: np.ndarray  # [M] class of each node
    ends: np.ndarray  # bool [M]: may the text end here?
    repeat: np.ndarray  # [M] node that the node's own class leads to from its state, or M
    follow: np.ndarray  # [states, C]: node that a class leads to, or M
    follows: np.ndarray  # bool [states, M]: does the node follow the state?
    sums: tuple[tuple[slice, slice, np.ndarray], ...]  # states, the nodes that can follow these,
    #                         and that part of `follows` as float64, to sum with
    padded: np.ndarray  # [states, K] all nodes that follow each state, then M
    place: np.ndarray  # [M] where in `padded` of its state the node's `repeat` is, or 0
    windows: tuple[slice, ...]  # by time step: nodes that can be entered then, and still finish
    levels: tuple[slice, ...]  # by length of the prefix: nodes that can be its last
    spans: tuple[slice, ...]  # by length of the prefix: steps in which these can be entered


@lru_cache(maxsize=64)
def plan(automaton: Automaton, steps: int) -> Plan:
    """Unroll an automaton for a number of time steps."""
    target = automaton.target
    sources, classes = np.nonzero(target >= 0)
    nodes, arcs = np.unique(
        np.stack([target[sources, classes], classes], axis=1), axis=0, return_inverse=True
    )
    state, label = nodes.T
    none = len(nodes)
    follow = np.full(target.shape, none)
    follow[sources, classes] = arcs.reshape(-1)
    follows = (follow[:, :, None] == np.arange(none)).any(axis=1)
    repeat = follow[state, label]
    padded = np.sort(follow, axis=1)[:, : follows.sum(axis=1).max()]
    place = np.argmax(padded[state] == repeat[:, None], axis=1)

    reached = np.zeros(len(target), bool)
    reached[0] = True
    ending = []  # by length of the prefix: which nodes can be its last
    while (last := follows[reached].any(axis=0)).any():
        ending.append(last)
        reached = np.zeros(len(target), bool)
        reached[state[last]] = True
    shortest = np.argmax(ending, axis=0) + 1
    to_end = np.where(automaton.final, 0, steps + 1)
    for number in range(len(target) - 1, -1, -1):
        onward = target[number][target[number] >= 0]
        if onward.size:
            to_end[number] = min(to_end[number], 1 + to_end[onward].min())
    windows = tuple(
        _cover((shortest <= t + 1) & (to_end[state] <= steps - 1 - t)) for t in range(steps)
    )
    spans = tuple(
        slice(min(level, steps), max(steps - to_end[state[last]].min(), 0))
        for level, last in enumerate(ending)
    )
    return Plan(
        state,
        label,
        automaton.final[state],
        repeat,
        follow,
        follows,
        _sums_by(follows),
        padded,
        place,
        windows,
        tuple(_cover(last) for last in ending),
        spans,
    )


def _sums_by(follows: np.ndarray) -> tuple[tuple[slice, slice, np.ndarray], ...]:
    """Cut the states into runs whose following nodes do not overlap the next run's: short sums."""
    spans = [(_cover(row)) for row in follows]
    cuts = [0]
    reach = 0
    for number, span in enumerate(spans):
        if span.start >= reach and number > cuts[-1] and span.stop > span.start:
            cuts.append(number)
        reach = max(reach, span.stop)
    result = []
    for begin, end in zip(cuts, [*cuts[1:], len(spans)]):
        nodes = _cover(np.any(follows[begin:end], axis=0))
        if nodes.stop > nodes.start:
            result.append((slice(begin, end), nodes, follows[begin:end, nodes].astype(np.float64)))
    return tuple(result)


def _cover(mask: np.ndarray) -> slice:
    where = np.flatnonzero(mask)
    return slice(where[0], where[-1] + 1) if where.size else slice(0, 0)


def search(
    log_probs: np.ndarray,
    automaton: Automaton,
    blank: int,
    *,
    best_path: bool = False,
    widths: tuple[int, ...] = WIDTHS,
) -> Found:
    """Find the two best texts of a grammar for each image.

    Parameters
    ----------
    log_probs
        ``[N, C, T]`` as from `log_softmax`.
    automaton
        The grammar.
    blank
        Index of the blank.
    best_path
        Score a text by its best path instead of the sum over its paths.
    widths
        Numbers of prefixes to keep, tried in turn until the best text is proved.
    """
    images, _, steps = log_probs.shape
    unrolled = plan(automaton, steps)
    found = Found(
        np.full((images, 2, len(unrolled.levels)), PAD),
        np.full((images, 2), -np.inf),
        np.full(images, -np.inf),
        np.zeros(images, bool),
    )
    rows = np.arange(images)
    for ring in (BEST_PATH,) if best_path else (LINEAR, DOUBLE, LOGARITHMIC):
        # Every chunk writes the same places of this, so it is filled once.
        ahead: np.ndarray = np.full(
            (min(len(rows), CHUNK), steps, len(unrolled.state)), ring.zero, ring.kept_as
        )
        for begin in range(0, len(rows), CHUNK):
            chunk = rows[begin : begin + CHUNK]
            _search(log_probs, chunk, unrolled, blank, ring, widths, ahead[: len(chunk)], found)
        rows = rows[found.log_total[rows] < _log(np.float64(ring.reliable), LINEAR)]
        if not len(rows):
            break
    return found


def _search(
    log_probs: np.ndarray,
    rows: np.ndarray,
    unrolled: Plan,
    blank: int,
    ring: Semiring,
    widths: tuple[int, ...],
    ahead: np.ndarray,
    found: Found,
) -> None:
    """Search some images and write what was found into their rows."""
    emit = _emissions(log_probs, rows, ring)
    for begin in range(0, len(rows), PART):
        part = slice(begin, begin + PART)
        total = _backward(emit[..., part], unrolled, blank, ring, ahead[part])
        found.log_total[rows[part]] = _log(total, ring)
    for width in widths:
        texts, score, bound = _forward(emit, ahead, unrolled, blank, ring, width)
        found.texts[rows] = texts
        found.score[rows] = _log(score, ring)
        exact = _log(bound, ring) <= found.score[rows, 0] + ROUNDING
        found.exact[rows] = exact & np.isfinite(found.score[rows, 0])
        # The unreliable will be searched again in another ring.
        more = ~exact & (found.log_total[rows] >= _log(np.float64(ring.reliable), LINEAR))
        if not more.any():
            break
        rows, emit, ahead = rows[more], emit[..., more], ahead[more]


def _emissions(log_probs: np.ndarray, rows: np.ndarray, ring: Semiring) -> np.ndarray:
    """What the classes of some images score at each step, float64 ``[T, C, n]``."""
    together = rows[-1] - rows[0] == len(rows) - 1
    chosen = log_probs[rows[0] : rows[-1] + 1] if together else log_probs[rows]
    emit = np.empty(chosen.shape[::-1])
    for begin in range(0, len(rows), PART):
        part = np.array(chosen[begin : begin + PART].transpose(2, 1, 0), order="C")
        if ring.linear:
            np.exp(part, out=part)
            np.maximum(part, part.dtype.type(ring.floor), out=part)
        emit[..., begin : begin + PART] = part
    return emit


def _log(values: Logs, ring: Semiring) -> Logs:
    if not ring.linear:
        return values
    with np.errstate(divide="ignore"):
        return np.log(values)


def _backward(
    emit: np.ndarray,
    unrolled: Plan,
    blank: int,
    ring: Semiring,
    ahead: np.ndarray,
) -> np.ndarray:
    """Score all valid ways on from each node when it is entered at each step.

    Parameters
    ----------
    emit
        ``[T, C, n]``.
    ahead
        Where the scores go, ``[n, T, M]``, the emission of the step itself included; the windows of
        `unrolled` are written.

    Returns
    -------
    np.ndarray
        ``[n]``: the score of the whole grammar.
    """
    steps, _, images = emit.shape
    # What lies ahead of a node from this step on, then from the next; of a state likewise. Places
    # beyond the window go stale, but nothing that can be reached in time looks at them.
    nodes = len(unrolled.state)
    here = np.full((nodes + 1, images), ring.zero)
    after = np.where(unrolled.ends[:, None], ring.one, here[:nodes])
    other = np.empty_like(after)
    idle = np.full((len(unrolled.follow), images), ring.zero)
    idle[unrolled.state[unrolled.ends]] = ring.one
    for t in range(steps - 1, -1, -1):
        entered = unrolled.windows[t]
        np.take(emit[t], unrolled.label[entered], axis=0, out=here[entered], mode="clip")
        ring.times(here[entered], after[entered], out=here[entered])
        kept: np.ndarray = here[entered].astype(ring.kept_as, copy=False)
        ahead[:, t, entered] = (np.maximum(kept, TINY, out=kept) if ring is LINEAR else kept).T
        ring.times(emit[t, blank], idle, out=idle)
        # A state goes on with a blank or a character, a node also with its own class again, which
        # is not the character it would be after a blank.
        window = unrolled.windows[t - 1] if t else slice(0, 0)
        state, repeat = unrolled.state[window], unrolled.repeat[window]
        if ring.linear:
            for states, following, weights in unrolled.sums:
                if following.start < entered.stop and entered.start < following.stop:
                    idle[states] += weights @ here[following]
            onward = np.take(idle, state, axis=0, out=after[window], mode="clip")
            onward += here[window]
            onward -= np.take(here, repeat, axis=0, out=other[window], mode="clip")
        else:
            every, but_one = _sums(here[unrolled.padded], ring)
            others = np.where(
                (repeat < nodes)[:, None], but_one[state, unrolled.place[window]], every[state]
            )
            after[window] = ring.plus(ring.plus(idle[state], here[window]), others)
            idle = ring.plus(idle, every)
    return idle[0]


def _sums(terms: np.ndarray, ring: Semiring) -> tuple[np.ndarray, np.ndarray]:
    """Sums along the second axis: of all terms, and of all but each, without subtraction."""
    left = ring.plus.accumulate(terms, axis=1)
    right = ring.plus.accumulate(terms[:, ::-1], axis=1)[:, ::-1]
    but_one = np.full(terms.shape, ring.zero)
    but_one[:, 0] = right[:, 1] if terms.shape[1] > 1 else ring.zero
    but_one[:, -1:] = left[:, -2:-1] if terms.shape[1] > 1 else ring.zero
    ring.plus(left[:, :-2], right[:, 2:], out=but_one[:, 1:-1])
    return left[:, -1], but_one


def _forward(
    emit: np.ndarray, ahead: np.ndarray, unrolled: Plan, blank: int, ring: Semiring, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Grow prefixes character by character, keeping the best.

    Returns
    -------
    texts
        ``[n, 2, L]``: the two best complete texts.
    score
        ``[n, 2]``.
    bound
        ``[n]``: no text that was dropped on the way scores more.
    """
    steps, _, images = emit.shape
    image = np.arange(images)[:, None]
    gap = np.repeat(emit[:, blank, :, None], width, axis=2)
    longest = len(unrolled.levels)
    # Prefixes [n, k]: state and last class; scores of the paths before step t, which end in the
    # last character, or in a blank: [T + 1, n, k].
    state = np.zeros((images, 1), int)
    last = np.full((images, 1), -1)
    in_character = np.full((steps + 1, images, 1), ring.zero)
    in_blank = np.empty((steps + 1, images, 1))
    in_blank[0] = ring.one
    in_blank[1:, :, 0] = ring.times.accumulate(emit[:, blank], axis=0)
    texts = np.full((images, 1, longest), PAD)
    best = np.full((images, 2), ring.zero)
    best_texts = np.full((images, 2, longest), PAD)
    bound = np.full(images, ring.zero)
    for level, (nodes, span) in enumerate(zip(unrolled.levels, unrolled.spans)):
        again = np.where(last >= 0, unrolled.follow[state, last], len(unrolled.state))
        score = _extensions(
            in_character[span], in_blank[span], ahead[:, span, nodes], again - nodes.start, ring
        )
        score[~unrolled.follows[state, nodes]] = ring.zero
        chosen, kept, bound = _select(score.reshape(images, -1), width, bound)
        parent, node = np.divmod(chosen, nodes.stop - nodes.start)
        node += nodes.start
        same = unrolled.label[node] == last[image, parent]
        enter = ring.plus(
            in_blank[span, image, parent],
            np.where(same, ring.zero, in_character[span, image, parent]),
        )
        # There can be fewer valid prefixes than `width`.
        enter = np.where(kept > ring.zero, enter, ring.zero)
        state, last = unrolled.state[node], unrolled.label[node]
        texts = texts[image, parent]
        texts[:, :, level] = last
        in_character, in_blank = _paths(
            enter, emit[span, last, image], gap[span, :, : chosen.shape[1]], span.start, steps, ring
        )
        if unrolled.ends[nodes].any():
            finished = np.where(
                unrolled.ends[node], ring.plus(in_character[-1], in_blank[-1]), ring.zero
            )
            contest = np.concatenate([best, finished], axis=1)
            order = np.argsort(-contest, axis=1, kind="stable")[:, :2]
            best = contest[image, order]
            best_texts = np.concatenate([best_texts, texts], axis=1)[image, order]
    best_texts[best == ring.zero] = PAD
    return best_texts, best, bound


def _extensions(
    in_character: np.ndarray,
    in_blank: np.ndarray,
    ahead: np.ndarray,
    again: np.ndarray,
    ring: Semiring,
) -> np.ndarray:
    """Joint score of all valid texts that begin with a prefix and one more character.

    Parameters
    ----------
    in_character, in_blank
        ``[t, n, k]``.
    ahead
        ``[n, t, nodes]``.
    again
        ``[n, k]``: the node that stands for the prefix's last character again, or any other number.

    Returns
    -------
    np.ndarray
        ``[n, k, nodes]``; of use only for nodes that follow the prefix.
    """
    either = ring.plus(in_blank, in_character)
    if ring is LINEAR:
        rows = np.maximum(
            either.transpose(1, 2, 0), TINY, order="C", dtype=ring.kept_as, casting="same_kind"
        )
        score = rows @ ahead
    else:
        score = np.full((*again.shape, ahead.shape[2]), ring.zero)
        for step, here in zip(either, ahead.transpose(1, 0, 2)):
            ring.plus(score, ring.times(step[:, :, None], here[:, None]), out=score)
    image, prefix = np.nonzero((again >= 0) & (again < ahead.shape[2]))
    again = again[image, prefix]  # needs a blank between
    score[image, prefix, again] = ring.plus.reduce(
        ring.times(in_blank[:, image, prefix], ahead[image, :, again].T), axis=0, initial=ring.zero
    )
    return score


def _select(
    score: np.ndarray,
    width: int,
    bound: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `width` best, ``[n, k]``, their scores, and the bound raised to the best of the rest."""
    images, candidates = score.shape
    width = min(width, candidates)
    image = np.arange(images)
    if width > 8:
        order = np.argsort(-score, axis=1, kind="stable")
        rest = score[image, order[:, width]] if width < candidates else bound
        order = order[:, :width]
        return order, score[image[:, None], order], np.maximum(bound, rest)
    chosen = np.empty((images, width), int)
    kept = np.empty((images, width))
    for k in range(width):
        chosen[:, k] = score.argmax(axis=1)
        kept[:, k] = score[image, chosen[:, k]]
        score[image, chosen[:, k]] = -np.inf
    return chosen, kept, np.maximum(bound, score.max(axis=1))


def _paths(
    enter: np.ndarray, own: np.ndarray, gap: np.ndarray, begin: int, steps: int, ring: Semiring
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the paths of prefixes, ``[T + 1, n, k]`` in the last character and in a blank.

    Parameters
    ----------
    enter
        ``[t, n, k]``: the paths that are about to enter the last character, from step `begin` on.
    own, gap
        Emissions of the last character and of the blank in these steps.
    """
    in_character = np.full((steps + 1, *enter.shape[1:]), ring.zero)
    in_blank = in_character.copy()
    for t, (entering, character, blank) in enumerate(zip(enter, own, gap), begin):
        here, after = in_character[t + 1], in_blank[t + 1]
        ring.plus(in_character[t], entering, here)
        ring.times(character, here, here)
        ring.plus(in_character[t], in_blank[t], after)
        ring.times(blank, after, after)
    return in_character, in_blank
