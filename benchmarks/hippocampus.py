"""Detection on real MRI: the hippocampus volumes of the Medical Segmentation Decathlon, with planted anomalies.

Splits the volumes by content (160 to learn from, 40 to test), plants anomalies into half of the test volumes, and runs
the commands a user would type: train, detect, evaluate; then the baselines on the same cases.  Prints a table.

    python benchmarks/hippocampus.py --data hippocampus --output runs/hippocampus --minutes 20

`--skip-training` reuses a model that is there.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

from mendscan.cohort.labelled_cohort import write_labelled_cohort
from mendscan.detection.calibration import VoxelCalibration
from mendscan.detection.detector import Detector
from mendscan.evaluation.benchmark import evaluate_baselines
from mendscan.evaluation.folders import evaluate_folder
from mendscan.evaluation.metrics import Evaluation
from mendscan.volumes.reading import find_scans

TEST_SCANS, ANOMALOUS = 40, 20
RADIUS_MM = (3.0, 7.0)


def main() -> None:
    arguments = parse_arguments()
    output = arguments.output
    healthy, test = output / "healthy", output / f"test-{arguments.anomaly_seed}"
    if not healthy.exists():
        split_scans(arguments.data, healthy, output / "held-out")
    if not test.exists():
        held_out = find_scans(output / "held-out")
        seed = arguments.anomaly_seed
        write_labelled_cohort(held_out, test, seed=seed, anomalous=ANOMALOUS, per_scan=(1, 4), radius_mm=RADIUS_MM)
    model, results = output / "model", output / f"results-{arguments.anomaly_seed}"
    seconds = {}
    if not arguments.skip_training:
        budget = ["--minutes", str(arguments.minutes)] if arguments.steps is None else ["--steps", str(arguments.steps)]
        command = ["train", "-i", healthy, "-o", model, *budget, "--seed", str(arguments.seed)]
        seconds["train"] = timed(command + [part for pair in arguments.set for part in ("--set", pair)])
    restorations = [] if arguments.restorations is None else ["--restorations", str(arguments.restorations)]
    seconds["detect"] = timed(["detect", "-m", model, "-i", test / "scans", "-o", results, *restorations])
    timed(["evaluate", "-i", results, "-l", test / "labels", "-o", output / f"evaluation-{arguments.anomaly_seed}"])
    baselines = evaluate_baselines(model, healthy, test / "scans", test / "labels", output / "baselines")
    rows = {"mendscan": evaluate_folder(results, test / "labels", strata=False)}
    if arguments.paper_map:
        rows["the paper's map"] = papers_map(model, test, output / "paper", results)
    print_table(rows | baselines)
    print({name: round(value, 1) for name, value in seconds.items()})


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/hippocampus"))
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--anomaly-seed", type=int, default=1)
    parser.add_argument("--restorations", type=int)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--paper-map", action="store_true", help="also detect with the paper's pooled residual")
    parser.add_argument("--skip-training", action="store_true")
    return parser.parse_args()


def split_scans(data: Path, healthy: Path, held_out: Path) -> None:
    """Link the volumes into two folders, by the hash of their bytes."""
    by_hash = sorted(find_scans(data), key=lambda path: hashlib.sha256(path.read_bytes()).hexdigest())
    for folder, paths in ((held_out, by_hash[:TEST_SCANS]), (healthy, by_hash[TEST_SCANS:])):
        folder.mkdir(parents=True)
        for path in paths:
            (folder / path.name).symlink_to(path.resolve())


def papers_map(model: Path, test: Path, folder: Path, results: Path) -> Evaluation:
    """Detect with the same networks and the paper's map in place of the standardised one; the scores are the same."""
    detector = Detector.load(model)
    paper = replace(detector.calibration, voxels=VoxelCalibration(threshold=0.5))
    for scan in find_scans(test / "scans"):
        Detector(detector.networks, paper, model_hash=detector.model_hash).detect(scan).save(folder)
    shutil.copy(results / "scores.csv", folder / "scores.csv")
    return evaluate_folder(folder, test / "labels", strata=False)


def timed(command: list[object]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "mendscan", *map(str, command)], check=True)
    return time.perf_counter() - started


def print_table(rows: dict[str, Evaluation]) -> None:
    names = ("voxel_ap", "voxel_auroc", "best_dice", "dice", "lesion_froc", "sample_ap", "sample_auroc")
    print("| method | " + " | ".join(name.replace("_", " ") for name in names) + " |")
    print("|---|" + "---|" * len(names))
    for method, evaluation in rows.items():
        cells = ("–" if evaluation[name] is None else f"{evaluation[name]:.3f}" for name in names)
        print(f"| {method} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
