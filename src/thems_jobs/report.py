"""Report of a run: report.json for programs, gates.xml for Jenkins' history, report.html for people.

Beside them, for a pipeline, which may read no JSON: plan.txt, message.txt and digest.txt.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as Xml

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from thems_jobs import __version__, phrases, resources
from thems_jobs.core import forecast
from thems_jobs.core.facts import Phase
from thems_jobs.core.galera import CONDITIONS
from thems_jobs.core.gate_list import KNOWN, GateState, gate_states
from thems_jobs.core.jenkins_jobs import GATES as JOB_GATES
from thems_jobs.core.jenkins_jobs import gate_states_of_jobs
from thems_jobs.core.outcome import Exit, MachineRow, Outcome, StepRun
from thems_jobs.core.plan import Action, Plan, Refusal, expected_s
from thems_jobs.core.timeline import timeline
from thems_jobs.report_picture import picture

NAMED = KNOWN | JOB_GATES.keys()  # gates, as opposed to effects that failed
SCHEMA = 1  # of report.json; changes when a key changes its meaning


def write_report(outcome: Outcome, folder: Path) -> None:
    """Given an outcome, write report.json, gates.xml and report.html; a reader never sees half of one."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "report.json", json.dumps(as_json(outcome), indent=2) + "\n")
    write_atomically(folder / "gates.xml", as_junit(outcome))
    write_atomically(folder / "report.html", as_html(outcome))
    write_message(outcome.message, folder, as_text(outcome), outcome.plan.digest)


def write_message(message: str, folder: Path, plan: str = "", digest: str = "") -> None:
    """Given the line that matters, write down for a pipeline what it shows; without a plan if there was none."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "plan.txt", plan)
    write_atomically(folder / "message.txt", " ".join(phrases.plain(message).split()) + "\n")
    write_atomically(folder / "digest.txt", digest + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Given a file's new text, put it there at once; a crash leaves the old text."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Given an outcome, return report.json as plain values."""
    return {
        "schema": SCHEMA,
        "outcome": phrases.EXIT_WORDS[outcome.exit],
        "exit": int(outcome.exit),
        "message": outcome.message,
        "next": outcome.next,
        "command": outcome.command,
        "platform": outcome.platform,
        "started_by": outcome.started_by,
        "started_at": phrases.iso(outcome.started_at),
        "ended_at": phrases.iso(outcome.ended_at),
        "seconds": round(outcome.ended_at - outcome.started_at, 3),
        "plan": plan_as_json(outcome.plan, outcome),
        "steps": [_step_as_json(run) for run in outcome.steps],
        "refusals": [asdict(refusal) for refusal in outcome.refusals],
        "warnings": list(outcome.warnings),
        "differences": dict(outcome.differences),
        "gates": [
            {"reference": gate.reference, "title": gate.title, "state": _state(gate)} for gate in _gates(outcome)
        ],
        "before": [asdict(row) for row in outcome.before],
        "after": [asdict(row) for row in outcome.after],
        "served": asdict(outcome.served) if outcome.served else None,
    }


def plan_as_json(plan: Plan, outcome: Outcome) -> dict[str, Any]:
    """Given a plan, return it as plain values, with when each step is expected to begin, in seconds from its start."""
    whole, spans = forecast.of_plan(plan, outcome.measured), timeline(plan, outcome.measured)
    steps = []
    for step in plan.steps:
        seconds, assumed = expected_s(step, outcome.measured)
        steps.append(
            {
                "key": step.key, "action": str(step.action), "target": step.target, "node": step.node,
                "after": sorted(step.after), "note": step.note, "expected_s": seconds, "assumed": assumed,
                "begins_s": round(spans[step.key][0], 1) if step.key in spans else None,
            }
        )  # fmt: skip
    return {
        "digest": plan.digest,
        "expected_s": round(whole.seconds, 1),
        "assumed": whole.assumed,
        "changes": [asdict(change) for change in plan.changes],
        "notes": list(plan.notes),
        "steps": steps,
        **_checks_as_json(plan),
    }


def as_text(outcome: Outcome) -> str:
    """Given an outcome, return its plan in plain lines: changes, claims, refusals, warnings, and the sum last."""
    plan = outcome.plan
    lines = [
        f"{change.machine}: {change.kind} on {change.node or 'no node yet'}, {change.why}" for change in plan.changes
    ]
    lines += [f"{step.target}: {step.note}" for step in plan.steps if step.action is Action.CLAIM]
    lines += plan.notes
    lines += [f"Closed: {refusal}" for refusal in outcome.refusals]
    lines += [f"Warning: {warning}" for warning in outcome.warnings]
    if plan.steps:
        whole = forecast.of_plan(plan, outcome.measured)
        assumed = ", partly assumed" if whole.assumed else ""
        number = phrases.count(len(plan.steps), "step")
        lines.append(f"{number}, {phrases.duration(whole.seconds)} in all{assumed}. Plan {plan.digest}")
    return "".join(" ".join(phrases.plain(line).split()) + "\n" for line in lines)


