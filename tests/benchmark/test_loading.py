"""Reading real JPEG files through the training loader."""

from __future__ import annotations

import pytest

from acmix.benchmark.loading import benchmark_data
from acmix.errors import UsageError


def test_real_jpeg_files_are_read() -> None:
    said: list[str] = []
    assert benchmark_data(images=8, batch_size=2, img_size=32, workers=0, seconds=1.0, say=said.append) > 0
    assert "0 reading processes" in said[0]
    with pytest.raises(UsageError, match="expected at least two batches"):
        benchmark_data(images=4, batch_size=4)
