"""What several commands let the user choose from."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from mendscan.errors import SettingsError

if TYPE_CHECKING:
    from mendscan.volumes.reading import ScanReader

__all__ = [
    "Device",
    "DeviceOption",
    "MaxMemoryOption",
    "Nan",
    "NanOption",
    "Precision",
    "Preset",
    "Schedule",
    "Scores",
    "SeedOption",
    "SetOption",
    "Task",
    "scan_reader",
]


class Device(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


class Preset(StrEnum):
    """Where the settings come from."""

    auto = "auto"
    brain = "brain"
    abdomen = "abdomen"


class Schedule(StrEnum):
    """How restored codes are computed."""

    incremental = "incremental"
    fixed_point = "fixed-point"
    sequential = "sequential"


class Precision(StrEnum):
    """In which arithmetic restorations are drawn and decoded."""

    exact = "exact"
    fast = "fast"


class Scores(StrEnum):
    """Whose score and map."""

    auto = "auto"
    paper = "paper"


class Nan(StrEnum):
    """What becomes of voxels that are NaN."""

    refuse = "refuse"
    fill = "fill"


class Task(StrEnum):
    """What the MOOD challenge wants predicted."""

    sample = "sample"
    pixel = "pixel"


DeviceOption = Annotated[Device, typer.Option(help="Where to compute; auto takes the best there is.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="A setting, as section.key=value; may be repeated.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
MaxMemoryOption = Annotated[
    float, typer.Option(min=0.001, help="The most that one scan's voxels may take as float32, in GiB.")
]
NanOption = Annotated[
    Nan, typer.Option(help="Scans with NaN: refuse, or fill with the lowest value; the map is 0 there.")
]


def scan_reader(max_memory: float, nan: Nan, *, strict: bool) -> ScanReader:
    """Return what reads scans as these options say."""
    from mendscan.volumes.reading import ScanReader

    if not math.isfinite(max_memory):
        raise SettingsError("not an amount of memory", where="--max-memory", found=max_memory, expected="GiB")
    return ScanReader(int(max_memory * 2**30), nan.value, strict)
