"""Restoration at the paper's sizes: what every step costs, beside the loop that the definition suggests.

Builds the networks of the `brain` and `abdomen` presets at full size: the auto-encoder untrained, with a codebook from
k-means on simulated brains, which costs the same as a trained one; the prior trained for a few minutes on its codes.
Measures the sequential definition on a part and extrapolates it, checks that the codes are equal, and measures
everything else in full.  Prints a table; `--json FILE` writes it.

    python benchmarks/restoration.py --output runs/restoration --json restoration.json

The reference is one prior pass over all 480 grids per position, with torch's default threads.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from scipy.ndimage import zoom
from torch.utils.flop_counter import FlopCounterMode

from mendscan.cohort.preparing import prepare
from mendscan.cohort.simulation import load_template, simulate_brain
from mendscan.config import PRESETS, Settings
from mendscan.detection.calibration import Calibration, CodeThresholds, VoxelCalibration
from mendscan.detection.devices import one_thread
from mendscan.detection.encoded_scan import EncodedScan, scan_generator
from mendscan.detection.networks import Networks
from mendscan.detection.restoration import draw_uniforms, restore_incrementally, restore_sequentially
from mendscan.models.bundle import save_bundle
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.vqvae import VQVAE
from mendscan.parallel import available_cores
from mendscan.volumes.reading import read_volume
from mendscan.volumes.volume import Volume, volume_from_array

RESTORATIONS = 15
TRAINING_BRAINS = 6
UNLIKELY = 0.04
"""Share of the codes of a held-out brain above λ_p."""


@dataclass
class Table:
    """Rows as every program in benchmarks/ writes them."""

    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, name: str, value: float, unit: str, goal: str | None = None) -> float:
        """Add a row and show it."""
        self.rows.append({"name": name, "value": value, "unit": unit, "goal": goal})
        print(f"  {name}: {value:.4g} {unit}" + (f"   (goal {goal})" if goal else ""), flush=True)
        return value


def main() -> None:
    arguments = parse_arguments()
    folder, table = arguments.output, Table()
    folder.mkdir(parents=True, exist_ok=True)
    peak = table.add("matrix peak, float32, all cores", measured_peak(), "GFLOP/s")
    scans = simulated_scans()
    for preset, goals in (("brain", ("16", "1000", "10")), ("abdomen", ("10", None, None))):
        print(preset, flush=True)
        networks, threshold = trained_networks(PRESETS[preset], scans, arguments.steps, table)
        scan = encoded(networks, scans[-1])
        measure_restoration(networks, scan, threshold, peak, table, preset, goals)
        if preset == "brain":
            measure_whole_scan(networks, scans[-1], threshold, folder, table)
    if arguments.json:
        arguments.json.write_text(json.dumps(table.rows, indent=1) + "\n")
    print_table(table)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("runs/restoration"))
    parser.add_argument("--steps", type=int, default=120, help="steps of the prior, 8 grids each")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measured_peak() -> float:
    """Return the fastest that products and convolutions were seen to run on all cores, one thread on each."""

    def rate(work: Callable[[], object], flop: float) -> float:
        work()
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < 0.5:
            work()
            count += 1
        return flop * count / (time.perf_counter() - started) / 1e9

    square, image, kernel = torch.randn(1024, 1024), torch.randn(32, 128, 20, 20), torch.randn(256, 128, 3, 3)
    image = image.to(memory_format=torch.channels_last)
    kinds = [
        (lambda: square @ square, 2 * 1024**3),
        (lambda: torch.conv2d(image, kernel, padding=1), 2 * 32 * 400 * 9 * 128 * 256),
    ]
    with one_thread(torch.device("cpu")), torch.inference_mode(), ThreadPoolExecutor() as pool:
        return max(
            sum(future.result() for future in [pool.submit(rate, *kind) for _ in range(available_cores())])
            for kind in kinds
        )


def simulated_scans() -> list[Volume]:
    """Return brains of 256³ voxels; the last one is kept from training."""
    template, scans = load_template(), []
    for k in range(TRAINING_BRAINS + 1):
        voxels, affine = simulate_brain(template, rng=np.random.default_rng(k), spacing_mm=(1.5, 1.5, 1.5))
        factors = [256 / n for n in voxels.shape]
        scaled = np.maximum(zoom(voxels / voxels.max(), factors, order=1), 0).astype(np.float32)
        scans.append(volume_from_array(scaled, affine @ np.diag([*(1 / f for f in factors), 1]), name=f"brain {k}"))
    return scans


def trained_networks(
    settings: Settings, scans: list[Volume], steps: int, table: Table
) -> tuple[Networks, CodeThresholds]:
    """Return networks whose prior knows the codes of all brains but the last, and thresholds from these."""
    torch.manual_seed(0)
    vqvae, prior = VQVAE(settings.vqvae).eval(), PixelSNAIL(settings.prior, codes=settings.vqvae.codes)
    prepared = [prepare(scan, settings.preparation) for scan in scans]
    with torch.inference_mode():
        some = [
            vqvae.encode(torch.from_numpy(p.slices_SHW[8::16]), torch.from_numpy(p.positions_S[8::16]))
            for p in prepared
        ]
    latents = torch.cat(some).movedim(1, -1).flatten(0, -2).clone()
    chosen = torch.randperm(len(latents))[:20000]
    vqvae.quantizer.start_from(latents[chosen], generator=torch.Generator().manual_seed(0))
    networks = Networks(vqvae, prior.eval(), settings)
    with torch.inference_mode():
        codes = torch.cat(
            [
                vqvae.codes(torch.from_numpy(p.slices_SHW[k::4]), torch.from_numpy(p.positions_S[k::4]))
                for p in prepared[:-1]
                for k in range(4)
            ]
        ).clone()
    position = torch.from_numpy(np.concatenate([p.positions_S[k::4] for p in prepared[:-1] for k in range(4)]))
    train_prior(prior, codes, position, steps)
    nll = networks.encode(prepared[-1]).nll_Shw
    threshold = float(nll.flatten().double().quantile(1 - UNLIKELY))
    table.add(f"{settings.preset}: λ_p, exceeded by {UNLIKELY:.0%} of the codes", threshold, "nats")
    return networks, CodeThresholds(score=threshold, restoration=threshold)


def train_prior(prior: PixelSNAIL, codes: torch.Tensor, position: torch.Tensor, steps: int) -> None:
    """Train briefly, in bfloat16."""
    optimiser = torch.optim.AdamW(prior.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    generator = torch.Generator().manual_seed(0)
    prior.train()
    for step in range(steps):
        batch = torch.randint(len(codes), (8,), generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            loss = prior.nll(codes[batch], position[batch]).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(prior.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step % 20 == 0 or step == steps - 1:
            print(f"    prior step {step}: {float(loss.detach()):.2f} nats", flush=True)
    prior.eval()


def encoded(networks: Networks, scan: Volume) -> EncodedScan:
    with one_thread(torch.device("cpu")):
        return networks.encode(prepare(scan, networks.settings.preparation))


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def measure_restoration(
    networks: Networks,
    scan: EncodedScan,
    thresholds: CodeThresholds,
    peak: float,
    table: Table,
    preset: str,
    goals: tuple[str | None, ...],
) -> None:
    codes, position, threshold = scan.codes_Shw, scan.position_S, thresholds.restoration
    slices, height, width = codes.shape
    uniforms = draw_uniforms(RESTORATIONS, slices, (height, width), generator=scan_generator(scan.codes_hash, 0))
    grids = RESTORATIONS * slices
    with torch.inference_mode():
        everything = codes.repeat(RESTORATIONS, 1, 1), position.repeat(RESTORATIONS)
        one_pass, _ = seconds(lambda: networks.prior(*everything))
        table.add(f"{preset}: one prior pass over {grids} grids", one_pass, "s")
        loop = table.add(f"{preset}: restoration, reference loop (extrapolated)", one_pass * height * width, "s")
        decode_loop, _ = seconds(
            lambda: [networks.vqvae.decode_codes(c, p) for c, p in zip(*(e.split(32) for e in everything), strict=True)]
        )
    work = partial(networks.restored_codes, scan, uniforms, threshold_nats=threshold)
    with one_thread(networks.device):
        took, restored = seconds(work)
    table.add(f"{preset}: restoration", took, "s", f"<= {goals[0]}" if goals[0] else None)
    table.add(f"{preset}: restoration, times faster", loop / took, "x", f">= {goals[1]}" if goals[1] else None)
    changed = float((restored != codes).double().mean())
    table.add(f"{preset}: codes changed", 100 * changed, "%")
    positions = distinct_prefixes(restored)
    table.add(f"{preset}: distinct prefixes, of {grids} × {height * width}", positions / (grids * height * width), "")
    flop = positions * flop_per_position(networks.prior, height, width)
    table.add(f"{preset}: restoration, arithmetic", flop / 1e12, "TFLOP")
    table.add(f"{preset}: restoration, rate", flop / took / 1e9, "GFLOP/s")
    table.add(f"{preset}: restoration, share of the peak", 100 * flop / took / 1e9 / peak, "%")
    table.add(f"{preset}: restoration, arithmetic limit", flop / peak / 1e9, "s")
    check_equality(networks, scan, uniforms, threshold, restored, table, preset)
    table.add(f"{preset}: decode {grids}, batches of 32, {torch.get_num_threads()} threads", decode_loop, "s")
    with one_thread(networks.device):
        took, _ = seconds(lambda: networks.weighed(scan, restored))
        fast, coarse = seconds(lambda: work(precision="fast"))
        fast_decode, _ = seconds(lambda: networks.weighed(scan, coarse, precision="fast"))
    distinct = sum(len(torch.unique(restored[:, s], dim=0)) for s in range(slices))
    table.add(f"{preset}: distinct grids, of {grids}", distinct, "")
    table.add(f"{preset}: decode {grids} and weigh", took, "s", f"<= {goals[2]}" if goals[2] else None)
    table.add(f"{preset}: restoration, --precision fast", fast, "s")
    table.add(f"{preset}: decode {grids} and weigh, --precision fast", fast_decode, "s")
    table.add(
        f"{preset}: codes that differ with --precision fast", 100 * float((coarse != restored).double().mean()), "%"
    )


def check_equality(
    networks: Networks,
    scan: EncodedScan,
    uniforms: torch.Tensor,
    threshold: float,
    restored: torch.Tensor,
    table: Table,
    preset: str,
) -> None:
    """Compare with the definition on two restorations of the two slices that changed most."""
    changed_S = (restored != scan.codes_Shw).double().mean(dim=(0, 2, 3))
    part = changed_S.topk(2).indices
    took, expected = seconds(
        lambda: torch.stack(
            [
                restore_sequentially(
                    networks.prior, scan.codes_Shw[part], scan.position_S[part], each[part], threshold_nats=threshold
                )
                for each in uniforms[:2]
            ]
        )
    )
    different = int((expected != restored[:2, part]).sum())
    table.add(f"{preset}: sequential definition, 2 slices x 2 restorations, measured", took, "s")
    table.add(f"{preset}: codes that differ from the definition, of {expected.numel()}", different, "", "0")


def distinct_prefixes(restored_RShw: torch.Tensor) -> int:
    """Return how many distinct prefixes of codes there are: what incremental evaluation computes once each."""
    flat = restored_RShw.flatten(2).permute(1, 2, 0)
    count = 0
    for codes_nR in flat:
        group = torch.zeros(codes_nR.shape[1], dtype=torch.long)
        for codes_R in codes_nR:
            count += int(group.max()) + 1
            group = torch.unique(group * 100_000 + codes_R, return_inverse=True)[1]
    return count


def flop_per_position(prior: PixelSNAIL, height: int, width: int) -> float:
    """Count one restoration of one grid in float64, whose products are torch's ordinary ones."""
    double = PixelSNAIL(prior.settings, codes=prior.codes).double().eval()
    counter = FlopCounterMode(display=False)
    uniforms = torch.rand(1, 1, height, width, dtype=torch.float64)
    with counter, torch.no_grad():
        restore_incrementally(
            double,
            torch.zeros(1, height, width, dtype=torch.long),
            torch.zeros(1, dtype=torch.float64),
            uniforms,
            threshold_nats=1e9,
        )
    return counter.get_total_flops() / (height * width)


