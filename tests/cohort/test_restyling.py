"""Whole scans as another scanner would show them."""

import torch
from torch import Tensor

from mendscan.cohort.random_fields import noise
from mendscan.cohort.restyling import restyled
from mendscan.smoothing import gaussian_smoothed

SHAPE = torch.Size((20, 28, 24))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def scan() -> Tensor:
    drawn = generator(99)
    return noise(SHAPE, 6.0, drawn) + 0.2 * noise(SHAPE, 1.0, drawn)


def fine_energy(voxels: Tensor) -> float:
    return float((voxels - gaussian_smoothed(voxels, 1.0)).square().mean())


def test_the_same_generator_gives_the_same_look_and_leaves_the_scan() -> None:
    given = scan()
    assert torch.equal(restyled(given, generator=generator(3)), restyled(given, generator=generator(3)))
    assert torch.equal(given, scan())


def test_some_scans_stay_as_they_are_and_others_gain_or_lose_detail() -> None:
    own = fine_energy(scan())
    found = [restyled(scan(), generator=generator(seed)) for seed in range(80)]
    ratios = torch.tensor([fine_energy(each) / own for each in found])
    unchanged = sum(torch.equal(each, scan()) for each in found)
    # (1 - 0.4) (1 - 0.3) (1 - 0.5) = 0.21 of them.
    assert 6 <= unchanged <= 32
    assert ratios.min() < 0.6
    assert ratios.max() > 1.4


def test_anatomy_stays_where_it_is() -> None:
    """A change of look is small beside the anatomy, and never a step."""
    for seed in range(40):
        change = restyled(scan(), generator=generator(seed)) - scan()
        assert torch.isfinite(change).all()
        assert change.std() < 0.35 * scan().std()


def test_an_even_scan_stays_even_or_is_shaded_smoothly_where_no_noise_is_added() -> None:
    looks = [restyled(torch.ones(SHAPE), generator=generator(seed)) for seed in range(60)]
    even = sum(float(each.std()) < 1e-6 for each in looks)
    shaded = [each for each in looks if 0.09 < each.std() < 0.11 and fine_energy(each) < 2e-4]
    # 0.7 of them without noise, half of these shaded.
    assert 10 <= even <= 32
    assert 10 <= len(shaded) <= 32
