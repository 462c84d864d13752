"""Platform files and calendars: right ones are read, wrong ones are named, mistake by mistake."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from thems_jobs import resources
from thems_jobs.core.platform import Platform
from thems_jobs.core.platform_rules import mistakes
from thems_jobs.errors import UsageError
from thems_jobs.events_file import read_events, read_time
from thems_jobs.platform_file import check_files, read_platform

LAB = resources.path("platforms", "lab.yaml").read_text()


def written(folder: Path, text: str, name: str = "platform.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def refused(folder: Path, text: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        read_platform(written(folder, text), {})
    return caught.value.mistakes


def changed(old: str, new: str) -> str:
    assert LAB.count(old) >= 1, old
    return LAB.replace(old, new, 1)


@pytest.mark.parametrize("name", ["lab.yaml", "lab-database.yaml", "example.yaml"])
def test_shipped_platform_files_are_right(name: str) -> None:
    platform = read_platform(resources.path("platforms", name), {})
    assert isinstance(platform, Platform)
    assert mistakes(platform) == []


def test_the_lab_with_a_database_is_the_lab_otherwise() -> None:
    plain = read_platform(resources.path("platforms", "lab.yaml"), {})
    more = read_platform(resources.path("platforms", "lab-database.yaml"), {})
    assert more.database is not None
    assert plain.database == replace(more.database, cluster=None)
    tiers = {name: tier for name, tier in more.tiers.items() if tier.role in ("web", "balancer")}
    assert plain == replace(more, database=plain.database, tiers=tiers)
    assert set(more.tiers) - set(tiers) == {"db", "proxy"}


def test_the_example_explains_every_key_it_has() -> None:
    """An operator must not need the source: every key is there, with a comment at the block it belongs to."""
    text = resources.path("platforms", "example.yaml").read_text()
    for key in ("endpoints", "token_file", "record_vmid", "minimum", "placement", "php_workers", "lease_s"):
        assert re.search(rf"^\s*{key}:", text, re.MULTILINE), key
    assert text.count("#") > 40


def test_paths_are_relative_to_the_file_and_bound_secrets_win(tmp_path: Path) -> None:
    path = written(tmp_path, LAB)
    platform = read_platform(path, {})
    assert platform.proxmox.token_file == str(tmp_path / "token")
    assert platform.reach.netns == str(tmp_path / "netns")
    bound = read_platform(path, {"THEMS_PROXMOX_TOKEN_FILE": "/run/token", "THEMS_SSH_KEY_FILE": "/run/key"})
    assert (bound.proxmox.token_file, bound.ssh.key_file) == ("/run/token", "/run/key")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (changed("minimum: 2", "minimum: '2'"), r"tiers\.web\.minimum: found '2', expected a whole number"),
        (changed("minimum: 2", "minimum: true"), r"tiers\.web\.minimum: found True, expected a whole number"),
        (
            changed("minimum: 2", "minimum: 3"),
            r"line \d+, tiers\.web\.baseline: found 2, expected at least the minimum",
        ),
        (changed("minimum: 2", "minimun: 2"), r"tiers\.web\.minimun: found an unknown key.*did you mean minimum"),
        (changed("role: web", "role: db"), r"tiers\.web\.role: found 'db', expected one of web, balancer"),
        (changed("nodes: [pve1, pve2]", "nodes: [pve1, 2]"), r"proxmox\.nodes\[1\]: found 2, expected text"),
        (changed("https://", "http://"), r"proxmox\.endpoints\[0\]: found 'http:.*expected an https:// address"),
        (changed("  pool: shop\n", ""), r"proxmox\.pool: found nothing, expected text"),
        (changed("pool: shop", "pool: shop\n  pool: stock"), r"proxmox\.pool: found twice, expected once"),
        (changed("vmids: 1100-1199", "vmids: 1010-1199"), r"nothing in common with tiers\.balancer\.vmids"),
        (changed("lease_s: 60", "lease_s: .nan"), r"timeouts\.lease_s: found nan"),
        (changed("stop_s: 60", "stop_s: .inf"), r"timeouts\.stop_s: found inf, expected a number of seconds above 0"),
        (changed("api_s: 15", "api_s: 1.0e+300"), r"timeouts\.api_s: found 1e\+300"),
        (changed("clones_per_storage", "cpu_overcommit_ratio: .inf\n  clones_per_storage"), r"ratio: found inf"),
        (
            changed("gateway: 10.77.0.1", "gateway: nonsense"),
            r"balancer\.network\.gateway: found 'nonsense', expected an",
        ),
        (changed("router_id: 77", "router_id: 77\n  port: 99999"), r"balancing\.port: found 99999, expected a port"),
        (
            changed("path: /healthz}", "path: /healthz, status: -5}"),
            r"balancer\.health\.status: found -5, expected a st",
        ),
        (changed("path: /healthz}", 'path: "/a b"}'), r"balancer\.health\.path: found '/a b', expected a path"),
        (changed("pool: shop", "pool: ''"), r"proxmox\.pool: found '', expected the name of a pool"),
        (changed("bridge: vmbr0", "bridge: ''"), r"balancer\.network\.bridge: found '', expected the name of a bridge"),
        (changed("storage: shared", "storage: ''"), r"balancer\.template\.storage: found '', expected the name of a"),
        (changed("name: shop-web", "name: bad_name!"), r"web\.template\.name: found 'bad_name!', expected letters"),
        (changed('"local:import/debian-12.qcow2"', "''"), r"balancer\.template\.image: found '', expected a volume"),
        (changed("vmid: 9011", "vmid: 5"), r"web\.template\.vmid: found 5, expected a VMID from 100"),
        (changed("vmid: 9011", "vmid: 9000"), r"web\.template\.vmid: found 9000, .*than proxmox\.record_vmid"),
        (changed("vmid: 9011", "vmid: 1005"), r"balancer\.vmids: found .* in common with tiers\.web\.template\.vmid"),
        (
            changed("nodes: [pve1, pve2]", "nodes: [pve1, pve/2]"),
            r"proxmox\.nodes\[1\]: found 'pve/2', expected the name",
        ),
        (changed("user: thems\n", "user: -oProxyCommand=true\n"), r"ssh\.user: found '-oProxy.*expected the name of a"),
        (changed("thems@pve!jobs", "th\u20acms@pve!jobs"), r"proxmox\.token_id: found .* expected user@realm!token"),
        (changed("name: shop\n", 'name: "shop\\n"\n'), r"name: found 'shop\\n', expected lower-case letters"),
        *(
            (changed(f"{key}: ", f'{key}: "a\\0b" #'), rf"{key}: found 'a\\x00b', expected text without control")
            for key in ("token_file", "ca_file", "key_file", "netns")
        ),
        *(
            (
                changed("https://10.77.0.1:8006", f"https://{rest}"),
                r"proxmox\.endpoints\[0\]: found 'https://.*pve1\.exam",
            )
            for rest in (
                "",
                "pve1:abc",
                "pve1:99999",
                "pve1:0",
                "[::1",
                "[::g]",
                "pve..x",
                "a b",
                f"{'a' * 64}.x",
                "a/b",
            )
        ),
        ("", "is empty"),
        ("{{", "line 1, this is not YAML"),
        ("[" * 5000, "nested too deeply"),
        ("&a [*a]", "YAML bomb"),
        ("a: !!python/object:os.system {}", "this is not YAML"),
        ("a: *nobody", "undefined alias"),
        ("? [a]\n: 1", "a key must be plain text"),
        ("- 1", "expected a mapping with name, proxmox"),
    ],
)
def test_a_mistake_is_one_sentence_with_path_found_and_expected(tmp_path: Path, text: str, sentence: str) -> None:
    assert any(re.search(sentence, mistake) for mistake in refused(tmp_path, text)), refused(tmp_path, text)


@pytest.mark.parametrize("endpoint", ["pve1", "pve1.example.com", "192.0.2.1:443", "[2001:db8::1]", "[::1]:8006/"])
def test_an_endpoint_is_a_name_or_an_address_with_or_without_a_port(tmp_path: Path, endpoint: str) -> None:
    text = changed("https://10.77.0.1:8006", f"https://{endpoint}")
    assert read_platform(written(tmp_path, text), {}).proxmox.endpoints == (f"https://{endpoint}",)


def test_all_mistakes_are_said_at_once(tmp_path: Path) -> None:
    text = changed("minimum: 2", "minimum: none").replace("role: balancer", "role: x").replace("router_id: 77\n", "\n")
    assert len(refused(tmp_path, text)) == 3


def with_database() -> str:
    """The lab's platform with a database cluster: the example's, its comment signs taken away."""
    example = resources.path("platforms", "example.yaml").read_text()
    cluster = re.search(r"(  # cluster:\n(  #   .*\n)+)", example)
    tiers = example[example.index("  # db:\n") :]
    assert cluster
    text = re.sub(r"^database:\n(  .*\n)+", "", LAB, flags=re.MULTILINE)
    block = re.sub(r"^  # ", "  ", cluster[1], flags=re.MULTILINE)
    text = text.replace("timeouts:", f"database:\n  max_connections: 151\n{block}\ntimeouts:")
    return text + re.sub(r"^  # ", "  ", tiers, flags=re.MULTILINE)


DATABASE = with_database()


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("keep: 7", "keep: 0", r"database\.cluster\.backup\.keep: found 0, expected at least 1"),
        ("fresh_s: 3600", "fresh_s: 0", r"database\.cluster\.backup\.fresh_s: found 0(\.0)?, expected at least 60"),
        ("folder: /srv/backups/shop", "folder: ''", r"database\.cluster\.backup\.folder: found '', expected a folder"),
        ("folder: /srv/backups/shop, ", "", r"database\.cluster\.backup\.folder: found nothing"),
        ("keep: 7", "kept: 7", r"database\.cluster\.backup\.kept: found an unknown key"),
    ],
)
def test_a_mistake_about_backups_is_named(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert DATABASE.count(old) == 1
    found = refused(tmp_path, DATABASE.replace(old, new))
    assert any(re.search(sentence, mistake) for mistake in found), found


def test_the_backup_folder_is_relative_to_the_file(tmp_path: Path) -> None:
    text = DATABASE.replace("/srv/backups/shop", "backups")
    database = read_platform(written(tmp_path, text), {}).database
    assert database is not None
    assert database.cluster is not None
    assert database.cluster.backup is not None
    assert database.cluster.backup.folder == str(tmp_path / "backups")


def test_the_commented_database_of_the_example_is_right(tmp_path: Path) -> None:
    platform = read_platform(written(tmp_path, DATABASE), {})
    assert platform.database is not None
    cluster = platform.database.cluster
    assert cluster is not None
    assert (cluster.flavour, cluster.proxy, cluster.port, cluster.gcache_mib) == ("percona", "proxysql", 3306, 4096)
    assert platform.tiers[cluster.tier].role == "database"
    assert platform.tiers[cluster.proxy_tier].role == "proxy"


def test_files_of_the_database_are_relative_and_bound_secrets_win(tmp_path: Path) -> None:
    text = DATABASE.replace("/etc/thems-jobs/", "")
    platform = read_platform(written(tmp_path, text), {"THEMS_SHOP_DATABASE_PASSWORD_FILE": "/run/shop"})
    assert platform.database is not None
    assert platform.database.cluster is not None
    assert platform.database.cluster.ca_key_file == str(tmp_path / "database-ca.key")
    assert platform.database.cluster.proxysql_password_file == str(tmp_path / "proxysql-password")
    assert platform.database.cluster.application.password_file == "/run/shop"
    with pytest.raises(UsageError) as caught:
        check_files(platform)
    assert "the shop's database password cannot be read" in str(caught.value)
    assert len(caught.value.mistakes) == 8  # the API's token and CA, the SSH key, and five of the database


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("    tier: db", "    tier: web", r"database\.cluster\.tier: found 'web', expected a tier with role database"),
        ("    tier: db", "    tier: base", r"database\.cluster\.tier: found 'base', expected one of the tiers"),
        ("    tier: db", "    tier: web", r"tiers\.db\.role: .* expected database\.cluster\.tier to name this tier"),
        (
            "proxy_tier: proxy",
            "proxy_tier: db",
            r"database\.cluster\.proxy_tier: found 'db', expected a tier with role",
        ),
        ("proxy_tier: proxy", "proxy_tier: db", r"tiers\.proxy\.role: .*expected database\.cluster\.proxy_tier"),
        ("address: 192.0.2.20", "address: db", r"database\.cluster\.address: found 'db', expected an IPv4 address"),
        ("address: 192.0.2.20", "address: 10.77.0.10", r"another address than balancing\.address"),
        (
            "address: 192.0.2.20",
            "address: 10.77.1.12",
            r"tiers\.web.*nothing in common with database\.cluster\.address",
        ),
        ("router_id: 52", "router_id: 300", r"database\.cluster\.router_id: found 300"),
        ("router_id: 52", "router_id: 77", r"another VRRP router id than balancing\.router_id"),
        ("flavour: percona", "flavour: mysql", r"flavour: found 'mysql', expected one of mariadb, percona"),
        (
            "proxy: proxysql\n    port",
            "proxy: maxscale\n    port",
            r"found 'maxscale', expected one of haproxy, proxysql",
        ),
        ("port: 3306", "port: 0", r"database\.cluster\.port: found 0"),
        ("user: thems\n    password", "user: th-ems\n    password", r"cluster\.user: found 'th-ems', expected letters"),
        ("user: shop", "user: thems", r"application\.user: found 'thems', expected another account"),
        ("database: shop", "database: s`hop", r"application\.database: found 's`hop', expected letters"),
        ("    proxysql_password_file: /etc/thems-jobs/proxysql-password\n", "", r"proxysql_password_file: found None"),
        ("gcache_mib: 4096", "gcache_mib: 0", r"gcache_mib: found 0"),
        ("sample_s: 2.0", "sample_s: .nan", r"sample_s: found nan, expected 0\.1 to 60 seconds"),
        ("receive_queue_limit: 10.0", "receive_queue_limit: 0", r"receive_queue_limit: found 0"),
        ("limit_ratio: 0.05", "limit_ratio: 5.0", r"flow_control_limit_ratio: found 5\.0, expected a share"),
        ("minimum: 3", "minimum: 2", r"tiers\.db\.minimum: found 2, expected at least 3 machines"),
        ("baseline: 3", "baseline: 4", r"tiers\.db\.baseline: found 4, expected an odd number"),
        ("max_connections: 151", "max_connections: 0", r"database\.max_connections: found 0"),
        (
            "max_connections: 151",
            "max_connections: 20",
            r"database\.reserved_connections: found 20, expected 0 or more",
        ),
    ],
)
def test_a_mistake_of_the_database_is_named(tmp_path: Path, old: str, new: str, sentence: str) -> None:
    assert old in DATABASE
    found = refused(tmp_path, DATABASE.replace(old, new, 1))
    assert any(re.search(sentence, mistake) for mistake in found), found


def test_a_database_tier_needs_a_cluster(tmp_path: Path) -> None:
    text = re.sub(r"  cluster:\n(    .*\n)+", "", DATABASE)
    assert [mistake.split(":")[0].split(", ")[1] for mistake in refused(tmp_path, text)] == [
        "tiers.db.role",
        "tiers.proxy.role",
    ]


def test_a_yaml_bomb_is_one_sentence(tmp_path: Path) -> None:
    levels = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    mistakes = refused(tmp_path, "\n".join(levels))
    assert len(mistakes) == 1
    assert "YAML bomb" in mistakes[0]


def test_what_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path, Path("a\0b")):
        with pytest.raises(UsageError, match="cannot be read"):
            read_platform(path, {})
    (tmp_path / "large.yaml").write_bytes(b"#" * 300_000)
    with pytest.raises(UsageError, match="larger than 256 KiB"):
        read_platform(tmp_path / "large.yaml", {})
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9")
    with pytest.raises(UsageError, match="not UTF-8"):
        read_platform(tmp_path / "latin.yaml", {})


def test_every_unusable_file_is_named(tmp_path: Path) -> None:
    platform = read_platform(written(tmp_path, LAB), {})
    (tmp_path / "ssh_key").write_text("")
    (tmp_path / "token").write_text("a-secret\n")
    with pytest.raises(UsageError) as caught:
        check_files(platform)
    assert len(caught.value.mistakes) == 2
    assert "ssh_key: the SSH key file is empty" in str(caught.value)
    assert "a-secret" not in str(caught.value)
    assert "ca.pem: the CA certificate cannot be read (No such file or directory)" in str(caught.value)


def test_a_calendar_is_read_earliest_first_in_any_zone(tmp_path: Path) -> None:
    text = """
