"""One training loop, for any loss."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn, optim

from mendscan.config import TrainingSettings
from mendscan.models.dropout import dropout_drawn_from
from mendscan.training.muon import Muon

__all__ = ["LossOfStep", "generator_for", "learning_rate_factor", "make_optimiser", "train_steps"]

LossOfStep = Callable[[int], dict[str, Tensor]]
"""The losses of one step; the optimised one is called ``loss``.  A function of the step alone, so that a resumed
training goes on as if it had never stopped."""

_RISE = 0.1
"""Part of a one-cycle schedule in which the learning rate rises."""


def train_steps(
    parameters: list[nn.Parameter],
    optimiser: optim.Optimizer,
    loss_of_step: LossOfStep,
    *,
    first_step: int,
    steps: int,
    seed_name: str,
    settings: TrainingSettings,
    after_step: Callable[[int, dict[str, float]], None],
) -> None:
    """Take the steps `first_step` … `steps` - 1.

    Args:
        parameters: What is trained.
        optimiser: Over these parameters; its learning rate is the peak of the schedule.
        loss_of_step: The losses of a step.
        first_step: 0, or the first step not yet taken.
        steps: Where the schedule ends.
        seed_name: Names the stream of random numbers (dropout).
        settings: Schedule and clipping.
        after_step: Told the step just taken and its losses; may raise to stop.
    """
    peaks = [group.setdefault("initial_lr", group["lr"]) for group in optimiser.param_groups]
    for step in range(first_step, steps):
        for group, peak in zip(optimiser.param_groups, peaks, strict=True):
            group["lr"] = peak * learning_rate_factor(step, steps, settings.schedule)
        with dropout_drawn_from(generator_for(seed_name, step)):
            losses = loss_of_step(step)
            optimiser.zero_grad(set_to_none=True)
            losses["loss"].backward()
        _clip(parameters, settings)
        optimiser.step()
        after_step(step, {name: float(value.detach()) for name, value in losses.items()})


def learning_rate_factor(step: int, steps: int, schedule: Literal["constant", "one-cycle"]) -> float:
    """Return the learning rate of a step as a fraction of its peak.

    Example:
        >>> [round(learning_rate_factor(step, 100, "one-cycle"), 2) for step in (0, 10, 55, 99)]
        [0.1, 1.0, 0.5, 0.0]
    """
    if schedule == "constant":
        return 1.0
    rise = max(1, round(_RISE * steps))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def make_optimiser(parameters: list[nn.Parameter], settings: TrainingSettings, *, rate: float) -> optim.Optimizer:
    """Return the optimiser of the settings: Adam (the paper), AdamW or Muon."""
    if settings.optimiser == "muon":
        return Muon(parameters, lr=rate, weight_decay=settings.weight_decay)
    kind = optim.AdamW if settings.optimiser == "adamw" else optim.Adam
    return kind(parameters, lr=rate, weight_decay=settings.weight_decay)


def generator_for(*names: object) -> torch.Generator:
    """Return a CPU generator whose stream is a function of `names` alone."""
    return torch.Generator().manual_seed(_seed(":".join(map(str, names))))


def _seed(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big")


def _clip(parameters: list[nn.Parameter], settings: TrainingSettings) -> None:
    if settings.clip == "value":
        nn.utils.clip_grad_value_(parameters, settings.clip_at)
    else:
        nn.utils.clip_grad_norm_(parameters, settings.clip_at)
