"""A small results folder, and the viewer over it: for the tests of the server and of the page."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np

from mendscan.results import CodeNLL, Detection, GateWarning, find_components, write_results
from mendscan.volumes.reading import read_volume
from mendscan.volumes.volume import Volume

CANARY = "ZZCANARY^NAME"
"""Written into the header of every scan; it must not come out anywhere."""
AFFINE = np.array([[0, 0, 3.0, -170], [-2.0, 0, 0, -120], [0, -1.5, 0, -114], [0, 0, 0, 1]])
"""The file's axes run to the back, down and to the right, with three voxel sizes."""
SHAPE_XYZ = (16, 18, 20)
MARKER_XYZ = (4, 12, 13)
MARKER = 900
BLOBS_XYZ = ((11, 6, 8), (4, 6, 14))
RUN = {
    "map_threshold": 0.5,
    "false_positive_rate": 0.05,
    "calibration_scans": 19,
    "notice": "Research use only; not a medical device.",
    "mendscan": "0.1.0",
    "model": "ab" * 32,
}


def build_results(folder: Path) -> Path:
    """Write five scans: two findings, none, a warning without orientation, a damaged map, and one that failed."""
    found = [
        _detection(folder, "anomalous", p_value=0.05, blobs=2),
        _detection(folder, "plain", p_value=0.4, blobs=0),
        _detection(folder, "warned", p_value=0.5, blobs=1, known=False, warning="the field of view misses the top"),
        _detection(folder, "damaged", p_value=0.6, blobs=1),
    ]
    for each in found:
        each.save(folder)
    rows = [each.score_row() | {"flagged": int(each.p_value <= 0.05)} for each in found]
    rows.append({"case": "broken_file", "status": "failed", "code": "E_NAN", "message": "broken_file.nii: 3 NaN"})
    write_results(folder, rows, [row for each in found for row in each.finding_rows()], RUN)
    path = folder / "maps" / "damaged.nii.gz"
    stored = bytearray(path.read_bytes())
    stored[-6] ^= 0xFF  # the checksum: all voxels can be read, and are not what was written
    path.write_bytes(bytes(stored))
    return folder


def _detection(
    folder: Path, name: str, *, p_value: float, blobs: int, known: bool = True, warning: str | None = None
) -> Detection:
    volume = _scan(folder, name, known=known)
    map_XYZ = np.full(volume.shape, 0.1, np.float32)
    restored_XYZ = volume.voxels_XYZ.copy()
    restored_XYZ[MARKER_XYZ] = 300
    for number, centre in enumerate(BLOBS_XYZ[:blobs]):
        inside = _distance(volume.shape, centre) < 3.2 - number
        map_XYZ[inside] = 0.9 - 0.2 * number
        restored_XYZ[inside] = 120
    return Detection(
        volume=volume,
        score=2.5 - p_value,
        p_value=p_value,
        slice_scores=np.array([1.0, 2.0, 9.0, 3.0, 0.0]),
        slice_indices=np.array([1.5, 5.5, 9.0, 13.5, 17.5]),
        slice_axis="Z",
        map_XYZ=map_XYZ,
        restored_XYZ=restored_XYZ,
        threshold=0.5,
        findings=find_components(map_XYZ, volume, threshold=0.5, smallest_mm3=1.0),
        parts={"local": 2.5 - p_value, "acquisition": 0.25},
        part_p_values={"local": p_value, "acquisition": 0.6},
        strangest="typical noise +3.2",
        statistics={"typical noise": 3.25, "spread of the intensities": -1.5},
        warnings=(GateWarning("W_FIELD_OF_VIEW", warning),) if warning else (),
        paper_score=15.0,
        code_nll=CodeNLL(np.ones((5, 2, 2)), ((-0.5, 15.5), (-0.5, 17.5)), 7.5),
    )


def _scan(folder: Path, name: str, *, known: bool) -> Volume:
    x, y, z = SHAPE_XYZ
    radius = _distance(SHAPE_XYZ, (x / 2, y / 2, z / 2))
    values_XYZ = np.select([radius < 6.5, radius < 7.5], [300, 600], 0).astype(np.int16)
    values_XYZ[:, :, 0] = 5 * np.arange(x)[:, None]
    values_XYZ[MARKER_XYZ] = MARKER
    values_IJK = np.ascontiguousarray(values_XYZ.transpose(1, 2, 0)[::-1, ::-1, :])
    image = nib.Nifti1Image(values_IJK, AFFINE)
    if not known:
        image = nib.Nifti1Image(values_XYZ, None)
        image.header.set_zooms((3.0, 2.0, 1.5))
        image.header["sform_code"] = image.header["qform_code"] = 0
    image.header["descrip"] = image.header["intent_name"] = CANARY.encode()
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", CANARY.encode()))
    source = folder.parent / "sources" / f"{name}.nii"
    source.parent.mkdir(exist_ok=True)
    image.to_filename(source)
    return read_volume(source)


def _distance(shape: tuple[int, int, int], centre: tuple[float, ...]) -> np.ndarray:
    grid = np.indices(shape).astype(np.float64)
    return np.sqrt(sum((grid[axis] - centre[axis]) ** 2 for axis in range(3)))


@contextmanager
def viewer_over(folder: Path, *, token: str | None = None) -> Iterator[int]:
    """Serve a results folder on a free port of 127.0.0.1 from a thread; give the port."""
    import uvicorn

    from mendscan.viewer.access import open_to
    from mendscan.viewer.server import create_app
    from mendscan.viewer.serving import listen, server_settings

    with listen("127.0.0.1", 0) as listening:
        port = listening.getsockname()[1]
        server = uvicorn.Server(server_settings(create_app(folder, open_to("127.0.0.1", port, token))))
        running = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        running.start()
        try:
            yield port
        finally:
            server.should_exit = True
            running.join(timeout=20)
        assert not running.is_alive()
