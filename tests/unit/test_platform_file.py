"""Platform files and calendars: right ones are read, wrong ones are named, mistake by mistake."""

import re
from pathlib import Path

import pytest

from thems_jobs import resources
from thems_jobs.core.platform import Platform, mistakes
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


@pytest.mark.parametrize("name", ["lab.yaml", "example.yaml"])
def test_shipped_platform_files_are_right(name: str) -> None:
    platform = read_platform(resources.path("platforms", name), {})
    assert isinstance(platform, Platform)
    assert mistakes(platform) == []


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


def test_all_mistakes_are_said_at_once(tmp_path: Path) -> None:
    text = changed("minimum: 2", "minimum: none").replace("role: balancer", "role: x").replace("router_id: 77\n", "\n")
    assert len(refused(tmp_path, text)) == 3


def test_a_yaml_bomb_is_one_sentence(tmp_path: Path) -> None:
    levels = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    mistakes = refused(tmp_path, "\n".join(levels))
    assert len(mistakes) == 1
    assert "YAML bomb" in mistakes[0]


def test_what_cannot_be_read_is_a_usage_error(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path):
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
