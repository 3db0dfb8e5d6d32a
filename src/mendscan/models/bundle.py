"""A model folder: JSON, safetensors and a manifest with the SHA-256 of each.  Nothing in it can execute code.

========================  ============================================================
file                      content
========================  ============================================================
``config.json``           format version and all settings
``plan.json``             the cohort's fingerprint and each decision with its reason
``model.safetensors``     the networks and the arrays of the calibration
``calibration.json``      thresholds and healthy scores
``split.json``            content hashes of the training, validation and calibration scans
``README.md``             the model card
``manifest.json``         SHA-256 and size of each of the above
========================  ============================================================
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from mendscan.config import Settings, parse_settings
from mendscan.errors import ModelError
from mendscan.models.discriminator import Discriminator
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.vqvae import VQVAE
from mendscan.volumes.writing import write_bytes, write_json, write_text

__all__ = ["FORMAT_VERSION", "Bundle", "load_bundle", "save_bundle"]

FORMAT_VERSION = 1


class _Digest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    bytes: int
    sha256: str


_LISTED = ("config.json", "plan.json", "model.safetensors", "calibration.json", "split.json", "README.md")
_PARTS = ("vqvae", "prior", "discriminator", "calibration")
_REMEDY = "copy the model folder again from where it was trained, or train it again"


@dataclass(frozen=True)
class Bundle:
    """A trained model, whole.

    Attributes:
        settings: All settings.
        vqvae: The auto-encoder, in evaluation mode.
        prior: The prior, in evaluation mode.
        discriminator: The discriminator, in evaluation mode; None if the plan has none.
        calibration: JSON values, as `Calibration.to_json` returned them.
        calibration_arrays: The calibration's arrays by name.
        model_hash: SHA-256 of the manifest: names this model in results.
        card: The model card, in Markdown.
    """

    settings: Settings
    vqvae: VQVAE
    prior: PixelSNAIL
    discriminator: Discriminator | None
    calibration: dict[str, Any]
    calibration_arrays: dict[str, Tensor]
    model_hash: str
    card: str


def save_bundle(
    folder: Path,
    *,
    settings: Settings,
    vqvae: VQVAE,
    prior: PixelSNAIL,
    calibration: dict[str, Any],
    calibration_arrays: dict[str, Tensor],
    plan: dict[str, Any],
    split: dict[str, Any],
    card: str,
    discriminator: Discriminator | None = None,
) -> None:
    """Write a model folder, the manifest last: a folder without one is not a model."""
    tensors = _prefixed("vqvae", vqvae.state_dict()) | _prefixed("prior", prior.state_dict())
    if discriminator is not None:
        tensors |= _prefixed("discriminator", discriminator.state_dict())
    tensors |= _prefixed("calibration", calibration_arrays)
    write_json(folder / "config.json", {"format": FORMAT_VERSION, "settings": settings.model_dump(mode="json")})
    write_json(folder / "plan.json", plan)
    write_bytes(folder / "model.safetensors", save({name: t.cpu().contiguous() for name, t in tensors.items()}))
    write_json(folder / "calibration.json", calibration)
    write_json(folder / "split.json", split)
    write_text(folder / "README.md", card)
    write_text(folder / "manifest.json", _manifest({name: _digest((folder / name).read_bytes()) for name in _LISTED}))


def load_bundle(folder: Path) -> Bundle:
    """Read a model folder and verify every byte of it.

    Raises:
        ModelError: If the folder is no model, a file is missing or altered, or the parts do not fit each other.
    """
    contents, model_hash = _verified_files(folder)
    settings = _settings(contents["config.json"], folder / "config.json")
    tensors = _tensors(contents["model.safetensors"], folder)
    vqvae, prior = VQVAE(settings.vqvae), PixelSNAIL(settings.prior, codes=settings.vqvae.codes)
    _load_into(vqvae, tensors, "vqvae", folder)
    _load_into(prior, tensors, "prior", folder)
    discriminator = None
    if settings.has_discriminator:
        members = settings.discriminator_members
        discriminator = Discriminator(settings.discriminator, settings.shape_SHW, members=members)
        _load_into(discriminator.eval(), tensors, "discriminator", folder)
    return Bundle(
        settings=settings,
        vqvae=vqvae.eval(),
        prior=prior.eval(),
        discriminator=discriminator,
        calibration=json.loads(contents["calibration.json"]),
        calibration_arrays=_without_prefix("calibration", tensors),
        model_hash=model_hash,
        card=contents["README.md"].decode("utf-8", errors="replace"),
    )


def _settings(raw: bytes, where: Path) -> Settings:
    try:
        config = json.loads(raw)
        version, values = config["format"], dict(config["settings"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ModelError("not a model's configuration", where=where, code="E_MODEL_ALTERED", remedy=_REMEDY) from None
    if version != FORMAT_VERSION:
        raise ModelError(
            "the model has another format version",
            where=where,
            code="E_MODEL_VERSION",
            found=version,
            expected=FORMAT_VERSION,
            remedy="use the version of mendscan that trained it",
        )
    return parse_settings(values, where=where)


def _verified_files(folder: Path) -> tuple[dict[str, bytes], str]:
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        what = "training has not finished there" if (folder / "work").is_dir() else "no manifest.json"
        remedy = "finish it with mendscan train --resume" if (folder / "work").is_dir() else "give a model folder"
        raise ModelError("not a complete model", where=folder, code="E_MODEL_MISSING", found=what, remedy=remedy)
    raw = manifest.read_bytes()
    listed = _listed_digests(raw, manifest)
    contents = {}
    for name in _LISTED:
        path = folder / name
        if not path.is_file():
            raise ModelError("a file is missing", where=path, code="E_MODEL_MISSING", remedy=_REMEDY)
        contents[name] = path.read_bytes()
        found, expected = _digest(contents[name]), listed[name]
        if found != expected:
            raise ModelError(
                "the file is not the one that was saved",
                where=path,
                code="E_MODEL_ALTERED",
                found=f"{found['bytes']} bytes, SHA-256 {found['sha256'][:12]}…",
                expected=f"{expected['bytes']} bytes, SHA-256 {expected['sha256'][:12]}…",
                remedy=_REMEDY,
            )
    return contents, hashlib.sha256(raw).hexdigest()


def _listed_digests(raw: bytes, manifest: Path) -> dict[str, dict[str, Any]]:
    """Return what the manifest says of each file; it must be, byte for byte, a manifest that `save_bundle` writes."""
    try:
        entries = json.loads(raw)["files"].items()
        listed = {name: _Digest.model_validate(entry).model_dump() for name, entry in entries}
    except (ValueError, KeyError, TypeError, AttributeError):
        listed = {}
    if set(listed) != set(_LISTED) or _manifest(listed).encode() != raw:
        raise ModelError("the manifest is damaged", where=manifest, code="E_MODEL_ALTERED", remedy=_REMEDY)
    return listed


def _manifest(listed: dict[str, dict[str, Any]]) -> str:
    return json.dumps({"files": listed}, indent=2, sort_keys=True) + "\n"


def _tensors(raw: bytes, folder: Path) -> dict[str, Tensor]:
    try:
        tensors = load(raw)
    except SafetensorError as error:
        raise ModelError(
            "the weights cannot be read", where=folder, code="E_MODEL_ALTERED", found=error, remedy=_REMEDY
        ) from None
    for name, tensor in tensors.items():
        if name.partition(".")[0] not in _PARTS:
            raise ModelError("a tensor of no part", where=folder, code="E_MODEL_SHAPE", found=name, remedy=_REMEDY)
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise ModelError("weights are not finite", where=folder, code="E_MODEL_NAN", found=name, remedy=_REMEDY)
    return tensors


def _load_into(network: torch.nn.Module, tensors: dict[str, Tensor], prefix: str, folder: Path) -> None:
    own = _without_prefix(prefix, tensors)
    try:
        for name, built in network.state_dict().items():
            if name in own and own[name].dtype != built.dtype:
                raise RuntimeError(f"{name} is {own[name].dtype}, not {built.dtype}")
        network.load_state_dict(own)
    except RuntimeError as error:
        raise ModelError(
            f"the {prefix}'s weights do not fit config.json",
            where=folder,
            code="E_MODEL_SHAPE",
            found=error,
            remedy=_REMEDY,
        ) from None


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def _without_prefix(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _digest(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
