"""Which of the swept keys made the difference, by a random forest."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

MIN_JOBS = 4  # of fewer a forest learns nothing
NUM_TREES = 256  # with fewer the shares move by more than some percent with the order of the jobs

Point = tuple[Mapping[str, str], float]  # what a job was given, and the number that came of it


def importance(points: Sequence[Point]) -> dict[str, float]:
    """The share of each key in the differences between the numbers, the largest first; together they are 1.

    The mean decrease of impurity: how much of the numbers' variance the trees of a random forest take away where they
    ask for this key (Breiman, "Random Forests", 2001, section 10, in Optuna's form). What two keys explain only
    together counts for both of them, and the main effects of an fANOVA would leave it out.

    Args:
        points: a job each, all with the same keys; finite numbers.

    Returns:
        Nothing where nothing can be told apart: fewer than `MIN_JOBS` jobs, fewer than two keys, or equal numbers.

    Raises:
        ImportError: Optuna or scikit-learn is missing.
    """
    if len(points) < MIN_JOBS:
        return {}
    largest = max(abs(number) for _, number in points) or 1.0
    numbers = [number / largest for _, number in points]  # the variance of large ones would be infinite
    low, span = min(numbers), max(numbers) - min(numbers)
    num_settings = len({tuple(words.values()) for words, _ in points})
    columns = {key: _choices([words[key] for words, _ in points], num_settings) for key in points[0][0]}
    columns = {key: choices for key, choices in columns.items() if len(set(choices)) > 1}
    if len(columns) < 2 or span == 0:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # what Optuna imports, and what it calls experimental, is not our user's to mend
        import optuna
        import sklearn  # noqa: F401 - Optuna would say in many lines that it is missing
        from optuna.importance import MeanDecreaseImpurityImportanceEvaluator, get_param_importances

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        kinds: dict[str, Any] = {
            key: optuna.distributions.CategoricalDistribution(sorted(set(choices))) for key, choices in columns.items()
        }
        study = optuna.create_study()
        for i, number in enumerate(numbers):
            given = {key: choices[i] for key, choices in columns.items()}
            # From 0 to 1: what varies by less than 1e-16, the forest takes for equal.
            trial = optuna.trial.create_trial(params=given, distributions=kinds, value=(number - low) / span)
            study.add_trial(trial)
        shares = get_param_importances(
            study, evaluator=MeanDecreaseImpurityImportanceEvaluator(n_trees=NUM_TREES, seed=0)
        )
    return {key: float(share) for key, share in shares.items()}


def importance_line(points: Sequence[Point], metric: str) -> Text | None:
    """`what mattered for <metric>: optimizer.lr 60 %, ...`, or what to install for it; None where nothing did."""
    try:
        shares = importance(points)
    except ImportError:
        return Text(f"what mattered for {metric}: to be told, pip install optuna scikit-learn", style="dim")
    if not shares:
        return None
    return Text(f"what mattered for {metric}: " + ", ".join(f"{key} {100 * n:.0f} %" for key, n in shares.items()))


def _choices(words: Sequence[str], num_settings: int) -> list[str]:
    """The values of a key, as words to choose from.

    In a grid of several keys each value comes in several settings. Numbers of which hardly any does are those of a
    random search: they are taken in quarters, from small to large.
    """
    distinct = set(words)
    if 2 * len(distinct) <= num_settings:
        return list(words)
    try:
        ranks = {word: rank for rank, word in enumerate(sorted(distinct, key=float))}
    except ValueError:  # not numbers
        return list(words)
    return [f"quarter {4 * ranks[word] // len(ranks)}" for word in words]
