"""A folder of scans, some with synthetic anomalies, and their labels: for evaluation only.

What is written follows the layout of the Medical Out-of-Distribution challenge (MOOD, Zimmerer et al., 2022)::

    scans/NAME.nii.gz   labels/pixel/NAME.nii.gz   labels/sample/NAME.nii.gz.txt   anomalies.csv
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np

from mendscan.cohort.anomalies import DEFAULT_RADIUS_MM, NO_ROOM, Anomaly, add_anomaly, check_request
from mendscan.cohort.anomaly_kinds import KINDS
from mendscan.cohort.foreground import foreground_of
from mendscan.errors import CohortError, ScanError, SettingsError, WriteError
from mendscan.shapes import MaskXYZ, VoxelsXYZ
from mendscan.volumes.reading import case_name, read_volume
from mendscan.volumes.volume import Volume
from mendscan.volumes.writing import write_csv, write_map, write_text

__all__ = ["LabelledCohort", "write_labelled_cohort"]

_PLACE_COLUMNS = ("x_mm", "y_mm", "z_mm", "x_index", "y_index", "z_index")
_COLUMNS = ("case", "kind", *_PLACE_COLUMNS, "radius_mm", "voxels", "strength")


@dataclass(frozen=True)
class LabelledCohort:
    """A folder of scans with labels.

    Attributes:
        folder: The folder.
        scans: The written scans, in the order of their sources; labels have the same file names.
        anomalies: Case name (file name without ``.nii.gz``) to its anomalies; empty for a clean scan.
    """

    folder: Path
    scans: tuple[Path, ...]
    anomalies: Mapping[str, tuple[Anomaly, ...]]


def write_labelled_cohort(
    scans: Sequence[Path],
    folder: Path | str,
    *,
    seed: int,
    anomalous: int,
    per_scan: tuple[int, int] = (1, 4),
    kinds: Sequence[str] = tuple(KINDS),
    radius_mm: tuple[float, float] = DEFAULT_RADIUS_MM,
) -> LabelledCohort:
    """Copy healthy scans, put anomalies into some of them, and write the labels in MOOD's layout.

    Kinds are dealt in turn, so that each occurs about equally often; half of the foreign patches come from another
    scan.  Where a scan has no room for all that were dealt to it, it gets those that fit, at least one.

    Args:
        scans: Healthy scans, of any format that is read.
        folder: Gets ``scans/NAME.nii.gz`` (float32, the source's geometry), ``labels/pixel/NAME.nii.gz`` (0 or 1),
            ``labels/sample/NAME.nii.gz.txt`` (``1`` anomalous, ``0`` not) and ``anomalies.csv``.
        seed: Decides which scans, which kinds, and where; not negative.
        anomalous: How many of the scans get anomalies.
        per_scan: Fewest and most anomalies in one scan.
        kinds: Which kinds, keys of `KINDS`.
        radius_mm: Smallest and largest radius.

    Raises:
        SettingsError: If a setting is out of range.
        CohortError: If two scans would get the same file name.
        ScanError: If a scan cannot be read or has no room for a single anomaly.
        WriteError: If something cannot be written.
    """
    check_request(kinds, radius_mm)
    if not 0 <= anomalous <= len(scans) or not 1 <= per_scan[0] <= per_scan[1] or seed < 0:
        found = f"anomalous={anomalous} of {len(scans)}, per_scan={per_scan}, seed={seed}"
        raise SettingsError("no test cohort to write", found=found, expected="0 <= anomalous <= scans, 1 <= per_scan")
    cases = _distinct_cases(scans)
    folder = Path(folder)
    _make_folders(folder)
    anomalies: dict[str, tuple[Anomaly, ...]] = {}
    dealt = _deal(len(scans), anomalous, per_scan, kinds, rng=np.random.default_rng(seed))
    for k, (scan, case) in enumerate(zip(scans, cases, strict=True)):
        volume = read_volume(Path(scan))
        rng = np.random.default_rng([seed, k])
        others = [Path(other) for other in scans if other != scan]
        voxels_XYZ, label_XYZ, anomalies[case] = _with_anomalies(volume, dealt[k], radius_mm, others, rng)
        _write_case(folder, case, volume, voxels_XYZ, label_XYZ, anomalous=bool(anomalies[case]))
    write_csv(folder / "anomalies.csv", _rows(anomalies), _COLUMNS)
    written = tuple(folder / "scans" / f"{case}.nii.gz" for case in cases)
    return LabelledCohort(folder, written, MappingProxyType(anomalies))


def _distinct_cases(scans: Sequence[Path]) -> list[str]:
    cases = [case_name(scan) for scan in scans]
    if len(set(cases)) < len(cases):
        twice = sorted({f"{case}.nii.gz" for case in cases if cases.count(case) > 1})
        raise CohortError("two scans would get the same name", found=", ".join(twice), remedy="rename one of them")
    return cases


def _make_folders(folder: Path) -> None:
    for part in ("scans", "labels/pixel", "labels/sample"):
        try:
            (folder / part).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError("the folder cannot be made", where=folder / part, found=error.strerror) from error


def _deal(
    scans: int, anomalous: int, per_scan: tuple[int, int], kinds: Sequence[str], *, rng: np.random.Generator
) -> list[list[str]]:
    """Deal kinds to scans: none to a clean one, each kind about equally often over all."""
    dealt: list[list[str]] = [[] for _ in range(scans)]
    deck: list[str] = []
    for k in sorted(rng.permutation(scans)[:anomalous].tolist()):
        for _ in range(int(rng.integers(per_scan[0], per_scan[1] + 1))):
            deck = deck or rng.permutation(list(kinds)).tolist()
            dealt[k].append(deck.pop())
    return dealt


def _with_anomalies(
    volume: Volume,
    kinds: Sequence[str],
    radius_mm: tuple[float, float],
    others: Sequence[Path],
    rng: np.random.Generator,
) -> tuple[VoxelsXYZ, MaskXYZ, tuple[Anomaly, ...]]:
    voxels_XYZ = volume.voxels_XYZ
    foreground_XYZ = foreground_of(voxels_XYZ)
    label_XYZ = np.zeros(voxels_XYZ.shape, dtype=bool)
    taken_XYZ = label_XYZ.copy()
    added: list[Anomaly] = []
    for kind in kinds:
        from_another = kind == "foreign" and others and rng.random() < 0.5
        donor_XYZ = read_volume(others[int(rng.integers(len(others)))]).voxels_XYZ if from_another else None
        before_XYZ = voxels_XYZ
        try:
            voxels_XYZ, new_XYZ, anomaly = add_anomaly(
                before_XYZ, volume.affine, foreground_XYZ,
                rng=rng, kind=kind, radius_mm=radius_mm, taken_XYZ=taken_XYZ, donor_XYZ=donor_XYZ,
            )  # fmt: skip
        except ScanError as error:
            if error.code != NO_ROOM or not added:
                raise
            break
        label_XYZ = label_XYZ | new_XYZ
        taken_XYZ = taken_XYZ | new_XYZ | (voxels_XYZ != before_XYZ)
        added.append(anomaly)
    return voxels_XYZ, label_XYZ, tuple(added)


def _write_case(
    folder: Path, case: str, volume: Volume, voxels_XYZ: VoxelsXYZ, label_XYZ: MaskXYZ, *, anomalous: bool
) -> None:
    name = f"{case}.nii.gz"
    write_map(folder / "scans" / name, voxels_XYZ, volume)
    write_map(folder / "labels" / "pixel" / name, label_XYZ.astype(np.float32), volume)
    write_text(folder / "labels" / "sample" / f"{name}.txt", "1" if anomalous else "0")


def _rows(anomalies: Mapping[str, Sequence[Anomaly]]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for case, added in anomalies.items():
        for one in added:
            place = dict(
                zip(_PLACE_COLUMNS, [round(mm, 2) for mm in one.centre_mm] + list(one.centre_index), strict=True)
            )
            size = {"radius_mm": round(one.radius_mm, 2), "voxels": one.voxels, "strength": round(one.strength, 3)}
            rows.append({"case": case, "kind": one.kind, **place, **size})
    return rows
