"""Baselines on disk: JSON and safetensors in a folder of their own.  Nothing in it can execute code.

=========================  ===================================================================
file                       content
=========================  ===================================================================
``baseline.safetensors``   weights, tables, healthy statistics
``baseline.json``          what it is, all settings, and the SHA-256 of the above; written last
=========================  ===================================================================
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from mendscan.baselines.baseline import Baseline
from mendscan.baselines.calibrating import Calibrated, StandardisedBaseline
from mendscan.baselines.fitting import BASELINES
from mendscan.config import Settings, parse_settings
from mendscan.detection.devices import choose_device
from mendscan.errors import ModelError
from mendscan.strict_json import read_json
from mendscan.volumes.locking import locked
from mendscan.volumes.writing import make_folder, write_bytes, write_json

__all__ = ["load_baseline", "load_calibrated", "save_baseline", "save_calibrated"]

FORMAT_VERSION = 1
_FACTS, _ARRAYS = "baseline.json", "baseline.safetensors"
_KINDS: dict[str, type[Baseline]] = {
    **BASELINES,
    **dict.fromkeys([f"{name}-standardised" for name in BASELINES], StandardisedBaseline),
}
_USUAL = "usual_foreground"
_REMEDY = "fit the baseline again"


def save_baseline(folder: str | Path, baseline: Baseline, settings: Settings) -> None:
    """Write a fitted baseline.

    Args:
        folder: Its folder, which is made if it is not there.
        baseline: Raw or standardised.
        settings: The plan that it was fitted under.

    Raises:
        WriteError: If it cannot be written, or another run is at work in the folder (E_LOCKED).
    """
    _write(Path(folder), _baseline_facts(baseline, settings), baseline.tensors())


def load_baseline(folder: str | Path, *, device: str = "auto") -> Baseline:
    """Read what `save_baseline` or `save_calibrated` wrote; its maps are the same to the last bit.

    Raises:
        ModelError: If the folder holds no baseline, or a file is missing or altered.
        SettingsError: If the device is not available.
    """
    return _baseline(Path(folder), *_read(Path(folder)), device=device)


def save_calibrated(folder: str | Path, calibrated: Calibrated) -> None:
    """Write a baseline with its calibration.

    Raises:
        WriteError: If it cannot be written, or another run is at work in the folder (E_LOCKED).
    """
    facts = _baseline_facts(calibrated.baseline, calibrated.settings)
    calibration = {"scale": calibrated.scale, "healthy_scores": list(calibrated.healthy_scores)}
    tensors = {**calibrated.baseline.tensors(), _USUAL: torch.from_numpy(calibrated.usual_SHW)}
    _write(Path(folder), {**facts, "calibration": calibration}, tensors)


def load_calibrated(folder: str | Path, *, device: str = "auto") -> Calibrated:
    """Read what `save_calibrated` wrote; its maps are the same to the last bit.

    Raises:
        ModelError: If the folder holds no calibrated baseline, or a file is missing or altered.
        SettingsError: If the device is not available.
    """
    facts, tensors = _read(Path(folder))
    if "calibration" not in facts:
        raise ModelError("the baseline is not calibrated", where=folder, code="E_MODEL_MISSING", remedy=_REMEDY)
    baseline = _baseline(Path(folder), facts, tensors, device=device)
    calibration, settings = facts["calibration"], parse_settings(facts["settings"], where=Path(folder) / _FACTS)
    scores = tuple(map(float, calibration["healthy_scores"]))
    return Calibrated(baseline, settings, tensors[_USUAL].numpy(), float(calibration["scale"]), scores)


def _baseline_facts(baseline: Baseline, settings: Settings) -> dict[str, Any]:
    return {"name": baseline.name, "facts": baseline.facts(), "settings": settings.model_dump(mode="json")}


def _baseline(folder: Path, facts: dict[str, Any], tensors: dict[str, Tensor], *, device: str) -> Baseline:
    target, settings = choose_device(device), parse_settings(facts["settings"], where=folder / _FACTS)
    own = {name: tensor for name, tensor in tensors.items() if name != _USUAL}
    try:
        return _KINDS[facts["name"]].of_saved(settings, facts["facts"], own, device=target)
    except (KeyError, RuntimeError) as error:
        raise ModelError(
            "arrays and settings do not fit each other", where=folder, code="E_MODEL_SHAPE", found=error, remedy=_REMEDY
        ) from None


def _write(folder: Path, facts: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    arrays = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    digest = hashlib.sha256(arrays).hexdigest()
    with locked(make_folder(folder), "saving"):
        write_bytes(folder / _ARRAYS, arrays)
        write_json(folder / _FACTS, {"format": FORMAT_VERSION, "sha256": digest, **facts})


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        facts = dict(read_json(folder / _FACTS))
        arrays = (folder / _ARRAYS).read_bytes()
        version, digest, _ = facts["format"], facts["sha256"], facts["settings"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            "no baseline here", where=folder, code="E_MODEL_MISSING", found=error, remedy=_REMEDY
        ) from None
    if version != FORMAT_VERSION:
        raise ModelError(
            "the baseline has another format version",
            where=folder,
            code="E_MODEL_VERSION",
            found=version,
            expected=FORMAT_VERSION,
            remedy=_REMEDY,
        )
    if hashlib.sha256(arrays).hexdigest() != digest:
        raise ModelError(
            "the file is not the one that was saved", where=folder / _ARRAYS, code="E_MODEL_ALTERED", remedy=_REMEDY
        )
    return facts, load(arrays)
