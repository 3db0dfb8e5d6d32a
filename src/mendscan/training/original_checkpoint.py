"""A checkpoint of the original system, read without trusting it: tensors come out, or one typed error.

The original saves bare state dicts (those it submitted) or, while it trains, a dictionary of ``model``, ``optimizer``
and ``tracker``, the last an object of its own.  Nothing in a file is ever executed: the reader knows tensors, plain
containers and an empty stand-in for that object, and refuses everything else.  Safetensors files are read, too.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_safetensors
from torch import Tensor

from mendscan.errors import ModelError
from mendscan.models.original import WRAPPED
from mendscan.progress import Progress

__all__ = ["MAX_BYTES", "OriginalCheckpoint", "read_checkpoint", "read_pair"]

MAX_BYTES = 2**30
"""1 GiB, of a file and of what it unfolds to: six times the original's largest checkpoint with its optimiser."""
_MODEL = "model"
_TRACKER = "utils.train_tracker"
_REMEDY = "give a .pt or .safetensors file that the original saved"


class _Tracker:
    """Stands in for the original's record of its losses, which is not read."""


@dataclass(frozen=True)
class OriginalCheckpoint:
    """What a file holds.

    Attributes:
        name: The file's name, without folders, safe to print.
        sha256: Of the file.
        tensors: The state dict; floating-point numbers as float32, all finite.
        others: Names of what else was saved beside it, such as the optimiser.
    """

    name: str
    sha256: str
    tensors: dict[str, Tensor]
    others: tuple[str, ...]


def read_checkpoint(path: Path, *, max_bytes: int = MAX_BYTES) -> OriginalCheckpoint:
    """Read a checkpoint.

    Args:
        path: A ``.pt`` or ``.safetensors`` file; its content decides which.
        max_bytes: The most that the file, and what it unfolds to, may take; checked before it is allocated.

    Raises:
        ModelError: E_NOT_FOUND, E_ACCESS, E_TOO_LARGE, E_ORIGINAL_UNSAFE if it holds more than tensors,
            E_ORIGINAL_FILE if it is damaged or something else, or E_MODEL_NAN.
    """
    raw = _content(path, max_bytes)
    try:
        loaded = load_safetensors(raw) if raw[8:9] == b"{" else _load(raw, path, max_bytes)
    except ModelError:
        raise
    except Exception as error:  # noqa: BLE001 - a damaged file makes the readers raise a dozen unrelated types
        raise _refusal(path, error) from None
    state, others = _state_dict(loaded, path)
    _check_size(sum(tensor.numel() * tensor.element_size() for tensor in state.values()), path, max_bytes)
    tensors = {name: _checked(name, tensor, path) for name, tensor in state.items()}
    return OriginalCheckpoint(_plain(path.name), hashlib.sha256(raw).hexdigest(), tensors, others)


def read_pair(
    prior: Path, vqvae: Path | None, progress: Progress
) -> tuple[dict[str, OriginalCheckpoint], dict[str, dict[str, Tensor]]]:
    """Read the prior's checkpoint and the VQ-VAE's, which may be inside the prior's.

    Args:
        prior: The prior's file.
        vqvae: The VQ-VAE's; None takes the one inside.
        progress: Told what else the files hold.

    Returns:
        The checkpoints by network, and the tensors of each network.

    Raises:
        ModelError: As `read_checkpoint`; or if there is no VQ-VAE, or another one inside than the one given.
    """
    checkpoints = {"prior": read_checkpoint(prior)}
    if vqvae is not None:
        checkpoints = {"vqvae": read_checkpoint(vqvae), **checkpoints}
    for checkpoint in checkpoints.values():
        if checkpoint.others:
            progress.say(f"{checkpoint.name}: not needed and left: {', '.join(checkpoint.others)}")
    whole = checkpoints["prior"].tensors
    wrapped = {name.removeprefix(WRAPPED): tensor for name, tensor in whole.items() if name.startswith(WRAPPED)}
    own = {name: tensor for name, tensor in whole.items() if not name.startswith(WRAPPED)}
    if vqvae is None and not wrapped:
        raise ModelError(
            "no VQ-VAE", where=prior, code="E_ORIGINAL_NAMES", found=f"no {WRAPPED}…", remedy="give it with --vqvae"
        )
    given = checkpoints["vqvae"].tensors if vqvae is not None else wrapped
    if wrapped:
        _check_same(wrapped, given, prior)
    return checkpoints, {"vqvae": given, "prior": own}


