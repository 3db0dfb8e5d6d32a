"""Every network of a model: built, trained side by side, each stage resumed where it was.

A VQ-VAE and the prior over its codes are trained one after the other; those of other slice axes and the members of the
discriminator depend on nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from mendscan.cohort.store import SliceStore, Split
from mendscan.config import Settings
from mendscan.detection.networks import Networks
from mendscan.models.discriminator import Discriminator
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.vqvae import VQVAE
from mendscan.training.building import StageSteps, new_discriminator, new_networks, stage_steps
from mendscan.training.checkpoint import state_digest
from mendscan.training.discriminating import ScanData, discriminator_loss, validate_discriminator
from mendscan.training.epochs import Epochs
from mendscan.training.loop import LossOfStep
from mendscan.training.run import StageFolder, StageRun, Validate
from mendscan.training.side_by_side import Crew, Turn, side_by_side
from mendscan.training.stages import (
    CodeData,
    SliceData,
    encode_views,
    fresh_prior_loss,
    prior_loss,
    validate_prior,
    validate_vqvae,
    validation_slices,
    vqvae_loss,
)

__all__ = ["slice_data", "stage_names", "train_networks"]


def stage_names(settings: Settings) -> list[str]:
    """Return the names of all stages, in the order in which they are logged.

    Those of the slice axis, of further ones, of each member of the discriminator, and of all members together.
    """
    planes = ["", *(f"-{axis}" for axis in settings.further_planes)]
    own = [f"{network}{suffix}" for suffix in planes for network in ("vqvae", "prior")]
    members = range(1, settings.discriminator_members + 1)
    return [*own, *(f"discriminator-{number}" for number in members), "discriminator"]


def train_networks(
    settings: Settings, store: SliceStore, split: Split, device: torch.device, where: StageFolder
) -> Networks:
    """Train the networks of each slice axis and, where the plan has one, the discriminator, side by side.

    Args:
        settings: The plan's, with the number of steps.
        store: The prepared scans.
        split: Which scans are learnt from, and which measure how training goes.
        device: Where the networks are.
        where: Where they save and log themselves.

    Returns:
        The networks, in evaluation mode.

    Raises:
        Interrupted: If a stop was requested; everything is saved, and training goes on there when it is called again.
        MendscanError: If the loss of one is no longer finite (E_DIVERGED); the others are saved.
        WriteError: If a checkpoint cannot be written.
    """
    steps, discriminator = stage_steps(settings), new_discriminator(settings, device)
    own, *further = (
        _Plane(plane, steps, *new_networks(plane, device), store, split, device, suffix)
        for suffix, plane in {"": settings, **{f"-{axis}": on for axis, on in settings.further_planes.items()}}.items()
    )
    members = [] if discriminator is None else _members(discriminator, settings, steps, store, split, device)
    apart: list[_Plane | _Member] = [own, *further, *members]
    trainings = [(each.steps_in_all, partial(each.train, where)) for each in apart]
    side_by_side(trainings, Crew.for_networks(len(trainings), device), where.stop)
    if discriminator is not None and len(members) > 1:
        figures = validate_discriminator(discriminator, members[0].validation)
        where.log.restore("discriminator", [])
        where.log.write("discriminator", steps.discriminator - 1, **figures)
    return replace(
        own.networks,
        discriminator=None if discriminator is None else discriminator.eval(),
        further=tuple(each.networks for each in further),
    )


@dataclass(frozen=True, eq=False)
class _Plane:
    """The VQ-VAE of slices along one axis, and the prior over their codes."""

    settings: Settings
    steps: StageSteps
    vqvae: VQVAE
    prior: PixelSNAIL
    store: SliceStore
    split: Split
    device: torch.device
    suffix: str

    @property
    def steps_in_all(self) -> int:
        return self.steps.vqvae + self.steps.prior

    @property
    def networks(self) -> Networks:
        return Networks(self.vqvae.eval(), self.prior.eval(), self.settings)

    def train(self, where: StageFolder, turn: Turn) -> None:
        """Train the VQ-VAE, encode the cohort, train the prior."""
        settings, steps, where = self.settings, self.steps, replace(where, turn=turn)
        vqvae, prior = self.vqvae, self.prior
        parts = (self.split.train, self.split.validation)
        training, validation = (slice_data(self.store, part, settings, self.device) for part in parts)
        epochs = Epochs.of(len(training.scans), settings.training)
        unquantised = round(settings.codebook.unquantised_fraction * steps.vqvae)
        rate = settings.training.learning_rate_vqvae
        StageRun(f"vqvae{self.suffix}", vqvae, rate, steps.vqvae, settings, where, epochs).run(
            lambda: (
                vqvae_loss(vqvae, training, steps.vqvae),
                lambda step: validate_vqvae(vqvae, validation, quantise=step >= unquantised),
            )
        )

        def encoded() -> tuple[LossOfStep, Validate]:
            loss = _prior_loss(prior, vqvae, training, where)
            held_out = _encode(vqvae, validation, 1, where)
            most = validation_slices(len(validation.scans), settings)
            return loss, lambda _: validate_prior(prior, held_out, slices=most)

        rate, basis = settings.training.learning_rate_prior, state_digest(vqvae)
        StageRun(f"prior{self.suffix}", prior, rate, steps.prior, settings, where, epochs, basis).run(encoded)


@dataclass(frozen=True, eq=False)
class _Member:
    """One member of the discriminator."""

    discriminator: Discriminator
    number: int
    steps_in_all: int
    training: ScanData
    validation: ScanData

    def train(self, where: StageFolder, turn: Turn) -> None:
        settings, network = self.training.settings, self.discriminator.members[self.number]
        name = f"discriminator-{self.number + 1}" if len(self.discriminator.members) > 1 else "discriminator"
        rate, where = settings.discriminator.learning_rate, replace(where, turn=turn)
        StageRun(name, network, rate, self.steps_in_all, settings, where).run(
            lambda: (
                discriminator_loss(self.discriminator, self.training, member=self.number),
                lambda _: validate_discriminator(self.discriminator, self.validation, member=self.number),
            )
        )


def _members(
    discriminator: Discriminator,
    settings: Settings,
    steps: StageSteps,
    store: SliceStore,
    split: Split,
    device: torch.device,
) -> list[_Member]:
    """Let the discriminator learn what is usual, and return its members, each with its share of the steps."""
    training, validation = (
        ScanData(store.slices_NSHW, tuple(store.rows(part)), settings, device)
        for part in (split.train, split.validation)
    )
    discriminator.learn_usual(training)
    count = len(discriminator.members)
    each = [len(range(number, steps.discriminator, count)) for number in range(count)]
    return [_Member(discriminator, number, each[number], training, validation) for number in range(count)]


def slice_data(store: SliceStore, hashes: Sequence[str], settings: Settings, device: torch.device) -> SliceData:
    """Return the training slices of some scans of the store."""
    margin = settings.preparation.training_margin_slices
    slices = tuple(range(margin, settings.slices - margin))
    return SliceData(store.cut_along(settings.slice_axis), tuple(store.rows(hashes)), slices, settings, device)


def _prior_loss(prior: PixelSNAIL, vqvae: VQVAE, training: SliceData, where: StageFolder) -> LossOfStep:
    views = training.settings.training.prior_views
    if views is None:
        return fresh_prior_loss(prior, vqvae, training)
    return prior_loss(prior, _encode(vqvae, training, views, where), training.settings)


def _encode(vqvae: VQVAE, data: SliceData, views: int, where: StageFolder) -> CodeData:
    where.progress.begin("encode", views * len(data))
    return encode_views(vqvae, data, views, where.advance)
