"""Importing full-size archives: time and peak memory, from zip to verified scans.

Writes a training archive of brains (256³ float32), a toy archive of an abdomen (512³ float32, with labels), in the
challenge's layout, of smooth volumes with noise; imports both and then, to see what a resumed import costs, imports
again over the finished folders.  Each import runs in a process of its own, so that peak memory is its own.

    python benchmarks/mood_import.py --brains 3
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

IMPORTS = """
import json, sys, time
import mendscan.cohort.mood
started, facts = time.perf_counter(), {}
"""
IMPORT = """
import json, sys, time
from mendscan.cohort.mood import import_mood
started = time.perf_counter()
done = import_mood(sys.argv[1], sys.argv[2])
facts = {"bytes": done.bytes, "already_there": done.already_there, "region": done.region, "remarks": done.remarks}
"""
UNZIP = """
import json, shutil, sys, time, zipfile
import mendscan.cohort.mood
started, facts = time.perf_counter(), {}
with zipfile.ZipFile(sys.argv[1]) as archive:
    for info in archive.infolist():
        with archive.open(info) as member, open(sys.argv[2] + info.filename.replace("/", "_"), "wb") as file:
            shutil.copyfileobj(member, file)
"""
REPORT = """
import resource
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": time.perf_counter() - started, "peak_mib": peak, **facts}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--brains", type=int, default=3)
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        archives = [brain_archive(folder, arguments.brains), abdomen_archive(folder)]
        rows = [row for archive in archives for row in measured(archive, folder)]
    print("| archive | zipped | voxels as stored | step | seconds | peak memory | above the imports |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['archive']} | {row['zipped_mib']:.0f} MiB | {row['voxel_mib']:.0f} MiB | {row['step']} | "
            f"{row['seconds']:.1f} | {row['peak_mib']:.0f} MiB | {row['above_imports_mib']:.0f} MiB |"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2))


def measured(archive: tuple[Path, int], folder: Path) -> list[dict[str, object]]:
    path, voxel_bytes = archive
    imports = run(IMPORTS, path, folder)
    rows = []
    for step, program, target in (
        ("plain copy, unverified", UNZIP, folder / "unzipped_"),
        ("import", IMPORT, folder / path.stem),
        ("import again: verify", IMPORT, folder / path.stem),
    ):
        found = run(program, path, target)
        rows.append({
            "archive": path.name, "zipped_mib": path.stat().st_size / 2**20, "voxel_mib": voxel_bytes / 2**20,
            "step": step, "above_imports_mib": found["peak_mib"] - imports["peak_mib"], **found,
        })  # fmt: skip
    return rows


def brain_archive(folder: Path, brains: int) -> tuple[Path, int]:
    path, total = folder / "brain_train.zip", 0
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for k in range(brains):
            total += add_volume(archive, f"brain_train/{k:05d}.nii.gz", 256, seed=k)
    return path, total


def abdomen_archive(folder: Path) -> tuple[Path, int]:
    path = folder / "abdom_toy.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        total = add_volume(archive, "toy/toy_0.nii.gz", 512, seed=99)
        total += add_volume(archive, "toy_label/pixel/toy_0.nii.gz", 512, seed=None)
        archive.writestr("toy_label/sample/toy_0.nii.gz.txt", "1")
    return path, total


def add_volume(archive: zipfile.ZipFile, name: str, side: int, *, seed: int | None) -> int:
    """Write a smooth ball with noise, empty outside, or with seed=None a label; slice by slice, as it is large."""
    import nibabel as nib
    import numpy as np

    rng = np.random.default_rng(seed)
    header = nib.Nifti1Header()
    header.set_data_shape((side, side, side))
    header.set_data_dtype(np.float32)
    header.set_sform(np.eye(4), 1)
    header.set_data_offset(352)
    axis = np.linspace(-1, 1, side, dtype=np.float32)
    begun = time.perf_counter()
    with archive.open(name, "w") as member, gzip.GzipFile(fileobj=member, mode="wb", compresslevel=1, mtime=0) as file:
        file.write(header.binaryblock + bytes(4))
        for z in axis:
            radius = np.hypot(np.hypot(axis[:, None], axis[None]), z)
            if seed is None:
                voxels = (radius < 0.2).astype(np.float32)
            else:
                noise = 0.05 * rng.standard_normal((side, side), dtype=np.float32)
                voxels = np.where(radius < 0.8, np.clip(0.5 + 0.3 * np.cos(4 * radius) + noise, 0, 1), 0)
            file.write(voxels.astype("<f4").tobytes(order="F"))
    print(f"{name} written in {time.perf_counter() - begun:.0f} s", flush=True)
    return side**3 * 4


def run(program: str, path: Path, target: Path) -> dict[str, float]:
    """Run a program in a process that a small one started: a child counts its parent's memory as its own peak."""
    starter = "import subprocess, sys; raise SystemExit(subprocess.run(sys.argv[1:]).returncode)"
    command = [sys.executable, "-c", starter, sys.executable, "-c", program + REPORT, str(path), str(target)]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(finished.stdout)


if __name__ == "__main__":
    main()
