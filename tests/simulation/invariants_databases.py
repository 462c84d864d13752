"""What must hold of the database after every change of the model world, and before what we do to its machines."""

from dataclasses import dataclass, field

from world import Vm, World

from thems_jobs.core.facts import Phase
from thems_jobs.core.identity import read_stamp, tier_of
from thems_jobs.core.platform import DatabaseCluster

UNDER_WAY_S = 30.0  # what was decided before something died is carried out within that


@dataclass
class DatabaseMonitor:
    """The database's half of the monitor. It returns what is broken, "" for nothing."""

    world: World
    least: int = 0  # so many members with all data were there already, up to the tier's minimum
    struck_at: float = float("-inf")  # when something outside took members away
    served: set[str] = field(default_factory=set)  # host keys of machines that served, whatever they do now

    @property
    def settings(self) -> DatabaseCluster | None:
        database = self.world.platform.database
        return database.cluster if database else None

    def expect_less(self) -> None:
        """Something outside took members away: those that are left are to be kept, but for what is under way."""
        self.least, self.struck_at = 0, self.world.now()

    def check(self) -> str:
        if self.settings is None:
            return ""
        self.served |= {vm.key for vm in self.world.vms.values() if vm.protection}
        galera, whole = self.world.galera, len(self.world.galera.whole())
        if galera.trouble:
            return galera.trouble
        if whole < self.least:
            return f"{whole} members have all data, {self.least} must"
        if self.world.now() - self.struck_at > UNDER_WAY_S:
            self.least = max(self.least, min(whole, self.world.platform.tiers[self.settings.tier].minimum))
        newest = max((vm.database.seqno for vm in self._holders(galera.uuid)), default=0)
        if newest < galera.acknowledged:
            return f"write {galera.acknowledged} is lost: the newest that any disk has is {newest}"
        return ""

    def _holders(self, uuid: str) -> list[Vm]:
        return [vm for vm in self.world.vms.values() if vm.database.uuid == uuid]

    def before(self, what: str, vm: Vm) -> str:
        """Given what we are about to do to a machine (join, leave, shutdown), return why it must not be done."""
        if self.settings is None or tier_of(self.world.platform, vm.name) != self.settings.tier:
            return ""
        others = [other.name for other in self.world.vms.values() if other is not vm and other.database.asked]
        if what in ("join", "leave") and others:
            return f"{what} of {vm.name} while {', '.join(others)} joins"
        return self._used(vm) or self._not_copied(vm) if what in ("leave", "shutdown") else ""

    def _not_copied(self, vm: Vm) -> str:
        """Who served and is stopped for good began to leave when a backup of all data was fresh."""
        stamp, folder = read_stamp(vm.description), self.settings.backup if self.settings else None
        if folder is None or stamp is None or stamp.phase is not Phase.DRAINING or vm.key not in self.served:
            return ""
        ages_s = [stamp.since - backup.at for backup in self.world.backups]
        fresh = [age_s for age_s in ages_s if -UNDER_WAY_S <= age_s <= folder.fresh_s + UNDER_WAY_S]
        return "" if fresh else f"{vm.name} leaves, and the newest backup was not fresh when it began to"

    def _used(self, vm: Vm) -> str:
        for proxy in self.world.vms.values():
            if not self.world.proxies.serves(proxy):
                continue
            if self.world.proxies.writer_of(proxy) == vm.name:
                return f"{vm.name} is stopped, and is the writer of {proxy.name}"
            if self.world.proxies.connections(proxy, vm.name):
                return f"{vm.name} is stopped, and {proxy.name} has sessions on it"
        return ""
