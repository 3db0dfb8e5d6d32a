"""The commands: parse, call, print."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer

from mendscan.exits import EXIT_ALL_FAILED, EXIT_INTERNAL, EXIT_SOME_FAILED, reports_errors
from mendscan.options import Device, DeviceOption, Precision, Preset, Schedule, Scores, SeedOption, SetOption

__all__ = ["app", "main"]

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

RESAMPLES = 2000


@app.command()
@reports_errors
def train(
    healthy: Annotated[Path, typer.Option("--input", "-i", help="Folder of healthy .nii/.nii.gz scans, any depth.")],
    model: Annotated[Path, typer.Option("--output", "-o", help="Model folder to write.")],
    preset: Annotated[
        Preset, typer.Option(help="auto derives settings; brain and abdomen are the paper's.")
    ] = Preset.auto,
    minutes: Annotated[float | None, typer.Option(help="Time for all networks; 30 by default.")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps instead of minutes; repeats a run exactly.")] = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where a stopped training was.")] = False,
    assignments: SetOption = None,
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
@reports_errors
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
            false_positive_rate=false_positive_rate,
            false_positives_per_scan=false_positives_per_scan,
            scores=scores.value,
            workers=workers,
            after_save=save_figure,
            progress=progress,
        )
    show_detection(summary.rows, results)
    if summary.failed:
        raise typer.Exit(EXIT_ALL_FAILED if summary.failed == len(summary.rows) else EXIT_SOME_FAILED)


@app.command()
@reports_errors
def evaluate(
    results: Annotated[
        Path, typer.Option("--input", "-i", help="Folder of maps and scores: of mendscan, MOOD or anyone.")
    ],
    labels: Annotated[
        Path, typer.Option("--labels", "-l", help="Folder of labels: pixel/ and sample/ as MOOD, or NAME.nii.gz.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for JSON, CSV tables and a picture.")
    ] = None,
    other: Annotated[
        Path | None, typer.Option("--compare", help="Another folder of maps: print the paired difference to it.")
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Healthy threshold of the maps; what the results name by default."),
    ] = None,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples of the intervals.")] = RESAMPLES,
    seed: SeedOption = 0,
    official: Annotated[
        bool, typer.Option("--official", help="Only the MOOD challenge's figures, by its script's exact rules.")
    ] = False,
) -> None:
    """Compare any method's maps and scores with labels: exact figures with intervals, by lesion and by stratum.

    Needs no model.  Example: mendscan evaluate -i results -l labels -o evaluation
    """
    if official:
        if (output, other, threshold, resamples, seed) != (None, None, None, RESAMPLES, 0):
            raise typer.BadParameter("--official has rules of its own and goes with --input and --labels alone")
        _show_official(results, labels)
        return
    from mendscan.console import ConsoleProgress, show_differences, show_evaluation
    from mendscan.evaluation.folders import compare, evaluate_folder
    from mendscan.evaluation.layouts import find_predictions
    from mendscan.evaluation.tables import evaluation_folder, write_evaluation
    from mendscan.report.evaluation_figures import save_evaluation_figure

    options: dict[str, Any] = {"threshold": threshold, "resamples": resamples, "seed": seed}
    # What can be refused is refused before the work.
    if output is not None:
        evaluation_folder(output, labels)
    if other is not None:
        find_predictions(other)
    with ConsoleProgress() as progress:
        evaluation = evaluate_folder(results, labels, progress=progress, **options)
        second = None if other is None else evaluate_folder(other, labels, progress=progress, **options)
    show_evaluation(evaluation)
    differences = None
    if second is not None and other is not None:
        differences = compare(evaluation, second)
        show_differences(differences, results, other, second)
    if output is not None:
        write_evaluation(evaluation, output, differences=differences)
        save_evaluation_figure(evaluation, output / "evaluation.png")


def _show_official(results: Path, labels: Path) -> None:
    from mendscan.console import ConsoleProgress, show_official
    from mendscan.evaluation.official import official_figures

    with ConsoleProgress() as progress:
        figures = official_figures(results, labels, progress=progress)
    for mode, figure in figures.items():
        show_official(figure, mode)


@app.command()
@reports_errors
def simulate(
    scans: Annotated[Path, typer.Option("--input", "-i", help="Folder of healthy scans.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for scans, labels and tables.")],
    local: Annotated[
        int | None, typer.Option(min=0, help="Scans with local anomalies; every scan once by default.")
    ] = None,
    healthy: Annotated[int | None, typer.Option(min=0, help="Unchanged scans; every scan by default.")] = None,
    artefacts: Annotated[
        int | None, typer.Option(min=0, help="Scans with a whole-scan artefact; every scan by default.")
    ] = None,
    per_scan: Annotated[tuple[int, int], typer.Option(help="Fewest and most local anomalies in a scan.")] = (1, 4),
    radius_mm: Annotated[
        tuple[float, float] | None, typer.Option(help="Smallest and largest radius; from the scan by default.")
    ] = None,
    kinds: Annotated[
        list[str] | None, typer.Option("--kind", help="A kind of local anomaly; may be repeated; all by default.")
    ] = None,
    artefact_kinds: Annotated[
        list[str] | None, typer.Option("--artefact", help="A kind of artefact; may be repeated; all by default.")
    ] = None,
    seed: SeedOption = 0,
    workers: Annotated[int | None, typer.Option(min=0, help="Cores to use; all by default.")] = None,
) -> None:
    """Put labelled anomalies and artefacts into healthy scans, to test a detector with; never to train one.

    Example: mendscan simulate -i healthy_scans -o test --seed 1
    """
    from mendscan.cohort.suite import write_suite
    from mendscan.console import ConsoleProgress, show_suite
    from mendscan.volumes.reading import find_scans

    chosen = {"kinds": kinds, "artefact_kinds": artefact_kinds}
    with ConsoleProgress() as progress:
        written = write_suite(
            find_scans(scans),
            output,
            seed=seed,
            local=local,
            healthy=healthy,
            artefacts=artefacts,
            per_scan=per_scan,
            radius_mm=radius_mm,
            workers=workers,
            progress=progress,
            **{name: tuple(value) for name, value in chosen.items() if value},
        )
    show_suite(written)


@app.command()
@reports_errors
def benchmark(
    healthy: Annotated[Path, typer.Option("--input", "-i", help="Folder of healthy scans.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write; a stopped benchmark goes on in it.")],
    minutes: Annotated[
        float | None, typer.Option(help="Training time of each method that is trained; 30 by default.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Training steps of each instead; repeats a run exactly.")] = None,
    baselines: Annotated[
        list[str] | None, typer.Option("--baseline", help="A baseline; may be repeated; all by default.")
    ] = None,
    radius_mm: Annotated[
        tuple[float, float] | None, typer.Option(help="Radii of the local anomalies; from the scans by default.")
    ] = None,
    assignments: SetOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.auto,
) -> None:
    """Compare the method with simpler ones: same scans, same time, anomalies of every kind, one page.

    Example: mendscan benchmark -i healthy_scans -o benchmark --minutes 30
    """
    from rich.markup import escape

    from mendscan.benchmark.methods import BASELINE_NAMES
    from mendscan.benchmark.running import run_benchmark
    from mendscan.console import ConsoleProgress, console, show_comparison

    with ConsoleProgress() as progress:
        evaluations = run_benchmark(
            healthy, output, minutes=minutes, steps=steps, baselines=baselines or BASELINE_NAMES, radius_mm=radius_mm,
            assignments=assignments or (), seed=seed, device=device.value, progress=progress,
        )  # fmt: skip
    show_comparison(evaluations)
    console.print(f"page: [bold]{escape(str(output / 'index.html'))}[/bold] (also README.md, evaluations, results)")


@app.command()
@reports_errors
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
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without "–" shows "?", and the work is not lost
    try:
        app()
    except BrokenPipeError:
        sys.exit(EXIT_INTERNAL)
