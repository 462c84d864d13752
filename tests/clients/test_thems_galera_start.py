"""`thems-galera` starts a server only with settings that let it join, whatever files a package or a person adds.

The files are named as the role names them, and read as the servers read a folder: by name, the last one counts (seen on
MariaDB 10.11). The server and systemctl are stand-ins of a few lines.
"""

import json
import os
from pathlib import Path

import pytest
from test_thems_galera_copies import Machine

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="the program runs as root")

GOLDEN = Path(__file__).parent / "golden"
OTHERS = "gcomm://10.77.3.11,10.77.3.12,10.77.3.14,10.77.3.15,10.77.3.16"  # who is there, then the rest of the tier
MEMBER = "[mysqld]\nwsrep_cluster_address = gcomm://10.77.3.11,10.77.3.12,10.77.3.14\n"
# As the package of Percona XtraDB Cluster brings it for Debian: ready to be the first member of a new cluster.
PACKAGE = """[client]
socket=/var/run/mysqld/mysqld.sock

[mysqld]
datadir=/var/lib/mysql
wsrep_cluster_address=gcomm://
wsrep_cluster_name=pxc-cluster
wsrep_node_name=pxc-cluster-node-1
"""
SERVER = """[ "$1" = --print-defaults ] || exec echo 'mysqld  Ver 8.0.42-33.1'
echo "$0 would have been started with the following arguments:"
LC_ALL=C; cat "$HERE"/conf.d/*.cnf | sed -n 's/^\\([a-z_]*\\) *= *\\(.*\\)/--\\1=\\2 /p' | tr -d '\\n'
"""
SYSTEMCTL = 'echo "$*" >> "$HERE/asked"; [ "$1" != show ] || echo inactive\n'


def machine(folder: Path, flavour: str) -> Machine:
    """Return a stopped member with the role's files."""
    made = Machine(folder)
    role = json.loads((GOLDEN / flavour / "galera.json").read_text())
    prefix = Path(role["peers_file"]).name.removesuffix("90-thems-peers.cnf")
    settings = json.loads((folder / "etc" / "galera.json").read_text())
    settings |= {"flavour": flavour, "program": str(folder / "bin" / "server"), "bootstrap_unit": "mysql@bootstrap"}
    settings |= {key: str(folder / "conf.d" / Path(role[key]).name) for key in ("peers_file", "donors_file")}
    (folder / "etc" / "galera.json").write_text(json.dumps(settings))
    (folder / "etc" / "accounts.sql").write_text("")
    for name, script in (("server", SERVER), ("systemctl", SYSTEMCTL)):
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}")
        (folder / "bin" / name).chmod(0o755)
    (folder / "conf.d").mkdir()
    (folder / "conf.d" / f"{prefix}71-thems-member.cnf").write_text(MEMBER)
    return made


def asked(member: Machine) -> str:
    """Return what systemctl was asked for."""
    return (member.folder / "asked").read_text() if (member.folder / "asked").exists() else ""


JOIN = ("join", "--members", "10.77.3.11,10.77.3.12,10.77.3.13")
BOOTSTRAP = ("bootstrap", "--uuid", "00000000-0000-0000-0000-000000000000", "--seqno", "-1", "--absent", "")


@pytest.mark.parametrize("flavour", ["percona", "mariadb"])
def test_what_the_package_brings_is_overruled(tmp_path: Path, flavour: str) -> None:
    member = machine(tmp_path, flavour)
    if flavour == "percona":
        (tmp_path / "conf.d" / "mysqld.cnf").write_text(PACKAGE)
    member.run(*JOIN)
    assert "start --no-block mariadb" in asked(member)
    assert member.begin("expect-others").wait(20) == 0


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("zzz.cnf", PACKAGE, "wsrep_cluster_address=gcomm://,"),
        ("zzz.cnf", "[mysqld]\nwsrep_cluster_address = gcomm://10.77.9.9\n", "gcomm://10.77.9.9"),
    ],
)
def test_a_join_under_other_settings_starts_nothing(tmp_path: Path, name: str, text: str, found: str) -> None:
    member = machine(tmp_path, "percona")
    (tmp_path / "conf.d" / name).write_text(text)
    error = str(member.run(*JOIN, code=9)[1]["error"])
    assert found in error
    assert f"not {OTHERS};" in error
    assert "start" not in asked(member)


@pytest.mark.parametrize("address", ["", "wsrep_cluster_address = gcomm://?pc.wait_prim=no", "wsrep_cluster_address ="])
def test_nobody_starts_a_member_that_has_nobody_to_join(tmp_path: Path, address: str) -> None:
    """Also not the first one: its next start would be another new cluster."""
    member = machine(tmp_path, "percona")
    for path in (tmp_path / "conf.d").iterdir():
        path.unlink()
    (tmp_path / "conf.d" / "my.cnf").write_text(f"[mysqld]\n{address}\n")
    for command in (BOOTSTRAP, ("expect-others",)):
        assert "settings say wsrep_cluster_address=" in str(member.run(*command, code=9)[1]["error"])
    assert "start" not in asked(member)


def test_the_unit_asks_before_every_start() -> None:
    for flavour in ("percona", "mariadb"):
        assert (
            "\nExecStartPre=+/usr/local/sbin/thems-galera expect-others\n"
            in (GOLDEN / flavour / "unit.conf").read_text()
        )
