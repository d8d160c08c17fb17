"""Why each rank has the share that it has, and which layers train: as data, in words, and as pictures.

The data is one JSON object; every process serves it at ``/allocation`` of its metrics port. The picture of
the ranks shows the same in four parts: what attention saw, how the ranks looked at each other, how the job's
demand looked at them, and the shares that came of it. That of the layers, where a job has a budget for them,
shows the attention that each got over the training, and where the cut was. They need matplotlib::

    curl -s POD:9090/allocation > allocation.json
    python -m cra_trainer.allocation.explain allocation.json ranks.png
    python -m cra_trainer.allocation.explain --layers allocation.json layers.png
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cra_trainer.allocation.shares import Floats, Ints
from cra_trainer.allocation.strategies import DEMAND, FEATURES, Allocation, Matrices, Nodes

# Below this a deviation from the ordinary is not worth a word.
NOTABLE = 0.05


def explain(
    nodes: Nodes,
    allocation: Allocation,
    rows: Ints,
    *,
    measured: Floats,
    stragglers: Any,
    matrices: Matrices | None,
    advantage: float,
) -> dict[str, Any]:
    """The plan as plain values.

    Args:
        nodes: What is known of the ranks now.
        allocation: The split by which the present plan was made.
        rows: Whole rows of each rank in a full batch, [n].
        measured: Samples per second of each rank, [n], 0 where unknown.
        stragglers: Which ranks are slow for good, [n] of bool.
        matrices: What attention looks at, if the strategy has attention.
        advantage: Part of a step's time that the scores save.
    """
    scores = np.zeros(len(rows)) if allocation.scores is None else allocation.scores
    ranks = []
    for i in range(len(rows)):
        most = float(nodes.most[i])
        ranks.append(
            {
                "rank": i,
                "rows": int(rows[i]),
                "share": _rounded(rows[i] / rows.sum()),
                "weight": _rounded(allocation.weights[i]),
                "score": _rounded(scores[i]),
                "samplesPerSecond": _rounded(measured[i]) if measured[i] > 0 else None,
                "largestShare": _rounded(most) if most < 1 else None,
                "straggler": bool(stragglers[i]),
                "features": dict(zip(FEATURES, map(_rounded, nodes.features[i]), strict=True)),
                "reason": _reason(i, nodes, scores, rows, measured, bool(stragglers[i])),
            }
        )
    told: dict[str, Any] = {
        "batchSize": int(rows.sum()),
        "demand": dict(zip(DEMAND, map(_rounded, nodes.demand), strict=True)),
        "ranks": ranks,
    }
    if matrices is not None:
        told["attention"] = {
            "among": np.round(matrices.among, 4).tolist(),
            "towards": np.round(matrices.towards, 4).tolist(),
            "savesPercent": _rounded(100 * advantage),
            "used": bool(scores.any()),
        }
    return told


def _reason(rank: int, nodes: Nodes, scores: Floats, rows: Ints, measured: Floats, straggler: bool) -> str:
    """One sentence on a rank's share."""
    if not (measured > 0).all():
        return "not all ranks have been measured: the split is the strategy's first one"
    _, variation, room, waiting, _ = nodes.features[rank]
    parts = [f"computes {measured[rank] / np.median(measured):.2f} times what the median rank does"]
    if variation > NOTABLE:
        parts.append(f"its time varies by {variation:.0%}")
    if waiting > NOTABLE:
        parts.append(f"waits for others {waiting:.0%} of a step")
    if abs(np.expm1(scores[rank])) > NOTABLE / 5:
        parts.append(f"attention weighs it {np.expm1(scores[rank]):+.0%}")
    if nodes.most[rank] < 1 and rows[rank] >= np.floor(nodes.most[rank] * rows.sum()):
        parts.append(f"its memory ({room:.0%} left) holds no more")
    if straggler:
        parts.append("is slow for good")
    return "; ".join(parts)


def _rounded(value: Any) -> float:
    return round(float(value), 6)


