"""Where to compute, and how finely."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from mendscan.errors import SettingsError

__all__ = ["bfloat16_is_fast", "choose_device", "one_thread", "threads"]


def choose_device(name: str) -> torch.device:
    """Return a device by name; ``auto`` takes the best there is.

    Raises:
        SettingsError: If the device asked for is not there.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(kind for kind in ("cuda", "mps", "cpu") if available[kind]))
    if not available.get(name.split(":")[0], False):
        there = ", ".join(kind for kind, present in available.items() if present)
        raise SettingsError("device not available", where=f"--device {name}", expected=f"one of {there}")
    return torch.device(name)


def bfloat16_is_fast(device: torch.device) -> bool:
    """Return whether products in bfloat16 are faster than in float32 there."""
    if device.type != "cpu":
        return device.type == "cuda" and torch.cuda.is_bf16_supported()
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()) and torch.backends.cpu.get_cpu_capability() == "AVX512"


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use so many threads within one operation while the block lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_thread(device: torch.device) -> AbstractContextManager[None]:
    """Compute with one thread on the CPU: the last bits of some convolutions depend on how many there are."""
    return threads(1 if device.type == "cpu" else torch.get_num_threads())
