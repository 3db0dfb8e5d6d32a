"""The codebook: brute force and vector-quantize-pytorch as oracles, and codes that do not die."""

from __future__ import annotations

import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from torch import Tensor
from vector_quantize_pytorch import VectorQuantize

from mendscan.models.quantizer import VectorQuantizer, code_perplexity, kmeans


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quantizer_of(vectors_KE: Tensor) -> VectorQuantizer:
    quantizer = VectorQuantizer(*vectors_KE.shape)
    with torch.no_grad():
        quantizer.vectors_KE.copy_(vectors_KE)
    quantizer.sums_KE.copy_(vectors_KE)
    return quantizer


def flat(latents_BEhw: Tensor) -> Tensor:
    return rearrange(latents_BEhw, "B E h w -> (B h w) E")


def grid(points_NE: Tensor) -> Tensor:
    """One latent grid, a column of points."""
    return rearrange(points_NE, "N E -> 1 E N 1")


# --- nearest ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [1, 3, 64])
@pytest.mark.parametrize("codes", [1, 7, 128])
def test_nearest_is_the_brute_force_answer(codes: int, dimension: int) -> None:
    vectors_KE, latents_BEhw = torch.randn(codes, dimension), torch.randn(2, dimension, 5, 9)
    found = quantizer_of(vectors_KE).nearest(latents_BEhw)
    assert found.shape == (2, 5, 9)
    expected = torch.cdist(flat(latents_BEhw).double(), vectors_KE.double()).argmin(1)
    assert torch.equal(found.flatten(), expected)


def test_each_position_keeps_its_place() -> None:
    codes_Bhw = torch.randint(6, (3, 4, 5))
    quantizer = quantizer_of(torch.randn(6, 3))
    embedded = quantizer.embed(codes_Bhw)
    assert embedded.shape == (3, 3, 4, 5)
    assert torch.equal(embedded[2, :, 1, 3], quantizer.vectors_KE[codes_Bhw[2, 1, 3]])
    assert torch.equal(quantizer.nearest(embedded), codes_Bhw)


