"""What the roles write for Percona XtraDB Cluster and ProxySQL, which cannot be run here, is what people agreed to.

Rendered by Ansible's own template module. After a change on purpose: WRITE_GOLDEN=1 pytest, and read the diff.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from thems_jobs import resources
from thems_jobs.clients.mysql import mariadb as asking

HERE = Path(__file__).parent
PLAYBOOK = HERE / "playbooks" / "render_database.yml"
SHARED = ("proxysql.cnf", "clustercheck.socket", "backup.cnf")  # the same whatever the flavour

VARIABLES: dict[str, Any] = {
    "thems_platform": "shop",
    "ansible_managed": "Ansible managed",
    "database_settings": {
        "cluster_name": "shop", "port": 3306, "addresses": [f"192.0.2.{number}" for number in range(151, 155)],
        "user": "thems", "application_user": "shop", "application_database": "shop", "proxysql_user": "thems",
        "gcache_mib": 2048, "max_connections": 400, "memory_mib": 32768, "cores": 8,
    },
    "database_password": "it's a \\secret",
    "database_application_password": "another",
    "proxy_admin_password": "of-the-admin",
    "proxy_monitor_password": "of-the-jobs",
    "proxy_application_password": "of-the-shop",
}  # fmt: skip


def render(target: Path, flavour: str) -> dict[str, str]:
    """Return what the roles write on a machine of this flavour, by the name of the file."""
    inventory = target / "inventory"
    inventory.write_text(
        f"shop-db-1 ansible_connection=local ansible_host=192.0.2.151 ansible_python_interpreter={sys.executable}\n"
    )
    settings = {**VARIABLES["database_settings"], "flavour": flavour}
    folder = target / "files"
    folder.mkdir()
    done = subprocess.run(
        [
            Path(sys.executable).with_name("ansible-playbook"), "--inventory", inventory, PLAYBOOK,
            "--extra-vars", json.dumps({**VARIABLES, "target": str(folder), "database_settings": settings}),
        ],
        capture_output=True, text=True, check=False,
        env={
            **os.environ, "ANSIBLE_CONFIG": str(resources.path("ansible", "ansible.cfg")),
            "ANSIBLE_HOME": str(target / "ansible"), "ANSIBLE_REMOTE_TMP": str(target / "remote"),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("flavour", ["percona", "mariadb"])
def test_what_the_roles_write_is_what_was_agreed(tmp_path: Path, flavour: str) -> None:
    rendered = render(tmp_path, flavour)
    golden = HERE / "golden" / flavour
    if os.environ.get("WRITE_GOLDEN"):
        golden.mkdir(parents=True, exist_ok=True)
        for name, text in rendered.items():
            (golden / name).write_text(text)
    assert rendered == {path.name: path.read_text() for path in golden.iterdir()}


def test_the_two_flavours_share_what_they_can() -> None:
    percona, mariadb = (HERE / "golden" / flavour for flavour in ("percona", "mariadb"))
    for name in SHARED:
        assert (percona / name).read_text() == (mariadb / name).read_text()
    assert "'it''s a \\\\secret'" in (percona / "accounts.sql").read_text()


@pytest.mark.parametrize("flavour", ["percona", "mariadb"])
def test_backups_log_in_as_the_account_that_is_made_for_them_and_looked_for(flavour: str) -> None:
    login = dict(re.findall(r"^(\w+) = (.*)$", (HERE / "golden" / flavour / "backup.cnf").read_text(), re.MULTILINE))
    accounts = (HERE / "golden" / flavour / "accounts.sql").read_text()
    assert login["user"] in asking.COPIERS
    assert f"ALTER USER '{login['user']}'@'localhost' IDENTIFIED BY '{login['password']}';" in accounts
    assert login["password"] not in (VARIABLES["database_password"], VARIABLES["database_application_password"])
