"""What the acquisition gate says of scans that were changed in ways that no anomaly is.

    python benchmarks/gate.py MODEL HEALTHY_SCANS [--scans 8]

HEALTHY_SCANS are scans that the model has not seen.  Prints how many of them are warned of as they are, and after each
change, and the first warning of each kind.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from mendscan.detection.gate import AcquisitionGate
from mendscan.detection.saved_model import calibration_of
from mendscan.models.bundle import load_bundle
from mendscan.volumes.finding import find_scans
from mendscan.volumes.reading import read_volume
from mendscan.volumes.volume import Volume, volume_from_array

Change = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def like_ct(voxels: np.ndarray) -> np.ndarray:
    rank = voxels.ravel().argsort().argsort().reshape(voxels.shape) / voxels.size
    parts = (-1000 + 20 * rank, -100 + 200 * rank)
    return np.select([rank < 0.4, rank < 0.9], parts, 300 + 2000 * (rank - 0.9))


def scaled(affine: np.ndarray, *factors: float) -> np.ndarray:
    return affine @ np.diag([*factors, 1.0])


CHANGES: dict[str, Change] = {
    "as it is": lambda v, a: (v, a),
    "left and right exchanged": lambda v, a: (v[::-1], a),
    "front and back exchanged": lambda v, a: (v[:, ::-1], a),
    "top and bottom exchanged": lambda v, a: (v[:, :, ::-1], a),
    "two axes exchanged": lambda v, a: (v.swapaxes(1, 2), a),
    "top 30 % cut off": lambda v, a: (v[:, :, : int(0.7 * v.shape[2])], a),
    "front 40 % cut off": lambda v, a: (v[:, : int(0.6 * v.shape[1])], a),
    "left 20 % cut off": lambda v, a: (v[int(0.2 * v.shape[0]) :], a),
    "scaled to 0 ... 1": lambda v, a: ((v - v.min()) / (v.max() - v.min()), a),
    "inverted contrast": lambda v, a: (v.max() - v, a),
    "a mask": lambda v, a: ((v > np.median(v)).astype(np.uint8), a),
    "intensities of CT": lambda v, a: (like_ct(v), a),
    "noise": lambda v, a: (np.random.default_rng(0).normal(300, 100, v.shape), a),
    "slices four times as thick": lambda v, a: (v[:, :, ::4], scaled(a, 1, 1, 4)),
    "voxel sizes halved": lambda v, a: (v, scaled(a, 0.5, 0.5, 0.5)),
}


def gate_of(model: Path) -> AcquisitionGate:
    gate = calibration_of(load_bundle(model)).gate
    if gate is None:
        raise SystemExit(f"{model}: the model has no acquisition gate; train it again")
    return gate


def changed(scan: Volume, change: Change) -> Volume:
    return volume_from_array(*change(scan.voxels_XYZ.copy(), scan.affine.copy()), name=scan.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("scans", type=Path)
    parser.add_argument("--scans", dest="count", type=int, default=8, help="scans that are changed")
    asked = parser.parse_args()
    gate, scans = gate_of(asked.model), [read_volume(path) for path in find_scans(asked.scans)]
    for name, change in CHANGES.items():
        chosen = scans if name == "as it is" else scans[: asked.count]
        started = time.perf_counter()
        warnings = [gate.warnings(changed(scan, change)) for scan in chosen]
        seconds = (time.perf_counter() - started) / len(chosen)
        codes = Counter(warning.code for each in warnings for warning in each)
        said = {warning.code: warning.message for each in reversed(warnings) for warning in each}
        print(f"{name:<28} {sum(map(bool, warnings))} / {len(chosen)} warned of   {seconds:.2f} s each")
        for code, count in sorted(codes.items()):
            print(f"    {code} ({count}): {said[code]}")


if __name__ == "__main__":
    main()
