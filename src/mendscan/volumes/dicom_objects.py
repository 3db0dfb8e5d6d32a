"""DICOM objects made of results: a Parametric Map of the anomaly map, a Segmentation of the findings."""

from __future__ import annotations

import colorsys
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Integer

import mendscan
from mendscan.errors import UnreadableScanError, WriteError
from mendscan.shapes import VoxelsXYZ
from mendscan.volumes.dicom_derivation import SourceSeries
from mendscan.volumes.dicom_sealing import PLACEHOLDER_UID, derived_uid
from mendscan.volumes.dicom_silence import quoting_silenced

__all__ = [
    "MOST_SEGMENTS",
    "Provenance",
    "SegmentedFinding",
    "findings_object",
    "map_object",
]

MOST_SEGMENTS = 255
"""Findings in a Segmentation; viewers list them all, and more help nobody."""

_SCHEME = "99MENDSCAN"
"""Coding scheme of our own terms: names that begin with 99 are private."""
_LONGEST_VALUE = 2**32 - 2
_GOLDEN_ANGLE = 0.61803398875
_RESEARCH = "Research use only; not a medical device."


@runtime_checkable
class SegmentedFinding(Protocol):
    """What a segment says of its finding: as `mendscan.results.Finding` has it."""

    @property
    def volume_mm3(self) -> float:
        """Its volume."""
        ...

    @property
    def peak(self) -> float:
        """Largest value of the map in it."""
        ...

    @property
    def mean(self) -> float:
        """Mean value of the map in it."""
        ...


@dataclass(frozen=True)
class Provenance:
    """What made a result.

    Attributes:
        model: SHA-256 of the model, in hex.
        seed: Seed of the restorations.
        threshold: The map's healthy threshold.
    """

    model: str
    seed: int
    threshold: float


def map_object(series: SourceSeries, map_XYZ: VoxelsXYZ, provenance: Provenance, *, name: str) -> Any:
    """Return the anomaly map as a Parametric Map (float32), one frame per frame of the series.

    Args:
        series: What it is derived from.
        map_XYZ: In [0, 1], higher = more anomalous, on the scan's RAS+ grid.
        provenance: What made it.
        name: Case name, for errors.

    Raises:
        UnreadableScanError: If highdicom does not know the kind of the series' images (E_DICOM_SOURCES).
        WriteError: If the map is larger than a DICOM object can hold (E_TOO_LARGE).
    """
    import highdicom as hd
    from pydicom.sr.codedict import codes

    if map_XYZ.nbytes > _LONGEST_VALUE:
        raise WriteError("the map is too large for a DICOM object", where=name, code="E_TOO_LARGE")
    mapping = hd.pm.RealWorldValueMapping(
        lut_label="ANOMALY",
        lut_explanation="Anomaly; higher = less likely under healthy training scans",
        unit=codes.UCUM.NoUnits,
        value_range=(0.0, 1.0),
        quantity_definition=_our_code("ANOMALY", "Anomaly, 0 to 1"),
    )
    # LINEAR would subtract half a unit of the stored values, as if they were whole numbers.
    window = hd.VOILUTTransformation(window_center=0.5, window_width=1.0, voi_lut_function="LINEAR_EXACT")
    made = _built(
        hd.pm.ParametricMap,
        series,
        np.stack([cut.of(map_XYZ) for cut in series.cuts]).astype(np.float32, order="C"),
        name=name,
        series_number=_series_number(series, 1),
        series_description="mendscan anomaly map (research use only)",
        content_label="ANOMALY_MAP",
        device_serial_number=provenance.model,
        contains_recognizable_visual_features=True,  # the cautious answer: it is not examined, and must be given
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[window],
    )
    made.SharedFunctionalGroupsSequence[0].FrameAnatomySequence = [_anatomy(series)]
    _put_in_ascending_order(made)
    made.DerivationDescription = (
        f"Anomaly map by mendscan {mendscan.__version__}, model {provenance.model}, seed {provenance.seed}. "
        "0 to 1, higher = less likely under the healthy training scans; "
        f"healthy threshold {provenance.threshold:g}. {_RESEARCH}"
    )
    return made


def findings_object(
    series: SourceSeries,
    labels_XYZ: Integer[np.ndarray, "X Y Z"],
    findings: Sequence[SegmentedFinding],
    provenance: Provenance,
    *,
    name: str,
) -> Any:
    """Return findings as a binary Segmentation, one segment each, numbered in their order.

    Args:
        series: What they are derived from.
        labels_XYZ: n inside finding n, counted from 1, else 0; on the scan's RAS+ grid.
        findings: From 1 to `MOST_SEGMENTS`.
        provenance: What made them.
        name: Case name, for errors.

    Raises:
        UnreadableScanError: As `map_object`.
    """
    import highdicom as hd

    labels = np.stack([cut.of(labels_XYZ) for cut in series.cuts]).astype(np.uint8, order="C")
    identity = (str(series.images[0].SeriesInstanceUID), provenance.model, hashlib.sha256(labels.data).hexdigest())
    return _built(
        hd.seg.Segmentation,
        series,
        labels,
        name=name,
        series_number=_series_number(series, 2),
        series_description="mendscan findings (research use only)",
        content_label="FINDINGS",
        device_serial_number=provenance.model,
        segmentation_type="BINARY",
        segment_descriptions=[
            _segment(number, finding, provenance, identity) for number, finding in enumerate(findings, start=1)
        ],
    )


