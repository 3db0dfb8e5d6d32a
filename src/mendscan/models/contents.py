"""What a model folder holds, every byte of it verified, before a network is built."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mendscan.config import Settings, parse_settings
from mendscan.errors import ModelError
from mendscan.models.folder import MANIFEST, REMEDY, WEIGHTS, ModelFolder, read_file
from mendscan.models.skeleton import check_bounds, expected_tensors
from mendscan.models.weights import MAX_HEADER_BYTES, Weights, first_difference
from mendscan.strict_json import BadJsonError, parse_json

__all__ = ["FORMAT_VERSION", "PARTS", "ModelContents", "read_contents"]

FORMAT_VERSION = 2
"""1: as 2, without the hashes of the parts."""
_OLDEST = 1
PARTS = ("vqvae", "prior", "planes", "discriminator", "calibration")
_MOST_CALIBRATION_ARRAYS = 64
_SMALL = 2**26


@dataclass(frozen=True)
class ModelContents:
    """A model folder, verified.

    Attributes:
        folder: Where it is, and its manifest.
        version: Its format.
        settings: All settings.
        weights: The tensors: exactly those that the networks have, and the calibration's arrays, all finite.
        parts: SHA-256 of each part.
        bound: Whether the folder says which parts belong together, and these are they; False for format 1.
        calibration: JSON values of the calibration.
        plan: The plan.
        split: Content hashes of the scans.
        card: The model card, in Markdown, as a stranger may have written it.
    """

    folder: ModelFolder
    version: int
    settings: Settings
    weights: Weights
    parts: dict[str, str]
    bound: bool
    calibration: dict[str, Any]
    plan: dict[str, Any]
    split: dict[str, Any]
    card: str


def read_contents(path: Path) -> ModelContents:
    """Read a model folder and verify all that can be without building a network.

    Every file is opened once; the weights only after manifest and settings have said how large they may be.

    Raises:
        ModelError: If the folder is no model, of another format, incomplete, altered, or its files do not fit each
            other.
        SettingsError: If a setting is unknown or out of range.
    """
    folder = _opened(path)
    config = folder.read_json("config.json")
    version = _version(config, path / "config.json")
    settings = parse_settings(_settings_values(config, path / "config.json"), where=path / "config.json")
    _check_bounds(folder, settings)
    weights = _weights(folder, settings)
    found = {part: weights.part_hash(part) for part in PARTS if weights.arrays(part)}
    if version > 1:
        _check_parts(config["parts"], found, path)
    return ModelContents(
        folder=folder,
        version=version,
        settings=settings,
        weights=weights,
        parts=found,
        bound=version > 1,
        calibration=folder.read_json("calibration.json"),
        plan=folder.read_json("plan.json"),
        split=folder.read_json("split.json"),
        card=folder.read("README.md").decode("utf-8", errors="replace"),
    )


def _opened(path: Path) -> ModelFolder:
    """Open the folder; a manifest of a form that is not known may be that of a newer format, which is said first."""
    try:
        return ModelFolder.open(path)
    except ModelError as error:
        if error.code == "E_MODEL_ALTERED":
            _say_if_newer(path)
        raise


def _say_if_newer(path: Path) -> None:
    try:
        config = parse_json(read_file(path / "config.json", most=2**20))
    except (ModelError, BadJsonError):
        return
    version = config.get("format") if isinstance(config, dict) else None
    if type(version) is int and version > FORMAT_VERSION:
        raise _other_version(version, path / MANIFEST)


def _version(config: dict[str, Any], where: Path) -> int:
    if "format" not in config:
        raise ModelError("not a model's configuration", where=where, code="E_MODEL_ALTERED", remedy=REMEDY)
    version = config["format"]
    if type(version) is not int or not _OLDEST <= version <= FORMAT_VERSION:
        raise _other_version(version, where)
    keys = {"format", "settings"} | ({"parts"} if version > 1 else set())
    if set(config) != keys:
        found = f"the keys {', '.join(sorted(config))[:80]}"
        raise ModelError("not a model's configuration", where=where, code="E_MODEL_ALTERED", found=found, remedy=REMEDY)
    return version


def _other_version(version: object, where: Path) -> ModelError:
    newer = type(version) is int and version > FORMAT_VERSION
    return ModelError(
        "the model has a newer format version" if newer else "the model has another format version",
        where=where,
        code="E_MODEL_VERSION",
        found=str(version)[:40],
        expected=FORMAT_VERSION,
        remedy="update mendscan, or use the version that trained it" if newer else "use the version that trained it",
    )


def _settings_values(config: dict[str, Any], where: Path) -> dict[str, Any]:
    if not isinstance(config["settings"], dict):
        raise ModelError("not a model's configuration", where=where, code="E_MODEL_ALTERED", remedy=REMEDY)
    return config["settings"]


def _check_bounds(folder: ModelFolder, settings: Settings) -> None:
    size = folder.listed[WEIGHTS]["bytes"]
    try:
        check_bounds(settings, weights_bytes=size, where=folder.path / "config.json")
    except ModelError:
        if size <= _SMALL:  # what is no weights' file at all is called that
            Weights.parse(folder.read(WEIGHTS, most=_SMALL), folder.path / WEIGHTS)
        raise


def _weights(folder: ModelFolder, settings: Settings) -> Weights:
    where = folder.path / WEIGHTS
    try:
        expected = expected_tensors(settings)
    except (RuntimeError, ValueError, OverflowError) as error:  # sizes that torch cannot even count
        raise _do_not_fit("networks", where, error) from None
    weights = Weights.parse(folder.read(WEIGHTS, most=_most_bytes(expected, settings)), where)
    for name in weights.tensors:
        if name.partition(".")[0] not in PARTS:
            raise ModelError("a tensor of no part", where=where, code="E_MODEL_SHAPE", found=name[:80], remedy=REMEDY)
    for part in PARTS[:-1]:
        found = {
            name: (each.dtype, each.shape) for name, each in weights.tensors.items() if name.startswith(f"{part}.")
        }
        own = {name: each for name, each in expected.items() if name.startswith(f"{part}.")}
        if (difference := first_difference(found, own)) is not None:
            raise _do_not_fit(part, where, difference)
    weights.check_finite(where)
    return weights


def _do_not_fit(part: str, where: Path, found: object) -> ModelError:
    return ModelError(
        f"the {part}'s weights do not fit config.json", where=where, code="E_MODEL_SHAPE", found=found, remedy=REMEDY
    )


def _most_bytes(expected: dict[str, tuple[str, tuple[int, ...]]], settings: Settings) -> int:
    """Return how large the weights can be: the networks, the calibration's arrays on the model grid, and a header."""
    networks = sum(8 * _count(shape) for _, shape in expected.values())
    calibration = _MOST_CALIBRATION_ARRAYS * (8 * _count(settings.shape_SHW) + 2**20)
    return networks + calibration + MAX_HEADER_BYTES


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total


def _check_parts(listed: Any, found: dict[str, str], path: Path) -> None:
    """The parts must be those that were saved together: a prior knows the codes of its own VQ-VAE only."""
    if listed != found:
        listed = listed if isinstance(listed, dict) else {}
        others = [part for part in PARTS if listed.get(part) != found.get(part)]
        raise ModelError(
            "parts of different models",
            where=path,
            code="E_MODEL_PARTS",
            found=f"{', '.join(others) or 'a part'} not as saved with the rest",
            remedy=REMEDY,
        )
