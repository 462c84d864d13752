"""What the role of the proxies does for ProxySQL, which cannot be run here, as far as it needs no ProxySQL."""

import os
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from thems_jobs import resources

PLAYBOOK = Path(__file__).parent / "playbooks" / "certify_proxy.yml"
ADDRESS = "192.0.2.161"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """ProxySQL's folder, with the authority beside."""
    made = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]
    subprocess.run([*made, "-subj", "/CN=database", "-keyout", "ca.key", "-out", "ca.pem"], cwd=tmp_path, check=True)
    return tmp_path


def certify(folder: Path) -> None:
    host = f"ansible_connection=local ansible_host={ADDRESS} ansible_python_interpreter={sys.executable}"
    (folder / "inventory").write_text(f"shop-proxy-1 {host}\n")
    done = subprocess.run(
        [
            Path(sys.executable).with_name("ansible-playbook"), "--inventory", folder / "inventory", PLAYBOOK,
            "--extra-vars", f"target={folder}",
        ],
        capture_output=True, text=True, check=False,
        env={
            **os.environ, "ANSIBLE_CONFIG": str(resources.path("ansible", "ansible.cfg")),
            "ANSIBLE_ROLES_PATH": str(resources.path("ansible", "roles")), "ANSIBLE_HOME": str(folder / "ansible"),
            "ANSIBLE_REMOTE_TMP": str(folder / "remote"),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def serves(folder: Path) -> bool:
    """True if a TLS server can use the files, and our authority has signed them for the proxy's address."""
    verify = ["openssl", "verify", "-CAfile", "ca.pem", "-verify_ip", ADDRESS, "proxysql-cert.pem"]
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(folder / "proxysql-cert.pem", folder / "proxysql-key.pem")
    return subprocess.run(verify, cwd=folder, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="gives the key to root's group")
def test_proxysql_gets_a_certificate_of_the_database_s_authority_and_keeps_it(folder: Path) -> None:
    certify(folder)
    assert serves(folder)
    assert (folder / "proxysql-ca.pem").read_text() == (folder / "ca.pem").read_text()
    assert (folder / "proxysql-key.pem").stat().st_mode & 0o777 == 0o640
    first = (folder / "proxysql-cert.pem").read_text()
    certify(folder)
    assert (folder / "proxysql-cert.pem").read_text() == first


@pytest.mark.skipif(os.geteuid() != 0, reason="gives the key to root's group")
def test_a_certificate_that_proxysql_made_for_itself_is_replaced(folder: Path) -> None:
    own = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=ProxySQL"]
    subprocess.run([*own, "-keyout", "proxysql-key.pem", "-out", "proxysql-cert.pem"], cwd=folder, check=True)
    certify(folder)
    assert serves(folder)


def test_a_proxy_that_hangs_may_not_hold_the_address() -> None:
    """Its port stays open: the check of keepalived waits for the greeting."""
    defaults = yaml.safe_load(resources.path("ansible", "roles", "proxy", "defaults", "main.yml").read_text())
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check = ["/bin/sh", "-c", defaults["proxy_vrrp_check"]["proxysql"].replace("{{ proxy_port }}", str(port))]
        assert subprocess.run(check, check=False).returncode != 0

        def greet() -> None:
            for _ in range(2):  # the connection of before waits still
                server.accept()[0].sendall(b"J\0\0\0\n8.0.30\0")

        threading.Thread(target=greet, daemon=True).start()
        assert subprocess.run(check, check=False).returncode == 0
    assert subprocess.run(check, check=False).returncode != 0
