"""Putting a method to the test: labelled anomalies, figures against labels, comparisons, the demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mendscan.cli.app import app
from mendscan.exits import reports_errors
from mendscan.options import Device, DeviceOption, SeedOption, SetOption

__all__ = ["RESAMPLES", "benchmark", "demo", "evaluate", "simulate"]

RESAMPLES = 2000


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
    from contextlib import nullcontext

    from mendscan.console import show_differences, show_evaluation
    from mendscan.console_progress import ConsoleProgress
    from mendscan.evaluation.folders import compare, evaluate_folder
    from mendscan.evaluation.layouts import find_predictions
    from mendscan.evaluation.tables import evaluation_folder, write_evaluation
    from mendscan.report.evaluation_figures import save_evaluation_figure

    options: dict[str, Any] = {"threshold": threshold, "resamples": resamples, "seed": seed}
    with nullcontext() if output is None else evaluation_folder(output, labels):
        if other is not None:
            find_predictions(other)  # what can be refused is refused before the work
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
    from mendscan.console import show_official
    from mendscan.console_progress import ConsoleProgress
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
    from mendscan.console import show_suite
    from mendscan.console_progress import ConsoleProgress
    from mendscan.volumes.apart import keep_apart
    from mendscan.volumes.finding import find_scans

    keep_apart(scans, output, subfolders=("scans", "labels"))
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
    from mendscan.console import show_comparison
    from mendscan.console_progress import ConsoleProgress, console

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
