"""Does a training come through 200 random resizes and 20 kills, and is it still the same training?

One run on one to four processes is resized at random; some resizes are overtaken by another. Now and then a
rank other than 0 gets SIGKILL, in half of the cases while a resize is under way. Then the same training runs
at a fixed size, with three seeds: how far these differ is the noise that the resized one is compared with.

The model itself counts each sample that it was trained on, so the counts say what the result really holds:
see `benchmarks/scripts/soak.py`. Memory is that of rank 0, which lives through all of it.

    make bench NAME=elastic_soak
"""

import json
import os
import random
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.local_group import Forked, LocalGroup, Member
from benchmarks.report import describe_machine, print_figures, print_table
from benchmarks.scripts import soak
from benchmarks.steps import wait

RESIZES, KILLS = 200, 20
LARGEST = 4
FIXED, SEEDS = 2, (0, 1, 2)
REGRETTED = 0.1  # of the resizes: another one follows before the newcomers are in
PACE = 0.02
BETWEEN = 1.0  # at most so many seconds from one resize to the next
SETTLED = 20  # resizes after which memory is looked at first
WINDOW = 20  # resizes over which memory is averaged
MODULE = "benchmarks.scripts.soak"


@dataclass
class Soak:
    """What was done to the training and what it came to."""

    resizes: int = 0
    kill_times: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    seconds: float = 0.0
    epochs: list[dict[str, Any]] = field(default_factory=list)
    log: str = ""


def config(seed: int, *, epochs: int) -> dict[str, Any]:
    """A training that ends after so many epochs, or when it is told."""
    return {
        "training": {
            "batchSize": soak.BATCH,
            "epochs": epochs,
            "seed": seed,
            "targetMetric": {"name": "done", "value": 1.0},
        },
        "allocator": {"ranks": {"strategy": "uniform"}},
    }


def resized(directory: Path) -> Soak:
    """The training under resizes and kills."""
    choose = random.Random(4)
    done, end, epochs = Soak(), directory / "end", directory / "epochs"
    environ = {
        "BENCHMARK_EPOCHS": str(epochs),
        "BENCHMARK_END": str(end),
        "BENCHMARK_PACE": str(PACE),
    }
    # Kills are spread evenly over the resizes.
    killing = [round((kill + 0.5) * RESIZES / KILLS) for kill in range(KILLS)]
    with LocalGroup(MODULE, directory, config=config(SEEDS[0], epochs=10**6), environ=environ) as group:
        started = time.monotonic()
        group.join(0, 1)
        group.start = Forked
        group.wait_size(2, steps=3)
        while done.resizes < RESIZES or len(done.kill_times) < KILLS:
            during = choose.random() < 0.5
            kill = sum(due <= done.resizes for due in killing) > len(done.kill_times)
            if kill and not during and len(group.members) > 1:
                _kill(group, choose, done)
                kill = False
                group.wait_size(len(group.members))
            size = choose.choice([size for size in range(1, LARGEST + 1) if size != len(group.members)])
            old = dict(group.members)
            leaving = _resize(group, size)
            if choose.random() < REGRETTED:
                time.sleep(choose.uniform(0.0, 0.4))
                leaving += _resize(group, choose.randint(1, LARGEST))
            if kill:
                time.sleep(choose.uniform(0.0, 0.4))
                stayed = [
                    index for index in group.members if index and group.members[index] is old.get(index)
                ]
                if stayed:
                    _kill(group, choose, done, among=stayed)
            group.wait_left(leaving)
            _wait_taken_in(group)
            done.resizes += 1
            time.sleep(choose.uniform(0.0, BETWEEN))
            _look_at(group.leader, done)
        end.touch()
        group.wait_end(seconds=600)
        done.seconds = time.monotonic() - started
        done.log = group.leader.output.read_text()
    done.epochs = _read(epochs)
    return done


def _resize(group: LocalGroup, size: int) -> list[Member]:
    """As the operator: whoever is beyond the size leaves, and each place below it that is empty is filled.

    A cohort that loses somebody before it is taken in never comes, so the rest of it leaves too.
    """
    coming = {index for index, member in group.members.items() if not member.steps.steps}
    leaving = {index for index in group.members if index >= size}
    given_up = {group.members[index].generation for index in leaving & coming}
    leaving |= {index for index in coming if group.members[index].generation in given_up}
    left = group.leave(*leaving)
    missing = [index for index in range(size) if index not in group.members]
    if missing:
        group.join(*missing)
    return left


def _kill(group: LocalGroup, choose: random.Random, done: Soak, among: list[int] | None = None) -> None:
    """SIGKILL one of these ranks, or any but rank 0."""
    group.kill(choose.choice(among or [index for index in group.members if index]))
    done.kill_times.append(time.monotonic())


