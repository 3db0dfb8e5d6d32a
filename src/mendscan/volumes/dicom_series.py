"""Which scans a folder of DICOM files holds: series are told apart, never mixed, and what is left out is said.

A series is what has one SeriesInstanceUID, one size, one orientation and one pixel spacing.  A folder with one usable
series is a scan of the folder's name; of several, each is a scan called FOLDER_sNUMBER, and FOLDER/FOLDER_sNUMBER is
its path, although no such file exists.
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mendscan.errors import GeometryError, IntensityError, ScanError, UnreadableScanError
from mendscan.progress import Progress, Silent
from mendscan.volumes.dicom_headers import COLOUR_IMAGE, DicomHeader, DicomSlice, dicom_files, read_header
from mendscan.volumes.faults import file_error
from mendscan.volumes.volume import MIN_VOXELS_PER_AXIS

__all__ = [
    "DicomFolder",
    "DicomSeries",
    "chosen_series",
    "folder_name",
    "series_of_files",
    "series_path",
]

_SAME_DIRECTION = 1e-3
_SAME_SPACING_MM = 1e-3
_UID_DIGITS = 6


@dataclass(frozen=True)
class DicomSeries:
    """The slices of one scan, in any order.

    Attributes:
        name: What tells it from others in its folder, such as ``s003``.
        uid: SeriesInstanceUID; never shown.
        number: SeriesNumber.
        modality: Such as ``MR``; empty if it is unknown.
        rows: Pixels along a column.
        columns: Pixels along a row.
        inverted: Whether low values are bright (MONOCHROME1).
        has_lookup_table: Whether values are scaled by a table.
        slices: Its images.
        left_behind: How many slices with the same UID are of another kind, and too few for a scan.
    """

    name: str
    uid: str
    number: int | None
    modality: str
    rows: int
    columns: int
    inverted: bool
    has_lookup_table: bool
    slices: tuple[DicomSlice, ...]
    left_behind: int


@dataclass(frozen=True)
class DicomFolder:
    """What the DICOM files of one folder are.

    Attributes:
        series: Usable series.
        too_few: Each series, or part of one, with fewer slices than a scan has, in words.
        others: What is no part of a scan, in words.
        damaged: The error of each file that cannot be read.
    """

    series: tuple[DicomSeries, ...]
    too_few: tuple[str, ...]
    others: tuple[str, ...]
    damaged: tuple[UnreadableScanError, ...]

    @property
    def skipped(self) -> tuple[str, ...]:
        """All that was left out and why, in words."""
        return self.too_few + self.others


def series_path(folder: Path, series: DicomSeries) -> Path:
    """Return the path of one of several series of a folder; `chosen_series` reads it."""
    return folder / f"{folder_name(folder)}_{series.name}"


def folder_name(folder: Path) -> str:
    """Return a folder's own name, also of ``.``."""
    return folder.name if folder.name not in ("", "..") else folder.resolve().name


def series_of_files(files: Sequence[Path], *, where: str, progress: Progress | None = None) -> DicomFolder:
    """Read the headers of the DICOM files of a folder and sort them into series.

    Args:
        files: Some DICOM files.
        where: What the errors of damaged files name.
        progress: Told of every file.

    Raises:
        OSError: If the disk or network fails.
    """
    progress = progress or Silent()
    headers: list[DicomHeader] = []
    damaged: list[UnreadableScanError] = []
    for path in files:
        try:
            headers.append(read_header(path, where=where))
        except UnreadableScanError as error:
            damaged.append(error)
        except (PermissionError, FileNotFoundError) as error:  # one file is closed, or gone since it was listed
            damaged.append(file_error(error, where))
        progress.advance()
    skipped = Counter(header.no_scan for header in headers if header.no_scan)
    groups = _groups([header for header in headers if not header.no_scan])
    usable = [group for group in groups if len(group) >= MIN_VOXELS_PER_AXIS]
    few = [group for group in groups if len(group) < MIN_VOXELS_PER_AXIS]
    others = tuple(f"{kind} ({count} files)" for kind, count in sorted(skipped.items()))
    return DicomFolder(_named(usable, few), _too_few(few), others, tuple(damaged))


def chosen_series(path: Path, *, where: str) -> DicomSeries:
    """Return the series that a path means: the only one of a folder or file, or one of several by its name.

    Args:
        path: A folder of DICOM files, FOLDER/FOLDER_sNUMBER, or a file with many frames.
        where: What an error names.

    Raises:
        UnreadableScanError: E_NOT_FOUND, E_NO_SERIES, E_SEVERAL_SERIES, or what ails a damaged file of the folder.
        GeometryError: If a file holds one slice only (E_DIMENSIONS).
        OSError: If the folder cannot be read.
    """
    folder, name = _folder_and_series(path)
    files, closed = ([path], 0) if path.is_file() else dicom_files(folder)
    if closed:
        raise UnreadableScanError(
            f"{closed} files of the folder cannot be opened", where=where, code="E_ACCESS", remedy="check permissions"
        )
    found = series_of_files(files, where=where)
    if found.damaged:
        raise _damaged(found.damaged, len(files), where)
    wanted = [one for one in found.series if name is None or one.name == name]
    if len(wanted) == 1:
        return wanted[0]
    if not wanted:
        raise _no_series(found, name, where)
    raise UnreadableScanError(
        "the folder has several series",
        where=where,
        code="E_SEVERAL_SERIES",
        found=", ".join(_described(one) for one in wanted),
        expected="one",
        remedy=f"give one of them, as FOLDER/FOLDER_{wanted[0].name}",
    )


