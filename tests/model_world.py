"""A platform without machines: the planners' own model of the world, behind a job that the real runner runs."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from thems_jobs.core import model
from thems_jobs.core.facts import Facts, Node, Storage, TemplateImage
from thems_jobs.core.job import Done, Job, Look
from thems_jobs.core.plan import Plan, Step
from thems_jobs.core.platform import Platform
from thems_jobs.core.record import Record
from thems_jobs.jobs import provision


class ModelWorld:
    """One platform, empty at first. Every step takes `step_s` seconds."""

    def __init__(self, platform: Platform, parameters: provision.Parameters, step_s: float = 0.0) -> None:
        self.platform, self.parameters, self.step_s = platform, parameters, step_s
        self._lock = threading.Lock()
        now = time.time()
        self.facts = Facts(
            at=now,
            record=Record(),
            nodes={name: Node(name, True, 16, 0, 65536, 0) for name in platform.proxmox.nodes},
            storages=tuple(Storage("shared", name, True, True, 1_000_000) for name in platform.proxmox.nodes),
            templates={
                name: TemplateImage(tier.template.name, tier.template.vmid, "pve1", now - 3600)
                for name, tier in platform.tiers.items()
            },
            roles=dict.fromkeys(platform.tiers, "configuration-1"),
        )

    def job(self) -> Job:
        """Return the job that brings this world to its declared state."""
        return Job(
            "provision", self.platform, self._observe, self._plan, self._perform, self._change_record, lambda: None
        )

    @property
    def _plan(self) -> Callable[[Facts], Plan]:
        return partial(provision.plan, self.platform, self.parameters)

    def _observe(self, _facts: Facts | None, look: Look) -> Facts:
        with self._lock:
            for step in look.waits:
                if any(step.key == s.key for s in self._plan(self.facts).steps):
                    self.facts = model.after(self.platform, self.facts, self._plan(self.facts), step)
            return replace(self.facts, at=time.time())

    def _perform(self, steps: Sequence[Step], _facts: Facts) -> Mapping[str, Done]:
        time.sleep(self.step_s)
        with self._lock:
            for step in steps:
                self.facts = model.after(self.platform, self.facts, self._plan(self.facts), step)
        return {step.key: Done() for step in steps}

    def _change_record(self, change: Callable[[Record], Record]) -> Record:
        with self._lock:
            self.facts = replace(self.facts, record=change(self.facts.known_record))
            return self.facts.known_record
