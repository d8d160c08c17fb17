"""What do outages cost a training? Prometheus, the operator and the API server go away, one after the other.

One job trains on the embedded cluster. Prometheus is killed for two minutes; the operator is killed while the
job grows; the API server is killed for half a minute. The training must go on through all of it, at its pace,
with the pods that it has; sizes that were asked for must be reached afterwards; and in the end as many
samples must have been trained as the epochs have. (`elastic_soak` shows that each was trained once.)

    make bench NAME=outages
"""

import os
import time
from collections.abc import Callable
from importlib.metadata import version

from benchmarks.report import describe_machine, print_figures, print_table
from e2e import operator_chart, story
from e2e.local import Cluster
from e2e.reach import Job, Reach
from e2e.scenarios.jobs import SAMPLES, apply, condition, lives, status, step, trains_on
from e2e.scenarios.processes import kill_operator

NAME, NAMESPACE = "steady", "default"
EPOCHS = 200
SETTLE, WITHOUT_PROMETHEUS, WITHOUT_API_SERVER = 15.0, 120.0, 30.0


def main() -> None:
    print(describe_machine(torch=version("torch")))
    print(f"load {os.getloadavg()[0]:.1f}\n")
    with Cluster.start("bench-outages", nodes=story.NODES) as cluster:
        reach = Reach.of(cluster)
        operator_chart.install(reach)
        spec = story.job(NAME, epochs=EPOCHS, least=1, most=4)["spec"]
        apply(reach, NAME, spec | {"scaling": {"minGPUs": 1, "maxGPUs": 4, "gpus": 2}}, namespace=NAMESPACE)
        job = reach.wait_job(NAME, trains_on(2, beyond=10))
        first = lives(reach, NAME, namespace=NAMESPACE)
        normal = pace(reach, lambda: time.sleep(SETTLE))

        def outage(component: str, seconds: float) -> float:
            def away() -> None:
                cluster.stop_component(component)
                time.sleep(seconds)
                if component == "prometheus":
                    seen.append(condition(get(reach), "MetricsAvailable").get("status", ""))
                cluster.restart_component(component)

            return pace(reach, away)

        seen: list[str] = []
        blind = outage("prometheus", WITHOUT_PROMETHEUS)
        reach.kubectl("scale", f"crj/{NAME}", "--replicas=4")
        reach.wait_job(NAME, lambda job: condition(job, "Rescaling").get("status") == "True")
        kill_operator(reach, namespace=operator_chart.NAMESPACE)
        began = time.monotonic()
        reach.wait_job(NAME, trains_on(4))
        grown = time.monotonic() - began
        large = pace(reach, lambda: time.sleep(SETTLE))
        alone = outage("kube-apiserver", WITHOUT_API_SERVER)
        began = time.monotonic()
        reach.kubectl("scale", f"crj/{NAME}", "--replicas=2")
        reach.wait_job(NAME, trains_on(2))
        shrunk = time.monotonic() - began
        kept = lives(reach, NAME, namespace=NAMESPACE).items() >= first.items()
        job = reach.wait_finished(NAME)
    print_table(
        ("without", "for", "steps/s meanwhile", "steps/s before", "the size asked for, s later"),
        [
            ("Prometheus", f"{WITHOUT_PROMETHEUS:.0f} s", f"{blind:.2f}", f"{normal:.2f}", "-"),
            ("operator, killed in a growth", "-", "-", "-", f"{grown:.1f}"),
            ("API server", f"{WITHOUT_API_SERVER:.0f} s", f"{alone:.2f}", f"{large:.2f}", f"{shrunk:.1f}"),
        ],
    )
    told = status(job)
    print(f"{told['phase']}: {told['message']}; metrics were called available: {', '.join(seen)}")
    print(f"load {os.getloadavg()[0]:.1f}\n")
    print_figures(
        "outages",
        {
            "pace_without_prometheus": blind / normal,
            "pace_without_api_server": alone / large,
            "restarts": told["restarts"] + (not kept),
            "samples_over_due": told["progress"]["samples"] / (EPOCHS * SAMPLES),
        },
    )


def get(reach: Reach) -> Job:
    """The job as it is."""
    return reach.wait_job(NAME, lambda job: True)


def pace(reach: Reach, meanwhile: Callable[[], None]) -> float:
    """Steps per second of the job from before something to after it, as its status tells."""
    began, before = time.monotonic(), step(get(reach))
    meanwhile()
    # What is told may be old: until something new is, it says nothing of now.
    told = step(get(reach))
    after = reach.wait_job(NAME, lambda job: step(job) > told)
    return (step(after) - before) / (time.monotonic() - began)


if __name__ == "__main__":
    main()
