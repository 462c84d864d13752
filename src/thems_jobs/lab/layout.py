"""Where everything of one lab lies, and the names derived from its folder."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

DEFAULT_DIRECTORY = Path("/var/lib/thems-lab")
ROUTER_ADDRESS = "10.77.0.1"
API_PORT = 8006


@dataclass(frozen=True)
class LabLayout:
    """The folder of a lab. All paths are absolute."""

    directory: Path

    @property
    def group(self) -> str:
        """Name of its control group: found again without any record of a process."""
        return f"thems-lab-{hashlib.sha256(str(self.directory).encode()).hexdigest()[:10]}"

    @property
    def cache(self) -> Path:
        """The template's root filesystem, unless another folder was named; `lab down` keeps it."""
        return self.directory / "cache"

    @property
    def state(self) -> Path:
        """What the API keeps: configs, tasks, disks."""
        return self.directory / "state"

    @property
    def image(self) -> Path:
        """The disk offered as local:import/debian-12.qcow2."""
        return self.state / "images" / "debian-12"

    @property
    def log(self) -> Path:
        """Logs: the world's and the machines' consoles."""
        return self.directory / "log"

    @property
    def world_log(self) -> Path:
        """What the API and the machines' starter had to say."""
        return self.log / "world.log"

    @property
    def process(self) -> Path:
        """Which process to kill: pid, its start in clock ticks, the host's boot id."""
        return self.directory / "process.json"

    @property
    def lock(self) -> Path:
        """Held by `lab up` and `lab down` while they work; also the mark that the folder is a lab's."""
        return self.directory / "lock"

    @property
    def netns(self) -> Path:
        """The lab's network namespace: a link into /proc, so that nothing outlives the lab."""
        return self.directory / "netns"

    @property
    def control(self) -> Path:
        """The API's control socket (faults, latencies)."""
        return self.directory / "control"

    @property
    def endpoint(self) -> Path:
        """The API's address for use on the host."""
        return self.directory / "endpoint"

    @property
    def platform(self) -> Path:
        """The platform file for thems-jobs."""
        return self.directory / "platform.yaml"

    @property
    def database_platform(self) -> Path:
        """The platform file of the same platform with its own database cluster."""
        return self.directory / "platform-database.yaml"

    @property
    def database_authority(self) -> Path:
        """Certificate that signs those of the database machines."""
        return self.directory / "database-ca.pem"

    @property
    def database_authority_key(self) -> Path:
        """Its key: every new database machine gets a certificate."""
        return self.directory / "database-ca.key"

    @property
    def database_passwords(self) -> tuple[Path, ...]:
        """Passwords of the jobs' and of the shop's accounts in the database."""
        return self.directory / "database-password", self.directory / "shop-database-password"

    @property
    def token(self) -> Path:
        """Secret of the API token."""
        return self.directory / "token"

    @property
    def root_password(self) -> Path:
        """Password of root@pam of the lab's API."""
        return self.directory / "root-password"

    @property
    def authority(self) -> Path:
        """Certificate that signed the API's."""
        return self.directory / "ca.pem"

    @property
    def certificate(self) -> Path:
        """The API's certificate."""
        return self.directory / "api.pem"

    @property
    def certificate_key(self) -> Path:
        """Its key."""
        return self.directory / "api.key"

    @property
    def ssh_key(self) -> Path:
        """The operators' key; .pub beside it."""
        return self.directory / "ssh_key"

    @property
    def backups(self) -> Path:
        """Copies of the database that runs on the lab have made: they are of this lab's database alone."""
        return self.directory / "backups"

    @property
    def made_by_up(self) -> tuple[Path, ...]:
        """All that `lab up`, and runs on the lab, make in the folder and `lab down` removes: not cache and lock."""
        return (
            self.endpoint, self.process, self.netns, self.control, self.platform, self.token, self.root_password,
            self.authority, self.certificate, self.certificate_key, self.ssh_key, self.ssh_key.with_suffix(".pub"),
            self.database_platform, self.database_authority, self.database_authority_key, *self.database_passwords,
            self.backups, self.state, self.log,
        )  # fmt: skip
