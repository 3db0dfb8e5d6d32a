"""What is each member of a challenge archive, and where does it go?

The Medical Out-of-Distribution challenge (MOOD; Zimmerer et al., "MOOD 2020: A public benchmark for
out-of-distribution detection and localization on medical images", IEEE TMI 2022) hands out four zip archives, two of a
body region each::

    brain_train.zip   brain_train/00000.nii.gz, …          800 healthy MRI, 256³ voxels, values in [0, 1]
    abdom_train.zip   abdom_train/00000.nii.gz, …          550 healthy CT, 512³ voxels, values in [0, 1]
    brain_toy.zip,    toy/toy_0.nii.gz, …                  4 scans with planted anomalies
    abdom_toy.zip     toy_label/pixel/toy_0.nii.gz         0 or 1 per voxel
                      toy_label/sample/toy_0.nii.gz.txt    0 or 1 for the scan

Sources for the names, sizes and counts: the class ``MOOD`` of github.com/neuro-ml/amid (``amid/mood.py``), which reads
the archives themselves; for the folders ``brain_train``, ``abdom_train`` (``colon_train`` in 2020), ``toy`` and
``toy_label/{pixel,sample}``: the readme and ``scripts/test_docker.py`` of github.com/MIC-DKFZ/mood, and
github.com/evihuijben/mood_challenge.  Folders above these are allowed, as archives that were packed anew have them.

They go to::

    FOLDER/train/NAME.nii.gz, FOLDER/holdout/NAME.nii.gz
    FOLDER/toy/scans/NAME.nii.gz
    FOLDER/toy/labels/pixel/NAME.nii.gz, FOLDER/toy/labels/sample/NAME.nii.gz.txt

so that training on FOLDER/train sees no anomaly, whatever else is in FOLDER.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import PurePosixPath

from mendscan.cohort.zip_members import Member
from mendscan.cohort.zip_safety import printable
from mendscan.errors import ArchiveError, SettingsError

__all__ = ["Kind", "Layout", "PlannedFile", "lay_out"]

_CASE = r"(?P<case>[A-Za-z0-9][A-Za-z0-9._-]{0,99})"
_OS_JUNK = re.compile(r"(?:.*/)?(?:__MACOSX/.*|\._[^/]*|\.DS_Store|Thumbs\.db|desktop\.ini)")
_DOCUMENT = re.compile(r"(?:.*/)?(?:readme|licen[cs]e|citation|changelog)(?:\.[a-z]{1,4})?", re.IGNORECASE)


class Kind(StrEnum):
    """What a file is to the challenge."""

    training = "training scan"
    holdout = "hold-out scan"
    toy = "toy scan"
    pixel = "voxel label"
    sample = "scan label"

    @property
    def is_volume(self) -> bool:
        """Whether it is a NIfTI file."""
        return self is not Kind.sample


_SOURCES = {
    Kind.training: re.compile(rf"(?:.*/)?(?P<region>brain|abdom|colon)_train/{_CASE}\.nii\.gz"),
    Kind.toy: re.compile(rf"(?:.*/)?toy/{_CASE}\.nii\.gz"),
    Kind.pixel: re.compile(rf"(?:.*/)?toy_label/pixel/{_CASE}\.nii\.gz"),
    Kind.sample: re.compile(rf"(?:.*/)?toy_label/sample/{_CASE}\.nii\.gz\.txt"),
}
_TARGETS = {
    Kind.training: "train/{}.nii.gz",
    Kind.holdout: "holdout/{}.nii.gz",
    Kind.toy: "toy/scans/{}.nii.gz",
    Kind.pixel: "toy/labels/pixel/{}.nii.gz",
    Kind.sample: "toy/labels/sample/{}.nii.gz.txt",
}


@dataclass(frozen=True)
class PlannedFile:
    """A member and the file that it becomes.

    Attributes:
        member: Of the archive.
        kind: What it is.
        case: The scan that it is or belongs to.
    """

    member: Member
    kind: Kind
    case: str

    @property
    def target(self) -> str:
        """Its path in the folder, with ``/`` between folders."""
        return _TARGETS[self.kind].format(self.case)


@dataclass(frozen=True)
class Layout:
    """What becomes of an archive.

    Attributes:
        files: In the order in which they are taken out: scans before labels.
        ignored: Names of members that are left out: what operating systems leave behind, and documents.
        region: ``brain`` or ``abdomen`` if the archive's folders say so.
    """

    files: tuple[PlannedFile, ...]
    ignored: tuple[str, ...]
    region: str | None

    def of(self, *kinds: Kind) -> tuple[PlannedFile, ...]:
        """Return the files of some kinds."""
        return tuple(file for file in self.files if file.kind in kinds)


def lay_out(members: Sequence[Member], *, where: object, holdout: int, seed: int) -> Layout:
    """Decide what each member is and where it goes.

    Args:
        members: The archive's files.
        where: The archive, for errors.
        holdout: How many training scans are kept apart.  Which ones depends on their names and the seed alone.
        seed: Of that choice.

    Raises:
        ArchiveError: E_UNEXPECTED if a member is none of the challenge's, E_NO_SCANS if no scan is there,
            E_DUPLICATE_NAME if two scans would become one file, E_INCOMPLETE if a toy scan or a label is missing.
        SettingsError: If `holdout` leaves no training scan, or is asked of an archive that has none.
    """
    ignored = tuple(member.name for member in members if _can_be_left_out(member.name))
    files = [_recognised(member, where) for member in members if not _can_be_left_out(member.name)]
    if not files:
        raise ArchiveError(
            "no scans", where=where, code="E_NO_SCANS", found="nothing of the challenge",
            expected="brain_train/NAME.nii.gz, abdom_train/NAME.nii.gz or toy/NAME.nii.gz",
            remedy="give an archive of the challenge",
        )  # fmt: skip
    _check_distinct(files, where)
    _check_complete(files, where)
    training = [file.case for file in files if file.kind is Kind.training]
    apart = _kept_apart(training, holdout, seed)
    files = [replace(f, kind=Kind.holdout) if f.kind is Kind.training and f.case in apart else f for f in files]
    order = list(Kind)
    files.sort(key=lambda file: (order.index(file.kind), file.case))
    return Layout(tuple(files), ignored, _region(files))


def _can_be_left_out(name: str) -> bool:
    return bool(_OS_JUNK.fullmatch(name) or _DOCUMENT.fullmatch(name))


def _recognised(member: Member, where: object) -> PlannedFile:
    for kind, pattern in _SOURCES.items():
        if match := pattern.fullmatch(member.name):
            return PlannedFile(member, kind, match["case"])
    raise ArchiveError(
        "not a file of the challenge",
        where=f"{where}: {printable(member.name)}",
        code="E_UNEXPECTED",
        found=printable(PurePosixPath(member.name).name),
        expected="brain_train/NAME.nii.gz, abdom_train/…, toy/…, toy_label/pixel/… or toy_label/sample/NAME.nii.gz.txt",
        remedy="check that this is the right archive, or remove the member with 'zip -d'",
    )


def _check_distinct(files: Iterable[PlannedFile], where: object) -> None:
    seen: dict[str, str] = {}
    for file in files:
        first = seen.setdefault(file.target.casefold(), file.member.name)
        if first != file.member.name:
            raise ArchiveError(
                "two members would become the same file",
                where=f"{where}: {file.member.name}",
                code="E_DUPLICATE_NAME",
                found=first,
                expected="one scan per name and one body region per archive",
                remedy="import the archives of the challenge one by one, each region into its own folder",
            )


def _check_complete(files: Sequence[PlannedFile], where: object) -> None:
    cases: dict[Kind, set[str]] = {kind: {f.case for f in files if f.kind is kind} for kind in Kind}
    everywhere = cases[Kind.toy] | cases[Kind.pixel] | cases[Kind.sample]
    for kind in (Kind.toy, Kind.pixel, Kind.sample):
        if missing := sorted(everywhere - cases[kind]):
            raise ArchiveError(
                f"a toy case has no {kind.value}",
                where=where,
                code="E_INCOMPLETE",
                found=", ".join(missing[:5]),
                expected="scan, voxel label and scan label of each",
                remedy="download the archive again",
            )


def _kept_apart(cases: Sequence[str], count: int, seed: int) -> set[str]:
    if seed < 0:
        raise SettingsError("not a seed", where="seed", found=seed, expected=">= 0")
    if count and not cases:
        raise SettingsError(
            "no training scans to keep apart", where="holdout", found=count, expected="0", remedy="leave it out"
        )
    if count and not 0 < count < len(cases):
        raise SettingsError("too many or too few to keep apart", where="holdout", found=count,
                            expected=f"0 to {len(cases) - 1}", remedy="keep fewer apart")  # fmt: skip
    # A rank by digest: a name's place does not depend on the order of the archive.
    return set(sorted(cases, key=lambda case: hashlib.sha256(f"{seed}:{case}".encode()).hexdigest())[:count])


def _region(files: Iterable[PlannedFile]) -> str | None:
    for file in files:
        if match := _SOURCES[Kind.training].fullmatch(file.member.name):
            return "brain" if match["region"] == "brain" else "abdomen"
    return None
