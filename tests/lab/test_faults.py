"""What goes wrong on a real cluster goes wrong here: each run ends converged, or refused, or halted and named."""

import datetime
import ipaddress
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from real_lab import run_lab
from shop import RECORD, Run, Shop, later

from waiting import eventually

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

UP = ("scale", "--tier", "web=3", "--event", "test", "--until", later(4), "--yes")
DOWN = ("scale", "--end", "test", "--yes")


@pytest.fixture(autouse=True)
def _no_fault_stays(provisioned: Shop) -> Iterator[None]:
    yield
    provisioned.fault(do="clear")


def lab_fault(shop: Shop, *arguments: str) -> None:
    """Arm a fault as an operator rehearses it."""
    done = run_lab("fault", *arguments, "--dir", shop.layout.directory)
    assert done.returncode == 0, done.stderr


def refused(shop: Shop, command: tuple[str, ...], reference: str, platform: Path | None = None) -> Run:
    """Run a command that must be refused for this reason, and change nothing at all."""
    before = {vm.vmid: vm.digest for vm in shop.vms()}
    run = shop.run(*command, platform=platform, exit_code=4)
    found = {refusal["reference"] for refusal in run.report["refusals"]}
    assert reference in found, f"{reference} expected, not {found}\n{run}"
    assert reference in run.said, f"the console does not name it\n{run}"
    assert {vm.vmid: vm.digest for vm in shop.vms()} == before, f"something was changed\n{run}"
    return run


def halted(shop: Shop, command: tuple[str, ...], machine: str, platform: Path | None = None) -> Run:
    """Run a command that must halt, name the machine, and say how to go on."""
    run = shop.run(*command, platform=platform, exit_code=6)
    assert machine in run.report["message"], f"{machine} is not named\n{run}"
    assert run.report["next"].startswith("thems-jobs "), run.report["next"]
    assert run.report["next"] in run.output, f"the next command is not shown\n{run}"
    assert "lease" not in shop.record()
    return run


def back_to_two(shop: Shop, platform: Path | None = None) -> None:
    """End the event, whatever state its machines are in."""
    shop.run(*DOWN, platform=platform)
    shop.expect_settled(web=2)


# Proxmox's tasks and answers. To bring a machine up and down again takes half a minute, so one way does for several.


def test_clones_that_fail_or_are_lost_are_made_again(shop: Shop) -> None:
    lab_fault(shop, "fail-clone")
    lab_fault(shop, "lost-task")
    run = shop.run(*UP, exit_code=5)  # it serves, but somebody must tidy up after the lost task
    assert [action for action, _ in run.steps].count("clone") == 3, run
    left = next(vm for vm in shop.vms() if vm.config.get("lock") == "clone")
    assert f"qm unlock {left.vmid} && qm destroy {left.vmid}" in " ".join(run.output.split()), run
    shop.unlock_and_destroy(left)
    shop.expect_settled(web=3)
    shop.fault(do="storage-lock", storage="shared", seconds=4)
    for method, path in (("PUT", "/qemu/11../config$"), ("POST", "/status/shutdown$"), ("DELETE", "/qemu/11..$")):
        lab_fault(shop, "lost-answer", path, "--method", method)
    back_to_two(shop)


def test_a_clone_that_fails_for_good_halts_with_the_machine_named(shop: Shop) -> None:
    lab_fault(shop, "fail-clone", "--times", "20", "--text", "clone failed: copy failed: got signal 9")
    run = halted(shop, UP, "shop-web-3")
    assert "got signal 9" in run.output, run
    lab_fault(shop, "clear")
    back_to_two(shop)


def test_an_id_and_an_address_that_are_taken_are_left_to_who_has_them(shop: Shop) -> None:
    """The id is taken between our look and our clone, the address is set on a machine by hand; answers are lost."""
    for method, path in (("PUT", "/qemu/11../config$"), ("POST", "/status/start$"), ("PUT", f"/qemu/{RECORD}/config$")):
        lab_fault(shop, "lost-answer", path, "--method", method)
    shop.fault(do="answer", path="/clone", method="POST", status=0, delay_s=8)  # the race, in slow motion
    shop.fault(do="flock", vm=RECORD, seconds=3)
    web, taken = shop.tier("web")[0], [0]
    shop.ssh(web, "sudo", "ip", "address", "add", "10.77.1.13/16", "dev", "eth0")

    def take(run: Run) -> None:
        if run.steps[-1][0] == "reserve" and not taken[0]:
            taken[0] = next(iter(shop.record()["intents"].values()))[0]
            shop.plant(taken[0], "somebody-elses", pool="theirs")

    run = shop.start(*UP, on_step=take).wait()
    try:
        assert run.code == 0, run
        assert taken[0] > 0
        made = shop.tier("web")[-1]
        assert (made.name, made.address) == ("shop-web-4", "10.77.1.14"), made
        assert made.vmid != taken[0]
        shop.expect_settled(web=3)
    finally:
        shop.uproot(taken[0])
        shop.ssh(web, "sudo", "ip", "address", "del", "10.77.1.13/16", "dev", "eth0")
    back_to_two(shop)


# Machines


