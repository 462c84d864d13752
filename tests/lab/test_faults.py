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
from shop import POOL, RECORD, Run, Shop, later

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


def back_to_two(shop: Shop) -> None:
    """End the event, whatever state its machines are in."""
    shop.run(*DOWN)
    shop.expect_settled(web=2)


# Proxmox's tasks and answers


@pytest.mark.parametrize("fault", ["lost-task", "fail-clone"])
def test_a_clone_that_fails_once_is_made_again(shop: Shop, fault: str) -> None:
    lab_fault(shop, fault)
    run = shop.run(*UP)
    assert [action for action, _ in run.steps].count("clone") == 2, run
    shop.expect_settled(web=3)
    back_to_two(shop)


def test_a_clone_that_fails_again_and_again_halts_with_the_machine_named(shop: Shop) -> None:
    lab_fault(shop, "fail-clone", "--times", "20", "--text", "clone failed: copy failed: got signal 9")
    run = halted(shop, UP, "shop-web-3")
    assert "got signal 9" in run.output, run
    lab_fault(shop, "clear")
    shop.run(*UP)
    shop.expect_settled(web=3)
    back_to_two(shop)


def test_an_id_that_somebody_takes_in_the_last_moment_is_left_to_them(shop: Shop) -> None:
    shop.fault(do="answer", path="/clone", method="POST", status=0, delay_s=3)  # the race, in slow motion
    taken = [0]

    def take(run: Run) -> None:
        if run.steps[-1][0] == "reserve":
            taken[0] = next(iter(shop.record()["intents"].values()))[0]
            shop.plant(taken[0], "somebody-elses", pool="theirs")

    run = shop.start(*UP, on_step=take).wait()
    try:
        assert run.code == 0, run
        assert taken[0] > 0
        made = shop.vm("shop-web-3")
        assert made is not None
        assert made.vmid != taken[0]
        shop.expect_settled(web=3)
    finally:
        shop.uproot(taken[0])
    back_to_two(shop)


def test_answers_that_are_lost_after_the_effect_do_no_harm(shop: Shop) -> None:
    for method, path in (("POST", "/clone$"), ("PUT", "/qemu/11../config$"), ("POST", "/status/start$")):
        lab_fault(shop, "lost-answer", path, "--method", method)
    shop.run(*UP)
    shop.expect_settled(web=3)
    for method, path in (("PUT", "/qemu/11../config$"), ("POST", "/status/shutdown$"), ("DELETE", "/qemu/11..$")):
        lab_fault(shop, "lost-answer", path, "--method", method)
    back_to_two(shop)


def test_a_record_whose_answers_are_lost_is_written_once(shop: Shop) -> None:
    lab_fault(shop, "lost-answer", f"/qemu/{RECORD}/config$", "--method", "PUT", "--times", "3")
    shop.run(*UP)
    shop.expect_settled(web=3)
    lab_fault(shop, "lost-answer", f"/qemu/{RECORD}/config$", "--method", "PUT", "--code", "595", "--times", "2")
    back_to_two(shop)


def test_a_config_that_somebody_has_locked_for_a_moment_is_waited_for(shop: Shop) -> None:
    shop.fault(do="flock", vm=RECORD, seconds=3)
    shop.run(*UP)
    shop.fault(do="storage-lock", storage="shared", seconds=4)
    back_to_two(shop)


# Machines


def test_a_machine_that_never_boots_halts_and_can_be_given_up(shop: Shop) -> None:
    lab_fault(shop, "never-boots")
    halted(shop, UP, "shop-web-3", platform=shop.platform_with(boot_s=8))
    back_to_two(shop)


def test_a_machine_whose_agent_is_silent_halts_and_is_finished_when_it_speaks(shop: Shop) -> None:
    lab_fault(shop, "agent-silent", "shop-web-3")
    halted(shop, UP, "shop-web-3", platform=shop.platform_with(boot_s=10))
    lab_fault(shop, "agent-silent", "shop-web-3", "--off")
    shop.run(*UP)
    shop.expect_settled(web=3)
    back_to_two(shop)


def test_a_web_machine_that_crashed_is_repaired(shop: Shop) -> None:
    lab_fault(shop, "dead-machine", "shop-web-2")
    run = shop.run("provision", "--yes")
    assert "repair" in {change["kind"] for change in run.report["plan"]["changes"]}
    shop.expect_settled(web=2)


def test_while_a_balancer_is_down_nothing_is_scaled_and_it_can_be_replaced(shop: Shop) -> None:
    lab_fault(shop, "dead-machine", "shop-balancer-2")
    run = refused(shop, UP, "balancer-unreachable")
    assert "shop-balancer-2" in run.said
    shop.run("provision", "--replace", "shop-balancer-2", "--yes")
    assert shop.vm("shop-balancer-2") is None, "it was not replaced"
    shop.expect_settled(web=2)


# The cluster


def test_a_full_storage_is_refused(shop: Shop) -> None:
    lab_fault(shop, "full-storage", "shared")
    refused(shop, UP, "storage-full")
    lab_fault(shop, "full-storage", "shared", "--off")
    shop.expect_settled(web=2)


def test_half_of_the_nodes_gone_is_refused_and_repaired_when_they_are_back(shop: Shop) -> None:
    lab_fault(shop, "node-down", "pve2")
    refused(shop, UP, "node-offline")
    lab_fault(shop, "node-down", "pve2", "--off")
    shop.run("provision", "--yes")
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
    try:
        run = refused(shop, UP, "foreign-machine")
        assert f"VM {vmid}" in run.said, run
        shop.expect_foreign_untouched()
    finally:
        shop.uproot(vmid)
    assert all(vm.pool == POOL for vm in shop.vms() if vm.name.startswith("shop-web-"))


def test_an_answering_address_that_is_nobodys_machine_is_not_given_to_ours(shop: Shop) -> None:
    """Somebody set the next machine's address on a machine of theirs: here, on a web machine of ours, by hand."""
    web = shop.tier("web")[0]
    shop.ssh(web, "sudo", "ip", "address", "add", "10.77.1.13/16", "dev", "host0")
    try:
        shop.run(*UP)
        made = {vm.name: vm.address for vm in shop.tier("web")}
        assert "10.77.1.13" not in made.values(), made
    finally:
        shop.ssh(web, "sudo", "ip", "address", "del", "10.77.1.13/16", "dev", "host0")
    back_to_two(shop)
