"""A model of a user's that does something bad in the midst of a training."""

MOODS = '''
import os, signal, torch
from trainer.models.two_layer import TwoLayer

class Moody(TwoLayer):
    """Does something bad at its tenth step, unless it is fine."""
    def __init__(self, in_features, out_features, mood="fine"):
        super().__init__(in_features=in_features, out_features=out_features, hidden_features=8)
        self.mood, self.steps = mood, 0

    def forward(self, inputs):
        self.steps += self.training
        if self.steps == 10 and not os.path.exists("good"):
            if self.mood == "raises":
                raise ArithmeticError("it is Monday")
            if self.mood == "exits":
                os._exit(0)
            if self.mood == "is_killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.mood == "diverges":
                return super().forward(inputs) * float("nan")
        return super().forward(inputs)
'''
