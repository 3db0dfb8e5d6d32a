"""Time to equal hold-out loss: mendscan's training against the straightforward loop.

Trains both networks twice, from the same weights, for the same number of steps, with the same losses and schedule:

- ours: what `mendscan train` does.  Scans are prepared ahead, in parallel, into a memory-mapped store; a batch is
  augmented as one tensor; bfloat16 where the plan says so, in the faster memory layout; the prior learns from codes
  encoded ahead.
- straightforward: what a notebook does.  A scan is read from its file and prepared when a slice of it is first asked
  for, and kept in memory; slices are augmented one by one; float32, default memory format; the prior's batch is
  augmented and encoded anew in every step.

Both are measured on the same hold-out slices about 20 times in a stage, and the clock stands still meanwhile.  What is
done ahead is on the clock: preparing before the VQ-VAE, encoding before the prior.  Both priors learn the codes of our
VQ-VAE, so that their NLL can be compared.  The target of a stage is the worse of the two final figures: both reach it.

    python benchmarks/training.py --data hippocampus --output runs/training --steps 800 --json training.json

Without `--data` a cohort is simulated.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mendscan.cohort.preparing import prepare
from mendscan.cohort.simulation import simulate_cohort
from mendscan.cohort.store import measure_cohort, prepare_cohort, split_by_content
from mendscan.config import PreparationSettings, TrainingSettings, override
from mendscan.detection.devices import choose_device
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.vqvae import VQVAE
from mendscan.progress import Silent
from mendscan.training.building import new_networks, stage_steps
from mendscan.training.loop import LossOfStep, generator_for, make_optimiser, train_steps
from mendscan.training.network_training import slice_data
from mendscan.training.plans import new_plan
from mendscan.training.stages import SliceData, encode_views, prior_loss, validate_prior, validate_vqvae, vqvae_loss
from mendscan.volumes.finding import find_scans
from mendscan.volumes.reading import read_volume

EVALUATIONS = 20


class SliceBySlice(SliceData):
    """Training slices that are augmented one after the other."""

    def augmented(self, indices: Tensor, *, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        single = [SliceData.augmented(self, index, generator=generator) for index in indices.split(1)]
        return torch.cat([slices for slices, _ in single]), torch.cat([positions for _, positions in single])


class ScansInMemory:
    """In the store's place: reads and prepares a scan when a slice of it is first asked for, and keeps it."""

    def __init__(self, paths: list[Path], settings: PreparationSettings, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.scan = cache(lambda row: prepare(read_volume(paths[row]), settings).slices_SHW)

    def __getitem__(self, place: tuple[int, int]) -> np.ndarray:
        return self.scan(place[0])[place[1]]


@dataclass
class Curve:
    """Hold-out figures, each with the seconds of the steps so far and of what was done `ahead` of them."""

    ahead: float
    steps: list[float] = field(default_factory=list)
    points: list[tuple[float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Stage:
    """What both loops share.  Hold-out figures count from step `first_figure` on."""

    settings: TrainingSettings
    steps: int
    rate: float
    validate: Callable[[nn.Module], dict[str, float]]
    figure: str
    first_figure: int = 0

    def run(self, network: nn.Module, loss: LossOfStep, *, ahead: float = 0.0) -> Curve:
        curve, parameters = Curve(ahead), list(network.train().parameters())
        optimiser, mark = make_optimiser(parameters, self.settings, rate=self.rate), time.perf_counter()

        def after_step(step: int, _: dict[str, float]) -> None:
            nonlocal mark
            curve.steps.append(time.perf_counter() - mark)
            due = step == self.steps - 1 or (step + 1) % max(1, self.steps // EVALUATIONS) == 0
            if due and step >= self.first_figure:
                curve.points.append((ahead + sum(curve.steps), self.validate(network)[self.figure]))
            mark = time.perf_counter()

        schedule = {"first_step": 0, "steps": self.steps, "settings": self.settings}
        train_steps(parameters, optimiser, loss, **schedule, seed_name="benchmark", after_step=after_step)
        return curve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of healthy scans; without it a cohort is simulated")
    parser.add_argument("--output", type=Path, default=Path("runs/training"), help="for the store and simulated scans")
    parser.add_argument("--steps", type=int, default=800, help="of both networks together, by each loop")
    parser.add_argument("--scans", type=int, default=24, help="size of a simulated cohort")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    folder = arguments.data or arguments.output / f"simulated-{arguments.scans}"
    if arguments.data is None:
        simulate_cohort(folder, n=arguments.scans, seed=0)
    with tempfile.TemporaryDirectory(dir=arguments.output) as work:
        rows = compare(*load(folder, arguments.steps, Path(work)))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


def load(folder: Path, steps: int, work: Path) -> tuple[SliceData, float, SliceData, SliceData]:
    """Return our training slices, the seconds that preparing them took, the plain ones, and the hold-out slices."""
    paths, facts = measure_cohort(find_scans(folder), Silent())
    device, assignments = choose_device("auto"), [f"training.steps={steps}"]
    settings = new_plan("auto", facts, seed=0, assignments=assignments, device=device).settings
    by_hash = {fact.content_hash: path for path, fact in zip(paths, facts, strict=True)}
    split = split_by_content(list(by_hash), settings)

    def prepared(hashes: tuple[str, ...]) -> SliceData:
        store = prepare_cohort([by_hash[content] for content in hashes], hashes, settings, work, Silent())
        return slice_data(store, hashes, settings, device)

    started = time.perf_counter()
    ours = prepared(split.train)
    seconds = time.perf_counter() - started
    scans = ScansInMemory([by_hash[c] for c in split.train], settings.preparation, ours.slices_NSHW.shape)
    plain = SliceBySlice(scans, ours.scans, ours.slices, override(settings, ["training.precision=float32"]), device)
    return ours, seconds, plain, prepared(split.validation)


def compare(ours: SliceData, preparing: float, plain: SliceData, held_out: SliceData) -> list[dict[str, object]]:
    """Train both networks by both loops, print a table and return its rows."""
    settings, default_format = ours.settings, {"memory_format": torch.contiguous_format}
    training, (vqvae_steps, prior_steps, _) = settings.training, stage_steps(settings)
    vqvae, prior = new_networks(settings, ours.device)
    plain_vqvae, plain_prior = (network.to(**default_format) for network in new_networks(settings, ours.device))
    print(f"{len(ours.scans)} scans, slices of {settings.slice_shape}, ours in {training.precision}\n")
    print("| stage | measure | ours | straightforward | straightforward / ours |\n|---|---|---|---|---|")

    # While nothing is quantised the error is an autoencoder's, and lower than what a VQ-VAE ends with.
    unquantised = round(settings.codebook.unquantised_fraction * vqvae_steps)
    validate = partial(validate_vqvae, data=held_out, quantise=True)
    stage = Stage(training, vqvae_steps, training.learning_rate_vqvae, validate, "holdout_l1", unquantised)
    curve = stage.run(vqvae, vqvae_loss(vqvae, ours, vqvae_steps), ahead=preparing)
    rows = report("VQ-VAE", "L1", curve, stage.run(plain_vqvae, vqvae_loss(plain_vqvae, plain, vqvae_steps)))

    validate = partial(validate_prior, codes=encode_views(vqvae, held_out, 1, lambda _: None))
    stage = Stage(training, prior_steps, training.learning_rate_prior, validate, "holdout_nll")
    started = time.perf_counter()
    codes = encode_views(vqvae, ours, training.prior_views, lambda _: None)
    curve = stage.run(prior, prior_loss(prior, codes, settings), ahead=time.perf_counter() - started)
    loss = partial(plain_prior_loss, plain_prior, vqvae.to(**default_format), plain)
    return rows + report("prior", "nats", curve, stage.run(plain_prior, loss))


def plain_prior_loss(prior: PixelSNAIL, vqvae: VQVAE, data: SliceData, step: int) -> dict[str, Tensor]:
    """The prior's loss as notebooks write it: every batch is augmented and encoded on the spot."""
    generator = generator_for(data.settings.seed, "prior", step)
    indices = torch.randint(len(data), (data.settings.training.batch_slices,), generator=generator)
    slices_BHW, position_B = data.augmented(indices, generator=generator)
    with torch.no_grad():
        codes_Bhw = vqvae.codes(slices_BHW, position_B)
    return {"loss": prior.nll(codes_Bhw, position_B).mean()}


def report(stage: str, unit: str, ours: Curve, plain: Curve) -> list[dict[str, object]]:
    """Print a stage's part of the table and return its rows."""
    target, rows = max(ours.points[-1][1], plain.points[-1][1]), []
    measures: dict[tuple[str, str], Callable[[Curve], float]] = {
        ("final hold-out figure", unit): lambda curve: curve.points[-1][1],
        ("seconds ahead of the steps", "s"): lambda curve: curve.ahead,
        ("seconds per step (median)", "s"): lambda curve: statistics.median(curve.steps),
        ("seconds to the target", "s"): lambda curve: next(at for at, figure in curve.points if figure <= target),
    }
    for (name, of), measure in measures.items():
        mine, theirs = measure(ours), measure(plain)
        print(f"| {stage} | {name} | {mine:.4g} | {theirs:.4g} | {theirs / mine:.3g} |", flush=True)
        figures = (("ours", mine, of), ("straightforward", theirs, of), ("straightforward / ours", theirs / mine, "×"))
        rows += [{"name": f"{stage}: {name}, {a}", "value": b, "unit": c, "goal": None} for a, b, c in figures]
    return rows


if __name__ == "__main__":
    main()
