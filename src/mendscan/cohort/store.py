"""Prepared slices of a cohort on disk, memory-mapped, and which scan serves what."""

from __future__ import annotations

import errno
import hashlib
import io
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from mendscan.cohort.fingerprint import BACKGROUND, ScanFacts, scan_facts
from mendscan.cohort.preparing import check_contrast, prepare
from mendscan.config import PreparationSettings, Settings
from mendscan.errors import CohortError, ScanError
from mendscan.parallel import all_in_processes, each_in_processes
from mendscan.progress import Progress
from mendscan.strict_json import read_json
from mendscan.volumes.checking import CheckedScan, checked, in_few_lines
from mendscan.volumes.reading import STANDARD_READER, ScanReader
from mendscan.volumes.writing import make_folder, write_errors, write_json

__all__ = ["SliceStore", "Split", "measure_cohort", "prepare_cohort", "reserve_array", "split_by_content"]

_STORED = np.dtype("<f2")
SMALLEST_COHORT = 8
"""Fewer scans cannot be split into training, validation and calibration."""
_FEWEST_TO_TRAIN = 2
"""One scan has no spread by which another could be unusual."""
_USED_LATER = {"planes", "scored_slices", "training_margin_slices"}
"""Settings of the preparation that no prepared slice depends on."""


@dataclass(frozen=True)
class Split:
    """Which scan serves what, by content hash; no content is in two parts."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    calibration: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the split as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class SliceStore:
    """Prepared scans in one memory-mapped array, float16, with their content hashes.

    Attributes:
        slices_NSHW: Scan, slice, height, width.
        slice_axis: The axis that comes first in a scan.
        hashes: The content hash of each scan.
    """

    slices_NSHW: np.ndarray
    slice_axis: str
    hashes: tuple[str, ...]

    def cut_along(self, axis: str) -> np.ndarray:
        """Return a view of the scans, N × S × H × W, with slices along `axis`; both are seen as an array."""
        if axis == self.slice_axis:
            return self.slices_NSHW
        scans_NXYZ = np.moveaxis(self.slices_NSHW, 1, 1 + "XYZ".index(self.slice_axis))
        return np.moveaxis(scans_NXYZ, 1 + "XYZ".index(axis), 1)

    def rows(self, hashes: Sequence[str]) -> list[int]:
        """Return the indices of scans given by their content hashes."""
        index = {content: row for row, content in enumerate(self.hashes)}
        return [index[content] for content in hashes]


def measure_cohort(
    paths: Sequence[Path], progress: Progress, *, reader: ScanReader = STANDARD_READER
) -> tuple[list[Path], list[ScanFacts]]:
    """Check and measure every scan in parallel; unusable ones are reported and left out, odd ones are reported.

    Returns:
        The usable files and their facts, in the order of `paths`, each content once.
    """
    progress.begin("measure", len(paths))
    rows: dict[int, CheckedScan] = {}
    facts: dict[Path, ScanFacts] = {}
    for index, outcome in each_in_processes(_measure, [(path, reader) for path in paths], expected=ScanError):
        progress.advance()
        if isinstance(outcome, ScanError):
            progress.say(f"left out: {outcome}")
        else:
            rows[index], facts[paths[index]] = outcome
    for line in in_few_lines([rows[index] for index in sorted(rows)]):
        progress.say(line)
    return _once_each([path for path in paths if path in facts], facts, progress)


def split_by_content(hashes: Sequence[str], settings: Settings) -> Split:
    """Split a cohort by content hash and seed: the same scan always lands in the same part of the same cohort.

    Args:
        hashes: One content hash per scan, all different.
        settings: Fractions and seed.

    Raises:
        CohortError: If there are too few scans to split.
    """
    training = settings.training
    calibration = max(2, round(training.calibration_fraction * len(hashes)))
    validation = max(1, round(training.validation_fraction * len(hashes)))
    fewest = max(SMALLEST_COHORT, calibration + validation + _FEWEST_TO_TRAIN)
    if len(hashes) < fewest:
        raise CohortError(
            "too few usable scans",
            code="E_TOO_FEW_SCANS",
            found=len(hashes),
            expected=f"at least {fewest}",
            remedy="add healthy scans: training, validation and calibration each need their own",
        )
    shuffled = sorted(hashes, key=lambda h: hashlib.sha256(f"{settings.seed}:{h}".encode()).hexdigest())
    rest = shuffled[calibration + validation :]
    return Split(
        train=tuple(sorted(rest)),
        validation=tuple(sorted(shuffled[calibration : calibration + validation])),
        calibration=tuple(sorted(shuffled[:calibration])),
    )


def prepare_cohort(
    paths: Sequence[Path],
    hashes: Sequence[str],
    settings: Settings,
    folder: Path,
    progress: Progress,
    *,
    reader: ScanReader = STANDARD_READER,
) -> SliceStore:
    """Prepare every scan in parallel into one file of `folder`, unless it is there, whole.

    A JSON file beside it holds its size and SHA-256; a file that does not agree is made anew, with a warning.

    Raises:
        ScanError: If a scan that was usable a moment ago is not any more.
        WriteError: If there is no space for the slices (E_NO_SPACE), or they cannot be written.
    """
    make_folder(folder)
    target = folder / f"slices-{_store_key(hashes, settings.preparation)}.npy"
    if not _is_whole(target, progress):
        _fill(paths, reader, settings, target, progress)
    return SliceStore(np.load(target, mmap_mode="r"), settings.slice_axis, tuple(hashes))


def _is_whole(target: Path, progress: Progress) -> bool:
    if not target.exists():
        return False
    try:
        expected = read_json(_seal(target))
        if expected == {"bytes": target.stat().st_size, "sha256": _sha256(target)}:
            return True
    except (OSError, ValueError):
        pass
    progress.say(f"warning: {target.name} is damaged; the scans are prepared again")
    return False


def _seal(target: Path) -> Path:
    return target.with_suffix(".json")


def _sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _fill(paths: Sequence[Path], reader: ScanReader, settings: Settings, target: Path, progress: Progress) -> None:
    """Prepare the scans into a file beside `target`, which then takes its place; the seal comes last."""
    unfinished = target.with_suffix(".part")
    try:
        reserve_array(unfinished, (len(paths), settings.slices, *settings.slice_shape), _STORED)
        progress.begin("prepare", len(paths))
        jobs = [(path, reader, settings.preparation, unfinished, row) for row, path in enumerate(paths)]
        all_in_processes(_prepare_into, jobs, after_each=progress.advance)
        with write_errors(target):
            _flush(unfinished)
            seal = {"bytes": unfinished.stat().st_size, "sha256": _sha256(unfinished)}
            unfinished.replace(target)
        write_json(_seal(target), seal)
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)


def reserve_array(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Make a file for an array of zeros, whose space on the disk is reserved where the system can do that.

    Where it is, the file can be written to through a map of memory: a full disk cannot end the process.

    Raises:
        WriteError: If there is too little space, or the file cannot be made.
    """
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    size = header.tell() + prod(shape) * dtype.itemsize
    with write_errors(path, needed=size), path.open("wb") as opened:
        opened.write(header.getvalue())
        opened.flush()
        opened.truncate(size)
        if hasattr(os, "posix_fallocate"):
            _allocate(opened.fileno(), size)


