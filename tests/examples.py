"""Outcomes to render: a scale that went well, one that was refused, one that halted, with strange texts."""

from dataclasses import replace

from thems_jobs.core.facts import Counters
from thems_jobs.core.outcome import Exit, MachineRow, Outcome, StepRun
from thems_jobs.core.plan import Action, Change, Plan, Refusal, Step, Wait, chain
from thems_jobs.core.timeline import timeline

STARTED_AT = 1_796_000_000.0  # 2026-11-30 00:53:20 UTC
MEASURED = {"await-clone": 11.0, "clone": 0.8, "await-boot": 9.0, "check": 2.4, "configure": 0.6, "start": 0.3}
COMMAND = "thems-jobs scale --tier web=6 --until 2026-12-01T23:00+01:00 --event gala"


def life(name: str, node: str, first: str) -> tuple[Step, ...]:
    """Return the steps that make one machine."""
    slot = "clone shared"
    return chain(
        [
            Step(Action.CLONE, name, node=node, slot=slot),
            Step(Action.AWAIT_CLONE, name, wait=Wait("Proxmox clones its disk", 2, 600), slot=slot),
            Step(Action.CONFIGURE, name),
            Step(Action.START, name),
            Step(Action.AWAIT_BOOT, name, wait=Wait("it boots", 1, 300)),
            Step(Action.CONVERGE, name, batch="converge web"),
            Step(Action.CHECK, name),
            Step(Action.ADMIT, name, batch="admit"),
            Step(Action.AWAIT_UP, name, wait=Wait("the balancers check it themselves", 1, 60)),
            Step(Action.SERVE, name, batch="serve"),
        ],
        frozenset({first}),
    )


def scale_plan(count: int = 4) -> Plan:
    """Return a plan that makes so many web machines, two clones at a time."""
    names = [f"shop-web-{number}" for number in range(3, 3 + count)]
    claim = Step(Action.CLAIM, "gala", note="web=6 until 2026-12-01 22:00 UTC")
    reserve = Step(Action.RESERVE, "record", frozenset({claim.key}), note=", ".join(names))
    steps = [claim, reserve]
    changes = []
    for index, name in enumerate(names):
        node = f"pve{index % 2 + 1}"
        steps += life(name, node, reserve.key)
        changes.append(Change("make", name, node, "to reach the target"))
    steps.append(Step(Action.SETTLE, "record", frozenset(step.key for step in steps)))
    return Plan(tuple(steps), (), tuple(changes), {"clone shared": 2})


def rows(count: int, phase: str = "serving") -> tuple[MachineRow, ...]:
    """Return the machines of a platform with two balancers and so many web machines."""
    balancers = [MachineRow(f"shop-balancer-{n}", "balancer", f"pve{n}", f"10.77.2.1{n}", "serving", None, None)
                 for n in (1, 2)]  # fmt: skip
    web = [MachineRow(f"shop-web-{n}", "web", f"pve{(n + 1) % 2 + 1}", f"10.77.1.{10 + n}", phase, 3, 100)
           for n in range(1, count + 1)]  # fmt: skip
    return (*balancers, *web)


def played(plan: Plan, factor: float = 1.15) -> tuple[StepRun, ...]:
    """Return the steps of a plan as if each had taken somewhat more than expected."""
    return tuple(
        StepRun(
            key, key.split()[0], key.split()[1], "", end - start, key.split()[0] not in MEASURED,
            STARTED_AT + 2 + start * factor, STARTED_AT + 2 + end * factor, "ok",
        )
        for key, (start, end) in timeline(plan, MEASURED).items()
    )  # fmt: skip


def done(count: int = 4) -> Outcome:
    """Return a scale that went well."""
    plan = scale_plan(count)
    steps = played(plan)
    ended_at = max(run.ended_at or 0 for run in steps)
    return Outcome(
        COMMAND, "shop", "anna@jenkins", STARTED_AT, ended_at, Exit.OK, f"Done: {count} now serve.", "", plan,
        MEASURED, steps, before=rows(2), after=rows(2 + count), served=Counters(18_204, 0),
    )  # fmt: skip


REFUSALS = (
    Refusal(
        "storage-full", "storage shared", "7 GiB free", "16 GiB for 4 machines of tier web",
        "Free space or enlarge the storage.",
    ),
    Refusal(
        "vrrp-holder", "10.77.0.10", "held by shop-balancer-1 and shop-balancer-2", "exactly one holder",
        "Look at keepalived on the balancers (journalctl -u keepalived) and at the network between them.",
    ),
)  # fmt: skip


def refused() -> Outcome:
    """Return a scale that was refused by two gates."""
    plan = replace(scale_plan(), refusals=REFUSALS)
    return replace(
        done(), exit=Exit.REFUSED, message="Refused, nothing was changed: 2 gates are closed.", next=COMMAND, plan=plan,
        steps=(), refusals=REFUSALS, after=rows(2), served=Counters(120, 0), ended_at=STARTED_AT + 1.4,
    )  # fmt: skip


def halted() -> Outcome:
    """Return a scale that halted at one machine, whose error text tries to be markup."""
    base, text = done(), "<script>alert(1)</script> exit status 1 & \x00\x1b[31m"
    steps = [run for run in base.steps if not (run.target == "shop-web-5" and run.action in AFTER_BOOT)]
    steps = [replace(run, outcome="failed", detail=text) if run.key == "await-boot shop-web-5" else run
             for run in steps]  # fmt: skip
    refusal = Refusal("await-boot-deadline", "shop-web-5", text, "it to succeed", "Look at it, then run it again.")
    late = replace(rows(6)[-2], phase="building", weight=None, connections=None)
    return replace(
        base, exit=Exit.HALTED, message=f"Halted: shop-web-5: {text}", next=COMMAND, steps=tuple(steps),
        refusals=(refusal,), after=(*rows(4), late, rows(6)[-1]), served=Counters(9_410, 3),
        warnings=("Event gala (2026-12-01 17:00 UTC) would not fit: storage shared: 7 GiB free.",),
    )  # fmt: skip


AFTER_BOOT = ("converge", "check", "admit", "await-up", "serve")


def drift() -> Outcome:
    """Return a comparison of Jenkins' jobs that found one changed by hand, with a text that tries to be markup."""
    step = Step(Action.UPDATE_JOB, "shop/galera-health", note="c0ffee")
    broken = Refusal("definition-broken", "jobs/a.yaml", "line 3: <b>", "a definition that can be rendered", "Mend it.")
    change = Change("update", step.target, "", "it differs: +1 −1 lines")
    return Outcome(
        command="thems-jobs jobs-sync plan", platform="https://jenkins.example.com/", started_by="anna@agent-1",
        started_at=STARTED_AT, ended_at=STARTED_AT + 2, exit=Exit.DEGRADED, message="Nothing was changed.",
        next="thems-jobs jobs-sync apply --expect-plan 0123456789ab", plan=Plan((step,), (broken,), (change,)),
        measured={}, refusals=(broken,), about="job",
        differences={step.target: f"--- in Jenkins\n+++ in git\n-<a>{'0 ' * 200}</a>\n+<script>alert(1)</script>"},
    )  # fmt: skip
