"""The Proxmox client against the lab's API: answers, errors, failover, and the record's compare-and-swap."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from lab_api import TEMPLATE, TOKEN_USER, Lab

from thems_jobs.clients.proxmox import Proxmox
from thems_jobs.clients.proxmox.answers import vm_row
from thems_jobs.core.facts import TemplateImage
from thems_jobs.core.platform import Proxmox as Settings
from thems_jobs.core.record import Claim, Record, with_claim, write
from thems_jobs.errors import EffectFailed, LeaseLost, Refused, Transient, Unreachable, UsageError
from waiting import eventually

RECORD = 1000
IMAGE = TemplateImage("debian-12", TEMPLATE, "pve1", 0.0)


def settings(lab: Lab, *endpoints: str) -> Settings:
    return Settings(
        endpoints=endpoints or (f"https://127.0.0.1:{lab.port}",),
        token_id=f"{TOKEN_USER}!jobs",
        token_file="token",
        pool="shop",
        record_vmid=RECORD,
        nodes=("pve1", "pve2"),
        ca_file="ca.pem",
    )


def connect(lab: Lab, *endpoints: str, timeout_s: float = 10.0) -> Proxmox:
    """A client with a token that may do its work in the pool and look at everything."""
    (lab.directory / "token").chmod(0o600)
    lab.root.access.acl.put(path="/", roles="PVEAuditor", users=TOKEN_USER, tokens=f"{TOKEN_USER}!jobs")
    return Proxmox(settings(lab, *endpoints), "shop", lab.directory, timeout_s)


def make_record(lab: Lab, description: str = "", name: str = "shop-record", pool: str = "shop") -> None:
    upid = lab.root.nodes("pve1").qemu.post(vmid=RECORD, name=name, memory=16, pool=pool, description=description)
    assert lab.ended(upid) == "OK"


def finished(proxmox: Proxmox, upid: str) -> str:
    """Wait for a task to end and return its error."""
    return eventually(lambda: task if (task := proxmox.task(upid)).ended_at else None, f"{upid} ends", 20).error


def claim(name: str) -> Claim:
    return Claim(name, {"web": 4}, 2e9, "a test")


@contextmanager
def silent_endpoint() -> Iterator[str]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"https://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def tls_endpoint(certificates: Path, answer: bytes, name: str = "api") -> Iterator[str]:
    """A TLS server that reads one request and gives this answer, or none, then closes."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                raw, _ = listening.accept()
            except OSError:
                return
            try:
                with tls.wrap_socket(raw, server_side=True) as connection:
                    connection.recv(65536)
                    connection.sendall(answer)
            except OSError:
                raw.close()

    threading.Thread(target=serve, daemon=True).start()
    yield f"https://127.0.0.1:{listening.getsockname()[1]}"
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


# Reading


def test_a_machine_is_made_seen_used_and_removed(lab: Lab) -> None:
    lab.template()
    proxmox = connect(lab)
    upid = proxmox.clone(IMAGE, vmid=201, name="shop-web-1", pool="shop", description="first", target_node="pve2")
    assert finished(proxmox, upid) == ""
    config = proxmox.config("pve2", 201)
    assert config
    assert (config.name, config.description.strip(), config.lock) == ("shop-web-1", "first", "")
    proxmox.configure(
        "pve2", 201, config.digest, {"memory": 1024, "tags": "thems;tier-web", "protection": True,
                                     "sshkeys": "ssh-ed25519 AAAA+/ me", "ipconfig0": "ip=10.77.1.11/16"},
    )  # fmt: skip
    changed = proxmox.config("pve2", 201)
    assert changed
    assert (changed.protection, changed.tags) == (True, ("thems", "tier-web"))
    assert changed.options["sshkeys"] == "ssh-ed25519%20AAAA%2B%2F%20me"
    proxmox.configure("pve2", 201, changed.digest, {"cores": 1}, delete=["protection"])
    assert finished(proxmox, proxmox.resize("pve2", 201, "scsi0", 9)) == ""
    assert not proxmox.running("pve2", 201)
    assert finished(proxmox, proxmox.start("pve2", 201)) == ""
    assert proxmox.running("pve2", 201)
    assert (proxmox.agent_read("pve2", 201, "/etc/ssh/ssh_host_ed25519_key.pub") or "").startswith("ssh-ed25519 ")
    assert proxmox.agent_read("pve2", 201, "/no/such/file") is None
    assert finished(proxmox, proxmox.shutdown("pve2", 201, 5)) == ""
    assert proxmox.agent_read("pve2", 201, "/etc/hostname") is None
    assert finished(proxmox, proxmox.destroy("pve2", 201)) == ""
    assert proxmox.config("pve2", 201) is None
    assert not proxmox.running("pve2", 201)
    assert proxmox.destroy("pve2", 201) == ""