def measure_whole_scan(
    networks: Networks, scan: Volume, thresholds: CodeThresholds, folder: Path, table: Table
) -> None:
    """Detect through the command, as a user would, and read what it took."""
    model, file = folder / "model", folder / "brain-256.nii.gz"
    calibration = Calibration(thresholds, tuple(float(n) for n in range(10)), VoxelCalibration(threshold=0.5))
    model.mkdir(exist_ok=True)
    save_bundle(
        model,
        settings=networks.settings,
        networks=networks.parts,
        calibration=calibration.to_json(),
        calibration_arrays={},
        plan={},
        split={},
        card="# A benchmark's model, not trained to detect anything\n",
    )
    nib.save(nib.Nifti1Image(scan.voxels_XYZ, scan.affine), file)
    with one_thread(networks.device):
        read, volume = seconds(lambda: read_volume(file))
        preparation, prepared = seconds(lambda: prepare(volume, networks.settings.preparation))
        coding, _ = seconds(lambda: networks.encode(prepared))
    table.add("brain: read 256³", read, "s")
    table.add("brain: prepare", preparation, "s")
    table.add("brain: encode 32 slices and score", coding, "s")
    table.add("brain: sample score alone, file to score", read + preparation + coding, "s", "<= 2.5")
    for name, options in (("", []), (", --precision fast", ["--precision", "fast"]), (", --no-maps", ["--no-maps"])):
        command = ["-m", "mendscan", "detect", "-m", model, "-i", file, "-o", folder / "results"]
        took, gibibytes = run_alone([*map(str, command), *options])
        goal = None if options else "<= 30"
        table.add(f"brain: whole scan of 256³, the command from start to end{name}", took, "s", goal)
        table.add(f"brain: peak memory of the command{name}", gibibytes, "GiB", None if options else "<= 2")


def run_alone(arguments: list[str]) -> tuple[float, float]:
    """Return how long Python took with these arguments and how much memory it had.

    In a process between, because a new process counts the memory of the one that started it as its own.
    """
    between = (
        "import resource, subprocess, sys; subprocess.run([sys.executable, *sys.argv[1:]], check=True, stdout=2); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", between, *arguments], check=True, capture_output=True, text=True)
    return time.perf_counter() - started, int(done.stdout) / 1024**2


def print_table(table: Table) -> None:
    print("\n| what | value | goal |\n|---|---|---|")
    for row in table.rows:
        print(f"| {row['name']} | {row['value']:.4g} {row['unit']} | {row['goal'] or '–'} |")


if __name__ == "__main__":
    main()
