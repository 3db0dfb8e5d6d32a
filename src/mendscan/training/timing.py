"""How many steps fit into a time: a few are taken with throwaway networks and timed."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise
from threading import Event
from typing import NamedTuple

import torch

from mendscan.config import Settings, override
from mendscan.detection.devices import threads
from mendscan.models.discriminator import Discriminator
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.vqvae import VQVAE
from mendscan.training.building import stage_steps
from mendscan.training.discriminating import ScanData, discriminator_loss
from mendscan.training.loop import LossOfStep, make_optimiser, train_steps
from mendscan.training.side_by_side import Crew
from mendscan.training.stages import SliceData, encode_views, fresh_prior_loss, prior_loss, vqvae_loss

__all__ = ["FEWEST_STEPS", "LONG_TRAINING", "seconds_for", "seconds_per_step", "steps_for", "steps_of_one"]

FEWEST_STEPS = 20
"""Below, a schedule has no shape: a shorter time gets this many."""
_TIMED_STEPS = 6
LONG_TRAINING = 10**6
"""Steps of the training in whose middle steps are timed: the first ones of a VQ-VAE have no codes yet."""
_FEWER = 0.995
"""Steps are taken away by this factor until they fit."""
_ENOUGH_SECONDS = 15.0
"""Longer than this no network is timed: two steps, where steps are so slow."""
_OVERHEAD = 1.06
"""Validation, checkpoints and logging on top of the steps."""


def steps_for(
    seconds: float, vqvae: VQVAE, prior: PixelSNAIL, discriminator: Discriminator | None, data: SliceData
) -> int:
    """Return how many steps, of all networks together and including the encoding between, take about `seconds`.

    Args:
        seconds: The time to fill.
        vqvae: A throwaway VQ-VAE.
        prior: A throwaway prior.
        discriminator: A throwaway discriminator, or None if there will be none.
        data: The training slices.
    """
    settings = data.settings
    crew = Crew.for_networks(settings.preparation.planes + (discriminator is not None), data.device)
    with threads(crew.threads), _busy(crew.at_once - 1, vqvae, data):
        encoding, per_vqvae, per_prior = _timed(vqvae, prior, data)
        per_discriminator = 0.0
        if discriminator is not None:
            scans = ScanData(data.slices_NSHW, data.scans, settings, data.device)
            loss = discriminator_loss(discriminator.train(), scans)
            per_discriminator = seconds_per_step(discriminator, settings.discriminator.learning_rate, loss, data)
    encoding = min(encoding, 0.3 * seconds)
    # Another member of the discriminator shortens the longest training: time does not only grow with the steps.
    steps = int(seconds * torch.get_num_threads() / min(per_vqvae, per_prior, per_discriminator or per_prior))
    cost = _Cost(encoding, per_vqvae, per_prior, per_discriminator)
    while steps > FEWEST_STEPS and cost.of_all(steps, settings, data.device) > seconds:
        steps = int(steps * _FEWER)
    return max(FEWEST_STEPS, steps)


class _Cost(NamedTuple):
    """Seconds of the encoding for one prior, and of one step of each network."""

    encoding: float
    vqvae: float
    prior: float
    discriminator: float

    def of_all(self, total: int, settings: Settings, device: torch.device) -> float:
        """Return the seconds that so many steps take: shared out to the cores, or the longest training alone."""
        settings = override(settings, [f"training.steps={total}"])
        steps, members = stage_steps(settings), settings.discriminator_members if settings.has_discriminator else 0
        plane = self.encoding + _OVERHEAD * (steps.vqvae * self.vqvae + steps.prior * self.prior)
        discriminator = _OVERHEAD * steps.discriminator * self.discriminator
        planes = settings.preparation.planes
        at_once = Crew.for_networks(planes + members, device).at_once
        return max((planes * plane + discriminator) / at_once, plane, discriminator / max(1, members))


def seconds_for(vqvae_steps: int, prior_steps: int, vqvae: VQVAE, prior: PixelSNAIL, data: SliceData) -> float:
    """Return how many seconds so many steps take, including the encoding between.

    Args:
        vqvae_steps: Steps of the VQ-VAE.
        prior_steps: Steps of the prior.
        vqvae: A throwaway VQ-VAE.
        prior: A throwaway prior.
        data: The training slices.
    """
    encoding, per_vqvae, per_prior = _timed(vqvae, prior, data)
    return encoding + (vqvae_steps * per_vqvae + prior_steps * per_prior) * _OVERHEAD


def _timed(vqvae: VQVAE, prior: PixelSNAIL, data: SliceData) -> tuple[float, float, float]:
    """Return the seconds of encoding all slices, of a step of the VQ-VAE and of one of the prior."""
    training, encoding = data.settings.training, 0.0
    if training.prior_views is None:
        loss = fresh_prior_loss(prior, vqvae, data)
    else:
        sample = SliceData(data.slices_NSHW, data.scans[:1], data.slices, data.settings, data.device)
        started = time.perf_counter()
        codes = encode_views(vqvae, sample, 2, lambda _: None)
        encoding = (time.perf_counter() - started) / (2 * len(sample)) * len(data) * training.prior_views
        loss = prior_loss(prior, codes, data.settings)
    per_prior = seconds_per_step(prior.train(), training.learning_rate_prior, loss, data)
    per_vqvae = seconds_per_step(
        vqvae.train(), training.learning_rate_vqvae, vqvae_loss(vqvae, data, LONG_TRAINING), data
    )
    return encoding, per_vqvae, per_prior


def steps_of_one(seconds: float, per_step: float) -> int:
    """Return how many steps of a single network take about `seconds`, validation and checkpoints included.

    Args:
        seconds: The time to fill.
        per_step: What `seconds_per_step` found.
    """
    return max(FEWEST_STEPS, int(seconds / (per_step * _OVERHEAD)))


def seconds_per_step(network: torch.nn.Module, rate: float, loss: LossOfStep, data: SliceData) -> float:
    """Take a few steps and return the median time of one, in seconds.

    Args:
        network: A throwaway network in training mode; it is changed.
        rate: Its learning rate.
        loss: The losses of a step, as in training.
        data: The training slices.
    """
    moments: list[float] = []

    def after_step(*_: object) -> None:
        moments.append(time.perf_counter())
        enough = len(moments) > 2 and moments[-1] - moments[0] > _ENOUGH_SECONDS
        if enough or len(moments) > _TIMED_STEPS:
            raise _EnoughError

    with suppress(_EnoughError):
        _take(network, rate, loss, data, after_step)
    # The first step allocates and compiles; the median of the rest ignores a hiccup.
    gaps = sorted(later - earlier for earlier, later in pairwise(moments))
    return gaps[len(gaps) // 2]


def _take(
    network: torch.nn.Module,
    rate: float,
    loss: LossOfStep,
    data: SliceData,
    after_step: Callable[[int, dict[str, float]], None],
) -> None:
    """Take steps with a throwaway network until `after_step` raises."""
    parameters = list(network.parameters())
    train_steps(
        parameters,
        make_optimiser(parameters, data.settings.training, rate=rate),
        loss,
        first_step=LONG_TRAINING // 2,
        steps=LONG_TRAINING,
        seed_name="timing",
        settings=data.settings.training,
        after_step=after_step,
    )


@contextmanager
def _busy(others: int, vqvae: VQVAE, data: SliceData) -> Iterator[None]:
    """Let so many other networks take steps while the block lasts, as in training.

    Cores share memory and caches: a step taken alone is faster than one beside another network.
    """
    over = Event()

    def after_step(*_: object) -> None:
        if over.is_set():
            raise _EnoughError

    def take_steps(network: VQVAE) -> None:
        with suppress(_EnoughError):
            _take(
                network,
                data.settings.training.learning_rate_vqvae,
                vqvae_loss(network, data, LONG_TRAINING),
                data,
                after_step,
            )

    with ThreadPoolExecutor(max(1, others), thread_name_prefix="load") as pool:
        working = [pool.submit(take_steps, copy.deepcopy(vqvae).train()) for _ in range(others)]
        try:
            yield
        finally:
            over.set()
    for each in working:
        each.result()


class _EnoughError(Exception):
    """Enough steps were timed."""
