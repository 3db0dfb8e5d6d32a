"""Damaged files, thousands of each format: each is read rightly or refused with a typed error, soon, in little memory.

    python benchmarks/fuzz.py --runs 10000 [--format nii --format zip …] [--seed 0] [--json fuzz.json]

A run damages one small file (flipped bytes, extreme numbers, truncation, spliced, inserted and removed parts, other
words in JSON; compressed content also before it is compressed, so that checksums hold) and reads it as the program
does.  Run n of a seed is the same on every machine.  Accepted = read, and what came out is sound; typed = refused by an
error of `mendscan.errors`; everything else is an escape, as are more than two seconds of processor time, more memory
than the limit, and a process that dies.  Exit code 1 if there is one.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SECONDS = 2.0
HEADROOM = 2**30
"""Bytes of address space that a worker may take beyond what it has after its first, undamaged file."""
MAX_BYTES = 2**26
"""The largest scan that is read, in bytes."""
SHAPE = (7, 8, 6)
BATCH = 2_500
STUCK = 120.0
"""Seconds without a word after which a worker counts as hanging."""

Damage = Callable[[random.Random, bytes], bytes]
WORDS = (
    b"NaN",
    b"1e999",
    b"-1",
    b"0",
    b"1e-400",
    b"9" * 40,
    b"null",
    b"true",
    b'"x"',
    b"[]",
    b"{}",
    b"[[[[",
    b'{"a":1,"a":2}',
)
NUMBER = re.compile(rb'-?\d+(\.\d+)?([eE][-+]?\d+)?|true|false|null|"[^"]*"')


class TooSlow(BaseException):
    """Not an Exception: nothing between here and there may catch it."""


# --- damage ----------------------------------------------------------------------------------------------------------


def flipped(rng: random.Random, raw: bytes) -> bytes:
    damaged = bytearray(raw)
    early = rng.random() < 0.5  # headers are small, and decide
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        damaged[rng.randrange(min(len(raw), 400) if early else len(raw))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def extreme(rng: random.Random, raw: bytes) -> bytes:
    width = rng.choice((1, 2, 4, 8))
    pattern = rng.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * width
    at = rng.randrange(max(1, min(len(raw), rng.choice((400, len(raw)))) - width))
    return raw[:at] + pattern + raw[at + width :]


def truncated(rng: random.Random, raw: bytes) -> bytes:
    return raw[: rng.randrange(len(raw))]


def spliced(rng: random.Random, raw: bytes) -> bytes:
    one, other = sorted(rng.randrange(len(raw) + 1) for _ in range(2))
    at, kind = rng.randrange(len(raw) + 1), rng.randrange(3)
    part = raw[one : min(other, one + 4096)]
    if kind == 0:
        return raw[:at] + part + raw[at:]
    return raw[:at] + part + raw[at + len(part) :] if kind == 1 else raw[:one] + raw[one + len(part) :]


def reworded(rng: random.Random, raw: bytes) -> bytes:
    found = list(NUMBER.finditer(raw))
    if not found:
        return flipped(rng, raw)
    for match in sorted(rng.sample(found, min(len(found), rng.choice((1, 1, 2)))), key=lambda m: -m.start()):
        raw = raw[: match.start()] + rng.choice(WORDS) + raw[match.end() :]
    return raw


BINARY: tuple[Damage, ...] = (flipped, flipped, extreme, truncated, spliced)
TEXT: tuple[Damage, ...] = (*BINARY, reworded, reworded, reworded)


def damaged(rng: random.Random, raw: bytes, kinds: Sequence[Damage] = BINARY) -> bytes:
    return rng.choice(kinds)(rng, raw) if raw else raw


def damaged_gzip(rng: random.Random, raw: bytes) -> bytes:
    if rng.random() < 0.5:
        return damaged(rng, raw)
    return gzip.compress(damaged(rng, gzip.decompress(raw)), 1, mtime=0)


def damaged_header(rng: random.Random, raw: bytes) -> bytes:
    """Of safetensors: sometimes only its JSON, with a length that is right."""
    if rng.random() < 0.4:
        return damaged(rng, raw)
    length = int.from_bytes(raw[:8], "little")
    header = damaged(rng, raw[8 : 8 + length], TEXT)
    return len(header).to_bytes(8, "little") + header + raw[8 + length :]


# --- what is read ----------------------------------------------------------------------------------------------------


class Target:
    """One format: makes its files in a folder, damages one, reads it."""

    damage: Callable[[random.Random, bytes], bytes] = staticmethod(damaged)

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = self.make()
        self.whole = {path: path.read_bytes() for path in self.files}

    def make(self) -> list[Path]:
        raise NotImplementedError

    def read(self) -> None:
        raise NotImplementedError

    def run(self, rng: random.Random | None) -> None:
        path = self.files[0] if rng is None else rng.choice(self.files)
        path.write_bytes(self.whole[path] if rng is None else type(self).damage(rng, self.whole[path]))
        try:
            self.read()
        finally:
            path.write_bytes(self.whole[path])


class Scan(Target):
    name = ""

    def make(self) -> list[Path]:
        import SimpleITK

        values = _values().transpose(2, 1, 0)
        image = SimpleITK.GetImageFromArray(values)
        image.SetSpacing((1.0, 1.5, 2.0))
        SimpleITK.WriteImage(image, str(self.folder / self.name), len(self.name) % 2 == 0)
        return [self.folder / self.name]

    def read(self) -> None:
        _check_volume(self.folder / self.name)


class Nii(Scan):
    name = "a.nii"

    def make(self) -> list[Path]:
        import nibabel
        import numpy as np

        nibabel.save(nibabel.Nifti1Image(_values(), np.diag([1.0, 1.5, 2.0, 1.0])), self.folder / self.name)
        return [self.folder / self.name]


class NiiGz(Nii):
    name = "a.nii.gz"
    damage = staticmethod(damaged_gzip)


class Nrrd(Scan):
    name = "a.nrrd"

    @staticmethod
    def damage(rng: random.Random, raw: bytes) -> bytes:
        if rng.random() < 0.5:
            return damaged(rng, raw)
        header, _, data = raw.partition(b"\n\n")
        return damaged(rng, header, TEXT) + b"\n\n" + data


class Mha(Scan):
    name = "a.mha"

    @staticmethod
    def damage(rng: random.Random, raw: bytes) -> bytes:
        if rng.random() < 0.5:
            return damaged(rng, raw)
        header, mark, data = raw.partition(b"ElementDataFile = LOCAL\n")
        return damaged(rng, header, TEXT) + mark + data


class Dicom(Target):
    def make(self) -> list[Path]:
        from volumes import dicom_files

        numbers = itertools.count(1)
        dicom_files.generate_uid = lambda *_, **__: f"1.2.826.0.1.3680043.8.498.{next(numbers)}"
        return sorted(dicom_files.write_series(self.folder / "series", _values()[:, :, :4]))

    def read(self) -> None:
        _check_volume(self.folder / "series")


class Zip(Target):
    def make(self) -> list[Path]:
        from mood_archives import small_scans, training_archive

        return [training_archive(self.folder / "brain_train.zip", small_scans(2))]

    def read(self) -> None:
        from mendscan.cohort.mood import import_mood

        with tempfile.TemporaryDirectory(dir=self.folder) as out:
            import_mood(self.files[0], Path(out) / "mood")


class Bundle(Target):
    damage = staticmethod(damaged_header)
    damages = "model.safetensors"

    def make(self) -> list[Path]:
        made = _tiny_model(self.folder / "model")
        if self.damages == "model.safetensors":  # format 1 has no hashes of parts: damage goes deeper
            config = json.loads((made / "config.json").read_text())
            (made / "config.json").write_text(json.dumps({"format": 1, "settings": config["settings"]}))
        return [made / self.damages]

    def read(self) -> None:
        from mendscan.detection.verifying import verify_model

        _sign(self.folder / "model")
        verify_model(self.folder / "model")


class Plan(Bundle):
    damages = "plan.json"

    @staticmethod
    def damage(rng: random.Random, raw: bytes) -> bytes:
        return damaged(rng, raw, TEXT)

    def read(self) -> None:
        from mendscan.models.folder import ModelFolder

        _sign(self.folder / "model")
        ModelFolder.open(self.folder / "model").read_json(self.damages)


class Config(Plan):
    damages = "config.json"

    def read(self) -> None:
        from mendscan.config import parse_settings
        from mendscan.models.folder import ModelFolder
        from mendscan.models.skeleton import check_bounds

        _sign(self.folder / "model")
        values = ModelFolder.open(self.folder / "model").read_json(self.damages)
        check_bounds(parse_settings(values.get("settings"), where="config"), weights_bytes=10**6, where=Path("config"))


class CalibrationJson(Plan):
    damages = "calibration.json"

    def read(self) -> None:
        from mendscan.detection.calibration_values import checked_calibration
        from mendscan.models.contents import read_contents
        from mendscan.models.folder import ModelFolder

        if not hasattr(self, "known"):
            self.known = read_contents(self.folder / "model")
        _sign(self.folder / "model")
        values = ModelFolder.open(self.folder / "model").read_json(self.damages)
        checked_calibration(values, self.known.weights.arrays("calibration"), self.known.settings)


class Checkpoint(Target):
    damage = staticmethod(damaged_header)

    def make(self) -> list[Path]:
        import torch

        from mendscan.training.checkpoint import save_checkpoint

        torch.manual_seed(0)
        network = torch.nn.Linear(5, 3)
        optimiser = torch.optim.Adam(network.parameters())
        network(torch.ones(1, 5)).sum().backward()
        optimiser.step()
        save_checkpoint(self.folder / "a.safetensors", network, optimiser, {"step": 3, "stage": "prior"})
        return [self.folder / "a.safetensors"]

    def read(self) -> None:
        from mendscan.training.checkpoint import load_checkpoint

        load_checkpoint(self.folder / "a.safetensors")


class ResultsFolder(Target):
    @staticmethod
    def damage(rng: random.Random, raw: bytes) -> bytes:
        return damaged(rng, raw, TEXT)

    def make(self) -> list[Path]:
        from result_folders import detection, results_of

        results = self.folder / "results"
        results.mkdir()
        results_of(results, detection("a", p_value=0.05), detection("b", p_value=0.5))
        return sorted(path for path in results.rglob("*") if path.suffix in (".json", ".csv"))

    def read(self) -> None:
        from mendscan.results.reading import read_results

        results = read_results(self.folder / "results")
        for case in results.cases:
            case.details()
            case.number("score")


FORMATS: dict[str, type[Target]] = {
    "nii": Nii,
    "nii.gz": NiiGz,
    "nrrd": Nrrd,
    "mha": Mha,
    "dicom": Dicom,
    "zip": Zip,
    "model": Bundle,
    "checkpoint": Checkpoint,
    "config": Config,
    "plan": Plan,
    "calibration": CalibrationJson,
    "results": ResultsFolder,
}


def _values() -> Any:
    import numpy as np

    return np.random.default_rng(0).integers(0, 1000, SHAPE).astype(np.int16)


def _check_volume(path: Path) -> None:
    import numpy as np

    from mendscan.volumes.reading import read_volume

    volume = read_volume(path, max_bytes=MAX_BYTES)
    assert np.isfinite(volume.voxels_XYZ).all(), "voxels that are not finite"
    assert np.isfinite(volume.affine).all(), "an affine that is not finite"
    assert abs(np.linalg.det(volume.affine[:3, :3])) > 0, "a singular affine"


def _tiny_model(folder: Path) -> Path:
    import numpy as np
    import torch

    from mendscan.config import DetectionSettings, PreparationSettings, PriorSettings, Settings, VqvaeSettings
    from mendscan.detection.calibration import Calibration, CodeThresholds
    from mendscan.detection.standardising import HealthyReference
    from mendscan.detection.voxel_calibration import HealthyKind, TailTable, VoxelCalibration
    from mendscan.models.bundle import save_bundle
    from mendscan.models.skeleton import networks_of

    settings = Settings(
        preset="tiny",
        preparation=PreparationSettings(shape_XYZ=(16, 16, 8), fit="resize", intensity="robust"),
        vqvae=VqvaeSettings(channels=(8, 8, 12), stem_kernel=3, blocks_per_level=1, norm="group", codes=12),
        prior=PriorSettings(channels=8, blocks=1, layers_per_block=1, key_channels=4, value_channels=8),
        detection=DetectionSettings(voxel_map="standardised", evidence=("nll",)),
    )
    torch.manual_seed(0)
    grid = np.ones((8, 16, 16), np.float32)
    tail = TailTable.of(np.random.default_rng(0).normal(size=20_000))
    kinds = {"nll": HealthyKind((HealthyReference(grid.copy(), grid.copy(), 1.0),), tail)}
    voxels = VoxelCalibration(0.5, kinds, grid, 2.0)
    calibration = Calibration(CodeThresholds(7.0, 5.0), (1.0, 2.0, 3.0), voxels, ((0.5,), (0.75, 0.625), ()))
    folder.mkdir()
    save_bundle(
        folder,
        settings=settings,
        networks=networks_of(settings),
        calibration=calibration.to_json(),
        calibration_arrays={name: torch.from_numpy(array) for name, array in calibration.arrays().items()},
        plan={"decisions": [{"setting": "vqvae.codes", "value": 12, "why": "tiny"}], "fingerprint": {"scans": 3}},
        split={"training": ["00" * 32], "calibration": ["11" * 32]},
        card="# Tiny\n",
    )
    return folder


def _sign(folder: Path) -> None:
    """Write the manifest anew, as a stranger would: only what is inside may give a file away."""
    from mendscan.models.folder import LISTED, digest, manifest_text

    (folder / "manifest.json").write_text(manifest_text({n: digest((folder / n).read_bytes()) for n in LISTED}))


# --- one worker ------------------------------------------------------------------------------------------------------


def work(name: str, seed: int, first: int, last: int) -> None:
    """Run `first` … `last` − 1, and print a line of JSON for each."""
    import logging
    import warnings

    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    sys.path.insert(0, str(ROOT / "tests"))
    signal.signal(signal.SIGPROF, _too_slow)
    with tempfile.TemporaryDirectory() as folder:
        target = FORMATS[name](Path(folder))
        target.run(None)  # imports, and proof that the undamaged file is read
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + HEADROOM,) * 2)
        begun = _resident()
        for run in range(first, last):
            print(
                json.dumps({"run": run, **_outcome(target, name, seed, run), "grown": _resident() - begun}), flush=True
            )


def _outcome(target: Target, name: str, seed: int, run: int) -> dict[str, Any]:
    from mendscan.errors import MendscanError

    rng = random.Random(zlib.crc32(f"{name} {seed} {run}".encode()))
    started, outcome = time.process_time(), "accepted"
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        target.run(rng)
    except MendscanError as error:
        outcome = f"typed {error.code}"
        if "\n" in str(error) or not str(error).isprintable() or error.code == "E_INTERNAL":
            outcome = f"escape {error.code}: {str(error)!r}"
    except TooSlow:
        outcome = "escape: more than two seconds"
    except BaseException as error:  # noqa: BLE001 - whatever it is, it got out
        outcome = f"escape {type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return {"outcome": outcome, "seconds": time.process_time() - started}


def _too_slow(*_: object) -> None:
    raise TooSlow


def _resident() -> int:
    """Return the most memory so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# --- all of them -----------------------------------------------------------------------------------------------------


