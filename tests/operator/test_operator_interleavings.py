"""Any order of anything: users edit, pods start, join, fail, vanish, the operator dies between any two steps.

Whatever happens, the rules hold at every moment; and once things calm down, every job gets where it should.
"""

from collections import Counter
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cra_operator.api import JobKey
from cra_operator.controller.observation import Observation, WorkerSample
from cra_operator.controller.target import Target
from cra_operator.view import PodView
from cra_operator.world import ACTIVE, FINISHED
from tests.operator.operator_world import START, MiniCluster, make_job, make_node

NAMES = ("a", "b")
jobs = st.sampled_from([("default", name) for name in NAMES])
ranks = st.integers(0, 3)


class Anything(RuleBasedStateMachine):
    """Two jobs on GPUs that are not always enough for both: one is elastic, the other may become so."""

    @initialize(gpus=st.lists(st.integers(1, 4), min_size=1, max_size=3), limit=st.integers(0, 3))
    def begin(self, gpus: list[int], limit: int) -> None:
        self.cluster = MiniCluster(*(make_node(f"n{i}", count) for i, count in enumerate(gpus)))
        self.limit = limit
        self.generations: Counter[JobKey] = Counter()
        for number, name in enumerate(NAMES, 1):
            scaling = {"elastic": number == 2}
            self.cluster.apply(make_job(name, minimum=number, maximum=4, backoffLimit=limit, scaling=scaling))
        self.gpu_seconds: dict[JobKey, float] = {}

    def _pod(self, key: JobKey, rank: int) -> PodView | None:
        found = [pod for pod in self.cluster.newest(key) if pod.rank == rank]
        return found[-1] if found else None

    @rule(key=jobs)
    def the_operator_looks(self, key: JobKey) -> None:
        plan = self.cluster.reconcile(key)
        status = self.cluster.status(key)
        assert (status.generation or 0) >= self.generations[key], "generations only rise"
        self.generations[key] = status.generation or 0
        assert (status.gpu_seconds or 0) >= self.gpu_seconds.get(key, 0), "what was burnt stays burnt"
        self.gpu_seconds[key] = status.gpu_seconds or 0
        self._no_partial_gang(key)
        kept = [pod for pod in self.cluster.newest(key) if not pod.ended and not pod.deleting]
        held = plan.holding.gpus if plan.holding is not None else 0
        assert held >= sum(pod.gpus for pod in kept), "no pod is kept without a promise"

    @rule(key=jobs)
    def all_goes_well_for_a_while(self, key: JobKey) -> None:
        self.cluster.run(key)
        self.generations[key] = self.cluster.status(key).generation or 0

    @rule(key=jobs, steps=st.integers(0, 6))
    def the_operator_dies_on_the_way(self, key: JobKey, steps: int) -> None:
        self.cluster.reconcile(key, crash_after=steps)

    @rule(key=jobs, gpus=st.sampled_from([None, 2, 3, 4]))
    def the_user_scales(self, key: JobKey, gpus: int | None) -> None:
        self.cluster.edit(key, gpus=gpus)

    @rule(key=jobs, gpus=st.sampled_from([None, 1, 2, 3, 4]))
    def the_controller_wants(self, key: JobKey, gpus: int | None) -> None:
        self.cluster.targets[key] = Target(
            gpus=gpus, reason="GrowthPays", message="it pays", policy="goodput"
        )

    @rule(key=jobs)
    def the_controller_has_not_decided_yet(self, key: JobKey) -> None:
        self.cluster.targets.pop(key, None)

    @rule(key=jobs, change=st.sampled_from([{"elastic": True}, {"elastic": False}, {"gpus_per_worker": 2}]))
    def the_user_changes_how_it_scales(self, key: JobKey, change: dict[str, Any]) -> None:
        self.cluster.edit(key, **change)

    @rule(key=jobs, suspend=st.booleans())
    def the_user_suspends_or_resumes(self, key: JobKey, suspend: bool) -> None:
        self.cluster.edit(key, suspend=suspend)

    @rule()
    def the_scheduler_works(self) -> None:
        self.cluster.schedule()

    @rule(key=jobs)
    def pods_get_ready(self, key: JobKey) -> None:
        self.cluster.start(pod for pod in self.cluster.newest(key) if not pod.deleting)

    @rule(key=jobs, rank=ranks, code=st.sampled_from([0, 1, 75, 137, 143]))
    def a_pod_exits(self, key: JobKey, rank: int, code: int) -> None:
        pod = self._pod(key, rank)
        if pod is not None and pod.node and not pod.ended:
            self.cluster.exit(pod, code)

    @rule(key=jobs, rank=ranks, reason=st.sampled_from(["PreemptionByScheduler", "EvictionByEvictionAPI"]))
    def a_pod_is_evicted(self, key: JobKey, rank: int, reason: str) -> None:
        pod = self._pod(key, rank)
        if pod is not None and pod.node and not pod.ended and not pod.deleting:
            now = self.cluster.now
            self.cluster.change(pod, disruption=reason, deleted=now, deadline=now)

    @rule(key=jobs, rank=ranks)
    def a_pod_vanishes(self, key: JobKey, rank: int) -> None:
        pod = self._pod(key, rank)
        if pod is not None:
            self.cluster.vanish(pod)

    @rule()
    def pods_that_were_told_to_leave_are_gone(self) -> None:
        for pod in list(self.cluster.pods.values()):
            if pod.deleting:
                self.cluster.vanish(pod)

    @rule(seconds=st.sampled_from([1, 30, 400]))
    def time_passes(self, seconds: int) -> None:
        self.cluster.wait(seconds)

    def _no_partial_gang(self, key: JobKey) -> None:
        """A job whose turn was just taken has the whole of its generation, or is on its way out of it."""
        status = self.cluster.status(key)
        pods = self.cluster.newest(key)
        if status.phase == "Starting":
            assert [pod.rank for pod in pods] == list(range(pods[0].workers))
        elif status.phase == "Running":
            listed = {worker.pod for worker in status.workers}
            assert all(pod.name in listed for pod in pods if pod.rank == 0 and not pod.ended)
            coming = [pod for pod in pods if pod.generation == (status.run and status.run.joining)]
            assert not coming or coming[0].joining == tuple(pod.rank for pod in coming)
        elif status.phase not in ACTIVE:
            assert all(pod.ended or pod.deleting for pod in pods)

    @invariant()
    def one_run_at_a_time(self) -> None:
        for key in self.cluster.jobs:
            live = {pod.run for pod in self.cluster.pods_of(key) if not pod.ended}
            assert len(live) <= 1, "two runs of a job never compute at once"

    @invariant()
    def one_pod_for_each_rank(self) -> None:
        for key in self.cluster.jobs:
            live = Counter(pod.rank for pod in self.cluster.pods_of(key) if not pod.ended)
            assert not live or max(live.values()) == 1, "no rank has two pods that may compute"

    @invariant()
    def failures_are_bounded(self) -> None:
        for key in self.cluster.jobs:
            assert (self.cluster.status(key).failures or 0) <= self.limit + 1

    @invariant()
    def the_status_agrees_with_itself(self) -> None:
        for key in self.cluster.jobs:
            status = self.cluster.status(key)
            assert status.is_true("Running") == (status.phase == "Running")
            assert status.is_true("Suspended") == (status.phase == "Suspended")
            assert status.is_true("Succeeded") == (status.phase == "Succeeded")
            assert status.is_true("Failed") == (status.phase == "Failed")
            assert status.is_true("Admitted") == (status.phase in ("Starting", "Running", "Rescaling"))

    def teardown(self) -> None:
        """Things calm down: everybody is released, pods behave, and every job comes to its end."""
        if not hasattr(self, "cluster"):
            return
        cluster = self.cluster
        total = sum(node.gpus for node in cluster.nodes.values())
        for key in cluster.jobs:
            cluster.edit(key, suspend=False, gpus=None, gpus_per_worker=1)
            self.the_controller_wants(key, 4)
        for _ in range(20):
            cluster.wait(400)
            cluster.settle()
            self.pods_that_were_told_to_leave_are_gone()
            cluster.settle()
            if all(cluster.status(key).phase in FINISHED for key in cluster.jobs):
                break
            cluster.schedule()
            for key in cluster.jobs:
                cluster.start(cluster.newest(key))
            cluster.settle()
            for key in cluster.jobs:
                if cluster.status(key).phase == "Running":
                    for pod in cluster.newest(key):
                        cluster.exit(pod, 0)
        for number, key in enumerate(cluster.jobs, 1):
            wanted = FINISHED if number <= total else ("Pending", *FINISHED)
            assert cluster.status(key).phase in wanted
            assert cluster.status(key).gpus == 0


