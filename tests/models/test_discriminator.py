"""The discriminator: shapes, what is usual, and that it learns to tell faults."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from mendscan.config import DiscriminatorSettings
from mendscan.models.discriminator import FEATURES, Discriminator

SMALL = DiscriminatorSettings(channels=(8, 16))


def made(shape: tuple[int, int, int], settings: DiscriminatorSettings = SMALL) -> Discriminator:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Discriminator(settings, shape)


def scans(count: int, shape: tuple[int, int, int], seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8, 12, 16), (7, 9, 11), (1, 5, 4)])
@pytest.mark.parametrize("channels", [(8,), (8, 16), (8, 12, 16)])
def test_one_logit_per_voxel_for_any_grid(shape: tuple[int, int, int], channels: tuple[int, ...]) -> None:
    network = made(shape, DiscriminatorSettings(channels=channels))
    logits = network(scans(2, shape))
    assert logits.shape == (2, *shape)
    assert torch.isfinite(logits).all()


def test_a_scan_alone_and_among_others_is_the_same() -> None:
    network, batch = made((8, 12, 16)).eval(), scans(3, (8, 12, 16))
    with torch.no_grad():
        together = network(batch)
        alone = torch.cat([network(each[None]) for each in batch])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_what_is_usual_is_learnt_per_position() -> None:
    shape = (6, 8, 10)
    network, place = made(shape), torch.linspace(-2, 2, 10)
    healthy = place + 0.1 * scans(200, shape)
    network.learn_usual(iter(healthy))
    assert network.usual_CSHW.shape == (FEATURES, *shape)
    torch.testing.assert_close(network.usual_CSHW[0], place.expand(shape), atol=0.05, rtol=0)
    assert float(network.spread_CSHW[0].mean()) == pytest.approx(0.1, rel=0.1)
    saved = made(shape)
    saved.load_state_dict(network.state_dict())
    torch.testing.assert_close(saved(healthy[:1]), network(healthy[:1]))


def test_one_scan_has_no_spread() -> None:
    with pytest.raises(ValueError, match="found 1 healthy scans"):
        made((4, 4, 4)).learn_usual(scans(1, (4, 4, 4)))


def test_constant_features_are_not_divided_by_zero() -> None:
    network = made((4, 6, 6))
    network.learn_usual(torch.zeros(3, 4, 6, 6))
    assert torch.isfinite(network(torch.ones(1, 4, 6, 6))).all()


def test_it_learns_where_a_bright_block_is() -> None:
    shape = (8, 12, 12)
    network = made(shape)
    network.learn_usual(scans(20, shape, seed=1))
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-2)
    for step in range(30):
        batch, label = scans(4, shape, seed=10 + step), torch.zeros(4, *shape)
        corner = torch.randint(0, 5, (4,), generator=torch.Generator().manual_seed(step)).tolist()
        for scan, mark, at in zip(batch, label, corner, strict=True):
            scan[2:6, at : at + 5, 3:8] += 2
            mark[2:6, at : at + 5, 3:8] = 1
        loss = binary_cross_entropy_with_logits(network(batch), label)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    unseen = scans(1, shape, seed=99)
    unseen[0, 2:6, 6:11, 3:8] += 2
    with torch.no_grad():
        logits = network.eval()(unseen)[0]
    inside = torch.zeros(shape, dtype=torch.bool)
    inside[2:6, 6:11, 3:8] = True
    assert logits[inside].mean() > logits[~inside].mean() + 2


def test_members_differ_and_their_mean_counts() -> None:
    shape, batch = (6, 8, 10), scans(1, (6, 8, 10))
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        network = Discriminator(SMALL, shape, members=3).eval()
        each = torch.stack([network(batch, member=member) for member in range(3)])
        assert not torch.allclose(each[0], each[1])
        torch.testing.assert_close(network(batch), each.mean(0))
