"""How every network among the baselines is trained: in the model's own loop, within a budget fixed beforehand."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from mendscan.baselines.healthy import HealthyCohort
from mendscan.cohort.preparing import Prepared
from mendscan.config import Settings
from mendscan.detection.devices import one_thread
from mendscan.errors import ModelError, SettingsError
from mendscan.progress import Progress, Silent
from mendscan.shapes import SlicesSHW
from mendscan.strict_json import read_json
from mendscan.training.interrupts import StopRequest
from mendscan.training.loop import LossOfStep, generator_for
from mendscan.training.metrics_log import MetricsLog
from mendscan.training.run import StageFolder, StageRun
from mendscan.training.stages import SliceData
from mendscan.training.timing import LONG_TRAINING, seconds_per_step, steps_of_one
from mendscan.volumes.locking import locked
from mendscan.volumes.writing import make_folder, write_json

__all__ = [
    "Budget",
    "NetworkTraining",
    "Reconstruct",
    "arithmetic",
    "extended_to_multiple",
    "holdout_l1",
    "new_network",
    "reconstruction_residual",
    "train_network",
    "training_folder",
]

_VALIDATION_SLICES = 512
_BATCH = 16
"""Slices reconstructed at once; fixed, so that a scan's map depends on nothing but the scan."""

Network = TypeVar("Network", bound=nn.Module)
Reconstruct = Callable[[Float[Tensor, "B H W"], Float[Tensor, " B"]], Float[Tensor, "B H W"]]
"""What a network makes of slices, given their slice coordinates."""


@dataclass(frozen=True)
class Budget:
    """How long a network is trained: minutes, or steps to repeat a training exactly.

    Example:
        >>> Budget(minutes=30.0).steps is None
        True
    """

    minutes: float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise ValueError(f"found {self}; expected either minutes or steps")
        if not (self.minutes or self.steps or 0) > 0:
            raise ValueError(f"found {self}; expected a positive number")


@dataclass(frozen=True)
class NetworkTraining(Generic[Network]):
    """What differs between the networks: everything else about their training is the same.

    Attributes:
        name: Names checkpoint, log lines and random numbers.
        new: Returns an untrained network, a function of the plan's seed.
        loss: The losses of a step, of a training of so many steps.
        validate: Hold-out figures after a step, of a training of so many steps.
    """

    name: str
    new: Callable[[], Network]
    loss: Callable[[Network, int], LossOfStep]
    validate: Callable[[Network, int, int], dict[str, float]]


def train_network(
    training: NetworkTraining[Network], cohort: HealthyCohort, budget: Budget, where: StageFolder
) -> tuple[Network, int]:
    """Train a network, or go on where a stopped training of it was.

    Args:
        training: The network and its losses.
        cohort: The healthy scans.
        budget: Minutes are turned into steps before training, once: a resumed training keeps them.
        where: Where it saves and logs itself.

    Returns:
        The network and the steps it took.

    Raises:
        Interrupted: If a stop was requested; everything is saved.
        SettingsError: If the training that was stopped there was another one.
        ModelError: If what was recorded of it is damaged (E_RESUME).
        WriteError: If another run is at work there (E_LOCKED), or something cannot be written.
    """
    settings = cohort.settings
    with locked(where.work, "training"):
        steps = _fixed_steps(training, cohort, budget, where)
        network = training.new()
        StageRun(training.name, network, settings.training.learning_rate_vqvae, steps, settings, where).run(
            lambda: (training.loss(network, steps), lambda step: training.validate(network, step, steps))
        )
    return network, steps


def training_folder(
    folder: str | Path, *, progress: Progress | None = None, stop: StopRequest | None = None
) -> StageFolder:
    """Return where one baseline saves and logs itself: ``folder/work`` and ``folder/metrics.jsonl``.

    Args:
        folder: A folder of its own for each baseline.
        progress: Told of every step.
        stop: Whether someone asked to stop, as `mendscan.training.interrupts.stop_requests` yields it.
    """
    work = make_folder(Path(folder) / "work")
    return StageFolder(work, MetricsLog(Path(folder) / "metrics.jsonl"), progress or Silent(), stop or StopRequest())


