"""`make demo`: from nothing to two jobs that share a real control plane's GPUs, and what came of them.

Starts an embedded cluster (or uses the one of `--kubeconfig`), installs the chart by Helm, and plays `story`:
one job grows into idle GPUs, gives way to an urgent one, and grows again after it, all by the controller.
Then the urgent job's result, why the other had which size, and how long training paused for each change. With
`--job` one job of your own is run to its end instead, and scaled by hand where `--sizes` says so. The exit
status is 0 only when the job succeeded. The cluster goes with this process unless `--keep` is given.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from e2e import operator_chart, story
from e2e.local import DEFAULT_NODES, Cluster
from e2e.local.errors import LocalClusterError, NoSuchClusterError
from e2e.reach import Job, NotReached, Reach

STEPS_BETWEEN = 10
CLUSTER_NAME = "cra"


def main() -> int:
    """Run the demo; returns the exit status."""
    options = _options()
    started = time.monotonic()
    try:
        with _target(options) as reach:
            _say(started, "installing the operator's chart by Helm")
            operator_chart.install(reach, *story.SETTINGS)
            if options.no_job:
                _say(started, "the operator runs")
                print(_how_to_look_around(reach, kept=True))
                return 0
            if options.job is None:
                job = story.run(reach, lambda what: _say(started, what))
                print(describe_result(job))
                print(story.describe_moves(reach))
                print(describe_resizes(reach, story.STEADY))
                story.end(reach)
            else:
                job = run_job(reach, options.job, options.sizes, started)
                print(describe_result(job))
                if options.sizes:
                    print(describe_resizes(reach, job["metadata"]["name"]))
            print(_how_to_look_around(reach, kept=options.keep))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (LocalClusterError, NotReached) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    succeeded = bool(job["status"]["phase"] == "Succeeded")
    _say(
        started,
        "the job succeeded" if succeeded else f"the job did not succeed: {job['status'].get('message')}",
    )
    return 0 if succeeded else 1


def run_job(reach: Reach, manifest: Path, sizes: Sequence[int], started: float) -> dict[str, Any]:
    """Apply the job, scale it while it trains, and follow it on the terminal until it is finished.

    Returns:
        The finished object.
    """
    name = next(document["metadata"]["name"] for document in yaml.safe_load_all(manifest.read_text()))
    _say(started, f"kubectl apply -f {manifest}; kubectl get crj {name} -w")
    print(reach.kubectl("apply", "-f", str(manifest)), end="", flush=True)
    table = subprocess.Popen([*reach.kubectl_command, "get", "crj", name, "-w"])
    try:
        for size in sizes:
            if not scale(reach, name, size, started):
                break
        reach.wait_finished(name)
        # The watch prints the last change a moment after the wait has seen it.
        table.wait(timeout=1.0)
    except subprocess.TimeoutExpired:
        pass
    finally:
        table.terminate()
        table.wait()
    return dict(json.loads(reach.kubectl("get", "crj", name, "-o", "json")))


def scale(reach: Reach, name: str, size: int, started: float) -> bool:
    """Scale the job once it trains, and wait until it trains at that size; False when it ended before."""

    def trains(job: Job, steps: int) -> bool:
        status = job.get("status", {})
        resizing = any(
            c["type"] == "Rescaling" and c["status"] == "True" for c in status.get("conditions", [])
        )
        step = status.get("progress", {}).get("step", 0)
        return bool(status.get("phase") == "Running" and not resizing and step >= steps)

    try:
        before = reach.wait_job(name, lambda job: trains(job, STEPS_BETWEEN))
        _say(started, f"kubectl scale crj/{name} --replicas={size}")
        reach.kubectl("scale", f"crj/{name}", f"--replicas={size}")
        step = before["status"]["progress"]["step"]
        reach.wait_job(
            name, lambda job: job["status"].get("gpus") == size and trains(job, step + STEPS_BETWEEN)
        )
    except NotReached:
        return False
    return True


def describe_resizes(reach: Reach, name: str) -> str:
    """What rank 0 wrote down of each change of its group: it lived through all of them."""
    names = reach.kubectl("get", "pods", "-l", f"cra.dev/job={name}", "-o", "name").split()
    leaders = [pod for pod in names if pod.endswith("-0")]
    found = [
        line[line.index("resized from") :]
        for pod in leaders
        for line in reach.kubectl("logs", pod).splitlines()
        if "resized from" in line
    ]
    return "\n".join(
        [
            "",
            "  rank 0 measured, from the last step before to the first one after:",
            *(f"  {line}" for line in found),
        ]
    )


def describe_result(job: dict[str, Any]) -> str:
    """Render what the job came to: metrics, speed, and each rank's share with its weight and performance."""
    status = job["status"]
    result = status.get("result", {})
    lines = ["", f"{job['metadata']['name']}: {status['display']['phase']}. {status.get('message', '')}"]
    if metrics := result.get("metrics"):
        lines.append("  " + ", ".join(f"{name} {value:.4f}" for name, value in sorted(metrics.items())))
    if "samplesPerSecond" in result:
        lines.append(
            f"  {result['samplesPerSecond']:.0f} samples/s over {result['steps']} steps"
            f" in {result['seconds']:.1f} s; {status.get('gpuSeconds', 0):.0f} GPU-seconds"
        )
    workers = {worker["rank"]: worker for worker in status.get("workers", [])}
    if ranks := result.get("ranks"):
        lines += ["", "  RANK  SHARE   WEIGHT  PERFORMANCE  SAMPLES/S  GPU TYPE         NODE"]
    for rank in ranks or []:
        worker = workers.get(rank["rank"], {})
        lines.append(
            f"  {rank['rank']:<4}  {rank['share']:6.1%}  {rank['weight']:.4f}  {rank['performance']:<11.4f}"
            f"  {rank['samplesPerSecond']:<9.0f}  {worker.get('gpuType', '-'):<15}  {worker.get('node', '-')}"
        )
    return "\n".join(lines)


