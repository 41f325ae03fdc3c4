"""What the numbers of a run say about its health, in words.

A rule is a pure function of what has been seen so far: it says what is amiss, or None; and has the number of records in
a row in which it must see it before anybody is told. A rule is reported once in a run. All of this is arithmetic on
numbers that were logged anyway.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

from trainer.monitor.cures import attempt, calmer
from trainer.monitor.facts import Facts
from trainer.monitor.finding import Finding, Sighting
from trainer.monitor.seen import SYMPTOMS, Seen

# What may follow from something else that is wrong.
FOLLOWING = SYMPTOMS | {
    *("learning rate too large", "learning rate too small", "vanishing gradient", "overfitting", "one class far worse"),
    "exploding gradient on the way back",
    *("loss far from chance", "splits differ", "nothing carries over"),
}
OVERFLOWN = "the numbers have left the range of floating point"
LOSS_NOT_FINITE = "loss not finite"
OF_THE_LOSS = "the loss makes a number that is not finite of outputs that are, and are not large"
AGAINST_IT = (
    "Look in it for a logarithm or a root of 0, or a division by 0. Against the first torch.log_softmax helps in place "
    "of the log of a softmax, against the others torch.clamp."
)


GAPS = "a sample's {} hold NaN or an infinity, which no step gets over"
# What made a loss that is not finite, to the name of the finding, its meaning and its cure.
STOPPED = {
    "loss": (LOSS_NOT_FINITE, OF_THE_LOSS, AGAINST_IT),
    **{
        part: ("data not finite", GAPS.format(part), "Take such samples out of the data, or fill their gaps.")
        for part in ("inputs", "targets")
    },
    "evaluation": (
        "not finite in evaluation",
        "the model gives a number that is not finite in evaluation mode alone",
        "Look at what the model does where self.training is false.",
    ),
}


@dataclass(frozen=True)
class Rule:
    """When a check is made, and how often in a row it must see something.

    Args:
        tag: made at records that have it; others neither count nor interrupt.
        records: in a row.
        is_long: and over `Facts.long` steps.
        is_last: made at the end of the run alone.
        rank: of what is found together, the lowest explains the others that are of `FOLLOWING`.
    """

    check: Callable[[Seen], Sighting | None]
    records: int = 1
    is_long: bool = False
    tag: str = "train/loss"
    is_last: bool = False
    rank: int = 100

    @cached_property
    def name(self) -> str:
        return self.check.__name__.replace("_", " ").replace("relus", "ReLUs")


class Diagnosis:
    """Applies the rules to the records of a run.

    Args:
        rules: those that ask whether a symptom was told of come behind the symptoms.

    Attributes:
        told: all that were reported, in the order of their steps.
    """

    def __init__(self, facts: Facts, rules: Sequence[Rule]) -> None:
        self.told: list[Finding] = []
        self._seen, self._rules = Seen(facts), rules
        self._tags = {rule.tag for rule in rules}
        self._of_tags: dict[frozenset[str], list[Rule]] = {}
        self._streaks: dict[str, list[int]] = {}  # rule to the first step of its row of records, and their number

    @property
    def findings(self) -> list[Finding]:
        """All that were reported, what explains the others first."""
        ranks = {rule.name: rule.rank for rule in self._rules} | {name: 2 for name, *_ in STOPPED.values()}
        ranked = sorted(self.told, key=lambda finding: ranks.get(finding.rule, 100))
        return [
            replace(finding, follows=ranked[0].rule if i and finding.rule in FOLLOWING else "")
            for i, finding in enumerate(ranked)
        ]

    def observe(self, step: int, numbers: Mapping[str, float]) -> list[Finding]:
        """Takes one record, of training or of validation, and returns what it is the first to show."""
        self._seen.add(step, numbers)
        return self._judged(step)

    def concluded(self, step: int, classes: Sequence[Mapping[str, Any]] = ()) -> list[Finding]:
        """What is to be said when the run has come to its end and nothing more will be seen.

        Args:
            classes: rows of the test split, see `trainer.monitor.classes.PerClass`.
        """
        self._seen.is_over, self._seen.classes = True, classes
        return self._judged(step, is_last=True)

    def _judged(self, step: int, is_last: bool = False) -> list[Finding]:
        new = []
        for rule in self._rules if is_last else self._due(self._seen.numbers):
            if rule.name in self._seen.reported:
                continue
            if is_last and rule.rank == 100:  # of symptoms all has been seen
                continue
            sighting = rule.check(self._seen)
            if sighting is None:
                self._streaks.pop(rule.name, None)
                continue
            first, count = self._streaks.get(rule.name, (step, 0))
            self._streaks[rule.name] = [first, count + 1]
            is_enough = count + 1 >= rule.records and (not rule.is_long or step - first >= self._seen.facts.long)
            if is_enough or is_last:
                new.append(Finding(rule.name, step, *sighting))
                self._seen.reported.append(rule.name)
        new.sort(key=lambda finding: next(rule.rank for rule in self._rules if rule.name == finding.rule))
        self.told += new
        return new

    def _due(self, numbers: Mapping[str, float]) -> list[Rule]:
        """The rules that a record with such tags is for."""
        tags = frozenset(self._tags & numbers.keys())
        if tags not in self._of_tags:
            self._of_tags[tags] = [rule for rule in self._rules if rule.tag in tags and not rule.is_last]
        return self._of_tags[tags]

    def stopped(self, step: int, cause: str | None = None) -> list[Finding]:
        """What there is to say of a run that ended with a loss or a weight that is not finite.

        Args:
            cause: a word of `STOPPED`; `loss`: it makes such a number of outputs that are finite, and not large.
        """
        exploded = ("exploding gradient", OVERFLOWN, attempt(calmer(self._seen.facts)))
        name, *how = exploded if cause is None else STOPPED[cause]
        if name in self._seen.reported:
            return []
        self._seen.reported.append(name)
        numbers = {"train/loss": self._seen.losses[-1]} if self._seen.losses else {}
        self.told.append(Finding(name, step, None, numbers, *how))
        causes = self.concluded(step)
        return [*causes, *(finding for finding in self.told if finding.rule == name)]

    def markdown(self) -> str:
        """All findings, or that there are none."""
        return "\n\n".join(finding.markdown() for finding in self.findings) or "Nothing is amiss."

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, words, lists and dicts."""
        known = ("facts", "is_over", "classes")
        seen = {x.name: getattr(self._seen, x.name) for x in fields(Seen) if x.name not in known}
        findings = [finding.as_dict() for finding in self.told]
        return copy.deepcopy({"seen": seen, "streaks": self._streaks, "findings": findings})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        state = copy.deepcopy(dict(state))
        known = {x.name for x in fields(Seen)}  # a checkpoint may be of another version
        seen = {name: value for name, value in state["seen"].items() if name in known}
        self._seen, self._streaks = Seen(self._seen.facts, **seen), state["streaks"]
        self.told = [
            Finding(**{**finding, "numbers": {name: float(x) for name, x in finding["numbers"].items()}})
            for finding in state["findings"]
        ]
