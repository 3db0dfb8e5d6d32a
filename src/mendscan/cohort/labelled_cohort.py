"""A folder of scans, some with synthetic anomalies, and their labels: for evaluation only.

What is written extends the layout of the Medical Out-of-Distribution challenge (MOOD, Zimmerer et al., 2022)::

    scans/NAME.nii.gz
    labels/pixel/NAME.nii.gz        0 or 1 per voxel; not for whole-scan artefacts, where no voxel can be named
    labels/sample/NAME.nii.gz.txt   1 anomalous, 0 not
    labels/lesions/NAME.nii.gz      number of the lesion at each voxel; only for scans with local anomalies
    anomalies.csv                   one row per anomaly
    cases.csv                       one row per scan: case, subject, scope, anomalous

`write_labelled_cohort` makes each scan one case; `suite.write_suite` makes up to three cases of one scan.
"""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType

import numpy as np

from mendscan.cohort.anomalies import Anomaly, check_request
from mendscan.cohort.anomaly_kinds import KINDS
from mendscan.cohort.anomaly_strata import SIZES, deal
from mendscan.cohort.held_folder import held_folder, refuse_occupied
from mendscan.cohort.labelled_case import Case, CaseRequest, write_case
from mendscan.errors import CohortError, MendscanError, SettingsError
from mendscan.parallel import each_in_processes
from mendscan.progress import Progress, Silent
from mendscan.volumes.reading import case_name
from mendscan.volumes.tables import write_csv
from mendscan.volumes.writing import make_folder

__all__ = [
    "ANOMALY_COLUMNS",
    "CASE_COLUMNS",
    "LabelledCohort",
    "check_local",
    "deal_local",
    "distinct_subjects",
    "write_cases",
    "write_labelled_cohort",
]

CASE_COLUMNS = ("case", "subject", "scope", "anomalous")
_MM_COLUMNS, _INDEX_COLUMNS = ("x_mm", "y_mm", "z_mm"), ("x_index", "y_index", "z_index")
ANOMALY_COLUMNS = (
    *("case", "lesion", "scope", "kind", *_MM_COLUMNS, *_INDEX_COLUMNS),
    *("radius_mm", "voxels", "size", "strength", "contrast"),
)
MOST_PER_SCAN = 100
"""Far more than a scan has room for; what is dealt beyond its room is left out."""
_PARTS = ("scans", "labels", "anomalies.csv", "cases.csv")


@dataclass(frozen=True)
class LabelledCohort:
    """A folder of scans with labels.

    Attributes:
        folder: The folder.
        cases: What was written, in order.
        scans: The written scans, in the order of the cases; labels have the same file names.
        anomalies: Case name to its anomalies, lesion 1 first; empty for a healthy case.
    """

    folder: Path
    cases: tuple[Case, ...]
    scans: tuple[Path, ...]
    anomalies: Mapping[str, tuple[Anomaly, ...]]

    def strongest(self, kind: str | None = None) -> tuple[str, Anomaly]:
        """Return the local anomaly that changes its voxels most, and before it the name of its case.

        Args:
            kind: Only of this kind; None = of any.

        Raises:
            SettingsError: If there is none.
        """
        local = [(name, one) for name, added in self.anomalies.items() for one in added if one.scope == "local"]
        chosen = [(name, one) for name, one in local if kind in (None, one.kind)]
        if not chosen:
            kinds = ", ".join(sorted({one.kind for _, one in local})) or "a cohort with local anomalies"
            raise SettingsError("no such anomaly in the cohort", where="kind", found=kind, expected=kinds)
        return max(chosen, key=lambda pair: pair[1].strength)


