"""What a GPU's own sensors tell, and that nothing is told and nothing breaks where there are none."""

import torch

from cra_trainer.gpu import Sensors, look


def test_a_cpu_has_no_such_sensors() -> None:
    assert look(torch.device("cpu")) == Sensors()


def test_a_gpu_tells_how_busy_drawing_and_hot_it_is_and_one_that_is_not_there_tells_nothing() -> None:
    told = look(torch.device("cuda", 0))
    if not torch.cuda.is_available():
        assert told == Sensors()
        return
    assert told.utilization is not None
    assert told.watts is not None
    assert told.celsius is not None
    assert 0 <= told.utilization <= 1
    assert 1 < told.watts < 3000
    assert 0 < told.celsius < 120