def _how_to_look_around(reach: Reach, *, kept: bool) -> str:
    command = " ".join(reach.kubectl_command)
    lines = ["", f"logs of every component: {reach.logs}"] if reach.logs else [""]
    if kept:
        lines += [
            f"look around:  {command} get crj,pods,nodes",
            f"              {command} describe crj",
            "take it down: make cluster-down",
        ]
    else:
        lines += ["to look around: make cluster-up, and kubectl apply -f examples/digits-cnn.yaml as it says"]
    return "\n".join(lines)


@contextmanager
def _target(options: argparse.Namespace) -> Iterator[Reach]:
    if options.kubeconfig:
        yield Reach.from_path(options.kubeconfig)
    elif options.keep:
        yield Reach.of(_kept_cluster())
    else:
        with Cluster.start(nodes=story.NODES if options.job is None else DEFAULT_NODES) as cluster:
            yield Reach.of(cluster)


def _kept_cluster() -> Cluster:
    try:
        return Cluster.attach(CLUSTER_NAME)
    except NoSuchClusterError:
        return Cluster.start(CLUSTER_NAME, detached=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m e2e.demo", description=__doc__)
    parser.add_argument("--job", type=Path, help="run this job instead of the story of two")
    parser.add_argument(
        "--sizes", type=int, nargs="*", default=(), help="GPUs to scale that job to, one after another"
    )
    parser.add_argument("--no-job", action="store_true", help="only bring up the cluster with the operator")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--keep", action="store_true", help="leave the cluster running")
    where.add_argument("--kubeconfig", type=Path, help="use this cluster, with helm and kubectl from PATH")
    return parser.parse_args()


def _say(started: float, what: str) -> None:
    print(f"[{time.monotonic() - started:4.0f} s] {what}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
