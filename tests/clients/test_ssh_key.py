"""The operators' key as Jenkins binds it: a private key in a file, and nothing beside it."""

import subprocess
from pathlib import Path

import pytest

from thems_jobs.clients.ssh import Ssh
from thems_jobs.errors import UsageError


def test_the_private_key_says_its_public_half(tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "shop", "-f", key], check=True)
    beside = tmp_path / "key.pub"
    known = beside.read_text().strip()
    beside.unlink()
    assert Ssh("thems", key, tmp_path).public_key == known


@pytest.mark.parametrize("text", ["", "no key\n"])
def test_what_is_no_key_is_said(text: str, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(text)
    key.chmod(0o600)
    with pytest.raises(UsageError) as error:
        _ = Ssh("thems", key, tmp_path).public_key
    assert error.value.reference == "ssh-key-unreadable"
    assert str(key) in str(error.value)
