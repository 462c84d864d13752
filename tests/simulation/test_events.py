"""A calendar run by cron every five minutes, beside people who claim, extend and end by hand."""

import random
from dataclasses import replace

from schedules import Schedule, make_platform, scale_wish

from thems_jobs.core.events import Event
from thems_jobs.core.identity import tier_of
from thems_jobs.core.outcome import Exit, Outcome
from thems_jobs.jobs.scale import Parameters

CRON_S = 300.0


class Shop:
    """A shop of two web machines at its beginning, and what is asked of it."""

    def __init__(self) -> None:
        platform = make_platform(random.Random(2))
        tiers = platform.tiers | {"web": replace(platform.tiers["web"], minimum=1, baseline=2, maximum=8)}
        proxmox = replace(platform.proxmox, nodes=("pve1", "pve2"))
        self.schedule = Schedule(replace(platform, tiers=tiers, proxmox=proxmox), random.Random(0))
        self.schedule.furnish(2, 2)
        self.clock = self.schedule.clock

    def web(self) -> int:
        return sum(tier_of(self.schedule.platform, vm.name) == "web" for vm in self.schedule.ours())

    def run(self, **asked: object) -> Outcome:
        outcome = self.schedule.run(scale_wish(self.schedule.platform, Parameters(**asked)))  # type: ignore[arg-type]
        assert outcome is not None
        return outcome

    def cron(self, *calendar: Event) -> Outcome:
        """Return how the run of five minutes from now ended; what begins while it is at work is for the next."""
        self.clock.pass_by(CRON_S)
        outcome = self.run(calendar=calendar, at=self.clock.now())
        assert outcome.exit in (Exit.OK, Exit.DEGRADED), outcome.message
        return outcome

    def event(self, name: str, starts_in_s: float, lasts_s: float, web: int, lead_s: float = 600) -> Event:
        starts_at = self.clock.now() + starts_in_s
        return Event(name, starts_at, starts_at + lasts_s, {"web": web}, lead_s)


def test_an_event_is_announced_claimed_extended_and_ended_early_beside_cron() -> None:
    shop = Shop()
    gala = shop.event("gala", 3600, 7200, 4)
    assert shop.cron(gala).message == "Nothing to do: all is as declared."
    shop.clock.pass_by(gala.begins_at - shop.clock.now())
    assert "web 2 → 4 serving" in shop.cron(gala).message
    assert "Nothing to do" in shop.cron(gala).message

    assert shop.run(extend="gala", until=gala.ends_at + 3600, by="anna").exit is Exit.OK
    for at in (gala.ends_at - CRON_S, gala.ends_at + 1800):
        shop.clock.pass_by(at - shop.clock.now())
        assert "Nothing to do" in shop.cron(gala).message
        assert shop.web() == 4

    assert "web 4 → 2 serving" in shop.run(end="gala", by="bert").message
    assert "no claim gala is live" in shop.run(end="gala", by="bert").message
    assert shop.cron(gala).message == "Nothing to do: all is as declared."
    assert shop.web() == 2


def test_an_event_that_was_ended_early_does_not_come_back_before_its_end() -> None:
    shop = Shop()
    gala = shop.event("gala", 600, 7200, 4)
    shop.cron(gala)
    assert shop.web() == 4
    shop.run(end="gala", by="anna")
    while shop.clock.now() < gala.ends_at + CRON_S:
        outcome = shop.cron(gala)
        assert shop.web() == 2
        assert outcome.steps == () or shop.clock.now() >= gala.ends_at
    assert shop.cron(gala).message == "Nothing to do: all is as declared."
    later = shop.event("gala", 600, 7200, 3)
    shop.cron(later)
    assert shop.web() == 3, "the next event of that name is a new one"


def test_a_moved_event_gives_its_machines_back_and_a_hand_made_claim_stays() -> None:
    shop = Shop()
    gala = shop.event("gala", 600, 7200, 5)
    shop.cron(gala)
    shop.run(tiers={"web": 3}, until=gala.ends_at, by="anna")
    assert shop.web() == 5
    moved = replace(gala, starts_at=gala.starts_at + 86400, ends_at=gala.ends_at + 86400)
    outcome = shop.cron(moved)
    assert "web 5 → 3 serving" in outcome.message
    assert [note.split()[1:3] for note in outcome.plan.notes] == [["web=3", "until"]]
    shop.clock.pass_by(moved.begins_at - shop.clock.now())
    assert "web 3 → 5 serving" in shop.cron(moved).message


def test_cron_warns_ahead_of_events_that_do_not_fit_together_and_claims_the_first() -> None:
    shop = Shop()
    platform = shop.schedule.platform
    wide = replace(platform.tiers["lb"], maximum=6, memory_mib=30400)
    shop.schedule.platform = shop.schedule.world.platform = replace(platform, tiers=platform.tiers | {"lb": wide})
    sale = replace(shop.event("sale", 600, 7 * 86400, 6), tiers={"web": 6})
    launch = replace(shop.event("launch", 3 * 86400, 86400, 0), tiers={"lb": 6})
    assert shop.cron(launch).exit is Exit.OK
    (warning,) = shop.cron(sale, launch).warnings
    assert warning.startswith("Event launch (2027-01-18 08:00 UTC) would not fit beside sale: tier web")
    assert shop.web() == 6
    outcome = shop.cron(sale, launch)
    assert (outcome.exit, outcome.message) == (Exit.DEGRADED, outcome.warnings[0])
    assert "would not fit beside sale" in outcome.message


def test_an_event_that_begins_while_cron_is_at_work_is_for_its_next_run() -> None:
    shop = Shop()
    gala = shop.event("gala", CRON_S + 600, 7200, 4)
    sale = replace(gala, name="sale", starts_at=gala.starts_at + 15, tiers={"web": 5})
    assert "web 2 → 4 serving" in shop.cron(gala, sale).message
    assert shop.clock.now() > sale.begins_at
    assert "web 4 → 5 serving" in shop.cron(gala, sale).message
