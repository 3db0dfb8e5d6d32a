"""One stage of a training run on disk: it starts or resumes, takes its steps, validates, logs and saves itself."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mendscan.config import Settings
from mendscan.errors import Interrupted, MendscanError
from mendscan.progress import Progress
from mendscan.training.checkpoint import Checkpoints, restore
from mendscan.training.epochs import EpochMean, Epochs
from mendscan.training.interrupts import StopRequest
from mendscan.training.loop import LossOfStep, make_optimiser, train_steps
from mendscan.training.metrics_log import MetricsLog
from mendscan.training.side_by_side import Turn

__all__ = ["StageFolder", "StageRun", "Validate"]

Validate = Callable[[int], dict[str, float]]
"""Returns hold-out figures after a step."""

_VALIDATIONS = 20
"""Hold-out figures are computed this often in a stage, or a little more often, or in a short one …"""
_FEWEST_STEPS_BETWEEN = 5
"""… after so many steps."""
_LOG_LINES = 400
_SAVE_EVERY_SECONDS = 60.0


@dataclass(frozen=True)
class StageFolder:
    """Where a stage saves and logs itself, and who listens.

    Attributes:
        work: Folder of the checkpoints.
        log: Metrics of the run.
        progress: Told of every step.
        stop: Whether someone asked to stop.
        turn: Passed on after each step, where several networks are trained at once.
    """

    work: Path
    log: MetricsLog
    progress: Progress
    stop: StopRequest
    turn: Turn = field(default_factory=Turn)

    def advance(self, units: int = 1) -> None:
        """Tell how far work between two stages is.

        Raises:
            Interrupted: If a stop was requested.
        """
        self.progress.advance(units)
        if self.stop.made:
            raise self.interrupted("stopped between two networks")

    def interrupted(self, what: str) -> Interrupted:
        """Return the error of a training that can go on."""
        return Interrupted(
            f"{what}; everything is saved",
            where=self.work.parent,
            remedy="go on with the same command and --resume",
        )


@dataclass
class StageRun:
    """Trains one network, and can be stopped and resumed at any step without changing what comes out.

    Attributes:
        name: ``vqvae``, ``prior`` or ``discriminator``; of another plane with it, as in ``vqvae-X``; of one of several
            members with its number, as in ``discriminator-2``.
        network: What is trained.
        rate: Peak learning rate.
        steps: Steps of this stage.
        settings: The model's settings.
        where: Where it saves and logs itself.
        epochs: How its steps add up to epochs; hold-out figures are then computed after each, beside its mean loss.
        basis: Digest of the networks that this one is trained on top of: with others, it begins anew.
    """

    name: str
    network: nn.Module
    rate: float
    steps: int
    settings: Settings
    where: StageFolder
    epochs: Epochs | None = None
    basis: str = ""
    _epoch_mean: EpochMean | None = field(default=None, init=False)
    _saved_at: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        self._checkpoints = Checkpoints(self.where.work, self.name, self.where.progress.say)

    def run(self, begin: Callable[[], tuple[LossOfStep, Validate]]) -> None:
        """Take all steps that are not yet taken.

        Args:
            begin: Returns the losses of a step and the hold-out figures after one; called only if a step is to be
                taken, for it may have much to compute first.

        Raises:
            Interrupted: If a stop was requested; the stage is saved and goes on where it was when run again.
        """
        self._epoch_mean = None if self.epochs is None else EpochMean(self.epochs)
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        optimiser = make_optimiser(parameters, self.settings.training, rate=self.rate)
        first_step = self._resume(optimiser)
        self.where.turn.taken += first_step
        if first_step == self.steps:
            return
        loss_of_step, validate = begin()
        self.where.progress.begin(self.name, self.steps, done=first_step)
        self._saved_at = time.monotonic()
        self.network.train()

        def after_step(step: int, losses: dict[str, float]) -> None:
            self._check(step, losses)
            self._report(step, losses, validate)
            self._save_if_due(step + 1, optimiser)
            self.where.turn.pass_on()

        with self.where.stop.deferred():
            train_steps(
                parameters,
                optimiser,
                loss_of_step,
                first_step=first_step,
                steps=self.steps,
                seed_name=f"{self.settings.seed}:{self.name}",
                settings=self.settings.training,
                after_step=after_step,
            )

    def _resume(self, optimiser: torch.optim.Optimizer) -> int:
        saved = self._checkpoints.newest(self.basis)
        self.where.log.restore(self.name, [] if saved is None else saved.facts["log"])
        if saved is None:
            return 0
        restore(saved, self.network, optimiser)
        if saved.facts["threads"] != torch.get_num_threads():
            self.where.progress.say(
                f"warning: this training began with {saved.facts['threads']} threads and goes on with "
                f"{torch.get_num_threads()}: the model will be nearly, not exactly, the one of an unbroken run"
            )
        if self._epoch_mean is not None:
            self._epoch_mean.total, self._epoch_mean.scans = saved.facts["epoch_mean"]
        return int(saved.facts["step"])

    def _check(self, step: int, losses: dict[str, float]) -> None:
        if not all(map(_is_finite, losses.values())):
            raise MendscanError(
                "the loss is no longer finite",
                where=f"{self.name}, step {step}",
                code="E_DIVERGED",
                found=losses,
                remedy=f"train anew with a lower {self._rate_setting}; the last good checkpoint stays",
            )

    @property
    def _rate_setting(self) -> str:
        network = self.name.partition("-")[0]
        own = network == "discriminator"
        return "discriminator.learning_rate" if own else f"training.learning_rate_{network}"

    def _report(self, step: int, losses: dict[str, float], validate: Callable[[int], dict[str, float]]) -> None:
        figures: dict[str, Any] = dict(losses)
        if self._epoch_mean is not None:
            self._epoch_mean.add(step, losses["loss"])
        if self._is_validated(step):
            figures |= validate(step) | (self._epoch_mean.figures(step) if self._epoch_mean is not None else {})
        if len(figures) > len(losses) or step % max(1, self.steps // _LOG_LINES) == 0:
            self.where.log.write(self.name, step, **figures)
        self.where.progress.advance(1, **figures)

    def _is_validated(self, step: int) -> bool:
        due = (
            (step + 1) % max(_FEWEST_STEPS_BETWEEN, self.steps // _VALIDATIONS) == 0
            if self.epochs is None
            else self.epochs.ends_with(step)
        )
        return due or step == self.steps - 1

    def _save_if_due(self, steps_taken: int, optimiser: torch.optim.Optimizer) -> None:
        done = steps_taken == self.steps
        if not (done or self.where.stop.made or time.monotonic() - self._saved_at > _SAVE_EVERY_SECONDS):
            return
        logged = [entry for entry in self.where.log.entries() if entry["stage"] == self.name]
        facts: dict[str, Any] = {"basis": self.basis, "threads": torch.get_num_threads(), "log": logged}
        if self._epoch_mean is not None:
            facts["epoch_mean"] = [self._epoch_mean.total, self._epoch_mean.scans]
        self._checkpoints.save(steps_taken, self.network, optimiser, facts)
        self._saved_at = time.monotonic()
        if self.where.stop.made and not done:
            raise self.where.interrupted(f"stopped at step {steps_taken} of {self.steps} of the {self.name}")


def _is_finite(value: float) -> bool:
    return math.isfinite(value)
