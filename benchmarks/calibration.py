"""Whether the calibration of a model holds on healthy scans that were used for nothing.

    python benchmarks/calibration.py --model runs/model --healthy runs/held-out --output runs/calibration

Detects in every scan once, then prints and draws two things: how often healthy scans get small p-values, and how many
findings they have at thresholds for a wanted number.  All scans share one calibration set, so the number of p-values
at most a is not binomial but beta-binomial; bands and intervals say so.

One calibration set may be lucky or not.  So the maps are then calibrated anew on random halves of the held-out scans,
and findings sought in the others: the mean over halves must keep the bound.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from scipy.stats import betabinom

from mendscan.cohort.preparing import Prepared, prepare
from mendscan.config import DetectionSettings
from mendscan.detection.calibration import Calibration, HealthyPeaks
from mendscan.detection.conformal import counted_at_most, finding_threshold
from mendscan.detection.detector import Detector, map_and_findings
from mendscan.detection.evidence import Evidence
from mendscan.detection.voxel_calibration import VoxelCalibration, calibrate_voxels, left_out_maps
from mendscan.errors import SettingsError
from mendscan.volumes.finding import find_scans
from mendscan.volumes.reading import read_volume
from mendscan.volumes.volume import Volume

RATES = (0.05, 0.1, 0.2, 0.5)
WANTED = (0.5, 1.0, 2.0)
SPLITS = 30


class HeldOut(NamedTuple):
    """What held-out healthy scans gave."""

    p_values: list[float]
    peaks: HealthyPeaks


class Scanned(NamedTuple):
    """A scan and what the networks say about it."""

    volume: Volume
    prepared: Prepared
    at: np.ndarray
    evidence: Evidence


def main() -> None:
    arguments = parse_arguments()
    arguments.output.mkdir(parents=True, exist_ok=True)
    detector = Detector.load(arguments.model, device="cpu")
    calibration = detector.calibration
    held_out = detect_all(detector, find_scans(arguments.healthy), arguments.restorations)
    print(f"{len(calibration.healthy_scores)} calibration scans, {len(held_out.p_values)} held-out healthy scans\n")
    print_p_values(held_out.p_values, len(calibration.healthy_scores))
    print_findings(calibration, held_out.peaks)
    print_recalibrated(detector, find_scans(arguments.healthy))
    draw(calibration, held_out, arguments.output / "calibration.png")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--healthy", type=Path, required=True, help="healthy scans that the model has never seen")
    parser.add_argument("--output", type=Path, default=Path("runs/calibration"))
    parser.add_argument("--restorations", type=int, help="the model's by default")
    return parser.parse_args()


def detect_all(detector: Detector, scans: Sequence[Path], restorations: int | None) -> HeldOut:
    found = [detector.detect(path, restorations=restorations) for path in scans]
    return HeldOut([d.p_value for d in found], tuple(tuple(f.peak for f in d.findings) for d in found))


# --- figures ---------------------------------------------------------------------------------------------------------


def print_p_values(p_values: Sequence[float], scans: int) -> None:
    print("| a | p-values at most a | expected | middle 95 % for one calibration set |\n|---|---|---|---|")
    for rate in RATES:
        expected, low, high = band(rate, scans, len(p_values))
        print(f"| {rate:g} | {np.mean(np.array(p_values) <= rate):.3f} | {expected:.3f} | {low:.3f} to {high:.3f} |")
    print()


def band(rate: float, scans: int, new: int) -> tuple[float, float, float]:
    """Return mean and middle 95 % of the share of `new` scans with a p-value of at most the rate."""
    m = int(np.floor(rate * (scans + 1) + 1e-9))
    if m == 0 or m > scans:
        return (float(m > scans),) * 3
    low, high = betabinom(new, m, scans + 1 - m).ppf((0.025, 0.975)) / new
    return m / (scans + 1), float(low), float(high)


def print_findings(calibration: Calibration, peaks: HealthyPeaks) -> None:
    """The model's own thresholds, on the held-out scans."""
    every = np.array([len(each) for each in peaks])
    print(f"all findings: {every.mean():.2f} per held-out scan, at most {every.max()}")
    if calibration.healthy_peaks is not None:
        own = np.array([len(each) for each in calibration.healthy_peaks])
        print(f"              {own.mean():.2f} per calibration scan, at most {own.max()}")
    print(
        "\n| wanted | threshold | counted at most | seen, capped | seen | standard error |\n|---|---|---|---|---|---|"
    )
    for wanted in WANTED:
        try:
            threshold = calibration.finding_threshold(false_positives_per_scan=wanted)
        except SettingsError as error:
            print(f"| {wanted:g} | {error} |")
            continue
        cap = counted_at_most(len(calibration.healthy_scores), false_positives_per_scan=wanted)
        seen = counts_above(peaks, threshold)
        capped, error = np.minimum(seen, cap), seen.std(ddof=1) / np.sqrt(len(seen))
        print(f"| {wanted:g} | {threshold:.3f} | {cap} | {capped.mean():.2f} | {seen.mean():.2f} | {error:.2f} |")
    print()


