"""Files that may hold scans in a format or package that is not read: they are named, not silently passed over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mendscan.errors import UnreadableScanError

__all__ = ["refuse_half_of_a_pair", "unread_scans"]

_FORMATS = (".hdr", ".img", ".mgh", ".mgz", ".mnc", ".par", ".rec", ".nii.bz2", ".nii.xz", ".nii.zip")
_PACKAGES = (".7z", ".rar", ".tar", ".tar.gz", ".tgz", ".zip")


def unread_scans(files: Iterable[Path]) -> list[tuple[Path, str]]:
    """Return each folder that holds such files, with a remark on how many.

    Example:
        >>> unread_scans([Path("a/x.hdr"), Path("a/x.img"), Path("a/notes.txt")])
        [(PosixPath('a'), 'left out: 2 files of a format or package that is not read (.hdr 1, .img 1)')]
    """
    counts: dict[Path, Counter[str]] = {}
    for file in files:
        suffix = next((s for s in (*_FORMATS, *_PACKAGES) if file.name.lower().endswith(s)), None)
        if suffix is not None:
            counts.setdefault(file.parent, Counter())[suffix] += 1
    return [(folder, _note(found)) for folder, found in counts.items()]


def refuse_half_of_a_pair(path: Path, where: object) -> None:
    """Raise an error that says so if a file holds the voxels of a pair: nothing in them says what they are.

    Raises:
        UnreadableScanError: E_NOT_NIFTI.
    """
    if path.suffix.lower() == ".img" and path.is_file():
        raise UnreadableScanError(
            "not a NIfTI file: the voxels of a .hdr/.img pair",
            where=where,
            code="E_NOT_NIFTI",
            remedy="convert the pair to a single .nii file",
        )


def _note(found: Counter[str]) -> str:
    kinds = ", ".join(f"{suffix} {count}" for suffix, count in sorted(found.items()))
    return f"left out: {found.total()} files of a format or package that is not read ({kinds})"
