"""The most probable text of a grammar, exactly, for many images at once.

A text's probability is the sum over all its CTC paths. Finding the text that maximises it is hard
without a grammar, but a plate grammar is small enough for this:

1. *Backward.* For each state of the grammar's automaton, the class last written and the time step: the
   probability of finishing validly from there, summed over all ways. This is the CTC backward
   recursion (Graves et al. 2006) with the automaton's transitions in place of a text's. It also
   gives the probability of the whole grammar.
2. *Forward.* Prefixes grow by one character at a time. With step 1, the joint probability of all
   valid texts that begin with a prefix is known exactly (Graves' prefix search), so the `width` best
   prefixes are kept, and the best one dropped bounds every text that was not looked at.

When the best complete text is at least as probable as that bound, it is proved to be the best; the
rest are searched again with a larger width. For the best *path* in place of the best sum, replace sums by
maxima: the same bound then always holds at once.

Arrays have the images last, so that numpy works on contiguous rows and never loops over classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .ctc import PAD
from .grammar import Automaton

CHUNK = 128          # images a pass: the working set stays within the processor's cache
WIDTHS = (4, 32, 256)  # prefixes kept per image; the next width is for those not proved
FLOOR = 1e-17        # least probability of a class; keeps products of 18 of them from underflow
RELIABLE = 1e-9      # below this the floor could show: such images are searched in the log domain


@dataclass(frozen=True)
class Semiring:
    """Sums and products to search with."""

    plus: np.ufunc
    times: np.ufunc
    zero: float
    one: float


LINEAR = Semiring(np.add, np.multiply, 0.0, 1.0)
LOGARITHMIC = Semiring(np.logaddexp, np.add, -np.inf, 0.0)
BEST_PATH = Semiring(np.maximum, np.add, -np.inf, 0.0)


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
        bool ``[N]``: is it proved that no valid text has a better score than the first?
    """

    texts: np.ndarray
    score: np.ndarray
    log_total: np.ndarray
    exact: np.ndarray


@dataclass(frozen=True, eq=False)
class Plan:
    """An automaton unrolled for a number of time steps.

    A node is a state together with the class that led to it; an arc leads from a state to a node.
    Nodes are in topological order of their states, arcs in that of their sources.
    """

    state: np.ndarray       # [M] state of each node
    label: np.ndarray       # [M] class of each node
    ends: np.ndarray        # bool [M]: may the text end here?
    arcs: np.ndarray        # [A] the node that each arc leads to
    first_arc: np.ndarray   # [B] where the arcs of each state begin ...
    source: np.ndarray      # [B] ... and which state that is; states without arcs are not listed
    again: np.ndarray       # [R] nodes whose state can be left by the node's own class ...
    repeat: np.ndarray      # [R] ... and the arc that this takes
    follow: np.ndarray      # [states, C]: node that a class leads to, -1 where it is not allowed
    follows: np.ndarray     # bool [states, M]: does the node follow the state?
    windows: tuple[slice, ...]  # by time step: nodes that can be entered then, and still finish
    levels: tuple[slice, ...]   # by length of the prefix: nodes that can be its last


@lru_cache(maxsize=64)
def plan(automaton: Automaton, steps: int) -> Plan:
    """Unroll an automaton for a number of time steps."""
    target = automaton.target
    sources, labels = np.nonzero(target >= 0)
    nodes, arcs = np.unique(np.stack([target[sources, labels], labels], axis=1), axis=0,
                            return_inverse=True)
    arcs = arcs.reshape(-1)
    state, label = nodes[:, 0], nodes[:, 1]
    source, first_arc = np.unique(sources, return_index=True)
    arc_of = np.full(target.shape, -1)
    arc_of[sources, labels] = np.arange(len(arcs))
    repeat = arc_of[state, label]
    follows = np.zeros((len(target), len(nodes)), bool)
    follows[sources, arcs] = True

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
    windows = tuple(_cover((shortest <= t + 1) & (to_end[state] <= steps - 1 - t))
                    for t in range(steps))
    return Plan(state, label, automaton.final[state], arcs, first_arc, source,
                np.flatnonzero(repeat >= 0), repeat[repeat >= 0],
                np.where(arc_of >= 0, arcs[arc_of], -1), follows, windows,
                tuple(_cover(last) for last in ending))


def _cover(mask: np.ndarray) -> slice:
    where = np.flatnonzero(mask)
    return slice(where[0], where[-1] + 1) if where.size else slice(0, 0)


