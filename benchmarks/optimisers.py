"""What so many steps are worth under each optimiser: hold-out figures of the three networks of `auto`.

Every network starts from the same weights and takes the same steps on the same data, under each optimiser with each
learning rate that is asked for; the priors learn the codes of the first VQ-VAE.  For the VQ-VAE the figure is the
hold-out loss, for the prior the hold-out NLL in nats, for the discriminator the average precision of self-made faults
in hold-out scans.

    python benchmarks/optimisers.py --data hippocampus --steps 300 --json optimisers.json

Without `--data` a cohort is simulated.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mendscan.cohort.simulation import simulate_cohort
from mendscan.cohort.store import SliceStore, Split, measure_cohort, prepare_cohort, split_by_content
from mendscan.config import Settings, override
from mendscan.models.discriminator import Discriminator
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.vqvae import VQVAE
from mendscan.progress import Silent
from mendscan.training.building import new_discriminator, new_networks
from mendscan.training.discriminating import ScanData, discriminator_loss, validate_discriminator
from mendscan.training.loop import LossOfStep, make_optimiser, train_steps
from mendscan.training.network_training import slice_data
from mendscan.training.plans import new_plan
from mendscan.training.stages import SliceData, encode_views, prior_loss, validate_prior, validate_vqvae, vqvae_loss
from mendscan.volumes.finding import find_scans

CPU = torch.device("cpu")
PARTS = 4
"""Hold-out figures are computed after each of so many equal parts of the steps."""


@dataclass(frozen=True)
class Row:
    """One training: hold-out figures after each part of it, and the seconds of a step."""

    network: str
    optimiser: str
    rate: float
    steps: int
    figures: list[float]
    seconds_per_step: float


@dataclass(frozen=True, eq=False)
class Case:
    """An untrained network, what it learns by, and its figure after a step."""

    name: str
    network: nn.Module
    loss: Callable[[Any], LossOfStep]
    figure: Callable[[Any, int], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of healthy scans; without it a cohort is simulated")
    parser.add_argument("--steps", type=int, default=300, help="of each network")
    parser.add_argument("--scans", type=int, default=24, help="size of a simulated cohort")
    parser.add_argument(
        "--optimisers", nargs="+", default=["adamw:0.001", "adamw:0.003", "muon:0.003", "muon:0.01"],
        help="each with its largest learning rate",
    )  # fmt: skip
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        folder = arguments.data or Path(work) / "simulated"
        if arguments.data is None:
            simulate_cohort(folder, n=arguments.scans, seed=0)
        paths, facts = measure_cohort(find_scans(folder), Silent())
        hashes = [fact.content_hash for fact in facts]
        assignments = [f"training.steps={3 * arguments.steps}"]
        settings = new_plan("auto", facts, seed=0, assignments=assignments, device=CPU).settings
        store = prepare_cohort(paths, hashes, settings, Path(work), Silent())
        split = split_by_content(hashes, settings)
        rows = compare(arguments.optimisers, arguments.steps, store, split, settings)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))


def compare(optimisers: list[str], steps: int, store: SliceStore, split: Split, settings: Settings) -> list[Row]:
    """Train each network under each optimiser, printing a line for each."""
    print(f"{'network':14} {'optimiser':14} {'s a step':>9}   hold-out figures after each of {PARTS} parts")
    vqvae, prior = new_networks(settings, CPU)
    training, validation = (slice_data(store, part, settings, CPU) for part in (split.train, split.validation))
    rows, learnt = run_all(vqvae_case(vqvae, training, validation, steps), optimisers, steps, settings)
    rows += run_all(prior_case(prior, learnt, training, validation), optimisers, steps, settings)[0]
    discriminator = new_discriminator(override(settings, ["discriminator.members=1"]), CPU)
    scans = (
        ScanData(store.slices_NSHW, tuple(store.rows(part)), settings, CPU) for part in (split.train, split.validation)
    )
    if discriminator is not None:
        rows += run_all(discriminator_case(discriminator, *scans), optimisers, steps, settings)[0]
    return rows


def vqvae_case(vqvae: VQVAE, training: SliceData, validation: SliceData, steps: int) -> Case:
    unquantised = round(training.settings.codebook.unquantised_fraction * steps)
    return Case(
        "vqvae", vqvae, lambda network: vqvae_loss(network, training, steps),
        lambda network, step: validate_vqvae(network, validation, quantise=step >= unquantised)["holdout_loss"],
    )  # fmt: skip


def prior_case(prior: PixelSNAIL, vqvae: VQVAE, training: SliceData, validation: SliceData) -> Case:
    codes = encode_views(vqvae, training, training.settings.training.prior_views or 1, lambda _: None)
    held_out = encode_views(vqvae, validation, 1, lambda _: None)
    return Case(
        "prior", prior, lambda network: prior_loss(network, codes, training.settings),
        lambda network, _: validate_prior(network, held_out)["holdout_nll"],
    )  # fmt: skip


def discriminator_case(discriminator: Discriminator, training: ScanData, validation: ScanData) -> Case:
    discriminator.learn_usual(training)
    return Case(
        "discriminator", discriminator, lambda network: discriminator_loss(network, training),
        lambda network, _: validate_discriminator(network, validation).get("holdout_fault_ap", math.nan),
    )  # fmt: skip


def run_all(case: Case, optimisers: list[str], steps: int, settings: Settings) -> tuple[list[Row], Any]:
    """Train a copy of the network under each optimiser; also return the first one."""
    trained = [run(case, optimiser, steps, settings) for optimiser in optimisers]
    return [row for _, row in trained], trained[0][0]


def run(case: Case, optimiser: str, steps: int, settings: Settings) -> tuple[nn.Module, Row]:
    """Train a copy of the network."""
    kind, _, rate = optimiser.partition(":")
    chosen = override(settings, [f"training.optimiser={kind}"]).training
    network = copy.deepcopy(case.network).train()
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    figures: list[float] = []
    seconds, mark = 0.0, time.perf_counter()

    def after_step(step: int, _: dict[str, float]) -> None:
        nonlocal seconds, mark
        seconds += time.perf_counter() - mark
        if (step + 1) % max(1, steps // PARTS) == 0:
            figures.append(case.figure(network, step))
        mark = time.perf_counter()

    train_steps(
        parameters, make_optimiser(parameters, chosen, rate=float(rate)), case.loss(network), first_step=0,
        steps=steps, seed_name="optimisers", settings=chosen, after_step=after_step,
    )  # fmt: skip
    row = Row(case.name, kind, float(rate), steps, figures, seconds / steps)
    shown = "  ".join(f"{figure:.4f}" for figure in figures)
    print(f"{case.name:14} {optimiser:14} {row.seconds_per_step:9.3f}   {shown}", flush=True)
    return network.eval(), row


if __name__ == "__main__":
    main()
