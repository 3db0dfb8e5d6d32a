"""Batch detection under faults: killed at random instants and resumed, and a long batch with its memory and handles.

`--kills N`: runs of a batch of small scans are killed (kill -9) N times, each at a random instant, and gone on with
until they end by themselves.  Every byte of the results must be that of a run that nothing happened to, but for
`timing.csv`.  `--soak N`: a batch of N small scans; memory and file handles of every process against the
number of scans done, as slopes over the second half.

    python benchmarks/detection_faults.py --kills 50 --soak 1000 --json faults.json

The model is trained for a few steps on phantoms: what is measured does not depend on how good it is.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

import mendscan
from mendscan.detection.batch import detect_folder
from mendscan.errors import Interrupted
from mendscan.results.figures import save_figure
from mendscan.results.layout import TIMING

MODEL = (
    "vqvae.channels=16,16", "vqvae.codes=16", "prior.channels=16", "prior.value_channels=16", "prior.blocks=1",
    "discriminator.channels=8,16", "discriminator.batch_scans=2", "discriminator.members=2",
    "training.batch_slices=16", "training.prior_views=2", "detection.calibration_restorations=2",
    "training.precision=float32",
)  # fmt: skip
SCANS_KILLED = 8
DISTINCT_SCANS = 20
MEGABYTE = 1e6


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as name:
        rows = measured(
            Path(name),
            kills=arguments.kills,
            scans_soaked=arguments.soak,
            workers=arguments.workers,
            seed=arguments.seed,
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit(any(row["unit"] == "differing" and row["value"] for row in rows))


def measured(
    folder: Path, *, kills: int = 0, scans_soaked: int = 0, workers: int = 0, seed: int = 0
) -> list[dict[str, Any]]:
    """Train a small model and do what is wanted with it; return the figures."""
    write_phantoms(folder / "healthy", 16, seed=0)
    mendscan.train(folder / "healthy", folder / "model", assignments=MODEL, steps=40, device="cpu")
    rows: list[dict[str, Any]] = []
    if kills:
        rows += killed(folder, kills, workers, random.Random(seed))
    if scans_soaked:
        rows += soak(folder, scans_soaked, workers)
    return rows


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=0, help="kill so often")
    parser.add_argument("--soak", type=int, default=0, help="scans of the long batch")
    parser.add_argument("--workers", type=int, default=0, help="processes of the batch; 0 = none beside it")
    parser.add_argument("--seed", type=int, default=0, help="seed of the instants")
    parser.add_argument("--json", type=Path, help="file for the figures")
    return parser.parse_args()


def write_phantoms(folder: Path, count: int, *, seed: int) -> None:
    """Write ellipsoids with a bright core, each a little different."""
    folder.mkdir(parents=True)
    shape = (20, 24, 12)
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    for number in range(count):
        generator = np.random.default_rng([seed, number])
        radius = np.array([0.8, 0.75, 0.9]) * generator.uniform(0.93, 1.07, 3)
        distance = np.linalg.norm(grid / radius[:, None, None, None], axis=0)
        body = 1 / (1 + np.exp((distance - 1) * 12)) + 0.6 / (1 + np.exp((distance - 0.45) * 12))
        voxels = ((body + generator.normal(0, 0.03, shape)) * 1000).astype(np.int16)
        nib.save(nib.Nifti1Image(voxels, np.diag([2.0, 2.0, 2.0, 1.0])), folder / f"scan{number:04}.nii.gz")


def detect(folder: Path, scans: Path, results: Path, workers: int, *, resume: bool, progress: Any = None) -> None:
    detect_folder(
        folder / "model", scans, results, restorations=1, device="cpu", workers=workers, resume=resume,
        after_save=save_figure, progress=progress,
    )  # fmt: skip


# --- kills -----------------------------------------------------------------------------------------------------------


def killed(folder: Path, wanted: int, workers: int, chance: random.Random) -> list[dict[str, Any]]:
    """Kill and go on until enough kills have struck; compare whenever a batch has come to its end."""
    scans = folder / "few"
    write_phantoms(scans, SCANS_KILLED, seed=1)
    started = time.monotonic()
    run_in_child(lambda: detect(folder, scans, folder / "whole", workers, resume=False), kill_after_s=None)
    duration = time.monotonic() - started
    expected = contents(folder / "whole")
    struck = batches = differing = unfinished = 0
    while struck < wanted:
        results = folder / f"killed{batches}"
        resume, struck_now = False, True
        while struck_now:
            instant = chance.uniform(0, duration) if struck < wanted else None
            struck_now = run_in_child(
                lambda again=resume, place=results: detect(folder, scans, place, workers, resume=again),  # type: ignore[misc]
                kill_after_s=instant,
            )
            struck += struck_now
            unfinished += struck_now and results.exists() and any(results.rglob("*.tmp"))
            resume = True
        batches += 1
        found = contents(results)
        if found != expected:
            differing += 1
            names = {name for name in found | expected if found.get(name) != expected.get(name)}
            print(f"  differing: {sorted(names)}", flush=True)
        shutil.rmtree(results)
        print(f"  {struck} of {wanted} kills, {batches - differing} of {batches} batches exact", flush=True)
    print(
        f"{batches - differing} of {batches} batches exact after {struck} kills (kill -9), {unfinished} inside a write"
    )
    return [
        {"name": "kills", "value": struck, "unit": "kills"},
        {"name": "kills that left an unfinished file", "value": unfinished, "unit": "kills"},
        {"name": "batches killed and resumed", "value": batches, "unit": "batches"},
        {"name": "batches with other bytes", "value": differing, "unit": "differing"},
    ]


def run_in_child(work: Callable[[], None], *, kill_after_s: float | None) -> bool:
    """Run the work in a process; return whether it was killed before its end."""
    child = os.fork()
    if child == 0:
        try:
            os.setpgid(0, 0)
            work()
        except BaseException as error:  # noqa: BLE001 - nothing of this child may go on as if it were the benchmark
            print(f"  failed: {error!r}", flush=True)
            os._exit(1)
        os._exit(0)
    ends = None if kill_after_s is None else time.monotonic() + kill_after_s
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise SystemExit(f"the batch ended with status {status}")
            return False
        if ends is not None and time.monotonic() >= ends:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return True
        time.sleep(0.001)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file but for how long scans took; what a killed process left unfinished is a difference."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.name != TIMING}


# --- soak ------------------------------------------------------------------------------------------------------------


class Watch:
    """Notes memory and handles of every process of the batch as scans are done."""

    def __init__(self) -> None:
        self.begin("", 0)

    def begin(self, stage: str, total: int, *, done: int = 0) -> None:
        """Begin at nothing: the figures are of the last stage."""
        self.done, self.total = 0, total
        self.samples: dict[int, list[tuple[int, float, int]]] = {}

    def advance(self, units: int = 1, **facts: float) -> None:
        """Take a sample."""
        self.done += units
        for process in (os.getpid(), *(child.pid for child in multiprocessing.active_children() if child.pid)):
            try:
                resident = int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
                handles = len(list(Path(f"/proc/{process}/fd").iterdir()))
            except OSError:
                continue
            self.samples.setdefault(process, []).append((self.done, resident / MEGABYTE, handles))
        if self.done % max(1, self.total // 10) == 0:
            print(f"  {self.done} of {self.total}", flush=True)

    def say(self, message: str) -> None:
        """Say nothing of scans that look unusual: they are phantoms."""


def soak(folder: Path, count: int, workers: int) -> list[dict[str, Any]]:
    """Run a long batch; return how memory and handles of each process grow in its second half."""
    write_phantoms(folder / "distinct", min(DISTINCT_SCANS, count), seed=2)
    scans = folder / "many"
    scans.mkdir()
    distinct = sorted((folder / "distinct").iterdir())
    for number in range(count):
        shutil.copy(distinct[number % len(distinct)], scans / f"scan{number:05}.nii.gz")
    watch, started = Watch(), time.monotonic()
    try:
        detect(folder, scans, folder / "soaked", workers, resume=False, progress=watch)
    except Interrupted:
        print("stopped: the figures are of the scans so far")
    seconds = time.monotonic() - started
    print(f"{watch.done} scans in {seconds:.0f} s, {len(watch.samples)} processes")
    rows: list[dict[str, Any]] = [{"name": "scans", "value": watch.done, "unit": "scans"}]
    for number, samples in enumerate(watch.samples.values()):
        who = "batch" if number == 0 else f"worker {number}"
        done, resident, handles = np.array(samples, dtype=float)[len(samples) // 2 :].T
        for what, values, unit in (("memory", resident, "MB"), ("handles", handles, "handles")):
            slope = 1000 * float(np.polyfit(done, values, 1)[0])
            print(
                f"  {who}: {what} {slope:+.2f} {unit} per 1000 scans in the second half "
                f"(first {samples[0][1 if what == 'memory' else 2]:.0f}, half {values[0]:.0f}, last {values[-1]:.0f})"
            )
            rows.append({"name": f"{what} of {who}, slope", "value": slope, "unit": f"{unit} per 1000 scans"})
    return rows


if __name__ == "__main__":
    main()
