"""What an approval binds: somebody agreed to a plan, and a later run may do what remains of it, nothing else."""

from thems_jobs.core.facts import Facts, Phase
from thems_jobs.core.plan import Action, Plan, Refusal
from thems_jobs.core.record import Approved


def approve(plan: Plan, by: str, at: float, digest: str) -> Approved:
    """Given a plan and who agreed to it, return what the record keeps: which machines may come up, which may go.

    Whose data is copied needs nobody's approval.
    """
    down = {change.machine for change in plan.changes if change.kind == "remove"}
    up = {step.target for step in plan.steps if step.action is not Action.BACKUP} - down
    return Approved(digest, by, at, {"up": tuple(sorted(up)), "down": tuple(sorted(down))})


def covers(approved: Approved, plan: Plan) -> bool:
    """True if the plan touches no machine in a way that was not approved."""
    now = approve(plan, "", 0, "").changes
    return all(set(now[way]) <= set(approved.changes.get(way, ())) | {"record"} for way in now)


def finished(approved: Approved, facts: Facts) -> bool:
    """True if every machine that the approval is about serves, or is gone, as was approved."""
    up = [facts.machines[name] for name in approved.changes.get("up", ()) if name in facts.machines]
    down = approved.changes.get("down", ())
    return all(machine.phase is Phase.SERVING for machine in up) and facts.machines.keys().isdisjoint(down)


def closed(plan: Plan, expected: str, approved: Approved | None) -> list[Refusal]:
    """Given the digest that was approved, return the refusal of any plan that is neither it nor what remains of it."""
    if not expected or plan.digest == expected:
        return []
    if approved is not None and approved.digest == expected and covers(approved, plan):
        return []
    return [
        Refusal(
            "plan-changed", "plan", f"its digest is {plan.digest}", f"{expected}, or what remains of that plan",
            "The platform changed since it was approved: look at the new plan (--plan) and approve that.",
        )
    ]  # fmt: skip
