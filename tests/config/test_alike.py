"""Jobs that differ in numbers are copies of one that Hydra composed, and ask for what Hydra would ask for."""

import pytest

from trainer.command.composing import composer
from trainer.command.words import sorted_words
from trainer.config import compose

SWEEPS = [
    "model=two_layer optimizer.lr=0.1,1 deterministic=true",
    "name=try${seed} seed=0,1",
    "seed=0,1 optimizer.lr=0.1 optimizer.lr=0.2",
    "max_steps=1e2,100.5",
]
MORE = [
    "model=two_layer optimizer.lr=0.1,1,1e-3,.5 seed=0,1",
    "name=${oc.env:USER,nobody} seed=0,1",
    "optimizer=sgd,adam optimizer.lr=0.1,0.2 model.dropout=0,0.5",
    "seed=0,1 deterministic=true,false early_stopping.patience=null,3 model.init=normal,xavier",
    "experiment=seed_two_layer,lenet_digits seed=range(0,3)",
    "model._target_=torch.nn.Linear model.in_features=64 model.out_features=10,11",
    "data.folds=3 data.fold=0,1,2",
    "max_steps=100,100.5 batch_size=full,64",
    "scheduler=cosine,warmup_cosine optimizer.lr=0.1,0.2 optimizer.weight_decay=0,${optimizer.lr}",
]


def jobs_of(words: list[str]) -> list[tuple[str, dict[str, str], list[str]]]:
    argv = ["--multirun", *words]
    with composer(argv, sorted_words(argv)) as made:
        return [(repr(job.config), job.choices, job.overrides) for job in made.jobs()]


@pytest.mark.parametrize("sweep", [*SWEEPS, *(pytest.param(sweep, marks=pytest.mark.long) for sweep in MORE)])
def test_jobs_ask_for_what_hydra_composes(sweep, monkeypatch):
    jobs = jobs_of(sweep.split())
    monkeypatch.setattr(compose, "_number", lambda word: None)  # so none is a copy
    assert jobs == jobs_of(sweep.split())


def test_hydra_composes_jobs_that_differ_in_numbers_once(monkeypatch):
    composed, hydra = [], compose.compose
    monkeypatch.setattr(compose, "compose", lambda *words, **how: composed.append(words) or hydra(*words, **how))
    jobs = jobs_of(["model=two_layer,lenet", "optimizer.lr=0.1,0.2,0.3", "seed=range(0,5)"])
    assert len({config for config, _, _ in jobs}) == 30
    assert len(composed) == 2
