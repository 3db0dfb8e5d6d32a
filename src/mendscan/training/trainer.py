"""Training as a whole: measure → plan → prepare → split → networks → choose the evidence → calibrate."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mendscan.cohort.fingerprint import ScanFacts
from mendscan.cohort.plan import Plan
from mendscan.cohort.store import SliceStore, Split, measure_cohort, prepare_cohort, split_by_content
from mendscan.detection.calibration import Calibration
from mendscan.detection.devices import choose_device
from mendscan.detection.networks import Networks
from mendscan.detection.saved_model import save_model
from mendscan.progress import Progress, Silent
from mendscan.training.acquiring import learn_acquisition
from mendscan.training.budget import EpochEstimate, check_epochs, with_budget
from mendscan.training.calibrating import calibrate
from mendscan.training.choosing import choose_detection
from mendscan.training.gating import learn_gate
from mendscan.training.metrics_log import MetricsLog, draw_curves
from mendscan.training.model_card import model_card
from mendscan.training.network_training import slice_data, stage_names, train_networks
from mendscan.training.plans import new_plan, resumed_plan
from mendscan.training.request import Budget, check_request
from mendscan.training.run import StageFolder
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
    networks = train_networks(plan.settings, store, split, device, StageFolder(place.work, log, progress, place.stop))
    by_hash = dict(zip(hashes, paths, strict=True))
    plan, networks = _with_chosen(plan, networks, split, by_hash, reader, progress)
    learnt_from = [by_hash[content] for content in split.train]
    prepared = [store.slices_NSHW[row] for row in store.rows(split.train)]
    acquisition = learn_acquisition(networks, learnt_from, prepared, progress, reader=reader)
    gate = learn_gate(paths, facts, progress, reader=reader)
    held_out = [by_hash[content] for content in split.calibration]
    calibration = calibrate(networks, held_out, acquisition, progress, gate=gate, reader=reader)
    log.in_order(stage_names(plan.settings))
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
        plan = resumed_plan(work, facts, [*request.assignments, *steps], preset=request.preset, seed=request.seed)
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
    card = model_card(plan, split, figures)
    save_model(folder, networks, calibration, plan=plan.to_json(), split=split.to_json(), card=card)
    return figures


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
    chosen = choose_detection(
        networks, healthy=healthy, validation=validation, fixed=plan.set_by_user, progress=progress, reader=reader
    )
    settings = plan.settings.model_copy(update={"detection": chosen.settings})
    return plan.decided(*chosen.decisions, settings=settings), replace(networks, settings=settings)


def _last_figures(entries: Sequence[dict[str, Any]]) -> dict[str, float]:
    wanted = ("holdout_l1", "codes_used", "perplexity", "holdout_nll", "holdout_fault_ap")
    own = (entry for entry in entries if entry["stage"] in ("vqvae", "prior", "discriminator"))
    return {name: entry[name] for entry in own for name in wanted if name in entry}