def new_network(build: Callable[[], Network], cohort: HealthyCohort, *, name: str) -> Network:
    """Return an untrained network on the cohort's device, its weights a function of the plan's seed and `name`."""
    with torch.random.fork_rng():
        torch.manual_seed(generator_for(cohort.settings.seed, "weights", name).initial_seed())
        network = build()
    lower, on_cpu = cohort.settings.training.precision == "bfloat16", cohort.device.type == "cpu"
    # As for the model's own VQ-VAE: the layout that was measured faster in training.
    layout = torch.contiguous_format if on_cpu and lower else torch.channels_last
    return network.to(device=cohort.device, memory_format=layout)  # type: ignore[call-overload]


def arithmetic(settings: Settings, device: torch.device) -> torch.autocast:
    """Return the plan's arithmetic for the forward pass of a training step; parameters stay float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=settings.training.precision == "bfloat16")


def extended_to_multiple(x_BCHW: Float[Tensor, "B C H W"], multiple: int) -> Float[Tensor, "B C h w"]:
    """Extend height and width to a multiple, by repeating the last row and column; the original is the first corner.

    Example:
        >>> extended_to_multiple(torch.zeros(1, 1, 5, 8), 4).shape
        torch.Size([1, 1, 8, 8])
    """
    height, width = x_BCHW.shape[2:]
    return pad(x_BCHW, (0, -width % multiple, 0, -height % multiple), mode="replicate")


@torch.inference_mode()
def holdout_l1(network: nn.Module, reconstruct: Reconstruct, data: SliceData) -> dict[str, float]:
    """Return the mean absolute error of hold-out slices; the network is left in training mode."""
    network.eval()
    error, chosen = 0.0, data.spread(_VALIDATION_SLICES)
    for part in chosen.split(_BATCH):
        slices_BHW, position_B = data.batch(part)
        error += float((reconstruct(slices_BHW, position_B) - slices_BHW).abs().mean()) * len(part)
    network.train()
    return {"holdout_l1": error / len(chosen)}


@torch.inference_mode()
def reconstruction_residual(reconstruct: Reconstruct, prepared: Prepared, device: torch.device) -> SlicesSHW:
    """Return |x − x̂| of every slice of a scan, in normalised intensity.

    Args:
        reconstruct: The network, in evaluation mode.
        prepared: The scan.
        device: Where the network is.
    """
    slices_SHW = torch.from_numpy(prepared.slices_SHW).to(device)
    positions_S = torch.from_numpy(prepared.positions_S).to(device)
    batches = zip(slices_SHW.split(_BATCH), positions_S.split(_BATCH), strict=True)
    with one_thread(device):
        parts = [(reconstruct(x_BHW, c_B) - x_BHW).abs() for x_BHW, c_B in batches]
    return torch.cat(parts).cpu().numpy()


def _fixed_steps(training: NetworkTraining[Network], cohort: HealthyCohort, budget: Budget, where: StageFolder) -> int:
    """Return the steps of this training: those recorded when it began, or else of the budget, which are recorded."""
    record = where.work / f"{training.name}.json"
    own = {"plan": _plan_hash(cohort), "minutes": budget.minutes}
    if record.exists():
        steps, begun = _begun(record)
        if begun != own or budget.steps not in (None, steps):
            raise SettingsError(
                "another training was begun here",
                where=where.work,
                code="E_RESUME_SETTINGS",
                remedy="give the same plan, scans and budget, or another folder",
            )
        return steps
    steps = budget.steps or _steps_in(60 * (budget.minutes or 0), training, cohort, where.progress)
    write_json(record, {**own, "steps": steps})
    return steps


def _begun(record: Path) -> tuple[int, dict[str, Any]]:
    """Return the steps of a training that was begun, and what else is recorded of it."""
    try:
        begun = dict(read_json(record))
        return int(begun.pop("steps")), begun
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            "the record of the stopped training is damaged",
            where=record,
            code="E_RESUME",
            found=error,
            remedy="train anew, in another folder",
        ) from None


def _steps_in(seconds: float, training: NetworkTraining[Network], cohort: HealthyCohort, progress: Progress) -> int:
    progress.begin("time a few steps", 1)
    throwaway = training.new().train()
    data, rate = cohort.slices(cohort.split.train), cohort.settings.training.learning_rate_vqvae
    per_step = seconds_per_step(throwaway, rate, training.loss(throwaway, LONG_TRAINING), data)
    progress.advance()
    return steps_of_one(seconds, per_step)


def _plan_hash(cohort: HealthyCohort) -> str:
    text = cohort.settings.model_dump_json() + json.dumps(cohort.split.to_json(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
