"""The benchmark's one page: what was done, every figure with its interval, what each method finds, pictures."""

from __future__ import annotations

import base64
import html
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from markdown_it import MarkdownIt

from mendscan.benchmark.gallery import lesions_to_show, save_gallery
from mendscan.benchmark.methods import OWN, PAPER, TITLES, Bench
from mendscan.benchmark.pictures import save_comparison, save_strata
from mendscan.evaluation.bootstrap import Difference, Interval
from mendscan.evaluation.metrics import Evaluation
from mendscan.volumes.writing import write_text

__all__ = ["title_of", "write_page"]

_VOXELS = ("voxel_ap", "voxel_auroc", "dice", "best_dice", "case_ap", "aupro")
_LESIONS = ("lesion_sensitivity", "false_positives_per_scan", "false_positives_per_healthy_scan", "lesion_froc")
_SCANS = ("sample_ap", "sample_auroc", "sample_auroc_local", "sample_auroc_whole")
_STANDARDISED = "-standardised"
_COMPARED = ("voxel_ap", "voxel_auroc", "lesion_froc", "sample_auroc")
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #8884; text-align: left; vertical-align: top; }
img { max-width: 100%; background: white; }
"""


def write_page(
    bench: Bench,
    evaluations: Mapping[str, Evaluation],
    differences: Mapping[str, Mapping[str, Difference]],
    seconds: Mapping[str, float],
) -> None:
    """Write ``README.md``, its pictures and, with these inside, ``index.html``.

    Args:
        bench: The benchmark.
        evaluations: Of each method, the model's own first.
        differences: The model's figures minus each other method's, paired.
        seconds: How long each step took.

    Raises:
        WriteError: If something cannot be written.
    """
    save_comparison(evaluations, bench.folder / "comparison.png")
    save_strata(evaluations, bench.folder / "strata.png")
    shown = [name for name in evaluations if name in (OWN, PAPER) or name.endswith(_STANDARDISED)]
    maps = [(name.replace(_STANDARDISED, "\nstandardised"), bench.results(name) / "maps") for name in shown]
    save_gallery(bench.folder / "test", maps, lesions_to_show(evaluations[OWN]), bench.folder / "gallery.png")
    text = "\n\n".join(
        [
            "# Benchmark",
            _done(bench, evaluations[OWN]),
            _summary(evaluations),
            *_table("Voxels", _VOXELS, evaluations),
            "![figures with intervals](comparison.png)",
            *_table("Lesions", _LESIONS, evaluations),
            *_table("Scans", _SCANS, evaluations),
            *_differences(differences),
            "## What is found",
            "![AUROC by stratum and method](strata.png)",
            _strata(evaluations),
            "## The same lesions, as each method maps them",
            "Of each kind the lesion of median size, whatever the maps show; outlined: the label.  All maps are drawn "
            f"from 0 to 1; the healthy threshold is 0.5, of the paper's map {evaluations[PAPER].threshold or 0.5:.3g}.",
            "![maps of one lesion of each kind](gallery.png)",
            f"## {title_of(OWN)} in detail",
            f"![curves](evaluations/{OWN}/evaluation.png)",
            "## Time",
            _rows(("step", "seconds"), [(name, f"{value:.0f}") for name, value in seconds.items()]),
            "Research use only; not a medical device.  A score means unlikely under the training set, not disease.",
        ]
    )
    write_text(bench.folder / "README.md", text + "\n")
    write_text(bench.folder / "index.html", _as_html(text, bench.folder))


def title_of(method: str) -> str:
    """Return what a method is called on the page.

    Example:
        >>> title_of("pca-standardised")
        'PCA residual, standardised'
    """
    plain = method.removesuffix(_STANDARDISED)
    return TITLES[plain] + (", standardised" if plain != method else "")


def _done(bench: Bench, own: Evaluation) -> str:
    counts = own.counts
    time = f"{bench.minutes:g} minutes" if bench.minutes is not None else f"{bench.steps} steps"
    return (
        f"Every method that is trained had {time}; all saw the same healthy scans through the same preparation.  "
        f"{counts['subjects']} scans were kept apart by the hash of their bytes and evaluated as {counts['cases']} "
        f"cases: as they are, with local anomalies ({counts['lesions']} in {counts['cases_with_lesions']} scans) and "
        f"with whole-scan artefacts.  {own.prevalence or 0:.2%} of the labelled voxels are anomalous: the average "
        f"precision of chance.  In brackets: {own.level:.0%} bootstrap intervals over the scans that were kept apart.  "
        'No label was used to train, to choose or to set a threshold.  "Standardised" gives a baseline what the '
        "model's own map gets: smoothing by a Gaussian, then the healthy mean and spread at each position."
    )


def _summary(evaluations: Mapping[str, Evaluation]) -> str:
    """Say of each main figure which method has the highest, and how the model's own compares."""
    lines = []
    for name in _COMPARED:
        ranked = sorted(
            (method for method in evaluations if evaluations[method][name] is not None),
            key=lambda method: -(evaluations[method][name] or 0.0),
        )
        if OWN in ranked:
            best, own = ranked[0], evaluations[OWN].figures[name]
            leader = f"highest: {title_of(best)}, {_cell(evaluations[best].figures[name])}; " if best != OWN else ""
            place = f"{ranked.index(OWN) + 1} of {len(ranked)}"
            lines.append(f"- **{_named(name)}**: {leader}{title_of(OWN)} {_cell(own)}, place {place}")
    return "\n".join(lines)


