"""What each key of the config accepts, as one table to read; and the one line about what it does not accept."""

import copy
import functools
import math
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from yaml import YAMLError

from trainer.config.schema import (
    GROUPS,
    RULES,
    SECTIONS,
    Choice,
    ListOf,
    Number,
    Text,
    check,
    is_larger_better,
    leaves,
    shown,
    unknown_key,
    yaml_problem,
)
from trainer.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
INF, NAN = float("inf"), float("nan")

# key: (values that are accepted, values that are refused)
TABLE: dict[str, tuple[list[Any], list[Any]]] = {
    "max_steps": ([1, 500, None], [0, -1, 1.5, "many", True, [1]]),
    "max_epochs": ([1, None], [0, 0.5, "all"]),
    "batch_size": ([1, 64, "full", "auto"], [0, -64, None, "Full", 64.0, True]),
    "eval_every": ([1, None], [0, "epoch"]),
    "seed": ([0, 2**32 - 1], [-1, 2**32, None, 0.0, 10**400]),
    "device": (["auto", "cpu", "cuda", "cuda:1", "mps"], ["gpu", "cuda:", "cuda1", "CPU", "", 0, None]),
    "precision": (["float32", "bfloat16", "float16"], ["half", "float64", 16, None]),
    "dtype": (["float32", "float64"], ["float16", "double", None]),
    "compile": ([True, False], ["yes", 1, None]),
    "fast": ([True, False], ["no", 0, None]),
    "channels_last": ([True, False], ["no", 1, None]),
    "cuda_graphs": ([True, False], ["no", 1, None]),
    "cache_limit": ([0, 1000, 1e9, "500MB", "1.5 GB"], ["4 gigabytes", "-1", -1, None, True, "1e9GB", [1]]),
    "deterministic": ([True, False], [0]),
    "threads": ([1, 8, 1024, None, "auto"], [0, -1, 1025, "all"]),
    "on_nan": (["stop", "skip"], ["ignore", None, True]),
    "name": (
        ["try1", "a/b", "lr=0.1,seed=3", "2026-01-01", "v1.0", "größer", 7, None],
        ["", "..", "../up", "a/../b", "a/.", "/root", "a//b", "a/", "a b", "a;b", "$(x)", "a\nb", "~", "x" * 201, True],
    ),
    "run_dir": (["/tmp/x", "../x", "a b", None], ["", ["x"]]),
    "resume": (["runs/try1", "auto", None], ["", False]),
    "trust": (
        [[], ["mypackage"], ["a.b", "_c"]],
        ["mypackage", ["../x"], [""], ["a-b"], ["a."], [".a"], ["1a"], [None], [["a"]], None],
    ),
    "gradient.clip_norm": ([0.1, 1, None], [0, -1, INF, NAN, "no"]),
    "gradient.clip_value": ([0.1, None], [0.0, True]),
    "gradient.checkpoint": ([True, False, ["layer1"]], ["layer1", 1, None, [""]]),
    "gradient.accumulate": ([1, 4], [0, 2.0, None]),
    "checkpoint.every": ([1, 1000, None], [0, "never"]),
    "checkpoint.every_epochs": ([1, 5, None], [0, 0.5]),
    "checkpoint.every_minutes": ([0.5, 10, None], [0, -1, "10 min"]),
    "checkpoint.keep": ([1, 5], [0, None]),
    "checkpoint.history": ([1, 10, None], [0, "all"]),
    "checkpoint.metric": (["val/loss", "val/accuracy"], ["loss", "train/loss", "val/", None]),
    "dry_run": ([True, False], ["yes", None]),
    "profile": ([True, False], ["yes", None]),
    "overfit": ([1, 64, None], [0, True, "all"]),
    "sweep.metric": (["val/accuracy", None], ["", True]),
    "sweep.on_failure": (["continue", "stop"], ["ignore", None]),
    "order_seed": ([None, 0, 2**32 - 1], [-1, 2**32, 0.5]),
    "sweep.share_batches": ([True, False], ["yes", 1]),
    "sweep.stack": (["auto", "always", "never"], [True, "on"]),
    "sweep.verify": ([0, 3], [-1, 1.5, True]),
    "sweep.retry": ([True, False], [1, None]),
    "sweep.prune": (["median", None], ["mean", True]),
    "sweep.prune_first": ([1, 5], [0, 1.5, None]),
    "sweep.prune_steps": ([0, 100], [-1, True, None]),
    "sweep.jobs": ([1, 8], [0, 1025, None, "all"]),
    "sweep.devices": ([[0, 1], [], None], [0, [-1], ["cuda:0"]]),
    "console.every": ([1, None], [0, 0.5]),
    "average.decay": ([0.999, None], [0, 1, "ema"]),
    "average.last": ([0.25, 1, None], [0, 1.5]),
    "early_stopping.patience": ([1, None], [0, 2.5]),
    "early_stopping.min_delta": ([0, 0.01], [-1, None]),
    "early_stopping.metric": (["val/loss", None], ["loss", 3]),
    "max_time": (["2h30m", "45m", "90s", "1d12h", None], ["0s", 90, "1.5h", "2m1h", ""]),
    "test": (["best", "last"], ["first", None, True]),
    "monitor.every": ([50, None], [0, "step"]),
    "monitor.waiting": (["auto", "always", "never"], [True, None, "often"]),
    "monitor.histogram_every": ([500, "auto", None], [0, "often"]),
    **{
        f"monitor.{key}": ([True, False], ["on", None, 1])
        for key in (
            "statistics",
            "activations",
            "histograms",
            "graph",
            "hparams",
            "layout",
            "texts",
            "images",
            "curves",
            "projector",
        )
    },
    "monitor.events": ([True, False], ["off"]),
    "model.init": (["default", "normal", "xavier", "kaiming"], ["Xavier", "zeros", None]),
    "model.init_std": ([0.01, 1], [0, -1, None]),
    **{f"model.{k}": ([1, None], [0, "3"]) for k in ("in_features", "out_features", "in_channels", "num_classes")},
    "model.image_size": ([32, None], [0, 32.0, [32, 32]]),
    "model.hidden_features": ([1, 100], [0, None]),
    "model.bias": ([True, False], [1, "no", None]),
    "model.gradient": (["autograd", "tensors", "numpy", "custom_function"], ["numpi", None]),
    "model.kernel_size": ([3, 5], [0, -3, 2.5, None]),
    "model.sequence_length": ([None, 8], [0, "8"]),
    "model.vocab_size": ([None, 8], [0, "8"]),
    "model.num_tokens": ([None, 8], [0, "8"]),
    "model.name": (["bert", "a/b"], [None, []]),
    "model.pretrained": ([True, False], [1, "yes"]),
    "model.task": (["auto", "causal_lm"], ["lm", None]),
    "model.weights": (["imagenet", "net.pth", None], ["", True, ["net.pth"]]),
    "model.backbone.weights": (["imagenet", "net.pth", None], ["", True]),
    "model.unfreeze": ([[], ["layer4", "layer3.1"]], ["layer4", [""], [None], None]),
    "model.dropout": ([0, 0.5], [1, 1.0, -0.1, None]),
    "model.freeze": ([[], ["conv1"]], ["conv1", [""], None]),
    "model.unfreeze_at": ([{}, {"conv1": 5}], [{"conv1": 0}, {"conv1": 1.5}, ["conv1"], None]),
    **{f"optimizer.{key}": ([1, 20], [0, 1.5, None]) for key in ("ns_steps", "max_iter", "history_size")},
    "optimizer.line_search_fn": (["strong_wolfe", None], ["wolfe", True]),
    "optimizer.decay": (["all", "weights"], ["none", None, True]),
    "optimizer.layer_decay": ([0.75, 1, None], [0, 1.1, "a"]),
    "optimizer.lr_times": ([{"conv1": 0.1, "*.bias": 2}, None], [{"conv1": 0}, {"conv1": "a"}, 0.1]),
    "data.balance": ([True, False], ["yes", None]),
    "loss.teacher": (["runs/x", None], ["", True]),
    "loss.temperature": ([2, 0.5, None], [0, -1]),
    "loss.teacher_weight": ([0, 0.5, None], [-1, "a"]),
    "data.fixed": ([True, False], [1, None]),
    "loss.class_weights": (["balanced", [1, 2.5], None], ["balance", [-1, 1], 2, True]),
    "data.folds": ([2, 5, None], [1, 2.5]),
    "data.fold": ([0, 4, None], [-1, 0.5]),
    "data.limit": ([1, None], [0]),
    "data.image_size": ([32, None], [0]),
    "data.normalize": ([True, False], [None]),
    "data.augment.crop_padding": ([0, 4], [-1, 0.5]),
    "data.augment.horizontal_flip": ([True, False], ["left"]),
    "data.augment.rotation": ([0, 15.5, 180], [-1, 181, NAN]),
    "data.augment.resized_crop": ([0.08, 1, None], [0, 1.1]),
    "data.augment.policy": (["randaugment", None], ["rand", True]),
    "data.augment.color_jitter": ([0, 0.4], [-1, 2, None]),
    "data.augment.erase": ([0, 0.25, 1], [-1, 2, None]),
    "data.augment.mixup": ([0, 0.2], [-1, None]),
    "data.augment.cutmix": ([0, 1], [-1, None]),
    **{f"data.{key}": ([1], [0, None]) for key in ("num_samples", "in_features", "out_features")},
    "data.split_seed": ([0, 3, 2**63 - 1], [-1, 2**63, 1.5, "abc", None, True]),
    "data.max_levels": ([1, 50], [0, -1, 1.5, None, "all"]),
    "data.stratify": ([True, False], [1, None]),
    "data.delimiter": (["auto", "semicolon", "blanks"], [";", ",", None]),
    "data.decimal": (["auto", "point", "comma"], [",", ".", None]),
    "data.encoding": (["auto", "utf-8", "latin-1"], ["", None, ["utf-8"]]),
    "data.background": (["white", "grey", "black"], ["red", "gray", 0, None]),
    "data.suffix": (["", ".jpg"], ["a/b", None]),
    "data.cache": ([None, 0, 1000, "20GB"], ["disk", -1, True]),
    "data.num_workers": ([0, 2, 256], [-1, 257, 1.5, "two", None, True]),
    "data.download": ([True, False], ["maybe"]),
    "data.path": (["mine.csv", "/a b/c"], ["", None, ["mine.csv"]]),
    "data.task": (["auto", "classification", "multilabel", "regression"], ["regresion", None]),
    "data.num_classes": ([1, 10, None], [0, -1, 2.5, "many", True]),
    "data.standardize": ([True, False], [1, None]),
    "data.root": (["/data", None], ["", ["/data"], True]),
    "data.urls": ([[], ["https://example.com"]], ["https://example.com", [""], [None], None]),
    "data.checksum": (
        [f"md5:{'0' * 32}", f"unpacked-sha256:{'a' * 64}"],
        ["", "md5:", f"md5:{'0' * 31}", f"sha1:{'0' * 40}", None],
    ),
    "data.name": (["mnist"], ["", "../x", "a/b", None]),
    "data.about": (["digits, drawn by hand"], ["", None]),
    "data.class_names": ([["cat", "dog"], [0, 1]], ["cat", [""], [None], None]),
    "data.val_fraction": ([0.1, 0.999], [0, 1, 1.0, -0.1, NAN, INF, "10%", None, True]),
    "data.test_fraction": ([0.1, 0.999], [0, 1, 1.0, "10%"]),
    "loss.weights": ([{}, {"kl": 0.1, "b": 2}], [None, [1], {"kl": "x"}, {"kl": None}, {"kl": math.inf}]),
    "loss.weight": ([None, [1, 0.5]], [2, [-1], ["a"]]),
    "loss.pos_weight": ([None, [1, 0.5]], [2, [-1], ["a"]]),
    "loss.gamma": ([0, 2.0], [-1, None]),
    "loss.smooth": ([1.0], [0, None]),
    "loss.delta": ([0.5], [0, None]),
    "loss.beta": ([0, 1, 0.5], [-1, None, "a"]),
    "loss.margin": ([1, 0.5], [0, -1, None]),
    "loss.p": ([1, 2], [0, 3, 1.5]),
    "loss.log_input": ([True, False], [None, 1]),
    "loss.log_target": ([True, False], [None, 1]),
    "loss.full": ([True, False], [None, 1]),
    "loss.reduction": (["mean", "sum", "batchmean"], ["none", None, 1]),
    "loss.ignore_index": ([-100, 0, 255], [1.5, None, "none"]),
    "loss.label_smoothing": ([0, 0.1, 1], [-0.1, 1.1]),
    "optimizer.lr": ([1e-6, 0.1, 3], [0, -0.1, INF, -INF, NAN, 10**400, "0.1", None, True]),
    **{f"optimizer.{k}": ([0, 0.9], [1, -0.1, None]) for k in ("momentum", "dampening", "alpha", "rho")},
    **{f"optimizer.{k}": ([0, 0.1, 2], [-0.1, INF]) for k in ("weight_decay", "eps", "lr_decay", "momentum_decay")},
    **{f"optimizer.{k}": ([True, False], [1, None]) for k in ("nesterov", "centered", "amsgrad")},
    "optimizer.betas": ([[0.9, 0.999], [0, 0]], [[0.9], [0.9, 1.0], [0.9, 0.99, 0.999], 0.9, ["0.9", 0.9], None]),
    "scheduler.interval": (["step", "epoch", "evaluation"], ["steps", None]),
    "scheduler.step_size": ([1], [0, None]),
    "scheduler.gamma": ([0.1, 2], [0, -1]),
    "scheduler.milestones": ([[], [10, 15]], [10, [0], [1.5], None]),
    "scheduler.T_max": ([10, None], [0]),
    "scheduler.eta_min": ([0, 1e-5], [-1]),
    "scheduler.max_lr": ([0.1, None], [0]),
    "scheduler.total_steps": ([10, None], [0, 0.5]),
    "scheduler.pct_start": ([0, 0.3, 1], [-0.1, 1.1]),
    "scheduler.cycle_momentum": ([True, False], [1, None]),
    "optimizer.warmup_steps": ([0, 100], [-1, 1.5]),
    "scheduler.warmup_steps": ([0, 100], [-1, 1.5]),
    "scheduler.min_factor": ([0, 1], [-0.1, 1.1]),
    "scheduler.factor": ([0.5], [0, 1]),
    "scheduler.metric": (["val/loss", "val/f1"], ["loss", None]),
    "scheduler.patience": ([0, 5], [-1, 0.5]),
}