- {name: gala, start: 2026-12-05 18:00:00+01:00, end: 2026-12-05T23:00+01:00, tiers: {web: 8}, lead: 2h}
- {name: sale, start: 2026-12-01T17:00Z, end: 2026-12-02T17:00Z, tiers: {web: 6}}
"""
    sale, gala = read_events(written(tmp_path, text, "events.yaml"))
    assert (sale.name, gala.name) == ("sale", "gala")
    assert gala.starts_at == read_time("2026-12-05T17:00Z")
    assert (sale.lead_s, gala.lead_s) == (3600, 7200)
    assert gala.tiers == {"web": 8}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("T18:00+01:00", "T18:00"), r"\[0\]\.start: found '2026-12-05T18:00', which has no zone"),
        (("T18:00+01:00", "T25:00Z"), r"\[0\]\.start: found '2026-12-05T25:00Z', expected a time with its zone"),
        (("T23:00+01:00", "T17:00+01:00"), r"\[0\]\.end: found .* expected a time after the start"),
        (("lead: 2h", "lead: soon"), r"\[0\]\.lead: found 'soon', expected minutes, hours or days"),
        (("name: gala", "name: 'ga la'"), r"\[0\]\.name: found 'ga la'"),
        (("{web: 8}", "{}"), r"\[0\]\.tiers: found no tier"),
        (("2026-12-05T18:00+01:00", "0001-01-01T00:00+01:00"), r"\[0\]\.start: found '0001-01-01T00:00\+01:00', exp"),
        (("2026-12-05T23:00+01:00", "9999-12-31T23:59-12:00"), r"\[0\]\.end: found '9999-12-31T23:59-12:00', exp"),
        (("{web: 8}", "{web: many}"), r"\[0\]\.tiers\.web: found 'many', expected a whole number"),
        (("lead: 2h", "leed: 2h"), r"\[0\]\.leed: found an unknown key.*did you mean lead"),
    ],
)
def test_a_malformed_event_is_named(tmp_path: Path, change: tuple[str, str], sentence: str) -> None:
    text = "- {name: gala, start: 2026-12-05T18:00+01:00, end: 2026-12-05T23:00+01:00, tiers: {web: 8}, lead: 2h}"
    with pytest.raises(UsageError) as caught:
        read_events(written(tmp_path, text.replace(*change), "events.yaml"))
    assert len(caught.value.mistakes) == 1
    assert re.search(sentence, caught.value.mistakes[0]), caught.value.mistakes


def test_two_events_of_one_name_are_a_mistake(tmp_path: Path) -> None:
    event = "- {name: gala, start: 2026-12-05T18:00Z, end: 2026-12-05T23:00Z, tiers: {web: 8}}\n"
    with pytest.raises(UsageError, match=r"\[1\]\.name: found 'gala', expected a name that no other event has"):
        read_events(written(tmp_path, event * 2, "events.yaml"))
