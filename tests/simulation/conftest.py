"""What the simulation's tests share."""

import logging

import pytest


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Thousands of runs in trouble would say so thousands of times."""
    caplog.set_level(logging.CRITICAL)