@functools.cache
def shipped_config() -> dict[str, Any]:
    """The keys at the top level and in sections, as they are shipped."""
    config = OmegaConf.to_container(OmegaConf.load(CONFIGS / "train.yaml"))
    config["monitor"] = OmegaConf.to_container(OmegaConf.load(CONFIGS / "monitor" / "full.yaml"))
    return {key: value for key, value in config.items() if key not in ("defaults", "hydra")}


def config_with(key: str, value: Any) -> dict[str, Any]:
    """The shipped config with this key changed, and no other key in the groups."""
    config = {**copy.deepcopy(shipped_config()), **{group: {} for group in GROUPS}}
    *sections, last = key.split(".")
    inner = config
    for section in sections:
        inner = inner.setdefault(section, {})
    inner[last] = value
    return config


def test_the_table_holds_every_key():
    assert TABLE.keys() == RULES.keys()


@pytest.mark.parametrize("key", TABLE)
def test_is_accepted(key):
    for value in TABLE[key][0]:
        check(config_with(key, value))


@pytest.mark.parametrize("key", TABLE)
def test_is_refused_with_one_line_that_says_what_is_accepted(key):
    for value in TABLE[key][1]:
        with pytest.raises(UserError) as caught:
            check(config_with(key, value))
        message = str(caught.value)
        assert message.startswith(f"{key}={shown(value)}: must be {RULES[key].accepts}.")
        assert "\n" not in message.replace(shown(value), "")


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_is_shipped_is_accepted(path):
    config = OmegaConf.to_container(OmegaConf.load(path))
    prefix = "" if path.parent.name in ("configs", "experiment") else f"{path.parent.name}."
    values = {f"{prefix}{key}": value for key, value in leaves(config)}
    refused = {k: v for k, v in values.items() if k in RULES and v != "???" and not RULES[k].allows(v)}
    assert refused == {}


