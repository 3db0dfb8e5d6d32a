"""The methods of a benchmark: each is fitted within the same time, and writes the same results folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

import mendscan
from mendscan.baselines.calibrating import calibrate, standardise
from mendscan.baselines.detecting import detect_with
from mendscan.baselines.fitting import BASELINES, fit_baseline
from mendscan.baselines.healthy import HealthyCohort
from mendscan.baselines.saving import load_baseline, save_baseline
from mendscan.baselines.training import Budget, training_folder
from mendscan.benchmark.journal import Journal
from mendscan.detection.batch import detect_folder
from mendscan.detection.batch_work import BatchSummary
from mendscan.detection.calibration import Scores
from mendscan.errors import ResultsError
from mendscan.progress import Progress
from mendscan.results.figures import save_figure
from mendscan.training.interrupts import stop_requests
from mendscan.training.trainer import train

__all__ = ["BASELINE_NAMES", "OWN", "PAPER", "TITLES", "Bench", "run_baseline", "run_own_methods"]

OWN = "mendscan"
PAPER = "paper"
BASELINE_NAMES = tuple(BASELINES)
PARTS = ("healthy", "held-out", "test", "model", "prepared", "baselines", "results", "evaluations")
"""The folders that a benchmark consists of."""
TITLES: Mapping[str, str] = MappingProxyType(
    {
        OWN: "mendscan (`auto`)",
        PAPER: "the paper's map and score (same networks)",
        "intensity": "rarity of the intensity",
        "atlas": "atlas, \\|z\\|",
        "pca": "PCA residual",
        "vae": "VAE (the paper's baseline)",
        "vqvae": "VQ-VAE",
        "dae": "denoising auto-encoder",
    }
)


@dataclass(frozen=True)
class Bench:
    """Where a benchmark lies, and what is the same for every method.

    Attributes:
        folder: Everything is below it.
        minutes: Training time of each method that is trained; None if `steps` is given.
        steps: Training steps of each instead, to repeat a benchmark exactly.
        assignments: Settings of the model as ``section.key=value``; baselines share those of preparation and training.
        seed: Of everything random.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        progress: Told how far the work is.
    """

    folder: Path
    minutes: float | None
    steps: int | None
    assignments: tuple[str, ...]
    seed: int
    device: str
    progress: Progress

    @property
    def healthy(self) -> Path:
        """The scans that methods learn from."""
        return self.folder / "healthy"

    @property
    def model(self) -> Path:
        """The model; its plan and split are every method's."""
        return self.folder / "model"

    @property
    def test_scans(self) -> Path:
        """The scans that are evaluated."""
        return self.folder / "test" / "scans"

    def results(self, method: str) -> Path:
        """The results folder of a method."""
        return self.folder / "results" / method

    @property
    def facts(self) -> dict[str, Any]:
        """What decides the outcome, for the journal."""
        return {
            "minutes": self.minutes,
            "steps": self.steps,
            "set": self.assignments,
            "seed": self.seed,
            "device": self.device,
            "versions": {"mendscan": mendscan.__version__, "torch": torch.__version__},
        }


def run_own_methods(bench: Bench, journal: Journal) -> None:
    """Train the model, detect with it, and with the paper's score and map in place of its own."""
    journal.step("train mendscan", lambda: _train(bench))
    journal.step("detect with mendscan", lambda: _detect(bench, OWN, "auto"))
    journal.step("detect with the paper's score and map", lambda: _detect(bench, PAPER, "paper"))


def run_baseline(bench: Bench, journal: Journal, name: str, cohort: Callable[[], HealthyCohort]) -> None:
    """Fit a baseline within the same time, and detect with it as it is and standardised.

    Args:
        bench: The benchmark.
        journal: Of the benchmark.
        name: One of `BASELINE_NAMES`.
        cohort: Returns the healthy scans as the model saw them; called only if something is to be done.
    """
    folder = bench.folder / "baselines" / name
    journal.step(f"fit {name}", lambda: _fit(bench, name, cohort(), folder))
    journal.step(f"detect with {name}", lambda: _detect_with_baseline(bench, name, cohort(), folder))


def _train(bench: Bench) -> None:
    train(
        bench.healthy,
        bench.model,
        minutes=bench.minutes,
        steps=bench.steps,
        seed=bench.seed,
        device=bench.device,
        assignments=bench.assignments,
        resume=(bench.model / "work" / "plan.json").is_file(),
        progress=bench.progress,
    )


def _detect(bench: Bench, method: str, scores: Scores) -> None:
    summary = detect_folder(
        bench.model,
        bench.test_scans,
        bench.results(method),
        seed=bench.seed,
        device=bench.device,
        scores=scores,
        after_save=save_figure,
        resume=True,
        progress=bench.progress,
    )
    _refuse_failures(summary, bench.results(method))


def _fit(bench: Bench, name: str, cohort: HealthyCohort, folder: Path) -> None:
    budget = Budget(minutes=bench.minutes, steps=bench.steps)
    with stop_requests() as stop:
        baseline = fit_baseline(name, cohort, budget, training_folder(folder, progress=bench.progress, stop=stop))
    save_baseline(folder, baseline, cohort.settings)


def _detect_with_baseline(bench: Bench, name: str, cohort: HealthyCohort, folder: Path) -> None:
    baseline = load_baseline(folder, device=bench.device)
    for calibrated in (calibrate(baseline, cohort), standardise(baseline, cohort)):
        results = bench.results(calibrated.baseline.name)
        _refuse_failures(detect_with(calibrated, bench.test_scans, results, progress=bench.progress), results)


def _refuse_failures(summary: BatchSummary, results: Path) -> None:
    """A scan without a map would count as one of zeros, and a figure would say something of the machine."""
    if summary.failed:
        names = [str(row["case"]) for row in summary.rows if row["status"] == "failed"]
        raise ResultsError(
            "scans failed, and their maps would count as zeros",
            where=results,
            found=", ".join(names[:3]) + (" and others" if len(names) > 3 else ""),
            remedy="scores.csv says why; the same command tries them again",
        )
