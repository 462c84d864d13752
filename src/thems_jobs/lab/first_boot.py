"""What cloud-init does on a clone's first boot, done on its disk before it boots: identity, user, keys."""

import secrets
import shlex
import subprocess
from pathlib import Path

from thems_jobs.lab.hypervisor import GuestError, GuestSpec

INSTANCE_FILE = "/var/lib/cloud/data/instance-id"

# Runs in the guest's tree (chroot), so that no link in there can lead a write out of it.
SCRIPT = """
set -e
[ "$(cat {instance_file} 2>/dev/null)" != {instance} ] || exit 0
mkdir -p /var/lib/cloud/data
echo {name} > /etc/hostname
printf '127.0.0.1 localhost\\n127.0.1.1 %s\\n' {name} > /etc/hosts
echo {machine_id} > /etc/machine-id
rm -f /etc/ssh/ssh_host_*
ssh-keygen -q -t ed25519 -N '' -C root@{name} -f /etc/ssh/ssh_host_ed25519_key
if [ -n {user} ]; then
  id {user} >/dev/null 2>&1 || useradd --create-home --shell /bin/bash {user}
  echo {user}' ALL=(ALL) NOPASSWD:ALL' > /etc/sudoers.d/90-cloud-init-users
  chmod 440 /etc/sudoers.d/90-cloud-init-users
  home=$(getent passwd {user} | cut -d: -f6)
  install -d -m 700 -o {user} -g "$(id -g {user})" "$home/.ssh"
  printf %s {keys} > "$home/.ssh/authorized_keys"
  chown {user} "$home/.ssh/authorized_keys"
  chmod 600 "$home/.ssh/authorized_keys"
fi
echo {instance} > {instance_file}
"""


def prepare(root: Path, spec: GuestSpec) -> None:
    """Given a mounted disk, do its first boot unless it was done for this instance. Raise GuestError if that fails."""
    keys = "".join(f"{key}\n" for key in spec.ssh_keys)
    script = SCRIPT.format(
        instance_file=INSTANCE_FILE,
        instance=shlex.quote(spec.instance_id),
        name=shlex.quote(spec.name),
        machine_id=secrets.token_hex(16),
        user=shlex.quote(spec.user),
        keys=shlex.quote(keys),
    )
    done = subprocess.run(
        ["chroot", str(root), "/bin/sh", "-s"], input=script, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise GuestError(f"cloud-init of VM {spec.vmid} failed: {done.stderr.strip() or done.returncode}")
