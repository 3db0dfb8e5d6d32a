"""Training as a whole: measure → plan → prepare → split → VQ-VAE → encode → prior → discriminator → calibrate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mendscan.cohort.fingerprint import ScanFacts
from mendscan.cohort.planning import SET_BY_USER, Plan
from mendscan.cohort.store import SliceStore, Split, measure_cohort, prepare_cohort, split_by_content
from mendscan.config import Settings
from mendscan.detection.acquisition import AcquisitionReference
from mendscan.detection.calibration import Calibration
from mendscan.detection.devices import choose_device
from mendscan.detection.networks import Networks
from mendscan.models.bundle import load_bundle, save_bundle
from mendscan.models.discriminator import Discriminator
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.vqvae import VQVAE
from mendscan.progress import Progress, Silent
from mendscan.training.budget import EpochEstimate, check_epochs, with_budget
from mendscan.training.building import StageSteps, new_discriminator, new_networks, stage_steps
from mendscan.training.calibrating import calibrate
from mendscan.training.checkpoint import state_digest
from mendscan.training.choosing import choose_detection
from mendscan.training.discriminating import ScanData, discriminator_loss, validate_discriminator
from mendscan.training.epochs import Epochs
from mendscan.training.gating import learn_gate
from mendscan.training.loop import LossOfStep
from mendscan.training.metrics_log import MetricsLog, draw_curves
from mendscan.training.model_card import model_card
from mendscan.training.plans import new_plan, resumed_plan
from mendscan.training.request import Budget, check_request
from mendscan.training.run import StageFolder, StageRun
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
from mendscan.training.workplace import (
    Workplace,
    clear_work,
    close_work,
    is_started,
    sweep_finished,
    workplace,
    write_plan,
)
from mendscan.volumes.finding import find_scans
from mendscan.volumes.reading import STANDARD_READER, ScanReader

__all__ = ["TrainingSummary", "train"]

STAGES = ("vqvae", "prior", *(f"{network}-{axis}" for axis in "XYZ" for network in ("vqvae", "prior")), "discriminator")
"""In the order in which they are logged: those of the slice axis, of further ones, and across all."""


@dataclass(frozen=True)
class TrainingSummary:
    """What training made.

    Attributes:
        model: The model folder.
        plan: The plan it followed.
        figures: Last hold-out figures of the networks, steps, seconds and the healthy score range.
    """

    model: Path
    plan: Plan
    figures: dict[str, float]


def train(
    healthy: str | Path,
    model: str | Path,
    *,
    preset: str = "auto",
    minutes: float | None = None,
    steps: int | None = None,
    epochs: int | None = None,
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    assignments: Sequence[str] = (),
    reader: ScanReader = STANDARD_READER,
    progress: Progress | None = None,
    on_plan: Callable[[Plan], None] | None = None,
    on_estimate: Callable[[EpochEstimate], None] | None = None,
) -> TrainingSummary:
    """Train a detector on healthy scans.

    Args:
        healthy: A folder of healthy scans, or one of several folders deep.
        model: The model folder to write.
        preset: ``auto`` derives the settings from the scans; ``brain`` and ``abdomen`` are the paper's.
        minutes: Time for all networks; fixes the number of steps, which is recorded.  30 by default for ``auto``.
        steps: The number of steps instead: repeats a run exactly.
        epochs: The number of epochs instead, for ``brain`` and ``abdomen``; there 600 by default, as in the original.
        seed: Seed of everything random.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        resume: Go on where a stopped training was.
        assignments: Settings as ``section.key=value``.
        reader: How the scans are read; what it refuses is left out.
        progress: Told how far the work is.
        on_plan: Called with the plan before the work begins.
        on_estimate: Called before epochs begin, with how long they will take.

    Returns:
        What was made.

    Raises:
        CohortError: If the scans cannot be used.
        SettingsError: If settings contradict each other or the scans.
        ModelError: If `model` holds something else, or what a stopped training left there is damaged.
        WriteError: If another training is at work in `model` (E_LOCKED), or something cannot be written; a training
            that had begun can be resumed.
        MendscanError: If the loss is no longer finite (E_DIVERGED).
        Interrupted: If it was stopped; it can be resumed.
    """
    folder, target = Path(model), choose_device(device)
    budget = Budget(minutes, steps, epochs)
    sweep_finished(folder)
    check_request(folder, preset, budget, assignments, resume=resume)
    in_epochs = [] if epochs is None else [f"training.epochs={epochs}"]
    request = _Request(preset, budget, seed, (*assignments, *in_epochs), reader, on_plan, on_estimate)
    with workplace(folder) as place:
        # Another training may have ended there since.
        check_request(folder, preset, budget, assignments, resume=resume)
        summary = _train(Path(healthy), folder, request, place, target, progress or Silent())
        close_work(folder)
    return summary


class _Request(NamedTuple):
    preset: str
    budget: Budget
    seed: int
    assignments: tuple[str, ...]
    reader: ScanReader
    on_plan: Callable[[Plan], None] | None
    on_estimate: Callable[[EpochEstimate], None] | None


def _train(
    healthy: Path, folder: Path, request: _Request, place: Workplace, device: torch.device, progress: Progress
) -> TrainingSummary:
    reader = request.reader
    paths, facts = measure_cohort(find_scans(healthy, progress), progress, reader=reader)
    hashes = [fact.content_hash for fact in facts]
    plan, split, store = _prepared(paths, facts, request, place.work, device, progress)
    if request.on_plan is not None:
        request.on_plan(plan)
    started, log = time.monotonic(), MetricsLog(folder / "metrics.jsonl")
    networks = _train_networks(plan.settings, store, split, device, StageFolder(place.work, log, progress, place.stop))
    by_hash = dict(zip(hashes, paths, strict=True))
    plan, networks = _with_chosen(plan, networks, split, by_hash, reader, progress)
    acquisition = _acquisition(plan.settings, store, split, progress)
    gate = learn_gate(paths, facts, progress, reader=reader)
    held_out = [by_hash[content] for content in split.calibration]
    calibration = calibrate(networks, held_out, acquisition, progress, gate=gate, reader=reader)
    log.in_order(STAGES)
    figures = _save_model(folder, plan, split, networks, calibration, log)
    return TrainingSummary(folder, plan, figures | {"seconds": time.monotonic() - started})


def _prepared(
    paths: Sequence[Path],
    facts: Sequence[ScanFacts],
    request: _Request,
    work: Path,
    device: torch.device,
    progress: Progress,
) -> tuple[Plan, Split, SliceStore]:
    """Return the plan, made anew or that of the stopped training, the split and the prepared slices."""
    hashes = [fact.content_hash for fact in facts]
    resumed = is_started(work.parent)
    if resumed:
        steps = [f"training.steps={request.budget.steps}"] if request.budget.steps else []
        plan = resumed_plan(work, facts, [*request.assignments, *steps])
    else:
        clear_work(work)
        plan = new_plan(request.preset, facts, seed=request.seed, assignments=request.assignments, device=device)
        check_epochs(plan.settings, request.budget)
    split = split_by_content(hashes, plan.settings)
    store = prepare_cohort(paths, hashes, plan.settings, work, progress, reader=request.reader)
    if not resumed:
        data = slice_data(store, split.train, plan.settings, device)
        plan = with_budget(plan, data, request.budget, progress, request.on_estimate)
        write_plan(work, {**plan.to_json(), "hashes": sorted(hashes)})
    return plan, split, store


def _save_model(
    folder: Path, plan: Plan, split: Split, networks: Networks, calibration: Calibration, log: MetricsLog
) -> dict[str, float]:
    """Write the model folder, read it back, and return the figures of its card."""
    entries = log.entries()
    figures = _last_figures(entries) | {
        "steps": float(plan.settings.training.steps or 0),
        "score_threshold_nats": calibration.thresholds.score,
        "restoration_threshold_nats": calibration.thresholds.restoration,
    }
    draw_curves(entries, folder / "curves.png")
    save_bundle(
        folder,
        settings=plan.settings,
        networks=networks.parts,
        calibration=calibration.to_json(),
        calibration_arrays={name: torch.from_numpy(array) for name, array in calibration.arrays().items()},
        plan=plan.to_json(),
        split=split.to_json(),
        card=model_card(plan, split, figures),
    )
    load_bundle(folder)
    return figures


def _train_networks(
    settings: Settings, store: SliceStore, split: Split, device: torch.device, where: StageFolder
) -> Networks:
    """Train the networks of each slice axis and, where the plan has one, the discriminator."""
    steps = stage_steps(settings)
    own = _train_plane(settings, steps, store, split, device, where)
    further = tuple(
        _train_plane(plane, steps, store, split, device, where, suffix=f"-{axis}")
        for axis, plane in settings.further_planes.items()
    )
    return replace(own, discriminator=_train_discriminator(settings, store, split, device, where), further=further)


def _train_plane(
    settings: Settings,
    steps: StageSteps,
    store: SliceStore,
    split: Split,
    device: torch.device,
    where: StageFolder,
    *,
    suffix: str = "",
) -> Networks:
    """Train the VQ-VAE of slices along one axis, encode the cohort, train the prior."""
    training, validation = (slice_data(store, part, settings, device) for part in (split.train, split.validation))
    vqvae, prior = new_networks(settings, device)
    epochs = Epochs.of(len(training.scans), settings.training)
    unquantised = round(settings.codebook.unquantised_fraction * steps.vqvae)
    rate = settings.training.learning_rate_vqvae
    StageRun(f"vqvae{suffix}", vqvae, rate, steps.vqvae, settings, where, epochs).run(
        vqvae_loss(vqvae, training, steps.vqvae),
        lambda step: validate_vqvae(vqvae, validation, quantise=step >= unquantised),
    )
    loss = _prior_loss(prior, vqvae, training, where.progress)
    held_out = _encode(vqvae, validation, 1, where.progress)
    most = validation_slices(len(validation.scans), settings)
    rate, basis = settings.training.learning_rate_prior, state_digest(vqvae)
    StageRun(f"prior{suffix}", prior, rate, steps.prior, settings, where, epochs, basis).run(
        loss, lambda _: validate_prior(prior, held_out, slices=most)
    )
    return Networks(vqvae.eval(), prior.eval(), settings)


def _train_discriminator(
    settings: Settings, store: SliceStore, split: Split, device: torch.device, where: StageFolder
) -> Discriminator | None:
    discriminator = new_discriminator(settings, device)
    if discriminator is None:
        return None
    training, validation = (
        ScanData(store.slices_NSHW, tuple(store.rows(part)), settings, device)
        for part in (split.train, split.validation)
    )
    discriminator.learn_usual(training)
    rate, steps = settings.discriminator.learning_rate, stage_steps(settings).discriminator
    StageRun("discriminator", discriminator, rate, steps, settings, where).run(
        discriminator_loss(discriminator, training), lambda _: validate_discriminator(discriminator, validation)
    )
    return discriminator.eval()


def _with_chosen(
    plan: Plan,
    networks: Networks,
    split: Split,
    by_hash: Mapping[str, Path],
    reader: ScanReader,
    progress: Progress,
) -> tuple[Plan, Networks]:
    """Choose the evidence where the plan says so, and say why in the plan."""
    if not plan.settings.training.choose_detection:
        return plan, networks
    healthy, validation = ([by_hash[content] for content in part] for part in (split.calibration, split.validation))
    fixed = frozenset(decision.setting for decision in plan.decisions if decision.reason == SET_BY_USER)
    chosen = choose_detection(
        networks, healthy=healthy, validation=validation, fixed=fixed, progress=progress, reader=reader
    )
    settings = plan.settings.model_copy(update={"detection": chosen.settings})
    return plan.decided(*chosen.decisions, settings=settings), replace(networks, settings=settings)


def _acquisition(
    settings: Settings, store: SliceStore, split: Split, progress: Progress
) -> AcquisitionReference | None:
    if settings.detection.scan_score == "paper":
        return None
    progress.begin("acquisition", 1)
    reference = AcquisitionReference.fit(store.slices_NSHW[row] for row in store.rows(split.train))
    progress.advance()
    return reference


def slice_data(store: SliceStore, hashes: Sequence[str], settings: Settings, device: torch.device) -> SliceData:
    """Return the training slices of some scans of the store."""
    margin = settings.preparation.training_margin_slices
    slices = tuple(range(margin, settings.slices - margin))
    return SliceData(store.cut_along(settings.slice_axis), tuple(store.rows(hashes)), slices, settings, device)


def _prior_loss(prior: PixelSNAIL, vqvae: VQVAE, training: SliceData, progress: Progress) -> LossOfStep:
    views = training.settings.training.prior_views
    if views is None:
        return fresh_prior_loss(prior, vqvae, training)
    return prior_loss(prior, _encode(vqvae, training, views, progress), training.settings)


def _encode(vqvae: VQVAE, data: SliceData, views: int, progress: Progress) -> CodeData:
    progress.begin("encode", views * len(data))
    return encode_views(vqvae, data, views, progress.advance)


def _last_figures(entries: Sequence[dict[str, Any]]) -> dict[str, float]:
    wanted = ("holdout_l1", "codes_used", "perplexity", "holdout_nll", "holdout_fault_ap")
    own = (entry for entry in entries if "-" not in entry["stage"])
    return {name: entry[name] for entry in own for name in wanted if name in entry}
