"""Steps of training in the same time: networks side by side, one thread each, against one after the other.

Takes the same steps of the VQ-VAE, the prior and the discriminator twice: one network after the other, each by as many
threads as there are cores, and all at once by `mendscan.training.side_by_side`, as `mendscan train` does.  Each network
takes steps for about as long, so that the second way has no tail in which one core has nothing to do.

    python benchmarks/side_by_side.py --data hippocampus --steps 60 --json side_by_side.json

Without `--data` a cohort is simulated.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn

from mendscan.cohort.simulation import simulate_cohort
from mendscan.cohort.store import SliceStore, measure_cohort, prepare_cohort
from mendscan.config import Settings
from mendscan.progress import Silent
from mendscan.training.building import new_discriminator, new_networks
from mendscan.training.discriminating import ScanData, discriminator_loss
from mendscan.training.interrupts import StopRequest
from mendscan.training.loop import LossOfStep, make_optimiser, train_steps
from mendscan.training.network_training import slice_data
from mendscan.training.plans import new_plan
from mendscan.training.side_by_side import Crew, Turn, side_by_side
from mendscan.training.stages import encode_views, prior_loss, vqvae_loss
from mendscan.volumes.finding import find_scans

CPU = torch.device("cpu")
Network = tuple[nn.Module, LossOfStep]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of healthy scans; without it a cohort is simulated")
    parser.add_argument("--steps", type=int, default=60, help="of each network, about")
    parser.add_argument("--scans", type=int, default=12, help="how many are looked at")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = arguments.data or Path(work) / "simulated"
        if arguments.data is None:
            simulate_cohort(folder, n=arguments.scans, seed=0)
        paths, facts = measure_cohort(find_scans(folder)[: arguments.scans], Silent())
        hashes = [fact.content_hash for fact in facts]
        settings = new_plan("auto", facts, seed=0, assignments=["training.steps=10000"], device=CPU).settings
        store = prepare_cohort(paths, hashes, settings, Path(work), Silent())
        rows = compare(networks_of(store, hashes, settings), arguments.steps, settings)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


def networks_of(store: SliceStore, hashes: list[str], settings: Settings) -> dict[str, Network]:
    """Return each network in training mode, and the loss of its steps."""
    data, (vqvae, prior) = slice_data(store, hashes, settings, CPU), new_networks(settings, CPU)
    codes = encode_views(vqvae, slice_data(store, hashes[:2], settings, CPU), 2, lambda _: None)
    discriminator = new_discriminator(settings, CPU)
    assert discriminator is not None
    scans = ScanData(store.slices_NSHW, tuple(store.rows(hashes)), settings, CPU)
    discriminator.learn_usual(scans)
    return {
        "VQ-VAE": (vqvae.train(), vqvae_loss(vqvae, data, 10**6)),
        "prior": (prior.train(), prior_loss(prior, codes, settings)),
        "discriminator": (discriminator.members[0], discriminator_loss(discriminator, scans)),
    }


def compare(networks: dict[str, Network], steps: int, settings: Settings) -> list[dict[str, object]]:
    """Train both ways, print a table and return its rows."""
    take = {name: partial(taking, *network, settings=settings) for name, network in networks.items()}
    for each in take.values():
        each(Turn(), first=1, steps=4)  # the first steps allocate and compile
    apart = {name: timed(partial(each, Turn(), first=10, steps=10 + steps)) for name, each in take.items()}
    fair = {name: round(steps * max(apart.values()) / apart[name]) for name in take}
    alone = {name: apart[name] * fair[name] / steps for name in take}
    crew = Crew.for_networks(len(take), CPU)
    trainings = [(fair[name], partial(each, first=100, steps=100 + fair[name])) for name, each in take.items()]
    at_once = timed(lambda: side_by_side(trainings, crew, StopRequest()))
    print(f"slices of {settings.slice_shape}, {settings.training.precision}, {torch.get_num_threads()} threads\n")
    print("| network | steps | seconds a step alone |\n|---|---|---|")
    for name in take:
        print(f"| {name} | {fair[name]} | {apart[name] / steps:.3f} |")
    ratio = sum(alone.values()) / at_once
    print(f"\none after the other {sum(alone.values()):.1f} s, side by side {at_once:.1f} s ({crew}): {ratio:.2f}×")
    return [
        {"name": "training: one after the other / side by side", "value": ratio, "unit": "×", "goal": None},
        *(
            {"name": f"training: seconds a step, {n}", "value": s / steps, "unit": "s", "goal": None}
            for n, s in apart.items()
        ),
    ]


def taking(network: nn.Module, loss: LossOfStep, turn: Turn, *, first: int, steps: int, settings: Settings) -> None:
    parameters = list(network.parameters())
    train_steps(
        parameters,
        make_optimiser(parameters, settings.training, rate=1e-4),
        loss,
        first_step=first,
        steps=steps,
        seed_name="benchmark",
        settings=settings.training,
        after_step=lambda *_: turn.pass_on(),
    )


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
