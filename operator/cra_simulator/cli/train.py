"""`cra-sim train`: learn a policy in the simulator."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from cra_simulator.errors import DataError


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "train",
        help="train a policy on the training workloads",
        description="Train a policy on the training workloads. Checkpoints, TensorBoard logs and weights go "
        "to a folder; a run that was interrupted goes on from there.",
    )
    parser.add_argument("learner", help="q-learning, sarsa, double-dqn, ppo, a3c or evolution")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where everything goes")
    parser.add_argument("--seed", type=int, help="of what is left to chance (that of what is shipped)")
    parser.add_argument("--steps", type=int, metavar="N", help="steps at most (as many as `make train`)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Run the command.

    Raises:
        DataError: There is no such learner, or what training needs is not installed.
    """
    try:
        # NB: torch takes seconds to import and is in no image that only simulates.
        from cra_simulator.learning.everything import ship
        from cra_simulator.learning.recipes import BUDGETS, SEED, make
        from cra_simulator.learning.train import train
        from cra_simulator.learning.worlds import pollux_curriculum
    except ImportError as error:
        raise DataError(f"training needs {error.name}: pip install 'cra[learn]'") from None
    if arguments.learner not in BUDGETS:
        raise DataError(f"there is no learner {arguments.learner!r}; there are {', '.join(BUDGETS)}")
    budget = BUDGETS[arguments.learner]
    if arguments.steps is not None:
        budget = replace(budget, steps=arguments.steps)
    seed = SEED if arguments.seed is None else arguments.seed
    trained = train(
        lambda: make(arguments.learner, seed, pollux_curriculum()),
        budget,
        arguments.out,
        report=lambda line: print(line, flush=True),
    )
    ship({arguments.learner: trained}, arguments.out / "weights")
    print(
        f"score {trained.first_score:.4f} before, {trained.score:.4f} after {trained.episodes:.0f} episodes"
    )
