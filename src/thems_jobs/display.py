"""What the terminal shows, as rich renderables; only cli prints them. Text of any origin is cleaned first."""

from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from thems_jobs import phrases
from thems_jobs.core import forecast
from thems_jobs.core.galera import CONDITIONS
from thems_jobs.core.gate_list import GateState, gate_states
from thems_jobs.core.outcome import Exit, Outcome
from thems_jobs.core.plan import Action, Condition, Plan, Refusal
from thems_jobs.jobs.doctor import Check

EXIT_STYLES = {
    Exit.OK: "bold green", Exit.CHANGES: "bold yellow", Exit.REFUSED: "bold yellow", Exit.DEGRADED: "bold yellow",
    Exit.ABORTED: "bold yellow",
}  # fmt: skip
WIDE = 5  # members side by side; of more, only what is not well is written out
CHANGE_STYLES = {
    "make": "green",
    "finish": "green",
    "restore": "green",
    "repair": "cyan",
    "backup": "cyan",
    "remove": "yellow",
}


def words(text: str, style: str = "") -> Text:
    """Given text of any origin, return it to be shown as it is: no markup, no control characters."""
    return Text(phrases.plain(text), style)


def plain_table(*columns: str, right: Iterable[str] = ()) -> Table:
    """Given column headings, return a calm table; those of `right` hold numbers."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="dim")
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def plan_view(plan: Plan, measured: Mapping[str, float], refusals: Sequence[Refusal] = ()) -> RenderableType:
    """Given a plan, return it as a person decides on it: changes, gates, seconds, digest."""
    parts: list[RenderableType] = []
    takes = forecast.of_machines(plan, measured)
    if plan.changes:
        table = plain_table("machine", "change", "node", "why", "expected", right=["expected"])
        for change in plan.changes:
            style = CHANGE_STYLES.get(change.kind, "")
            expected = takes.get(change.machine)
            table.add_row(
                words(change.machine, "bold"), words(change.kind, style), words(change.node or "–"),
                words(change.why), _expectation(expected),
            )  # fmt: skip
        parts.append(table)
    parts += [words(f"{step.target}: {step.note}") for step in plan.steps if step.action is Action.CLAIM]
    parts += [words(note) for note in plan.notes]
    changed = {change.machine for change in plan.changes}
    parts += [
        words(f"{step.action} {step.target}")
        for step in plan.steps
        if step.target not in changed and step.target != "record" and step.action is not Action.CLAIM
    ]
    parts += [words(warning, "yellow") for warning in plan.warnings]
    if plan.checks and (not plan.steps or any(check.ok is False for check in plan.checks)):  # else the gates say it
        parts.append(conditions_view(plan.checks))
    if plan.steps or refusals:
        parts.append(gates_view(gate_states(plan, refusals)))
    if refusals:
        parts.append(refusals_view(refusals))
    if plan.steps:
        whole = forecast.of_plan(plan, measured)
        assumed = ", partly assumed" if whole.assumed else ""
        number = phrases.count(len(plan.steps), "step")
        parts.append(Text(f"{number}, {phrases.duration(whole.seconds)} in all{assumed}. Plan {plan.digest}", "bold"))
    return _apart(parts)


def jobs_view(plan: Plan, differences: Mapping[str, str]) -> RenderableType:
    """Given what would be done to Jenkins' jobs, return it as a person decides on it: changes, differences, digest."""
    parts = list[RenderableType]()
    if plan.changes:
        table = plain_table("job", "change", "why")
        for change in plan.changes:
            table.add_row(words(change.machine, "bold"), change.kind, words(change.why))
        parts.append(table)
    if differences:
        parts.append(differences_view(differences))
    parts += [words(warning, "yellow") for warning in plan.warnings]
    if plan.refusals:
        parts.append(refusals_view(plan.refusals))
    if plan.steps:
        parts.append(Text(f"{phrases.count(len(plan.steps), 'step')}. Plan {plan.digest}", "bold"))
    return _apart(parts)


def differences_view(differences: Mapping[str, str]) -> RenderableType:
    """Given a diff by name, return them as people read them."""
    styles = {"+": "green", "-": "red", "@": "dim"}
    parts: list[RenderableType] = []
    for name, text in differences.items():
        lines = [words(line, styles.get(line[:1], "")) for line in text.splitlines()]
        parts.append(Group(words(name, "bold"), *lines))
    return _apart(parts)


def _expectation(expected: forecast.Expectation | None) -> Text:
    if not expected:
        return Text("–")
    text = Text(phrases.duration(expected.seconds))
    return text.append(" assumed", "dim") if expected.assumed else text


def _apart(parts: Sequence[RenderableType]) -> Group:
    """Given parts, return them one below the other with an empty line between those that are more than a line."""
    spaced: list[RenderableType] = []
    for part in parts:
        if spaced and not (isinstance(part, Text) and isinstance(spaced[-1], Text)):
            spaced.append(Text())
        spaced.append(part)
    return Group(*spaced)


def gates_view(gates: Sequence[GateState]) -> RenderableType:
    """Given gates, return those that were asked, with a tick or a cross."""
    lines = [
        words(f"✗ {gate.title}", "bold red") if gate.refusals else Text.assemble(("✓ ", "green"), words(gate.title))
        for gate in gates
        if gate.asked
    ]
    for line in lines:
        line.no_wrap = True
    return Columns(lines, padding=(0, 3), column_first=True) if lines else Text("no gate was asked", "dim")


