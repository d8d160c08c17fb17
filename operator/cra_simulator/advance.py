"""One tick of every job, compiled.

The semantics are those of the simulator of the Pollux artifact (OSDI'21; petuum/adaptdl, branch
osdi21-artifact): a job that changed its GPUs first waits; an epoch ends on a whole second; a job that ends in
the middle of a tick is counted to the second, but its GPUs stay idle until the tick is over.
"""

from __future__ import annotations

import numpy as np

from cra_operator.controller.policy import Floats, Ints
from cra_simulator.compiled import kernel


@kernel
def advance(
    now: float,
    seconds: float,
    table: Ints,
    running: Ints,
    gpus: Ints,
    epoch: Ints,
    progress: Floats,
    pause_left: Floats,
    attained: Floats,
    limit: Ints,
    ends: Floats,
    epochs: Ints,
    true_rate: Floats,
    most: Ints,
    finished: Floats,
    turned: Ints,
) -> tuple[int, int]:
    """Let every job run from `now` for some seconds.

    Args:
        now: When the tick begins.
        seconds: How long it is.
        table: Table of each job, [J].
        running: Row of `true_rate` by which each job runs, [J]; -1 for none.
        gpus: GPUs that each job has, [J].
        epoch: Its epoch, [J]; changed in place, as are the next four.
        progress: Its progress, [J].
        pause_left: Seconds until it goes on, [J].
        attained: GPU-seconds it has held, [J].
        limit: Most GPUs it may be given, [J].
        ends: Progress at the end of each epoch by table, [A, E].
        epochs: Epochs by table, [A].
        true_rate: Progress/s in each epoch, [R, E].
        most: Most GPUs that it can ever use, [J].
        finished: Set to the time at which a job ended, [J]; left alone otherwise.
        turned: Set to 1 for jobs that began another epoch, [J], to 0 for the others.

    Returns:
        How many jobs ended, and how many epochs.
    """
    ended, turns = 0, 0
    for j in range(len(table)):
        turned[j] = 0
        if running[j] < 0:
            continue
        wait = min(pause_left[j], seconds)
        pause_left[j] -= wait
        attained[j] += wait * gpus[j]
        left = seconds - wait
        if left > 0:
            limit[j] = max(limit[j], min(2 * gpus[j], most[j]))
        while left > 0:
            rate = true_rate[running[j], epoch[j]]
            end = ends[table[j], epoch[j]]
            if progress[j] + rate * left < end:
                progress[j] += rate * left
                attained[j] += left * gpus[j]
                break
            used = min(np.round((end - progress[j]) / rate), left)
            progress[j] = end
            attained[j] += used * gpus[j]
            left -= used
            epoch[j] += 1
            turned[j] = 1
            turns += 1
            if epoch[j] == epochs[table[j]]:
                finished[j] = now + seconds - left
                ended += 1
                break
    return ended, turns
