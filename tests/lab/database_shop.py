"""A provisioned shop with a database tier: proxies and a Galera cluster beside the balancers and web machines."""

import json

from shop import Run, Shop


class DatabaseShop(Shop):
    """A shop whose platform has a database cluster of its own."""

    def do(self, *arguments: str, exit_code: int = 0) -> Run:
        """Run a command on this platform to its end."""
        return self.run(*arguments, platform=self.layout.database_platform, exit_code=exit_code)

    def members(self) -> list[str]:
        """Return the database machines that serve, by the tags in Proxmox."""
        return [vm.name for vm in self.tier("db") if "phase-serving" in vm.tags]

    def health(self) -> dict[str, object]:
        """Return what galera-health reports; it must find nothing wrong."""
        run = self.do("galera-health", "--json")
        report: dict[str, object] = json.loads(run.output)
        return report

    def forget_backups(self) -> None:
        """Remove all copies, so that the next one that is asked for is made."""
        for file in self.layout.backups.glob("*"):
            file.unlink()

    def remove_database(self) -> None:
        """Remove the tiers that the other tests' platform does not know, and what was claimed for them."""
        for vm in [*self.tier("db"), *self.tier("proxy")]:
            path = f"/nodes/{vm.node}/qemu/{vm.vmid}"
            self.client.call("PUT", f"{path}/config", protection=0)
            self.client.finish(self.client.call("POST", f"{path}/status/stop"))
            self.client.finish(self.client.call("DELETE", f"{path}?purge=1"))
        self.run("scale", "--end", "test", "--yes")
