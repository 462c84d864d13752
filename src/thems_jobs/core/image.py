"""The making of a template: its stamp, where it gets its id, and the steps that remain until it can be cloned.

A template that machines were cloned from cannot be replaced in place: their disks rest on it. So every build makes a
new VM; the newest template of a tier's name is the one that is cloned. The first has the id that the platform file
gives; later ones have the highest free ids of the tier's own range. Old ones are removed when nothing rests on them.
"""

import json
from collections.abc import Collection
from dataclasses import asdict

from thems_jobs.core import gates
from thems_jobs.core.capacity import place, room_refusals, rooms
from thems_jobs.core.facts import Facts, ImageStamp, Machine, Making, TemplateImage
from thems_jobs.core.identity import machine_name
from thems_jobs.core.plan import Action, Change, Plan, Refusal, Step, Wait, chain
from thems_jobs.core.platform import Platform, Tier, addresses_of, vmids_of

FRESH_SHARE = 0.5  # of a template's allowed age: when it is over, a build is no longer nothing to do
DAY_S = 86400.0


def write_image_stamp(stamp: ImageStamp) -> str:
    """Given a stamp, return the description that carries it."""
    return f"Template made by thems-jobs.\n{json.dumps({'image': asdict(stamp)}, sort_keys=True)}"


def read_image_stamp(description: str) -> ImageStamp | None:
    """Given a VM's description, return its stamp, or None if it has none that can be read."""
    _, brace, rest = description.partition("{")
    try:
        data = json.loads(brace + rest)["image"]
        return ImageStamp(
            platform=str(data["platform"]), template=str(data["template"]), vmid=int(data["vmid"]),
            tier=str(data["tier"]), making=Making(data["making"]), roles=str(data["roles"]),
            built_at=float(data["built_at"]),
        )  # fmt: skip
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def is_image(platform: Platform, vmid: int, pool: str, description: str) -> bool:
    """True if a VM is a template that we made, or becomes one; a copy of one has its stamp, but another id."""
    stamp = read_image_stamp(description)
    if stamp is None or pool != platform.proxmox.pool or stamp.tier not in platform.tiers:
        return False
    name = platform.tiers[stamp.tier].template.name
    return (stamp.platform, stamp.template, stamp.vmid) == (platform.name, name, vmid)


def image_vmids(tier: Tier) -> list[int]:
    """Given a tier, return the ids a template of it may have, the first choice first."""
    return [tier.template.vmid, *reversed(vmids_of(tier))]


def choose_image_vmid(tier: Tier, taken: Collection[int]) -> int | None:
    """Given the ids in use, return the one for the next template, or None if there is none left."""
    return next((vmid for vmid in image_vmids(tier) if vmid not in taken), None)


def build_address(tier: Tier) -> str:
    """Given a tier, return the address at which its templates are made: the last one, which machines get last."""
    return addresses_of(tier.network)[-1]


def fresh_since(tier: Tier, now: float) -> float:
    """Given the time, return since when a template must have been built to need no new one."""
    return now - tier.template.max_age_days * DAY_S * FRESH_SHARE


def is_current(newest: TemplateImage | None, roles: str, since: float) -> bool:
    """Given the newest template, return True if it has the configuration of today and was built after `since`."""
    return newest is not None and newest.roles == roles and newest.built_at >= since


def of_no_use(stamp: ImageStamp, roles: str, since: float) -> bool:
    """Given the stamp of a half-made template that no run works on, return True if it has to be made anew.

    How far a sealing came that a dead run began, nobody can see any more; and one that is sealed stays as it is.
    """
    outdated = stamp.roles != roles or stamp.built_at < since
    return stamp.making is Making.SEALING or (stamp.making is Making.SEALED and outdated)


def plan_build(platform: Platform, tier_name: str, since: float, facts: Facts) -> Plan:
    """Given the facts, return what remains until a template built after `since` has the configuration of today."""
    tier, digest = platform.tiers[tier_name], facts.roles.get(tier_name, "")
    newest, name = facts.templates.get(tier_name), tier.template.name
    machine = facts.machines[name]
    others = [other for other in facts.machines.values() if other.name != name and other.exists]
    leftovers = [other for other in others if not other.template]
    steps = [step for other in leftovers for step in _discard(platform, other)]
    changes = [Change("remove", other.name, other.node, "an earlier build left it over") for other in leftovers]
    if is_current(newest, digest, since):
        if machine.exists:
            steps += _discard(platform, machine)
            changes.append(Change("remove", name, machine.node, "it is not needed any more"))
        old, warnings = _old(others, 1)
        steps += [step for other in old for step in _discard(platform, other)]
        return Plan(tuple(steps), changes=(*changes, *map(_removal, old)), warnings=warnings)
    node, refusals = machine.node, gates.quorum(facts) + gates.readable_record(platform, facts)
    if not machine.exists:
        nodes = place(tier, 1, rooms(platform, facts, tier_name, {}))
        node = nodes[0] if nodes else ""
        refusals += room_refusals(tier_name, tier, 1, len(nodes), facts)
        refusals += gates.storages(platform, facts, [machine_name(platform, tier_name, 1)]) + _to_begin(
            tier_name, tier, facts
        )
    gone = frozenset(step.key for step in steps if step.action is Action.AWAIT_DESTROY)  # they have the address
    steps += _remaining(platform, machine, tier, node, digest, gone)
    old, warnings = _old(others, 0)
    steps += [step for other in old for step in _discard(platform, other, frozenset({steps[-1].key}))]
    kind, why = ("finish", "an earlier run left it half-made") if machine.exists else ("make", "a new template")
    changes += [Change(kind, name, node, why), *map(_removal, old)]
    return Plan(tuple(steps), tuple(refusals), tuple(changes), warnings=warnings)


