"""A lab with real machines and the latencies of a real cluster, as the benchmarks use it."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "lab"))
from shop import Shop

from thems_jobs import resources
from thems_jobs.jobs.connect import role_digest
from thems_jobs.jobs.perform import converge_variables
from thems_jobs.lab import faults
from thems_jobs.platform_file import read_platform

CLONE_S, BOOT_S, CLONE_SLOTS = 20, 15, 4  # of a real cluster, switched on in the lab
BEFORE, AFTER = 2, 10

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Bench:
    """A lab with the latencies of a real cluster, two balancers and two web machines."""

    shop: Shop

    def control(self, do: str, **keys: Any) -> dict[str, Any]:
        return faults.ask(self.shop.layout.control, {"do": do, **keys})

    def play(self, playbook: Path, inventory: Mapping[str, Any], variables: Mapping[str, Any]) -> float:
        """Run a playbook as people do, in the lab's network; return the seconds it took."""
        layout, folder = self.shop.layout, self.shop.folder
        (folder / "inventory.json").write_text(json.dumps(inventory))
        (folder / "variables.json").write_text(json.dumps(variables))
        ansible = resources.path("ansible")
        environment = {
            **os.environ, "ANSIBLE_CONFIG": str(ansible / "ansible.cfg"), "ANSIBLE_ROLES_PATH": str(ansible / "roles"),
            "ANSIBLE_HOST_KEY_CHECKING": "False", "ANSIBLE_REMOTE_USER": "thems", "ANSIBLE_FORKS": "16",
            "ANSIBLE_PRIVATE_KEY_FILE": str(layout.ssh_key), "REQUESTS_CA_BUNDLE": str(layout.authority),
            "ANSIBLE_SSH_ARGS": "-F /dev/null -o ControlMaster=auto -o ControlPersist=60s -o LogLevel=ERROR "
            "-o UserKnownHostsFile=/dev/null",
        }  # fmt: skip
        command = [
            "nsenter", f"--net={layout.netns}", str(Path(sys.executable).with_name("ansible-playbook")),
            "-i", str(folder / "inventory.json"), "-e", f"@{folder / 'variables.json'}", str(playbook),
        ]  # fmt: skip
        began = time.monotonic()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        return time.monotonic() - began

    def variables_of_role(self, tier: str) -> dict[str, Any]:
        """Return what a playbook of ours is given for a tier."""
        platform = read_platform(self.shop.layout.platform)
        return {**converge_variables(platform, tier), "thems_roles_digest": role_digest(platform, tier)}

    def addresses(self, tier: str) -> dict[str, dict[str, str]]:
        """Return the machines of a tier as an inventory has them."""
        return {vm.name: {"ansible_host": vm.address} for vm in self.shop.tier(tier)}

    def expect_serving(self, count: int) -> None:
        """Hold both balancers against what they must send visitors to."""
        for balancer in self.shop.tier("balancer"):
            servers = self.shop.table(balancer)["servers"]
            assert [s["state"] for s in servers.values() if s["weight"] == 100] == ["up"] * count, servers


@dataclass(frozen=True)
class Scaled:
    """One scale for an event: seconds from the command to its end, and the requests the API counted meanwhile."""

    seconds: float
    requests: dict[str, int]