def search(log_probs: np.ndarray, automaton: Automaton, blank: int, *, best_path: bool = False,
           widths: tuple[int, ...] = WIDTHS) -> Found:
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
    found = Found(np.full((images, 2, len(unrolled.levels)), PAD), np.full((images, 2), -np.inf),
                  np.full(images, -np.inf), np.zeros(images, bool))
    for begin in range(0, images, CHUNK):
        rows = np.arange(begin, min(begin + CHUNK, images))
        _search(log_probs, rows, unrolled, blank, BEST_PATH if best_path else LINEAR, widths,
                found)
        if not best_path:
            rows = rows[found.log_total[rows] < np.log(RELIABLE)]
            if rows.size:
                _search(log_probs, rows, unrolled, blank, LOGARITHMIC, widths, found)
    return found


def _search(log_probs: np.ndarray, rows: np.ndarray, unrolled: Plan, blank: int, ring: Semiring,
            widths: tuple[int, ...], found: Found) -> None:
    """Search some images and write what was found into their rows."""
    emit = np.ascontiguousarray(log_probs[rows].transpose(2, 1, 0))  # [T, C, n]
    if ring is LINEAR:
        emit = np.maximum(np.exp(emit), FLOOR)
    emit = emit.astype(np.float64, copy=False)
    ahead, total = _backward(emit, unrolled, blank, ring)
    found.log_total[rows] = _log(total, ring)
    for width in widths:
        texts, score, bound = _forward(emit, ahead, unrolled, blank, ring, width)
        found.texts[rows] = texts
        found.score[rows] = _log(score, ring)
        # Bound and score sum the same terms in different orders, hence the tolerance.
        exact = _log(bound, ring) <= found.score[rows, 0] + 1e-9
        found.exact[rows] = exact & np.isfinite(found.score[rows, 0])
        if exact.all():
            break
        rows, emit, ahead = rows[~exact], emit[..., ~exact], ahead[..., ~exact]


def _log(values: np.ndarray, ring: Semiring) -> np.ndarray:
    if ring is not LINEAR:
        return values
    with np.errstate(divide="ignore"):
        return np.log(values)


def _backward(emit: np.ndarray, unrolled: Plan, blank: int, ring: Semiring,
              ) -> tuple[np.ndarray, np.ndarray]:
    """Score of all valid ways on from each node when it is entered at each step.

    Returns
    -------
    ahead
        ``[T, M, n]``, the emission of the step itself included.
    total
        ``[n]``: the score of the whole grammar.
    """
    steps, _, images = emit.shape
    ahead = np.full((steps, len(unrolled.state), images), ring.zero)
    # What lies ahead after a step, when it was spent in a node, or in a blank in some state.
    after = np.where(unrolled.ends[:, None], ring.one, np.full((1, images), ring.zero))
    idle = np.full((len(unrolled.follow), images), ring.zero)
    idle[unrolled.state[unrolled.ends]] = ring.one
    for t in range(steps - 1, -1, -1):
        window = unrolled.windows[t]
        ring.times(emit[t, unrolled.label[window]], after[window], out=ahead[t, window])
        onward = ahead[t, unrolled.arcs]
        left = ring.plus.reduceat(onward, unrolled.first_arc, axis=0)
        waiting = ring.times(emit[t, blank], idle)
        idle = waiting.copy()
        idle[unrolled.source] = ring.plus(waiting[unrolled.source], left)
        # A node goes on with its own class, or a blank, or any class but its own.
        if ring is LINEAR:
            after = ahead[t] + idle[unrolled.state]
            after[unrolled.again] -= onward[unrolled.repeat]
        else:
            others = idle[unrolled.state]
            others[unrolled.again] = ring.plus(waiting[unrolled.state[unrolled.again]],
                                               _all_but_one(onward, unrolled, ring))
            after = ring.plus(ahead[t], others)
    return ahead, idle[0]


def _all_but_one(onward: np.ndarray, unrolled: Plan, ring: Semiring) -> np.ndarray:
    """Sums over the arcs of a state but for one, for `repeat`; for rings without subtraction."""
    result = np.full(onward.shape, ring.zero)
    for begin, end in zip(unrolled.first_arc, [*unrolled.first_arc[1:], len(onward)]):
        block = onward[begin:end]
        result[begin + 1:end] = ring.plus.accumulate(block, axis=0)[:-1]
        result[begin:end - 1] = ring.plus(
            result[begin:end - 1], ring.plus.accumulate(block[::-1], axis=0)[-2::-1])
    return result[unrolled.repeat]


