"""Who may start: whole gangs only, by priority and age, on nodes that can take them."""

from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cra_operator.admission import Ask, Shares, bound_gpus, decide, free_gpus
from cra_operator.sizing import Size
from cra_operator.view import Taint
from tests.operator.operator_world import START, MiniCluster, make_job, make_node, make_pod


def an_ask(name: str = "a", workers: int = 1, each: int = 1, age: float = 0, **fields: Any) -> Ask:
    size = Size(workers=workers, gpus_per_worker=each)
    return Ask(key=("default", name), size=size, created=START - timedelta(seconds=age), **fields)


def verdicts(asks: list[Ask], *nodes: Any, taken: dict[str, int] | None = None) -> dict[str, Any]:
    free = free_gpus(nodes, taken or {}, [])
    found = decide(asks, {node.name: node for node in nodes}, free)
    return {key[1]: verdict for key, verdict in found.items()}


def test_a_job_starts_only_when_all_its_workers_fit() -> None:
    node = make_node(gpus=4)
    assert verdicts([an_ask(workers=4)], node)["a"].fits
    refused = verdicts([an_ask(workers=4)], node, taken={"gpu-0": 1})["a"]
    assert not refused.fits
    assert refused.position == 1
    assert refused.message == "waiting for 4 GPUs: 3 of 4 free"


def test_a_job_larger_than_the_cluster_is_told_so() -> None:
    message = verdicts([an_ask(workers=9)], make_node(gpus=8))["a"].message
    assert message == "waiting for 9 GPUs: 8 of 8 free, and the nodes that it may use have no more"


def test_workers_of_several_gpus_need_them_on_one_node() -> None:
    halves = [make_node("x", gpus=3), make_node("y", gpus=3)]
    ask = an_ask(workers=3, each=2)
    verdict = verdicts([ask], *halves)["a"]
    assert not verdict.fits
    assert verdict.message.endswith("but not 2 together on enough nodes")
    assert verdicts([an_ask(workers=2, each=2)], *halves)["a"].fits


def test_higher_priority_goes_first_then_the_older_job() -> None:
    asks = [an_ask("young", age=1), an_ask("old", age=9), an_ask("urgent", priority=10)]
    found = verdicts(asks, make_node(gpus=2))
    assert {name for name, verdict in found.items() if verdict.fits} == {"urgent", "old"}
    assert found["young"].position == 1


def test_a_job_that_does_not_fit_is_passed_over_and_holds_nothing() -> None:
    found = verdicts([an_ask("big", workers=4, age=9), an_ask("small", workers=2)], make_node(gpus=3))
    assert not found["big"].fits
    assert found["small"].fits


def test_gpus_promised_to_pods_on_their_way_are_not_free() -> None:
    node = make_node(gpus=4)
    assert free_gpus([node], {"gpu-0": 1}, [Size(workers=2, gpus_per_worker=1)]) == {"gpu-0": 1}


def test_nodes_that_are_cordoned_or_not_ready_have_no_free_gpus() -> None:
    nodes = [make_node("off", schedulable=False), make_node("lost", ready=False)]
    assert free_gpus(nodes, {}, []) == {}


def test_pods_that_ended_or_are_not_bound_take_no_gpus() -> None:
    pods = [make_pod(0), make_pod(1, phase="Succeeded"), make_pod(2, node="")]
    assert bound_gpus(pods) == {"gpu-0": 1}


def test_the_node_selector_and_taints_are_respected() -> None:
    plain = make_node("plain", gpus=8)
    special = make_node("special", gpus=2, labels={"pool": "a"}, taints=(Taint(key="pool", value="a"),))
    wish: dict[str, Any] = {"node_selector": {"pool": "a"}}
    assert not verdicts([an_ask(**wish)], plain, special)["a"].fits
    tolerations = ({"key": "pool", "value": "a", "effect": "NoSchedule"},)
    assert verdicts([an_ask(tolerations=tolerations, **wish)], plain, special)["a"].fits
    anything = ({"operator": "Exists"},)
    assert verdicts([an_ask(tolerations=anything, **wish)], plain, special)["a"].fits


def test_a_job_that_fits_is_told_the_type_to_start_on_unless_a_selector_chooses_its_nodes() -> None:
    node = make_node(labels={"zone": "b"})
    asks = [an_ask("any"), an_ask("picky", node_selector={"zone": "b"}), an_ask("large", workers=9)]
    found = decide(asks, {node.name: node}, {node.name: 8}, Shares(gpu_type="T4"))
    assert {key[1]: verdict.gpu_type for key, verdict in found.items()} == {
        "any": "T4",
        "picky": None,
        "large": None,
    }


def starts(asks: list[Ask], free: dict[str, int], **shares: Any) -> dict[str, int]:
    """GPUs with which these jobs start on nodes with so many idle ones, of which each may have half."""
    nodes = {name: make_node(name, gpus=8) for name in free}
    found = decide(asks, nodes, free, Shares(start=0.5, **shares))
    return {key[1]: verdict.size.gpus for key, verdict in found.items() if verdict.size is not None}


