"""Self-made faults: each family does what it says, inside its blob, as a function of the generator alone."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

import mendscan.cohort.corruption_families as families_module
import mendscan.cohort.corruptions as corruptions_module
from mendscan.cohort.anomalies import LOCAL_KINDS
from mendscan.cohort.artefacts import ALL_ARTEFACTS
from mendscan.cohort.corruption_families import BENDING, FAMILIES, Patch
from mendscan.cohort.corruptions import RADIUS_SHARES, Corrupted, corrupt, deformed
from mendscan.cohort.random_fields import coordinates, noise, rotation, sampled
from mendscan.smoothing import gaussian_smoothed

SHAPE = (20, 28, 24)


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def scan(seed: int) -> Tensor:
    """Smooth anatomy with some texture."""
    drawn = generator(seed)
    return noise(torch.Size(SHAPE), 6.0, drawn) + 0.2 * noise(torch.Size(SHAPE), 1.0, drawn)


def faulty(seed: int, *, aspect: tuple[float, float, float] = (1.0, 1.0, 1.0), **options: object) -> Corrupted:
    arguments = {"foreground_SHW": torch.ones(SHAPE, dtype=torch.bool)} | options
    return corrupt(
        scan(1), donor_SHW=scan(2), usual_SHW=torch.zeros(SHAPE), aspect=aspect, generator=generator(seed), **arguments
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_alters_its_blobs_and_nothing_else(name: str) -> None:
    many = [faulty(seed, families={name: FAMILIES[name]}) for seed in range(6)]
    assert any(each.label_SHW.any() for each in many)
    for each in many:
        change = (each.scan_SHW - scan(1)).abs()
        assert torch.isfinite(each.scan_SHW).all()
        if each.label_SHW.any():
            assert change[each.label_SHW].square().mean().sqrt() > 0.1
            # Beyond the soft edge everything is as it was; a displacement fades out over some more voxels.
            reach = 9 if name in BENDING else 5
            label = each.label_SHW[None, None].float()
            near = torch.nn.functional.max_pool3d(label, 2 * reach + 1, 1, reach)[0, 0] > 0
            assert change[~near].max() < (1e-2 if name in BENDING else 1e-4)
        else:
            assert change.max() == 0


def test_the_same_generator_gives_the_same_faults_and_leaves_the_scan() -> None:
    first, again, other = faulty(3), faulty(3), faulty(4)
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.scan_SHW, other.scan_SHW)


def test_blobs_lie_in_the_foreground() -> None:
    foreground = torch.zeros(SHAPE, dtype=torch.bool)
    foreground[:, :10] = True
    labels = torch.stack([faulty(seed, foreground_SHW=foreground).label_SHW for seed in range(8)])
    assert labels.any()
    assert not labels[:, :, 10:].any()


def test_without_foreground_nothing_happens() -> None:
    made = faulty(0, foreground_SHW=torch.zeros(SHAPE, dtype=torch.bool))
    assert torch.equal(made.scan_SHW, scan(1))
    assert not made.label_SHW.any()


def test_a_third_of_a_voxel_counts_where_no_one_could_see_a_fault() -> None:
    weights = torch.cat([faulty(seed).weight_SHW.flatten() for seed in range(8)])
    assert weights.unique().tolist() == pytest.approx([0.3, 1.0])


def test_blobs_are_as_long_in_mm_along_coarse_axes() -> None:
    """With slices three times as thick a blob spans a third as many of them."""
    lengths = {}
    for slices in (1.0, 3.0):
        spans = []
        for seed in range(40):
            label = faulty(seed, aspect=(slices, 1.0, 1.0), families={"shade": FAMILIES["shade"]}).label_SHW
            if label.any():
                spans.append([int(label.any(dim=tuple({0, 1, 2} - {axis})).sum()) for axis in range(3)])
        across = torch.tensor(spans, dtype=torch.float)
        lengths[slices] = (across[:, 0] / across[:, 1:].mean(1)).mean()
    assert lengths[3.0] < 0.75 * lengths[1.0]


def patch_of(voxels: Tensor, weight: Tensor) -> Patch:
    middle = torch.tensor([(n - 1) // 2 for n in voxels.shape], dtype=torch.float)
    return Patch(voxels, weight, voxels + 1, scan(3), torch.zeros_like(voxels), coordinates(voxels.shape) - middle, 5.0)


def test_going_all_the_way_is_the_donor_or_the_mean() -> None:
    patch = patch_of(scan(1), torch.ones(SHAPE))
    step = families_module.graft(patch, generator()) - patch.voxels
    assert 0.4 <= float(step.mean()) <= 1
    torch.testing.assert_close(step, step.mean().expand_as(step))
    after = families_module.average(patch, generator())
    left = (after / patch.voxels).median()
    assert 0 < float(left) <= 0.5
    torch.testing.assert_close(after, left * patch.voxels)


def test_bending_keeps_constants_and_coarsening_takes_detail_away() -> None:
    flat = patch_of(torch.full(SHAPE, 0.7), torch.ones(SHAPE))
    for name in BENDING:
        torch.testing.assert_close(FAMILIES[name](flat, generator()), flat.voxels)
    fine = patch_of(noise(torch.Size(SHAPE), 1.0, generator(5)), torch.ones(SHAPE))
    for name in ("pixelate", "smear"):
        assert FAMILIES[name](fine, generator()).std() < 0.8 * fine.voxels.std()


def test_scrambling_keeps_the_spectrum() -> None:
    patch = patch_of(scan(1), torch.ones(SHAPE))
    mean = gaussian_smoothed(patch.voxels, 0.5 * patch.radius)
    before, after = (
        torch.fft.rfftn(v - mean).abs() for v in (patch.voxels, families_module.scramble(patch, generator()))
    )
    inner = (slice(1, 9), slice(1, 13), slice(1, 11))
    torch.testing.assert_close(after[inner], before[inner], rtol=1e-3, atol=1e-2)


def test_no_name_is_shared_with_what_detection_is_measured_on_or_chosen_by() -> None:
    assert not set(FAMILIES) & (set(LOCAL_KINDS) | set(ALL_ARTEFACTS))


def test_nothing_is_imported_from_what_detection_is_measured_on_or_chosen_by() -> None:
    for module in (families_module, corruptions_module):
        tree = ast.parse(inspect.getsource(module))
        imported = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        own = {name for name in imported if name and name.startswith("mendscan")}
        assert own <= {"mendscan.cohort.corruption_families", "mendscan.cohort.random_fields", "mendscan.smoothing"}


def test_what_detection_is_measured_on_and_chosen_by_takes_nothing_from_here() -> None:
    folder = Path(families_module.__file__).parent
    evaluated = [*folder.glob("anomal*.py"), *folder.glob("*artefacts.py"), *folder.glob("selection_*.py")]
    assert len(evaluated) > 6
    for path in evaluated:
        source = path.read_text(encoding="utf-8")
        assert "corruption" not in source
        assert "random_fields" not in source


def test_deforming_moves_a_little() -> None:
    moved = deformed(scan(1), generator=generator())
    assert not torch.equal(moved, scan(1))
    assert torch.corrcoef(torch.stack([moved.flatten(), scan(1).flatten()]))[0, 1] > 0.5


def test_sampling_at_voxels_is_the_voxels_and_rotations_keep_lengths() -> None:
    torch.testing.assert_close(sampled(scan(1), coordinates(scan(1).shape)), scan(1), atol=1e-5, rtol=1e-5)
    turn = rotation(generator())
    torch.testing.assert_close(turn @ turn.T, torch.eye(3), atol=1e-5, rtol=0)


def test_radii_are_a_range() -> None:
    assert 0 < RADIUS_SHARES[0] < RADIUS_SHARES[1] < 0.5
