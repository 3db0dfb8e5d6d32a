"""The slices beside a slice: what the prior sees of them, and that nothing else changes."""

from __future__ import annotations

import torch
from torch import Tensor

from mendscan.config import PriorSettings
from mendscan.models.pixelsnail import PixelSNAIL
from mendscan.models.slice_context import beside

K, SHAPE = 5, (4, 6)
SETTINGS = PriorSettings(
    channels=6, blocks=1, layers_per_block=1, key_channels=3, value_channels=4, attention_kernel=3, context_slices=2
)


def prior() -> PixelSNAIL:
    return PixelSNAIL(SETTINGS, codes=K).double().eval()


def some_codes(*rows: int) -> Tensor:
    return torch.randint(K, (*rows, *SHAPE))


def test_slices_beside_a_slice_are_as_far_on_both_sides_and_missing_beyond_the_scan() -> None:
    codes = some_codes(7)
    found = beside(codes, 3, missing=K)
    for s in range(7):
        for side, other in enumerate((s - 3, s + 3)):
            expected = codes[other] if 0 <= other < 7 else torch.full(SHAPE, K)
            assert torch.equal(found[s, side], expected)
    assert (beside(codes, 9, missing=K) == K).all()


def test_with_both_slices_missing_the_prior_is_one_without_context() -> None:
    network, codes, position = prior(), some_codes(3), torch.zeros(3, dtype=torch.float64)
    missing = torch.full((3, 2, *SHAPE), K)
    assert torch.equal(network(codes, position, missing), network(codes, position))
    one_known = missing.clone()
    one_known[1, 0] = 0
    changed = (network(codes, position, one_known) != network(codes, position)).flatten(1).any(dim=1)
    assert changed.tolist() == [False, True, False]


def test_a_code_still_sees_none_of_its_own_slice_that_comes_later() -> None:
    network, around, position = prior(), some_codes(1, 2), torch.zeros(1, dtype=torch.float64)
    codes, height, width = some_codes(1), *SHAPE
    for index in range(height * width):
        later = codes.clone().flatten()
        later[index:] = (later[index:] + 1) % K
        seen, changed = (network(each.reshape(codes.shape), position, around).flatten(2) for each in (codes, later))
        assert torch.equal(seen[..., : index + 1], changed[..., : index + 1])


def test_every_code_of_both_slices_counts_where_it_is_near() -> None:
    network, codes, position = prior(), some_codes(1), torch.zeros(1, dtype=torch.float64)
    around = some_codes(1, 2)
    known = network(codes, position, around)
    for side in range(2):
        other = around.clone()
        other[0, side, 1, 2] = (other[0, side, 1, 2] + 1) % K
        changed = (network(codes, position, other) != known).any(dim=1)[0]
        assert changed[1, 2]
        assert changed[0, 0]


def test_a_prior_without_context_has_no_such_weights_and_ignores_what_is_beside() -> None:
    network = PixelSNAIL(SETTINGS.model_copy(update={"context_slices": 0}), codes=K).eval()
    assert not any(name.startswith("context") for name in network.state_dict())
    codes, position = some_codes(2), torch.zeros(2)
    assert torch.equal(network(codes, position, some_codes(2, 2)), network(codes, position))