def _forward(emit: np.ndarray, ahead: np.ndarray, unrolled: Plan, blank: int, ring: Semiring,
             width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
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
    column = np.arange(images)
    longest = len(unrolled.levels)
    # Prefixes [k, n]: state and last class; scores of the paths so far, which end before step t in
    # the last character, or in a blank: [T + 1, k, n].
    state = np.zeros((1, images), int)
    last = np.full((1, images), -1)
    in_character = np.full((steps + 1, 1, images), ring.zero)
    in_blank = np.empty((steps + 1, 1, images))
    in_blank[0] = ring.one
    in_blank[1:, 0] = ring.times.accumulate(emit[:, blank], axis=0)
    texts = np.full((longest, 1, images), PAD)
    best = np.full((2, images), ring.zero)
    best_texts = np.full((longest, 2, images), PAD)
    bound = np.full(images, ring.zero)
    for level, nodes in enumerate(unrolled.levels):
        score = _extensions(in_character, in_blank, ahead, unrolled, ring, nodes, level, state,
                            last)
        chosen, kept, bound = _select(score, width, bound)
        parent, node = np.divmod(chosen, nodes.stop - nodes.start)
        node += nodes.start
        same = unrolled.label[node] == last[parent, column]
        by_change = np.where(same, ring.zero, in_character[:-1, parent, column])
        enter = ring.plus(in_blank[:-1, parent, column], by_change)
        enter[:, kept <= ring.zero] = ring.zero  # fewer valid prefixes than `width`
        state, last = unrolled.state[node], unrolled.label[node]
        texts = texts[:, parent, column]
        texts[level] = last
        in_character, in_blank = _paths(enter, emit, blank, last, level, ring)
        finished = np.where(unrolled.ends[node], ring.plus(in_character[-1], in_blank[-1]),
                            ring.zero)
        contest = np.concatenate([best, finished])
        order = np.argsort(-contest, axis=0, kind="stable")[:2]
        best = np.take_along_axis(contest, order, axis=0)
        best_texts = np.concatenate([best_texts, texts], axis=1)[:, order, column]
    best_texts[:, best == ring.zero] = PAD
    return best_texts.transpose(2, 1, 0), best.T, bound


def _extensions(in_character: np.ndarray, in_blank: np.ndarray, ahead: np.ndarray,
                unrolled: Plan, ring: Semiring, nodes: slice, level: int, state: np.ndarray,
                last: np.ndarray) -> np.ndarray:
    """Joint score of all valid texts that begin with a prefix and one more character.

    Returns
    -------
    np.ndarray
        ``[k, nodes, n]``, `ring.zero` where the node does not follow the prefix.
    """
    steps, width, images = len(ahead), *state.shape
    either = ring.plus(in_character, in_blank)
    score = np.full((width, nodes.stop - nodes.start, images), ring.zero)
    for t in range(level, steps):  # a prefix of `level` characters takes as many steps
        reach = slice(max(nodes.start, unrolled.windows[t].start),
                      min(nodes.stop, unrolled.windows[t].stop))
        if reach.start < reach.stop:
            part = score[:, reach.start - nodes.start:reach.stop - nodes.start]
            ring.plus(part, ring.times(either[t][:, None], ahead[t, reach]), out=part)
    # The last character again needs a blank before it.
    again = np.where(last >= 0, unrolled.follow[state, np.maximum(last, 0)], -1)
    prefix, column = np.nonzero((again >= nodes.start) & (again < nodes.stop))
    again = again[prefix, column]
    score[prefix, again - nodes.start, column] = ring.plus.reduce(
        ring.times(in_blank[:-1, prefix, column], ahead[:, again, column]), axis=0)
    valid = unrolled.follows[:, nodes][state].transpose(0, 2, 1)
    return np.where(valid, score, ring.zero)


def _select(score: np.ndarray, width: int, bound: np.ndarray,
            ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `width` best, ``[k, n]``, their scores, and the bound raised to the best of the rest."""
    flat = score.reshape(-1, score.shape[-1])
    width = min(width, len(flat))
    column = np.arange(flat.shape[1])
    if width > 8:
        order = np.argsort(-flat, axis=0, kind="stable")
        rest = flat[order[width], column] if width < len(flat) else bound
        return order[:width], flat[order[:width], column], np.maximum(bound, rest)
    chosen = np.empty((width, len(column)), int)
    kept = np.empty((width, len(column)))
    for k in range(width):
        chosen[k] = flat.argmax(axis=0)
        kept[k] = flat[chosen[k], column]
        flat[chosen[k], column] = -np.inf
    return chosen, kept, np.maximum(bound, flat.max(axis=0))


def _paths(enter: np.ndarray, emit: np.ndarray, blank: int, last: np.ndarray, level: int,
           ring: Semiring) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the paths of prefixes, given those that are about to enter the last character."""
    steps, width, images = enter.shape
    own = emit[:, last, np.arange(images)]
    in_character = np.full((steps + 1, width, images), ring.zero)
    in_blank = np.full((steps + 1, width, images), ring.zero)
    for t in range(level, steps):
        in_character[t + 1] = ring.times(own[t], ring.plus(in_character[t], enter[t]))
        in_blank[t + 1] = ring.times(emit[t, blank], ring.plus(in_blank[t], in_character[t]))
    return in_character, in_blank
