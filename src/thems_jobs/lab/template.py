"""The root filesystem every lab machine starts from: Debian, built once, kept in a cache folder."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from thems_jobs.lab.errors import LabError

SUITE = "bookworm"

BASE_PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "openssh-server", "sudo", "python3", "ca-certificates", "curl",
    "iproute2", "iptables", "iputils-ping", "procps", "less", "nano", "rsync", "socat", "rsyslog", "cron", "logrotate",
)  # fmt: skip
SHOP_PACKAGES = (
    "apache2", "php-fpm", "php-mysql", "php-curl", "php-gd", "php-mbstring", "php-xml", "php-zip", "php-intl",
    "mariadb-server", "galera-4", "mariadb-backup", "haproxy", "keepalived",
)  # fmt: skip

# Of what the packages bring, only sshd (and systemd's own units) runs: roles enable the rest.
DISABLED_UNITS = (
    "apache2.service", "apache-htcacheclean.service", "php8.2-fpm.service", "mariadb.service", "haproxy.service",
    "keepalived.service", "rsyslog.service", "rsync.service", "cron.service",
)  # fmt: skip
# Units that need hardware, a console or a network route that a lab machine does not have.
MASKED_UNITS = (
    "console-getty.service", "getty@.service", "systemd-networkd-wait-online.service",
    "systemd-timesyncd.service", "apt-daily.timer", "apt-daily-upgrade.timer", "e2scrub_all.timer", "fstrim.timer",
    "dpkg-db-backup.timer", "man-db.timer",
)  # fmt: skip

# The lab answers guest agent calls from outside; this unit says when: it is up from multi-user on, as the
# agent of a real guest would be, and a machine that shuts down stops answering.
AGENT_UNIT = """\
[Unit]
Description=QEMU Guest Agent (the lab's stand-in: calls are answered from outside while this is active)
[Service]
Type=oneshot
RemainAfterExit=yes
RuntimeDirectory=lab-agent
ExecStart=/bin/true
[Install]
WantedBy=multi-user.target
"""

# Runs inside the finished tree (chroot). Host keys and machine-id are made anew by every machine's first boot.
# Manuals and locales go here and not by path-exclude, for which mmdebstrap filters each package in Python (20 s).
FINISH_SCRIPT = f"""\
set -e
cat > /etc/systemd/system/qemu-guest-agent.service <<'UNIT'
{AGENT_UNIT}UNIT
systemctl -q enable qemu-guest-agent.service ssh.service
systemctl -q disable {" ".join(DISABLED_UNITS)} 2>/dev/null
systemctl -q mask {" ".join(MASKED_UNITS)}
rm -f /etc/ssh/ssh_host_* /etc/apt/apt.conf.d/99mmdebstrap /etc/resolv.conf /etc/hostname /var/lib/dbus/machine-id
: > /etc/resolv.conf
: > /etc/machine-id
printf 'UseDNS no\\nPasswordAuthentication no\\n' > /etc/ssh/sshd_config.d/10-lab.conf
mkdir -p /var/lib/cloud/data
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /usr/share/doc/* /usr/share/man/* /usr/share/locale/*
"""


def recipe_digest() -> str:
    """Return 16 hex digits that change whenever anything that shapes the root filesystem changes."""
    recipe = (SUITE, BASE_PACKAGES, SHOP_PACKAGES, FINISH_SCRIPT)
    return hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]


def template_root(cache: Path, report: Callable[[str], None]) -> Path:
    """Given the cache folder, return the template's root filesystem, building it first when it is not there.

    The tree is never written to again: machines see it through overlays. Raise LabError when it cannot be built.
    """
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)  # its sudo and su are nobody's business
    root = cache / f"debian-12-{recipe_digest()}"
    with (cache / "lock").open("w") as lock:  # two labs that share a cache build it once
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("template: another lab is building it, waiting")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            for leftover in cache.glob("*.partial"):
                shutil.rmtree(leftover)
            partial = root.with_suffix(".partial")
            _build(partial, report)
            partial.rename(root)
    return root


def _build(target: Path, report: Callable[[str], None]) -> None:
    sources = debian_sources()
    # In the cache, not in /tmp: what a killed build leaves is removed by the next one.
    with tempfile.TemporaryDirectory(dir=target.parent, suffix=".partial") as scratch:
        finish = Path(scratch) / "finish"
        finish.write_text(f"#!/bin/sh\nexec chroot \"$1\" /bin/sh -s <<'FINISH'\n{FINISH_SCRIPT}FINISH\n")
        finish.chmod(0o755)
        options = Path(scratch) / "apt.conf"
        options.write_text(_apt_options())
        source_list = Path(scratch) / "sources.list"
        source_list.write_text("".join(f"{line}\n" for line in sources))
        # mmdebstrap mounts /proc and friends in the tree: in a mount and pid namespace of its own, which dies
        # with this process, nothing stays mounted or running when either is killed.
        command = [
            "setpriv", "--pdeathsig", "KILL",
            "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private",
            "mmdebstrap", "--mode=root", "--variant=apt", f"--include={','.join(BASE_PACKAGES + SHOP_PACKAGES)}",
            f"--aptopt={options}", f"--customize-hook={finish}", "--skip=check/empty",
            "--dpkgopt=force-unsafe-io",
            SUITE, str(target), str(source_list),
        ]  # fmt: skip
        _run_showing_progress(command, scratch, report)


def _run_showing_progress(command: list[str], scratch: str, report: Callable[[str], None]) -> None:
    """Run mmdebstrap, reporting its phases with the seconds so far. Raise LabError with its last lines if it fails."""
    began = time.monotonic()
    tail: list[str] = []
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8", "TMPDIR": scratch}
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", env=environment,
    ) as build:  # fmt: skip
        assert build.stdout is not None  # noqa: S101 (for the type checker: PIPE was asked for)
        try:
            for line in build.stdout:
                tail = [*tail[-14:], line.rstrip()]
                if line.startswith("I: ") and not line.startswith("I: automatically"):
                    report(f"template: {line[3:].strip()} ({time.monotonic() - began:.0f} s)")
        except BaseException:
            build.kill()  # it would run on to its end otherwise
            raise
    if build.returncode != 0:
        raise LabError(
            f"the template could not be built: mmdebstrap ended with {build.returncode}; its last lines:\n  "
            + "\n  ".join(tail)
            + "\nCheck that `apt-get update` works on this machine, then run `thems-jobs lab up` again."
        )


def debian_sources() -> list[str]:
    """Return sources.list lines for the Debian archives this machine itself uses for the suite.

    Raise LabError when it has none (the lab needs Debian 12's archive, whatever mirror serves it).
    """
    fields = "$(ORIGIN)|$(CODENAME)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
    listing = subprocess.run(
        ["apt-get", "indextargets", "--format", fields, "Created-By: Packages"],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    suites: dict[tuple[str, str], list[str]] = {}
    for line in listing.splitlines():
        origin, codename, uri, release, component = line.split("|")
        if origin == "Debian" and codename.split("-")[0] == SUITE and not codename.endswith("-backports"):
            components = suites.setdefault((uri, release), [])
            if component not in components:
                components.append(component)
    if not any(release == SUITE for _, release in suites):
        raise LabError(
            f"no Debian archive for {SUITE!r} among this machine's apt sources: the lab builds its machines from it; "
            "the lab needs a Debian 12 host with downloaded package lists (run `apt-get update`)"
        )
    return [f"deb {uri} {release} {' '.join(components)}" for (uri, release), components in suites.items()]


def _apt_options() -> str:
    """Return this machine's own apt settings for downloading: proxies, retries, validity of archive dates."""
    dump = subprocess.run(["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=True).stdout
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Retries", "Acquire::Check-", "Acquire::ForceIPv")
    lines = [line for line in dump.splitlines() if line.startswith(wanted)]
    return "\n".join([*lines, 'Acquire::Languages "none";', 'APT::Install-Recommends "false";', ""])
