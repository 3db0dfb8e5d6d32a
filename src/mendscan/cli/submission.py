"""Entering the MOOD challenge: build the container's folder, check it, and what runs inside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mendscan.cli.app import app
from mendscan.exits import EXIT_ALL_FAILED, EXIT_SOME_FAILED, reports_errors
from mendscan.options import Device, DeviceOption, SeedOption, Task

__all__ = ["mood_check", "mood_predict", "mood_submission"]


@app.command("mood-submission")
@reports_errors
def mood_submission(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to fill; must be missing or empty.")],
    models: Annotated[
        list[Path] | None,
        typer.Option(
            "--model", "-m", help="A model folder; the brain's first, then the abdomen's, unless presets tell."
        ),
    ] = None,
    brain: Annotated[Path | None, typer.Option(help="The brain's model, said outright.")] = None,
    abdomen: Annotated[Path | None, typer.Option(help="The abdomen's model, said outright.")] = None,
) -> None:
    """Write all that a container for the MOOD challenge is built from: Dockerfile, scripts, models, the package.

    Example: mendscan mood-submission -m brain_model -m abdomen_model -o submission
    """
    from mendscan.console_submission import show_submission
    from mendscan.submission.building import assigned_models, write_submission

    show_submission(write_submission(assigned_models(models or [], brain=brain, abdomen=abdomen), output))


@app.command("mood-check")
@reports_errors
def mood_check(
    folder: Annotated[Path, typer.Argument(help="Folder that mendscan mood-submission wrote.")],
    toys: Annotated[
        Path, typer.Option("--input", "-i", help="Toy cases: brain/toy and brain/toy_label, abdom/toy and so on.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to keep predictions in; missing or empty.")
    ] = None,
    minutes_per_case: Annotated[
        float, typer.Option(min=0.01, help="End a script, as failed, that takes longer for each of its cases.")
    ] = 10.0,
) -> None:
    """Run a submission's scripts on toy cases as the challenge would, without a container, and check all they do.

    Example: mendscan mood-check submission -i toy_cases
    """
    from mendscan.console_progress import ConsoleProgress
    from mendscan.console_submission import show_check
    from mendscan.submission.checking import check_submission

    with ConsoleProgress() as progress:
        check = check_submission(folder, toys, predictions=output, minutes_per_case=minutes_per_case, progress=progress)
    show_check(check)
    if not check.passed:
        raise typer.Exit(EXIT_SOME_FAILED if any(script.passed for script in check.scripts) else EXIT_ALL_FAILED)


@app.command("mood-predict")
@reports_errors
def mood_predict(
    mode: Annotated[Task, typer.Option(help="sample: one number per scan; pixel: one map.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="Model folder.")],
    data: Annotated[Path, typer.Option("--input", "-i", help="Folder with NAME.nii.gz; nothing is written there.")],
    predictions: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; the only one.")],
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    workers: Annotated[int | None, typer.Option(min=1, help="Cores to use; all by default.")] = None,
) -> None:
    """Predict scans by the MOOD challenge's rules; what its container runs.

    Every scan gets a prediction: one that cannot be read is predicted 0, with a warning, and the exit code is 0.

    Example: mendscan mood-predict --mode pixel -m model -i scans -o predictions
    """
    from mendscan.submission.scratch import scratch_inside

    with scratch_inside(predictions):  # before anything is imported that looks for a place to write
        from mendscan.console_progress import ConsoleProgress
        from mendscan.console_submission import show_predicted
        from mendscan.submission.predicting import predict_folder

        with ConsoleProgress() as progress:
            done = predict_folder(
                model, data, predictions, mode=mode.value, seed=seed, device=device.value, workers=workers,
                progress=progress,
            )  # fmt: skip
        show_predicted(done)