def conditions_view(checks: Sequence[Condition]) -> RenderableType:
    """Given checks, return tables of condition × subject, with what is required; subjects of one kind share a table."""
    tables: dict[tuple[str, ...], dict[str, dict[str, Condition]]] = {}
    rows: dict[str, dict[str, Condition]] = {}
    for check in checks:
        rows.setdefault(check.reference, {})[check.subject] = check
    several = {subjects for row in rows.values() if len(subjects := tuple(row)) > 1}
    for reference, row in rows.items():
        fitting = next((subjects for subjects in several if len(row) > 1 and set(row) <= set(subjects)), ())
        tables.setdefault(fitting, {})[reference] = row
    return _apart([_conditions_table(subjects, found) for subjects, found in tables.items()])


def health_view(plan: Plan, at: float) -> RenderableType:
    """Given a plan without steps and when it was made, return what it found, the verdict last."""
    closed = phrases.count(len(plan.refusals), "condition does", "conditions do")
    verdict = (
        Text(f"Not safe: {closed} not hold.", "bold yellow") if plan.refusals else words(plan.finding, "bold green")
    )
    seen = Text(phrases.moment(at), "dim")
    return _apart([conditions_view(plan.checks), refusals_view(plan.refusals), Text.assemble(verdict, "  ", seen)])


def _conditions_table(subjects: Sequence[str], rows: Mapping[str, Mapping[str, Condition]]) -> Table:
    """Given subjects (none: each row is about one of its own) and rows by condition, return the table."""
    wide = len(subjects) > WIDE
    headings = [
        "-".join(name.split("-")[-2:]) if wide else name for name in subjects
    ]  # shop-db-7 is db-7 where it is narrow
    table = plain_table("condition", *map(phrases.plain, headings or ["measured"]), "required")
    for column in table.columns[: -1 if wide else 1]:
        column.no_wrap = True
    for reference, row in rows.items():
        first = next(iter(row.values()))
        title = words(CONDITIONS.get(reference, reference))
        if subjects:
            cells = [_cell(row.get(name), wide) for name in subjects]
        else:
            cells = [Text.assemble(_cell(first, False), (f"  {phrases.plain(first.subject)}", "dim"))]
        table.add_row(title, *cells, words(first.required, "dim"))
    return table


def _cell(check: Condition | None, wide: bool) -> Text:
    """Given a check, return its mark and what was measured; where there is little room only of one that is not well."""
    if check is None or check.ok is None:
        return Text("–", "dim")
    if check.ok:
        return Text.assemble(("✓", "green"), "" if wide else f" {phrases.plain(check.measured)}")
    return words(f"✗ {check.measured}", "bold red")


def refusals_view(refusals: Sequence[Refusal]) -> RenderableType:
    """Given refusals, return all of them: what was found, what is required, what to do."""
    parts: list[RenderableType] = []
    for refusal in refusals:
        table = Table.grid(padding=(0, 1))
        table.add_column(width=8, style="dim")
        table.add_column(overflow="fold")
        table.add_row("found", words(refusal.measured))
        table.add_row("required", words(refusal.required))
        if refusal.remedy:
            table.add_row("to do", words(refusal.remedy, "bold"))
        heading = Text.assemble(words(refusal.subject, "bold yellow"), (f"  {refusal.reference}", "dim"))
        parts.append(Group(heading, Padding(table, (0, 0, 0, 2))))
    return _apart(parts)


def command(line: str) -> Text:
    """Given a command, return it so that it can be copied: the terminal may wrap it, we do not."""
    text = words(f"  {line}", "bold")
    text.no_wrap, text.overflow = True, "ignore"
    return text


def outcome_view(outcome: Outcome, plan_shown: bool = False) -> RenderableType:
    """Given an outcome, return what is worth reading, the line that matters last."""
    parts: list[RenderableType] = []
    if outcome.plan.checks and not plan_shown and not outcome.plan.steps:
        parts += [conditions_view(outcome.plan.checks), Text()]
    if outcome.refusals and not plan_shown:
        parts += [refusals_view(outcome.refusals), Text()]
    if not plan_shown:
        parts += [words(warning, "yellow") for warning in outcome.warnings if warning not in outcome.message]
    if outcome.steps and outcome.served:
        failed = outcome.served.failed
        served = phrases.count(outcome.served.requests - failed, "request")
        parts.append(Text(f"{served} served meanwhile, {failed:,} failed.", "bold red" if failed else ""))
    if outcome.next:
        parts += [Text("Go on with:"), command(outcome.next)]
    took = f" ({phrases.duration(outcome.ended_at - outcome.started_at)})" if outcome.steps else ""
    parts.append(words(outcome.message + took, EXIT_STYLES.get(outcome.exit, "bold red")))
    return Group(*parts)


def mistakes_view(subject: str, mistakes: Sequence[str], remedy: str = "") -> RenderableType:
    """Given what was wrong with what we were given, return one line for each mistake."""
    lines = [words(mistake if mistake.startswith(subject) else f"{subject}: {mistake}") for mistake in mistakes]
    return Group(*(Text.assemble(("✗ ", "bold red"), line) for line in lines), *([words(remedy)] if remedy else []))


def checks_view(checks: Sequence[Check]) -> RenderableType:
    """Given doctor's checks, return them, what is wrong with what to do about it, the sum last."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for check in checks:
        mark = Text.assemble(("✓ ", "green") if check.ok else ("✗ ", "bold red"), words(check.name))
        table.add_row(mark, words(check.measured, "" if check.ok else "red"))
        if not check.ok:
            table.add_row("", Text.assemble(("required: ", "dim"), words(check.required)))
            table.add_row("", Text.assemble(("to do: ", "dim"), words(check.remedy, "bold")))
    wrong = sum(not check.ok for check in checks)
    last = Text(f"{phrases.count(len(checks), 'check')}, all well.", "bold green")
    if wrong:
        last = Text(f"{wrong} of {phrases.count(len(checks), 'check')} not well.", "bold yellow")
    return Group(table, Text(), last)
