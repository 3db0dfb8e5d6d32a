"""Detection over a folder of scans: one process per core, and a bad scan fails alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

from mendscan.detection.batch_work import BatchSummary, held_results, summary_of, take_outcomes
from mendscan.detection.calibration import Scores
from mendscan.detection.case_work import (
    AfterSave,
    Case,
    CaseDone,
    Task,
    detect_case,
    drop_detector,
    load_detector,
    take_detector,
)
from mendscan.detection.detector import Detector
from mendscan.detection.devices import choose_device
from mendscan.detection.networks import Precision
from mendscan.detection.restoration import Schedule
from mendscan.detection.run_facts import Options, facts_of_run
from mendscan.detection.stopping import stopped_in_good_order
from mendscan.errors import SettingsError, one_line
from mendscan.parallel import available_cores, each_outcome
from mendscan.progress import Progress, Silent
from mendscan.results import Detection
from mendscan.results.layout import MODEL_CARD, RECORDS, SUBFOLDERS, remove
from mendscan.results.records import CaseRecord, digest_of, read_record
from mendscan.results.tables import Tables
from mendscan.volumes.apart import keep_apart
from mendscan.volumes.checking import check_each, in_few_lines
from mendscan.volumes.finding import find_scans
from mendscan.volumes.pseudonyms import pseudonymised_scans, read_or_make_key
from mendscan.volumes.reading import STANDARD_READER, ScanReader, case_name
from mendscan.volumes.writing import write_text

__all__ = ["detect_folder", "one_after_the_other"]

_NAMED = 8
"""How many scans a line names."""


def detect_folder(
    model: str | Path,
    scans: str | Path,
    results: str | Path,
    *,
    restorations: int | None = None,
    seed: int = 0,
    device: str = "auto",
    maps: bool = True,
    schedule: Schedule = "incremental",
    precision: Precision = "exact",
    false_positive_rate: float = 0.05,
    false_positives_per_scan: float | None = None,
    scores: Scores = "auto",
    strict: bool = False,
    reader: ScanReader = STANDARD_READER,
    workers: int | None = None,
    timeout_s: float | None = None,
    resume: bool = False,
    pseudonymise: str | Path | None = None,
    after_save: AfterSave | None = None,
    progress: Progress | None = None,
) -> BatchSummary:
    """Detect in every scan of a folder and write a results folder.

    A scan's result depends on the scan, the model and the seed; not on the other scans, their order or `workers`.

    Whatever happens to one scan, or to the process that works on it, costs that scan only.  When the batch is stopped
    or killed, whole results of the scans done are there, and `resume` goes on with the others.

    Args:
        model: A model folder.
        scans: A scan, or a folder of scans at any depth, in any format that `read_volume` knows.
        results: The results folder; files of the same cases in it are replaced.
        restorations: R; None for the model's setting.
        seed: Seed of the restorations.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        maps: Whether to restore and map, or only to score.
        schedule: How restored codes are computed; all give the same, the others far more slowly.
        precision: ``fast`` restores in bfloat16 where the processor has it: same scores, slightly other maps.
        false_positive_rate: Scans are flagged so that at most this share of healthy scans is.  Where there are too few
            calibration scans for it none is flagged or cleared, and `progress` is told.
        false_positives_per_scan: Keep only findings so strong that a healthy scan has at most this many, on average;
            None keeps all.
        scores: ``auto``: score and map as the model's settings have them; ``paper``: the paper's.
        strict: Refuse scans that do not look like the training scans, or whose place in the world is not certain; they
            are scored, with a warning, otherwise.
        reader: How the scans are read.
        workers: Cores to use; None = all on the CPU, and no process beside an accelerator.  Scans are shared out to
            processes, the slices of each scan to the cores that are left.
        timeout_s: A scan that takes more seconds is given up; None = none is.
        resume: Keep what a stopped run left in the results folder, where its record verifies: same scan, same model,
            options and versions, and every file as it was written.
        pseudonymise: A file with a key, made if there is none: cases are named by a keyed hash, and no result, log line
            or error holds the name of a scan's file or folder.  None names them by their files.
        after_save: Called, in the worker, with each detection and the results folder.
        progress: Told of every scan.

    Raises:
        CohortError: If there is no scan, or two have the same name.
        ModelError: If the model cannot be used, or does not know the findings of healthy scans.
        SettingsError: If a wanted number is out of range, `false_positives_per_scan` too small for the model, or the
            results would lie among the scans (E_OUTPUT_AMONG_INPUTS).
        WriteError: If the results folder cannot be written to, or another run is at work in it (E_LOCKED).
        Interrupted: If SIGINT, SIGTERM, SIGHUP or SIGUSR1 came; the tables have all scans done.
    """
    progress, folder = progress or Silent(), Path(results)
    keep_apart(scans, folder, subfolders=SUBFOLDERS)
    with stopped_in_good_order("the same command with --resume goes on"):
        cases = _named_cases(scans, folder, pseudonymise, progress)
        on_cpu = choose_device(device).type == "cpu"
        processes, threads = _share_cores(len(cases), workers, on_cpu=on_cpu, apart=timeout_s is not None)
        detector = Detector.load(model, device=device, workers=threads)
        options = Options(
            restorations, seed, maps, schedule, precision, false_positive_rate, false_positives_per_scan, scores, strict
        )
        run = facts_of_run(detector, options, progress) | {"nan": reader.nan}
        request = digest_of([run, asdict(options), detector.networks.device.type, _described(after_save)])
        task = Task(folder, options, reader, request, resume, after_save)
        with held_results(folder):
            write_text(folder / MODEL_CARD, detector.card)
            if not resume:
                _forget_records(cases, folder)
            _check_first(cases, reader, workers=workers, progress=progress)
            tables = Tables(folder, run, partial(_claimed, cases, task))
            outcomes = each_outcome(
                detect_case,
                [(case, task) for case in cases],
                initializer=load_detector if processes else take_detector,
                initargs=(str(model), device, threads, detector.model_hash) if processes else (detector,),
                workers=processes,
                timeout_s=timeout_s,
            )
            progress.begin("detect", len(cases))
            try:
                take_outcomes(cases, outcomes, tables, progress, partial(_take, tables, progress))
            finally:
                drop_detector()
    if resume:
        progress.say(f"{tables.kept} of {len(cases)} scans were done before, verified")
    return summary_of(tables)


def _check_first(cases: Sequence[Case], reader: ScanReader, *, workers: int | None, progress: Progress) -> None:
    """Say of all scans at once what is wrong or odd with them, before the long work."""
    rows = check_each([(case.path, case.pseudonym) for case in cases], reader, workers=workers, progress=progress)
    failed = [f"{row.code} {Path(row.path).name}" for row in rows if row.code]
    if failed:
        names = one_line(", ".join(failed[:_NAMED])) + (" and others" if len(failed) > _NAMED else "")
        progress.say(f"{len(failed)} of {len(cases)} scans cannot be used, the others go on: {names}")
    for line in in_few_lines(rows):
        progress.say(line)


def _take(tables: Tables, progress: Progress, case: Case, done: CaseDone) -> None:
    record = done.record
    if done.why_again:
        progress.say(f"{case.name}: done again, {done.why_again}")
    if record.row.get("warnings"):
        progress.say(f"{case.name}: {record.row['warnings']}")
    tables.add(record.row, record.findings, seconds=done.seconds)


def _forget_records(cases: Sequence[Case], folder: Path) -> None:
    """Remove what vouches for the results of an earlier run, which are to be made anew."""
    for case in cases:
        remove(folder / RECORDS / f"{case.name}.json")


def _claimed(cases: Sequence[Case], task: Task) -> list[CaseRecord]:
    """Return the records that there are of the request; whether those of a stopped run hold is found out by case."""
    records = [read_record(task.folder, case.name) for case in cases]
    return [record for record in records if record is not None and record.request == task.request]


def one_after_the_other(*steps: AfterSave) -> AfterSave:
    """Return the steps as one, for `after_save`; processes can be sent it if they can be sent each of the steps."""
    return partial(_each_of, steps)


def _each_of(steps: Sequence[AfterSave], detection: Detection, folder: Path) -> None:
    for step in steps:
        step(detection, folder)


def _described(after_save: AfterSave | None) -> list[str]:
    """Return what is done after saving, in words that change when its files do."""
    if isinstance(after_save, partial) and after_save.func is _each_of:
        return [word for step in after_save.args[0] for word in _described(step)]
    return [] if after_save is None else [getattr(after_save, "description", getattr(after_save, "__qualname__", "?"))]


def _share_cores(scans: int, workers: int | None, *, on_cpu: bool, apart: bool = False) -> tuple[int, int]:
    """Return how many processes, 0 for none beside this one, and how many threads in each.

    Only a process of its own, `apart`, can be ended when it takes too long.
    """
    if not on_cpu:
        return max(workers or 0, int(apart)), 1
    cores = available_cores() if workers is None else max(1, workers)
    processes = 0 if scans == 1 or workers == 0 else min(cores, scans)
    processes = max(processes, int(apart))
    return processes, cores // max(1, processes)


def _named_cases(scans: str | Path, folder: Path, key_file: str | Path | None, progress: Progress) -> list[Case]:
    if key_file is None:
        return [Case(path, case_name(path), None) for path in find_scans(scans, progress)]
    if Path(key_file).resolve().is_relative_to(folder.resolve()):
        raise SettingsError(
            "the key would lie among the results", where="--pseudonymise", code="E_KEY", remedy="keep it elsewhere"
        )
    key = read_or_make_key(key_file, progress=progress)
    return [Case(path, name, name) for name, path in pseudonymised_scans(scans, key, progress).items()]
