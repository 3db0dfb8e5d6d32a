"""What the commands print: progress bars and tables."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from mendscan.cohort.planning import Plan
    from mendscan.evaluation.metrics import Metrics
    from mendscan.training.trainer import TrainingSummary

__all__ = [
    "ConsoleProgress",
    "console",
    "show_comparison",
    "show_detection",
    "show_metrics",
    "show_plan",
    "show_training",
]

console = Console(highlight=False, width=None if sys.stdout.isatty() else 130)
_ROWS_SHOWN = 25


class ConsoleProgress:
    """Progress bars on a terminal; elsewhere, such as in a log file, a line for each quarter of a stage."""

    def __init__(self) -> None:
        self._bars = Progress(
            TextColumn("[bold]{task.description:<22}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[facts]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None
        self._stage, self._total, self._done = "", 0, 0
        self._facts: dict[str, float] = {}

    def __enter__(self) -> ConsoleProgress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def begin(self, stage: str, total: int, *, done: int = 0) -> None:
        """Add a bar."""
        self._facts = {}
        self._stage, self._total, self._done = stage, total, done
        self._task = self._bars.add_task(stage, total=total, completed=done, rate="", facts="")

    def advance(self, units: int = 1, **facts: float) -> None:
        """Move the bar, and show the latest of each figure."""
        if self._task is None:
            return
        self._facts |= facts
        quarter = 4 * self._done // max(1, self._total)
        self._done += units
        shown = "  ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in self._facts.items())
        if self._bars.disable and 4 * self._done // max(1, self._total) > quarter:
            console.print(f"{self._stage:<22} {self._done}/{self._total}  {shown}", markup=False, soft_wrap=True)
        task = self._bars.tasks[self._task]
        rate = f"{task.speed:.1f}/s" if task.speed else ""
        self._bars.update(self._task, advance=units, facts=shown, rate=rate)

    def say(self, message: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(message, style="yellow", markup=False, soft_wrap=True)


def show_plan(plan: Plan) -> None:
    """Print the plan: each decision with its reason."""
    cohort = plan.fingerprint
    table = Table(title=f"Plan for {cohort.scans} healthy scans", title_justify="left", show_lines=False)
    table.add_column("setting", no_wrap=True)
    table.add_column("value")
    table.add_column("because", style="dim")
    for decision in plan.decisions:
        table.add_row(decision.setting, decision.value, decision.reason)
    console.print(table)


def show_training(summary: TrainingSummary) -> None:
    """Print what training made."""
    figures = summary.figures
    console.print(
        f"hold-out L1 {figures['holdout_l1']:.4f}   codes used {figures['codes_used']:.0f}   "
        f"perplexity {figures['perplexity']:.1f}   hold-out NLL {figures['holdout_nll']:.3f} nats"
    )
    console.print(f"model: [bold]{summary.model}[/bold] (see README.md, plan.json, curves.png in it)")


def show_detection(rows: Sequence[dict[str, Any]], results: Path) -> None:
    """Print the scans, least likely first."""
    done = sorted((row for row in rows if row["status"] == "ok"), key=lambda row: -row["score"])
    table = Table(title=f"{len(done)} of {len(rows)} scans scored", title_justify="left")
    for name, justify in (
        ("case", "left"),
        ("score", "right"),
        ("p", "right"),
        ("findings", "right"),
        ("worst slice", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in done[:_ROWS_SHOWN]:
        where = f"{row['max_slice_axis']} = {row['max_slice']}"
        table.add_row(row["case"], f"{row['score']:.1f}", f"{row['p_value']:.3f}", str(row["findings"]), where)
    console.print(table)
    if len(done) > _ROWS_SHOWN:
        console.print(f"… and {len(done) - _ROWS_SHOWN} more in scores.csv")
    console.print(f"results: [bold]{results}[/bold] (scores.csv, findings.csv, maps, restored, figures)")
    console.print("[dim]Research use only: a score means unlikely under the healthy training scans, not disease.[/dim]")


def show_metrics(metrics: Metrics) -> None:
    """Print the figures of an evaluation."""
    console.print(f"{metrics.n_cases_pixel} cases with voxel labels, {metrics.n_cases_sample} with scan labels")
    table = Table()
    table.add_column("figure")
    table.add_column("value", justify="right")
    for name, value in (
        ("voxel AP (pooled, exact)", metrics.voxel_ap),
        ("voxel AUROC", metrics.voxel_auroc),
        ("anomalous share of voxels", metrics.voxel_prevalence),
        ("sample AP", metrics.sample_ap),
        ("sample AUROC", metrics.sample_auroc),
        ("best Dice (oracle threshold)", metrics.best_dice),
        ("Dice at the healthy threshold", metrics.dice_at_healthy_threshold),
    ):
        table.add_row(name, "–" if value is None else f"{value:.4f}")
    console.print(table)
    if metrics.n_counted_as_zeros:
        console.print(f"[bold red]{metrics.n_counted_as_zeros} cases had no usable map and counted as zeros[/bold red]")


def show_comparison(rows: Mapping[str, Mapping[str, float | None]]) -> None:
    """Print the figures of several methods on the same cases."""
    names = ("voxel_ap", "voxel_auroc", "best_dice", "dice_at_healthy_threshold", "sample_ap", "sample_auroc")
    table = Table()
    table.add_column("method")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for method, figures in rows.items():
        cells = ("–" if figures[name] is None else f"{figures[name]:.3f}" for name in names)
        table.add_row(method, *cells)
    console.print(table)