def new(name: str = "a", least: int = 1, most: int = 8, each: int = 1, **fields: Any) -> Ask:
    """A job of which nobody knows how fast it is."""
    return an_ask(name, least, each, most=Size(workers=most, gpus_per_worker=each), **fields)


def test_a_new_job_starts_with_half_of_the_idle_gpus_and_says_so() -> None:
    assert starts([new()], {"x": 8}) == {"a": 4}
    found = decide([new()], {"x": make_node("x", gpus=8)}, {"x": 8}, Shares(start=0.5))
    assert found["default", "a"].message == "of 8 that were idle"
    assert starts([new(most=3)], {"x": 8}) == {"a": 3}, "no more than its maximum"
    assert starts([new(least=6)], {"x": 8}) == {"a": 6}, "its minimum, if that is more"
    assert starts([new(most=4, each=3)], {"x": 8, "y": 8}) == {"a": 6}, "in whole workers"
    assert starts([an_ask()], {"x": 8}) == {"a": 1}, "what is known of one that ran decides"


def test_new_jobs_leave_others_in_the_line_what_they_need() -> None:
    assert starts([new("a", age=3), new("b", age=2), new("c", age=1)], {"x": 8}) == {"a": 3, "b": 2, "c": 1}
    assert starts([new("a", age=1), an_ask("large", workers=6)], {"x": 8}) == {"a": 1, "large": 6}
    assert starts([new("late"), an_ask("urgent", workers=6, priority=1)], {"x": 8}) == {
        "urgent": 6,
        "late": 1,
    }
    assert starts([an_ask("larger", workers=6, age=1), new()], {"x": 5}) == {"a": 1}, "or it waits for longer"


def test_a_new_job_starts_with_no_more_than_its_namespace_may_hold() -> None:
    assert starts([new()], {"x": 8}, room={"default": 3}) == {"a": 3}


def test_the_usual_taint_of_gpu_nodes_is_tolerated() -> None:
    node = make_node(taints=(Taint(key="nvidia.com/gpu", value="present"),))
    assert verdicts([an_ask()], node)["a"].fits


def test_a_job_that_changes_size_may_count_on_what_it_holds() -> None:
    node = make_node(gpus=4)
    ask = an_ask(workers=4, held={"gpu-0": 3})
    assert verdicts([ask], node, taken={"gpu-0": 3})["a"].fits
    assert not verdicts([ask], node, taken={"gpu-0": 4})["a"].fits
    # Being refused, it still holds them: nobody else gets them.
    found = verdicts([ask, an_ask("b", workers=1)], node, taken={"gpu-0": 4})
    assert not found["b"].fits


@given(
    gpus=st.lists(st.integers(0, 8), min_size=1, max_size=4),
    wishes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(0, 2)), max_size=6),
)
def test_what_is_granted_together_always_fits_together(
    gpus: list[int], wishes: list[tuple[int, int, int]]
) -> None:
    nodes = [make_node(f"n{i}", gpus=count) for i, count in enumerate(gpus)]
    asks = [an_ask(f"j{i}", workers, each, priority=p) for i, (workers, each, p) in enumerate(wishes)]
    found = verdicts(asks, *nodes)
    granted = [ask.size for ask in asks if found[ask.key[1]].fits]
    assert sum(size.gpus for size in granted) <= sum(gpus)
    positions = sorted(verdict.position for verdict in found.values() if not verdict.fits)
    assert positions == list(range(1, len(positions) + 1))
    # The granted gangs together still leave no node short: placing them is possible.
    left = free_gpus(nodes, {}, sorted(granted, key=lambda size: -size.gpus_per_worker))
    assert all(count >= 0 for count in left.values())


def test_a_waiting_job_says_what_it_waits_for_and_where_it_stands() -> None:
    cluster = MiniCluster(make_node(gpus=2))
    first = cluster.apply(make_job("first", minimum=2))
    cluster.run(first)
    second = cluster.apply(make_job("second", minimum=2))
    cluster.settle(second)
    status = cluster.status(second)
    assert status.phase == "Pending"
    assert status.queue_position == 1
    assert status.message == "waiting for 2 GPUs: 0 of 2 free"
    admitted = status.condition("Admitted")
    assert admitted is not None
    assert (admitted.status, admitted.reason) == ("False", "WaitingForGPUs")
    assert cluster.pods_of(second) == ()


def test_a_waiting_job_starts_when_another_ends() -> None:
    cluster = MiniCluster(make_node(gpus=2))
    first, second = cluster.apply(make_job("first", minimum=2)), cluster.apply(make_job("second", minimum=2))
    cluster.run(first)
    cluster.settle(second)
    for pod in cluster.newest(first):
        cluster.exit(pod, 0)
    cluster.settle()
    assert cluster.status(first).phase == "Succeeded"
    assert cluster.status(second).phase == "Starting"
    assert cluster.status(second).queue_position is None
