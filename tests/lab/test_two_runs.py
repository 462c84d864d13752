"""Two runs at once on one platform: one works, the other says who does; one that froze does no harm later."""

import json
import signal

import pytest
from shop import Run, Shop, later

from waiting import eventually

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

UP = ("scale", "--tier", "web=3", "--event", "test", "--until", later(4), "--yes")
DOWN = ("scale", "--end", "test", "--yes")
LEASE_S = 30  # the shortest that is allowed


def by(who: str, *command: str) -> tuple[str, ...]:
    """Return the command as asked for by somebody."""
    return (*command, "--started-by", who)


def elsewhere(shop: Shop, *command: str) -> Run:
    """Start a run as on another host: whether a process of ours is alive cannot be known there."""
    apart = ("nsenter", f"--net={shop.layout.netns}", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
    return shop.start(*command, platform=shop.platform_with(reach=False, lease_s=LEASE_S), before=apart)


def test_while_one_run_works_others_are_told_who_does(shop: Shop) -> None:
    first = shop.start(*by("anna@jenkins", *UP)).until_step("clone")
    others = [
        elsewhere(shop, *by("bert@laptop", "provision", "--yes")),
        elsewhere(shop, *by("cron@jenkins", "scale", "--expire", "--yes")),
    ]
    second, scheduled = [run.wait() for run in others]
    assert first.process.poll() is None, "the first run was over too soon for this test"
    assert second.code == 4, second
    assert "anna@jenkins" in second.output, second
    assert "lease-held" in {refusal["reference"] for refusal in second.report["refusals"]}
    assert not second.steps, second
    assert scheduled.code == 0, scheduled
    assert "skipped" in scheduled.output.lower(), scheduled
    assert "anna@jenkins" in scheduled.output, scheduled
    assert first.wait().code == 0, first
    shop.expect_settled(web=3)
    twice = [shop.start(*by(who, *DOWN)) for who in ("anna@jenkins", "bert@laptop")]
    assert sorted(run.wait().code for run in twice) == [0, 4], "begun at once\n" + "\n".join(map(str, twice))
    shop.expect_settled(web=2)


@pytest.mark.parametrize(
    ("step", "then", "web"),
    [("clone", "undone", 2), ("await-boot", "finished", 3)],
    ids=["clone-and-undone", "boot-and-finished"],
)
def test_a_run_that_froze_until_another_took_over_does_no_harm(shop: Shop, step: str, then: str, web: int) -> None:
    """The first freezes in the midst of making a machine. The second ends the event, or finishes the machine."""
    brief = shop.platform_with(lease_s=LEASE_S)

    def stop_there(run: Run) -> None:
        if run.steps[-1][0] == step:
            run.send(signal.SIGSTOP)

    first = shop.start(*by("anna@jenkins", *UP), platform=brief, on_step=stop_there).until_step(step)
    command = by("bert@laptop", *(UP if then == "finished" else DOWN))
    second = elsewhere(shop, *command).wait()
    assert second.code == 4, f"it cannot know that the first is as good as dead\n{second}"
    assert "anna@jenkins" in second.output, second
    eventually(lambda: elsewhere(shop, *command).wait().code == 0, "nobody could take over", within_s=150)
    shop.expect_settled(web)
    before = {vm.vmid: vm.digest for vm in shop.vms() if vm.vmid != 9000}
    first.send(signal.SIGCONT)
    first.wait()
    assert first.code == 6, first
    assert "lease-lost" in {refusal["reference"] for refusal in first.report["refusals"]}, json.dumps(first.report)
    shop.expect_settled(web)
    assert {vm.vmid: vm.digest for vm in shop.vms() if vm.vmid != 9000} == before, f"it changed machines\n{first}"
    if web == 3:
        shop.run(*DOWN)