def test_ssh_keys_that_are_encoded_already_are_not_encoded_twice(lab: Lab) -> None:
    make_record(lab)
    proxmox = connect(lab)
    config = proxmox.config("pve1", RECORD)
    assert config
    proxmox.configure("pve1", RECORD, config.digest, {"sshkeys": "ssh-ed25519%20AAAA%2B%2F%20me"})
    changed = proxmox.config("pve1", RECORD)
    assert changed
    assert changed.options["sshkeys"] == "ssh-ed25519%20AAAA%2B%2F%20me"


def test_one_request_tells_what_the_cluster_has_and_what_is_promised_on_it(lab: Lab) -> None:
    lab.template()
    make_record(lab)
    assert lab.clone(201, "shop-web-1") == "OK"
    proxmox = connect(lab)
    eventually(lambda: all(vm.name for vm in proxmox.resources().vms), "names are published", 10)
    before = proxmox.requests
    seen = proxmox.resources()
    assert proxmox.requests == before + 1
    vms = {vm.vmid: vm for vm in seen.vms}
    assert set(vms) == {RECORD, 201, TEMPLATE}
    assert vms[TEMPLATE].template
    assert not vms[201].template
    assert (vms[201].name, vms[201].node, vms[201].pool, vms[201].kind) == ("shop-web-1", "pve1", "shop", "qemu")
    assert vms[201].tags == ("a", "b", "c")
    node = seen.nodes["pve1"]
    assert (node.online, node.cores, node.memory_mib) == (True, 16, 64 * 1024)
    assert (node.cores_used, node.memory_used_mib) == (2, 2048)  # neither the template nor the record
    shared = [storage for storage in seen.storages if storage.name == "shared"]
    assert {storage.node for storage in shared} == {"pve1", "pve2"}
    assert all(storage.shared and storage.active and storage.free_mib > 900 * 1024 for storage in shared)
    assert proxmox.quorate()


def test_tasks_and_how_long_they_took(lab: Lab) -> None:
    lab.template()
    proxmox = connect(lab)
    upid = proxmox.clone(IMAGE, vmid=201, name="shop-web-1", pool="shop", description="", target_node="pve1")
    assert finished(proxmox, upid) == ""
    twice = proxmox.start("pve1", 201), proxmox.start("pve1", 201)
    errors = sorted(finished(proxmox, started) for started in twice)
    assert errors == ["", "VM 201 already running"]
    listed = {task.upid: task for task in proxmox.tasks()}
    assert listed[upid].error == ""
    assert listed[upid].ended_at
    assert (listed[upid].kind, listed[upid].vmid, listed[upid].user) == ("qmclone", TEMPLATE, f"{TOKEN_USER}!jobs")
    assert {listed[started].error for started in twice} == {"", "VM 201 already running"}


def test_a_task_its_node_has_forgotten_has_ended_with_an_error(lab: Lab) -> None:
    proxmox = connect(lab)
    task = proxmox.task(f"UPID:pve1:0000ABCD:00112233:66000000:qmclone:9000:{TOKEN_USER}!jobs:")
    assert task.ended_at
    assert "no record" in task.error
    with pytest.raises(EffectFailed, match="is no task"):
        proxmox.task("UPID:nonsense")