def fuzz(name: str, runs: int, seed: int) -> dict[str, Any]:
    """Run one format in workers, each anew where the one before has died; return its row."""
    outcomes: list[dict[str, Any]] = []
    while len(outcomes) < runs:
        first = len(outcomes)
        last = min(runs, (first // BATCH + 1) * BATCH)
        outcomes += _batch(name, seed, first, last)
    kinds = Counter(each["outcome"].split()[0].strip(":") for each in outcomes)
    return {
        "format": name,
        "runs": runs,
        "accepted": kinds["accepted"],
        "typed": kinds["typed"],
        "escapes": kinds["escape"],
        "slowest_s": max(each["seconds"] for each in outcomes),
        "memory_MB": max(each["grown"] for each in outcomes) / 1e6,
        "codes": dict(Counter(e["outcome"].split()[1] for e in outcomes if e["outcome"].startswith("typed"))),
        "escaped": [each for each in outcomes if each["outcome"].startswith("escape")],
    }


def _batch(name: str, seed: int, first: int, last: int) -> list[dict[str, Any]]:
    command = [sys.executable, __file__, "--work", name, str(seed), str(first), str(last)]
    with tempfile.TemporaryFile("w+") as told:
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=told, text=True)
        watch = _Watch(worker)
        found = []
        for line in worker.stdout or ():
            watch.heard()
            found.append(json.loads(line))
        code = worker.wait()
        watch.stop()
        told.seek(0)
        if code and not found and first % BATCH == 0 and "Traceback" in (said := told.read()):
            raise SystemExit(f"{name}: the worker does not start\n{said[-2000:]}")
    if len(found) < last - first:
        died = {"run": first + len(found), "outcome": f"escape: the process died with {code}", "seconds": 0, "grown": 0}
        found.append(died)
    return found


class _Watch:
    """Kills a worker that says nothing for a long time."""

    def __init__(self, worker: subprocess.Popen[str]) -> None:
        import threading

        self._worker, self._last, self._over = worker, time.monotonic(), threading.Event()
        threading.Thread(target=self._look, daemon=True).start()

    def heard(self) -> None:
        self._last = time.monotonic()

    def stop(self) -> None:
        self._over.set()

    def _look(self) -> None:
        while not self._over.wait(1.0):
            if time.monotonic() - self._last > STUCK:
                self._worker.kill()


def table(rows: Sequence[dict[str, Any]]) -> str:
    lines = [
        "| format | runs | accepted | typed errors | escapes | slowest | memory |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        numbers = f"{row['runs']:,} | {row['accepted']:,} | {row['typed']:,} | {row['escapes']}"
        lines.append(f"| {row['format']} | {numbers} | {row['slowest_s']:.2f} s | +{row['memory_MB']:.0f} MB |")
    return "\n".join(lines).replace(",", " ")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=300, help="damaged files of each format")
    parser.add_argument("--format", action="append", choices=FORMATS, help="may be repeated; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write all figures, and every escape")
    parser.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work[0], *map(int, given.work[1:]))
        return 0
    rows = []
    for name in given.format or FORMATS:
        rows.append(fuzz(name, given.runs, given.seed))
        row = rows[-1]
        print(f"{name}: {row['runs']} runs, {row['escapes']} escapes", file=sys.stderr, flush=True)
        for each in row["escaped"][:10]:
            print(f"  run {each['run']}: {each['outcome']}", file=sys.stderr)
        if given.json:
            given.json.write_text(json.dumps(rows, indent=2) + "\n")
    print(table(rows))
    return int(any(row["escapes"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
