"""Pictures of what lies between a slice and its map, and of how scores tell healthy from anomalous."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from matplotlib.figure import Figure

from mendscan.detection.explaining import Stages
from mendscan.evaluation.metrics import Evaluation
from mendscan.results.planes import PLANES, as_drawn, label_sides, upright
from mendscan.volumes.volume import Volume

__all__ = ["draw_code_likelihoods", "draw_restorations", "draw_stages", "draw_voxel_scores"]

_HEALTHY, _ANOMALOUS, _LABEL, _THRESHOLD = "#3b6ea5", "#c8553d", "#ff9500", "#3fe0ff"
_EXCESS = {
    "residual": "residual, smoothed:\nhealthy standard deviations",
    "nll": "−log p, smoothed:\nhealthy standard deviations",
    "texture": "texture:\nhealthy standard deviations",
    "discriminator": "discriminator's logit,\nsmoothed",
}
_NOTICE = "research use only; not a medical device"


def draw_stages(stages: Stages, *, label: Volume | None = None) -> Figure:
    """Draw a slice from the scan to its map: reconstruction, codes, their NLL, restoration, residual, maps.

    Args:
        stages: From `explain`.
        label: The scan's voxel labels, to be outlined; for evaluation only.
    """
    row, grey, hot = stages.row, _window(stages), {"cmap": "inferno", "vmin": 0}
    restored_HW = np.einsum("r,rhw->hw", stages.weight_R, stages.restorations_RHW)
    panels: list[tuple[str, Any, dict[str, Any]]] = [
        ("slice y, prepared", stages.slice_HW, grey),
        ("reconstruction\nfrom its own codes", stages.reconstruction_HW, grey),
        ("codes\n(colours are names)", stages.codes_hw, {"cmap": "nipy_spectral"}),
        ("−log p of each code, nats", stages.nll_hw, hot),
        ("share of restorations that\nreplaced the code", _replaced_share(stages), hot | {"vmax": 1}),
        ("restorations r, weighed", restored_HW, grey),
        ("residual Σ φ |y − r|", stages.residual_HW, hot),
        ("residual, pooled:\nthe paper's map", stages.paper_map_SHW[row], hot | {"vmax": 1}),
        *((_EXCESS[name], excess_SHW[row], hot) for name, excess_SHW in stages.excess.items()),
        ("the model's map;\n0.5 = healthy threshold", stages.map_SHW[row], hot | {"vmax": 1}),
        ("slice, and what lies above\nthe healthy threshold", stages.slice_HW, grey),
    ]
    columns = math.ceil(len(panels) / 2)
    figure = Figure(figsize=(2.5 * columns, 7.0), facecolor="black", layout="compressed")
    places = figure.subplots(2, columns).flat
    outline_HW = None if label is None else _on_slice(stages, label)
    for number, (place, (title, values, style)) in enumerate(zip(places, panels, strict=False), start=1):
        image = _show(place, stages, values, style)
        place.set_title(f"{number}  {title}", color="#cccccc", fontsize=8.5)
        bar = figure.colorbar(image, ax=place, location="bottom", shrink=0.8, pad=0.02)
        bar.ax.tick_params(colors="white", labelsize=6)
        if outline_HW is not None and outline_HW.any():
            _outline(place, stages, outline_HW, 0.5, _LABEL)
    if (stages.map_SHW[row] > stages.map_threshold).any():
        _outline(places[len(panels) - 1], stages, stages.map_SHW[row], stages.map_threshold, _THRESHOLD)
    for place in places[len(panels) :]:
        place.set_axis_off()
    label_sides(places[0], stages.prepared.slice_axis, colour="#7fb3ff")
    figure.suptitle(_caption(stages, outlined=outline_HW is not None), color="white", fontsize=9)
    return figure


def draw_restorations(stages: Stages, *, count: int = 5) -> Figure:
    """Draw single restorations of the slice, their weights φ, and what they changed."""
    count = min(count, len(stages.weight_R))
    figure = Figure(figsize=(2.5 * (count + 1), 5.6), facecolor="black", layout="compressed")
    grid, grey = figure.subplots(2, count + 1, squeeze=False), _window(stages)
    _show(grid[0, 0], stages, stages.slice_HW, grey)
    grid[0, 0].set_title("slice y", color="#cccccc", fontsize=9)
    label_sides(grid[0, 0], stages.prepared.slice_axis, colour="#7fb3ff")
    _show(
        grid[1, 0],
        stages,
        np.abs(stages.slice_HW - stages.reconstruction_HW),
        {"cmap": "inferno", "vmin": 0, "vmax": 3},
    )
    grid[1, 0].set_title("|y − reconstruction|", color="#cccccc", fontsize=9)
    for number in range(count):
        above, below = grid[:, number + 1]
        restoration_HW = stages.restorations_RHW[number]
        _show(above, stages, restoration_HW, grey)
        image = _show(
            below, stages, np.abs(stages.slice_HW - restoration_HW), {"cmap": "inferno", "vmin": 0, "vmax": 3}
        )
        changed = int((stages.restored_codes_Rhw[number] != stages.codes_hw).sum())
        above.set_title(f"r{number + 1}: φ = {stages.weight_R[number]:.2f}", color="#cccccc", fontsize=9)
        below.set_title(f"|y − r{number + 1}|, {changed} codes changed", color="#cccccc", fontsize=9)
    bar = figure.colorbar(image, ax=grid, shrink=0.5)
    bar.ax.tick_params(colors="white", labelsize=7)
    bar.set_label("standard deviations of the scan", color="white", fontsize=7)
    figure.suptitle(_caption(stages, outlined=False), color="white", fontsize=9)
    return figure


def draw_code_likelihoods(stages: Stages, *, label: Volume) -> Figure:
    """Draw how unlikely a scan's codes are, those of labelled patches beside all others, with λ_p and λ_s.

    Args:
        stages: From `explain`.
        label: The scan's voxel labels; for evaluation only.
    """
    labelled_SHW = _on_grid(stages, label)[stages.encoded.at]
    side = stages.settings.vqvae.downsampling
    slices, height, width = labelled_SHW.shape
    inside_Shw = labelled_SHW.reshape(slices, height // side, side, width // side, side).any(axis=(2, 4))
    nll_Shw = stages.encoded.nll_Shw.numpy()
    figure = Figure(figsize=(7, 3.4), layout="constrained")
    axes = figure.subplots()
    bins = np.linspace(0, float(nll_Shw.max()), 60).tolist()
    for name, colour, chosen in (
        ("other codes", _HEALTHY, nll_Shw[~inside_Shw]),
        ("codes of patches with a labelled voxel", _ANOMALOUS, nll_Shw[inside_Shw]),
    ):
        axes.hist(chosen, bins=bins, density=True, alpha=0.55, color=colour, label=f"{name} ({chosen.size})")
    for name, nats, style in (("λ_p", stages.thresholds.restoration, "--"), ("λ_s", stages.thresholds.score, ":")):
        axes.axvline(nats, color="black", ls=style, label=f"{name} = {nats:.1f} nats, from healthy scans")
    axes.set(
        title=f"{as_drawn(stages.volume.name)}: code NLL",
        xlabel="−log p of a code, nats",
        ylabel="density",
        yscale="log",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    return figure


def draw_voxel_scores(evaluations: dict[str, Evaluation]) -> Figure:
    """Draw the map values of healthy and of anomalous voxels, pooled over all cases, a panel for each method."""
    figure = Figure(figsize=(5 * len(evaluations), 3.4), layout="constrained")
    for axes, (name, evaluation) in zip(
        figure.subplots(1, len(evaluations), squeeze=False)[0], evaluations.items(), strict=True
    ):
        measure, bins = evaluation.measure, np.linspace(0, 1, 51).tolist()
        for kind, colour, counts_V in (
            ("healthy voxels", _HEALTHY, measure.healthy_NV.sum(axis=0)),
            ("anomalous voxels", _ANOMALOUS, measure.anomalous_NV().sum(axis=0)),
        ):
            shown = f"{kind} ({int(counts_V.sum()):,})"
            axes.hist(
                measure.values_V, bins=bins, weights=counts_V, density=True, alpha=0.55, color=colour, label=shown
            )
        if evaluation.threshold is not None:
            axes.axvline(
                evaluation.threshold, color="black", ls=":", label=f"healthy threshold {evaluation.threshold:.3f}"
            )
        axes.set(title=name, xlabel="map value", ylabel="density", yscale="log")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False)
    return figure


def _replaced_share(stages: Stages) -> Float[np.ndarray, "h w"]:
    return (stages.restored_codes_Rhw != stages.codes_hw).mean(axis=0)


def _window(stages: Stages) -> dict[str, Any]:
    low, high = np.percentile(stages.encoded.slices_SHW.numpy(), (0.5, 99.7))
    return {"cmap": "gray", "vmin": float(low), "vmax": float(high)}


def _extent(stages: Stages) -> tuple[float, float, float, float]:
    """Return where a picture lies, in pixels of the slice: grids of codes and of pixels cover the same."""
    height, width = _upright(stages, stages.slice_HW).shape
    return 0.0, float(width), 0.0, float(height)


def _upright(stages: Stages, values_HW: Any) -> Any:
    return upright(values_HW, stages.prepared.slice_view)


def _show(place: Any, stages: Stages, values: Any, style: dict[str, Any]) -> Any:
    across, up = np.delete(
        stages.prepared.grid.model_spacing_mm(stages.volume.affine), "XYZ".index(stages.prepared.slice_axis)
    )
    place.set_axis_off()
    return place.imshow(
        _upright(stages, values),
        origin="lower", aspect=up / across, extent=_extent(stages), interpolation="nearest", **style,
    )  # fmt: skip


def _outline(place: Any, stages: Stages, values_HW: Any, level: float, colour: str) -> None:
    shown = _upright(stages, values_HW)
    place.contour(shown, levels=[level], colors=colour, linewidths=1.0, origin="lower", extent=_extent(stages))


def _on_grid(stages: Stages, label: Volume) -> Bool[np.ndarray, "S H W"]:
    return stages.prepared.labelled_slices(label.voxels_XYZ > 0)


def _on_slice(stages: Stages, label: Volume) -> Bool[np.ndarray, "H W"]:
    return _on_grid(stages, label)[stages.encoded.at[stages.row]]


def _caption(stages: Stages, *, outlined: bool) -> str:
    plane = PLANES[stages.prepared.slice_axis][0]
    label = "; outlined: the label, which the model never sees" if outlined else ""
    return (
        f"{as_drawn(stages.volume.name)}, {plane} slice {stages.encoded.at[stages.row]} of the model grid "
        f"(coordinate {stages.position:+.2f}){label}\n{_NOTICE}"
    )
