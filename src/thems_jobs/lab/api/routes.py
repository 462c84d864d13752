"""Which function carries out which call. A test holds this table and the facts together."""

from collections.abc import Callable
from typing import Any

from thems_jobs.lab.api import (
    access_calls,
    agent,
    cloudinit,
    node_calls,
    pool_calls,
    power,
    storage_calls,
    task_calls,
    vm_config,
    vm_create,
)
from thems_jobs.lab.api.clone import clone_vm
from thems_jobs.lab.api.cluster import Call
from thems_jobs.lab.api.migrate import migrate_vm, preconditions

NODE = "/nodes/{node}"
VM = f"{NODE}/qemu/{{vmid}}"
CONTENT = f"{NODE}/storage/{{storage}}/content"
TASK = f"{NODE}/tasks/{{upid}}"
USER = "/access/users/{userid}"
TOKEN = f"{USER}/token/{{tokenid}}"
ROLE = "/access/roles/{roleid}"
POOL = "/pools/{poolid}"

ROUTES: dict[tuple[str, str], Callable[[Call], Any]] = {
    ("GET", "/version"): node_calls.version,
    ("GET", "/access/ticket"): access_calls.open_ticket_page,
    ("POST", "/access/ticket"): access_calls.log_in,
    ("GET", "/access/permissions"): access_calls.permissions,
    ("GET", "/access/users"): access_calls.list_users,
    ("POST", "/access/users"): access_calls.create_user,
    ("GET", USER): access_calls.read_user,
    ("PUT", USER): access_calls.change_user,
    ("DELETE", USER): access_calls.delete_user,
    ("GET", f"{USER}/token"): access_calls.list_tokens,
    ("GET", TOKEN): access_calls.read_token,
    ("POST", TOKEN): access_calls.create_token,
    ("PUT", TOKEN): access_calls.change_token,
    ("DELETE", TOKEN): access_calls.delete_token,
    ("GET", "/access/roles"): access_calls.list_roles,
    ("POST", "/access/roles"): access_calls.create_role,
    ("GET", ROLE): access_calls.read_role,
    ("PUT", ROLE): access_calls.change_role,
    ("DELETE", ROLE): access_calls.delete_role,
    ("GET", "/access/acl"): access_calls.list_acl,
    ("PUT", "/access/acl"): access_calls.change_acl,
    ("GET", "/cluster/status"): node_calls.cluster_status,
    ("GET", "/cluster/resources"): node_calls.resources,
    ("GET", "/cluster/nextid"): node_calls.next_id,
    ("GET", "/cluster/tasks"): task_calls.list_recent_tasks,
    ("GET", "/nodes"): node_calls.list_nodes,
    ("GET", NODE): node_calls.node_index,
    ("GET", f"{NODE}/status"): node_calls.node_status,
    ("GET", f"{NODE}/version"): node_calls.version,
    ("GET", f"{NODE}/network"): node_calls.node_network,
    ("GET", f"{NODE}/storage"): storage_calls.list_storages,
    ("GET", f"{NODE}/storage/{{storage}}/status"): storage_calls.storage_status,
    ("GET", CONTENT): storage_calls.list_content,
    ("GET", f"{CONTENT}/{{volume}}"): storage_calls.volume_info,
    ("DELETE", f"{CONTENT}/{{volume}}"): storage_calls.remove_volume,
    ("GET", f"{NODE}/qemu"): vm_create.list_vms,
    ("POST", f"{NODE}/qemu"): vm_create.create_vm,
    ("GET", VM): vm_create.vm_index,
    ("DELETE", VM): vm_create.destroy_vm,
    ("POST", f"{VM}/clone"): clone_vm,
    ("GET", f"{VM}/config"): vm_config.get_config,
    ("PUT", f"{VM}/config"): vm_config.put_config,
    ("POST", f"{VM}/config"): vm_config.post_config,
    ("GET", f"{VM}/pending"): vm_config.get_pending,
    ("GET", f"{VM}/status/current"): power.current_status,
    ("POST", f"{VM}/status/start"): power.start,
    ("POST", f"{VM}/status/stop"): power.stop,
    ("POST", f"{VM}/status/shutdown"): power.shutdown,
    ("POST", f"{VM}/status/reboot"): power.reboot,
    ("POST", f"{VM}/status/reset"): power.reset,
    ("PUT", f"{VM}/resize"): vm_create.resize_disk,
    ("POST", f"{VM}/template"): vm_create.make_template,
    ("GET", f"{VM}/migrate"): preconditions,
    ("POST", f"{VM}/migrate"): migrate_vm,
    ("GET", f"{VM}/cloudinit"): cloudinit.list_cloudinit,
    ("PUT", f"{VM}/cloudinit"): cloudinit.regenerate,
    ("GET", f"{VM}/cloudinit/dump"): cloudinit.dump,
    ("POST", f"{VM}/agent"): agent.command,
    ("POST", f"{VM}/agent/exec"): agent.execute,
    ("GET", f"{VM}/agent/exec-status"): agent.execution_status,
    ("GET", f"{VM}/agent/file-read"): agent.read_file,
    ("POST", f"{VM}/agent/file-write"): agent.write_file,
    ("POST", f"{VM}/agent/ping"): agent.ping,
    ("GET", f"{VM}/agent/network-get-interfaces"): agent.network_interfaces,
    ("GET", f"{VM}/agent/get-host-name"): agent.host_name,
    ("GET", f"{VM}/agent/get-osinfo"): agent.os_info,
    ("GET", f"{VM}/agent/get-time"): agent.time_of_guest,
    ("GET", f"{NODE}/tasks"): task_calls.list_tasks,
    ("GET", TASK): task_calls.task_index,
    ("DELETE", TASK): task_calls.stop_task,
    ("GET", f"{TASK}/status"): task_calls.task_status,
    ("GET", f"{TASK}/log"): task_calls.task_log,
    ("GET", "/pools"): pool_calls.list_pools,
    ("POST", "/pools"): pool_calls.create_pool,
    ("PUT", "/pools"): pool_calls.change_pool,
    ("DELETE", "/pools"): pool_calls.delete_pool,
    ("GET", POOL): pool_calls.pool_members,
    ("PUT", POOL): pool_calls.change_pool,
    ("DELETE", POOL): pool_calls.delete_pool,
    ("GET", "/storage"): storage_calls.list_storage_configs,
    ("GET", "/storage/{storage}"): storage_calls.storage_config,
}
