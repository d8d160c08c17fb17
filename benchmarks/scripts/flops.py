"""Run a workload and count its floating-point operations: what it trains, without what it evaluates.

python -m benchmarks.scripts.flops cra_trainer.workloads.fine_tune
"""

import importlib
import sys

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cra_trainer import Session
from cra_trainer.data import MapDataset
from cra_trainer.workloads import images


def main(module: str) -> int:
    """Returns how many operations the training took, forward and backward."""
    evaluate, evaluated = images.evaluate, FlopCounterMode(display=False)
    counted = 0

    def apart(session: Session, model: nn.Module, test: MapDataset, classes: list[str]) -> None:
        nonlocal counted
        with evaluated:
            evaluate(session, model, test, classes)
        counted += evaluated.get_total_flops()

    images.evaluate = apart
    with FlopCounterMode(display=False) as everything:
        importlib.import_module(module).main()
    return int(everything.get_total_flops()) - counted


if __name__ == "__main__":
    print(main(sys.argv[1]))
