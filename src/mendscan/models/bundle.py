"""A model folder: JSON, safetensors and a manifest with the SHA-256 of each.  Nothing in it can execute code.

========================  ============================================================
file                      content
========================  ============================================================
``config.json``           format version, SHA-256 of each part of the weights, and all settings
``plan.json``             the cohort's fingerprint and each decision with its reason
``model.safetensors``     the networks and the arrays of the calibration
``calibration.json``      thresholds and healthy scores
``split.json``            content hashes of the training, validation and calibration scans
``README.md``             the model card
``manifest.json``         SHA-256 and size of each of the above
========================  ============================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from mendscan.config import Settings
from mendscan.models.contents import FORMAT_VERSION, PARTS, read_contents
from mendscan.models.folder import LISTED, MANIFEST, WEIGHTS, digest, manifest_text
from mendscan.models.skeleton import networks_of
from mendscan.models.weights import Weights
from mendscan.volumes.writing import write_bytes, write_json, write_text

__all__ = ["Bundle", "load_bundle", "save_bundle"]


@dataclass(frozen=True)
class Bundle:
    """A trained model, whole.

    Attributes:
        settings: All settings.
        networks: The networks by part, in evaluation mode; see `skeleton.networks_of`.
        calibration: JSON values, as `Calibration.to_json` returned them.
        calibration_arrays: The calibration's arrays by name.
        model_hash: SHA-256 of the manifest: names this model in results.
        card: The model card, in Markdown, as whoever made the model wrote it.
        plan: The plan.
        split: Content hashes of the scans it was made of.
    """

    settings: Settings
    networks: Mapping[str, nn.Module]
    calibration: dict[str, Any]
    calibration_arrays: dict[str, Tensor]
    model_hash: str
    card: str
    plan: dict[str, Any]
    split: dict[str, Any]


def save_bundle(
    folder: Path,
    *,
    settings: Settings,
    networks: Mapping[str, nn.Module],
    calibration: dict[str, Any],
    calibration_arrays: dict[str, Tensor],
    plan: dict[str, Any],
    split: dict[str, Any],
    card: str,
) -> None:
    """Write a model folder, the manifest last: a folder without one is not a model."""
    tensors = _prefixed("calibration", calibration_arrays)
    for part, network in networks.items():
        tensors |= _prefixed(part, network.state_dict())
    raw = save({name: t.cpu().contiguous() for name, t in tensors.items()})
    stored = Weights.parse(raw, folder / WEIGHTS)
    parts = {part: stored.part_hash(part) for part in PARTS if stored.arrays(part)}
    config = {"format": FORMAT_VERSION, "parts": parts, "settings": settings.model_dump(mode="json")}
    write_json(folder / "config.json", config)
    write_json(folder / "plan.json", plan)
    write_bytes(folder / WEIGHTS, raw)
    write_json(folder / "calibration.json", calibration)
    write_json(folder / "split.json", split)
    write_text(folder / "README.md", card)
    write_text(folder / MANIFEST, manifest_text({name: digest((folder / name).read_bytes()) for name in LISTED}))


def load_bundle(folder: Path) -> Bundle:
    """Read a model folder and verify every byte of it.

    Raises:
        ModelError: If the folder is no model, a file is missing or altered, or the parts do not fit each other.
        SettingsError: If a setting is unknown or out of range.
    """
    contents = read_contents(folder)
    tensors = load(contents.weights.raw)
    with torch.random.fork_rng(devices=[]):  # the weights that they begin with are drawn, and then replaced
        networks = networks_of(contents.settings)
    for part, network in networks.items():
        network.load_state_dict(_without_prefix(part, tensors))
        network.eval()
    return Bundle(
        settings=contents.settings,
        networks=networks,
        calibration=contents.calibration,
        calibration_arrays=_without_prefix("calibration", tensors),
        model_hash=contents.folder.model_hash,
        card=contents.card,
        plan=contents.plan,
        split=contents.split,
    )


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _without_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
