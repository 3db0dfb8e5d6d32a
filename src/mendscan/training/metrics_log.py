"""The metrics of a training run: one JSON object per line, and the curves as a picture."""

from __future__ import annotations

import io
import json
import math
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mendscan.strict_json import parse_json
from mendscan.volumes.writing import write_bytes, write_errors, write_text

__all__ = ["MetricsLog", "draw_curves"]


class MetricsLog:
    """``metrics.jsonl``: each line has ``stage``, ``step`` and figures; every step at most once.

    Stages may be logged at once, each by a thread of its own.

    Args:
        path: The file; continued if it exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.RLock()

    def restore(self, stage: str, entries: Sequence[dict[str, Any]]) -> None:
        """Have the log of a stage be these entries: what was logged after its checkpoint will be done again.

        Raises:
            WriteError: If the file cannot be written.
        """
        with self._lock:
            self._rewrite([*(entry for entry in self.entries() if entry["stage"] != stage), *entries])

    def in_order(self, stages: Sequence[str]) -> None:
        """Put the stages in this order, whichever was restored last.

        Raises:
            WriteError: If the file cannot be written.
        """
        with self._lock:
            self._rewrite(sorted(self.entries(), key=lambda entry: stages.index(entry["stage"])))

    def write(self, stage: str, step: int, **figures: float) -> None:
        """Append one line; a figure that is not finite is left out, for JSON has no such numbers.

        Raises:
            WriteError: If it cannot be written.
        """
        finite = {name: round(value, 6) for name, value in figures.items() if math.isfinite(value)}
        entry = {"stage": stage, "step": step} | finite
        with self._lock, write_errors(self.path), self.path.open("a", encoding="utf-8") as opened:
            opened.write(_line(entry))

    def entries(self) -> list[dict[str, Any]]:
        """Return all lines; one that a crash has cut off is left out."""
        with self._lock:
            if not self.path.exists():
                return []
            lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [entry for entry in map(_entry, lines) if entry is not None]

    def _rewrite(self, entries: Sequence[dict[str, Any]]) -> None:
        write_text(self.path, "".join(map(_line, entries)))


def _line(entry: dict[str, Any]) -> str:
    """Return the line of an entry, the same whether it was just made or comes from a checkpoint."""
    first = {"stage": entry["stage"], "step": entry["step"]}
    return json.dumps(first | dict(sorted(entry.items()))) + "\n"


def _entry(line: str) -> dict[str, Any] | None:
    try:
        entry = parse_json(line.encode())
    except ValueError:
        return None
    whole = isinstance(entry, dict) and isinstance(entry.get("stage"), str) and isinstance(entry.get("step"), int)
    return entry if whole else None


_BY_STEP = (
    ("vqvae", "VQ-VAE: reconstruction error, L1", {"reconstruction": "reconstruction", "holdout_l1": "holdout l1"}),
    ("vqvae", "VQ-VAE: codes", {"perplexity": "perplexity", "codes_used": "codes used"}),
    ("prior", "Prior: code NLL, nats", {"loss": "loss", "holdout_nll": "holdout nll"}),
    (
        "discriminator",
        "Discriminator: self-made faults found",
        {"overlap": "overlap", "holdout_fault_ap": "holdout ap"},
    ),
)
_BY_EPOCH = (
    ("vqvae", "VQ-VAE: loss", {"epoch_loss": "training", "holdout_loss": "hold-out"}),
    ("vqvae", "VQ-VAE: codes", {"perplexity": "perplexity", "codes_used": "codes used"}),
    ("prior", "Prior: code NLL, nats", {"epoch_loss": "training", "holdout_nll": "hold-out"}),
)


def _belongs_to(network: str) -> Callable[[str], bool]:
    """Return whether a stage is of the network: of any plane, any member."""
    return lambda stage: stage.partition("-")[0] == network


def draw_curves(entries: list[dict[str, Any]], path: Path) -> None:
    """Draw losses, hold-out figures and code use: over epochs where there are any, else over steps."""
    from matplotlib.figure import Figure

    unit, every = ("epoch", _BY_EPOCH) if any("epoch" in entry for entry in entries) else ("step", _BY_STEP)
    stages = list(dict.fromkeys(entry["stage"] for entry in entries))
    panels = [panel for panel in every if panel[0] != "discriminator" or any(map(_belongs_to(panel[0]), stages))]
    figure = Figure(figsize=(4 * len(panels), 3.4), layout="constrained")
    for axes, (network, title, names) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for stage in filter(_belongs_to(network), stages):
            for name, label in names.items():
                points = [(e[unit], e[name]) for e in entries if e["stage"] == stage and name in e and unit in e]
                if points:
                    marker = "." if len(points) < 3 else ""
                    which = " ".join((label, *stage.split("-")[1:]))
                    axes.plot(*zip(*points, strict=True), label=which, linewidth=1.2, marker=marker)
        axes.set(title=title, xlabel=unit)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=110)
    write_bytes(path, drawn.getvalue())
