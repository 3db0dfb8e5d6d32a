"""The conductor: split, put anomalies in, train every method in the same time, evaluate, write one page."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mendscan.baselines.healthy import HealthyCohort
from mendscan.benchmark.journal import JOURNAL, Journal
from mendscan.benchmark.methods import BASELINE_NAMES, OWN, PAPER, PARTS, Bench, run_baseline, run_own_methods
from mendscan.benchmark.page import write_page
from mendscan.cohort.held_folder import held_folder, refuse_occupied
from mendscan.cohort.suite import write_suite
from mendscan.errors import CohortError, Interrupted, ScanError, SettingsError
from mendscan.evaluation.bootstrap import RESAMPLES, Difference
from mendscan.evaluation.folders import compare, evaluate_folder
from mendscan.evaluation.metrics import Evaluation
from mendscan.evaluation.tables import write_evaluation
from mendscan.parallel import each_in_processes
from mendscan.progress import Progress, Silent
from mendscan.report.evaluation_figures import save_evaluation_figure
from mendscan.volumes.apart import keep_apart
from mendscan.volumes.finding import find_scans
from mendscan.volumes.maps import write_map
from mendscan.volumes.reading import read_volume
from mendscan.volumes.writing import make_folder

__all__ = ["run_benchmark"]

DEFAULT_MINUTES = 30.0
_FEW = 32
"""So many scans are read sooner than processes start."""
TEST_SHARE = 0.2
"""Part of the scans that is kept apart: methods never see them, and anomalies are put into copies of them."""


def run_benchmark(
    healthy: str | Path,
    output: str | Path,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    baselines: Sequence[str] = BASELINE_NAMES,
    radius_mm: tuple[float, float] | None = None,
    assignments: Sequence[str] = (),
    seed: int = 0,
    device: str = "auto",
    resamples: int = RESAMPLES,
    progress: Progress | None = None,
) -> dict[str, Evaluation]:
    """Compare the method with baselines on healthy scans, with anomalies of every kind put into some of them.

    A fifth of the scans is kept apart by the hash of their bytes; a scan that is there twice counts once.  Each of
    these is evaluated three times: as it is, with local anomalies, with a whole-scan artefact; intervals are over the
    scans they come from.  A benchmark that was stopped goes on where it was when called again with the same arguments.

    Args:
        healthy: Healthy scans.
        output: Folder to write; ``README.md`` and ``index.html`` in it are the page.
        minutes: Training time of each method that is trained; 30 by default.
        steps: Training steps of each instead.
        baselines: Which of `methods.BASELINE_NAMES`.
        radius_mm: Range of radii of the local anomalies; None = from the scans.
        assignments: Settings of the model as ``section.key=value``.
        seed: Of everything random.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        resamples: Of the intervals.
        progress: Told how far the work is.

    Returns:
        The evaluation of each method by name: ``mendscan``, ``paper``, each baseline and each with ``-standardised``.

    Raises:
        CohortError: If there are too few scans.
        SettingsError: If a baseline or a setting is unknown, both minutes and steps are given, or the benchmark would
            lie among the scans, or these in it (E_OUTPUT_AMONG_INPUTS, E_INPUT_AMONG_OUTPUTS).
        ResultsError: If the folder holds a benchmark with other scans, settings or versions, or a method fails on a
            scan.
        WriteError: If another run is at work in the folder (E_LOCKED), it holds something else (E_NOT_EMPTY), or
            something cannot be written.
        Interrupted: If it was stopped; call it again to go on.
    """
    unknown = sorted(set(baselines) - set(BASELINE_NAMES))
    if unknown:
        raise SettingsError("unknown baseline", found=", ".join(unknown), expected=", ".join(BASELINE_NAMES))
    if minutes is not None and steps is not None:
        raise SettingsError("give either minutes or steps, not both", where="benchmark")
    folder, told = Path(output), progress or Silent()
    budget = minutes if minutes is not None or steps is not None else DEFAULT_MINUTES
    bench = Bench(folder, budget, steps, tuple(assignments), seed, device, told)
    keep_apart(healthy, folder, subfolders=PARTS)
    scans, contents = _different_scans(find_scans(healthy, told), told)
    facts = bench.facts | {"scans": sorted(scan.name for scan in scans), "contents": contents, "radius_mm": radius_mm}
    with held_folder(folder, "benchmark"):
        if not (folder / JOURNAL).exists():
            refuse_occupied(folder, PARTS)
        journal = Journal(folder, facts, told)
        journal.step("split the scans", lambda: _split(scans, folder))
        journal.step("put anomalies in", lambda: _write_suite(bench, radius_mm))
        _run_methods(bench, journal, baselines)
        methods = [OWN, PAPER, *(f"{name}{variant}" for name in baselines for variant in ("", "-standardised"))]
        evaluations, differences = _evaluate(bench, methods, resamples)
        write_page(bench, evaluations, differences, journal.seconds)
    return evaluations


def _run_methods(bench: Bench, journal: Journal, baselines: Sequence[str]) -> None:
    @cache
    def cohort() -> HealthyCohort:
        prepared = bench.folder / "prepared"
        return HealthyCohort.of_model(
            bench.model, bench.healthy, prepared, device=bench.device, progress=bench.progress
        )

    try:
        run_own_methods(bench, journal)
        for name in baselines:
            run_baseline(bench, journal, name, cohort)
    except Interrupted as stopped:
        raise Interrupted(stopped.problem, where=bench.folder, remedy="go on with the same command") from None


def _different_scans(scans: Sequence[Path], progress: Progress) -> tuple[list[Path], str]:
    """Return the scans that can be read, each content once, and a digest of all contents.

    The same scan under two names could be learnt from and kept apart at once.
    """
    progress.begin("read", len(scans))
    found: dict[int, str] = {}
    workers = None if len(scans) > _FEW else 0
    for index, outcome in each_in_processes(_content, [(scan,) for scan in scans], expected=ScanError, workers=workers):
        progress.advance()
        if isinstance(outcome, ScanError):
            progress.say(f"left out: {outcome}")
        else:
            found[index] = outcome
    first: dict[str, Path] = {}
    for index in sorted(found):
        scan = first.setdefault(found[index], scans[index])
        if scan is not scans[index]:
            progress.say(f"left out: {scans[index]} has the same content as {scan.name}")
    return list(first.values()), hashlib.sha256("".join(sorted(first)).encode()).hexdigest()


def _content(scan: Path) -> str:
    return read_volume(scan).content_hash


def _split(scans: Sequence[Path], folder: Path) -> None:
    """Put every scan into ``healthy`` or ``held-out``, by its hash: a link to a file, of a series a NIfTI file."""
    n_test = round(TEST_SHARE * len(scans))
    if n_test < 2:
        raise CohortError("too few scans for a benchmark", found=len(scans), expected="at least 10")
    by_hash = sorted(scans, key=_hash)
    for part, paths in (("held-out", by_hash[:n_test]), ("healthy", by_hash[n_test:])):
        _remove(folder / part)
        for path in paths:
            target = make_folder(folder / part)
            if path.is_file():
                _link(path, target / path.name)
            else:
                volume = read_volume(path)
                write_map(target / f"{volume.name}.nii.gz", volume.voxels_XYZ, volume)


def _hash(scan: Path) -> str:
    return hashlib.sha256(scan.read_bytes()).hexdigest() if scan.is_file() else read_volume(scan).content_hash


def _remove(folder: Path) -> None:
    """Remove what a stopped attempt left; what cannot be removed must not be written through."""
    if folder.exists():
        shutil.rmtree(folder)


def _link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(source.resolve())
    except OSError:  # a file system without links
        shutil.copyfile(source, target)


def _write_suite(bench: Bench, radius_mm: tuple[float, float] | None) -> None:
    _remove(bench.folder / "test")
    held_out = find_scans(bench.folder / "held-out")
    write_suite(held_out, bench.folder / "test", seed=bench.seed, radius_mm=radius_mm, progress=bench.progress)


def _evaluate(
    bench: Bench, methods: Sequence[str], resamples: int
) -> tuple[dict[str, Evaluation], dict[str, dict[str, Difference]]]:
    evaluations = {}
    for method in methods:
        bench.progress.say(f"evaluate {method}")
        results, labels = bench.results(method), bench.folder / "test"
        evaluations[method] = evaluate_folder(results, labels, resamples=resamples, progress=bench.progress)
    differences = {name: compare(evaluations[OWN], each) for name, each in evaluations.items() if name != OWN}
    for name, evaluation in evaluations.items():
        target = bench.folder / "evaluations" / name
        write_evaluation(evaluation, target, differences=differences.get(name))
        save_evaluation_figure(evaluation, target / "evaluation.png")
    return evaluations, differences
