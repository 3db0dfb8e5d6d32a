"""A running training on disk: safetensors for tensors, JSON for the rest, a SHA-256 over all of it, the last two kept.

The format itself has no checksum: a flipped bit would be another weight.  A checkpoint is written beside the one before
it, read back, and only then is the one before the previous removed; a damaged newest one thus costs a minute, not a
training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn, optim

from mendscan.errors import MendscanError, ModelError
from mendscan.strict_json import parse_json
from mendscan.volumes.writing import write_bytes

__all__ = ["Checkpoint", "Checkpoints", "load_checkpoint", "restore", "save_checkpoint", "state_digest"]

KEPT = 2
"""The newest checkpoints of a stage that stay."""


@dataclass(frozen=True)
class Checkpoint:
    """What a training needs to go on as if it had never stopped.

    No random state is among it: every draw is a function of seed, stage and step.

    Attributes:
        facts: Step and whatever the stage recorded, as JSON values.
        tensors: Parameters, buffers and the optimiser's state by dotted name.
    """

    facts: dict[str, Any]
    tensors: dict[str, Tensor]


@dataclass
class Checkpoints:
    """The checkpoints of one stage in the work folder: ``prior-00000120.safetensors`` was saved after 120 steps.

    Attributes:
        work: The folder.
        stage: The stage's name.
        say: Told, in a line, of a checkpoint that cannot be used.
    """

    work: Path
    stage: str
    say: Callable[[str], None]

    def __post_init__(self) -> None:
        self._good: list[Path] = []

    def newest(self, basis: str) -> Checkpoint | None:
        """Return the newest checkpoint that is whole and rests on `basis`; None if there is none.

        None costs no more than time: a stage that begins anew takes the same steps again.
        """
        for path in self._newest_first():
            try:
                found = load_checkpoint(path)
            except ModelError as error:
                self.say(f"warning: {error.at(path.name)}")
                continue
            if found.facts.get("basis", "") != basis:
                self.say(f"warning: {path.name}: belongs to other networks than those now trained; not used")
                continue
            self._good = [path]
            return found
        return None

    def save(self, step: int, model: nn.Module, optimiser: optim.Optimizer, facts: Mapping[str, Any]) -> None:
        """Save the state after `step` steps; then remove all but this one and the last good one before it.

        Raises:
            WriteError: If it cannot be written; those before it are intact.
        """
        path = self.work / f"{self.stage}-{step:08d}.safetensors"
        save_checkpoint(path, model, optimiser, {**facts, "step": step})
        self._good = [*(p for p in self._good if p != path), path][-KEPT:]
        for old in self._newest_first():
            if old not in self._good:
                with suppress(OSError):
                    old.unlink()

    def _newest_first(self) -> Iterator[Path]:
        return iter(sorted(self.work.glob(f"{self.stage}-{'[0-9]' * 8}.safetensors"), reverse=True))


def save_checkpoint(path: Path, model: nn.Module, optimiser: optim.Optimizer | None, facts: Mapping[str, Any]) -> None:
    """Write model, optimiser and facts, with a digest of them.

    Raises:
        MendscanError: If a weight is not finite (E_DIVERGED): such a state is nothing to go on from.
        WriteError: If the file cannot be written; what was there before is intact.
    """
    tensors = {f"model.{name}": value for name, value in _state(model).items()}
    if optimiser is not None:
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{key}": value.cpu().contiguous() for key, value in state.items()}
    _check_finite(tensors, path)
    text = json.dumps(facts, sort_keys=True)
    write_bytes(path, save(tensors, metadata={"facts": text, "sha256": _digest(text, tensors)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and verify every byte of it.

    Raises:
        ModelError: If the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            metadata = opened.metadata()
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        if metadata["sha256"] != _digest(metadata["facts"], tensors):
            raise ValueError("its digest is another")
        return Checkpoint(parse_json(metadata["facts"].encode()), tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, RuntimeError) as error:
        raise ModelError("the checkpoint is damaged", where=path, code="E_CHECKPOINT", found=error) from None


def restore(checkpoint: Checkpoint, model: nn.Module, optimiser: optim.Optimizer | None = None) -> None:
    """Put a checkpoint's tensors into a model and an optimiser built with the same settings."""
    prefix = "model."
    model.load_state_dict({k.removeprefix(prefix): v for k, v in checkpoint.tensors.items() if k.startswith(prefix)})
    if optimiser is None:
        return
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in checkpoint.tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "optimiser":
            index, _, key = rest.partition(".")
            state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
    _match_devices(optimiser)


def state_digest(model: nn.Module) -> str:
    """Return the SHA-256 of a network's parameters and buffers."""
    return _digest("", _state(model))


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise MendscanError("a weight is no longer finite", where=path.stem, code="E_DIVERGED", found=name)


def _match_devices(optimiser: optim.Optimizer) -> None:
    for parameter, state in optimiser.state.items():
        for key, value in state.items():
            if torch.is_tensor(value) and key != "step":
                state[key] = value.to(parameter.device)
