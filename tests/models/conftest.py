import pytest
import torch


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    """Networks take their first weights from torch's global generator."""
    torch.manual_seed(0)
