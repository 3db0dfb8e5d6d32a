"""How one scan was taken, against the training scans: the one way, in calibration and detection alike."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from mendscan.cohort.preparing import Prepared
from mendscan.detection.acquisition import AcquisitionReference
from mendscan.detection.networks import Networks
from mendscan.detection.own_grid import own_grid_statistics
from mendscan.volumes.volume import Volume

__all__ = ["as_taken"]


def as_taken(
    volume: Volume, prepared: Prepared, networks: Networks, reference: AcquisitionReference
) -> Float64[np.ndarray, " n"]:
    """Return each whole-scan statistic in standard deviations above the training scans' median.

    Args:
        volume: The scan.
        prepared: The same scan on the model grid.
        networks: Their decoder says what the scan's codes can describe.
        reference: How the training scans were taken.
    """
    remade_SHW = networks.reconstructed(prepared.slices_SHW)
    own = own_grid_statistics(volume.voxels_XYZ, prepared.intensity_scale, networks.settings.preparation)
    return reference.standardised(prepared.slices_SHW, remade_SHW, own)
