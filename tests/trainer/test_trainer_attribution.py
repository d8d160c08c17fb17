"""A person can see what in a sample spoke for an answer."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from cra_trainer.attribution import attribute


def test_attributions_sum_to_what_the_answer_is_above_the_baselines() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 32), nn.Tanh(), nn.Dropout(0.5), nn.Linear(32, 3))
    images, classes = torch.randn(5, 1, 4, 4), torch.tensor([0, 2, 1, 1, 0])
    with torch.no_grad():
        found = attribute(model, images, classes)
    assert model.training
    model.eval()
    rows = torch.arange(5)
    above = (model(images) - model(torch.zeros_like(images)))[rows, classes]
    assert found.shape == images.shape
    assert found.sum(dim=(1, 2, 3)).tolist() == pytest.approx(above.tolist(), abs=1e-2)


def test_what_the_model_does_not_look_at_speaks_for_nothing() -> None:
    class First(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.stack((x[:, 0], -x[:, 0]), dim=1)

    found = attribute(First(), torch.tensor([[2.0, 7.0]]), torch.tensor([1]))
    assert found.tolist() == [pytest.approx([-2.0, 0.0])]
