"""How long training goes on: a time, a number of steps or a number of epochs, fixed and recorded before it begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from mendscan.cohort.decision import Decision
from mendscan.cohort.plan import Plan
from mendscan.cohort.plan_planes import TWO_PLANES_FROM, with_two_planes
from mendscan.config import Settings, override
from mendscan.errors import SettingsError
from mendscan.progress import Progress
from mendscan.training.building import new_discriminator, new_networks, stage_steps
from mendscan.training.epochs import Epochs
from mendscan.training.request import Budget
from mendscan.training.stages import SliceData
from mendscan.training.timing import seconds_for, steps_for

__all__ = ["DEFAULT_MINUTES", "EpochEstimate", "check_epochs", "with_budget"]

DEFAULT_MINUTES = 30.0


@dataclass(frozen=True)
class EpochEstimate:
    """What training by epochs comes to.

    Attributes:
        epochs: Of the VQ-VAE, and as many of the prior.
        steps: Of both together.
        seconds: How long they will take on this device, from a few timed steps.
    """

    epochs: int
    steps: int
    seconds: float


def check_epochs(settings: Settings, asked: Budget) -> None:
    """Refuse epochs where there are none, or where they are not for the VQ-VAE and the prior alike.

    Raises:
        SettingsError: If training would go by epochs and cannot.
    """
    training = settings.training
    if not _goes_by_epochs(settings, asked):
        return
    if training.slices_per_scan is None:
        raise SettingsError(
            "there are no epochs",
            where="training.epochs",
            found="training.slices_per_scan=none",
            remedy="set it, or give --minutes or --steps",
        )
    if training.vqvae_share != 0.5 or settings.has_discriminator or settings.further_planes:
        raise SettingsError(
            "epochs are for the VQ-VAE and the prior alike, and for no other network",
            where="training.epochs",
            found=f"training.vqvae_share={training.vqvae_share:g}, "
            f"training.discriminator_share={training.discriminator_share:g}, "
            f"preparation.planes={settings.preparation.planes}",
            remedy="set them to 0.5, 0 and 1, or give --minutes or --steps",
        )


def with_budget(
    plan: Plan,
    data: SliceData,
    asked: Budget,
    progress: Progress,
    on_estimate: Callable[[EpochEstimate], None] | None = None,
) -> Plan:
    """Return the plan with the number of steps.

    Args:
        plan: Its steps come first, then what was asked for, then its epochs, then 30 minutes.
        data: The training slices.
        asked: How long to train; its epochs are in the plan already.
        progress: Told of the timing.
        on_estimate: Told what epochs come to.
    """
    if (steps := plan.settings.training.steps) is not None:
        plan = _without_epochs(plan)
        return (with_two_planes(plan) if steps >= TWO_PLANES_FROM else None) or plan
    if _goes_by_epochs(plan.settings, asked):
        estimate = _epoch_estimate(plan.settings, data, progress)
        if on_estimate is not None:
            on_estimate(estimate)
        return _with_epochs(plan, estimate, len(data.scans))
    plan = _without_epochs(plan)

    def steps_of(settings: Settings) -> int:
        return asked.steps or _timed_steps(settings, data, asked.minutes or DEFAULT_MINUTES, progress)

    two = with_two_planes(plan)
    if two is None:
        return _with_steps(plan, steps_of(plan.settings))
    if (steps := steps_of(two.settings)) >= TWO_PLANES_FROM:
        return _with_steps(two, steps)
    # So many steps, asked for, must lead to this plan again.
    return _with_steps(plan, min(steps_of(plan.settings), TWO_PLANES_FROM - 1))


def _epoch_estimate(settings: Settings, data: SliceData, progress: Progress) -> EpochEstimate:
    training = settings.training
    epochs = Epochs.of(len(data.scans), training)
    if epochs is None or training.epochs is None:
        raise ValueError("the plan knows no epochs; check_epochs comes first")
    total = 2 * training.epochs * epochs.steps
    progress.begin("time a few steps", 1)
    steps = stage_steps(override(settings, [f"training.steps={total}"]))
    seconds = seconds_for(steps.vqvae, steps.prior, *new_networks(settings, data.device), data)
    progress.advance()
    return EpochEstimate(training.epochs, total, seconds)


def _goes_by_epochs(settings: Settings, asked: Budget) -> bool:
    training = settings.training
    return training.epochs is not None and training.steps is None and asked.steps is None and asked.minutes is None


def _timed_steps(settings: Settings, data: SliceData, minutes: float, progress: Progress) -> int:
    progress.begin("time a few steps", 1)
    throwaway = new_networks(settings, data.device)
    timed = replace(data, settings=settings)
    steps = steps_for(60 * minutes, *throwaway, new_discriminator(settings, data.device), timed)
    progress.advance()
    return steps


def _with_epochs(plan: Plan, estimate: EpochEstimate, scans: int) -> Plan:
    reason = (
        f"{estimate.epochs} epochs of the VQ-VAE and as many of the prior: each takes every one of the {scans} "
        f"training scans once, by {plan.settings.training.slices_per_scan} random slices"
    )
    return _decided(plan, estimate.steps, reason)


def _with_steps(plan: Plan, steps: int) -> Plan:
    counts = stage_steps(override(plan.settings, [f"training.steps={steps}"]))
    third = f", {counts.discriminator} for the discriminator" if counts.discriminator else ""
    which = "the" if plan.settings.preparation.planes == 1 else "each"
    reason = (
        f"{counts.vqvae} for {which} VQ-VAE, {counts.prior} for {which} prior{third}; "
        f"--steps {steps} repeats this training"
    )
    return _decided(plan, steps, reason)


def _decided(plan: Plan, steps: int, reason: str) -> Plan:
    settings = override(plan.settings, [f"training.steps={steps}"])
    return plan.decided(Decision("training.steps", str(steps), reason), settings=settings)


def _without_epochs(plan: Plan) -> Plan:
    if plan.settings.training.epochs is None:
        return plan
    return replace(plan, settings=override(plan.settings, ["training.epochs=none"]))
