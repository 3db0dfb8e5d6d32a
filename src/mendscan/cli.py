"""The commands: parse, call, print."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer

from mendscan.errors import CohortError, Interrupted, MendscanError, ModelError, ResultsError, SettingsError, WriteError

__all__ = ["app", "main"]

EXIT_INTERNAL, EXIT_USAGE, EXIT_SOME_FAILED, EXIT_ALL_FAILED, EXIT_INTERRUPTED = 1, 2, 3, 4, 143

app = typer.Typer(
    name="mendscan",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Find what does not belong in a medical scan, having seen only healthy ones.\n\n"
    "[bold]train[/bold] on healthy scans, [bold]detect[/bold] in new ones, [bold]evaluate[/bold] against labels.\n\n"
    "Research use only; not a medical device. A score means unlikely under the training set, not disease.",
)


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Preset(StrEnum):
    """Where the settings come from."""

    auto = "auto"
    brain = "brain"
    abdomen = "abdomen"


class Schedule(StrEnum):
    """How restored codes are computed."""

    incremental = "incremental"
    fixed_point = "fixed-point"
    sequential = "sequential"


class Precision(StrEnum):
    """In which arithmetic restorations are drawn and decoded."""

    exact = "exact"
    fast = "fast"


DeviceOption = Annotated[Device, typer.Option(help="Where to compute; auto takes the best there is.")]
SeedOption = Annotated[int, typer.Option(help="Seed of everything random.")]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks and log messages.")]


def _reports_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn errors into one line and an exit code."""

    @wraps(command)
    def guarded(*args: Any, debug: bool = False, **options: Any) -> None:
        logging.basicConfig(level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s: %(message)s")
        for chatty in ("matplotlib", "nibabel", "PIL", "concurrent.futures"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        try:
            command(*args, **options)
        except MendscanError as error:
            if debug:
                raise
            typer.secho(f"error: {error}", err=True, fg="red")
            raise typer.Exit(_exit_code(error)) from None
        except KeyboardInterrupt:
            typer.secho("interrupted", err=True, fg="red")
            raise typer.Exit(EXIT_INTERRUPTED) from None

    guarded.__annotations__["debug"] = DebugOption
    signature = _with_debug(command)
    guarded.__signature__ = signature  # type: ignore[attr-defined]
    return guarded


def _with_debug(command: Callable[..., None]) -> Any:
    import inspect

    signature = inspect.signature(command, eval_str=True)
    debug = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=DebugOption)
    return signature.replace(parameters=[*signature.parameters.values(), debug])


def _exit_code(error: MendscanError) -> int:
    if isinstance(error, Interrupted):
        return EXIT_INTERRUPTED
    if isinstance(error, CohortError):
        return EXIT_ALL_FAILED
    usage = (SettingsError, ModelError, ResultsError, WriteError)
    return EXIT_USAGE if isinstance(error, usage) else EXIT_INTERNAL


@app.command()
@_reports_errors
def train(
    healthy: Annotated[Path, typer.Option("--input", "-i", help="Folder of healthy .nii/.nii.gz scans, any depth.")],
    model: Annotated[Path, typer.Option("--output", "-o", help="Model folder to write.")],
    preset: Annotated[
        Preset, typer.Option(help="auto derives settings; brain and abdomen are the paper's.")
    ] = Preset.auto,
    minutes: Annotated[float | None, typer.Option(help="Time for both networks; 30 by default.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps instead of minutes; repeats a run exactly.")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped training was.")] = False,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, as section.key=value; may be repeated.")
    ] = None,
) -> None:
    """Train a detector on healthy scans.

    Example: mendscan train -i healthy_scans -o model --minutes 30
    """
    from mendscan.console import ConsoleProgress, show_plan, show_training
    from mendscan.training.trainer import train as run_training

    with ConsoleProgress() as progress:
        summary = run_training(
            healthy,
            model,
            preset=preset.value,
            minutes=minutes,
            steps=steps,
            seed=seed,
            device=device.value,
            resume=resume,
            assignments=assignments or (),
            progress=progress,
            on_plan=show_plan,
        )
    show_training(summary)


@app.command()
@_reports_errors
def detect(
    model: Annotated[Path, typer.Option("--model", "-m", help="Model folder that mendscan train wrote.")],
    scans: Annotated[Path, typer.Option("--input", "-i", help="A scan, or a folder of scans at any depth.")],
    results: Annotated[Path, typer.Option("--output", "-o", help="Results folder to write.")],
    restorations: Annotated[
        int | None, typer.Option(min=1, help="Restorations per slice; the model's setting (15) by default.")
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
    workers: Annotated[int | None, typer.Option(min=0, help="Cores to use; all by default.")] = None,
) -> None:
    """Score scans, restore them and map where they depart from healthy anatomy.

    Example: mendscan detect -m model -i new_scans -o results
    """
    from mendscan.console import ConsoleProgress, show_detection
    from mendscan.detection.batch import detect_folder
    from mendscan.report.figures import save_figure

    with ConsoleProgress() as progress:
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
            workers=workers,
            after_save=save_figure,
            progress=progress,
        )
    show_detection(summary.rows, results)
    if summary.failed:
        raise typer.Exit(EXIT_ALL_FAILED if summary.failed == len(summary.rows) else EXIT_SOME_FAILED)


@app.command()
@_reports_errors
def evaluate(
    results: Annotated[Path, typer.Option("--input", "-i", help="Results folder that mendscan detect wrote.")],
    labels: Annotated[
        Path, typer.Option("--labels", "-l", help="Folder with pixel/NAME.nii.gz, sample/NAME.nii.gz.txt.")
    ],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write the figures as JSON.")] = None,
) -> None:
    """Compare results with labels: exact pooled voxel AP and AUROC, sample AP and AUROC, Dice.

    Example: mendscan evaluate -i results -l labels -o metrics.json
    """
    from mendscan.console import show_metrics
    from mendscan.evaluation.folders import evaluate_folder
    from mendscan.results import read_run, read_scores
    from mendscan.volumes.writing import write_json

    metrics = evaluate_folder(
        results, labels, healthy_threshold=read_run(results)["map_threshold"], scores=read_scores(results)
    )
    show_metrics(metrics)
    if output is not None:
        write_json(output, metrics.as_dict())


@app.command()
@_reports_errors
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; must not exist or be empty.")] = Path(
        "demo"
    ),
    minutes: Annotated[float, typer.Option(help="Training time.")] = 6.0,
) -> None:
    """Show the main job on a simulated cohort: simulate, train, detect, evaluate, through these same commands.

    Example: mendscan demo -o demo
    """
    from mendscan.demo import run_demo

    run_demo(output, minutes=minutes)


@app.callback(invoke_without_command=True)
def _options(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        import mendscan

        typer.echo(f"mendscan {mendscan.__version__} (research use only; not a medical device)")
        raise typer.Exit


def main() -> None:
    """Run the command line."""
    try:
        app()
    except BrokenPipeError:
        sys.exit(EXIT_INTERNAL)
