"""Scans in and out: the only place that knows files and geometry."""

from __future__ import annotations

from mendscan.volumes.dicom_pixels import dicom_sources
from mendscan.volumes.finding import find_scans
from mendscan.volumes.grid import Grid, resampled_grid, resized_grid
from mendscan.volumes.maps import write_labels, write_map, write_scan
from mendscan.volumes.reading import case_name, read_volume
from mendscan.volumes.tables import read_csv, write_csv
from mendscan.volumes.volume import NativeGeometry, Volume, volume_from_array
from mendscan.volumes.writing import write_bytes, write_json, write_text

__all__ = [
    "Grid",
    "NativeGeometry",
    "Volume",
    "case_name",
    "dicom_sources",
    "find_scans",
    "read_csv",
    "read_volume",
    "resampled_grid",
    "resized_grid",
    "volume_from_array",
    "write_bytes",
    "write_csv",
    "write_json",
    "write_labels",
    "write_map",
    "write_scan",
    "write_text",
]
