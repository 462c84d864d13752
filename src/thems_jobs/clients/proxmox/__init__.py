"""The Proxmox VE API: the one place that knows proxmoxer."""

from thems_jobs.clients.proxmox.answers import Resources, Task, VmConfig, VmRow
from thems_jobs.clients.proxmox.cluster import Proxmox

__all__ = ["Proxmox", "Resources", "Task", "VmConfig", "VmRow"]