def write_labelled_cohort(
    scans: Sequence[Path],
    folder: Path | str,
    *,
    seed: int,
    anomalous: int,
    per_scan: tuple[int, int] = (1, 4),
    kinds: Sequence[str] = tuple(KINDS),
    radius_mm: tuple[float, float] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> LabelledCohort:
    """Copy healthy scans, put local anomalies into some of them, and write the labels.

    Kinds and sizes are dealt in turn, so that each pair occurs about equally often.  Where a scan has no room for a
    size, a smaller one is taken; where it has none for all that were dealt to it, it gets those that fit.

    Args:
        scans: Healthy scans, of any format that is read; each becomes the case of its own name.
        folder: Gets the layout of this module; may hold other things, but none of this layout.
        seed: Decides which scans, which kinds, and where; not negative.
        anomalous: How many of the scans get anomalies.
        per_scan: Fewest and most anomalies in one scan.
        kinds: Which kinds, keys of `KINDS` or of `SELECTION_KINDS`.
        radius_mm: Smallest and largest radius; None = from each scan, see `radius_range_mm`.
        workers: Processes; None = one per core, 0 = none beside this one.  The files do not depend on it.
        progress: Told of every case.

    Raises:
        SettingsError: If a setting is out of range.
        CohortError: If two scans would get the same file name.
        ScanError: If a scan cannot be read or has no room for a single anomaly.
        WriteError: If the folder holds such a cohort already, another run is at work in it (E_LOCKED), or something
            cannot be written.
    """
    if not 0 <= anomalous <= len(scans) or seed < 0:
        found = f"anomalous={anomalous} of {len(scans)}, seed={seed}"
        raise SettingsError("no test cohort to write", found=found, expected="0 <= anomalous <= scans, seed >= 0")
    check_local(kinds, radius_mm, per_scan)
    cases = distinct_subjects(scans)
    rng = np.random.default_rng(seed)
    chosen = set(rng.permutation(len(scans))[:anomalous].tolist())
    subjects = [Case(name, name, "local" if k in chosen else "healthy") for k, name in enumerate(cases)]
    requests = deal_local(scans, subjects, seed=seed, per_scan=per_scan, kinds=kinds, radius_mm=radius_mm, rng=rng)
    with held_folder(Path(folder), "simulation"):
        refuse_occupied(Path(folder), _PARTS)
        return write_cases(requests, Path(folder), workers=workers, progress=progress)


def check_local(kinds: Sequence[str], radius_mm: tuple[float, float] | None, per_scan: tuple[int, int]) -> None:
    """Check what is asked of local anomalies, before anything is read or written.

    Raises:
        SettingsError: If a kind is unknown, there is none, or the radii or `per_scan` are no range.
    """
    check_request(kinds, radius_mm)
    if not 1 <= per_scan[0] <= per_scan[1] <= MOST_PER_SCAN:
        expected = f"1 <= fewest <= most <= {MOST_PER_SCAN}"
        raise SettingsError("no range of counts", where="per_scan", found=per_scan, expected=expected)


def deal_local(
    scans: Sequence[Path],
    cases: Sequence[Case],
    *,
    seed: int,
    per_scan: tuple[int, int],
    kinds: Sequence[str],
    radius_mm: tuple[float, float] | None,
    rng: np.random.Generator,
) -> list[CaseRequest]:
    """Deal kinds, sizes and donors to the cases with local anomalies; other cases get none.

    Args:
        scans: The sources.
        cases: What each becomes.
        seed: Of the whole cohort; a case draws from a stream of its own.
        per_scan: Fewest and most anomalies in one scan.
        kinds: Keys of `LOCAL_KINDS`.
        radius_mm: Range of radii; None = from each scan.
        rng: Decides what is dealt to whom.
    """
    deck = deal(tuple(dict.fromkeys(kinds)), SIZES, rng=rng)
    requests = []
    for k, (scan, case) in enumerate(zip(scans, cases, strict=True)):
        count = int(rng.integers(per_scan[0], per_scan[1] + 1)) if case.scope == "local" else 0
        # The largest first, while there is room.
        dealt = tuple(sorted(islice(deck, count), key=lambda card: -SIZES.index(card[1])))
        other = (k + int(rng.integers(1, len(scans)))) % len(scans) if len(scans) > 1 else None
        donor = None if other is None else Path(scans[other])
        requests.append(CaseRequest(case, Path(scan), (seed, k, 1), dealt, radius_mm=radius_mm, donor=donor))
    return requests


def distinct_subjects(scans: Sequence[Path]) -> list[str]:
    """Return the case name of each scan.

    Raises:
        CohortError: If there is no scan, or two would get the same file name.
    """
    if not scans:
        raise CohortError("no scans", code="E_NO_SCANS", expected="at least one healthy scan")
    names = [case_name(scan) for scan in scans]
    # Some file systems hold neither upper and lower case nor two spellings of an accent apart.
    folded = [unicodedata.normalize("NFC", name).casefold() for name in names]
    twice = sorted({f"{name}.nii.gz" for name, one in zip(names, folded, strict=True) if folded.count(one) > 1})
    if twice:
        raise CohortError("two scans would get the same name", found=", ".join(twice), remedy="rename one of them")
    return names


def write_cases(
    requests: Sequence[CaseRequest], folder: Path, *, workers: int | None, progress: Progress | None
) -> LabelledCohort:
    """Write every case, in processes, and the two tables; all of it, or nothing if a scan is refused.

    Raises:
        ScanError: If a scan cannot be read or has no room for a single anomaly; named by its source.
        WriteError: If something cannot be written.
    """
    progress = progress or Silent()
    scopes = {request.case.scope for request in requests}
    parts = {
        "scans": True,
        "labels/sample": True,
        "labels/pixel": scopes != {"scan"},
        "labels/lesions": "local" in scopes,
    }
    for part in (part for part, wanted in parts.items() if wanted):
        make_folder(folder / part)
    added: list[tuple[Anomaly, ...]] = [()] * len(requests)
    progress.begin("simulate", len(requests))
    jobs = [(request, folder) for request in requests]
    try:
        # Closed before anything is removed: no process may still be writing.
        with closing(each_in_processes(write_case, jobs, expected=MendscanError, workers=workers)) as outcomes:
            for index, outcome in outcomes:
                if isinstance(outcome, MendscanError):
                    raise outcome
                added[index] = outcome
                progress.advance()
    except BaseException:
        for part in ("scans", "labels"):  # or the next attempt would be refused
            shutil.rmtree(folder / part, ignore_errors=True)
        raise
    cases = tuple(request.case for request in requests)
    anomalies = {case.name: one for case, one in zip(cases, added, strict=True)}
    write_csv(folder / "anomalies.csv", _anomaly_rows(anomalies), ANOMALY_COLUMNS)
    write_csv(folder / "cases.csv", [_case_row(case) for case in cases], CASE_COLUMNS)
    scans = tuple(folder / "scans" / f"{case.name}.nii.gz" for case in cases)
    return LabelledCohort(folder, cases, scans, MappingProxyType(anomalies))


def _case_row(case: Case) -> dict[str, object]:
    return {"case": case.name, "subject": case.subject, "scope": case.scope, "anomalous": int(case.scope != "healthy")}


def _anomaly_rows(anomalies: Mapping[str, Sequence[Anomaly]]) -> list[dict[str, object]]:
    return [
        {"case": case, "lesion": number if one.scope == "local" else None, **_anomaly_facts(one)}
        for case, added in anomalies.items()
        for number, one in enumerate(added, start=1)
    ]


def _anomaly_facts(one: Anomaly) -> dict[str, object]:
    facts: dict[str, object] = {
        "scope": one.scope, "kind": one.kind, "strength": round(one.strength, 3), "contrast": one.contrast,
        "voxels": one.voxels, "size": one.size, "radius_mm": None if one.radius_mm is None else round(one.radius_mm, 2),
    }  # fmt: skip
    facts |= {column: round(mm, 2) for column, mm in zip(_MM_COLUMNS, one.centre_mm or (), strict=False)}
    return facts | dict(zip(_INDEX_COLUMNS, one.centre_index or (), strict=False))