def test_machines_that_do_not_come_up_halt_and_are_finished_or_given_up(shop: Shop) -> None:
    """One has an agent that says nothing, the other never boots."""
    quick = shop.platform_with(boot_s=10, stop_s=10)
    four = (*UP[:2], "web=4", *UP[3:])
    lab_fault(shop, "agent-silent", "shop-web-3")
    lab_fault(shop, "never-boots", "shop-web-4")
    run = halted(shop, four, "shop-web-", platform=quick)
    assert "shop-web-3" in run.output, run
    assert "shop-web-4" in run.output, run
    lab_fault(shop, "agent-silent", "shop-web-3", "--off")
    halted(shop, four, "shop-web-4", platform=quick)
    serving = {vm.name for vm in shop.tier("web") if "phase-serving" in vm.tags}
    assert len(serving) == 3, serving
    assert "shop-web-4" not in serving
    back_to_two(shop, platform=quick)


# The cluster


def test_a_full_storage_is_refused(shop: Shop) -> None:
    lab_fault(shop, "full-storage", "shared")
    refused(shop, UP, "storage-full")
    lab_fault(shop, "full-storage", "shared", "--off")
    shop.expect_settled(web=2)


def test_half_of_the_nodes_gone_is_refused_and_their_machines_are_repaired_or_replaced(shop: Shop) -> None:
    """A node loses its power. When it is back its machines are off: a balancer among them stops all scaling."""
    holder = next(vm for vm in shop.tier("balancer") if shop.table(vm)["holds"])
    node = next(vm.node for vm in shop.tier("balancer") if vm.name != holder.name)
    assert node != holder.node, "both balancers are on one node"
    off = [vm for vm in shop.vms() if vm.node == node and vm.status == "running"]
    lost = [vm.name for vm in off]
    balancer = next(name for name in lost if "balancer" in name)
    with_record = any(vm.vmid == RECORD and vm.node == node for vm in shop.vms())
    lab_fault(shop, "node-down", node)
    if with_record:
        refused(shop, UP, "unreachable")  # the record is there, too: nothing can be known
    else:
        run = refused(shop, UP, "node-offline")
        assert all(f"VM {vm.vmid}" in run.said for vm in off), run  # Proxmox need not know their names then
    lab_fault(shop, "node-down", node, "--off")
    run = refused(shop, UP, "balancer-unreachable")
    assert balancer in run.said
    shop.run("provision", "--replace", balancer, "--yes")
    assert shop.vm(balancer) is None, "it was not replaced"
    run = shop.run("provision", "--yes")
    repaired = {change["machine"] for change in run.report["plan"]["changes"] if change["kind"] == "repair"}
    assert repaired == set(lost) - {balancer}, run
    shop.expect_settled(web=2)


def test_a_cluster_that_does_not_answer_is_refused(shop: Shop) -> None:
    lab_fault(shop, "api-down")
    run = shop.run(*UP, exit_code=4)
    assert run.report["refusals"][0]["reference"] == "unreachable", run
    assert "10.77.0.1:8006" in run.output, run
    lab_fault(shop, "clear")
    shop.expect_settled(web=2)


def test_a_refused_token_is_named(shop: Shop) -> None:
    shop.fault(do="token", token="thems@pve!jobs", refused=True)
    run = shop.run(*UP, exit_code=4)
    assert run.report["refusals"][0]["reference"] == "token-refused", run
    assert "thems@pve!jobs" in run.output, run
    assert shop.layout.token.read_text().strip() not in run.said, "the secret was printed"
    shop.fault(do="token", token="thems@pve!jobs", refused=False)
    shop.expect_settled(web=2)


def test_an_expired_certificate_is_named(shop: Shop) -> None:
    files = (shop.layout.certificate, shop.layout.certificate_key)
    good = {path: path.read_bytes() for path in files}
    old = {files[0]: b"", files[1]: b""}
    old[files[0]], old[files[1]] = expired_certificate()
    authority = shop.folder / "expired.pem"
    authority.write_bytes(old[files[0]])
    try:
        _install(shop, old)
        run = shop.run(*UP, platform=shop.platform_with(ca_file=authority), exit_code=4)
    finally:
        _install(shop, good)
    assert run.report["refusals"][0]["reference"] == "certificate-invalid", run
    assert "expired" in run.output, run
    shop.expect_settled(web=2)


def _install(shop: Shop, files: dict[Path, bytes]) -> None:
    for path, content in files.items():
        path.write_bytes(content)
    shop.fault(do="certificate")


def expired_certificate() -> tuple[bytes, bytes]:
    """Return a certificate for the lab's API that ended two days ago, its own authority, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pve1")])
    now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("10.77.0.1"))])
    made = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    made = made.not_valid_before(now - 9 * day).not_valid_after(now - 2 * day).add_extension(names, critical=False)
    encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    secret = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
    return made.sign(key, hashes.SHA256()).public_bytes(encoding), secret


# Other people


@pytest.mark.parametrize(
    ("vmid", "name"), [(6100, "shop-web-3"), (1102, "their-database")], ids=["our-name", "our-id"]
)  # fmt: skip
def test_a_stranger_where_ours_would_stand_is_named_and_left_alone(shop: Shop, vmid: int, name: str) -> None:
    shop.plant(vmid, name, pool="theirs", tags="thems")
    eventually(lambda: name in [vm.listed_as for vm in shop.vms()], "the list of all VMs lags for ever", within_s=15)
    try:
        run = refused(shop, UP, "foreign-machine")
        assert f"VM {vmid}" in run.said, run
        shop.expect_foreign_untouched()
    finally:
        shop.uproot(vmid)
