"""Random platforms and random facts: machines in every state a killed run, a person or a cluster can leave behind."""

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from platforms import AT, make_platform

from thems_jobs.core.facts import (
    Balancer,
    Facts,
    Machine,
    Node,
    Phase,
    Server,
    Stamp,
    Storage,
    Stranger,
    TemplateImage,
    Unknown,
)
from thems_jobs.core.identity import address_of, machine_name
from thems_jobs.core.platform import Platform, vmids_of
from thems_jobs.core.record import Claim, Intent, Record

ROLE = "as it should be"


@st.composite
def platforms(draw: DrawFn) -> Platform:
    """A platform of one to four nodes with a web tier and a balancer tier."""
    minimum = draw(st.integers(1, 3))
    baseline = minimum + draw(st.integers(0, 2))
    return make_platform(
        nodes=tuple(f"pve{n + 1}" for n in range(draw(st.integers(1, 4)))),
        minimum=minimum,
        baseline=baseline,
        maximum=baseline + draw(st.integers(0, 4)),
        balancers=draw(st.integers(1, 3)),
        placement=draw(st.sampled_from(["spread", "spread", "spread", "strict-spread"])),
        clones_per_storage=draw(st.integers(1, 4)),
    )


@st.composite
def machines(draw: DrawFn, platform: Platform, tier: str, number: int) -> Machine:
    """One machine in any state of its life."""
    name = machine_name(platform, tier, number)
    vmid = vmids_of(platform.tiers[tier]).start + number - 1
    node = draw(st.sampled_from(platform.proxmox.nodes))
    state = draw(st.sampled_from(["reserved", "lost", "cloning", "locked", "fresh", *["made"] * 8]))
    plain = Machine(name, tier, vmid, address_of(platform, name), clone_attempt=draw(st.integers(1, 3)))
    if state == "reserved":
        return plain
    if state == "lost":
        return replace(plain, clone="unable to create VM: config file already exists")
    if state == "cloning":
        return replace(plain, clone="cloning", node=node)
    stamp = Stamp(platform.name, name, vmid, tier, Phase.BUILDING)
    if state == "locked":
        return replace(plain, exists=True, node=node, locked="clone", stamp=draw(st.sampled_from([None, stamp])))
    if state == "fresh":
        return replace(plain, exists=True, node=node, stamp=stamp)
    stamp = replace(stamp, phase=draw(st.sampled_from([*Phase, Phase.SERVING])))
    running = draw(st.integers(0, 4)) > 0
    power = draw(st.sampled_from(["", "", "", "", "", "start failed", "stopping"] if running else ["", "starting"]))
    machine = replace(
        plain,
        exists=True,
        node=node,
        stamp=stamp,
        configured=True,
        running=running,
        power=power,
        power_attempt=draw(st.integers(1, 3)),
        locked=draw(st.sampled_from(["", "", "", "", "destroyed"])) if not running and not power else "",
        host_key=draw(st.sampled_from(["", "known", "known", "known"])),
        ssh_open=running and draw(st.integers(0, 4)) > 0,
        converged=draw(st.sampled_from(["", "as it was", ROLE, ROLE, ROLE, ROLE])),
        health=draw(st.sampled_from(["", "ok", "ok", "the balancers find it down"])),
        renewed=draw(st.booleans()),
    )
    fit = machine.renewed and machine.reachable and machine.health == "ok"
    return replace(machine, warm=fit and draw(st.booleans()))


@st.composite
def fleets(draw: DrawFn, platform: Platform) -> dict[str, Machine]:
    found = {}
    for tier, declared in platform.tiers.items():
        for number in range(1, declared.maximum + 2):
            if draw(st.booleans()):
                machine = draw(machines(platform, tier, number))
                found[machine.name] = machine
    return found