def test_privileges_and_version(lab: Lab) -> None:
    proxmox = connect(lab)
    assert proxmox.version().startswith("9.")
    assert "VM.Allocate" in proxmox.permissions("/pool/shop")
    assert "VM.Allocate" not in proxmox.permissions("/pool/other")
    assert proxmox.pools() == {"shop"}


# Errors of Proxmox


def test_an_id_that_is_taken_is_told_from_other_failures(lab: Lab) -> None:
    lab.template()
    assert lab.clone(201, "shop-web-1") == "OK"
    proxmox = connect(lab)
    with pytest.raises(EffectFailed) as taken:
        proxmox.clone(IMAGE, vmid=201, name="shop-web-2", pool="shop", description="", target_node="pve1")
    assert taken.value.reference == "vmid-taken"
    with pytest.raises(EffectFailed) as created:
        proxmox.create("pve1", 201, name="x", pool="shop", description="", options={"memory": 128})
    assert created.value.reference == "vmid-taken"
    with pytest.raises(EffectFailed) as bad_name:
        proxmox.clone(IMAGE, vmid=202, name="no_name", pool="shop", description="", target_node="pve1")
    assert bad_name.value.reference == "effect-failed"
    assert "DNS" in bad_name.value.detail


def test_a_digest_that_moved_is_transient(lab: Lab) -> None:
    make_record(lab)
    proxmox = connect(lab)
    config = proxmox.config("pve1", RECORD)
    assert config
    proxmox.configure("pve1", RECORD, config.digest, {"description": "one"})
    with pytest.raises(Transient, match="checksum mismatch"):
        proxmox.configure("pve1", RECORD, config.digest, {"description": "two"})


def test_a_missing_privilege_is_refused_with_path_and_privilege(lab: Lab) -> None:
    lab.template()
    lab.root.access.acl.put(
        path="/storage/shared", roles="PVEDatastoreUser", users=TOKEN_USER, tokens=f"{TOKEN_USER}!jobs", delete=1
    )
    with pytest.raises(Refused, match=r"/storage/shared.*Datastore\.AllocateSpace") as refused:
        connect(lab).clone(IMAGE, vmid=201, name="a", pool="shop", description="", target_node="pve1")
    assert refused.value.reference == "privilege-missing"


def test_a_refused_token_names_its_file_and_is_not_tried_again(lab: Lab) -> None:
    (lab.directory / "token").write_text("00000000-0000-0000-0000-000000000000\n")
    proxmox = connect(lab)
    with pytest.raises(Unreachable, match=r"refuses the token.*token and") as refused:
        proxmox.resources()
    assert refused.value.reference == "token-refused"
    assert str(lab.directory / "token") in refused.value.remedy
    assert proxmox.requests == 1


# The token and CA files


@pytest.mark.parametrize("content", ["", "  \n", "two words\n", "schlüssel"])
def test_a_token_file_without_a_secret_is_a_mistake(lab: Lab, content: str) -> None:
    (lab.directory / "token").write_text(content)
    with pytest.raises(UsageError, match="token"):
        connect(lab)


def test_a_token_file_that_is_missing_or_open_to_everybody_is_a_mistake(lab: Lab) -> None:
    for name, why in (("nowhere", "No such file"), ("a\0b", "embedded null byte")):
        with pytest.raises(UsageError, match=why):
            Proxmox(replace(settings(lab), token_file=name), "shop", lab.directory, 5)
    (lab.directory / "token").chmod(0o644)
    with pytest.raises(UsageError, match="every user"):
        Proxmox(settings(lab), "shop", lab.directory, 5)


def test_a_ca_file_that_is_none_is_a_mistake(lab: Lab) -> None:
    (lab.directory / "token").chmod(0o600)
    (lab.directory / "no-ca").write_text("nothing")
    for name in ("no-ca", "nowhere", "a\0b"):
        with pytest.raises(UsageError, match="no CA certificate"):
            Proxmox(replace(settings(lab), ca_file=name), "shop", lab.directory, 5)


# Endpoints


