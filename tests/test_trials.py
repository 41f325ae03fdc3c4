"""A trial leaves nothing behind, wherever a class keeps what it changes."""

import torch
from torch import Tensor, nn

from trainer.trials import undisturbed

CPU = torch.device("cpu")


class Keeps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))
        self.register_buffer("added", torch.zeros(()))
        self.register_buffer("assigned", torch.zeros(()))
        self.register_buffer("made", None)
        self.tensor, self.number, self.names, self.counts = torch.zeros(()), 0, ["a"], {"a": 0}

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            self.weight += 1
        self.added += 1
        self.assigned = self.assigned + 1
        self.made = self.tensor = self.tensor + 1
        self.number += 1
        self.names.append("b")
        self.counts["a"] += 1
        self.cached = inputs
        return inputs * self.weight


class MakesLayers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.is_made = None, False

    def forward(self, inputs: Tensor) -> Tensor:
        if not self.is_made:
            self.layer, self.is_made = nn.Linear(2, 3), True
        assert self.layer is not None
        found: Tensor = self.layer(inputs)
        return found


def test_of_a_model_and_a_loss() -> None:
    model, loss = Keeps(), Keeps()
    names = model.names
    with undisturbed(model, CPU, is_training=True, loss=loss):
        loss(model(torch.ones(2)))
        assert model.number == loss.number == 1
        assert loss.training
    for module in (model, loss):
        assert module.state_dict().keys() == {"weight", "added", "assigned"}
        assert [x.tolist() for x in module.state_dict().values()] == [[1, 1], 0, 0]
        assert (module.tensor, module.number, module.names, module.counts) == (0, 0, ["a"], {"a": 0})
        assert module.made is None
        assert not hasattr(module, "cached")
    assert model.names is names


def test_layers_that_it_makes_stay_and_so_does_what_says_so() -> None:
    model = MakesLayers()
    with undisturbed(model, CPU):
        model(torch.ones(2))
    layer = model.layer
    model(torch.ones(2))
    assert layer is not None
    assert model.layer is layer
