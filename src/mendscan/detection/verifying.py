"""What a model folder is, and whether every byte of it is as it should be, without building its networks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mendscan.detection.calibration_values import checked_calibration
from mendscan.detection.signing import read_signature
from mendscan.models.contents import ModelContents, read_contents

__all__ = ["Verification", "verify_model"]

_CARD_LINES = 12


@dataclass(frozen=True)
class Verification:
    """A model folder that passed every check.

    Attributes:
        model_hash: SHA-256 of its manifest: names the model in results.
        format: Its format version.
        preset: What its settings come from.
        grid_XYZ: Voxels of the model grid.
        parts: SHA-256 of each part of the weights.
        bound: Whether the folder says which parts belong together (format 2 and later).
        parameters: Numbers in each network.
        bytes: Size of all listed files.
        scans: How many scans it was trained, validated and calibrated on, as its split says.
        calibration_scans: How many scans its p-values are of.
        signed_by: Public key of a valid signature, in base64; None if it is not signed.
        trusted: Whether that key is one of those given as trusted; None if none were.
        card: The first lines of the model card, as whoever made the model wrote them.
    """

    model_hash: str
    format: int
    preset: str
    grid_XYZ: tuple[int, int, int]
    parts: Mapping[str, str]
    bound: bool
    parameters: Mapping[str, int]
    bytes: int
    scans: Mapping[str, int]
    calibration_scans: int
    signed_by: str | None
    trusted: bool | None
    card: str

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)


def verify_model(folder: Path, *, trusted: Sequence[Path] = ()) -> Verification:
    """Check all that loading a model checks, and its signature.

    Args:
        folder: The model folder.
        trusted: Files of public keys, one of which must have signed it.

    Raises:
        ModelError: As `load_bundle`, `checked_calibration` and `read_signature`.
        SettingsError: If a setting is unknown or out of range, or a key cannot be read.
    """
    contents = read_contents(folder)
    checked_calibration(contents.calibration, contents.weights.arrays("calibration"), contents.settings)
    signature = read_signature(contents.folder, trusted)
    listed = contents.folder.listed.values()
    return Verification(
        model_hash=contents.folder.model_hash,
        format=contents.version,
        preset=contents.settings.preset,
        grid_XYZ=contents.settings.preparation.shape_XYZ,
        parts=contents.parts,
        bound=contents.bound,
        parameters=_parameters(contents),
        bytes=sum(entry["bytes"] for entry in listed) + len(contents.folder.manifest),
        scans={name: len(scans) for name, scans in contents.split.items() if isinstance(scans, list)},
        calibration_scans=len(contents.calibration["healthy_scores"]),
        signed_by=None if signature is None else signature.public_key,
        trusted=None if not trusted else signature is not None and signature.trusted is not None,
        card="\n".join(contents.card.splitlines()[:_CARD_LINES]),
    )


def _parameters(contents: ModelContents) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name, stored in contents.weights.tensors.items():
        part = name.partition(".")[0]
        if part != "calibration":
            sizes[part] = sizes.get(part, 0) + math.prod(stored.shape)
    return sizes
