"""Learning the acquisition gate: what the healthy scans look like from outside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mendscan.cohort.fingerprint import ScanFacts
from mendscan.detection.gate import AcquisitionGate
from mendscan.detection.gate_facts import GateFacts, cell_size_mm, gate_facts
from mendscan.parallel import all_in_processes
from mendscan.progress import Progress
from mendscan.volumes.reading import STANDARD_READER, ScanReader

__all__ = ["learn_gate"]

_FEWEST = 3
"""Each scan is held against the others; of two, the other has no spread."""


def learn_gate(
    paths: Sequence[Path], facts: Sequence[ScanFacts], progress: Progress, *, reader: ScanReader = STANDARD_READER
) -> AcquisitionGate | None:
    """Learn the gate from all healthy scans, whatever else they serve: it decides nothing about a score.

    Args:
        paths: The scans.
        facts: What was measured of each.
        progress: Told of every scan.
        reader: How they are read.

    Returns:
        The gate, without the use of codes; None of fewer than 3 scans.

    Raises:
        ScanError: If a scan cannot be read any more.
    """
    if len(paths) < _FEWEST:
        return None
    extents = [[n * mm for n, mm in zip(each.shape, each.spacing_mm, strict=True)] for each in facts]
    cell_mm = cell_size_mm([(x, y, z) for x, y, z in extents])
    progress.begin("acquisition gate", len(paths))
    jobs = [(path, reader, cell_mm) for path in paths]
    return AcquisitionGate.learn(all_in_processes(_facts_of, jobs, after_each=progress.advance), cell_mm=cell_mm)


def _facts_of(path: Path, reader: ScanReader, cell_mm: float) -> GateFacts:
    return gate_facts(reader(path), cell_mm=cell_mm)
