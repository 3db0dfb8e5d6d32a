"""Finding scans: what of a folder is one, in which files, and what of it is not."""

from __future__ import annotations

import itertools
import logging
import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mendscan.errors import CohortError
from mendscan.progress import Progress, Silent
from mendscan.volumes.dicom_headers import dicom_files
from mendscan.volumes.dicom_series import DicomFolder, series_of_files, series_path
from mendscan.volumes.foreign import unread_scans
from mendscan.volumes.reading import SCAN_SUFFIXES, case_name

__all__ = ["FoundScans", "find_scans", "look_through", "same_names"]

_LOGGER = logging.getLogger(__name__)
_SHOWN_DUPLICATES = 5

_Note = tuple[Path, str]


@dataclass(frozen=True)
class FoundScans:
    """What lies in and below a folder.

    Attributes:
        scans: Paths that `read_volume` takes, in order.
        notes: What was left out, or is odd, with the folder.
        others: Files that are no scans by their names and their beginnings; hidden ones are not listed.
    """

    scans: tuple[Path, ...]
    notes: tuple[_Note, ...]
    others: tuple[Path, ...] = ()


def find_scans(path: str | os.PathLike[str], progress: Progress | None = None) -> list[Path]:
    """List the scans of a folder, at any depth, or the one file or series given.

    Hidden files and folders, such as the ``._`` files of macOS, are skipped; links to files are followed.  DICOM
    files are recognised by content; each series of a folder is a scan, and what is none is logged as a warning.

    Args:
        path: A scan or a folder.
        progress: Told of every DICOM file.

    Returns:
        Paths that `read_volume` takes, in a stable order: by name, folder by folder.

    Raises:
        CohortError: E_NOT_FOUND, E_ACCESS, E_NO_SCANS, or E_DUPLICATE_NAME if two scans have the same case name,
            for their results would overwrite each other.
    """
    found = look_through(path, progress)
    for folder, note in found.notes:
        _LOGGER.warning("%s: %s", folder, note)
    _check_case_names(found.scans, path)
    return list(found.scans)


def look_through(path: str | os.PathLike[str], progress: Progress | None = None) -> FoundScans:
    """Find what `find_scans` lists, whatever it is called, and what there is to say about the rest.

    Raises:
        CohortError: E_NOT_FOUND, E_ACCESS or E_NO_SCANS.
    """
    root = Path(path)
    with _listing_errors(root):
        is_folder, is_there = root.is_dir(), root.exists()
    if not is_folder:
        if not is_there and not _is_series(root):
            raise CohortError("no such file or folder", where=path, code="E_NOT_FOUND", remedy="check the path")
        return FoundScans((root,), ())
    scans, candidates, others, notes = _listed_below(root)
    series, more = _series_below(candidates, progress or Silent())
    notes += [*more, *unread_scans(others)]
    if not scans and not series:
        raise CohortError(
            "no scans found",
            where=path,
            code="E_NO_SCANS",
            found="; ".join(note for _, note in notes) or None,
            expected="NIfTI, NRRD, MetaImage or DICOM files",
            remedy="check the path",
        )
    return FoundScans(tuple(sorted([*scans, *series])), tuple(notes), tuple(sorted(others)))


def same_names(scans: Sequence[Path]) -> list[list[Path]]:
    """Return the scans whose case names some file system cannot hold apart, together."""
    paths_of = defaultdict(list)
    for scan in scans:
        # Some hold neither upper and lower case nor two spellings of an accent apart.
        paths_of[unicodedata.normalize("NFC", case_name(scan)).casefold()].append(scan)
    return [paths for paths in paths_of.values() if len(paths) > 1]


def _is_series(path: Path) -> bool:
    if not path.parent.is_dir():
        return False
    with _listing_errors(path.parent):
        files, _ = dicom_files(path.parent)
        found = series_of_files(files, where=str(path))
    return path in [series_path(path.parent, series) for series in found.series]


def _listed_below(root: Path) -> tuple[list[Path], list[tuple[Path, list[Path]]], list[Path], list[_Note]]:
    """Return the scans that are known by their names, the DICOM files of each folder that has some, and the rest."""
    scans: list[Path] = []
    others: list[Path] = []
    dicom: list[tuple[Path, list[Path]]] = []
    notes: list[_Note] = []
    for folder, subfolders, names in os.walk(root, onerror=_raise_unlisted):
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        linked = sum(Path(folder, name).is_symlink() for name in subfolders)
        if linked:
            notes.append((Path(folder), f"left out: {linked} linked folders, which are not followed"))
        visible = [Path(folder, name) for name in names if not name.startswith(".")]
        with _listing_errors(folder):
            files, closed = dicom_files(Path(folder))
        # What a file is, its content says: a slice called x.nii belongs to its series, and is no scan of its own.
        named = [path for path in set(visible) - set(files) if path.name.lower().endswith(SCAN_SUFFIXES)]
        scans += named
        if closed:
            notes.append((Path(folder), f"{closed} files cannot be opened; whether they are DICOM is unknown"))
        if files:
            dicom.append((Path(folder), files))
        others += set(visible) - {*named, *files}
    return scans, dicom, others, notes


def _series_below(folders: list[tuple[Path, list[Path]]], progress: Progress) -> tuple[list[Path], list[_Note]]:
    """Return the path of each DICOM series, and what there is to say about the rest."""
    if folders:
        progress.begin("DICOM headers", sum(len(files) for _, files in folders))
    paths: list[Path] = []
    notes: list[_Note] = []
    folder_of: dict[str, Path] = {}
    for folder, files in folders:
        with _listing_errors(folder):
            found = series_of_files(files, where=os.fspath(folder), progress=progress)
        paths += _paths_of(folder, found)
        notes += [(folder, f"left out: {words}") for words in found.skipped]
        for uid in {series.uid for series in found.series}:
            if folder_of.setdefault(uid, folder) != folder:
                notes.append((folder, "another folder has files of the same series; each is read for itself"))
    return paths, notes


def _paths_of(folder: Path, found: DicomFolder) -> list[Path]:
    # A folder of which nothing can be read is listed too: it fails, and is not passed over.
    if len(found.series) == 1 or (not found.series and found.damaged):
        return [folder]
    return [series_path(folder, series) for series in found.series]


@contextmanager
def _listing_errors(folder: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CohortError(
            "the folder cannot be read",
            where=folder,
            code="E_ACCESS",
            found=error.strerror,
            remedy="check its name and permissions",
        ) from error


def _raise_unlisted(error: OSError) -> None:
    raise CohortError(
        "the folder cannot be listed", where=error.filename, code="E_ACCESS", found=error.strerror
    ) from error


def _check_case_names(scans: Sequence[Path], path: str | os.PathLike[str]) -> None:
    duplicates = same_names(scans)
    if duplicates:
        shown = [" and ".join(map(os.fspath, paths)) for paths in itertools.islice(duplicates, _SHOWN_DUPLICATES)]
        raise CohortError(
            "scans with the same case name",
            where=path,
            code="E_DUPLICATE_NAME",
            found=f"{len(duplicates)} times: {'; '.join(shown)}",
            expected="one file per name",
            remedy="rename them or run them apart",
        )
