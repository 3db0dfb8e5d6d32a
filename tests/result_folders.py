"""Small results folders, written as the detector writes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from mendscan.results import CodeNLL, Detection, Finding, GateWarning, find_components, write_results
from mendscan.volumes.remarks import Remark
from mendscan.volumes.volume import Volume, volume_from_array

AFFINE = np.array([[0, 0, 3.0, -20], [-2.0, 0, 0, 15], [0, -1.5, 0, 40], [0, 0, 0, 1]])
RUN = {
    "calibration_scans": 19,
    "false_positive_rate": 0.05,
    "format": 1,
    "healthy_scores": [round(-1 + 0.2 * n, 2) for n in range(19)],
    "map_threshold": 0.5,
    "mendscan": "0.1.0",
    "model": "5e" * 32,
    "restorations": 15,
    "score_threshold": 2.6,
    "seed": 0,
    "settings": {"evidence": ["nll", "discriminator"], "min_pool": 3},
    "smallest_p_value": 0.05,
}
FINDING = Finding(12.5, 4, 0.75, 0.5, (1.5, -2.25, 3.0), (4.0, 5.5, 6.0), expected_false=0.25)
NLL = CodeNLL(np.arange(12.0).reshape(3, 2, 2), ((-0.5, 8.5), (-0.5, 11.5)), 7.5)


def detection(name: str, *, p_value: float, score: float = 1.0, seed: int = 0) -> Detection:
    generator = np.random.default_rng(seed)
    volume = volume_from_array(generator.integers(-90, 900, size=(12, 9, 10)), AFFINE, name=name)
    volume = replace(volume, remarks=(Remark("W_UNIT", "the spatial unit is not the millimetre"),))
    return Detection(
        volume=volume,
        score=score,
        p_value=p_value,
        slice_scores=np.array([1.0, 5.0, 2.0]),
        slice_indices=np.array([0.5, 4.0, 8.5]),
        slice_axis="Z",
        map_XYZ=generator.random(volume.shape, dtype=np.float32),
        restored_XYZ=generator.normal(size=volume.shape).astype(np.float32),
        threshold=0.5,
        findings=(FINDING,),
        statistics={"typical noise": 3.25},
        warnings=(GateWarning("W_CROP", "the field of view misses the top"),),
        code_nll=NLL,
    )


def of_volume(volume: Volume, map_XYZ: np.ndarray, *, p_value: float = 0.05, score: float = 3.0) -> Detection:
    """A detection whose findings are those of its map, and whose restoration is the scan at half its intensity."""
    return Detection(
        volume=volume,
        score=score,
        p_value=p_value,
        slice_scores=np.linspace(1, 9, volume.shape[2]),
        slice_indices=np.arange(volume.shape[2], dtype=np.float64),
        slice_axis="Z",
        map_XYZ=map_XYZ.astype(np.float32),
        restored_XYZ=volume.voxels_XYZ / 2,
        threshold=0.5,
        findings=tuple(
            replace(found, expected_false=0.25)
            for found in find_components(map_XYZ.astype(np.float32), volume, threshold=0.5, smallest_mm3=0.0)
        ),
        parts={"local": score, "acquisition": 0.25},
        part_p_values={"local": p_value, "acquisition": 0.6},
        strangest="typical noise +3.2",
        statistics={"typical noise": 3.25, "fine detail along rows": -1.5},
    )


def results_of(folder: Path, *detections: Detection, failed: tuple[str, ...] = ()) -> Path:
    folder.mkdir(exist_ok=True)
    for each in detections:
        each.save(folder)
    rows = [each.score_row() | {"flagged": int(each.p_value <= 0.05)} for each in detections]
    message = "{}: voxels are NaN or infinite (found 3 of 9, expected finite voxels); find out what wrote them"
    rows += [{"case": name, "status": "failed", "code": "E_NAN", "message": message.format(name)} for name in failed]
    write_results(folder, rows, [row for each in detections for row in each.finding_rows()], RUN)
    return folder