def _table(title: str, names: Sequence[str], evaluations: Mapping[str, Evaluation]) -> list[str]:
    shown = [name for name in names if any(name in one.figures for one in evaluations.values())]
    rows = [
        (title_of(method), *(_cell(evaluation.figures.get(name)) for name in shown))
        for method, evaluation in evaluations.items()
    ]
    return [f"## {title}", _rows(("method", *(_named(name) for name in shown)), rows)] if shown else []


def _differences(differences: Mapping[str, Mapping[str, Difference]]) -> list[str]:
    shown = [name for name in _COMPARED if any(name in one for one in differences.values())]
    rows = [
        (title_of(method), *(_difference_cell(one.get(name)) for name in shown)) for method, one in differences.items()
    ]
    title = f"## {title_of(OWN)} minus each other method"
    note = "Paired over scans; above 0 = better than the other.  p is two-sided and not corrected for their number."
    return [title, note, _rows(("method", *(_named(name) for name in shown)), rows)]


def _strata(evaluations: Mapping[str, Evaluation]) -> str:
    """AUROC and sensitivity of each stratum: the model's own, and the best of the others."""
    others = {name: one for name, one in evaluations.items() if name != OWN}
    rows = []
    for stratum in evaluations[OWN].strata:
        figure = "sample_auroc" if stratum.family == "artefact" else "voxel_auroc"
        own, best = stratum.figures.get(figure), _best(others, stratum.family, stratum.name, figure)
        found = _cell(stratum.figures.get("lesion_sensitivity"))
        rows.append((stratum.family, stratum.name, str(stratum.anomalies), _cell(own), found, best))
    columns = ("", "stratum", "anomalies", "AUROC, mendscan", "lesions found, mendscan", "highest AUROC of another")
    return _rows(columns, rows)


def _best(others: Mapping[str, Evaluation], family: str, name: str, figure: str) -> str:
    found = [
        (stratum.figures[figure].estimate, method)
        for method, evaluation in others.items()
        for stratum in evaluation.strata
        if (stratum.family, stratum.name) == (family, name) and figure in stratum.figures
    ]
    finite = [pair for pair in found if math.isfinite(pair[0])]
    if not finite:
        return "–"
    highest = max(value for value, _ in finite)
    first, *more = [method for value, method in finite if value == highest]
    return f"{highest:.3f} ({title_of(first)}{f' and {len(more)} more' if more else ''})"


def _cell(figure: Interval | None) -> str:
    if figure is None or not math.isfinite(figure.estimate):
        return "–"
    return f"{figure.estimate:.3f}" + (f" [{figure.low:.3f}, {figure.high:.3f}]" if math.isfinite(figure.low) else "")


def _difference_cell(one: Difference | None) -> str:
    if one is None or not math.isfinite(one.estimate):
        return "–"
    return f"{one.estimate:+.3f} [{one.low:+.3f}, {one.high:+.3f}], p = {one.p_value:.3f}"


def _named(figure: str) -> str:
    words = figure.replace("_", " ").replace("auroc", "AUROC").replace("froc", "FROC").replace("aupro", "AUPRO")
    return re.sub(r"\bap\b", "AP", words).replace("best dice", "best Dice (oracle)")


def _rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _as_html(text: str, folder: Path) -> str:
    """One file that needs no other: pictures are inside."""

    def embedded(match: re.Match[str]) -> str:
        data = base64.b64encode((folder / html.unescape(match[1])).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    body = re.sub(r'src="([^"]+\.png)"', embedded, MarkdownIt("commonmark").enable("table").render(text))
    head = f'<meta charset="utf-8"><title>mendscan benchmark</title><style>{_STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{body}</body></html>\n'
