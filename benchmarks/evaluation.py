"""The challenge's figure: exact counts against scikit-learn, time and memory, in one run.

For each number of voxels a map and a label are written as uncompressed NIfTI files (float32 with ties, 1 % anomalous).
Each method then runs in a process of its own, so that peak memory is its own: streamed counts as `mendscan evaluate
--official` takes them, and scikit-learn's average_precision_score on the same float16 values in memory.  Both must give
the same figure.

    python benchmarks/evaluation.py --voxels 1e7 1e8
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SIDE = 500

COUNT = """
import json, sys, time
from pathlib import Path
from mendscan.evaluation.official import official_figure
started = time.perf_counter()
figure = official_figure(Path(sys.argv[1]) / "pred", Path(sys.argv[1]) / "label", mode="pixel").value
"""
SKLEARN = """
import json, sys, time
from pathlib import Path
import nibabel as nib
import numpy as np
from sklearn.metrics import average_precision_score
started = time.perf_counter()
folder = Path(sys.argv[1])
scores = np.clip(nib.load(folder / "pred" / "a.nii").get_fdata(dtype=np.float16), 0, 1).ravel()
truth = np.rint(nib.load(folder / "label" / "a.nii").get_fdata(dtype=np.float32)).ravel() == 1
figure = float(average_precision_score(truth, scores))
"""
IMPORTS = """
import json, sys, time
from mendscan.evaluation.official import official_figure
started, figure = time.perf_counter(), None
"""
REPORT = """
import resource
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"figure": figure, "seconds": time.perf_counter() - started, "peak_mib": peak}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--voxels", type=float, nargs="+", default=[1e7, 1e8])
    parser.add_argument("--json", type=Path, help="also write the figures there")
    arguments = parser.parse_args()
    rows = [row for voxels in arguments.voxels for row in measured(int(voxels))]
    print("| voxels | method | seconds | peak memory | above the imports | average precision |")
    print("|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['voxels']:.0e} | {row['method']} | {row['seconds']:.2f} | {row['peak_mib']:.0f} MiB | "
            f"{row['above_imports_mib']:.0f} MiB | {row['figure']!r} |"
        )
    for ours, theirs in zip(rows[::2], rows[1::2], strict=True):
        time_ratio, memory_ratio = (theirs[name] / ours[name] for name in ("seconds", "above_imports_mib"))
        print(f"{ours['voxels']:.0e} voxels: {time_ratio:.1f} times as fast, 1/{memory_ratio:.0f} of the memory, equal")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2))


def measured(voxels: int) -> list[dict[str, object]]:
    with tempfile.TemporaryDirectory() as name:
        write_case(Path(name), voxels)
        warm = time.perf_counter()
        for path in sorted(Path(name).rglob("*.nii")):  # both read from the page cache
            path.read_bytes()
        print(f"{voxels:.0e} voxels written; read once in {time.perf_counter() - warm:.1f} s", flush=True)
        imports = run(IMPORTS, name)
        rows = []
        for method, program in (("streamed counts", COUNT), ("scikit-learn", SKLEARN)):
            found = run(program, name)
            above = max(1.0, found["peak_mib"] - imports["peak_mib"])
            rows.append({"voxels": voxels, "method": method, "above_imports_mib": above, **found})
    if rows[0]["figure"] != rows[1]["figure"]:
        raise SystemExit(f"the figures differ: {rows[0]['figure']!r} and {rows[1]['figure']!r}")
    return rows


def write_case(folder: Path, voxels: int) -> None:
    import nibabel as nib
    import numpy as np

    generator = np.random.default_rng(0)
    shape = (SIDE, SIDE, max(1, voxels // SIDE**2))
    label = (generator.random(shape, dtype=np.float32) < 0.01).astype(np.uint8)
    scores = generator.random(shape, dtype=np.float32) ** 2
    scores += 0.2 * label
    np.round(scores, 5, out=scores)  # ties
    for name, values in (("pred", scores), ("label", label)):
        (folder / name).mkdir()
        nib.save(nib.Nifti1Image(values, np.eye(4)), folder / name / "a.nii")


def run(program: str, folder: str) -> dict[str, float]:
    """Run a program in a process that a small one started: a child counts its parent's memory as its own peak."""
    starter = "import subprocess, sys; raise SystemExit(subprocess.run(sys.argv[1:]).returncode)"
    command = [sys.executable, "-c", starter, sys.executable, "-c", program + REPORT, folder]
    finished = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(finished.stdout)


if __name__ == "__main__":
    main()