def _wait_taken_in(group: LocalGroup) -> None:
    """Wait until all members train together."""
    wait(
        lambda: all(member.steps.steps for member in group.members.values()),
        what="taking all newcomers in",
        check=group.check,
    )
    group.wait_size(len(group.members), steps=2)


def _look_at(leader: Member, done: Soak) -> None:
    """Note the leader's memory in use, bytes, and its open files."""
    process = Path(f"/proc/{leader.process.pid}")
    pages = int((process / "statm").read_text().split()[1])
    done.memory.append(pages * os.sysconf("SC_PAGE_SIZE"))
    done.files.append(len(list((process / "fd").iterdir())))


def fixed(directory: Path, seed: int, epochs: int) -> list[dict[str, Any]]:
    """The training at a fixed size."""
    file = directory / "epochs"
    environ = {"BENCHMARK_EPOCHS": str(file)}
    with LocalGroup(MODULE, directory, config=config(seed, epochs=epochs), environ=environ) as group:
        group.join(*range(FIXED))
        group.wait_end(seconds=600)
    return _read(file)


def _read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def crashed(done: Soak) -> set[int]:
    """The epochs in which a rank was killed."""
    ends = [epoch["time"] for epoch in done.epochs]
    return {sum(end < kill for end in ends) for kill in done.kill_times}


def last(epochs: list[dict[str, Any]]) -> float:
    """The loss at the end: the mean of the last ten epochs, or of as many as there are."""
    return statistics.fmean(float(epoch["loss"]) for epoch in epochs[-10:])


def growth(memory: list[int]) -> tuple[float, float, float]:
    """Memory soon after the beginning and at the end, MiB, and the growth in percent."""
    early, late = memory[SETTLED : SETTLED + WINDOW], memory[-WINDOW:]
    first, end = statistics.median(early) / 2**20, statistics.median(late) / 2**20
    return first, end, 100 * (end / first - 1)


def main() -> None:
    print(describe_machine(torch=torch.__version__))
    print(
        f"{RESIZES} resizes between 1 and {LARGEST} processes over gloo, {KILLS} kills; "
        f"{soak.SAMPLES} samples, global batch {soak.BATCH}; load {os.getloadavg()[0]:.1f}; "
        "takes about seven minutes\n",
        flush=True,
    )
    with tempfile.TemporaryDirectory(prefix="elastic-soak-") as scratch:
        done = resized(Path(scratch) / "resized")
        runs = [fixed(Path(scratch) / f"fixed-{seed}", seed, len(done.epochs)) for seed in SEEDS]
    first, end, percent = growth(done.memory)
    with_crash = crashed(done)
    repeated = {epoch["epoch"]: int(epoch["repeated"]) for epoch in done.epochs}
    outside = sum(count for epoch, count in repeated.items() if epoch not in with_crash)
    lost = sum(int(epoch["lost"]) for epoch in done.epochs)
    print_table(
        ("training", "seed", "epochs", "final loss", "largest distance to the resized one"),
        [
            ("resized", str(SEEDS[0]), str(len(done.epochs)), f"{last(done.epochs):.4f}", ""),
            *(
                (
                    f"{FIXED} processes",
                    str(seed),
                    str(len(epochs)),
                    f"{last(epochs):.4f}",
                    f"{distance(done.epochs, epochs):.4f}",
                )
                for seed, epochs in zip(SEEDS, runs, strict=True)
            ),
        ],
    )
    noise = statistics.stdev(last(epochs) for epochs in runs)
    print(
        f"\n{done.resizes} resizes and {len(done.kill_times)} kills in {done.seconds:.0f} s; samples "
        f"lost {lost}, repeated {sum(repeated.values())}, of which {outside} outside of crashed epochs\n"
        f"rank 0: {first:.0f} MiB after {SETTLED} resizes, {end:.0f} MiB at the end; "
        f"{done.files[SETTLED]} open files, then {done.files[-1]}\n"
    )
    print_figures(
        "elastic_soak",
        {
            "resizes": done.resizes,
            "kills": len(done.kill_times),
            "samples_lost": lost,
            "samples_repeated_outside_crashes": outside,
            "memory_growth_percent": percent,
            "open_files_growth": done.files[-1] - done.files[SETTLED],
            "loss_difference": abs(last(done.epochs) - last(runs[0])),
            "loss_noise": noise,
        },
    )


def distance(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> float:
    """The largest distance between two loss curves."""
    return max(abs(float(a["loss"]) - float(b["loss"])) for a, b in zip(one, other, strict=True))


if __name__ == "__main__":
    main()
