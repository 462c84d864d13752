"""Everything outside that jobs speak with."""

from collections.abc import Mapping
from dataclasses import dataclass

from thems_jobs.clients.ansible import Ansible
from thems_jobs.clients.backups import Backups
from thems_jobs.clients.balancer import Balancers
from thems_jobs.clients.galera_machines import GaleraMachines
from thems_jobs.clients.mysql import Databases, ProxySql
from thems_jobs.clients.proxmox import Proxmox
from thems_jobs.clients.ssh import Ssh
from thems_jobs.clients.web_check import WebCheck
from thems_jobs.clock import Clock


@dataclass(frozen=True)
class DatabaseClients:
    """What speaks with the database tier.

    `proxysql` is None where the proxies are HAProxy, `backups` where the platform file names no folder for them.
    """

    members: Databases
    machines: GaleraMachines
    proxysql: ProxySql | None
    backups: Backups | None = None


@dataclass(frozen=True)
class Clients:
    """Everything outside that a job on machines needs. `databases` is None where no cluster is ours to run."""

    proxmox: Proxmox
    ssh: Ssh
    balancers: Balancers
    ansible: Ansible
    web: WebCheck
    clock: Clock
    roles: Mapping[str, str]  # by tier: digest of the configuration its machines should have
    databases: DatabaseClients | None = None

    def cancel(self) -> None:
        """End what takes long, soon."""
        self.ansible.cancel()
        if self.databases and self.databases.backups:
            self.databases.backups.cancel()
