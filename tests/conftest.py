"""What every test stands on: one thread a process, and memory that shows when nobody wrote it."""

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture
def empty_is_nan():
    """Fills what `torch.empty` and its like return with NaN, so that an element a kernel forgets fails the test."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]
