"""Kills trainings and batches at random instants, resumes them, and compares what comes out with one left alone.

    python benchmarks/faults.py [training] [detection] --kills 50 [--seed 0] [--folder FOLDER]

A small training on simulated scans runs in a process of its own, which is killed without warning (SIGKILL): at a random
instant, or inside a write, just before or after a file is flushed to the disk, put in place or removed, or with half of
it written.  It is then resumed, perhaps killed again, until it ends.  Every file of the model folder must be what it
is when nothing is killed, byte for byte, and the log must have each step once.  Prints ``N of N`` kills survived.

A batch of detections is killed at random instants and goes on with ``--resume``; see `detection_faults.py`, which also
has the long batch.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

import detection_faults
import mendscan
from mendscan import parallel
from mendscan.errors import ModelError
from mendscan.training import run

SETTINGS = (
    "vqvae.channels=8,8",
    "vqvae.codes=8",
    "prior.channels=8",
    "prior.value_channels=8",
    "prior.blocks=1",
    "discriminator.channels=4,8",
    "discriminator.batch_scans=2",
    "discriminator.members=1",
    "training.batch_slices=8",
    "training.prior_views=1",
    "detection.calibration_restorations=1",
    "training.precision=float32",
)
STEPS = 60
SCANS = 10
IN_A_WRITE = 0.6
"""Part of the kills that are aimed into a write."""


def write_scans(folder: Path, seed: int) -> None:
    """Write ellipsoids with a bright core and noise."""
    folder.mkdir(parents=True)
    for number in range(SCANS):
        rng = np.random.default_rng([seed, number])
        grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in (16, 18, 10)), indexing="ij"))
        distance = np.linalg.norm(grid / rng.uniform(0.7, 0.9, (3, 1, 1, 1)), axis=0)
        voxels = 1 / (1 + np.exp((distance - 1) * 12)) + 0.6 / (1 + np.exp((distance - 0.5) * 12))
        scan = (1000 * (voxels + rng.normal(0, 0.03, voxels.shape))).astype(np.float32)
        nib.save(nib.Nifti1Image(scan, np.diag([2.0, 2.0, 2.0, 1.0])), folder / f"scan{number:02d}.nii.gz")


def train(healthy: Path, model: Path, aim: Callable[[], None] | None = None) -> None:
    """Train, or go on; every step is saved, and all work is done in this process, at which a kill may be aimed."""
    if aim is not None:
        aim()
    run._SAVE_EVERY_SECONDS = -1.0
    parallel.available_cores = lambda: 0
    resume = (model / "work").exists() or (model / "manifest.json").exists()
    try:
        mendscan.train(healthy, model, steps=STEPS, device="cpu", assignments=SETTINGS, resume=resume)
    except ModelError as error:
        if error.code != "E_EXISTS":  # it was killed when all was done
            raise


def in_a_child(work: Callable[[], None], log: Path) -> int:
    """Run in a forked process; return how it ended, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - whatever it is, the child must not go on as the parent
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die() -> None:
    """End without a chance to clean up."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_after(seconds: float) -> None:
    """Die at an instant that no code chooses."""
    thread = threading.Timer(seconds, die)
    thread.daemon = True
    thread.start()


def kill_in_write(number: int, before: bool) -> None:
    """Die at the `number`-th call of the system that a write makes, just before or just after it."""
    calls = 0

    def patched(call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number and before:
                tear(call, args)
                die()
            result = call(*args, **options)
            if calls == number:
                die()
            return result

        return counted

    for name in ("fsync", "replace", "rename", "unlink", "rmdir"):
        setattr(os, name, patched(getattr(os, name)))


def tear(call: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Cut a file that is about to be flushed in half, as a crash of the system may."""
    if call.__name__ == "fsync":
        with suppress(OSError):  # a folder
            os.ftruncate(args[0], os.fstat(args[0]).st_size // 2)


def digests(model: Path) -> dict[str, str]:
    """Return the SHA-256 of every file in a folder, and its folders."""
    return {
        str(path.relative_to(model)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(model.rglob("*"))
    }


def logged_once(model: Path) -> bool:
    """Return whether no step is in the log twice."""
    steps = [(e["stage"], e["step"]) for e in map(json.loads, (model / "metrics.jsonl").read_text().splitlines())]
    return len(steps) == len(set(steps))


def count_calls(healthy: Path, model: Path, log: Path) -> tuple[int, float]:
    """Train once; return how many calls of the system writes made, and how many seconds it took."""
    counted = log.with_suffix(".calls")

    def work() -> None:
        calls = 0

        def patched(call: Callable[..., Any]) -> Callable[..., Any]:
            def one_more(*args: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                return call(*args, **options)

            return one_more

        for name in ("fsync", "replace", "rename", "unlink", "rmdir"):
            setattr(os, name, patched(getattr(os, name)))
        train(healthy, model)
        counted.write_text(str(calls))

    began = time.monotonic()
    code = in_a_child(work, log)
    if code:
        sys.exit(f"the training that nothing disturbs ended with {code}: see {log}")
    return int(counted.read_text()), time.monotonic() - began


def survive(healthy: Path, model: Path, kills: int, rng: random.Random, calls: int, seconds: float, log: Path) -> int:
    """Kill and resume one training until it ends or `kills` are used up, then let it end; return the kills."""
    used = 0
    while True:
        aimed = rng.random() < IN_A_WRITE
        at, before = 1 + int(calls * rng.random() ** 2), rng.random() < 0.5  # a resumed one makes fewer

        aim = partial(kill_in_write, at, before) if aimed else partial(kill_after, rng.uniform(0, seconds))
        code = in_a_child(partial(train, healthy, model, aim if used < kills else None), log)
        if code == 0:
            return used
        if code != -signal.SIGKILL:
            sys.exit(f"a resumed training failed with {code}: see {log}")
        used += 1


def training(kills: int, seed: int, folder: Path) -> bool:
    """Do it; return whether all is well."""
    healthy, log = folder / "healthy", folder / "log.txt"
    write_scans(healthy, seed)
    calls, seconds = count_calls(healthy, folder / "whole", log)
    expected = digests(folder / "whole")
    print(f"a training takes {seconds:.1f} s and {calls} calls that write, flush, rename or remove")
    rng, survived, done, number = random.Random(seed), 0, 0, 0
    while done < kills:
        model = folder / f"killed{number:03d}"
        used = survive(healthy, model, kills - done, rng, calls, seconds, log)
        same = digests(model) == expected and logged_once(model)
        done, survived, number = done + used, survived + used * same, number + 1
        print(f"{model.name}: {used} kills, {'equal' if same else 'DIFFERENT'}", flush=True)
    print(f"{survived} of {done} kills survived, in {number} trainings: every file equal to the undisturbed one's")
    return survived == done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", help="training, detection; both by default")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="An empty folder to work in and keep; else a temporary one.")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.folder or Path(temporary)
        well = [WHAT[what](asked.kills, asked.seed, folder / what) for what in asked.what or WHAT]
    sys.exit(0 if all(well) else 1)


def detection(kills: int, seed: int, folder: Path) -> bool:
    """Do it; return whether all is well."""
    rows = detection_faults.measured(folder, kills=kills, seed=seed)
    return not any(row["value"] for row in rows if row["unit"] == "differing")


WHAT = {"training": training, "detection": detection}


if __name__ == "__main__":
    main()
