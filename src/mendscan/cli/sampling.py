"""What a model takes for healthy: samples of its prior."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mendscan.cli.app import app
from mendscan.exits import reports_errors
from mendscan.options import Device, DeviceOption, SeedOption

__all__ = ["sample"]


@app.command()
@reports_errors
def sample(
    model: Annotated[Path, typer.Option("--model", "-m", help="Model folder that mendscan train wrote.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Picture (.png), or slices to open in a viewer (.nii.gz).")
    ],
    n: Annotated[int, typer.Option("--number", "-n", help="How many slices.")] = 16,
    position: Annotated[
        float | None,
        typer.Option(help="Slice coordinate, -0.5 (first) to 0.5 (last slice); spread over all by default."),
    ] = None,
    seed: SeedOption = 0,
    temperature: Annotated[
        float, typer.Option(help="Below 1 only likely codes are drawn, above 1 also unlikely ones.")
    ] = 1.0,
    device: DeviceOption = Device.auto,
) -> None:
    """Draw healthy slices from a model's prior: what it takes for healthy, as a picture.

    Example: mendscan sample -m model -n 16 -o samples.png
    """
    from mendscan.console import show_samples
    from mendscan.console_progress import ConsoleProgress
    from mendscan.detection.sampling import sample as draw
    from mendscan.report.samples import check_samples_file, save_samples

    check_samples_file(output, n)
    with ConsoleProgress() as progress:
        samples = draw(
            model, n, position=position, seed=seed, temperature=temperature, device=device.value, progress=progress
        )
    save_samples(samples, output)
    show_samples(samples, output)
