"""What the commands print: tables and summaries."""

from __future__ import annotations

import math
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from mendscan.console_progress import console
from mendscan.errors import one_line
from mendscan.evaluation.measures import FIGURES

if TYPE_CHECKING:
    from mendscan.cohort.labelled_cohort import LabelledCohort
    from mendscan.cohort.mood import MoodImport
    from mendscan.cohort.plan import Plan
    from mendscan.detection.sampling import Samples
    from mendscan.evaluation.bootstrap import Difference, Interval
    from mendscan.evaluation.metrics import Evaluation
    from mendscan.evaluation.official import OfficialFigure
    from mendscan.evaluation.strata import Stratum
    from mendscan.training.budget import EpochEstimate
    from mendscan.training.importing import ImportSummary
    from mendscan.training.trainer import TrainingSummary

__all__ = [
    "show_comparison",
    "show_detection",
    "show_differences",
    "show_estimate",
    "show_evaluation",
    "show_import",
    "show_official",
    "show_original",
    "show_plan",
    "show_samples",
    "show_suite",
    "show_training",
]

_ROWS_SHOWN = 25


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


def show_estimate(estimate: EpochEstimate) -> None:
    """Print how long epochs will take."""
    console.print(
        f"{estimate.epochs:,} epochs of either network, {estimate.steps:,} steps: "
        f"[bold]about {_duration(estimate.seconds)}[/bold] on this device; --minutes 30 trains for half an hour",
        soft_wrap=True,
    )


