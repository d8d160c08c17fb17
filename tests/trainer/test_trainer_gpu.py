"""What a GPU's own sensors tell, and that nothing is told and nothing breaks where there are none."""

import pytest
import torch

from cra_trainer.gpu import Sensors, look

GPU = torch.cuda.is_available()


def test_a_cpu_has_no_such_sensors() -> None:
    assert look(torch.device("cpu")) == Sensors()


@pytest.mark.skipif(GPU, reason="there is a GPU")
def test_without_nvml_nothing_is_told_and_nothing_breaks() -> None:
    assert look(torch.device("cuda", 0)) == Sensors()


@pytest.mark.skipif(not GPU, reason="needs a GPU")
def test_a_gpu_tells_how_busy_it_is_what_it_draws_and_how_hot_it_is() -> None:
    told = look(torch.device("cuda", 0))
    assert told.utilization is not None
    assert told.watts is not None
    assert told.celsius is not None
    assert 0 <= told.utilization <= 1
    assert 1 < told.watts < 3000
    assert 0 < told.celsius < 120