def test_the_next_endpoint_answers_for_one_that_refuses_or_is_silent(lab: Lab) -> None:
    good = f"https://127.0.0.1:{lab.port}"
    make_record(lab)
    with silent_endpoint() as silent:
        proxmox = connect(lab, "https://127.0.0.1:1", silent, good, timeout_s=3)
        config = proxmox.config("pve1", RECORD)
        assert config
        assert proxmox.requests == 3
        proxmox.configure("pve1", RECORD, config.digest, {"description": "changed"})
        assert proxmox.requests == 4  # the one that answered is asked first from now on
    fresh = connect(lab, "https://127.0.0.1:1", good)
    fresh.shutdown("pve1", RECORD, 1)  # a write goes on, too, when nothing can have been sent before


def test_no_endpoint_at_all_is_unreachable(lab: Lab) -> None:
    with silent_endpoint() as silent:
        proxmox = connect(lab, "https://127.0.0.1:1", silent, timeout_s=0.5)
        with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 cannot be reached.*Connection refused"):
            proxmox.resources()
    with pytest.raises(Unreachable):
        connect(lab, "https://127.0.0.1:1").start("pve1", 100)
    with pytest.raises(Unreachable, match="cannot be asked"):  # no name that can be looked up
        connect(lab, "https://pve..x").resources()


def test_a_certificate_that_expired_is_named(lab: Lab, certificates: Path, tmp_path: Path) -> None:
    day = ["-not_before", "20200101000000Z", "-not_after", "20200102000000Z"]
    for name in ("ca.pem", "ca.key"):
        (tmp_path / f"old-{name}").write_bytes((certificates / name).read_bytes())
    subprocess.run(
        ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=pve1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "old.key", "-out", "old.csr"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    (tmp_path / "ca.cnf").write_text(
        "[ca]\ndefault_ca=c\n[c]\ndatabase=index\nnew_certs_dir=.\nserial=serial\ndefault_md=sha256\npolicy=p\n"
        "copy_extensions=copy\n[p]\ncommonName=supplied\n"
    )
    (tmp_path / "index").touch()
    (tmp_path / "serial").write_text("77\n")
    subprocess.run(
        ["openssl", "ca", "-batch", "-config", "ca.cnf", "-cert", "old-ca.pem", "-keyfile", "old-ca.key", "-notext",
         "-startdate", day[1], "-enddate", day[3], "-in", "old.csr", "-out", "old.pem"],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    with tls_endpoint(tmp_path, b"", "old") as expired:
        with pytest.raises(Unreachable, match="certificate has expired") as found:
            connect(lab, expired, timeout_s=2).version()
        assert found.value.reference == "certificate-invalid"


def test_an_unknown_authority_is_not_trusted(lab: Lab) -> None:
    (lab.directory / "token").chmod(0o600)
    unknown = Proxmox(replace(settings(lab), ca_file=None), "shop", lab.directory, 5)
    with pytest.raises(Unreachable, match="certificate"):
        unknown.version()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 596 Broken pipe\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\nConnection: close\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n[]",
    ],
    ids=["closed", "596", "cut-short", "no-json", "not-proxmox"],
)
def test_a_lost_answer_is_asked_again_if_it_was_a_read_and_looked_at_if_it_was_a_write(
    lab: Lab, certificates: Path, answer: bytes
) -> None:
    good = f"https://127.0.0.1:{lab.port}"
    with tls_endpoint(certificates, answer) as broken:
        assert connect(lab, broken, good).version().startswith("9.")
        alone = connect(lab, broken)
        with pytest.raises(Unreachable):
            alone.version()
        sent = alone.requests
        assert sent == 3
        with pytest.raises(Transient, match="may have been carried out"):
            connect(lab, broken, good).start("pve1", 100)


def test_a_locked_vm_is_transient(lab: Lab) -> None:
    make_record(lab)
    lab.root.nodes("pve1").qemu(RECORD).config.put(lock="backup")
    with pytest.raises(Transient, match="locked"):
        connect(lab).configure("pve1", RECORD, "", {"description": "x"})