def test_the_rules_at_the_top_level_and_in_sections_are_the_keys_of_the_shipped_config():
    keys = {key for key, _ in leaves(shipped_config())} - {"metric"}  # names of metrics stand there
    assert keys == {key for key in RULES if key.split(".")[0] not in GROUPS}


@pytest.mark.parametrize(
    ("rule", "accepts"),
    [
        (Number(), "a number"),
        (Number(whole=True, optional=True), "a whole number or null"),
        (Number(at_least=1, whole=True, words=("full",)), "a whole number >= 1 or full"),
        (Number(above=0, below=1), "a number > 0 and < 1"),
        (Number(at_least=0, at_most=9, optional=True), "a number >= 0 and <= 9 or null"),
        (Choice(("a", "b", "c")), "a, b or c"),
        (ListOf(Text("the name of a package")), "a list, each item the name of a package"),
        (ListOf(Number(above=0), length=2), "a list of 2, each item a number > 0"),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_a_rule_says_what_it_accepts(rule, accepts):
    assert rule.accepts == accepts


@pytest.mark.parametrize(
    ("key", "value", "hint"),
    [
        ("precision", "bfloat", "Type precision=bfloat16."),
        ("dtype", "float46", "Did you mean float64?"),
        ("max_steps", "a", "Try max_steps=500."),
        ("optimizer.lr", -1, "Try optimizer.lr=0.01."),
        ("trust", "mypackage", "Type trust=[mypackage]."),
        ("trust", "os", "Try trust=[mypackage]."),
        ("optimizer.lr", "=0.1", "Type optimizer.lr=0.1."),
        ("optimizer.lr", [0.1, 0.01], "Type --multirun optimizer.lr=0.1,0.01 for a sweep."),
        ("compile", "yes", "Type compile=true."),
        ("max_steps", "None", "Type max_steps=null."),
        ("device", "gpu", "Type device=auto."),
        ("batch_size", "ful", "Try batch_size=64."),
        ("batch_size", 1000.0, "Type batch_size=1000."),
        ("batch_size", "64", "Type batch_size=64, without quotes."),
        ("batch_size", "0", "Try batch_size=64."),
        ("optimizer.lr", "1e-3", "Type optimizer.lr=0.001, without quotes."),
        ("checkpoint.every", 0, "Try checkpoint.every=null."),
        ("optimizer.betas", [2, 2], "Try optimizer.betas=[0.9,0.999]."),
    ],
)
def test_a_bad_value_comes_with_what_to_type(key, value, hint):
    with pytest.raises(UserError) as caught:
        check(config_with(key, value))
    assert str(caught.value).endswith(hint)


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("max_step", "Did you mean max_steps?"),
        ("batchsize", "Did you mean batch_size?"),
        ("lr", "Did you mean optimizer.lr?"),
        ("momentum", "Did you mean optimizer.momentum?"),
        ("gradient.clip_nrom", "Did you mean gradient.clip_norm?"),
        ("gradient.most", "gradient has accumulate, checkpoint, clip_norm, clip_value."),
        ("checkpoint.evry", "Did you mean checkpoint.every?"),
        ("checkpoint/every", "Did you mean checkpoint.every?"),
        ("chekpoint.every", "Did you mean checkpoint.every?"),
        ("monitor.evry", "Did you mean monitor.every?"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest(key, hint):
    with pytest.raises(UserError) as caught:
        check(config_with(key, 1))
    assert str(caught.value) == f"{key}: nothing reads this key. {hint}"


def test_keys_of_a_group_beyond_the_table_are_left_to_its_class():
    check(config_with("model.width", "anything"))
    check(config_with("data.augment", {}))
    check(config_with("data.augment", None))


@pytest.mark.parametrize(
    ("key", "value"), [("optimizer.betas", [0.9, 0.99, 0.999]), ("model.bias", 3), ("data.path", None)], ids=str
)
def test_a_users_own_class_gives_its_keys_a_meaning_of_its_own(key, value):
    config = config_with(key, value)
    with pytest.raises(UserError):
        check(config)
    config[key.split(".")[0]]["_target_"] = "mypackage.Own"
    check(config)


@pytest.mark.parametrize(
    ("key", "value"), [("scheduler.interval", "zeros"), ("data.limit", 0), ("data.augment.rotation", -1)]
)
def test_what_the_run_reads_itself_is_checked_for_any_class(key, value):
    config = config_with(key, value)
    config[key.split(".")[0]]["_target_"] = "mypackage.Own"
    with pytest.raises(UserError, match=f"^{key}={value}: must be "):
        check(config)


@pytest.mark.parametrize("key", ["batch_size", "gradient.clip_norm", "trust"])
def test_a_key_that_is_missing_is_named(key):
    *sections, last = key.split(".")
    config = config_with(key, None)
    inner = config[sections[0]] if sections else config
    del inner[last]
    with pytest.raises(UserError, match=f"^{key}: is missing; it must be "):
        check(config)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optimizer.lr", {"a": 1}, "optimizer.lr={a:1}: must be a number > 0. Try optimizer.lr=0.01."),
        ("data.augment", 5, "data.augment=5: holds keys of its own, crop_padding, horizontal_flip, rotation, "),
    ],
)
def test_keys_where_a_value_is_due_and_a_value_where_keys_are(key, value, message):
    with pytest.raises(UserError) as caught:
        check(config_with(key, value))
    assert str(caught.value).startswith(message)


def test_the_example_that_is_shown_is_accepted():
    for key, rule in RULES.items():
        if rule.example and "..." not in rule.example:
            assert rule.allows(OverridesParser.create().parse_override(f"x={rule.example}").value()), key


# Keys of shipped configs that no rule is about, as their room knows better.
ELSEWHERE = (
    *("metric.", "model.layers", "data.targets", "data.inputs", "data.options", "data.checksums.", "loss.terms."),
)
# Of a table, by name or by number.
COLUMNS = ("drop", "keep", "categorical", "embed", "group", "time", "image", "header")
ELSEWHERE += tuple(f"data.{key}" for key in COLUMNS)


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_key_that_is_shipped_has_a_rule(path):
    prefix = "" if path.parent.name == "experiment" else f"{path.parent.name}."
    keys = {f"{prefix}{key}" for key, _ in leaves(OmegaConf.to_container(OmegaConf.load(path)))} - {"defaults"}
    # What a configuration of transformers may have, that library knows.
    elsewhere = (*ELSEWHERE, "model.") if "override /model: hf" in path.read_text(encoding="utf-8") else ELSEWHERE
    assert [k for k in keys - RULES.keys() if not k.endswith("_target_") and not k.startswith(elsewhere)] == []


def test_readers_know_the_direction_of_every_metric_that_is_shipped():
    shipped = {path.stem: OmegaConf.load(path).larger_is_better for path in (CONFIGS / "metric").glob("*.yaml")}
    assert {name: is_larger_better(f"val/{name}") for name in shipped} == shipped
    assert not is_larger_better("val/loss/accuracy")
    own = {"metric": {"mine": {"larger_is_better": True}, "f1": {"larger_is_better": False}}}
    assert [is_larger_better(f"best/val/{name}", {}, own) for name in ("mine", "f1", "r2")] == [True, False, True]
    assert is_larger_better("test/last/mine", {"metric.mine.larger_is_better": True})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("a: 1\nb:\t2\n", "line 2, column 3: found character '\\t' that cannot start any token"),
        ("a: [1, 2", "line 1, column 9: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\na: 2\n", "line 2, column 1: found duplicate key a"),
    ],
)
def test_a_problem_of_yaml_is_said_with_its_place(content, problem, tmp_path):
    (tmp_path / "bad.yaml").write_text(content)
    with pytest.raises(YAMLError) as caught:
        OmegaConf.load(tmp_path / "bad.yaml")
    assert yaml_problem(caught.value) == problem


@pytest.mark.parametrize("group", [*GROUPS, *SECTIONS])
def test_a_group_that_is_no_mapping_is_refused(group):
    for value in (None, "lenet", 3, []):
        with pytest.raises(UserError, match=rf"^{group}="):
            check(config_with(group, value))


def test_a_hint_never_names_a_target():
    assert "_target_" not in str(unknown_key("model.target", ["model._target_", "model.size"]))


def test_leaves_are_the_dotted_keys():
    config = {"a": 1, "b": {"c": None, "d": {"e": [1, {"f": 2}]}}, "g": {}}
    assert dict(leaves(config)) == {"a": 1, "b.c": None, "b.d.e": [1, {"f": 2}], "g": {}}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (0.1, "0.1"),
        ("x", "x"),
        ([1, None, [False]], "[1,null,[false]]"),
        ({"a": {"b": 1}}, "{a:{b:1}}"),
    ],
)
def test_a_value_is_shown_as_it_is_typed(value, text):
    assert shown(value) == text
