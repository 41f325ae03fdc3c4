"""Jobs that differ in numbers are copies of one that Hydra composed, and ask for what Hydra would ask for.

So do those that choose the same files, which are put together once.
"""

import pytest
from hydra.errors import HydraException
from omegaconf import OmegaConf

from trainer.command.composing import composer
from trainer.command.folders import config_folders
from trainer.command.reading import hydra_at
from trainer.command.words import sorted_words
from trainer.config import compose
from trainer.config.shipped import CONFIGS

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
    composed, by_hydra = [], compose._by_hydra
    monkeypatch.setattr(compose, "_by_hydra", lambda *words: composed.append(words) or by_hydra(*words))
    jobs = jobs_of(["model=two_layer,lenet", "optimizer.lr=0.1,0.2,0.3", "seed=range(0,5)"])
    assert len({config for config, _, _ in jobs}) == 30
    assert len(composed) == 2


@pytest.mark.parametrize(
    "words",
    [
        "optimizer=sgd optimizer.lr=0.1 ++optimizer.lr_times={head:2} name=try${seed}",
        "~scheduler metric=[f1,auroc] +metric.mine={_target_:mine.M} seed=${oc.decode:'3'} gradient={clip_norm:1}",
        "+optimizer@other=adam other.lr=3 ~max_time run_dir=runs/${hydra.job.override_dirname}",
        "loss=composite ++loss.terms.a={weight:${batch_size}} trust=[mine] trust=[yours]",
        "experiment=mine seed=7",
        "--config-name=more experiment=mine more=own_group optimizer.lr=7",
        "optimizer.rate=0.1 optimizer=sgd",
        "optimizer=sdg optimizer.lr=0.1",
        "model@x.y=1",
        "seed.more=1",
        "seed=1,2",
        "++optimizer=sgd seed=1",
        "model=mine optimizer=sgd monitor=off optimizer.lr=3 loss=nll",
        "model=mine_of_another seed=1",
        "--config-name=more optimizer=sgd",
        *(
            pytest.param(f"{path.parent.name}={path.stem}", marks=pytest.mark.slow)
            for path in sorted(CONFIGS.glob("[dlmos]*/*.yaml"))
        ),
    ],
)
def test_files_that_were_put_together_before_are_composed_as_hydra_does(words, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text(
        "defaults: [override /optimizer: sgd]\noptimizer: {lr: 0.5}\nmax_epochs: ${seed}\n"
    )
    (tmp_path / "model").mkdir()
    (tmp_path / "model/mine.yaml").write_text("_target_: torch.nn.Linear\nin_features: ${seed}\n")
    (tmp_path / "model/mine_of_another.yaml").write_text("defaults: [two_layer]\nhidden_features: 3\n")
    elsewhere = tmp_path / "elsewhere/more"
    elsewhere.mkdir(parents=True)
    (elsewhere / "own_group.yaml").write_text("# @package _global_\nseed: 5\n")
    (tmp_path / "more.yaml").write_text(
        f"defaults: [train, more: own_group, _self_]\nhydra: {{searchpath: ['{elsewhere.parent}']}}\nmodel: {{a: 1}}\n"
    )
    argv = [f"--config-dir={tmp_path}", *words.split()]

    def composed(way):
        try:
            config, choices = way("more" if "--config-name=more" in argv else "train", overrides)
        except (HydraException, ValueError) as error:
            return f"{type(error).__name__}: {error} {error.__cause__!r}"
        plain = OmegaConf.to_container(config)
        plain.pop("hydra", None)
        return repr(plain), choices

    overrides = [word for word in argv if not word.startswith("--")]
    with hydra_at(config_folders(argv)):
        wanted = composed(compose._whole)
        assert [composed(compose._by_hydra) for _ in range(2)] == [wanted, wanted]