def draw(told: Mapping[str, Any], path: str | Path) -> None:
    """Draw what `explain` told into an image file.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The strategy has no attention to draw.
    """
    from matplotlib.figure import Figure

    if "attention" not in told:
        raise ValueError("attention: this job's strategy has none; there is nothing to draw")
    ranks = told["ranks"]
    names = [str(one["rank"]) for one in ranks]
    features = np.array([[one["features"][name] for name in FEATURES] for one in ranks])
    among = np.array(told["attention"]["among"]).mean(axis=0)
    towards = np.array(told["attention"]["towards"])
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    seen, looks, demand, split = figure.subplots(1, 4, width_ratios=(1.2, 1, 1, 1.3))
    image = seen.imshow(features, cmap="coolwarm", vmin=-1, vmax=1, aspect="auto")
    seen.set_xticks(range(len(FEATURES)), FEATURES, rotation=40, ha="right")
    seen.set(title="what attention sees", ylabel="rank")
    seen.set_yticks(range(len(names)), names)
    figure.colorbar(image, ax=seen)
    for axes, matrix, title, xlabel in (
        (looks, among, "how ranks look at each other", "at rank"),
        (demand, towards, "how the demand looks at them", "at rank"),
    ):
        image = axes.imshow(matrix, cmap="viridis", vmin=0, aspect="auto")
        axes.set_xticks(range(len(names)), names)
        axes.set(title=title, xlabel=xlabel)
        figure.colorbar(image, ax=axes)
    looks.set_ylabel("rank (mean of heads)")
    demand.set_ylabel("head")
    demand.set_yticks(range(len(towards)))
    speed = np.array([one["samplesPerSecond"] or 0.0 for one in ranks])
    place = np.arange(len(names))
    by_speed = speed / speed.sum() if speed.sum() else np.full(len(names), 1 / len(names))
    split.bar(place - 0.2, by_speed, width=0.4, label="by speed alone")
    split.bar(place + 0.2, [one["share"] for one in ranks], width=0.4, label="share")
    split.set_xticks(place, names)
    split.set(title="shares", xlabel="rank")
    split.legend()
    figure.savefig(path, dpi=110)


def draw_layers(told: Mapping[str, Any], path: str | Path) -> None:
    """Draw what `LayerCut.explain` told into an image file.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: The job has no budget for layers, or nothing was decided yet.
    """
    from matplotlib.figure import Figure

    decisions = told.get("layers", {}).get("decisions")
    if not decisions:
        raise ValueError("layers: nothing was decided; a job decides with allocator.layers.computeBudget < 1")
    names, cost = told["layers"]["blocks"], np.array(told["layers"]["cost"])
    attention = np.array([one["attention"] for one in decisions]).T
    starts = [one["progress"] for one in decisions]
    figure = Figure(figsize=(9, 0.32 * len(names) + 1.6), layout="constrained")
    seen, price = figure.subplots(1, 2, width_ratios=(4, 1), sharey=True)
    edges = np.arange(len(names) + 1) - 0.5
    image = seen.pcolormesh([*starts, 1.0], edges, attention, cmap="viridis", vmin=0)
    cuts = [one["cut"] - 0.5 for one in decisions]
    seen.step(
        [*starts, 1.0], [*cuts, cuts[-1]], where="post", color="red", label="cut: frozen above the line"
    )
    seen.set_yticks(range(len(names)), names)
    seen.set(title="attention to each block", xlabel="part of the training that is done", xlim=(0, 1))
    seen.invert_yaxis()
    seen.legend(loc="lower left")
    figure.colorbar(image, ax=seen)
    price.barh(range(len(names)), cost)
    price.set(title="its part of the cost", xlabel="of a forward pass")
    figure.savefig(path, dpi=110)


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(prog="python -m cra_trainer.allocation.explain")
    parser.add_argument("source", help="what /allocation said, or - for standard input")
    parser.add_argument("target", help="the image file to write")
    parser.add_argument("--layers", action="store_true", help="draw the layers instead of the ranks")
    options = parser.parse_args()
    text = sys.stdin.read() if options.source == "-" else Path(options.source).read_text(encoding="utf-8")
    (draw_layers if options.layers else draw)(json.loads(text), options.target)


if __name__ == "__main__":
    main()
