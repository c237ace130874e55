"""Multiply-accumulates of LPRNet by role."""

from __future__ import annotations

from functools import lru_cache

import torch

from ...datasets.alphabet import PUBLISHED
from . import LPRNET
from .roles import role_of_convolution


@lru_cache(2)
def work_by_role(form: str) -> dict[str | None, int]:
    """Multiply-accumulates of the convolutions of a form of the network, for one image."""
    assert LPRNET.build is not None
    network = LPRNET.build(PUBLISHED.size, LPRNET.batch_means[0], form, None)
    seen: list[tuple[tuple[int, ...], tuple[int, ...], int]] = []

    def count(layer: torch.nn.Conv2d, given: tuple[torch.Tensor], made: torch.Tensor) -> None:
        each = layer.weight[0].numel()
        seen.append((tuple(given[0].shape[2:]), tuple(made.shape[2:]), made[0].numel() * each))

    hooks = [
        layer.register_forward_hook(count)
        for layer in network.modules()
        if isinstance(layer, torch.nn.Conv2d)
    ]
    with torch.inference_mode():
        network(torch.zeros(1, *LPRNET.input.shape))
    for hook in hooks:
        hook.remove()
    work: dict[str | None, int] = {}
    same = 0
    for before, after, number in seen:
        role = role_of_convolution(before, after, same)
        same += after == (18, 44)
        work[role] = work.get(role, 0) + number
    return work
