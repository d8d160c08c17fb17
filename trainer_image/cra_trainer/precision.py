"""float16 in a session: a loss that is scaled up, so that small gradients do not vanish in it.

`torch.amp.GradScaler` does the work; here is where in a step each part of it belongs. Gradients add up over
the pieces of a batch and are reduced as they are, scaled; only then are they scaled down, so what the script,
clipping and the measurement of noise see is the true gradient. An overflow on one rank is in the reduced
gradient, so all ranks find it, pass over the step and lower the scale alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Scaling:
    """The script's scaler and the optimizer whose steps it decides on."""

    scaler: torch.amp.GradScaler
    optimizer: torch.optim.Optimizer

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to go backward from."""
        return self.scaler.scale(loss)

    def unscale(self) -> Tensor:
        """Scale the reduced gradients down; returns the factor."""
        self.scaler.unscale_(self.optimizer)
        return self.scaler.scale(torch.ones((), device=self._device)).reciprocal()

    def step(self) -> bool:
        """Take the optimizer's step unless a gradient is infinite or no number; returns whether it did."""
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return self.scaler.get_scale() >= before

    @property
    def _device(self) -> torch.device:
        parameter: Tensor = self.optimizer.param_groups[0]["params"][0]
        return parameter.device
