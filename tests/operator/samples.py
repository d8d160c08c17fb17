"""Samples of one job's two pods, as Prometheus answers them."""

from cra_operator.api import JobKey
from cra_operator.controller.prometheus import Sample
from cra_operator.controller.signals import queries
from tests.operator.operator_world import make_pod

KEY: JobKey = ("default", "digits")
PODS = [make_pod(0), make_pod(1)]
QUERIES = queries({})
(TRAINERS,) = QUERIES.trainers


def trainer(metric: str, value: float, rank: int = 0, **labels: str) -> Sample:
    base = {"__name__": f"cra_trainer_{metric}", "namespace": "default", "pod": f"digits-1-{rank}"}
    return Sample(labels={**base, "rank": str(rank), **labels}, value=value)


PACE = [
    trainer("batch_size", 64),
    trainer("samples_per_second", 160),
    trainer("world_size", 2),
    trainer("world_size", 2, rank=1),
]