def _allocate(descriptor: int, size: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL, errno.ENODEV}:  # the file system cannot reserve
            raise


def _flush(path: Path) -> None:
    with path.open("rb+") as opened:
        os.fsync(opened.fileno())


def _measure(path: Path, reader: ScanReader) -> tuple[CheckedScan, ScanFacts]:
    row, volume = checked(path, reader)
    check_contrast(volume, background_below=BACKGROUND, where=str(path))
    return row, scan_facts(volume)


def _prepare_into(path: Path, reader: ScanReader, settings: PreparationSettings, target: Path, row: int) -> None:
    prepared = prepare(reader(path), settings)
    stored = np.ascontiguousarray(prepared.slices_SHW, dtype=_STORED)
    # Written, not mapped: what a full disk refuses is then an error and not the end of the process.
    with write_errors(target), target.open("rb+") as opened:
        np.lib.format.read_magic(opened)
        np.lib.format.read_array_header_1_0(opened)
        opened.seek(row * stored.nbytes, os.SEEK_CUR)
        opened.write(stored.tobytes())


def _once_each(
    paths: Sequence[Path], facts: dict[Path, ScanFacts], progress: Progress
) -> tuple[list[Path], list[ScanFacts]]:
    seen: dict[str, Path] = {}
    for path in paths:
        first = seen.setdefault(facts[path].content_hash, path)
        if first is not path:
            progress.say(f"left out: {path} has the same content as {first.name}")
    kept = list(seen.values())
    return kept, [facts[path] for path in kept]


def _store_key(hashes: Sequence[str], preparation: PreparationSettings) -> str:
    text = preparation.model_dump_json(exclude=_USED_LATER) + "".join(hashes)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
