"""A model folder and what is in use: networks and calibration become files, and files a calibration again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from mendscan.detection.calibration import Calibration
from mendscan.detection.calibration_values import checked_calibration
from mendscan.detection.networks import Networks
from mendscan.models.bundle import Bundle, load_bundle, save_bundle

__all__ = ["calibration_of", "save_model"]


def calibration_of(bundle: Bundle) -> Calibration:
    """Return the calibration of a model that was loaded.

    Raises:
        ModelError: E_MODEL_CALIBRATION, if it does not fit the model.
    """
    arrays = {name: array.numpy() for name, array in bundle.calibration_arrays.items()}
    values = checked_calibration(bundle.calibration, arrays, bundle.settings)
    return Calibration.from_json(values, arrays, bundle.settings.detection)


def save_model(
    folder: Path,
    networks: Networks,
    calibration: Calibration,
    *,
    plan: dict[str, Any],
    split: dict[str, Any],
    card: str,
) -> None:
    """Write a model folder and read it back: what could not be used for detection is found here.

    Args:
        folder: Where.
        networks: The networks, with the model's settings.
        calibration: What they were calibrated to.
        plan: As JSON values.
        split: Content hashes of the scans it was made of.
        card: In Markdown.

    Raises:
        ModelError: If what was written is no model.
        WriteError: If it cannot be written.
    """
    save_bundle(
        folder,
        settings=networks.settings,
        networks=networks.parts,
        calibration=calibration.to_json(),
        calibration_arrays={name: torch.from_numpy(array) for name, array in calibration.arrays().items()},
        plan=plan,
        split=split,
        card=card,
    )
    calibration_of(load_bundle(folder))