# The record


def test_the_record_is_read_changed_and_left_alone_when_nothing_changes(lab: Lab) -> None:
    make_record(lab)
    proxmox = connect(lab)
    assert proxmox.read_record()[0] == Record()
    changed = proxmox.change_record(lambda record: with_claim(record, claim("show")))
    assert changed.claims == (claim("show"),)
    record, digest = connect(lab).read_record()
    assert record == changed
    before = proxmox.requests
    proxmox.change_record(lambda record: record)
    assert proxmox.requests == before + 1
    assert proxmox.read_record() == (record, digest)


def test_a_change_that_raises_writes_nothing(lab: Lab) -> None:
    make_record(lab)
    proxmox = connect(lab)
    digest = proxmox.read_record()[1]

    def lose(_: Record) -> Record:
        raise LeaseLost("lease", "it is held by another.")

    with pytest.raises(LeaseLost):
        proxmox.change_record(lose)
    assert proxmox.read_record()[1] == digest


def test_of_many_writers_none_overwrites_another(lab: Lab) -> None:
    make_record(lab)
    clients = [connect(lab) for _ in range(3)]  # as three hosts would be: they share nothing here
    written: list[str] = []

    def write(number: int) -> None:
        name = f"claim-{number}"
        for _ in range(20):
            try:
                clients[number % 3].change_record(lambda record: with_claim(record, claim(name)))
            except Transient:
                continue
            written.append(name)
            return

    with ThreadPoolExecutor(max_workers=12) as pool:
        list(pool.map(write, range(12)))
    assert len(written) == 12
    assert {claim.name for claim in clients[0].read_record()[0].claims} == set(written)


@pytest.mark.parametrize(
    ("description", "name", "found"),
    [
        ("somebody's notes", "shop-record", "holds no record"),
        ('{"lease": 7}', "shop-record", "cannot be read"),
        ("", "mailserver", "named mailserver"),
        ("", "ware-record", "named ware-record, not shop-record"),
        (
            write(Record(claims=(Claim("show", {"web": 4}, 2e9, "a test"),)), "ware"),
            "shop-record",
            "is of platform ware, not of shop",
        ),
    ],
)
def test_a_record_that_is_not_one_is_refused(lab: Lab, description: str, name: str, found: str) -> None:
    make_record(lab, description, name)
    with pytest.raises(Refused, match=found) as refused:
        connect(lab).read_record()
    assert refused.value.reference == "record-unreadable"


def test_a_record_vm_that_is_missing_or_in_another_pool_is_refused(lab: Lab) -> None:
    with pytest.raises(Refused, match="no such VM in pool shop"):
        connect(lab).read_record()
    lab.root.pools.post(poolid="other")
    make_record(lab, pool="other")
    with pytest.raises(Refused, match="no such VM in pool shop"):
        connect(lab).read_record()


def test_a_record_that_outgrows_its_place_is_refused_before_it_is_written(lab: Lab) -> None:
    make_record(lab)
    proxmox = connect(lab)
    long = replace(claim("long"), reason="x" * 9000)
    with pytest.raises(Refused, match="8192") as refused:
        proxmox.change_record(lambda record: with_claim(record, long))
    assert refused.value.reference == "record-full"


def test_the_record_is_found_again_on_another_node(lab: Lab) -> None:
    make_record(lab)
    proxmox = connect(lab)
    proxmox.change_record(lambda record: with_claim(record, claim("show")))
    assert lab.ended(lab.root.nodes("pve1").qemu(RECORD).migrate.post(target="pve2")) == "OK"
    assert proxmox.read_record()[0].claims == (claim("show"),)


@pytest.mark.parametrize(
    ("listed", "name"), [({}, ""), ({"name": "VM 105"}, ""), ({"name": "shop-web-1"}, "shop-web-1")]
)
def test_what_the_list_says_of_a_vm_without_a_name_is_no_name(listed: dict[str, str], name: str) -> None:
    assert vm_row({"vmid": 105, "node": "pve1", "type": "qemu", **listed}).name == name
