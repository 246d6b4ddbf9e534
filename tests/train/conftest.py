"""What the tests of training share."""

import pytest


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares a test's runs their pictures, which cost more than a tiny run's steps."""
    for name in ("draw_curves", "draw_paths"):
        monkeypatch.setattr(f"acmix.train.loop.{name}", lambda folder: None)
