import pytest
import torch
from torch import nn
from torch.nn.functional import elu

from mendscan.models.blocks import GatedResidualBlock, make_norm, position_plane


def test_gated_residual_block_is_its_formula() -> None:
    block = GatedResidualBlock(4, norm=lambda n: make_norm("group", n)).eval()
    x = torch.randn(2, 4, 5, 6)
    hidden = block.conv2(elu(block.norm2(block.conv1(elu(block.norm1(x))))))
    change, gate = hidden[:, :4], hidden[:, 4:]
    torch.testing.assert_close(block(x), x + change * torch.sigmoid(gate))


def test_a_closed_gate_leaves_the_input() -> None:
    block = GatedResidualBlock(4, norm=lambda n: make_norm("batch", n)).eval()
    with torch.no_grad():
        block.conv2.weight[4:].zero_()
        block.conv2.bias[4:].fill_(-1e4)
    x = torch.randn(1, 4, 3, 3)
    assert torch.equal(block(x), x)


def test_dropout_takes_whole_channels() -> None:
    block = GatedResidualBlock(16, norm=lambda n: make_norm("group", n), dropout=0.5).train()
    seen: list[torch.Tensor] = []
    block.dropout.register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    block(torch.randn(2, 16, 4, 4))
    empty = (seen[0] == 0).flatten(2).all(2)
    assert 0 < empty.sum() < empty.numel()
    assert (seen[0] != 0).flatten(2).any(2).logical_xor(empty).all()


@pytest.mark.parametrize("channels", [1, 3, 4, 8, 12, 20, 64, 130])
def test_group_norm_takes_groups_that_divide(channels: int) -> None:
    norm = make_norm("group", channels)
    assert isinstance(norm, nn.GroupNorm)
    assert channels % norm.num_groups == 0
    assert norm(torch.randn(2, channels, 3, 3)).shape == (2, channels, 3, 3)
    assert make_norm("group", 64).num_groups == 8


def test_batch_norm() -> None:
    assert isinstance(make_norm("batch", 5), nn.BatchNorm2d)


def test_position_is_one_constant_plane_per_row() -> None:
    plane = position_plane(torch.tensor([-0.5, 0.25]), like=torch.zeros(2, 3, 4, 5, dtype=torch.float64))
    assert plane.shape == (2, 1, 4, 5)
    assert plane.dtype == torch.float64
    assert (plane[0] == -0.5).all()
    assert (plane[1] == 0.25).all()
