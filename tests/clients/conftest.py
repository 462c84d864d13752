"""Fixtures of the client tests."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from lab_api import Lab, make_certificates, running_lab


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory, certificates: Path) -> Path:
    """The folder of a lab with user, token, pool and template."""
    directory = tmp_path_factory.mktemp("prepared")
    with running_lab(directory, certificates) as running:
        running.template()
    return directory


@pytest.fixture
def lab(tmp_path: Path, prepared: Path, certificates: Path) -> Iterator[Lab]:
    shutil.copytree(prepared, tmp_path, symlinks=True, dirs_exist_ok=True)
    with running_lab(tmp_path, certificates) as running:
        yield running
