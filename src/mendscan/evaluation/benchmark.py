"""What trivial methods find in the same scans: a figure means little until it is read beside theirs."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from mendscan.cohort.preparing import Prepared, prepare
from mendscan.config import Settings, parse_settings
from mendscan.detection.standardising import HealthyReference, to_unit_interval
from mendscan.evaluation.baselines import AtlasBaseline, PcaBaseline, scan_score
from mendscan.evaluation.folders import evaluate_folder
from mendscan.evaluation.metrics import Evaluation
from mendscan.shapes import MapSHW
from mendscan.volumes.reading import find_scans, read_volume
from mendscan.volumes.volume import Volume
from mendscan.volumes.writing import write_csv, write_map

__all__ = ["evaluate_baselines"]

_STANDARDISED_SIGMA = 2.0
"""Smoothing of the standardised baselines, in voxels of the model grid: the same as for the model's own residual."""


@dataclass(frozen=True, eq=False)
class _Method:
    name: str
    map_of: Callable[[Float32[np.ndarray, "S H W"]], MapSHW]
    healthy_scale: float


def evaluate_baselines(
    model: Path, healthy: Path, scans: Path, labels: Path, output: Path, *, names: Sequence[str] = ("atlas", "pca")
) -> dict[str, Evaluation]:
    """Fit baselines on the scans a model was trained on, and evaluate them where the model was.

    Each is shown raw and, as the model's own maps are, smoothed and standardised by the calibration scans.

    Args:
        model: A model folder: its grid, intensity recipe and split are used.
        healthy: The scans it was trained on.
        scans: The scans to evaluate.
        labels: Their labels.
        output: A folder for the maps; one results folder per method is written into it.
        names: Which of ``atlas`` (|z| per position) and ``pca`` (residual of 60 components).

    Returns:
        The figures of each method, by name.
    """
    settings = parse_settings(json.loads((model / "config.json").read_text())["settings"], where=model / "config.json")
    split = json.loads((model / "split.json").read_text())
    train_NSHW = _prepared_by_hash(healthy, settings, set(split["train"]))
    healthy_NSHW = _prepared_by_hash(healthy, settings, set(split["calibration"]))
    methods = [method for name in names for method in _methods(name, train_NSHW, healthy_NSHW)]
    scores: dict[str, dict[str, float]] = {method.name: {} for method in methods}
    for path in find_scans(scans):
        volume = read_volume(path)
        prepared = prepare(volume, settings.preparation)
        for method in methods:
            scores[method.name][volume.name] = _write(method, volume, prepared, output / method.name)
    for method in methods:
        rows = [{"case": case, "score": score} for case, score in scores[method.name].items()]
        write_csv(output / method.name / "scores.csv", rows, ("case", "score"))
    return {
        method.name: evaluate_folder(output / method.name, labels, threshold=0.5, strata=False) for method in methods
    }


def _prepared_by_hash(folder: Path, settings: Settings, hashes: set[str]) -> Float32[np.ndarray, "N S H W"]:
    volumes = (read_volume(path) for path in find_scans(folder))
    return np.stack([prepare(v, settings.preparation).slices_SHW for v in volumes if v.content_hash in hashes])


def _methods(
    name: str, train_NSHW: Float32[np.ndarray, "N S H W"], healthy_NSHW: Float32[np.ndarray, "N S H W"]
) -> list[_Method]:
    baseline = AtlasBaseline.fit(train_NSHW) if name == "atlas" else PcaBaseline.fit(train_NSHW)
    residuals_NSHW = np.stack([baseline.residual(scan) for scan in healthy_NSHW])
    reference = HealthyReference.fit(residuals_NSHW, sigma_voxels=_STANDARDISED_SIGMA)

    def standardised(scan_SHW: Float32[np.ndarray, "S H W"]) -> MapSHW:
        return reference.standardised(baseline.residual(scan_SHW))

    standardised_healthy = np.stack([standardised(scan) for scan in healthy_NSHW])
    return [
        _Method(name, baseline.residual, float(np.quantile(residuals_NSHW, 0.995))),
        _Method(f"{name}-standardised", standardised, float(np.quantile(standardised_healthy, 0.995))),
    ]


def _write(method: _Method, volume: Volume, prepared: Prepared, folder: Path) -> float:
    """Write a method's map of one scan; return its scan score, the mean of the raw map."""
    raw_SHW = method.map_of(prepared.slices_SHW)
    (folder / "maps").mkdir(parents=True, exist_ok=True)
    on_scan = prepared.to_scan(to_unit_interval(raw_SHW, method.healthy_scale))
    write_map(folder / "maps" / f"{volume.name}.nii.gz", np.clip(on_scan, 0, 1), volume)
    return scan_score(raw_SHW)
