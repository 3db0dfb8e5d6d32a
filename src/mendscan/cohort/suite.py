"""The anomaly suite: of each healthy scan a case with local anomalies, one as it is, and one with an artefact.

For evaluation only; nothing that trains or calibrates may import it.  The folder's layout is in `labelled_cohort`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mendscan.cohort.anomaly_kinds import KINDS
from mendscan.cohort.anomaly_strata import CONTRASTS, deal
from mendscan.cohort.artefacts import ARTEFACTS, check_artefacts
from mendscan.cohort.held_folder import held_folder, refuse_occupied
from mendscan.cohort.labelled_case import Case, CaseRequest
from mendscan.cohort.labelled_cohort import (
    LabelledCohort,
    check_local,
    deal_local,
    distinct_subjects,
    write_cases,
)
from mendscan.errors import SettingsError
from mendscan.progress import Progress

__all__ = ["write_suite"]


def write_suite(
    scans: Sequence[Path],
    folder: Path | str,
    *,
    seed: int,
    local: int | None = None,
    healthy: int | None = None,
    artefacts: int | None = None,
    per_scan: tuple[int, int] = (1, 4),
    kinds: Sequence[str] = tuple(KINDS),
    artefact_kinds: Sequence[str] = tuple(ARTEFACTS),
    radius_mm: tuple[float, float] | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> LabelledCohort:
    """Write cases with local anomalies, healthy cases and cases with whole-scan artefacts.

    Of the scan SOURCE come the cases SOURCE_local, SOURCE_healthy and SOURCE_artefact, or those of them that were
    drawn; ``cases.csv`` says which cases are of one subject.  Kinds of local anomalies and sizes, and artefacts and
    contrasts, are dealt in turn, so that each pair occurs about equally often.

    Args:
        scans: Healthy scans, of any format that is read, in an order that is part of the seed.
        folder: Must be missing or empty; gets the layout of `labelled_cohort`.
        seed: Decides everything that is random; not negative.
        local: How many scans become a case with local anomalies; None = all.
        healthy: How many become a case as they are; None = all.
        artefacts: How many become a case with one artefact; None = all.
        per_scan: Fewest and most local anomalies in one scan.
        kinds: Which local anomalies: keys of `KINDS`, or of `SELECTION_KINDS` to choose settings on.
        artefact_kinds: Which artefacts: keys of `ARTEFACTS`, or of `SELECTION_ARTEFACTS` to choose settings on.
        radius_mm: Smallest and largest radius; None = from each scan, see `radius_range_mm`.
        workers: Processes; None = one per core, 0 = none beside this one.  The files do not depend on it.
        progress: Told of every case.

    Returns:
        What was written, source by source.

    Raises:
        SettingsError: If a kind is unknown or a number is out of range.
        CohortError: If there is no scan, or two would get the same file name.
        ScanError: If a scan cannot be read or has no room for a single anomaly; the error names the scan.
        WriteError: If the folder holds files already, another run is at work in it (E_LOCKED), or something cannot be
            written.
    """
    counts = [len(scans) if count is None else count for count in (local, healthy, artefacts)]
    subjects = distinct_subjects(scans)
    _check_counts(counts, len(scans), seed)
    check_local(kinds, radius_mm, per_scan)
    check_artefacts(artefact_kinds)
    # One stream for each part, so that fewer cases of one part leave the others as they are.
    drawn = [set(_stream(seed, k).permutation(len(scans))[:count].tolist()) for k, count in enumerate(counts)]
    cases = [
        Case(f"{subject}_local", subject, "local" if k in drawn[0] else "healthy") for k, subject in enumerate(subjects)
    ]
    dealt = deal_local(
        scans, cases, seed=seed, per_scan=per_scan, kinds=kinds, radius_mm=radius_mm, rng=_stream(seed, 3)
    )
    requests = [request for k, request in enumerate(dealt) if k in drawn[0]]
    requests += [
        CaseRequest(Case(f"{subjects[k]}_healthy", subjects[k], "healthy"), Path(scans[k]), (seed, k, 1))
        for k in sorted(drawn[1])
    ]
    requests += _deal_artefacts(scans, subjects, sorted(drawn[2]), artefact_kinds, seed)
    place = {subject: k for k, subject in enumerate(subjects)}
    requests.sort(key=lambda request: place[request.case.subject])
    with held_folder(Path(folder), "simulation"):
        refuse_occupied(Path(folder))
        return write_cases(requests, Path(folder), workers=workers, progress=progress)


def _stream(seed: int, part: int) -> np.random.Generator:
    return np.random.default_rng([seed, part, 3])


def _deal_artefacts(
    scans: Sequence[Path], subjects: Sequence[str], drawn: Sequence[int], kinds: Sequence[str], seed: int
) -> list[CaseRequest]:
    deck = deal(tuple(dict.fromkeys(kinds)), CONTRASTS, rng=_stream(seed, 4))
    return [
        CaseRequest(
            Case(f"{subjects[k]}_artefact", subjects[k], "scan"), Path(scans[k]), (seed, k, 2), artefact=next(deck)
        )
        for k in drawn
    ]


def _check_counts(counts: Sequence[int], scans: int, seed: int) -> None:
    if seed < 0:
        raise SettingsError("not a seed", where="seed", found=seed, expected=">= 0")
    for name, count in zip(("local", "healthy", "artefacts"), counts, strict=True):
        if not 0 <= count <= scans:
            raise SettingsError("more or fewer cases than can be", where=name, found=count, expected=f"0 to {scans}")
    if not any(counts):
        raise SettingsError("no case is asked for", found="0 local, healthy and artefacts", expected="at least 1")
