"""Secrets of a lab, made when it comes up: authorities of its own, the API's certificate, an SSH key, passwords."""

import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from thems_jobs.lab.errors import LabError
from thems_jobs.lab.layout import ROUTER_ADDRESS, LabLayout

LIFE_DAYS = 825

OPENSSL_CONFIG = """\
[req]
distinguished_name = name
[name]
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {names}
"""


def make_certificates(layout: LabLayout, nodes: Iterable[str]) -> None:
    """Write the authority's certificate and the API's with its key; the authority's own key is thrown away."""
    names = [f"IP:{ROUTER_ADDRESS}", "IP:127.0.0.1", "DNS:localhost", *(f"DNS:{node}" for node in nodes)]
    with tempfile.TemporaryDirectory(dir=layout.state) as scratch:
        config, authority_key = Path(scratch) / "openssl.cnf", Path(scratch) / "ca.key"
        config.write_text(OPENSSL_CONFIG.format(names=", ".join(names)))
        common = ["openssl", "req", "-x509", "-config", str(config), "-days", str(LIFE_DAYS), "-nodes",
                  "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]  # fmt: skip
        _run(*common, "-extensions", "authority", "-subj", "/CN=thems-jobs lab authority",
             "-keyout", str(authority_key), "-out", str(layout.authority))  # fmt: skip
        _run(*common, "-extensions", "server", "-subj", "/CN=thems-jobs lab API",
             "-CA", str(layout.authority), "-CAkey", str(authority_key),
             "-keyout", str(layout.certificate_key), "-out", str(layout.certificate))  # fmt: skip


def make_database_secrets(layout: LabLayout) -> None:
    """Write the authority of the database machines with its key, and the passwords of the accounts in it."""
    with tempfile.TemporaryDirectory(dir=layout.state) as scratch:
        config = Path(scratch) / "openssl.cnf"
        config.write_text(OPENSSL_CONFIG.format(names="DNS:localhost"))
        _run("openssl", "req", "-x509", "-config", str(config), "-days", str(LIFE_DAYS), "-nodes",
             "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-extensions", "authority",
             "-subj", "/CN=thems-jobs lab database authority",
             "-keyout", str(layout.database_authority_key), "-out", str(layout.database_authority))  # fmt: skip
    for path in layout.database_passwords:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(24) + "\n")


def make_ssh_key(layout: LabLayout) -> None:
    """Write the operators' ed25519 key pair."""
    _run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "thems-jobs lab", "-f", str(layout.ssh_key))


def _run(*command: str) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"`{' '.join(command[:2])}` failed: {done.stderr.strip()}")