def _no_series(found: DicomFolder, name: str | None, where: str) -> ScanError:
    if not found.series and any(kind.startswith(COLOUR_IMAGE) for kind in found.others):
        return IntensityError(
            "the voxels are colours", where=where, code="E_COLOUR", expected="one number", remedy="convert to grey"
        )
    if not found.series and found.too_few:
        return GeometryError(
            "too few slices for a scan",
            where=where,
            code="E_DIMENSIONS",
            found="; ".join(found.too_few),
            expected=f"at least {MIN_VOXELS_PER_AXIS}",
            remedy="give the folder with all slices of the series",
        )
    return UnreadableScanError(
        "the folder has no such series of images" if name else "no series of images",
        where=where,
        code="E_NO_SERIES",
        found="; ".join([*found.skipped, *(one.name for one in found.series)]) or "no DICOM files",
        expected=f"{name or 'a series'} of at least {MIN_VOXELS_PER_AXIS} slices",
        remedy="give a folder of DICOM files, or a .nii, .nrrd or .mha file",
    )


def _folder_and_series(path: Path) -> tuple[Path, str | None]:
    if path.is_dir() or path.is_file():
        return path, None
    prefix = f"{folder_name(path.parent)}_"
    if not path.parent.is_dir() or not path.name.startswith(prefix):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    return path.parent, path.name.removeprefix(prefix)


_Group = list[tuple[DicomHeader, DicomSlice]]


def _groups(headers: Sequence[DicomHeader]) -> list[_Group]:
    """Sort slices, for frames of one file may differ too, into those that can be one scan."""
    groups: dict[tuple[object, ...], list[_Group]] = {}
    for header in headers:
        facts = (header.series_uid, header.rows, header.columns, header.photometric, header.modality)
        alike = groups.setdefault(facts, [])
        for one in header.slices:
            group = next((group for group in alike if _same_plane(one, group[0][1])), None)
            if group is None:
                alike.append([(header, one)])
            else:
                group.append((header, one))
    return [group for alike in groups.values() for group in alike]


def _same_plane(mine: DicomSlice, theirs: DicomSlice) -> bool:
    return _close(mine.orientation, theirs.orientation, _SAME_DIRECTION) and _close(
        mine.pixel_spacing, theirs.pixel_spacing, _SAME_SPACING_MM
    )


def _close(mine: tuple[float, ...] | None, theirs: tuple[float, ...] | None, tolerance: float) -> bool:
    if mine is None or theirs is None:
        return True  # a slice that does not say is no part of another scan; reading refuses it
    return not any(abs(a - b) > tolerance for a, b in zip(mine, theirs, strict=True))  # nor is one that says NaN


def _too_few(groups: Sequence[_Group]) -> tuple[str, ...]:
    """Say for each series how many slices are in groups that are no scan."""
    slices, parts = Counter[str](), Counter[str]()
    words: dict[str, str] = {}
    for group in groups:
        header = group[0][0]
        number = "without a number" if header.series_number is None else header.series_number
        words[header.series_uid] = f"series {number} ({header.modality or 'unknown modality'})"
        slices[header.series_uid] += len(group)
        parts[header.series_uid] += 1
    return tuple(
        f"{words[uid]}, too few slices of one kind: {slices[uid]}"
        + (f" in {parts[uid]} kinds" if parts[uid] > 1 else "")
        for uid in words
    )


def _named(groups: Sequence[_Group], few: Sequence[_Group]) -> tuple[DicomSeries, ...]:
    """Name each series by its number where that is its own, else by its UID; parts of one series by their order."""
    uids_of: dict[int | None, set[str]] = {}
    for (first, _), *_ in groups:
        uids_of.setdefault(first.series_number, set()).add(first.series_uid)
    parts = Counter(group[0][0].series_uid for group in groups)
    left_behind: Counter[str] = Counter(header.series_uid for group in few for header, _ in group)
    done: Counter[str] = Counter()
    series = []
    for group in groups:
        first = group[0][0]
        own = first.series_number is not None and first.series_number >= 0 and len(uids_of[first.series_number]) == 1
        name = f"s{first.series_number:03d}" if own else f"s{_short_hash(first.series_uid)}"
        if parts[first.series_uid] > 1:
            done[first.series_uid] += 1
            name += f"-{done[first.series_uid]}"
        series.append(_series(name, group, left_behind[first.series_uid]))
    return tuple(sorted(series, key=lambda one: one.name))


def _series(name: str, group: _Group, left_behind: int) -> DicomSeries:
    first = group[0][0]
    return DicomSeries(
        name,
        first.series_uid,
        first.series_number,
        first.modality,
        first.rows,
        first.columns,
        inverted=first.photometric == "MONOCHROME1",
        has_lookup_table=any(header.has_lookup_table for header, _ in group),
        slices=tuple(one for _, one in group),
        left_behind=left_behind,
    )


def _short_hash(uid: str) -> str:
    return hashlib.sha256(uid.encode()).hexdigest()[:_UID_DIGITS]


def _described(series: DicomSeries) -> str:
    return f"{series.name} ({series.modality or 'unknown modality'}, {len(series.slices)} slices)"


def _damaged(damaged: Sequence[UnreadableScanError], files: int, where: str) -> ScanError:
    """Return the error of a folder with damaged files: nobody can say which scan they would be missing from."""
    if files == 1:
        return damaged[0]
    return UnreadableScanError(
        f"{len(damaged)} of {files} DICOM files cannot be read",
        where=where,
        code=damaged[0].code,
        found=f"first: {damaged[0].problem}",
        expected="whole files",
        remedy="copy them again, or take them out of the folder if they belong to another series",
    )
