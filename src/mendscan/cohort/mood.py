"""The challenge's zip archives become folders to train on, to test on and to evaluate with.

`mood_layout` says what is in them, with sources, and where it goes; `zip_members` takes it out; `mood_record` keeps
account.  An archive of 23 GB and its scans of up to 1 GiB are never in memory or unpacked as a whole: each member is
copied in pieces to a temporary file, flushed, read back, read once as a scan, recorded, and only then gets its name.
"""

from __future__ import annotations

import math
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mendscan.cohort.held_folder import held_folder
from mendscan.cohort.mood_layout import Kind, Layout, PlannedFile, lay_out
from mendscan.cohort.mood_members import CommonShape, gzipped_chunks, label_facts, scan_facts, short_chunks, times
from mendscan.cohort.mood_record import ImportRecord
from mendscan.cohort.zip_members import ZipMembers, open_zip
from mendscan.cohort.zip_safety import ArchiveLimits
from mendscan.errors import Interrupted, WriteError
from mendscan.progress import Progress, Silent
from mendscan.volumes.writing import write_chunks

__all__ = ["CHALLENGE_SHAPES", "MoodImport", "import_mood"]

CHALLENGE_SHAPES = {"brain": (256, 256, 256), "abdomen": (512, 512, 512)}
_SCANS = (Kind.training, Kind.holdout, Kind.toy)
_MIB = 2**20
_SPARE_BYTES = 64 * _MIB
"""Left free on the disk, for the record and for others."""
_RANGE_TOLERANCE = 1e-4


@dataclass(frozen=True)
class MoodImport:
    """What an import has put where.

    Attributes:
        folder: The folder.
        counts: How many files there are of each kind.
        already_there: How many of them an earlier, interrupted import had finished.
        region: ``brain`` or ``abdomen``, by the shape or else by the archive's folders; None if neither says.
        shape: Voxels of each scan.
        spacing_mm: Smallest and largest voxel edge along each of the file's axes.
        bytes: Of all files.
        ignored: Members that were left out.
        remarks: What the user should know, in words.
    """

    folder: Path
    counts: dict[Kind, int]
    already_there: int
    region: str | None
    shape: tuple[int, ...]
    spacing_mm: tuple[tuple[float, float], ...]
    bytes: int
    ignored: tuple[str, ...]
    remarks: tuple[str, ...]

    @property
    def next_commands(self) -> tuple[str, ...]:
        """What to type next, in order."""
        folder = self.folder
        commands = []
        if self.counts[Kind.training]:
            preset = f" --preset {self.region}" if self.region else ""
            commands.append(f"mendscan train -i {_quoted(folder / 'train')} -o model{preset}")
        if self.counts[Kind.holdout]:
            commands.append(f"mendscan simulate -i {_quoted(folder / 'holdout')} -o test")
        if self.counts[Kind.toy]:
            commands.append(f"mendscan detect -m model -i {_quoted(folder / 'toy' / 'scans')} -o toy_results")
            commands.append(f"mendscan evaluate -i toy_results -l {_quoted(folder / 'toy' / 'labels')}")
        return tuple(commands)


def import_mood(
    archive: Path | str,
    folder: Path | str,
    *,
    holdout: int = 0,
    seed: int = 0,
    limits: ArchiveLimits | None = None,
    progress: Progress | None = None,
) -> MoodImport:
    """Take the scans and labels out of an archive of the challenge; an interrupted import goes on where it was.

    Args:
        archive: ``brain_train.zip``, ``abdom_train.zip``, ``brain_toy.zip`` or ``abdom_toy.zip``.
        folder: Gets the layout of `mood_layout`; missing, empty but for archives, or begun by an import of the same
            archive.  A training and a toy archive of the same region may share it.
        holdout: How many training scans go to FOLDER/holdout instead of FOLDER/train.
        seed: Of that choice, which depends on it and on the scans' names alone.
        limits: What the archive may hold at most.
        progress: Told of every MiB of the archive that is read, and of every file.

    Raises:
        ArchiveError: If the archive or a member is damaged, unsafe or unexpected; see `zip_members` and `mood_layout`.
            Of a scan also what `open_voxels` raises, with its code, and E_SHAPE if it is of another shape than the
            others; E_LABEL if a scan label is not 0 or 1.  Files that were finished before stay.
        SettingsError: If `holdout` or `seed` is out of range.
        ResultsError: E_OTHER_IMPORT if the folder holds the import of another archive or with another hold-out.
        WriteError: E_NOT_EMPTY if it holds anything else, E_SPACE if the disk has too little room, E_LOCKED if
            another run is at work there, or if something cannot be written.
        Interrupted: On Ctrl-C; nothing is half-written, and the same call goes on.
    """
    progress, folder = progress or Silent(), Path(folder)
    with open_zip(Path(archive), limits or ArchiveLimits()) as opened:
        layout = lay_out(opened.members, where=archive, holdout=holdout, seed=seed)
        with held_folder(folder, "import"):
            record = ImportRecord(folder, layout, archive=opened.path, holdout=holdout, seed=seed)
            finished = _import(opened, layout, record, progress)
    return _summary(layout, record, len(finished))


