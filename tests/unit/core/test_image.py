"""Building templates: the stamp, the ids, and that whatever a dead run left is finished or made anew."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from platforms import AT, ROLE, make_platform

from thems_jobs.core.facts import Facts, ImageStamp, Machine, Making, Node, Storage, TemplateImage
from thems_jobs.core.image import (
    build_address,
    choose_image_vmid,
    fresh_since,
    is_image,
    of_no_use,
    plan_build,
    read_image_stamp,
    write_image_stamp,
)
from thems_jobs.core.plan import Action, Plan
from thems_jobs.core.platform import Platform
from thems_jobs.core.record import Record

NAME = "debian"


@pytest.fixture
def platform() -> Platform:
    platform = make_platform()
    tiers = {
        name: replace(tier, template=replace(tier.template, image="local:import/debian-12.qcow2"))
        for name, tier in platform.tiers.items()
    }
    return replace(platform, tiers=tiers)


def stamp(making: Making = Making.MADE, **changes: Any) -> ImageStamp:
    return replace(ImageStamp("shop", NAME, 900, "web", making), **changes)


def nothing(**changes: Any) -> Facts:
    nodes = {name: Node(name, True, 16, 0, 65536, 0) for name in ("pve1", "pve2")}
    storages = tuple(Storage("shared", node, True, True, 500_000) for node in nodes)
    machines = {NAME: Machine(NAME, "web", 0, "10.77.1.60")}
    facts = Facts(at=AT, record=Record(), machines=machines, nodes=nodes, storages=storages, roles={"web": ROLE})
    return replace(facts, **changes)


def with_machine(machine: Machine) -> Facts:
    return nothing(machines={NAME: machine})


def made(making: Making = Making.MADE, **changes: Any) -> Machine:
    values: dict[str, Any] = {"exists": True, "node": "pve1", "disk_gib": 8, "image": stamp(making, roles=ROLE)}
    return Machine(NAME, "web", 900, "10.77.1.60", **{**values, **changes})


def after(facts: Facts, action: Action) -> Facts:
    """What the world is like after one step."""
    machine = facts.machines[NAME]
    up = {"running": True, "ssh_open": True, "host_key": "known", "power": ""}
    changes: dict[Action, dict[str, Any]] = {
        Action.CREATE: {"power": "creating", "vmid": 900, "node": "pve1"},
        Action.AWAIT_CREATE: {"power": "", "exists": True, "image": stamp(), "disk_gib": 2},
        Action.GROW: {"power": "growing"},
        Action.AWAIT_GROW: {"power": "", "disk_gib": 8},
        Action.START: {"power": "starting"},
        Action.AWAIT_BOOT: up,
        Action.BAKE: {"image": stamp(Making.BAKED, roles=ROLE)},
        Action.SEAL: {"image": stamp(Making.SEALED, roles=ROLE, built_at=AT)},
        Action.STOP: {"power": "stopping"},
        Action.AWAIT_STOP: {"power": "", "running": False, "ssh_open": False},
        Action.DESTROY: {"power": "destroying"},
        Action.CONVERT: {"power": "converting"},
    }
    if action in (Action.AWAIT_DESTROY, Action.AWAIT_CONVERT):
        templates = {"web": TemplateImage(NAME, 900, "pve1", AT, ROLE)} if action is Action.AWAIT_CONVERT else {}
        return replace(nothing(), templates={**facts.templates, **templates})
    return replace(facts, machines={NAME: replace(machine, **changes[action])})


def played(platform: Platform, facts: Facts) -> Iterator[tuple[Action, Facts]]:
    """Every step from these facts to the end, with the facts after it."""
    for _ in range(40):
        plan = plan_build(platform, "web", AT - 1, facts)
        assert not plan.refusals
        if not plan.steps:
            return
        assert not plan.steps[0].after
        assert len({step.key for step in plan.steps}) == len(plan.steps)
        facts = after(facts, plan.steps[0].action)
        rest = [step.key for step in plan_build(platform, "web", AT - 1, facts).steps]
        assert rest == [step.key for step in plan.steps[1:]], f"after {plan.steps[0].key}"
        yield plan.steps[0].action, facts
    raise AssertionError("it does not end")


def test_from_nothing_every_step_leaves_the_rest_of_the_plan(platform: Platform) -> None:
    actions = [action for action, _ in played(platform, nothing())]
    assert actions == [
        Action.CREATE, Action.AWAIT_CREATE, Action.GROW, Action.AWAIT_GROW, Action.START, Action.AWAIT_BOOT,
        Action.BAKE, Action.SEAL, Action.STOP, Action.AWAIT_STOP, Action.CONVERT, Action.AWAIT_CONVERT,
    ]  # fmt: skip


def test_a_run_that_finds_what_a_dead_one_left_ends_with_a_template(platform: Platform) -> None:
    for _, facts in played(platform, nothing()):
        machine = facts.machines[NAME]
        forgotten = replace(machine, power="", task="", renewed=False, locked="")
        if machine.power in ("creating", "converting"):  # seen by its task, or by being a template
            continue
        end = list(played(platform, replace(facts, machines={NAME: forgotten})))
        assert (end[-1][1].templates if end else facts.templates)["web"].roles == ROLE


def test_what_cannot_be_finished_is_gone_before_the_next_one_takes_its_address(platform: Platform) -> None:
    left = replace(made(Making.SEALING, running=True), name="debian-900")
    facts = nothing(machines={**nothing().machines, left.name: left})
    steps = {step.key: step for step in plan_build(platform, "web", AT - 1, facts).steps}
    assert list(steps)[:5] == [
        "stop debian-900", "await-stop debian-900", "destroy debian-900", "await-destroy debian-900", "create debian",
    ]  # fmt: skip
    assert steps["create debian"].after == {"await-destroy debian-900"}


def test_a_sealing_of_our_own_is_gone_on_with(platform: Platform) -> None:
    own = made(Making.SEALING, running=True, ssh_open=True, host_key="known")
    assert plan_build(platform, "web", AT - 1, with_machine(own)).steps[0].action is Action.SEAL


@pytest.mark.parametrize(
    ("left", "useless"),
    [
        (stamp(Making.MADE), False),
        (stamp(Making.BAKED, roles="old"), False),
        (stamp(Making.SEALING, roles=ROLE), True),
        (stamp(Making.SEALED, roles=ROLE, built_at=AT), False),
        (stamp(Making.SEALED, roles=ROLE, built_at=AT - 99), True),
        (stamp(Making.SEALED, roles="old", built_at=AT), True),
    ],
)
def test_what_cannot_be_finished_is_known(left: ImageStamp, useless: bool) -> None:
    assert of_no_use(left, ROLE, AT - 1) is useless


@pytest.mark.parametrize(
    ("machine", "first"),
    [
        (made(Making.BAKED, running=True, ssh_open=True, host_key="known"), Action.SEAL),
        (
            made(Making.BAKED, running=True, ssh_open=True, host_key="known", image=stamp(Making.BAKED, roles="old")),
            Action.BAKE,
        ),
        (made(Making.SEALED, image=stamp(Making.SEALED, roles=ROLE, built_at=AT)), Action.CONVERT),
        (made(locked="create"), Action.AWAIT_CREATE),
    ],
    ids=["baked", "roles-changed", "sealed", "being-created"],
)
def test_what_is_half_made_is_finished(platform: Platform, machine: Machine, first: Action) -> None:
    assert plan_build(platform, "web", AT - 1, with_machine(machine)).steps[0].action is first


def test_a_fresh_template_of_todays_roles_needs_no_other(platform: Platform) -> None:
    since = fresh_since(platform.tiers["web"], AT)
    for built_at, roles, needed in [(AT, ROLE, False), (since - 1, ROLE, True), (AT, "old", True), (AT, "", True)]:
        facts = nothing(templates={"web": TemplateImage(NAME, 900, "pve1", built_at, roles)})
        assert bool(plan_build(platform, "web", since, facts).steps) is needed


def test_what_is_left_beside_a_good_template_is_removed(platform: Platform) -> None:
    fresh = {"web": TemplateImage(NAME, 1199, "pve1", AT, ROLE)}
    facts = replace(with_machine(made()), templates=fresh)
    assert [step.action for step in plan_build(platform, "web", AT - 1, facts).steps] == [
        Action.DESTROY, Action.AWAIT_DESTROY,
    ]  # fmt: skip
    two = nothing(machines={**nothing().machines, "debian-1199": replace(made(), name="debian-1199", vmid=1199)})
    assert plan_build(platform, "web", AT - 1, two).steps[0].key == "destroy debian-1199"


def test_the_first_template_has_the_declared_id_and_later_ones_the_highest_free_of_the_range(
    platform: Platform,
) -> None:
    tier = platform.tiers["web"]
    assert choose_image_vmid(tier, set()) == 900
    assert choose_image_vmid(tier, {900, 1199, 1100}) == 1198
    assert choose_image_vmid(tier, {900, *range(1100, 1200)}) is None
    assert build_address(tier) == "10.77.1.60"


@pytest.mark.parametrize(
    ("changes", "reference"),
    [
        ({"taken_addresses": {"10.77.1.60": "a machine answers there"}}, "addresses-used-up"),
        ({"taken_vmids": frozenset({900, *range(1100, 1200)})}, "vmids-used-up"),
        ({"storages": (Storage("shared", "pve1", True, True, 100),)}, "storage-full"),
        ({"nodes": {"pve1": Node("pve1", False)}}, "node-capacity"),
        ({"quorate": False}, "no-quorum"),
    ],
)
def test_what_a_build_needs_and_does_not_have_is_refused(platform: Platform, changes: Any, reference: str) -> None:
    refusals = plan_build(platform, "web", AT - 1, nothing(**changes)).refusals
    assert [refusal.reference for refusal in refusals] == [reference]


def test_without_a_declared_image_a_build_is_refused() -> None:
    refusals = plan_build(make_platform(), "web", AT - 1, nothing()).refusals
    assert [refusal.reference for refusal in refusals] == ["image-missing"]


def test_a_stamp_is_read_as_it_was_written_and_known_from_a_copy(platform: Platform) -> None:
    mine = stamp(Making.SEALED, roles=ROLE, built_at=AT)
    text = write_image_stamp(mine)
    assert read_image_stamp(text + "\n") == mine
    assert is_image(platform, 900, "shop", text)
    assert not is_image(platform, 901, "shop", text)
    assert not is_image(platform, 900, "other", text)
    for nonsense in ("", "{", "[" * 5000, '{"image": 7}', '{"image": {"making": "x"}}', text.replace("sealed", "lost")):
        assert read_image_stamp(nonsense) is None


# Old templates


def old(vmid: int, days: int, **changes: Any) -> Machine:
    image = stamp(Making.SEALED, roles=ROLE, vmid=vmid, built_at=AT - days * 86400)
    values: dict[str, Any] = {"exists": True, "node": "pve1", "image": image, "template": True, **changes}
    return Machine(f"{NAME}-{vmid}", "web", vmid, "", **values)


def with_templates(*templates: Machine, fresh: bool) -> Facts:
    newest = TemplateImage(NAME, 900, "pve1", AT if fresh else AT - 9e6, ROLE)
    machines = {NAME: Machine(NAME, "web", 0, "10.77.1.60"), **{m.name: m for m in templates}}
    return nothing(machines=machines, templates={"web": newest})


def removed(plan: Plan) -> list[str]:
    return [step.target for step in plan.steps if step.action is Action.DESTROY]


def test_old_templates_go_but_those_that_machines_rest_on_and_the_newest_that_stay(platform: Platform) -> None:
    """The facts hold those beyond the one place that a new template cannot take."""
    templates = old(901, 30), old(902, 60), old(903, 90, rests=("shop-web-1",)), old(904, 120)
    plan = plan_build(platform, "web", AT - 1, with_templates(*templates, fresh=True))
    assert removed(plan) == ["debian-902", "debian-904"]
    assert [change.kind for change in plan.changes] == ["remove", "remove"]
    assert plan.warnings == ()


def test_they_go_after_the_new_one_is_there_and_the_plan_says_so_beforehand(platform: Platform) -> None:
    templates = old(901, 30), old(902, 60)
    before = plan_build(platform, "web", AT - 1, with_templates(*templates, fresh=False))
    assert removed(before) == ["debian-901", "debian-902"]
    assert all(step.after == {"await-convert debian"} for step in before.steps if step.action is Action.DESTROY)
    now = with_templates(old(900, 9), *templates, fresh=True)
    assert [step.key for step in plan_build(platform, "web", AT - 1, now).steps] == [
        step.key for step in before.steps[-4:]
    ]


def test_one_that_proxmox_would_not_remove_is_kept_with_a_word(platform: Platform) -> None:
    templates = old(901, 30), old(902, 60, in_use="somebody's clone rests on it")
    plan = plan_build(platform, "web", AT - 1, with_templates(*templates, fresh=True))
    assert plan.steps == ()
    assert plan.warnings == ("Template VM 902 is kept: somebody's clone rests on it.",)
