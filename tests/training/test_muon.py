from contextlib import suppress
from pathlib import Path

import pytest
import torch
from torch import nn

from mendscan.config import TrainingSettings
from mendscan.training.checkpoint import load_checkpoint, restore, save_checkpoint
from mendscan.training.loop import generator_for, make_optimiser, train_steps
from mendscan.training.muon import Muon, orthogonalised

SETTINGS = TrainingSettings(optimiser="muon", clip="norm", weight_decay=0.01, schedule="one-cycle")


class Small(nn.Module):
    """A filter for each kind of update: matrices, a matrix too small to be one, biases, norms."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        first, second = nn.Conv2d(8, 16, 3, padding=1), nn.Conv2d(16, 8, 3)
        self.body = nn.Sequential(first, nn.GroupNorm(4, 16), nn.SiLU(), second, nn.SiLU())
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def fit(network: nn.Module, steps: int) -> float:
    optimiser = make_optimiser(list(network.parameters()), SETTINGS, rate=0.01)
    return take(network, optimiser, 0, steps, schedule_ends=steps)


def take(
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    first: int,
    last: int,
    *,
    schedule_ends: int,
) -> float:
    losses: list[float] = []

    def loss_of_step(step: int) -> dict[str, torch.Tensor]:
        x = torch.randn(4, 8, 6, 6, generator=generator_for("data", step))
        # Inputs of very unequal size: gradients with a few strong directions.
        wanted = (x * torch.logspace(0, -2, 8)[:, None, None]).sum(1, keepdim=True)[..., 1:-1, 1:-1].sin()
        return {"loss": (network(x) - wanted).square().mean()}

    def after_step(step: int, figures: dict[str, float]) -> None:
        losses.append(figures["loss"])
        if step == last - 1 < schedule_ends - 1:
            raise StopIteration

    with suppress(StopIteration):
        train_steps(
            list(network.parameters()), optimiser, loss_of_step, first_step=first, steps=schedule_ends,
            seed_name="muon", settings=SETTINGS, after_step=after_step,
        )  # fmt: skip
    return sum(losses[-10:]) / 10


@pytest.mark.parametrize("shape", [(8, 200), (200, 8), (32, 32)])
def test_the_update_is_nearly_orthogonal_and_in_the_direction_of_the_singular_vectors(shape: tuple[int, int]) -> None:
    generator = generator_for("muon", *shape)
    matrix = torch.randn(*shape, generator=generator)
    u, values, vt = torch.linalg.svd(matrix, full_matrices=False)
    matrix = u @ torch.diag(torch.logspace(0, -1.5, len(values))) @ vt
    found = u.T @ orthogonalised(matrix) @ vt.T
    assert float(found.diagonal().min()) > 0.65
    assert float(found.diagonal().max()) < 1.25
    assert float((found - torch.diag(found.diagonal())).abs().max()) < 1e-3


def test_it_is_the_iteration_of_newton_and_schulz() -> None:
    matrix = torch.randn(12, 40, generator=generator_for("plain"), dtype=torch.float64)
    x = matrix / matrix.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x - 4.7750 * gram @ x + 2.0315 * gram @ gram @ x
    assert torch.allclose(orthogonalised(matrix.float()), x.float(), atol=1e-5)


def test_nothing_to_follow_leaves_a_matrix_where_it_is() -> None:
    assert torch.equal(orthogonalised(torch.zeros(8, 9)), torch.zeros(8, 9))


def test_filters_move_along_all_directions_and_the_rest_as_under_adamw() -> None:
    network, other = Small(), Small()
    for each, kind in ((network, Muon), (other, torch.optim.AdamW)):
        each(torch.randn(2, 8, 6, 6, generator=generator_for("x"))).square().mean().backward()
        kind(each.parameters(), lr=0.01, weight_decay=0.0).step()
    start = dict(Small().named_parameters())
    for (name, moved), adam in zip(network.named_parameters(), other.parameters(), strict=True):
        if moved.ndim >= 2 and moved.shape[0] >= 8:
            update = (moved - start[name]).detach().flatten(1)
            values = torch.linalg.svdvals(update)
            assert float(values.min() / values.max()) > 0.1
            assert float(update.square().mean().sqrt()) == pytest.approx(0.2 * 0.01, rel=0.25)
            assert not torch.equal(moved, adam)
        else:
            assert torch.equal(moved, adam)


def test_it_learns() -> None:
    assert fit(Small(), 120) < 0.5 * fit(Small(), 12)


def test_a_resumed_training_is_the_unbroken_one(tmp_path: Path) -> None:
    whole = Small()
    fit(whole, 20)
    first = Small()
    optimiser = make_optimiser(list(first.parameters()), SETTINGS, rate=0.01)
    take(first, optimiser, 0, 9, schedule_ends=20)
    save_checkpoint(tmp_path / "a.safetensors", first, optimiser, {})
    second = Small()
    optimiser = make_optimiser(list(second.parameters()), SETTINGS, rate=0.01)
    restore(load_checkpoint(tmp_path / "a.safetensors"), second, optimiser)
    take(second, optimiser, 9, 20, schedule_ends=20)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_matrices_alone_or_none_at_all_are_trained() -> None:
    for network in (nn.Linear(16, 16, bias=False), nn.Linear(4, 1)):
        before = network.weight.detach().clone()
        network(torch.ones(2, network.in_features)).sum().backward()
        Muon(network.parameters(), lr=0.01, weight_decay=0.0).step()
        assert not torch.equal(network.weight, before)
