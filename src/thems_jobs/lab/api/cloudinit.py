"""Cloud-init data of a VM: what it is, and what differs from what the guest was started with."""

from typing import Any
from urllib.parse import unquote

from thems_jobs.lab.api.cluster import Call
from thems_jobs.lab.api.configs import Values
from thems_jobs.lab.api.power import guest_spec
from thems_jobs.lab.api.values import CLOUD_INIT, addresses_of, nics_of


def list_cloudinit(call: Call) -> list[Values]:
    """GET cloudinit."""
    vm = call.vm
    values = {key: value for key, value in vm.merged.items() if CLOUD_INIT.fullmatch(key)}
    values.update({key: "**********" for key in values if key == "cipassword"})
    return [{"key": key, "value": values[key]} for key in sorted(values)]


def regenerate(call: Call) -> None:
    """PUT cloudinit: the drive is made at every start; a running guest keeps what it has until then."""
    vm = call.vm
    vm.check_lock()


def dump(call: Call) -> str:
    """GET cloudinit/dump: the text of one of the files on the drive."""
    vm = call.vm
    makers: dict[str, Any] = {"user": _user_data, "network": _network_data, "meta": _meta_data}
    text: str = makers[call.params["type"]](call, vm.merged)
    return text


def _user_data(call: Call, values: Values) -> str:
    lines = ["#cloud-config", f"hostname: {values.get('name', f'VM{call.vmid}')}", "manage_etc_hosts: true"]
    if "ciuser" in values:
        lines.append(f"user: {values['ciuser']}")
    if "cipassword" in values:
        seen = call.may(f"/vms/{call.vmid}", "VM.Config.Cloudinit")
        lines.append(f"password: {values['cipassword'] if seen else '**********'}")
    if "sshkeys" in values:
        keys = unquote(values["sshkeys"]).splitlines()
        lines += ["ssh_authorized_keys:", *(f"  - {key}" for key in keys)]
    lines += ["chpasswd:", "  expire: False", f"package_upgrade: {'true' if values.get('ciupgrade', 1) else 'false'}"]
    return "\n".join(lines) + "\n"


def _network_data(_call: Call, values: Values) -> str:
    addresses, gateway = addresses_of(values)
    lines = ["version: 1", "config:"]
    for number, (nic, address) in enumerate(zip(nics_of(values).values(), addresses, strict=False)):
        lines += [
            "    - type: physical",
            f"      name: eth{number}",
            f"      mac_address: '{nic.get('macaddr', '').lower()}'",
            "      subnets:",
            "      - type: static",
            f"        address: '{address}'",
        ]
        if number == 0 and gateway:
            lines.append(f"        gateway: '{gateway}'")
    return "\n".join(lines) + "\n"


def _meta_data(call: Call, _values: Values) -> str:
    return f"instance-id: {guest_spec(call.vm).instance_id}\n"
