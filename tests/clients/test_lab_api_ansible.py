"""The modules of community.proxmox against the lab's API."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lab_api import TOKEN_USER, Lab

PLAYBOOK = Path(__file__).parent / "playbooks" / "lab_api.yml"


@pytest.mark.slow
def test_the_modules_do_what_they_do_on_a_real_cluster(lab: Lab, tmp_path: Path) -> None:
    who = {"users": TOKEN_USER, "tokens": f"{TOKEN_USER}!jobs"}
    for path, roles in (("/pool", "PVEPoolAdmin"), ("/nodes", "PVEAuditor"), ("/vms/9000", "PVEVMAdmin")):
        lab.root.access.acl.put(path=path, roles=roles, **who)
    lab.template()
    variables = {
        "port": lab.port,
        "user": TOKEN_USER,
        "token_file": str(tmp_path / "token"),
        "results": str(tmp_path / "results.json"),
    }
    environment = {
        **os.environ, "REQUESTS_CA_BUNDLE": lab.ca, "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "ANSIBLE_HOME": str(tmp_path / "ansible"), "ANSIBLE_REMOTE_TMP": str(tmp_path / "remote"),
    }  # fmt: skip
    command = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", "-c", "local", str(PLAYBOOK)]
    run = subprocess.run(
        [*command, "-e", json.dumps(variables)], env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    came_back = json.loads((tmp_path / "results.json").read_text())
    changed = {name for name, result in came_back.items() if result["changed"]}
    assert changed == {"cloned", "updated", "started", "pool", "member", "removed", "created"}
    assert came_back["cloned"]["vmid"] == 201
    machine = came_back["vms"]["proxmox_vms"][0]
    assert (machine["name"], machine["status"], machine["config"]["cores"]) == ("shop-web-1", "running", 4)
    assert machine["config"]["tags"] == "shop;web"
    assert [nic["name"] for nic in machine["network"]] == ["lo", "eth0"]
    assert [node["status"] for node in came_back["nodes"]["proxmox_nodes"]] == ["online", "online"]
    assert [storage["storage"] for storage in came_back["storages"]["proxmox_storages"]] == ["shared"]
    assert {task["type"] for task in came_back["tasks"]["proxmox_tasks"]} >= {"qmclone", "qmstart"}
    assert came_back["created"]["mac"]["net0"].startswith("BC:24:11:")
    assert [vm["vmid"] for vm in lab.root.pools("second").get()["members"]] == [9000]
    left = {vm["vmid"] for vm in lab.root.cluster.resources.get(type="vm")}
    assert left == {300, 9000}
