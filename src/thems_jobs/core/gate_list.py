"""Every gate by its reference, so that a report can say which were asked, which were open and which were closed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from thems_jobs.core.galera import CONDITIONS
from thems_jobs.core.plan import OF_JENKINS, Action, Plan, Refusal

# A gate is asked when the plan has a step of one of these kinds.
_ANY = frozenset(Action) - OF_JENKINS
_TEMPLATE = frozenset({Action.CLONE})
_MAKE = frozenset({Action.CLONE, Action.CREATE})
_VISITORS = frozenset({Action.ADMIT, Action.AWAIT_UP, Action.WITHDRAW, Action.AWAIT_DRAIN, Action.RETIRE})
_FLEET = _TEMPLATE | _VISITORS | {Action.AWAIT_CLONE, Action.CONVERGE, Action.CHECK, Action.SERVE, Action.RESTORE}
_RECOVERY = frozenset({Action.FORBID_BOOTSTRAP})

# In the order in which people read them: what is wrong with all first.
GATES: Mapping[str, tuple[str, frozenset[Action]]] = {
    "no-quorum": ("the Proxmox cluster is quorate", _ANY),
    "record-unreadable": ("the platform's record can be read", _ANY),
    "lease-held": ("no other run holds the platform", _ANY),
    "foreign-machine": ("nothing foreign is in our ranges", _FLEET | _RECOVERY),
    "node-offline": ("the machines' nodes are online", _FLEET | _RECOVERY),
    "above-maximum": ("claims stay within the maximum", _FLEET),
    "below-minimum": ("the minimum always serves", frozenset({Action.WITHDRAW})),
    "no-balancer": ("a balancer answers", _VISITORS | {Action.RESTORE}),
    "balancer-unreachable": ("every balancer answers", _VISITORS),
    "unknown-server": ("balancers know our machines alone", _VISITORS),
    "balancers-disagree": ("the balancers agree", _VISITORS),
    "vrrp-holder": ("one balancer holds the address", _VISITORS),
    "database-connections": ("the PHP workers fit the database", _VISITORS),
    "node-capacity": ("the nodes have room", _MAKE),
    "storage-full": ("the storage has room", _MAKE),
    "vmids-used-up": ("there are ids left", _MAKE),
    "addresses-used-up": ("there are addresses left", _MAKE),
    "template-missing": ("the template exists", _TEMPLATE),
    "template-too-old": ("the template is fresh enough", _TEMPLATE),
    "image-missing": ("there is an image to build from", frozenset({Action.CREATE})),
}
# Asked by galera-recover; of those that join, by every job that lets one join.
OF_RECOVERY: Mapping[str, tuple[str, frozenset[Action]]] = {
    "recovery-unreadable": ("every database machine can be read", _RECOVERY),
    "recovery-uuids-differ": ("all have data of one cluster", _RECOVERY),
    "recovery-newer-data": ("nobody is ahead of the cluster", _RECOVERY),
    "recovery-still-primary": ("no cluster is there any more", _RECOVERY),
    "recovery-not-confirmed": ("a person named the machine", _RECOVERY),
}
KNOWN = GATES.keys() | CONDITIONS.keys() | OF_RECOVERY.keys()


@dataclass(frozen=True)
class GateState:
    """One gate after it was, or was not, asked. It is closed if there are refusals."""

    reference: str
    title: str
    asked: bool
    refusals: tuple[Refusal, ...] = ()


def gate_states(plan: Plan, refusals: Sequence[Refusal]) -> list[GateState]:
    """Given a plan and all refusals of a run, return every gate; any other refusal stands as one of its own.

    The conditions of the database cluster are among them if the plan has checked them.
    """
    actions = {step.action for step in plan.steps}
    by_reference: dict[str, list[Refusal]] = {}
    for refusal in refusals:
        by_reference.setdefault(refusal.reference, []).append(refusal)
    checked = {check.reference for check in plan.checks if check.ok is not None}
    gates = dict(GATES)
    if plan.checks:
        gates |= {name: (title, frozenset()) for name, title in CONDITIONS.items() if name not in GATES}
    if actions & _RECOVERY or by_reference.keys() & OF_RECOVERY.keys():
        gates |= OF_RECOVERY
    states = []
    for reference, (title, asking) in gates.items():
        mine = tuple(by_reference.pop(reference, ()))
        asked = bool(actions & asking) or bool(mine) or reference in checked
        states.append(GateState(reference, title, asked, mine))
    return states + [GateState(ref, ref.replace("-", " "), True, tuple(rest)) for ref, rest in by_reference.items()]