@pytest.mark.parametrize("codes", [2, 3, 17, 64, 130, 512])
def test_the_lowest_index_wins_a_tie(codes: int) -> None:
    """Every vector twice, once in each half: the distances are equal, so the lower half must win."""
    half_KE = torch.randn((codes + 1) // 2, 24)
    quantizer = quantizer_of(torch.cat([half_KE, half_KE])[:codes])
    for points in (1, 3, 100):
        assert quantizer.nearest(grid(torch.randn(points, 24))).max() < len(half_KE)


POINTS = st.tuples(st.integers(-3, 3), st.integers(-3, 3))


@given(
    st.lists(POINTS, min_size=1, max_size=12),
    st.lists(POINTS, min_size=1, max_size=6),
)
@hypothesis_settings(max_examples=60, deadline=None)
def test_ties_on_a_lattice_go_to_the_lowest_index(
    vectors: list[tuple[int, int]], points: list[tuple[int, int]]
) -> None:
    """Small integers are exact in float32, so all ties are real ones."""
    found = quantizer_of(torch.tensor(vectors).float()).nearest(grid(torch.tensor(points).float())).flatten().tolist()
    for point, code in zip(points, found, strict=True):
        squared = [sum((p - v) ** 2 for p, v in zip(point, vector, strict=True)) for vector in vectors]
        assert code == squared.index(min(squared))


def test_nearest_and_embed_equal_vector_quantize_pytorch() -> None:
    oracle, quantizer = oracle_and_quantizer(codes=40, dimension=6, decay=0.9)
    latents_BEhw = torch.randn(2, 6, 7, 8)
    vectors, indices, _ = oracle.eval()(rearrange(latents_BEhw, "B E h w -> B (h w) E"))
    found = quantizer(latents_BEhw)
    assert torch.equal(found.codes_Bhw.flatten(1), indices)
    torch.testing.assert_close(rearrange(found.embedded_BEhw, "B E h w -> B (h w) E"), vectors)


def oracle_and_quantizer(codes: int, dimension: int, decay: float) -> tuple[VectorQuantize, VectorQuantizer]:
    oracle = VectorQuantize(dimension, codes, decay=decay, eps=0.0, commitment_weight=1.0, rotation_trick=False)
    return oracle, quantizer_of(oracle.codebook.detach().clone())


# --- the two losses and the gradient ---------------------------------------------------------------------------------


def test_gradient_goes_straight_through() -> None:
    quantizer, latents = quantizer_of(torch.randn(5, 3)), torch.randn(2, 3, 4, 4, requires_grad=True)
    weight = torch.randn(2, 3, 4, 4)
    (quantizer(latents).embedded_BEhw * weight).sum().backward()
    assert torch.equal(latents.grad, weight)
    assert quantizer.vectors_KE.grad is None


def test_losses_are_their_formulas_and_move_the_right_side() -> None:
    quantizer, latents = quantizer_of(torch.randn(5, 3)), torch.randn(2, 3, 4, 4, requires_grad=True)
    found = quantizer(latents)
    torch.testing.assert_close(found.embedded_BEhw, quantizer.embed(found.codes_Bhw))
    difference = (latents - quantizer.embed(found.codes_Bhw)).detach()
    torch.testing.assert_close(found.codebook_loss, (difference**2).mean())
    torch.testing.assert_close(found.commitment_loss, (difference**2).mean())
    found.codebook_loss.backward()
    assert latents.grad is None
    assert quantizer.vectors_KE.grad.abs().sum() > 0
    quantizer.vectors_KE.grad = None
    quantizer(latents).commitment_loss.backward()
    assert quantizer.vectors_KE.grad is None
    torch.testing.assert_close(latents.grad, 2 * difference / difference.numel())


# --- running means ---------------------------------------------------------------------------------------------------


def test_one_step_of_running_means_is_its_formula() -> None:
    vectors_KE = torch.tensor([[0.0, 0.0], [10.0, 10.0], [99.0, 99.0]])
    quantizer = quantizer_of(vectors_KE)
    points = torch.tensor([[1.0, 0.0], [3.0, 2.0], [8.0, 9.0]])
    quantizer.track(grid(points), quantizer.nearest(grid(points)), decay=0.9, move=True)
    torch.testing.assert_close(quantizer.use_K, torch.tensor([0.9 + 0.1 * 2, 0.9 + 0.1 * 1, 0.9]))
    expected = torch.stack(
        [
            (0.9 * vectors_KE[0] + 0.1 * (points[0] + points[1])) / 1.1,
            (0.9 * vectors_KE[1] + 0.1 * points[2]) / 1.0,
            vectors_KE[2],
        ]
    )
    torch.testing.assert_close(quantizer.vectors_KE.detach(), expected)


def test_running_means_equal_vector_quantize_pytorch_over_many_steps() -> None:
    oracle, quantizer = oracle_and_quantizer(codes=16, dimension=4, decay=0.8)
    oracle.train()
    for _ in range(12):
        latents_BEhw = torch.randn(2, 4, 6, 6)
        _, indices, _ = oracle(rearrange(latents_BEhw, "B E h w -> B (h w) E"))
        codes_Bhw = quantizer.nearest(latents_BEhw)
        assert torch.equal(codes_Bhw.flatten(1), indices)
        quantizer.track(latents_BEhw, codes_Bhw, decay=0.8, move=True)
        torch.testing.assert_close(quantizer.vectors_KE.detach(), oracle.codebook, rtol=1e-4, atol=1e-5)


def test_a_code_that_is_used_no_more_stays_where_it_is() -> None:
    """Its running sums fade away, and their quotient would lead to the origin."""
    quantizer = quantizer_of(torch.tensor([[1.0, 0.0], [0.0, 4.0]]))
    latents_BEhw = grid(torch.tensor([[1.0, 0.0]] * 8))
    for _ in range(2000):
        quantizer.track(latents_BEhw, quantizer.nearest(latents_BEhw), decay=0.97, move=True)
    torch.testing.assert_close(quantizer.vectors_KE[1].detach(), torch.tensor([0.0, 4.0]), atol=1e-3, rtol=0)


def test_tracking_without_moving_follows_the_use_only() -> None:
    quantizer = quantizer_of(torch.randn(4, 2))
    before = quantizer.vectors_KE.detach().clone()
    quantizer.track(grid(torch.randn(9, 2)), torch.full((1, 9, 1), 2), decay=0.5, move=False)
    assert torch.equal(quantizer.vectors_KE, before)
    assert quantizer.use_K.tolist() == [0.5, 0.5, 0.5 + 0.5 * 9, 0.5]


# --- revival ---------------------------------------------------------------------------------------------------------


def test_exactly_the_dead_codes_are_seeded_again_with_their_statistics() -> None:
    quantizer = quantizer_of(torch.randn(6, 3))
    quantizer.use_K.copy_(torch.tensor([5.0, 0.2, 4.0, 0.0, 6.0, 3.0]))
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    mean_use = float(quantizer.use_K.mean())
    latents_BEhw = 50 + torch.randn(1, 3, 4, 4)
    assert quantizer.revive(latents_BEhw, below=0.1, generator=seeded()) == 2
    dead, alive = [1, 3], [0, 2, 4, 5]
    for name, tensor in quantizer.state_dict().items():
        assert torch.equal(tensor[alive], before[name][alive]), name
    for code in dead:
        assert (flat(latents_BEhw) == quantizer.vectors_KE[code]).all(1).any()
        assert float(quantizer.use_K[code]) == pytest.approx(mean_use)
        torch.testing.assert_close(quantizer.sums_KE[code] / quantizer.use_K[code], quantizer.vectors_KE[code].data)


def test_a_revived_code_stays_where_it_was_put() -> None:
    """Without resetting the sums, the next running mean would pull the code back to where it died."""
    quantizer = quantizer_of(torch.zeros(2, 2))
    quantizer.use_K.copy_(torch.tensor([10.0, 0.0]))
    quantizer.revive(torch.full((1, 2, 1, 1), 7.0), below=0.5, generator=seeded())
    quantizer.track(torch.full((1, 2, 1, 1), 7.0), torch.tensor([[[1]]]), decay=0.9, move=True)
    torch.testing.assert_close(quantizer.vectors_KE[1].data, torch.full((2,), 7.0))


def test_nothing_is_revived_when_all_are_used() -> None:
    quantizer = quantizer_of(torch.randn(4, 2))
    before = quantizer.vectors_KE.detach().clone()
    assert quantizer.revive(torch.randn(1, 2, 3, 3), below=0.5, generator=seeded()) == 0
    assert torch.equal(quantizer.vectors_KE, before)


def test_revival_is_decided_by_its_generator() -> None:
    latents_BEhw = torch.randn(1, 2, 8, 8)

    def revived(seed: int) -> Tensor:
        quantizer = quantizer_of(torch.zeros(8, 2))
        quantizer.use_K.copy_(torch.tensor([8.0] + [0.0] * 7))
        quantizer.revive(latents_BEhw, below=0.5, generator=seeded(seed))
        return quantizer.vectors_KE.detach().clone()

    assert torch.equal(revived(1), revived(1))
    assert not torch.equal(revived(1), revived(2))


CLUSTERS, CODES, DIMENSION, STEPS = 100, 128, 64, 80


def test_kmeans_start_and_revival_keep_the_codebook_alive() -> None:
    """The toy of method.md §3, four times smaller: clusters that need most of the codes."""
    centres_CE = 3 * torch.randn(CLUSTERS, DIMENSION, generator=seeded(1))

    def sample(seed: int, count: int) -> Tensor:
        cluster = torch.randint(CLUSTERS, (count,), generator=seeded(seed))
        return centres_CE[cluster] + 0.1 * torch.randn(count, DIMENSION, generator=seeded(seed + 1))

    def used_codes_and_error(*, start: bool, revive: bool) -> tuple[int, float]:
        quantizer = VectorQuantizer(CODES, DIMENSION)
        if start:
            quantizer.start_from(sample(123_456, 4096), generator=seeded())
        for step in range(STEPS):
            latents_BEhw = grid(sample(10 * step, 1024))
            quantizer.track(latents_BEhw, quantizer.nearest(latents_BEhw), decay=0.9, move=True)
            if revive and step % 10 == 0:
                quantizer.revive(latents_BEhw, below=0.03, generator=seeded(step))
        found = quantizer(grid(sample(999_999, 4096)))
        return len(found.codes_Bhw.unique()), float(found.commitment_loss.detach())

    plain_used, plain_error = used_codes_and_error(start=False, revive=False)
    started_used, started_error = used_codes_and_error(start=True, revive=False)
    used, error = used_codes_and_error(start=True, revive=True)
    assert plain_used < 0.65 * CODES < 0.8 * CODES < started_used < used
    assert error < 0.9 * started_error < 0.6 * plain_error


# --- k-means ---------------------------------------------------------------------------------------------------------


def test_kmeans_finds_separated_clusters() -> None:
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = centres.repeat(50, 1) + 0.1 * torch.randn(150, 2)
    best = min(torch.cdist(centres, kmeans(points, 3, generator=seeded(seed))).min(1).values.max() for seed in range(5))
    assert best < 0.1


def test_kmeans_centres_are_the_means_of_their_points() -> None:
    points = torch.randn(60, 2)
    centres = kmeans(points, 4, generator=seeded(), rounds=100)
    nearest = torch.cdist(points, centres).argmin(1)
    for k in range(4):
        torch.testing.assert_close(centres[k], points[nearest == k].mean(0))


@pytest.mark.parametrize("points", [1, 2, 7])
def test_kmeans_with_fewer_points_than_clusters(points: int) -> None:
    points_NE = torch.randn(points, 3)
    centres_KE = kmeans(points_NE, 8, generator=seeded())
    assert centres_KE.shape == (8, 3)
    assert torch.cdist(centres_KE, points_NE).min(1).values.max() < 1e-5
    assert torch.cdist(points_NE, centres_KE).min(1).values.max() < 1e-5


def test_kmeans_leaves_its_points_and_the_global_generator_alone() -> None:
    points_NE = torch.randn(30, 2)
    before, state = points_NE.clone(), torch.get_rng_state()
    first, second = (kmeans(points_NE, 5, generator=seeded(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(points_NE, before)
    assert torch.equal(torch.get_rng_state(), state)


def test_starting_forgets_all_statistics() -> None:
    quantizer, latents_NE = VectorQuantizer(4, 2), torch.randn(40, 2)
    quantizer.track(grid(latents_NE), quantizer.nearest(grid(latents_NE)), decay=0.5, move=True)
    quantizer.start_from(latents_NE, generator=seeded())
    assert torch.equal(quantizer.vectors_KE.data, kmeans(latents_NE, 4, generator=seeded()))
    assert torch.equal(quantizer.sums_KE, quantizer.vectors_KE.data)
    assert quantizer.use_K.tolist() == [1.0] * 4


# --- perplexity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "expected"), [([4.0] * 8, 8.0), ([0.0, 3.0, 0.0], 1.0), ([0.5, 0.25, 0.25], 2**1.5), ([1e-9, 1e-9], 2.0)]
)
def test_perplexity(use: list[float], expected: float) -> None:
    assert code_perplexity(torch.tensor(use)) == pytest.approx(expected, rel=1e-6)


def test_nearest_is_the_same_in_lower_arithmetic() -> None:
    """Training computes in bfloat16, whose distances to neighbouring codes are often equal."""
    quantizer = quantizer_of(torch.randn(512, 4, generator=seeded()))
    latents_BEhw = grid(torch.randn(500, 4, generator=seeded(1)))
    expected = quantizer.nearest(latents_BEhw)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(quantizer.nearest(latents_BEhw), expected)
