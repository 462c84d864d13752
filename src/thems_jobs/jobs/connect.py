"""Opening the clients that a platform file asks for."""

import hashlib
import json
from pathlib import Path

from thems_jobs import resources
from thems_jobs.clients.ansible import Ansible
from thems_jobs.clients.backups import Backups
from thems_jobs.clients.balancer import Balancers
from thems_jobs.clients.galera_machines import GaleraMachines
from thems_jobs.clients.mysql import Databases, ProxySql
from thems_jobs.clients.proxmox import Proxmox
from thems_jobs.clients.ssh import Ssh
from thems_jobs.clients.web_check import WebCheck
from thems_jobs.clock import Clock
from thems_jobs.core.databases import settings_of
from thems_jobs.core.platform import Platform
from thems_jobs.jobs.clients import Clients, DatabaseClients
from thems_jobs.jobs.perform import converge_variables


def open_clients(platform: Platform, base: Path, run_dir: Path, clock: Clock) -> Clients:
    """Given the platform, the folder of its file and a private folder for this run, return the clients, unconnected.

    Raise UsageError if a secret that the platform file names cannot be read.
    """
    proxmox = Proxmox(platform.proxmox, platform.name, base, platform.timeouts.api_s)
    ssh = Ssh(platform.ssh.user, base / platform.ssh.key_file, run_dir)
    return Clients(
        proxmox=proxmox,
        ssh=ssh,
        balancers=Balancers(ssh),
        ansible=Ansible(ssh, run_dir, platform.timeouts.converge_s),
        web=WebCheck(),
        clock=clock,
        roles={name: role_digest(platform, name) for name in platform.tiers},
        databases=_databases(platform, base, ssh),
    )


def _backups(platform: Platform, base: Path) -> Backups | None:
    settings = settings_of(platform)
    if settings is None or settings.backup is None:
        return None
    return Backups(base / settings.backup.folder, f"{platform.name}-{settings.tier}-", settings.backup.keep)


def _databases(platform: Platform, base: Path, ssh: Ssh) -> DatabaseClients | None:
    settings = settings_of(platform)
    if settings is None:
        return None
    proxysql = ProxySql(settings, base) if settings.proxy == "proxysql" else None
    return DatabaseClients(Databases(settings, base), GaleraMachines(ssh), proxysql, _backups(platform, base))


def role_digest(platform: Platform, tier: str) -> str:
    """Given a tier, return the digest of all that configures its machines: roles, playbooks and variables."""
    total = hashlib.sha256(json.dumps(converge_variables(platform, tier), sort_keys=True).encode())
    root = resources.path("ansible")
    for path in sorted(root.rglob("*")):
        if path.is_file():
            total.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return total.hexdigest()[:12]
