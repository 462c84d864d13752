"""What would be done to Jenkins' jobs: after any of the steps, the rest is what remains; nothing is ever deleted."""

from hypothesis import given
from hypothesis import strategies as st

from thems_jobs.core.facts import Unknown
from thems_jobs.core.jenkins_jobs import Definition, Definitions, LiveJobs, Sync, mark, plan_sync
from thems_jobs.core.plan import Action, Step

NAMES = ("a", "b", "c", "left", "stopped", "theirs")


def xml(name: str, text: str = "as declared", disabled: bool = False, marked: bool = True) -> str:
    said = f"{text} {mark(name)}" if marked else text
    fields = f"<description>{said}</description><disabled>{str(disabled).lower()}</disabled>"
    return f"<flow-definition>{fields}</flow-definition>"


def definitions(broken: tuple[str, ...] = ()) -> Definitions:
    jobs = tuple(Definition(f"shop/{name}", name, xml(name)) for name in ("a", "b", "c") if name not in broken)
    return Definitions(Definition("shop", "folder", "<Folder/>"), jobs, dict.fromkeys(broken, "it is broken."))


def after(wanted: Definitions, live: LiveJobs, steps: tuple[Step, ...]) -> LiveJobs:
    """Return what is live after these steps."""
    jobs, folder = dict(live.jobs), live.folder
    texts = {job.name: job.xml for job in wanted.jobs}
    for step in steps:
        if step.action is Action.MAKE_FOLDER:
            folder = True
        elif step.action is Action.DISABLE_JOB:
            jobs[step.target] = str(jobs[step.target]).replace("<disabled>false", "<disabled>true")
        else:
            jobs[step.target] = texts[step.target]
    return LiveJobs(live.at, folder, jobs)


STATES = st.sampled_from(
    ["missing", "as declared", "changed", "disabled", "unreadable", "unmarked", "no XML", "project"]
)


def found(name: str, state: str) -> str | Unknown:
    by_state: dict[str, str | Unknown] = {
        "as declared": xml(name), "changed": xml(name, "changed"), "disabled": xml(name, disabled=True),
        "unreadable": Unknown("403"), "unmarked": xml(name, "mine", marked=False), "no XML": "<html>",
        "project": xml(name).replace("flow-definition", "project"),
    }  # fmt: skip
    return by_state[state]


@given(
    st.fixed_dictionaries(dict.fromkeys(NAMES, STATES)), st.sets(st.sampled_from(["a", "b"])), st.booleans(),
    st.data(),
)  # fmt: skip
def test_after_any_of_the_steps_the_rest_remains(
    states: dict[str, str], broken: set[str], disable_left: bool, data: st.DataObject
) -> None:
    wanted = definitions(tuple(sorted(broken)))
    jobs = {f"shop/{name}": found(name, state) for name, state in states.items() if state != "missing"}
    live = LiveJobs(0.0, bool(jobs), jobs)
    sync = plan_sync(wanted, live, disable_left)
    check(sync, wanted, live)
    done = data.draw(st.lists(st.sampled_from(sync.plan.steps), unique=True) if sync.plan.steps else st.just([]))
    keys = {step.key for step in done}
    possible = tuple(step for step in sync.plan.steps if step.key in keys and step.after <= keys)
    rest = plan_sync(wanted, after(wanted, live, possible), disable_left)
    remaining = {(step.key, step.note) for step in sync.plan.steps if step not in possible}
    assert {(step.key, step.note) for step in rest.plan.steps} == remaining
    assert plan_sync(wanted, after(wanted, live, sync.plan.steps), disable_left).plan.steps == ()


def check(sync: Sync, wanted: Definitions, live: LiveJobs) -> None:
    """What is planned is about our own jobs, and what cannot be done is said."""
    ours = {job.name for job in wanted.jobs}
    for step in sync.plan.steps:
        assert step.target in ours | {"shop"} or (step.action is Action.DISABLE_JOB and step.target in sync.left)
    assert {refusal.subject for refusal in sync.plan.refusals} >= {f"jobs/{name}.yaml" for name in wanted.broken}
    for name, text in live.jobs.items():
        undefined = name not in ours and name.rpartition("/")[2] not in wanted.broken
        if undefined and (isinstance(text, Unknown) or "Defined in git" not in text):
            assert name not in sync.left, "what is not marked as ours is not ours"


def test_an_approval_is_of_what_is_lost_as_much_as_of_what_comes() -> None:
    plans = [
        plan_sync(
            definitions(),
            LiveJobs(0.0, True, {"shop/a": xml("a", text), "shop/b": xml("b"), "shop/c": xml("c")}),
            False,
        )
        for text in ("changed", "changed again", "changed")
    ]
    assert plans[0].plan.digest == plans[2].plan.digest != plans[1].plan.digest