def keepers(tier: Tier) -> int:
    """Given a tier, return how many of its newest templates stay whatever is built: a new one takes the last place."""
    return tier.template.keep_templates - 1


def _old(others: Collection[Machine], staying: int) -> tuple[list[Machine], tuple[str, ...]]:
    """Given the templates beyond those that stay in any case, return those to remove, and what is to be said.

    `staying`: so many of them fill the places up that no new template takes.
    """
    templates = sorted((m for m in others if m.template and m.image), key=lambda m: -m.image.built_at)  # type: ignore[union-attr]
    old = [machine for machine in templates[staying:] if not machine.rests]
    refused = [f"Template VM {machine.vmid} is kept: {machine.in_use}." for machine in old if machine.in_use]
    return [machine for machine in old if not machine.in_use], tuple(refused)


def _removal(machine: Machine) -> Change:
    return Change("remove", machine.name, machine.node, "an old template that no machine rests on")


def _to_begin(name: str, tier: Tier, facts: Facts) -> list[Refusal]:
    """What a build needs besides room: an image, an id, and an address at which nobody answers."""
    refusals, address = [], build_address(tier)
    if tier.template.image is None:
        refusals.append(
            Refusal(
                "image-missing", f"tier {name}", "no image declared", "a volume to build from",
                f"Set tiers.{name}.template.image in the platform file.",
            )
        )  # fmt: skip
    if choose_image_vmid(tier, facts.taken_vmids) is None:
        refusals.append(
            Refusal(
                "vmids-used-up", f"tier {name}", f"no id is free in {tier.vmids}", "one for the template",
                "Remove templates that no machine rests on any more, or widen the tier's vmids.",
            )
        )  # fmt: skip
    if address in facts.taken_addresses:
        refusals.append(
            Refusal(
                "addresses-used-up", f"tier {name}", f"{address}: {facts.taken_addresses[address]}",
                "the tier's last address free while a template is made", "Free it, or lengthen the tier's range.",
            )
        )  # fmt: skip
    return refusals


def _wait(action: Action, name: str, reason: str, deadline_s: float) -> Step:
    return Step(action, name, wait=Wait(reason, 1.0, deadline_s))


def _discard(platform: Platform, machine: Machine, after: frozenset[str] = frozenset()) -> tuple[Step, ...]:
    """Given a VM that is of no use, return the steps that remove it, behind those named in `after`."""
    name, limits, steps = machine.name, platform.timeouts, list[Step]()
    if machine.running:
        steps += [] if machine.power == "stopping" else [Step(Action.STOP, name)]
        steps.append(_wait(Action.AWAIT_STOP, name, "it shuts down", limits.stop_s))
    steps += [] if machine.power == "destroying" else [Step(Action.DESTROY, name)]
    return chain([*steps, _wait(Action.AWAIT_DESTROY, name, "Proxmox removes it", limits.destroy_s)], after)


def _remaining(
    platform: Platform, machine: Machine, tier: Tier, node: str, roles: str, after: frozenset[str]
) -> tuple[Step, ...]:
    """Given how far a template has come, return what remains until it is one, behind the steps named in `after`."""
    name, limits, steps = machine.name, platform.timeouts, list[Step]()
    making = machine.image.making if machine.image else None
    if making is Making.BAKED and machine.image and machine.image.roles != roles:
        making = Making.MADE  # the roles were changed since
    if not machine.exists and machine.power != "creating":
        steps.append(Step(Action.CREATE, name, node=node))
    if not machine.exists or machine.locked == "create" or machine.power == "creating":
        steps.append(_wait(Action.AWAIT_CREATE, name, "Proxmox imports the image", limits.clone_s))
    if machine.disk_gib < tier.disk_gib:
        steps += [] if machine.power == "growing" else [Step(Action.GROW, name)]
        steps.append(_wait(Action.AWAIT_GROW, name, "Proxmox enlarges its disk", limits.destroy_s))
    if making is not Making.SEALED:
        if not machine.running and machine.power != "starting":
            steps.append(Step(Action.START, name))
        if not machine.reachable:
            steps.append(_wait(Action.AWAIT_BOOT, name, "it boots", limits.boot_s))
        if making in (None, Making.MADE):
            steps.append(Step(Action.BAKE, name))
        steps.append(Step(Action.SEAL, name))
    if making is not Making.SEALED or machine.running:
        steps += [] if machine.power == "stopping" else [Step(Action.STOP, name)]
        steps.append(_wait(Action.AWAIT_STOP, name, "it shuts down", limits.stop_s))
    steps += [] if machine.power == "converting" else [Step(Action.CONVERT, name)]
    return chain([*steps, _wait(Action.AWAIT_CONVERT, name, "Proxmox makes it a template", limits.clone_s)], after)
