"""Every gate by its reference, so that a report can say which were asked, which were open and which were closed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from thems_jobs.core.plan import Action, Plan, Refusal


class Asked(StrEnum):
    """When a gate is asked."""

    ALWAYS = "whenever something is to be done"
    MAKE = "when a machine is to be made"
    VISITORS = "when the balancers' tables are to change"
    REMOVE = "when a machine is to leave"


GATES: Mapping[str, tuple[str, Asked]] = {
    "no-quorum": ("the Proxmox cluster is quorate", Asked.ALWAYS),
    "record-unreadable": ("the platform's record can be read", Asked.ALWAYS),
    "foreign-machine": ("nothing foreign is in our ranges", Asked.ALWAYS),
    "node-offline": ("the nodes of the machines are online", Asked.ALWAYS),
    "lease-held": ("no other run holds the platform", Asked.ALWAYS),
    "no-balancer": ("a balancer answers", Asked.VISITORS),
    "balancer-unreachable": ("every balancer answers", Asked.VISITORS),
    "unknown-server": ("the balancers know machines of ours alone", Asked.VISITORS),
    "vrrp-holder": ("exactly one balancer holds the address", Asked.VISITORS),
    "database-connections": ("the PHP workers fit the database", Asked.VISITORS),
    "node-capacity": ("the nodes have room", Asked.MAKE),
    "template-missing": ("the template exists", Asked.MAKE),
    "template-too-old": ("the template is fresh enough", Asked.MAKE),
    "storage-full": ("the storage has room", Asked.MAKE),
    "vmids-used-up": ("there are ids left", Asked.MAKE),
    "addresses-used-up": ("there are addresses left", Asked.MAKE),
    "above-maximum": ("claims ask for no more than the maximum", Asked.ALWAYS),
    "below-minimum": ("never fewer than the minimum serve", Asked.REMOVE),
}

_VISITORS = {Action.ADMIT, Action.RESTORE, Action.WITHDRAW, Action.RETIRE}
_REMOVE = {Action.WITHDRAW, Action.STOP, Action.DESTROY}


@dataclass(frozen=True)
class GateState:
    """One gate after it was, or was not, asked. It is closed if there are refusals."""

    reference: str
    title: str
    asked: bool
    refusals: tuple[Refusal, ...] = ()


def gate_states(plan: Plan, refusals: Sequence[Refusal]) -> list[GateState]:
    """Given a plan and all refusals of a run, return every gate; any other refusal stands as one of its own."""
    actions = {step.action for step in plan.steps}
    asked = {
        Asked.ALWAYS: bool(actions),
        Asked.MAKE: Action.CLONE in actions,
        Asked.VISITORS: bool(actions & _VISITORS),
        Asked.REMOVE: bool(actions & _REMOVE),
    }
    by_reference: dict[str, list[Refusal]] = {}
    for refusal in refusals:
        by_reference.setdefault(refusal.reference, []).append(refusal)
    states = []
    for reference, (title, when) in GATES.items():
        mine = tuple(by_reference.pop(reference, ()))
        states.append(GateState(reference, title, asked[when] or bool(mine), mine))
    return states + [GateState(ref, ref.replace("-", " "), True, tuple(rest)) for ref, rest in by_reference.items()]
