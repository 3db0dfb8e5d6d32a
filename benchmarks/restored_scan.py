"""How near is a restored scan to the scan as it was before anomalies were put in, and what does it cost?

    python benchmarks/restored_scan.py MODEL HEALTHY_SCANS [--scans 16]

HEALTHY_SCANS are scans that the model has not seen.  Copies of them get anomalies of the kinds kept for choosing
settings; each is restored softly and by 1, 5 and 15 samples.  Prints, for each way, the mean difference to the healthy
scan within the anomalies and elsewhere, in standard deviations of the scan, with the standard error over scans and the
paired difference to 15 samples, and the seconds that detection takes.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from mendscan.cohort.selection_cases import with_selection_anomalies
from mendscan.console_progress import ConsoleProgress
from mendscan.detection.detector import Detector
from mendscan.volumes.finding import find_scans
from mendscan.volumes.reading import read_volume

WAYS = {"15 samples": 15, "5 samples": 5, "1 sample": 1, "soft": None}
PLAIN = "not restored"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("healthy", type=Path)
    parser.add_argument("--scans", type=int, default=16)
    arguments = parser.parse_args()
    detector = soft(Detector.load(arguments.model))
    paths = find_scans(arguments.healthy)[: arguments.scans]
    within: dict[str, list[float]] = {name: [] for name in (*WAYS, PLAIN)}
    elsewhere: dict[str, list[float]] = {name: [] for name in (*WAYS, PLAIN)}
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    with ConsoleProgress() as progress:
        progress.begin("restore", len(paths))
        for turn, path in enumerate(paths):
            healthy = read_volume(path)
            altered, label_XYZ = with_selection_anomalies(
                healthy, count=3, turn=turn, rng=np.random.default_rng([turn, 3])
            )
            restored = {PLAIN: altered.voxels_XYZ}
            for name, count in WAYS.items():
                detection = detector.detect(altered, restorations=count)
                restored[name] = detection.restored_XYZ
                seconds[name].append(detection.seconds)
            for name, voxels_XYZ in restored.items():
                apart_XYZ = np.abs(voxels_XYZ - healthy.voxels_XYZ) / healthy.voxels_XYZ.std()
                within[name].append(float(apart_XYZ[label_XYZ].mean()))
                elsewhere[name].append(float(apart_XYZ[~label_XYZ].mean()))
            progress.advance()
    print(f"{len(paths)} scans")
    for name in within:
        taken = f"{np.mean(seconds[name]):6.2f} s a scan" if name in seconds else ""
        others = within["15 samples"]
        print(
            f"{name:14} within anomalies {_mean(within[name])}, minus 15 samples "
            f"{_mean(np.subtract(within[name], others))}; elsewhere {_mean(elsewhere[name])} {taken}"
        )


def soft(detector: Detector) -> Detector:
    """The detector, with soft restoration unless a number of samples is given."""
    settings = detector.settings
    detection = settings.detection.model_copy(update={"restored_scan": "soft"})
    networks = replace(detector.networks, settings=settings.model_copy(update={"detection": detection}))
    return Detector(networks, detector.calibration, model_hash=detector.model_hash)


def _mean(values: object) -> str:
    numbers = np.asarray(values, dtype=float)
    return f"{numbers.mean():+.3f} ± {numbers.std(ddof=1) / np.sqrt(len(numbers)):.3f}"


if __name__ == "__main__":
    main()
