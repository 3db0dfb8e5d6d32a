"""What lies between one slice of a scan and its map: every stage, to be looked at.

Nothing is computed in another way than `Detector.detect` does; it is only kept.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mendscan.cohort.preparing import Prepared, prepare
from mendscan.config import Settings
from mendscan.detection.calibration import CodeThresholds
from mendscan.detection.detector import Detector
from mendscan.detection.devices import one_thread
from mendscan.detection.encoded_scan import EncodedScan, scan_uniforms
from mendscan.detection.evidence import Evidence
from mendscan.detection.networks import Networks
from mendscan.detection.scoring import restoration_weights
from mendscan.detection.voxel_calibration import paper_map
from mendscan.shapes import MapSHW
from mendscan.volumes.reading import read_volume
from mendscan.volumes.volume import Volume

__all__ = ["Stages", "explain"]


@dataclass(frozen=True, eq=False)
class Stages:
    """What detection makes of a scan, and of one slice of it in particular.

    Attributes:
        volume: The scan.
        prepared: The scan on the model grid.
        encoded: The codes of all scored slices, and how likely each is.
        row: The slice that is looked at, counted among the scored slices.
        reconstruction_HW: The slice decoded from its own codes.
        restored_codes_Rhw: The codes of each restoration of the slice.
        restorations_RHW: The restorations.
        weight_R: φ: how much each counts, sum 1.
        evidence: What speaks for an anomaly in all scored slices, the weighted residual among it.
        paper_map_SHW: The residual pooled, as the paper maps it.
        excess: Each kind of evidence that the model's own map combines, smoothed: in healthy standard deviations above
            what is usual at the place, or the discriminator's logit.
        map_SHW: The model's own map.
        thresholds: λ_s and λ_p, in nats.
        map_threshold: The healthy threshold of the model's own map.
        settings: The model's.
    """

    volume: Volume
    prepared: Prepared
    encoded: EncodedScan
    row: int
    reconstruction_HW: Float[np.ndarray, "H W"]
    restored_codes_Rhw: Int[np.ndarray, "R h w"]
    restorations_RHW: Float[np.ndarray, "R H W"]
    weight_R: Float[np.ndarray, " R"]
    evidence: Evidence
    paper_map_SHW: MapSHW
    excess: Mapping[str, MapSHW]
    map_SHW: MapSHW
    thresholds: CodeThresholds
    map_threshold: float
    settings: Settings

    @property
    def residual_HW(self) -> Float[np.ndarray, "H W"]:
        """Σ_j φ_j |y − r_j|, y the slice and r_j its restorations."""
        return np.einsum("r,rhw->hw", self.weight_R, np.abs(self.slice_HW - self.restorations_RHW))

    @property
    def slice_HW(self) -> Float[np.ndarray, "H W"]:
        """The slice, prepared."""
        return self.encoded.slices_SHW[self.row].numpy()

    @property
    def position(self) -> float:
        """Its slice coordinate, in [-0.5, 0.5]."""
        return float(self.encoded.position_S[self.row])

    @property
    def codes_hw(self) -> Int[np.ndarray, "h w"]:
        """Its codes."""
        return self.encoded.codes_Shw[self.row].numpy()

    @property
    def nll_hw(self) -> Float[np.ndarray, "h w"]:
        """−log p of each of its codes, in nats."""
        return self.encoded.nll_Shw[self.row].numpy()


def explain(
    detector: Detector,
    scan: str | os.PathLike[str] | Volume,
    *,
    through_mm: tuple[float, float, float] | None = None,
    restorations: int | None = None,
    seed: int = 0,
) -> Stages:
    """Detect in a scan and keep every stage of one slice.

    Args:
        detector: The detector.
        scan: A scan, or its file.
        through_mm: A point in the scan's world coordinates, such as a finding's centre: the slice nearest to it is
            looked at.  None = the slice with the highest paper's score.
        restorations: R; None for the model's setting.
        seed: Of the restorations, as in detection.

    Raises:
        ScanError: If the scan cannot be read or makes no sense.
    """
    volume = scan if isinstance(scan, Volume) else read_volume(scan)
    networks, calibration, settings = detector.networks, detector.calibration, detector.settings
    with one_thread(networks.device):
        prepared = prepare(volume, settings.preparation)
        encoded = networks.encode(prepared)
        codes_RShw = _restored_codes(detector, encoded, restorations or settings.detection.restorations, seed)
        evidence = networks.evidence(encoded, networks.weighed(encoded, codes_RShw).residual_SHW)
        row = _row(prepared, encoded, volume, calibration.thresholds.score, through_mm)
        position = encoded.position_S[row]
        restorations_RHW = _decoded(networks, codes_RShw[:, row], position)
        reconstruction_HW = _decoded(networks, encoded.codes_Shw[row][None], position)[0]
    slice_HW, temperature = encoded.slices_SHW[row], settings.detection.temperature
    return Stages(
        volume=volume,
        prepared=prepared,
        encoded=encoded,
        row=row,
        reconstruction_HW=reconstruction_HW.numpy(),
        restored_codes_Rhw=codes_RShw[:, row].numpy(),
        restorations_RHW=restorations_RHW.numpy(),
        weight_R=restoration_weights(slice_HW, restorations_RHW, temperature=temperature).numpy(),
        evidence=evidence,
        paper_map_SHW=paper_map(evidence, settings.detection),
        excess=calibration.voxels.excess_of(evidence),
        map_SHW=calibration.voxels.map_of(evidence),
        thresholds=calibration.thresholds,
        map_threshold=calibration.map_threshold(),
        settings=settings,
    )


def _restored_codes(detector: Detector, encoded: EncodedScan, restorations: int, seed: int) -> Int[Tensor, "R S h w"]:
    """Return the codes of the restorations that `Detector.detect` draws."""
    uniforms = scan_uniforms(encoded, restorations, seed)
    threshold_nats = detector.calibration.thresholds.restoration
    return detector.networks.restored_codes(encoded, uniforms, threshold_nats=threshold_nats)


def _row(
    prepared: Prepared,
    encoded: EncodedScan,
    volume: Volume,
    threshold_nats: float,
    through_mm: tuple[float, float, float] | None,
) -> int:
    """Return which of the scored slices to look at."""
    if through_mm is None:
        return int(np.argmax(encoded.slice_scores(threshold_nats)))
    axis = "XYZ".index(prepared.slice_axis)
    index = (np.linalg.inv(volume.affine) @ [*through_mm, 1.0])[axis]
    return int(np.argmin(np.abs(prepared.slice_indices(at=encoded.at) - index)))


@torch.inference_mode()
def _decoded(
    networks: Networks, codes_Rhw: Int[Tensor, "R h w"], position: Float[Tensor, ""]
) -> Float[Tensor, "R H W"]:
    positions = position.expand(len(codes_Rhw)).to(networks.device)
    return networks.vqvae.decode_codes(codes_Rhw.to(networks.device), positions).float().cpu()
