"""One case of a labelled cohort: what it depends on, how it is made, and the files it becomes; for evaluation only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt16

from mendscan.cohort.anomalies import NO_ROOM, Anomaly, add_anomaly, radius_range_mm
from mendscan.cohort.anomaly_reference import Reference, reference_of, with_donor
from mendscan.cohort.anomaly_strata import SIZES, Contrast, Size, severity_of
from mendscan.cohort.artefacts import apply_artefact
from mendscan.cohort.foreground import foreground_of
from mendscan.errors import ScanError
from mendscan.shapes import MaskXYZ, VoxelsXYZ
from mendscan.volumes.maps import write_labels, write_map
from mendscan.volumes.reading import read_volume
from mendscan.volumes.volume import Volume
from mendscan.volumes.writing import write_text

__all__ = ["Case", "CaseRequest", "Scope", "write_case"]

Scope = Literal["healthy", "local", "scan"]
Lesions = UInt16[np.ndarray, "X Y Z"]
"""The number of the lesion at each voxel, 0 = none."""

_FOREIGN_OTHER = "foreign-other"


@dataclass(frozen=True)
class Case:
    """One written scan.

    Attributes:
        name: File name without ``.nii.gz``.
        subject: Case name of the source scan; several cases may share it.
        scope: ``healthy``, ``local`` (local anomalies) or ``scan`` (a whole-scan artefact).
    """

    name: str
    subject: str
    scope: Scope


@dataclass(frozen=True)
class CaseRequest:
    """All that one case depends on, so that any process can write it.

    Attributes:
        case: What it will be.
        source: The healthy scan.
        seed: Decides what is not said here.
        local: Kind and size of each local anomaly, in the order of their numbers.
        artefact: Kind and contrast of the artefact of the whole scan.
        radius_mm: Range of radii of local anomalies; None = from the scan.
        donor: Another scan, for foreign patches.
    """

    case: Case
    source: Path
    seed: tuple[int, ...]
    local: tuple[tuple[str, Size], ...] = ()
    artefact: tuple[str, Contrast] | None = None
    radius_mm: tuple[float, float] | None = None
    donor: Path | None = None


def write_case(request: CaseRequest, folder: Path) -> tuple[Anomaly, ...]:
    """Make one case and write its scan and labels into a folder that has the layout's parts.

    Returns:
        Its anomalies; none for a healthy case.

    Raises:
        ScanError: If the source or the donor cannot be read, or there is no room for a single anomaly.
        WriteError: If a file cannot be written.
    """
    volume = read_volume(request.source)
    try:
        voxels_XYZ, lesions_XYZ, anomalies = _made(volume, request)
    except ScanError as error:
        raise (error if error.where else error.at(request.source)) from error
    name, scope = f"{request.case.name}.nii.gz", request.case.scope
    write_map(folder / "scans" / name, voxels_XYZ, volume)
    if scope != "scan":
        write_labels(folder / "labels" / "pixel" / name, (lesions_XYZ > 0).astype(np.uint8), volume)
    if scope == "local":
        write_labels(folder / "labels" / "lesions" / name, lesions_XYZ, volume)
    write_text(folder / "labels" / "sample" / f"{name}.txt", "0" if scope == "healthy" else "1")
    return anomalies


def _made(volume: Volume, request: CaseRequest) -> tuple[VoxelsXYZ, Lesions, tuple[Anomaly, ...]]:
    """Return the case's voxels, the number of the lesion at each voxel, and the anomalies."""
    healthy_XYZ = volume.voxels_XYZ
    no_lesions_XYZ = np.zeros(volume.shape, dtype=np.uint16)
    if request.case.scope == "healthy":
        return healthy_XYZ, no_lesions_XYZ, ()
    rng = np.random.default_rng(request.seed)
    reference = reference_of(healthy_XYZ, foreground_of(healthy_XYZ))
    if request.artefact is None:
        return _with_anomalies(volume, request, reference, rng)
    kind, contrast = request.artefact
    severity = severity_of(contrast, rng=rng)
    voxels_XYZ, strength = apply_artefact(healthy_XYZ, kind, rng=rng, reference=reference, severity=severity)
    return voxels_XYZ, no_lesions_XYZ, (Anomaly(kind, strength, contrast),)


def _with_anomalies(
    volume: Volume, request: CaseRequest, reference: Reference, rng: np.random.Generator
) -> tuple[VoxelsXYZ, Lesions, tuple[Anomaly, ...]]:
    """Put in what was dealt.  Each anomaly is made from the healthy scan, so none contains a piece of another."""
    radius_mm = request.radius_mm or radius_range_mm(reference.foreground_XYZ, spacing_mm=volume.spacing_mm)
    if request.donor is not None and any(kind == _FOREIGN_OTHER for kind, _ in request.local):
        reference = with_donor(reference, read_volume(request.donor).voxels_XYZ)
    voxels_XYZ = volume.voxels_XYZ.copy()
    lesions_XYZ = np.zeros(volume.shape, dtype=np.uint16)
    taken_XYZ = np.zeros(volume.shape, dtype=bool)
    added: list[Anomaly] = []
    refused: ScanError | None = None
    for kind, size in request.local:
        try:
            altered_XYZ, label_XYZ, anomaly = _largest_that_fits(
                volume, kind, size, radius_mm, reference, taken_XYZ, rng
            )
        except ScanError as error:
            if error.code != NO_ROOM:
                raise
            refused = error
            continue
        added.append(anomaly)
        changed_XYZ = altered_XYZ != volume.voxels_XYZ
        voxels_XYZ[changed_XYZ] = altered_XYZ[changed_XYZ]
        lesions_XYZ[label_XYZ] = len(added)
        taken_XYZ |= changed_XYZ | label_XYZ
    if refused is not None and not added:
        raise refused
    return voxels_XYZ, lesions_XYZ, tuple(added)


def _largest_that_fits(
    volume: Volume,
    kind: str,
    size: Size,
    radius_mm: tuple[float, float],
    reference: Reference,
    taken_XYZ: MaskXYZ,
    rng: np.random.Generator,
) -> tuple[VoxelsXYZ, MaskXYZ, Anomaly]:
    """Add an anomaly of this size or, where there is no room for it, of the next smaller one."""
    for smaller in reversed(SIZES[1 : SIZES.index(size) + 1]):
        try:
            return add_anomaly(
                volume.voxels_XYZ, volume.affine, reference=reference, rng=rng, kind=kind, radius_mm=radius_mm,
                size=smaller, taken_XYZ=taken_XYZ,
            )  # fmt: skip
        except ScanError as error:
            if error.code != NO_ROOM:
                raise
    return add_anomaly(
        volume.voxels_XYZ, volume.affine, reference=reference, rng=rng, kind=kind, radius_mm=radius_mm,
        size=SIZES[0], taken_XYZ=taken_XYZ,
    )  # fmt: skip
