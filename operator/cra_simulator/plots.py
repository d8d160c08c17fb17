"""Pictures of runs, as PNG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from cra_operator.controller.policy import Floats
from cra_simulator.recording import Span

Curve = tuple[Floats, Floats]
"""Steps and values, [N] each."""


def draw_gantt(panels: Mapping[str, Sequence[Span]], path: Path) -> None:
    """Draw the GPUs of each job over time, a panel for each policy.

    A line for each job, first submitted on top; the darker, the more GPUs; grey while it waits.

    Args:
        panels: The lives of all jobs by title.
        path: Where the picture goes.
    """
    most = max((span.gpus for lives in panels.values() for span in lives), default=1)
    colours = mpl.colormaps["viridis_r"]
    norm = mpl.colors.LogNorm(1, max(most, 2))
    figure = Figure(figsize=(5.0 * len(panels) + 0.8, 4.2), layout="constrained")
    axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (title, lives) in zip(axes, panels.items(), strict=True):
        for waits in (True, False):
            shown = [span for span in lives if (span.gpus == 0) == waits]
            axis.barh(
                [span.job for span in shown],
                [(span.end - span.start) / 3600 for span in shown],
                left=[span.start / 3600 for span in shown],
                height=0.4 if waits else 1.0,
                color="0.85" if waits else colours(norm([span.gpus for span in shown])),
                linewidth=0,
            )
        axis.set(title=title, xlabel="hours")
        axis.margins(x=0)
    axes[0].set_ylabel("job, in order of submission")
    axes[0].invert_yaxis()
    bar = figure.colorbar(mpl.cm.ScalarMappable(norm, colours), ax=axes, label="GPUs")
    ticks = [2**i for i in range(int(np.log2(max(most, 2))) + 1)]
    bar.set_ticks(ticks, labels=[str(tick) for tick in ticks])
    bar.minorticks_off()
    figure.savefig(path, dpi=80)


def draw_completion(seconds: Mapping[str, Floats], path: Path) -> None:
    """Draw the distribution of job completion times of several policies.

    Args:
        seconds: Completion times by policy.
        path: Where the picture goes.
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axis = figure.subplots()
    for name, times in seconds.items():
        axis.ecdf(times / 60, label=f"{name} (mean {times.mean() / 60:.0f} min)")
    axis.set(xscale="log", xlabel="job completion time, minutes", ylabel="part of the jobs")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=80)


def draw_curves(curves: Mapping[str, Curve], label: str, path: Path) -> None:
    """Draw learning curves.

    Args:
        curves: By run.
        label: What the values are.
        path: Where the picture goes.
    """
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axis = figure.subplots()
    for name, (steps, values) in curves.items():
        axis.plot(steps, values, label=name, linewidth=1)
    axis.set(xlabel="step", ylabel=label)
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=80)
