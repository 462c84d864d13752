"""The platform as it is: machines, balancers, claims, and who started what, for people and for programs."""

from dataclasses import asdict
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from thems_jobs import phrases
from thems_jobs.core.capacity import serves, targets
from thems_jobs.core.claims import is_over
from thems_jobs.core.databases import settings_of
from thems_jobs.core.facts import Balancer, Facts, Unknown
from thems_jobs.core.outcome import MachineRow, machine_rows
from thems_jobs.core.plan import Plan
from thems_jobs.core.platform import Platform
from thems_jobs.core.record import Claim
from thems_jobs.display import plain_table, words


def status_json(platform: Platform, facts: Facts, plan: Plan) -> dict[str, Any]:
    """Given what was seen and what would be done about it, return it as plain values."""
    record = facts.known_record
    return {
        "platform": platform.name,
        "at": phrases.iso(facts.at),
        "tiers": {
            name: {"serving": _serving(facts, name), "target": target, "baseline": platform.tiers[name].baseline}
            for name, target in targets(platform, facts).items()
        },
        "machines": [
            {**asdict(row), "vmid": facts.machines[row.name].vmid, "health": _health(facts, row)}
            for row in machine_rows(facts)
        ],
        "balancers": {
            name: {"unknown": view.reason} if isinstance(view, Unknown) else {"holds": list(view.holds)}
            for name, view in facts.balancers.items()
        },
        "record": facts.record.reason if isinstance(facts.record, Unknown) else "ok",
        "run": {"holder": record.lease.holder, "until": phrases.iso(record.lease.until)} if record.lease else None,
        "backup": _backup_json(facts),
        "claims": [_claim_json(claim) for claim in record.claims],
        "strangers": [asdict(stranger) for stranger in facts.strangers],
        "cut_off": [asdict(vm) for vm in facts.cut_off],
        "remains": [asdict(vm) for vm in facts.remains],
        "steps_to_be_as_declared": len(plan.steps),
        "refusals": [asdict(refusal) for refusal in plan.refusals],
    }


def _claim_json(claim: Claim) -> dict[str, Any]:
    event_until = phrases.iso(claim.event_until) if claim.event else None
    return {**asdict(claim), "until": phrases.iso(claim.until), "event_until": event_until}


def _backup_json(facts: Facts) -> dict[str, Any] | None:
    if isinstance(facts.backup, Unknown):
        return {"unknown": facts.backup.reason}
    return {**asdict(facts.backup), "at": phrases.iso(facts.backup.at)} if facts.backup else None


def _serving(facts: Facts, tier: str) -> int:
    return sum(serves(machine) for machine in facts.of_tier(tier))


def _health(facts: Facts, row: MachineRow) -> str:
    machine = facts.machines[row.name]
    if machine.clone and machine.clone != "cloning":
        return f"its clone failed: {machine.clone}"
    if not machine.exists:
        return "not there yet"
    if not machine.running:
        return "switched off"
    if not machine.reachable:
        return "does not answer"
    return machine.health or "answers"


def status_view(platform: Platform, facts: Facts, plan: Plan) -> RenderableType:
    """Given what was seen and what would be done about it, return it for the terminal, what matters last."""
    table = plain_table(
        "machine", "id", "node", "address", "phase", "share", "now", "state", right=["id", "share", "now"]
    )
    for row in machine_rows(facts):
        health = _health(facts, row)
        table.add_row(
            words(row.name, "bold"), str(facts.machines[row.name].vmid or "–"), words(row.node or "–"),
            words(row.address), words(row.phase, "" if row.phase == "serving" else "yellow"),
            "–" if row.weight is None else f"{row.weight} %", "–" if row.connections is None else str(row.connections),
            words(health, "green" if health in ("ok", "answers") else "red"),
        )  # fmt: skip
    parts: list[RenderableType] = [table, Text()]
    parts += _balancer_lines(platform, facts)
    parts += _backup_lines(platform, facts)
    parts += _record_lines(platform, facts)
    parts += [words(f"VM {s.vmid} ({s.name}) is in the way: {s.why}", "yellow") for s in facts.strangers]
    parts += [words(f"VM {vm.vmid} ({vm.name}) is out of reach: {vm.why}", "bold red") for vm in facts.cut_off]
    parts += [words(f"VM {vm.vmid} ({vm.name}) is what a lost clone left: {vm.why}", "yellow") for vm in facts.remains]
    parts += [Text(), _summary(platform, facts, plan)]
    return Group(*parts)


def _balancer_lines(platform: Platform, facts: Facts) -> list[Text]:
    lines = []
    for name, view in facts.balancers.items():
        if isinstance(view, Balancer):
            holds = f"; holds {platform.balancing.address}" if platform.balancing.address in view.holds else ""
            requests = phrases.count(view.counters.requests, "request")
            failed = f"{view.counters.failed:,} failed"
            lines.append(words(f"{name}: {requests} since its start, {failed}{holds}"))
        else:
            lines.append(words(f"{name}: {view.reason}", "bold red"))
    return lines


def _backup_lines(platform: Platform, facts: Facts) -> list[Text]:
    """Given the facts, return how old the newest copy of the database is, where copies are made."""
    settings = settings_of(platform)
    if settings is None or settings.backup is None:
        return []
    if isinstance(facts.backup, Unknown):
        return [words(f"backups in {settings.backup.folder}: {facts.backup.reason}", "bold red")]
    if facts.backup is None:
        return [words(f"no backup of the database in {settings.backup.folder}", "yellow")]
    age = phrases.duration(max(0.0, facts.at - facts.backup.at))
    return [words(f"newest backup of the database: {age} old, of {facts.backup.member}: {facts.backup.path}")]


def _record_lines(platform: Platform, facts: Facts) -> list[Text]:
    """Given the facts, return who works, who claimed, and what was approved and is not finished."""
    if isinstance(facts.record, Unknown):
        return [words(f"record VM {platform.proxmox.record_vmid}: {facts.record.reason}", "bold red")]
    lines, record = [], facts.record
    for claim in record.claims:
        tiers = " ".join(f"{tier}={number}" for tier, number in sorted(claim.tiers.items()))
        over = ", which is over: thems-jobs scale --expire" if is_over(claim, facts.at) else ""
        if claim.until <= facts.at < claim.event_until:
            over = f", ended early: the calendar's event lasts until {phrases.minute(claim.event_until)}"
        reason = f" ({claim.reason})" if claim.reason else ""
        lines.append(
            words(f"claim {claim.name}: {tiers} until {phrases.minute(claim.until)}{over}, by {claim.by}{reason}")
        )
    if record.lease and record.lease.until > facts.at:
        lines.append(words(f"a run by {record.lease.holder} is under way", "cyan"))
    if record.approved:
        approved = record.approved
        text = f"plan {approved.digest}, approved by {approved.by} on {phrases.minute(approved.at)}, is not finished"
        lines.append(words(text, "yellow"))
    return lines


def _summary(platform: Platform, facts: Facts, plan: Plan) -> Text:
    tiers = [f"{name} {_serving(facts, name)} of {target} serving" for name, target in targets(platform, facts).items()]
    text = f"{platform.name}: {', '.join(tiers)}"
    if plan.refusals:
        return words(f"{text}; {phrases.count(len(plan.refusals), 'gate is', 'gates are')} closed.", "bold yellow")
    if plan.steps:
        number = phrases.count(len(plan.steps), "step")
        return words(f"{text}; {number} to be as declared: thems-jobs provision --plan", "bold yellow")
    return words(f"{text}; all is as declared.", "bold green")
