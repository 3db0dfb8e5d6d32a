"""How the training scans were taken: the statistics of each, against which new scans are compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64

from mendscan.cohort.preparing import prepare
from mendscan.config import PreparationSettings
from mendscan.detection.acquisition import AcquisitionReference, acquisition_statistics
from mendscan.detection.devices import one_thread
from mendscan.detection.networks import Networks
from mendscan.detection.own_grid import own_grid_statistics
from mendscan.parallel import all_in_processes
from mendscan.progress import Progress
from mendscan.volumes.reading import STANDARD_READER, ScanReader

__all__ = ["learn_acquisition"]


def learn_acquisition(
    networks: Networks,
    paths: Sequence[Path],
    scans: Sequence[Float[np.ndarray, "S H W"]],
    progress: Progress,
    *,
    reader: ScanReader = STANDARD_READER,
) -> AcquisitionReference | None:
    """Learn how the training scans were taken; None if the model has the paper's score alone.

    Args:
        networks: The trained networks.
        paths: The training scans.
        scans: The same, prepared.
        progress: Told of every scan.
        reader: How they are read.

    Raises:
        ScanError: If a scan cannot be read any more.
    """
    if networks.settings.detection.scan_score == "paper":
        return None
    own = _own_statistics(paths, networks.settings.preparation, progress, reader)
    progress.begin("acquisition", len(scans))
    # One after the other: they are on the disk, and all of a large cohort would not fit into memory.
    total_SHW = np.zeros(scans[0].shape)
    for scan_SHW in scans:
        total_SHW += scan_SHW
    usual_SHW, found = (total_SHW / len(scans)).astype(np.float32), []
    with one_thread(networks.device):
        for slices_SHW, own_K in zip(scans, own, strict=True):
            remade_SHW = networks.reconstructed(slices_SHW.astype(np.float32))
            found.append(acquisition_statistics(slices_SHW, usual_SHW, remade_SHW, own_K))
            progress.advance()
    return AcquisitionReference.fit(usual_SHW, np.stack(found))


def _own_statistics(
    paths: Sequence[Path], settings: PreparationSettings, progress: Progress, reader: ScanReader
) -> list[Float64[np.ndarray, " K"]]:
    """Read the scans again, for the store has them on the model grid alone."""
    progress.begin("read own voxels", len(paths))
    jobs = [(path, settings, reader) for path in paths]
    return all_in_processes(_own_statistics_of, jobs, after_each=progress.advance)


def _own_statistics_of(path: Path, settings: PreparationSettings, reader: ScanReader) -> Float64[np.ndarray, " K"]:
    volume = reader(path)
    return own_grid_statistics(volume.voxels_XYZ, prepare(volume, settings).intensity_scale, settings)