def _duration(seconds: float) -> str:
    """Return a time in the largest unit of which there are two."""
    for unit, length in (("days", 86_400.0), ("h", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def show_training(summary: TrainingSummary) -> None:
    """Print what training made."""
    from mendscan.training.choosing import CANDIDATES

    figures, looked_at = summary.figures, {f"detection.{name}" for name in CANDIDATES}
    console.print(
        f"hold-out L1 {figures['holdout_l1']:.4f}   codes used {figures['codes_used']:.0f}   "
        f"perplexity {figures['perplexity']:.1f}   hold-out NLL {figures['holdout_nll']:.3f} nats"
        + (f"   self-made faults found AP {figures['holdout_fault_ap']:.3f}" if "holdout_fault_ap" in figures else "")
    )
    for decision in summary.plan.decisions:
        if decision.setting in looked_at:
            console.print(f"{decision.setting} = {decision.value}: {decision.reason}")
    console.print(f"model: [bold]{escape(str(summary.model))}[/bold] (see README.md, plan.json, curves.png in it)")


def show_original(summary: ImportSummary) -> None:
    """Print what was imported, and whether it is calibrated."""
    thresholds, scans = summary.thresholds, summary.calibration_scans
    for file in summary.files:
        console.print(f"{file['network']:<6} {file['name']}  SHA-256 {file['sha256'][:16]}…", markup=False)
    weights = ", ".join(f"{name} {count:,}" for name, count in summary.parameters.items())
    stem = "with" if summary.settings.vqvae.stem_padding else "without"
    console.print(f"weights: {weights}; first convolution {stem} padding, as told: no tensor could tell")
    for meaning, value in summary.figures.items():
        console.print(f"{meaning}: {value:.4f}")
    console.print(f"λ_s {thresholds.score:.3g} nats, λ_p {thresholds.restoration:.3g} nats", end="")
    if scans:
        console.print(f", learnt from {scans} healthy scans; the smallest possible p-value is {1 / (scans + 1):.3g}")
    else:
        console.print(", set by hand in the original")
        unsaid = "every p-value will be 1 and no finding is named; give --healthy to calibrate"
        console.print(f"[bold yellow]not calibrated[/]: {unsaid}")
    console.print(f"model: [bold]{escape(str(summary.model))}[/bold] (see README.md, plan.json in it)")
    console.print("[dim]Research use only; not a medical device.[/dim]")


def show_detection(rows: Sequence[dict[str, Any]], results: Path) -> None:
    """Print the scans, least likely first."""
    done = sorted((row for row in rows if row["status"] == "ok"), key=lambda row: -row["score"])
    table = Table(title=f"{len(done)} of {len(rows)} scans scored", title_justify="left")
    for name, justify in (
        ("case", "left"),
        ("score", "right"),
        ("p", "right"),
        ("because of", "left"),
        ("findings", "right"),
        ("worst slice", "left"),
    ):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in done[:_ROWS_SHOWN]:
        where = f"{row['max_slice_axis']} = {row['max_slice']}"
        why = row["part"] or "the paper's score"
        table.add_row(
            escape(one_line(row["case"])),
            f"{row['score']:.1f}",
            f"{row['p_value']:.3f}",
            why,
            str(row["findings"]),
            where,
        )
    console.print(table)
    if len(done) > _ROWS_SHOWN:
        console.print(f"… and {len(done) - _ROWS_SHOWN} more in scores.csv")
    console.print(f"results: [bold]{escape(str(results))}[/bold] (scores.csv, findings.csv, maps, restored, figures)")
    folder = shlex.quote(str(results))
    seen = f"see it: mendscan report -i {folder}   or: mendscan view -i {folder}"
    console.print(seen, markup=False, soft_wrap=True)
    console.print("[dim]Research use only: a score means unlikely under the healthy training scans, not disease.[/dim]")


def show_samples(samples: Samples, path: Path) -> None:
    """Print what was sampled."""
    first, last = samples.position_n.min(), samples.position_n.max()
    where = f"at slice coordinate {first:.3f}" if first == last else f"at slice coordinates {first:.3f} to {last:.3f}"
    console.print(f"{len(samples.position_n)} slices {where}: [bold]{escape(str(path))}[/bold]")
    console.print("[dim]Research use only: samples of what the model has learnt, not scans of anyone.[/dim]")


def show_evaluation(evaluation: Evaluation) -> None:
    """Print the figures of an evaluation with their intervals, and what was found by stratum."""
    counts = evaluation.counts
    console.print(
        f"{counts['cases']} scans of {counts['subjects']} subjects: {counts['cases_with_voxel_label']} with voxel "
        f"labels ({counts['lesions']} lesions in {counts['cases_with_lesions']}), "
        f"{counts['cases_with_scan_label']} with scan labels ({counts['anomalous_scans']} anomalous)"
    )
    table = Table(caption=f"{evaluation.level:.0%} intervals: bootstrap over subjects", caption_justify="left")
    for name, justify in (("figure", "left"), ("value", "right"), ("interval", "right"), ("", "left")):
        table.add_column(name, justify=justify, style="dim" if not name else None)  # type: ignore[arg-type]
    for name, meaning in FIGURES.items():
        if name in evaluation.figures:
            table.add_row(name.replace("_", " "), *_figure_cells(evaluation.figures[name]), meaning)
    console.print(table)
    if evaluation.strata:
        console.print(_strata_table(evaluation.strata))
    for remark in evaluation.remarks:
        console.print(f"note: {remark}", style="yellow", markup=False, soft_wrap=True)
    _show_counted_as_zeros(evaluation)


def _show_counted_as_zeros(evaluation: Evaluation, whose: str = "") -> None:
    count = evaluation.counts["counted_as_zeros"]
    if count:
        console.print(f"[bold red]{escape(whose)}without a usable prediction, counted as zeros: {count} cases[/]")


def _strata_table(strata: Sequence[Stratum]) -> Table:
    names = ("voxel_ap", "voxel_auroc", "lesion_sensitivity", "lesion_froc", "sample_auroc")
    shown = [name for name in names if any(name in stratum.figures for stratum in strata)]
    table = Table(title="by stratum, each against everything healthy", title_justify="left")
    for name in ("", "stratum", "n", *(name.replace("_", " ") for name in shown)):
        table.add_column(name, justify="left" if name in ("", "stratum") else "right")
    for stratum in strata:
        cells = (" ".join(_figure_cells(stratum.figures[name])) if name in stratum.figures else "" for name in shown)
        table.add_row(stratum.family, escape(stratum.name), str(stratum.anomalies), *cells)
    return table


def _figure_cells(figure: Interval) -> tuple[str, str]:
    value = f"{figure.estimate:.3f}" if math.isfinite(figure.estimate) else "–"
    return value, f"[{figure.low:.3f}, {figure.high:.3f}]" if math.isfinite(figure.low) else ""


def show_differences(differences: Mapping[str, Difference], first: Path, second: Path, evaluation: Evaluation) -> None:
    """Print a paired comparison of two methods on the same cases; `evaluation` is the second's."""
    table = Table(title=f"{escape(str(first))} minus {escape(str(second))}, paired over subjects", title_justify="left")
    for name in ("figure", "difference", "interval", "p"):
        table.add_column(name, justify="left" if name == "figure" else "right")
    for name in FIGURES:
        if name in differences:
            one = differences[name]
            ends = f"{one.low:+.3f} to {one.high:+.3f}" if math.isfinite(one.low) else ""
            p_value = f"{one.p_value:.3f}" if math.isfinite(one.p_value) else "–"
            value = f"{one.estimate:+.3f}" if math.isfinite(one.estimate) else "–"
            table.add_row(name.replace("_", " "), value, ends, p_value)
    console.print(table)
    _show_counted_as_zeros(evaluation, f"{second}: ")


def show_official(figure: OfficialFigure, mode: str) -> None:
    """Print the challenge's figure, and what counted as zeros in it."""
    for problem in figure.problems:
        console.print(f"{problem.case}: {problem.problem}", style="yellow", markup=False, soft_wrap=True)
    console.print(f"official {mode} average precision: [bold]{figure.value:.6f}[/bold] ({figure.cases} cases)")


def show_suite(cohort: LabelledCohort) -> None:
    """Print what was put into which scans."""
    kinds = Counter(anomaly.kind for anomalies in cohort.anomalies.values() for anomaly in anomalies)
    scopes = Counter(case.scope for case in cohort.cases)
    console.print(", ".join(f"{count} cases {scope}" for scope, count in sorted(scopes.items())))
    console.print("  ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())))
    console.print(f"written: [bold]{escape(str(cohort.folder))}[/bold] (scans, labels, anomalies.csv, cases.csv)")
    console.print("[dim]For evaluation only: a detector that has seen these anomalies is no longer unsupervised.[/dim]")


def show_import(done: MoodImport) -> None:
    """Print what an import has put where, and what to do with it."""
    counts = [f"{count} {kind.value}{'s' if count != 1 else ''}" for kind, count in done.counts.items() if count]
    before = f" ({done.already_there} files were there before, verified by digest)" if done.already_there else ""
    console.print(", ".join(counts) + before, soft_wrap=True)
    spacing = " x ".join(
        f"{low:.3g}" if high - low < 1e-3 else f"{low:.3g}–{high:.3g}" for low, high in done.spacing_mm
    )
    shape = " x ".join(map(str, done.shape))
    console.print(f"shape {shape}, spacing {spacing} mm, {done.bytes / 2**30:.2f} GiB", soft_wrap=True)
    for remark in done.remarks:
        console.print(f"note: {remark}", style="yellow", markup=False, soft_wrap=True)
    console.print(f"written: [bold]{escape(str(done.folder))}[/bold] (record with digests: import.json)")
    console.print("next:")
    for command in done.next_commands:
        console.print(f"  {command}", markup=False, soft_wrap=True)


def show_comparison(rows: Mapping[str, Evaluation]) -> None:
    """Print the figures of several methods on the same cases."""
    names = ("voxel_ap", "voxel_auroc", "best_dice", "dice", "lesion_froc", "sample_ap", "sample_auroc")
    table = Table()
    table.add_column("method")
    for name in names:
        table.add_column(name.replace("_", " "), justify="right")
    for method, evaluation in rows.items():
        values = (evaluation[name] for name in names)
        table.add_row(escape(method), *("–" if value is None else f"{value:.3f}" for value in values))
    console.print(table)
