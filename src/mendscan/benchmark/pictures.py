"""Pictures that set the methods of a benchmark beside each other."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from mendscan.evaluation.metrics import Evaluation
from mendscan.volumes.writing import write_bytes

__all__ = ["save_comparison", "save_strata"]

_FIGURES = {
    "voxel_ap": "voxel AP",
    "voxel_auroc": "voxel AUROC",
    "lesion_froc": "lesion sensitivity (FROC mean)",
    "sample_auroc": "scan AUROC",
}
_FIRST, _OTHERS = "#c8553d", "#3b6ea5"


def save_comparison(evaluations: Mapping[str, Evaluation], path: Path) -> None:
    """Draw the main figures of every method with their intervals, the first method apart by colour."""
    shown = [name for name in _FIGURES if any(evaluation[name] is not None for evaluation in evaluations.values())]
    figure = Figure(figsize=(3.6 * len(shown) + 1.4, 0.32 * len(evaluations) + 1.1), layout="constrained")
    places = np.arange(len(evaluations))[::-1]
    for axes, name in zip(figure.subplots(1, len(shown), sharey=True, squeeze=False)[0], shown, strict=True):
        for place, (method, evaluation) in zip(places, evaluations.items(), strict=True):
            found = evaluation.figures.get(name)
            if found is None or not math.isfinite(found.estimate):
                continue
            colour = _FIRST if place == places[0] else _OTHERS
            axes.plot([found.low, found.high], [place, place], color=colour, lw=1.6, alpha=0.6)
            axes.plot(found.estimate, place, "o", color=colour, ms=4, label=method)
        axes.set_title(_FIGURES[name], fontsize=10)
        axes.set_yticks(places, list(evaluations), fontsize=8)
        axes.tick_params(labelsize=8)
        axes.grid(axis="x", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)


def save_strata(evaluations: Mapping[str, Evaluation], path: Path) -> None:
    """Draw the AUROC of every method in every stratum: voxels of local anomalies, scans with artefacts."""
    keys = [(stratum.family, stratum.name) for stratum in next(iter(evaluations.values())).strata]
    values = np.full((len(evaluations), len(keys)), np.nan)
    for row, evaluation in enumerate(evaluations.values()):
        for stratum in evaluation.strata:
            name = "sample_auroc" if stratum.family == "artefact" else "voxel_auroc"
            if name in stratum.figures and (stratum.family, stratum.name) in keys:
                values[row, keys.index((stratum.family, stratum.name))] = stratum.figures[name].estimate
    figure = Figure(figsize=(0.46 * len(keys) + 3.4, 0.34 * len(evaluations) + 1.9), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, cmap="cividis", vmin=0.3, vmax=1.0, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if math.isfinite(value):
            colour = "white" if value < 0.65 else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6.5, color=colour)
    axes.set_yticks(range(len(evaluations)), list(evaluations), fontsize=8)
    labels = [f"{name} ({family})" for family, name in keys]
    axes.set_xticks(range(len(keys)), labels, fontsize=7, rotation=45, ha="right")
    figure.colorbar(image, ax=axes, label="AUROC", shrink=0.8)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110, metadata={"Software": None})
    write_bytes(path, picture.getvalue())
