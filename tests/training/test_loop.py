import torch
from torch import nn

from mendscan.config import TrainingSettings
from mendscan.models.dropout import ChannelDropout
from mendscan.training.loop import generator_for, learning_rate_factor, make_optimiser, train_steps


def test_one_cycle_rises_and_ends_at_zero() -> None:
    factors = [learning_rate_factor(step, 200, "one-cycle") for step in range(200)]
    assert max(factors) == 1.0
    assert factors[0] < 0.1
    assert factors[-1] < 1e-3
    top = factors.index(1.0)
    assert factors[:top] == sorted(factors[:top])
    assert factors[top:] == sorted(factors[top:], reverse=True)


def test_constant_schedule_stays() -> None:
    assert {learning_rate_factor(step, 10, "constant") for step in range(10)} == {1.0}


def test_generators_are_functions_of_their_names() -> None:
    first, same, other = (torch.rand(3, generator=generator_for("a", n)) for n in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def fit(first_step: int, network: nn.Module, optimiser: torch.optim.Optimizer, steps: int = 12) -> list[float]:
    losses: list[float] = []
    dropout = ChannelDropout(0.1)

    def loss_of_step(step: int) -> dict[str, torch.Tensor]:
        x = torch.randn(8, 4, generator=generator_for("data", step))
        return {"loss": (dropout(network(x)[..., None, None])[..., 0, 0] - x.sum(1, keepdim=True)).pow(2).mean()}

    train_steps(
        list(network.parameters()),
        optimiser,
        loss_of_step,
        first_step=first_step,
        steps=steps,
        seed_name="test",
        settings=TrainingSettings(clip="norm"),
        after_step=lambda _, figures: losses.append(figures["loss"]),
    )
    return losses


def test_training_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    network = nn.Linear(4, 1)
    torch.manual_seed(5)
    fit(0, network, make_optimiser(list(network.parameters()), TrainingSettings(), rate=1e-2))
    assert torch.equal(torch.rand(2), expected)


def test_the_loss_falls() -> None:
    torch.manual_seed(0)
    network = nn.Linear(4, 1)
    losses = fit(0, network, make_optimiser(list(network.parameters()), TrainingSettings(), rate=5e-2), steps=200)
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])
