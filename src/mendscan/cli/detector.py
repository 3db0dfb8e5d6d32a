"""The main job: train on healthy scans, detect in new ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mendscan.cli.app import app
from mendscan.exits import EXIT_ALL_FAILED, EXIT_SOME_FAILED, reports_errors
from mendscan.options import (
    Device,
    DeviceOption,
    MaxMemoryOption,
    Nan,
    NanOption,
    Precision,
    Preset,
    Schedule,
    Scores,
    SeedOption,
    SetOption,
    scan_reader,
)

__all__ = ["detect", "train"]


@app.command()
@reports_errors
def train(
    healthy: Annotated[
        Path, typer.Option("--input", "-i", help="Folder of healthy scans (NIfTI, NRRD, MetaImage, DICOM), any depth.")
    ],
    model: Annotated[Path, typer.Option("--output", "-o", help="Model folder to write.")],
    preset: Annotated[
        Preset, typer.Option(help="auto derives settings; brain and abdomen are the paper's.")
    ] = Preset.auto,
    minutes: Annotated[
        float | None, typer.Option(help="Time for all networks; 30 by default, but for the presets.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps instead of minutes; repeats a run exactly.")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Presets: epochs of either network; the paper's 600 by default.")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped training was.")] = False,
    max_memory: MaxMemoryOption = 4.0,
    nan: NanOption = Nan.refuse,
    strict: Annotated[
        bool, typer.Option("--strict", help="Leave out scans whose place in the world is not certain.")
    ] = False,
    assignments: SetOption = None,
) -> None:
    """Train a detector on healthy scans.

    Example: mendscan train -i healthy_scans -o model --minutes 30
    """
    from mendscan.console import show_estimate, show_plan, show_training
    from mendscan.console_progress import ConsoleProgress
    from mendscan.training.trainer import train as run_training
    from mendscan.volumes.apart import keep_apart

    keep_apart(healthy, model)
    with ConsoleProgress() as progress:
        summary = run_training(
            healthy,
            model,
            preset=preset.value,
            minutes=minutes,
            steps=steps,
            epochs=epochs,
            seed=seed,
            device=device.value,
            resume=resume,
            assignments=assignments or (),
            reader=scan_reader(max_memory, nan, strict=strict),
            progress=progress,
            on_plan=show_plan,
            on_estimate=show_estimate,
        )
    show_training(summary)


@app.command()
@reports_errors
def detect(
    model: Annotated[Path, typer.Option("--model", "-m", help="Model folder that mendscan train wrote.")],
    scans: Annotated[
        Path,
        typer.Option(
            "--input", "-i", help="A scan, or a folder of scans at any depth: NIfTI, NRRD, MetaImage, DICOM series."
        ),
    ],
    results: Annotated[Path, typer.Option("--output", "-o", help="Results folder to write.")],
    restorations: Annotated[
        int | None, typer.Option(min=1, help="Restorations drawn per slice; by default as the model has it.")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    maps: Annotated[bool, typer.Option("--maps/--no-maps", help="Restore and map, or only score (faster).")] = True,
    schedule: Annotated[
        Schedule, typer.Option(help="How codes are restored: all give the same; for proof, not for use.")
    ] = Schedule.incremental,
    precision: Annotated[
        Precision, typer.Option(help="fast restores in bfloat16 where the processor has it.")
    ] = Precision.exact,
    false_positive_rate: Annotated[
        float, typer.Option(help="Flag scans so that at most this share of healthy scans is flagged.")
    ] = 0.05,
    false_positives_per_scan: Annotated[
        float | None,
        typer.Option(help="Keep findings so strong that a healthy scan has at most this many; all by default."),
    ] = None,
    scores: Annotated[
        Scores, typer.Option(help="auto: as the model was planned; paper: score and map of Naval Marimont & Tarroni.")
    ] = Scores.auto,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse scans unlike the training scans or of uncertain place.")
    ] = False,
    max_memory: MaxMemoryOption = 4.0,
    nan: NanOption = Nan.refuse,
    workers: Annotated[int | None, typer.Option(min=0, help="Cores to use; all by default.")] = None,
    timeout: Annotated[
        float | None, typer.Option(min=1, help="Give up a scan that takes more seconds; none by default.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what a stopped run did, where its record verifies.")
    ] = False,
    dicom_out: Annotated[
        bool, typer.Option("--dicom-out", help="Also write map and findings of DICOM scans as DICOM.")
    ] = False,
    dicom_patient: Annotated[
        bool, typer.Option("--dicom-patient", help="File these under the patient: name and id will be in them.")
    ] = False,
    pseudonymise: Annotated[
        Path | None,
        typer.Option(help="Name cases by a keyed hash, not by their files; the key's file, made if there is none."),
    ] = None,
) -> None:
    """Score scans, restore them and map where they depart from healthy anatomy.

    Example: mendscan detect -m model -i new_scans -o results
    """
    from mendscan.console import show_detection
    from mendscan.console_progress import ConsoleProgress
    from mendscan.detection.batch import detect_folder, one_after_the_other
    from mendscan.detection.dicom_results import dicom_results
    from mendscan.results.figures import save_figure

    if dicom_patient and not dicom_out:
        raise typer.BadParameter("it is about --dicom-out, which is not given", param_hint="--dicom-patient")
    if dicom_out and pseudonymise:
        raise typer.BadParameter("DICOM objects name their study, which pseudonyms hide", param_hint="--pseudonymise")
    dicom = dicom_results(model, scans, seed=seed, maps=maps, patient=dicom_patient) if dicom_out else None
    with ConsoleProgress() as progress:
        for note in dicom.notes_before() if dicom else ():
            progress.say(note)
        summary = detect_folder(
            model,
            scans,
            results,
            restorations=restorations,
            seed=seed,
            device=device.value,
            maps=maps,
            schedule=schedule.value,
            precision=precision.value,
            false_positive_rate=false_positive_rate,
            false_positives_per_scan=false_positives_per_scan,
            scores=scores.value,
            strict=strict,
            reader=scan_reader(max_memory, nan, strict=strict),
            workers=workers,
            timeout_s=timeout,
            resume=resume,
            pseudonymise=pseudonymise,
            after_save=one_after_the_other(save_figure, dicom) if dicom else save_figure,
            progress=progress,
        )
        for note in dicom.notes_after(summary.rows) if dicom else ():
            progress.say(note)
    show_detection(summary.rows, results)
    if summary.failed:
        raise typer.Exit(EXIT_ALL_FAILED if summary.failed == len(summary.rows) else EXIT_SOME_FAILED)