def print_recalibrated(detector: Detector, scans: Sequence[Path]) -> None:
    """The whole calibration of maps learnt anew on random halves: whether leaving one out is as good as a new scan."""
    pool, half = [evidence_of(detector, path) for path in scans], len(scans) // 2
    splits = [one_split(pool, half, detector.settings.detection, seed) for seed in range(SPLITS)]
    every, new, *_ = np.mean(splits, axis=0)
    print(f"calibrated anew on {half} random held-out scans, found in the others, mean of {SPLITS} splits")
    print(f"all findings: {every:.2f} per calibration scan, {new:.2f} per new scan\n")
    print("| wanted | seen, capped | if calibration scans were standardised by themselves too |\n|---|---|---|")
    for n, wanted in enumerate(WANTED):
        apart, itself = np.mean(splits, axis=0)[2 + 2 * n : 4 + 2 * n]
        print(f"| {wanted:g} | {apart:.2f} | {itself:.2f} |")


def evidence_of(detector: Detector, path: Path) -> Scanned:
    networks, settings, volume = detector.networks, detector.settings, read_volume(path)
    prepared = prepare(volume, settings.preparation)
    encoded = networks.encode(prepared)
    restored = networks.restore(
        encoded,
        restorations=settings.detection.calibration_restorations,
        threshold_nats=detector.calibration.thresholds.restoration,
        seed=settings.seed,
    )
    return Scanned(volume, prepared, encoded.at, networks.evidence(encoded, restored.residual_SHW))


def one_split(pool: Sequence[Scanned], half: int, settings: DetectionSettings, seed: int) -> list[float]:
    """Return findings per calibration and per new scan, then those of new scans for each wanted number, twice."""
    order = np.random.default_rng(seed).permutation(len(pool))
    known, new = ([pool[i] for i in part] for part in (order[:half], order[half:]))
    evidence = [each.evidence for each in known]
    voxels = calibrate_voxels(evidence, settings)
    apart = [peaks_of(m, s, voxels) for m, s in zip(left_out_maps(voxels, evidence), known, strict=True)]
    itself, found = ([peaks_of(voxels.map_of(s.evidence), s, voxels) for s in part] for part in (known, new))
    figures = [float(np.mean([len(peaks) for peaks in part])) for part in (apart, found)]
    for wanted in WANTED:
        cap = counted_at_most(half, false_positives_per_scan=wanted)
        for healthy in (apart, itself):
            threshold = finding_threshold(healthy, false_positives_per_scan=wanted)
            figures.append(float(np.minimum(counts_above(found, threshold), cap).mean()))
    return figures


def peaks_of(map_SHW: np.ndarray, scan: Scanned, voxels: VoxelCalibration) -> tuple[float, ...]:
    _, findings = map_and_findings(map_SHW, scan.volume, scan.prepared, at=scan.at, threshold=voxels.threshold)
    return tuple(finding.peak for finding in findings)


def counts_above(peaks: Sequence[Sequence[float]], threshold: float) -> np.ndarray:
    return np.array([sum(peak > threshold for peak in each) for each in peaks])


# --- the picture -----------------------------------------------------------------------------------------------------


def draw(calibration: Calibration, held_out: HeldOut, path: Path) -> None:
    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    draw_p_values(left, held_out.p_values, len(calibration.healthy_scores))
    draw_findings(right, calibration, held_out.peaks)
    figure.savefig(path, dpi=120)
    print(f"\n{path}")


def draw_p_values(axes: Axes, p_values: Sequence[float], scans: int) -> None:
    rates = np.arange(scans + 2) / (scans + 1)
    _, low, high = np.array([band(rate, scans, len(p_values)) for rate in rates]).T
    seen = [np.mean(np.array(p_values) <= rate + 1e-9) for rate in rates]
    axes.fill_between(rates, low, high, step="post", color="0.88", label="middle 95 % for one calibration set")
    axes.plot((0, 1), (0, 1), color="0.5", linewidth=1, label="uniform")
    axes.step(rates, seen, where="post", color="#0b63a5", linewidth=2, label=f"{len(p_values)} held-out healthy scans")
    axes.set(xlabel="a", ylabel="share of p-values at most a", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axes.set_title(f"p-values, {scans} calibration scans", loc="left")
    axes.legend(frameon=False, loc="upper left")


def draw_findings(axes: Axes, calibration: Calibration, peaks: HealthyPeaks) -> None:
    scans = len(calibration.healthy_scores)
    wanted = np.linspace(1 / (scans + 1) + 1e-9, 2.5, 60)
    thresholds = [calibration.finding_threshold(false_positives_per_scan=a) for a in wanted]
    caps = [counted_at_most(scans, false_positives_per_scan=a) for a in wanted]
    counts = [counts_above(peaks, t) for t in thresholds]
    capped = np.array([np.minimum(c, cap).mean() for c, cap in zip(counts, caps, strict=True)])
    error = np.array([np.minimum(c, cap).std(ddof=1) / np.sqrt(len(c)) for c, cap in zip(counts, caps, strict=True)])
    axes.fill_between(wanted, capped - 2 * error, capped + 2 * error, color="#0b63a5", alpha=0.15, linewidth=0)
    axes.plot(wanted, capped, color="#0b63a5", linewidth=2, label="seen, capped (± 2 standard errors)")
    axes.plot(wanted, [c.mean() for c in counts], color="#0b63a5", linewidth=1, linestyle="--", label="seen, all")
    axes.plot((0, 2.5), (0, 2.5), color="0.5", linewidth=1, label="the bound")
    axes.set(xlabel="wanted false findings per healthy scan", ylabel="seen per held-out scan", xlim=(0, 2.5))
    axes.set_ylim(bottom=0)
    axes.set_title("findings", loc="left")
    axes.legend(frameon=False, loc="upper left")


if __name__ == "__main__":
    main()