def _built(kind: Any, series: SourceSeries, frames: np.ndarray, *, name: str, **attributes: Any) -> Any:
    with quoting_silenced():
        try:
            made = kind(
                list(series.images),
                frames,
                series_instance_uid=PLACEHOLDER_UID,
                sop_instance_uid=PLACEHOLDER_UID,
                instance_number=1,
                manufacturer="mendscan",
                manufacturer_model_name="mendscan",
                software_versions=mendscan.__version__,
                content_description="Unlikely under healthy training scans; research use only",
                content_date=series.content_date,
                content_time=series.content_time,
                coding_schemes=[_our_scheme()],
                **attributes,
            )
            made.ContentCreatorName = ""  # nobody; highdicom leaves it out, but it must be there
            return made
        except (KeyError, AttributeError, TypeError, ValueError) as error:
            # The frames fit, so it is the kind: highdicom does not know it, or expects other headers of it.
            raise UnreadableScanError(
                "nothing can be derived from this kind of DICOM object",
                where=name,
                code="E_DICOM_SOURCES",
                found=series.images[0].SOPClassUID.name,
                expected="CT, MR or other images in three dimensions",
            ) from error


def _put_in_ascending_order(made: Any) -> None:
    """Let frames follow each other along rows × columns: highdicom has the reverse.

    Position and pixels of each frame belong together in either order, but dcmqi, in 3D Slicer, stacks the frames of a
    Parametric Map as they come, and would show the reverse upside down.
    """
    own = made.PerFrameFunctionalGroupsSequence
    orientation = made.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient
    normal = np.cross(*np.array(orientation, np.float64).reshape(2, 3))
    along = [float(normal @ np.array(item.PlanePositionSequence[0].ImagePositionPatient, np.float64)) for item in own]
    order = np.argsort(along)
    frames = np.frombuffer(made.FloatPixelData, "<f4").reshape(len(own), -1)
    made.FloatPixelData = frames[order].tobytes()
    made.PerFrameFunctionalGroupsSequence = [own[n] for n in order]
    for place, item in enumerate(made.PerFrameFunctionalGroupsSequence, start=1):
        item.FrameContentSequence[0].DimensionIndexValues = place


def _segment(number: int, finding: SegmentedFinding, provenance: Provenance, identity: tuple[str, ...]) -> Any:
    import highdicom as hd
    from pydicom.sr.codedict import codes

    algorithm = hd.AlgorithmIdentificationSequence(
        name="mendscan",
        family=codes.DCM.ArtificialIntelligence,
        version=mendscan.__version__,
        source="mendscan",
        parameters={
            "model": provenance.model,
            "seed": str(provenance.seed),
            "threshold": f"{provenance.threshold:g}",
        },
    )
    tracking = derived_uid(f"finding {number}", *identity)
    segment = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=f"Finding {number}",
        # A region, no more: an artefact is unlikely, too, and no abnormal structure.
        segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
        segmented_property_type=_our_code("UNLIKELY", "Unlikely under healthy scans"),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        tracking_id=f"mendscan finding {number} {tracking[-12:]}",
        tracking_uid=tracking,
        display_color=_colour(number),
    )
    segment.SegmentDescription = (
        f"Volume {finding.volume_mm3:.1f} mm3, peak {finding.peak:.3f}, mean {finding.mean:.3f} "
        f"(map from 0 to 1, healthy threshold {provenance.threshold:g}). {_RESEARCH}"
    )
    return segment


def _anatomy(series: SourceSeries) -> Any:
    """Say where in the body: no more than the side is known, but readers such as dcmqi, in 3D Slicer, need it."""
    import highdicom as hd
    from pydicom.dataset import Dataset

    anatomy = Dataset()
    anatomy.FrameLaterality = series.laterality
    anatomy.AnatomicRegionSequence = [hd.sr.CodedConcept("123037004", "SCT", "Body structure")]
    return anatomy


def _our_scheme() -> Any:
    import highdicom as hd

    return hd.coding_schemes.CodingSchemeIdentificationItem(designator=_SCHEME, name="mendscan")


def _our_code(value: str, meaning: str) -> Any:
    import highdicom as hd

    return hd.sr.CodedConcept(value=value, scheme_designator=_SCHEME, meaning=meaning)


def _colour(number: int) -> Any:
    """Return a colour unlike those of the neighbouring numbers."""
    import highdicom as hd

    rgb = colorsys.hsv_to_rgb(number * _GOLDEN_ANGLE % 1.0, 0.8, 0.95)
    return hd.color.CIELabColor.from_rgb(*(255 * part for part in rgb))


def _series_number(series: SourceSeries, offset: int) -> int:
    """Return a number that sorts behind the source: 501 and 502 for series 5."""
    number = series.number if series.number is not None and 0 < series.number < 10**7 else 90
    return 100 * number + offset
