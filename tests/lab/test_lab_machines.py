"""Real lab machines behind the API: boot, identity, power, disks, network, many at once."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from real_lab import BASE_VMID, Lab, Machine, NewMachine, run_lab

from thems_jobs.lab import faults
from thems_jobs.lab.errors import LabError
from waiting import eventually

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]


def test_a_clone_boots_with_the_identity_it_was_given(new_machine: NewMachine) -> None:
    machine = new_machine("shop-web-1").boot()
    assert machine.says("hostname; whoami; sudo -n id -u").split() == ["shop-web-1", "thems", "0"]
    assert machine.address in machine.says("ip -4 -br address show eth0")
    assert "default via 10.77.0.1" in machine.says("ip route")
    state = "systemctl is-system-running"  # "starting" for a while after its sshd answers
    eventually(lambda: machine.ssh(state).stdout.strip() == "running", "it is not all up", within_s=60)
    assert machine.says("cat /etc/resolv.conf") == ""


def test_the_template_holds_the_shop_s_packages_disabled(new_machine: NewMachine) -> None:
    machine = new_machine("packages").boot()
    units = "apache2 php8.2-fpm mariadb haproxy keepalived rsyslog"
    states = machine.ssh(f"systemctl is-enabled {units}").stdout.split()
    assert states == ["disabled"] * len(units.split())
    started = machine.says(
        "sudo systemctl start apache2 php8.2-fpm haproxy; curl -s -o /dev/null -w '%{http_code}' localhost"
    )
    assert started == "200"


def test_two_clones_share_neither_host_key_nor_machine_id(new_machine: NewMachine) -> None:
    first, second = new_machine("one").boot(), new_machine("two").boot()
    for file in ("/etc/ssh/ssh_host_ed25519_key.pub", "/etc/machine-id"):
        assert first.read(file) != second.read(file)


def test_ssh_refuses_a_machine_with_another_host_key(new_machine: NewMachine) -> None:
    machine = new_machine("intruder").boot()
    machine.says("ssh-keygen -q -t ed25519 -N '' -f other; sudo cp other /etc/ssh/ssh_host_ed25519_key")
    refused = machine.ssh("true")
    assert refused.returncode != 0
    assert "Host key verification failed" in refused.stderr


def test_lab_ssh_and_status_know_a_machine_by_its_name(new_machine: NewMachine) -> None:
    machine = new_machine("by-name").boot()
    directory = machine.lab.layout.directory
    said = run_lab("ssh", "--dir", directory, "by-name", "echo", "from", "$(hostname)")
    assert (said.returncode, said.stdout) == (0, "from by-name\n"), said.stderr
    assert run_lab("ssh", "--dir", directory, "by-name", "exit 7").returncode == 7
    rows = json.loads(run_lab("status", "--json", "--dir", directory).stdout)["machines"]
    row = next(row for row in rows if row["vmid"] == machine.vmid)
    assert (row["state"], row["address"]) == ("running", machine.address)
    unknown = run_lab("ssh", "--dir", directory, "nobody", "true")
    assert unknown.returncode == 4
    assert "nobody" in unknown.stderr


def test_reboot_inside_keeps_disk_address_and_identity(new_machine: NewMachine) -> None:
    machine = new_machine("reboots").boot()
    boot, key = machine.says("cat /proc/sys/kernel/random/boot_id"), machine.read("/etc/ssh/ssh_host_ed25519_key.pub")
    machine.says("echo kept > kept")
    machine.ssh("sudo reboot")
    eventually(
        lambda: machine.ssh("cat /proc/sys/kernel/random/boot_id").stdout.strip() not in ("", boot),
        "it did not boot again",
        within_s=30,
    )
    assert machine.says("cat kept") == "kept"
    assert machine.read("/etc/ssh/ssh_host_ed25519_key.pub") == key
    assert machine.status() == "running"


def test_hard_power_off_keeps_what_was_on_the_disk(new_machine: NewMachine) -> None:
    machine = new_machine("killed").boot()
    key = machine.read("/etc/ssh/ssh_host_ed25519_key.pub")
    machine.says("echo kept > kept; sync")
    machine.do("stop")
    assert machine.status() == "stopped"
    assert run_lab("enter", "--dir", machine.lab.layout.directory, "sh", "-c", _knock(machine)).returncode != 0
    machine.boot()
    assert machine.says("cat kept") == "kept"
    assert machine.read("/etc/ssh/ssh_host_ed25519_key.pub") == key


def test_clean_shutdown_stops_services_in_order(new_machine: NewMachine) -> None:
    machine = new_machine("clean").boot()
    machine.says("sudo systemd-run --unit=last-act -r -p ExecStop='/bin/touch /var/stopped-cleanly' true")
    machine.do("shutdown")
    assert machine.status() == "stopped"
    assert list(machine.lab.layout.state.glob("disks/**/upper/var/stopped-cleanly"))


def test_power_off_inside_is_seen_by_the_api(new_machine: NewMachine) -> None:
    machine = new_machine("leaves").boot()
    machine.ssh("sudo poweroff")
    eventually(lambda: machine.status() == "stopped", "still running", within_s=20)
    assert not machine.agent_answers()


def test_the_agent_answers_only_from_multi_user_to_shutdown(new_machine: NewMachine) -> None:
    machine = new_machine("agent").boot()
    machine.says("sudo systemctl stop qemu-guest-agent")
    assert not machine.agent_answers()
    machine.says("sudo systemctl start qemu-guest-agent")
    assert machine.agent_answers()
    faults.ask(machine.lab.layout.control, {"do": "freeze", "vm": machine.name, "frozen": True})
    assert not machine.agent_answers()
    faults.ask(machine.lab.layout.control, {"do": "freeze", "vm": machine.name, "frozen": False})
    assert machine.agent_answers()


def test_a_frozen_machine_can_be_killed(new_machine: NewMachine) -> None:
    machine = new_machine("frozen").boot()
    faults.ask(machine.lab.layout.control, {"do": "freeze", "vm": machine.name, "frozen": True})
    machine.do("stop")
    assert machine.status() == "stopped"


def test_agent_reads_follow_links_inside_the_machine_only(new_machine: NewMachine) -> None:
    machine = new_machine("links").boot()
    machine.says("sudo ln -sf /etc/hostname /etc/link")
    assert machine.read("/etc/link").strip() == "links"
    with pytest.raises(LabError, match="No such file or directory"):
        machine.read("/no/such/file")


def test_a_template_carries_its_changes_and_a_full_copy_stands_alone(lab: Lab, new_machine: NewMachine) -> None:
    baked = lab.clone(BASE_VMID, "baked").boot()
    baked.says(
        "echo baked | sudo tee /etc/baked; sudo rm /etc/nanorc; sudo rm -r /etc/cron.daily; sudo mkdir /etc/cron.daily"
    )
    baked.do("shutdown")
    lab.client.finish(lab.client.call("POST", f"{baked.path}/template"))
    linked = lab.clone(baked.vmid, "linked").boot()
    linked.says("echo linked | sudo tee /etc/linked")
    linked.do("shutdown")
    copy = new_machine("copy", linked.vmid, full=True)
    lab.remove(linked)
    lab.client.finish(lab.client.call("DELETE", baked.path))
    copy.boot()
    assert copy.says("cat /etc/baked /etc/linked").split() == ["baked", "linked"]
    assert copy.says("ls /etc/nanorc /etc/cron.daily 2>&1 || true").splitlines() == [
        "ls: cannot access '/etc/nanorc': No such file or directory",
        "/etc/cron.daily:",
    ]
    assert new_machine("untouched").boot().ssh("cat /etc/baked").returncode != 0


def test_a_cut_cable_cuts_the_network_and_nothing_else(new_machine: NewMachine) -> None:
    machine = new_machine("cut").boot()
    directory = machine.lab.layout.directory
    knock: list[str | Path] = ["enter", "--dir", directory, "sh", "-c", _knock(machine)]
    eventually(lambda: run_lab(*knock).returncode == 0, "nobody greets", within_s=20)
    assert run_lab("fault", "cut", "--dir", directory, machine.name).returncode == 0
    assert run_lab(*knock).returncode != 0
    assert machine.agent_answers()
    assert run_lab("fault", "cut", "--off", "--dir", directory, machine.name).returncode == 0
    eventually(lambda: run_lab(*knock).returncode == 0, "still cut", within_s=20)


def test_memory_is_counted_and_limited_per_machine(new_machine: NewMachine) -> None:
    machine = new_machine("hungry").boot()
    path = f"{machine.path}/status/current"
    used = machine.lab.client.call("GET", path)["mem"]
    assert 1 < used / 2**20 < 200
    greedy = machine.ssh("python3 -c 'x = bytearray(900 * 2**20)'")
    assert greedy.returncode != 0
    assert machine.wait().status() == "running"


def test_machines_set_sysctls_of_their_own_network_only(new_machine: NewMachine) -> None:
    machine = new_machine("sysctl").boot()
    assert machine.says("sudo sysctl -n -w net.ipv4.ip_nonlocal_bind=1") == "1"
    assert machine.ssh("sudo sysctl -w vm.swappiness=1").returncode != 0


@pytest.mark.slow
def test_sixteen_machines_boot_at_once_and_reach_each_other(new_machine: NewMachine) -> None:
    machines = [new_machine(f"many-{number}") for number in range(16)]
    began = time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda machine: machine.do("start"), machines))
    for machine in machines:
        eventually(machine.agent_answers, f"no agent in {machine.name}", within_s=120)
    print(f"16 machines answered after {time.monotonic() - began:.1f} s")
    first = machines[0].wait()
    addresses = " ".join(machine.address for machine in machines)
    greet = _greet(addresses)  # their agents may answer before their sshds do
    eventually(lambda: first.ssh(greet).stdout.count("SSH-2.0") == 16, "not all are reached", within_s=60)
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda machine: machine.do("stop"), machines))
    assert {machine.status() for machine in machines} == {"stopped"}


def _knock(machine: Machine) -> str:
    """Return a shell command that succeeds when the machine's sshd greets."""
    return f"timeout 3 bash -c 'head -c 3 < /dev/tcp/{machine.address}/22' | grep -q SSH"


def _greet(addresses: str) -> str:
    """Return a shell command that prints the greeting of each address's sshd."""
    return f'for a in {addresses}; do timeout 5 bash -c "head -n 1 < /dev/tcp/$a/22" & done; wait'