def _checks_as_json(plan: Plan) -> dict[str, Any]:
    rejoin = asdict(plan.rejoin) if plan.rejoin else None
    return {"checks": [asdict(check) for check in plan.checks], "rejoin": rejoin}


def health_as_json(plan: Plan, at: float) -> dict[str, Any]:
    """Given a plan without steps and when it was made, return what it found as plain values."""
    refusals = [asdict(refusal) for refusal in plan.refusals]
    return {"at": phrases.iso(at), "safe": not refusals, "refusals": refusals, **_checks_as_json(plan)}


def _step_as_json(run: StepRun) -> dict[str, Any]:
    ended = run.ended_at
    return {
        **asdict(run),
        "started_at": phrases.iso(run.started_at),
        "ended_at": phrases.iso(ended) if ended is not None else None,
        "seconds": round(ended - run.started_at, 3) if ended is not None else None,
    }


def _gates(outcome: Outcome) -> list[GateState]:
    if outcome.about == "job":
        return gate_states_of_jobs(outcome.refusals, looked=outcome.exit is not Exit.REFUSED)
    return gate_states(outcome.plan, outcome.refusals)


def _state(gate: GateState) -> str:
    return "closed" if gate.refusals else "open" if gate.asked else "not asked"


def as_junit(outcome: Outcome) -> str:
    """Given an outcome, return every gate as a test case; a closed one failed, one not asked was skipped."""
    gates = _gates(outcome)
    suite = Xml.Element(
        "testsuite",
        name=f"gates of {outcome.platform}",
        tests=str(len(gates)),
        failures=str(sum(bool(gate.refusals) for gate in gates)),
        skipped=str(sum(not gate.asked for gate in gates)),
        errors="0",
        time="0",
        timestamp=phrases.iso(outcome.started_at).rstrip("Z"),
    )
    for gate in gates:
        kind = "gates" if gate.reference in NAMED else "effects"  # an effect that failed stands in the way like a gate
        case = Xml.SubElement(suite, "testcase", classname=kind, name=gate.reference, time="0")
        if gate.refusals:
            failure = Xml.SubElement(case, "failure", type="closed", message=phrases.plain(str(gate.refusals[0])))
            failure.text = phrases.plain("\n".join(_in_full(refusal) for refusal in gate.refusals))
        elif not gate.asked:
            Xml.SubElement(case, "skipped", message="nothing was to be done that this gate is asked for")
    Xml.indent(suite)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + Xml.tostring(suite, encoding="unicode") + "\n"


def _in_full(refusal: Refusal) -> str:
    lines = [refusal.subject, f"measured: {refusal.measured}", f"required: {refusal.required}"]
    return "\n".join([*lines, f"remedy:   {refusal.remedy}", f"runbook:  docs/runbooks/{refusal.reference}.md", ""])


def as_html(outcome: Outcome) -> str:
    """Given an outcome, return the page for people: one file that needs nothing from anywhere."""
    templates = Environment(
        loader=FileSystemLoader(resources.path("report")),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: phrases.plain(value) if isinstance(value, str) else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"duration": phrases.duration, "moment": phrases.moment, "grouped": lambda n: f"{n:,}"}
    whole = forecast.of_plan(outcome.plan, outcome.measured)
    return templates.get_template("report.html.j2").render(
        outcome=outcome,
        word=phrases.EXIT_WORDS[outcome.exit],
        seconds=outcome.ended_at - outcome.started_at,
        whole=whole,
        machines=forecast.of_machines(outcome.plan, outcome.measured),
        picture=picture(outcome),
        gates=[(gate, _state(gate)) for gate in _gates(outcome) if gate.reference in NAMED],
        rows=before_and_after(outcome.before, outcome.after),
        tiers=serving_by_tier(outcome.before, outcome.after),
        version=__version__,
        titles=CONDITIONS,
    )


def before_and_after(
    before: Sequence[MachineRow], after: Sequence[MachineRow]
) -> list[tuple[str, MachineRow | None, MachineRow | None, str]]:
    """Given the machines before and after, return one row for each: name, before, after, what became of it."""
    first, last = {row.name: row for row in before}, {row.name: row for row in after}
    names = list(dict.fromkeys([*[row.name for row in after], *first]))
    order = {name: ((last.get(name) or first[name]).tier, _number(name)) for name in names}
    rows = []
    for name in sorted(names, key=order.__getitem__):
        old, new = first.get(name), last.get(name)
        changed = (old and (old.phase, old.weight, old.node)) != (new and (new.phase, new.weight, new.node))
        rows.append((name, old, new, "gone" if new is None else "new" if old is None else "changed" if changed else ""))
    return rows


def _number(name: str) -> int:
    tail = name.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 0


def serving_by_tier(before: Sequence[MachineRow], after: Sequence[MachineRow]) -> dict[str, tuple[int, int]]:
    """Given the machines before and after, return how many of each tier served then and serve now."""
    tiers = sorted({row.tier for row in (*before, *after)})

    def serving(rows: Sequence[MachineRow], tier: str) -> int:
        return sum(row.tier == tier and row.phase == Phase.SERVING for row in rows)

    return {tier: (serving(before, tier), serving(after, tier)) for tier in tiers}
