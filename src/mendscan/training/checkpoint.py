"""A running training on disk: safetensors for tensors, JSON for the rest, written atomically."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn, optim

from mendscan.errors import ModelError
from mendscan.volumes.writing import write_bytes

__all__ = ["Checkpoint", "load_checkpoint", "restore", "save_checkpoint"]


@dataclass(frozen=True)
class Checkpoint:
    """What a training needs to go on as if it had never stopped.

    Attributes:
        facts: Stage, step and whatever the stage recorded, as JSON values.
        tensors: Parameters, buffers and the optimiser's state by dotted name.
    """

    facts: dict[str, Any]
    tensors: dict[str, Tensor]


def save_checkpoint(path: Path, model: nn.Module, optimiser: optim.Optimizer | None, facts: dict[str, Any]) -> None:
    """Write model, optimiser and facts."""
    tensors = {f"model.{name}": value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    if optimiser is not None:
        for index, state in optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{key}": value.cpu().contiguous() for key, value in state.items()}
    write_bytes(path, save(tensors, metadata={"facts": json.dumps(facts, sort_keys=True)}))


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises:
        ModelError: If the file is damaged.
    """
    try:
        with safe_open(path, framework="pt") as opened:
            facts = json.loads(opened.metadata()["facts"])
            return Checkpoint(facts, {name: opened.get_tensor(name) for name in opened.keys()})  # noqa: SIM118
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise ModelError(
            "the checkpoint is damaged", where=path, code="E_CHECKPOINT", found=error, remedy="train without --resume"
        ) from None


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


def _match_devices(optimiser: optim.Optimizer) -> None:
    for parameter, state in optimiser.state.items():
        for key, value in state.items():
            if torch.is_tensor(value) and key != "step":
                state[key] = value.to(parameter.device)
