"""`make train`: train every learner as its recipe says and write weights as they are shipped.

What was trained already, or in part, in the same folder is gone on from. Of the learners of the attention
network the one with the best validation score becomes the policy `attention`; PPO's is always `ppo`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from cra_operator.controller.policies.goodput import TUNED
from cra_operator.controller.policies.store import numbers_of, write
from cra_simulator.learning.recipes import BUDGETS, CHOOSERS, LEAST_LOAD, MOST_LOAD, NETWORKS, SEED, make
from cra_simulator.learning.train import Trained, train
from cra_simulator.learning.worlds import pollux_curriculum


def main(argv: Sequence[str] | None = None) -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(prog="python -m cra_simulator.learning.everything", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for checkpoints and logs")
    parser.add_argument("--weights", type=Path, required=True, metavar="DIR", help="for the weights")
    parser.add_argument("--seed", type=int, default=SEED, help=f"of everything ({SEED})")
    parser.add_argument("--only", nargs="+", choices=tuple(BUDGETS), default=tuple(BUDGETS), help="learners")
    arguments = parser.parse_args(argv)
    curriculum = pollux_curriculum()
    found: dict[str, Trained] = {}
    for name in arguments.only:
        print(name, flush=True)
        found[name] = train(
            partial(make, name, arguments.seed, curriculum),
            BUDGETS[name],
            arguments.out / name,
            report=lambda line: print(f"  {line}", flush=True),
        )
    print(json.dumps(ship(found, arguments.weights), indent=2))


def ship(found: Mapping[str, Trained], folder: Path) -> dict[str, dict[str, object]]:
    """Write the weights of what was trained; returns what a model card says of each."""
    shipped = {name: name for name in found if name in CHOOSERS or name == "ppo"}
    networks = [name for name in NETWORKS if name in found]
    if networks:
        shipped["attention"] = min(networks, key=lambda name: found[name].score)
    told: dict[str, dict[str, object]] = {}
    for policy, learner in shipped.items():
        trained = found[learner]
        numbers = {} if learner in CHOOSERS else numbers_of(TUNED, LEAST_LOAD, MOST_LOAD)
        told[policy] = {
            "learner": learner,
            "score before": round(trained.first_score, 4),
            "score": round(trained.score, 4),
            "steps": trained.steps,
            "episodes": round(trained.episodes),
            "cpu seconds": round(trained.seconds),
            "sha256": write(folder, policy, trained.tensors, numbers),
        }
    return told


if __name__ == "__main__":
    main()
