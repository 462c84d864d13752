"""When each step of a plan is expected to start and end, played through as the runner would."""

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from thems_jobs.core.plan import Plan, Step, expected_s


@dataclass
class _Barrier:
    """Steps that wait for the same others, and how many of those are not over."""

    missing: int
    behind: list[int]


def timeline(plan: Plan, measured: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Given measured seconds by action, return when each step is expected to start and end, in seconds from now.

    Every head starts at once, as many of a slot as it has, waits first. A plan that waits for itself (the planners'
    properties exclude it) leaves out the steps that can never begin.
    """
    steps = plan.steps
    waiting_for, ready = _barriers(steps)
    free, queues = dict(plan.slots), dict[str, list[int]]()
    spans, under_way, now = dict[str, tuple[float, float]](), list[tuple[float, int]](), 0.0

    def begin(indices: Iterable[int]) -> None:
        for index in indices:
            step = steps[index]
            if step.slot:
                free[step.slot] = free.get(step.slot, 1) - 1
            end = now + expected_s(step, measured)[0]
            spans[step.key] = (now, end)
            heapq.heappush(under_way, (end, index))

    while True:
        begin(index for index in ready if steps[index].wait or not steps[index].slot)
        for index in ready:
            if steps[index].slot and not steps[index].wait:
                heapq.heappush(queues.setdefault(steps[index].slot, []), index)
        for slot, queue in queues.items():
            while queue and free.get(slot, 1) > 0:
                begin([heapq.heappop(queue)])
        if not under_way:
            return spans
        now, ready = under_way[0][0], []
        while under_way and under_way[0][0] <= now:
            _, index = heapq.heappop(under_way)
            if steps[index].slot:
                free[steps[index].slot] += 1
            ready += _passed(waiting_for.get(steps[index].key, ()))
        ready.sort()


def _barriers(steps: tuple[Step, ...]) -> tuple[dict[str, list[_Barrier]], list[int]]:
    """Given steps, return the barriers that wait for each key, and the steps that wait for none.

    Steps with the same predecessors share a barrier, so a plan of thousands of steps stays cheap.
    """
    keys = {step.key for step in steps}
    barriers, waiting_for, ready = dict[frozenset[str], _Barrier](), dict[str, list[_Barrier]](), list[int]()
    for index, step in enumerate(steps):
        barrier = barriers.get(step.after)
        if barrier is None:
            missing = step.after & keys
            barrier = barriers[step.after] = _Barrier(len(missing), [])
            for key in missing:
                waiting_for.setdefault(key, []).append(barrier)
        if barrier.missing:
            barrier.behind.append(index)
        else:
            ready.append(index)
    return waiting_for, ready


def _passed(barriers: Iterable[_Barrier]) -> list[int]:
    """Given barriers for which one more step is over, return the steps that may begin now."""
    passed = list[int]()
    for barrier in barriers:
        barrier.missing -= 1
        if barrier.missing == 0:
            passed += barrier.behind
    return passed