@st.composite
def views(draw: DrawFn, platform: Platform, fleet: dict[str, Machine], sound: bool) -> dict[str, Balancer | Unknown]:
    """What the serving balancers answer; their tables may differ, and know machines that are gone.

    Only `sound` ones find the same machines well.
    """
    found: dict[str, Balancer | Unknown] = {}
    web = [m for m in fleet.values() if m.tier == "web" and m.exists and m.locked != "clone"]
    gone = [machine_name(platform, "web", 30 + n) for n in range(draw(st.integers(0, 1)))]
    up = {name: draw(st.booleans()) for name in [m.name for m in web] + gone}
    for balancer in fleet.values():
        if balancer.tier != "lb" or balancer.phase is not Phase.SERVING:
            continue
        if not balancer.reachable or draw(st.integers(0, 15)) == 0:
            found[balancer.name] = Unknown("no route to host")
            continue
        servers = {}
        for name in [m.name for m in web if draw(st.integers(0, 3))] + gone:
            weight = draw(st.sampled_from([0, 10, 100, 100, 100]))
            address = draw(st.sampled_from([address_of(platform, name)] * 7 + ["10.9.9.9"]))
            well = up[name] if sound else draw(st.booleans())
            servers[name] = Server(address, weight, well, draw(st.integers(0, 2)))
        found[balancer.name] = Balancer(servers, "generation")
    return found


@st.composite
def claims(draw: DrawFn, platform: Platform) -> tuple[Claim, ...]:
    """Claims live or ended, overlapping or not."""
    highest = platform.tiers["web"].maximum
    return tuple(
        Claim(f"show-{n}", {"web": draw(st.integers(1, highest))}, AT + draw(st.sampled_from([-60, 60])), "somebody")
        for n in range(draw(st.integers(0, 2)))
    )


@st.composite
def worlds(draw: DrawFn, sound: bool = False) -> tuple[Platform, Facts]:
    """A platform and facts about it; `sound` ones have room and nothing foreign, so that no gate is closed by them."""
    platform = draw(platforms())
    fleet = draw(fleets(platform))
    balancers = draw(views(platform, fleet, sound))
    intents = {m.name: Intent(m.vmid, m.clone_attempt, AT) for m in fleet.values() if not m.stamp}
    intents |= {m.name: Intent(m.vmid, 1, AT) for m in fleet.values() if m.stamp and draw(st.integers(0, 5)) == 0}
    room = 1 << 20 if sound else draw(st.sampled_from([1024, 1 << 14, 1 << 20]))
    online = [True if sound else draw(st.integers(0, 7)) > 0 for _ in platform.proxmox.nodes]
    candidates = sorted(m.name for m in fleet.values() if m.tier == "lb" and m.reachable and not m.locked)
    answer = [name for name in candidates if isinstance(balancers.get(name), Balancer)]
    serve_or_not = draw(st.sampled_from([answer, answer, candidates])) or candidates
    holders = tuple(draw(st.permutations(serve_or_not))[:1]) if sound else tuple(candidates[:2])
    strangers = () if sound else draw(st.sampled_from([(), (), (Stranger(1150, "shop-web-3", "other", "not ours"),)]))
    nodes = dict(zip(platform.proxmox.nodes, online, strict=True))
    facts = Facts(
        at=AT,
        record=Record(claims=draw(claims(platform)), intents=intents),
        machines=fleet,
        strangers=() if any(s.name in fleet for s in strangers) else strangers,
        nodes={name: Node(name, up, 64, 0, room, 0) for name, up in nodes.items()},
        storages=tuple(Storage("shared", name, True, up, 1 << 30) for name, up in nodes.items()),
        templates={tier: TemplateImage(t.template.name, t.template.vmid, "pve1", AT - 86400)
                   for tier, t in platform.tiers.items()},
        balancers=balancers,
        holders=holders,
        quiet_since={name: AT - draw(st.sampled_from([0, 60])) for name in fleet if draw(st.booleans())},
        taken_vmids=frozenset(m.vmid for m in fleet.values()),
        roles=dict.fromkeys(platform.tiers, ROLE),
    )  # fmt: skip
    return platform, facts
