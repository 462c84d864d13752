"""Fixtures of the client tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_api import Lab, make_certificates, running_lab


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def lab(tmp_path: Path, certificates: Path) -> Iterator[Lab]:
    with running_lab(tmp_path, certificates) as running:
        yield running
