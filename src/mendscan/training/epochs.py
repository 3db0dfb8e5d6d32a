"""Epochs as the original counts them: every training scan once, in random order, by a few random slices."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from mendscan.config import TrainingSettings
from mendscan.training.loop import generator_for

__all__ = ["EpochMean", "Epochs"]


@dataclass(frozen=True)
class Epochs:
    """How steps add up to epochs.

    Attributes:
        scans: Training scans.
        scans_per_step: Scans whose slices make one step; the last step of an epoch takes what is left.
        slices_per_scan: Slices of each.
    """

    scans: int
    scans_per_step: int
    slices_per_scan: int

    @classmethod
    def of(cls, scans: int, training: TrainingSettings) -> Epochs | None:
        """Return the epochs of so many scans; None if the settings know none."""
        if training.slices_per_scan is None:
            return None
        slices = min(training.slices_per_scan, training.batch_slices)
        return cls(scans, training.batch_slices // slices, slices)

    @property
    def steps(self) -> int:
        """Steps of one epoch."""
        return -(-self.scans // self.scans_per_step)

    def scans_in(self, step: int) -> int:
        """Return how many scans a step takes."""
        return min(self.scans_per_step, self.scans - step % self.steps * self.scans_per_step)

    def ends_with(self, step: int) -> bool:
        """Return whether a step is the last of its epoch."""
        return (step + 1) % self.steps == 0

    def scans_of(self, step: int, *, stage: str, seed: int) -> Int[Tensor, " n"]:
        """Return which scans a step takes: a function of the arguments alone, so that training can be resumed."""
        epoch, place = divmod(step, self.steps)
        order = torch.randperm(self.scans, generator=generator_for(seed, stage, "epoch", epoch))
        return order[place * self.scans_per_step :][: self.scans_per_step]


@dataclass
class EpochMean:
    """The mean loss of the epoch so far, over slices; it goes into checkpoints as two numbers."""

    epochs: Epochs
    total: float = field(default=0.0)
    scans: int = field(default=0)

    def add(self, step: int, loss: float) -> None:
        """Take in the loss of a step; the first step of an epoch forgets the epoch before."""
        if step % self.epochs.steps == 0:
            self.total, self.scans = 0.0, 0
        self.total += loss * self.epochs.scans_in(step)
        self.scans += self.epochs.scans_in(step)

    def figures(self, step: int) -> dict[str, float]:
        """Return the number of the epoch that `step` ends, from 1, and its mean loss."""
        return {"epoch": step // self.epochs.steps + 1.0, "epoch_loss": self.total / max(1, self.scans)}