def _check_same(wrapped: dict[str, Tensor], given: dict[str, Tensor], prior: Path) -> None:
    """Refuse a prior that learnt the codes of another VQ-VAE."""
    other = [name for name in wrapped if name not in given or not torch.equal(wrapped[name], given[name])]
    other += [name for name in given if name not in wrapped]
    if other:
        raise ModelError(
            "the prior contains another VQ-VAE than the one given: it learnt other codes",
            where=prior,
            code="E_ORIGINAL_PAIR",
            found=f"{len(other)} tensors differ, first {other[0][:80]}",
            remedy="leave out --vqvae to take the one inside",
        )


def _content(path: Path, max_bytes: int) -> bytes:
    try:
        if not path.is_file():
            problem = "not a file" if path.exists() else "no such file"
            raise ModelError(problem, where=path, code="E_NOT_FOUND", remedy=_REMEDY)
        _check_size(path.stat().st_size, path, max_bytes)
        return path.read_bytes()
    except OSError as error:
        raise ModelError("the file cannot be read", where=path, code="E_ACCESS", found=error.strerror) from None


def _load(raw: bytes, path: Path, max_bytes: int) -> Any:
    if zipfile.is_zipfile(io.BytesIO(raw)):
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            _check_size(sum(member.file_size for member in archive.infolist()), path, max_bytes)
            if archive.testzip() is not None:  # torch itself does not look at the checksums
                raise zipfile.BadZipFile
    with torch.serialization.safe_globals([(_Tracker, _TRACKER)]):
        return torch.load(io.BytesIO(raw), map_location="cpu", weights_only=True)


def _check_size(found: int, path: Path, max_bytes: int) -> None:
    if found > max_bytes:
        raise ModelError(
            "too large for a checkpoint of the original",
            where=path,
            code="E_TOO_LARGE",
            found=f"{found:,} bytes",
            expected=f"at most {max_bytes:,}",
            remedy=_REMEDY,
        )


def _refusal(path: Path, error: Exception) -> ModelError:
    """Return what is wrong; torch's own words are not passed on, for they advise to trust the file."""
    unknown = re.search(r"GLOBAL (\S+)", str(error))
    if unknown or "call reduce" in str(error):
        return ModelError(
            "the file holds more than tensors and could run code; nothing of it was run",
            where=path,
            code="E_ORIGINAL_UNSAFE",
            found=unknown[1][:80] if unknown else "a call",
            expected="tensors only",
            remedy=_REMEDY,
        )
    problem = "not a checkpoint, or a damaged one"
    return ModelError(problem, where=path, code="E_ORIGINAL_FILE", found=type(error).__name__, remedy=_REMEDY)


def _state_dict(loaded: Any, path: Path) -> tuple[Mapping[str, Tensor], tuple[str, ...]]:
    """Return the state dict, and the names of what is beside it."""
    others: tuple[str, ...] = ()
    state = loaded
    if isinstance(loaded, Mapping) and isinstance(loaded.get(_MODEL), Mapping):
        state, others = loaded[_MODEL], tuple(sorted(_plain(str(key)[:80]) for key in loaded if key != _MODEL))
    if not isinstance(state, Mapping) or not state:
        raise _no_state_dict(path, type(state).__name__)
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise _no_state_dict(path, f"{str(name)[:80]}, a {type(value).__name__}")
    return state, others


def _no_state_dict(path: Path, found: str) -> ModelError:
    return ModelError(
        "no state dict", where=path, code="E_ORIGINAL_FILE", found=found, expected="tensors by name", remedy=_REMEDY
    )


def _checked(name: str, tensor: Tensor, path: Path) -> Tensor:
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_complex():
        found = f"{name}, {tensor.layout} {tensor.dtype} on {tensor.device.type}"
        raise ModelError("not a plain tensor", where=path, code="E_ORIGINAL_FILE", found=found, remedy=_REMEDY)
    if not tensor.is_floating_point():
        return tensor.detach().clone()
    plain = tensor.detach().to(torch.float32)
    if not torch.isfinite(plain).all():
        raise ModelError("weights are not finite", where=path, code="E_MODEL_NAN", found=name, remedy=_REMEDY)
    return plain


def _plain(name: str) -> str:
    """Return a name that is safe in Markdown and on a terminal."""
    return "".join(c if c.isalnum() or c in "._- " else "_" for c in name)
