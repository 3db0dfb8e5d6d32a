"""The metrics of a training run: one JSON object per line, and the curves as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mendscan.volumes.writing import write_text

__all__ = ["MetricsLog", "draw_curves"]


class MetricsLog:
    """``metrics.jsonl``: each line has ``stage``, ``step`` and figures; every step at most once.

    Args:
        path: The file; continued if it exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, stage: str, step: int) -> None:
        """Forget what was logged of `stage` from `step` on, and of it all later stages: it will be done again."""
        kept: list[str] = []
        for line in self._lines():
            entry = json.loads(line)
            if entry["stage"] == stage and entry["step"] >= step:
                break
            kept.append(line)
        write_text(self.path, "".join(f"{line}\n" for line in kept))

    def write(self, stage: str, step: int, **figures: float) -> None:
        """Append one line."""
        entry = {"stage": stage, "step": step} | {name: round(value, 6) for name, value in figures.items()}
        with self.path.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(entry) + "\n")

    def entries(self) -> list[dict[str, Any]]:
        """Return all lines."""
        return [json.loads(line) for line in self._lines()]

    def _lines(self) -> list[str]:
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8")
        # A line cut off by a crash has no end and is dropped.
        return text[: text.rfind("\n") + 1].splitlines()


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


def draw_curves(entries: list[dict[str, Any]], path: Path) -> None:
    """Draw losses, hold-out figures and code use: over epochs where there are any, else over steps."""
    from matplotlib.figure import Figure

    unit, every = ("epoch", _BY_EPOCH) if any("epoch" in entry for entry in entries) else ("step", _BY_STEP)
    stages = {entry["stage"] for entry in entries}
    panels = [panel for panel in every if panel[0] in stages or panel[0] != "discriminator"]
    figure = Figure(figsize=(4 * len(panels), 3.4), layout="constrained")
    for axes, (stage, title, names) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name, label in names.items():
            points = [(e[unit], e[name]) for e in entries if e["stage"] == stage and name in e and unit in e]
            if points:
                axes.plot(*zip(*points, strict=True), label=label, linewidth=1.2, marker="." if len(points) < 3 else "")
        axes.set(title=title, xlabel=unit)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False)
    figure.savefig(path, dpi=110)
