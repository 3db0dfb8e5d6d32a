"""The main job on a simulated cohort, through the same commands that a user types."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mendscan.cohort.held_folder import held_folder, refuse_occupied
from mendscan.console import show_comparison
from mendscan.console_progress import ConsoleProgress, console
from mendscan.errors import MendscanError, SettingsError

__all__ = ["run_demo"]

HEALTHY, TESTED, ANOMALOUS = 100, 12, 8
RADIUS_MM = (10.0, 18.0)


def run_demo(folder: Path, *, minutes: float = 6.0, seed: int = 0) -> None:
    """Simulate healthy brains, train on them, and find labelled anomalies in brains never seen.

    Args:
        folder: Where everything goes; must not exist or be empty.
        minutes: Training time.
        seed: Seed of the cohort and the anomalies.

    Raises:
        SettingsError: If there is no time to train.
        WriteError: If the folder holds something, or another run is at work in it (E_LOCKED).
        MendscanError: If one of the commands fails.
    """
    if not 0 < minutes < 1e6:
        raise SettingsError("no time to train", where="--minutes", found=minutes, expected="a positive number")
    with held_folder(folder, "demo"):
        refuse_occupied(folder)
        _run_demo(folder, minutes, seed)


def _run_demo(folder: Path, minutes: float, seed: int) -> None:
    console.rule("simulate")
    _simulate(folder, seed)
    _run("train", "-i", folder / "healthy", "-o", folder / "model", "--minutes", minutes)
    scans, results, labels = folder / "test" / "scans", folder / "results", folder / "test" / "labels"
    _run("detect", "-m", folder / "model", "-i", scans, "-o", results)
    _run("report", "-i", results, "-o", folder / "report.html")
    _run("evaluate", "-i", results, "-l", labels, "-o", folder / "evaluation")
    _compare_with_atlas(folder, scans, labels)
    _name_files(folder)


def _simulate(folder: Path, seed: int) -> None:
    """Write healthy brains as NIfTI files, and labelled anomalies into some of those that are kept apart."""
    from mendscan.cohort.labelled_cohort import write_labelled_cohort
    from mendscan.cohort.simulation import simulate_cohort

    with ConsoleProgress() as progress:
        simulate_cohort(folder / "healthy", n=HEALTHY, seed=seed, progress=progress)
        unseen = simulate_cohort(
            folder / "test" / "unchanged", n=TESTED, seed=seed + 1, prefix="case", progress=progress
        )
        write_labelled_cohort(
            unseen, folder / "test", seed=seed, anomalous=ANOMALOUS, per_scan=(1, 3), radius_mm=RADIUS_MM,
            progress=progress,
        )  # fmt: skip
    console.print(
        f"{HEALTHY} healthy brains from the MNI152 template: warped, recoloured, biased, noisy, in different spacings, "
        f"orientations and number formats; {TESTED} more, {ANOMALOUS} of them with 1 to 3 labelled anomalies"
    )


def _run(*arguments: object) -> None:
    """Run a command as a user would, and show it."""
    words = [str(argument) for argument in arguments]
    console.rule(f"mendscan {' '.join(words)}")
    finished = subprocess.run([sys.executable, "-m", "mendscan", *words], check=False)
    if finished.returncode:
        raise MendscanError(
            "the command failed", where=f"mendscan {words[0]}", code="E_DEMO", found=f"exit code {finished.returncode}"
        )


def _compare_with_atlas(folder: Path, scans: Path, labels: Path) -> None:
    """Show what the simplest method that knows anatomy finds in the same scans, as it is and standardised."""
    from mendscan.baselines.calibrating import calibrate, standardise
    from mendscan.baselines.detecting import detect_with
    from mendscan.baselines.healthy import HealthyCohort
    from mendscan.baselines.positional import fit_atlas
    from mendscan.evaluation.folders import evaluate_folder

    console.rule("the same cases, by an atlas")
    results = {"mendscan": folder / "results"}
    with ConsoleProgress() as progress:
        healthy = HealthyCohort.of_model(
            folder / "model", folder / "healthy", folder / "baselines" / "work", progress=progress
        )
        atlas = fit_atlas(healthy)
        for calibrated in (calibrate(atlas, healthy), standardise(atlas, healthy)):
            name = calibrated.baseline.name
            results[name] = folder / "baselines" / name
            detect_with(calibrated, scans, results[name], progress=progress)
    show_comparison({name: evaluate_folder(each, labels, strata=False) for name, each in results.items()})


def _name_files(folder: Path) -> None:
    console.print("[bold]Open[/bold]")
    for path, what in (
        (folder / "report.html", "the page: what was found, where, how sure, and what healthy would have looked like"),
        (folder / "results" / "figures", "a picture per scan: scan, restoration, map"),
        (folder / "results" / "scores.csv", "a row per scan"),
        (folder / "results" / "findings.csv", "a row per finding"),
        (folder / "evaluation" / "evaluation.png", "curves, scores, calibration, strata"),
        (folder / "results" / "maps", "the maps, over test/scans in any NIfTI viewer"),
        (folder / "model" / "curves.png", "how training went"),
        (folder / "model" / "README.md", "the model card"),
    ):
        console.print(f"  {path}  [dim]{what}[/dim]", soft_wrap=True)
