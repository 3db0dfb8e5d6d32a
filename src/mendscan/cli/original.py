"""The original system's weights."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mendscan.cli.app import app
from mendscan.exits import reports_errors
from mendscan.options import Device, DeviceOption, SetOption

__all__ = ["import_original"]


class _Experiment(StrEnum):
    """The original's two."""

    brain = "brain"
    abdomen = "abdomen"


@app.command()
@reports_errors
def import_original(
    prior: Annotated[Path, typer.Option("--prior", help="The prior's checkpoint, .pt or .safetensors.")],
    model: Annotated[Path, typer.Option("--output", "-o", help="Model folder to write.")],
    vqvae: Annotated[
        Path | None, typer.Option("--vqvae", help="The VQ-VAE's checkpoint; by default the one inside the prior's.")
    ] = None,
    preset: Annotated[_Experiment, typer.Option(help="Which of the original's experiments.")] = _Experiment.brain,
    stem_padding: Annotated[
        bool,
        typer.Option(
            "--stem-padding/--no-stem-padding",
            help="Whether the VQ-VAE's first convolution was trained with padding; the file cannot tell.",
        ),
    ] = False,
    healthy: Annotated[
        Path | None, typer.Option("--healthy", help="Healthy scans the networks have not seen; all calibrate.")
    ] = None,
    device: DeviceOption = Device.auto,
    assignments: SetOption = None,
) -> None:
    """Make a model of the original system's weights (snavalm/lsr_mood_challenge_2020).

    Example: mendscan import-original --vqvae brain_feats.pt --prior brain_la.pt -o model --healthy healthy_scans
    """
    from mendscan.console import show_original
    from mendscan.console_progress import ConsoleProgress
    from mendscan.training.importing import import_original as run_import

    with ConsoleProgress() as progress:
        summary = run_import(
            prior,
            model,
            vqvae=vqvae,
            preset=preset.value,
            stem_padding=stem_padding,
            healthy=healthy,
            assignments=assignments or (),
            device=device.value,
            progress=progress,
        )
    show_original(summary)
