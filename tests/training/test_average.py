"""WeightAverage: the closed form of a running mean, and weights that come back."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from turnrl.training.learner.average import WeightAverage


def test_it_is_the_exponential_mean_and_training_goes_on_from_the_weights() -> None:
    model = nn.Linear(2, 1, bias=False)
    model.register_parameter("frozen", nn.Parameter(torch.ones(1), requires_grad=False))
    with torch.no_grad():
        model.weight.fill_(8.0)
    average = WeightAverage(model, 0.75)
    for value in (4.0, 0.0):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update()
    with average.applied():
        assert model.weight.tolist() == [[5.25, 5.25]]
    assert model.weight.tolist() == [[0.0, 0.0]]
    with pytest.raises(RuntimeError, match="inside"), average.applied():
        raise RuntimeError("inside")
    assert model.weight.tolist() == [[0.0, 0.0]]

    other = WeightAverage(model, 0.75)
    other.load_state_dict(average.state_dict())
    assert len(other.state_dict()) == 1, "what is not trained is not kept twice"
    with other.applied():
        assert model.weight.tolist() == [[5.25, 5.25]]


def test_without_decay_it_is_the_last_weights_exactly() -> None:
    model = nn.Linear(3, 3)
    average = WeightAverage(model, 0.0)
    with torch.no_grad():
        model.weight.normal_()
    average.update()
    expected = model.weight.detach().clone()
    with average.applied():
        assert torch.equal(model.weight, expected)