def _import(opened: ZipMembers, layout: Layout, record: ImportRecord, progress: Progress) -> set[str]:
    """Take out what is not there yet; return what was."""
    _check_space(record.folder, sum(file.member.bytes for file in layout.files if not record.is_there(file)))
    shape = CommonShape(record.folder)
    try:
        _begin(opened, record, progress)
        finished = _finished_before(layout, record, progress)
        _take_out(opened, layout, record, shape, finished, progress)
    except KeyboardInterrupt:
        done = sum(record.is_there(file) for file in layout.files)
        raise Interrupted(
            "the import was stopped", where=record.folder, found=f"{done} of {len(layout.files)} files done",
            remedy="the same command goes on where it was",
        ) from None  # fmt: skip
    return finished


def _begin(opened: ZipMembers, record: ImportRecord, progress: Progress) -> None:
    record.prepare()
    progress.begin("read the archive", -(-opened.path.stat().st_size // _MIB))
    digest = opened.sha256(progress)
    if record.earlier not in (None, digest):
        progress.say("the archive file is not the same as before, its members are by name, length and checksum")
    record.name_archive(digest)


def _finished_before(layout: Layout, record: ImportRecord, progress: Progress) -> set[str]:
    candidates = [file for file in layout.files if (record.folder / file.target).is_file()]
    if candidates:
        progress.begin("verify what is there", len(candidates))
    finished = set()
    for file in candidates:
        if record.holds(file, progress):
            finished.add(file.target)
        progress.advance()
    return finished


def _take_out(
    opened: ZipMembers, layout: Layout, record: ImportRecord, shape: CommonShape, finished: set[str], progress: Progress
) -> None:
    progress.begin("import", len(layout.files), done=len(finished))
    total = 0
    for file in layout.files:
        if file.target in finished:
            continue
        _take_one(opened, file, record, shape)
        total += file.member.bytes
        progress.advance(MiB=total / _MIB)


def _take_one(opened: ZipMembers, file: PlannedFile, record: ImportRecord, shape: CommonShape) -> None:
    where = opened.where(file.member)

    def check_scan(temporary: Path, digest: str) -> None:
        record.note(file, {"sha256": digest, **scan_facts(temporary, file, shape, where)})

    def check_label(temporary: Path, digest: str) -> None:
        record.note(file, {"sha256": digest, **label_facts(temporary.read_bytes(), where)})

    chunks, target = opened.chunks(file.member), record.folder / file.target
    if file.kind.is_volume:
        write_chunks(target, gzipped_chunks(chunks, where), check=check_scan)
    else:
        write_chunks(target, short_chunks(chunks, where), check=check_label)


def _check_space(folder: Path, needed: int) -> None:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed + _SPARE_BYTES > free:
        raise WriteError(
            "not enough room on the disk",
            where=folder,
            code="E_SPACE",
            found=f"{free / 2**30:.1f} GiB free",
            expected=f"{(needed + _SPARE_BYTES) / 2**30:.1f} GiB",
            remedy="free some, or name a folder on another disk",
        )


def _summary(layout: Layout, record: ImportRecord, already_there: int) -> MoodImport:
    facts = [record.facts(file) for file in layout.of(*_SCANS)]
    spacings = np.array([one["spacing_mm"] for one in facts])
    shape = tuple(facts[0]["shape"])
    by_shape = next((region for region, usual in CHALLENGE_SHAPES.items() if usual == shape), None)
    region = layout.region or by_shape
    return MoodImport(
        folder=record.folder,
        counts={kind: len(layout.of(kind)) for kind in Kind},
        already_there=already_there,
        region=region,
        shape=shape,
        spacing_mm=tuple(zip(spacings.min(axis=0).tolist(), spacings.max(axis=0).tolist(), strict=True)),
        bytes=sum(file.member.bytes for file in layout.files),
        ignored=layout.ignored,
        remarks=tuple(_remarks(layout, record, shape, region)),
    )


def _remarks(layout: Layout, record: ImportRecord, shape: tuple[int, ...], region: str | None) -> Iterator[str]:
    usual = [CHALLENGE_SHAPES[region]] if region else list(CHALLENGE_SHAPES.values())
    if shape not in usual:
        yield f"{times(shape)} voxels is not the challenge's shape ({' or '.join(map(times, usual))})"
    outside = [
        file.target
        for file in layout.of(*_SCANS)
        for low, high in [record.facts(file)["range"] or (-math.inf, math.inf)]
        if low < -_RANGE_TOLERANCE or high > 1 + _RANGE_TOLERANCE
    ]
    if outside:
        yield f"{len(outside)} scans have values outside [0, 1] or not finite, such as {outside[0]}"
    if layout.ignored:
        yield f"left out: {len(layout.ignored)} members that are no data, such as {layout.ignored[0]}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
