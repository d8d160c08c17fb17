"""What in a sample spoke for an answer: integrated gradients, by captum (`pip install 'cra[explain]'`).

    attribution(x)_i = (x_i - b_i) * integral over a in [0, 1] of dF(b + a (x - b)) / dx_i

F is the model's output for a class and b a baseline that says nothing. Over all i they sum to F(x) - F(b)
(Sundararajan, Taly and Yan, *Axiomatic Attribution for Deep Networks*, ICML 2017).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def attribute(
    model: nn.Module, inputs: Tensor, classes: Tensor, *, baseline: Tensor | float = 0.0, steps: int = 50
) -> Tensor:
    """How much each value of each sample spoke for a class.

    Args:
        model: Gives [B, C]; as prepared by a session or not. It is put into evaluation mode and back.
        inputs: Samples, [B, ...], of a floating type.
        classes: The class of each sample that is asked about, [B].
        baseline: What says nothing: a number, or a tensor like `inputs`.
        steps: Of the integral.

    Returns:
        Attributions, shaped as `inputs`, in units of the model's output.

    Raises:
        ImportError: captum is not installed.
    """
    from captum.attr import IntegratedGradients

    training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            found: Tensor = IntegratedGradients(model).attribute(
                inputs, baselines=baseline, target=classes, n_steps=steps, internal_batch_size=len(inputs)
            )
    finally:
        model.train(training)
    return found.detach()