class Living(Anything):
    """One elastic job that trains from the beginning and is hurt and resized more than anything else."""

    @initialize(gpus=st.integers(4, 6), limit=st.integers(1, 3))
    def begin(self, gpus: int, limit: int) -> None:
        self.cluster = MiniCluster(make_node("n0", 3), make_node("n1", gpus - 3))
        self.limit = limit
        self.generations = Counter()
        self.gpu_seconds = {}
        scaling = {"gpus": 3, "stragglers": "Replace"}
        key = self.cluster.apply(make_job("b", maximum=4, backoffLimit=limit, scaling=scaling))
        self.cluster.apply(make_job("a", maximum=4, suspend=True, scaling={"elastic": False}))
        self.cluster.run(key)

    @rule(gpus=st.sampled_from([1, 2, 3, 4]), crash_after=st.none() | st.integers(0, 4))
    def the_user_scales_it(self, gpus: int, crash_after: int | None) -> None:
        self.cluster.edit(("default", "b"), gpus=gpus)
        self.cluster.reconcile(("default", "b"), crash_after=crash_after)

    @rule(gpus=st.sampled_from([1, 2, 3, 4]), crash_after=st.none() | st.integers(0, 4))
    def the_controller_moves_it(self, gpus: int, crash_after: int | None) -> None:
        self.cluster.edit(("default", "b"), gpus=None)
        self.the_controller_wants(("default", "b"), gpus)
        self.cluster.reconcile(("default", "b"), crash_after=crash_after)

    @rule(rank=st.integers(1, 3), code=st.sampled_from([75, 137, 143]))
    def a_worker_is_lost(self, rank: int, code: int) -> None:
        self.a_pod_exits(("default", "b"), rank, code)
        self.cluster.wait(5)
        self.cluster.settle()

    @rule(rank=st.integers(0, 2), crash_after=st.none() | st.integers(0, 2))
    def a_worker_is_slow(self, rank: int, crash_after: int | None) -> None:
        key = ("default", "b")
        self.it_goes_on(seconds=20, ready=True)
        pod = self._pod(key, rank)
        if pod is not None:
            workers = {pod.name: WorkerSample(straggler=True)}
            self.cluster.observations[key] = Observation(time=START, run=pod.run, workers=workers)
            self.cluster.reconcile(key, crash_after=crash_after)

    @rule()
    def all_are_as_fast_as_they_were(self) -> None:
        self.cluster.observations.clear()

    @rule(seconds=st.sampled_from([1, 5, 20]), ready=st.booleans())
    def it_goes_on(self, seconds: int, ready: bool) -> None:
        self.cluster.settle()
        self.pods_that_were_told_to_leave_are_gone()
        self.cluster.wait(seconds)
        self.cluster.settle()
        self.cluster.schedule()
        if ready:
            self.pods_get_ready(("default", "b"))
        self.cluster.settle()

    def teardown(self) -> None:
        """Left in peace, it gets to the size that is wanted, every place taken; then it ends like any."""
        if hasattr(self, "cluster"):
            living, other = ("default", "b"), ("default", "a")
            self.cluster.edit(other, suspend=True)
            run = max((pod.run for pod in self.cluster.pods_of(living)), default=0)
            self.cluster.observations[living] = Observation(time=START, run=run)
            self.cluster.edit(living, suspend=False, gpus=3, gpus_per_worker=1, elastic=True)
            for _ in range(30):
                self.it_goes_on(seconds=20, ready=True)
            status, done = self.cluster.status(living), self.cluster.newest(living)[0].phase == "Succeeded"
            if status.phase not in FINISHED and not done:
                assert status.phase == "Running"
                assert [worker.rank for worker in status.workers] == [0, 1, 2]
                assert not status.is_true("Rescaling")
                assert not status.is_true("Degraded")
                there = [pod.rank for pod in self.cluster.newest(living) if pod.phase != "Failed"]
                assert there == [0, 1, 2], "nobody else is left"
        super().teardown()


TestLiving = Living.TestCase
TestLiving.settings = settings(stateful_step_count=25, max_examples=settings().max_examples // 4)
TestAnything = Anything.TestCase
TestAnything.settings = settings(stateful_step_count=30, max_examples=settings().max_examples // 2)
