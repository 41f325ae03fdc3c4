"""What makes a run ill, in the order in which one explains another: of what is found together, the lowest rank.

No cause speaks of a run that has learnt: something unusual that does no harm is no illness. Causes come behind
the symptoms (`trainer.monitor.symptoms`), so that a symptom has them asked at once; in what is told they come first.
Their thresholds were chosen on the first set of `tests/diagnosis/sets.py`; the second shows what they are worth.
"""

from trainer.monitor import data_causes as data
from trainer.monitor import training_causes as training
from trainer.monitor.diagnosis import Rule
from trainer.monitor.symptoms import RULES as SYMPTOMS

# Those that are asked in validations, too, are asked again when something new is known.
CAUSES = (
    Rule(data.targets_are_constant, rank=1),
    Rule(training.probabilities_into_a_loss_of_logits, rank=2),
    Rule(data.targets_out_of_reach, rank=2),
    Rule(data.labels_differ_between_the_splits, rank=3, tag="val/loss"),
    Rule(data.data_given_in_order, rank=3, tag="val/loss"),
    Rule(data.splits_differ, rank=4, tag="val/loss"),
    Rule(data.one_class_nearly_alone, rank=5, tag="val/loss"),
    Rule(data.inputs_not_scaled, rank=6),
    Rule(data.targets_not_scaled, rank=7),
    Rule(data.columns_without_content, rank=9),
    Rule(training.units_start_equal, rank=8),
    Rule(training.dead_units_from_the_start, rank=19),
    Rule(training.initialisation_too_large, rank=31),
    Rule(training.clipping_throttles, rank=40),
    Rule(training.weight_decay_shrinks_the_weights, rank=41),
    Rule(training.schedule_ended_early, rank=42),
    Rule(training.dropout_too_high, rank=43),
    Rule(training.batch_norm_of_small_batches, rank=44, tag="val/loss"),
    Rule(training.momentum_too_high, rank=50),
    Rule(training.warm_up_missing, rank=51),
    Rule(training.learning_rate_too_large, rank=52),
    Rule(data.labels_without_a_pattern, rank=80, is_last=True),
    Rule(data.too_few_samples, rank=81, tag="val/loss"),
    Rule(training.no_non_linearity, rank=45, is_last=True),
    Rule(data.splits_share_samples, rank=82, is_last=True),
    Rule(data.a_column_tells_the_target, rank=82, is_last=True),
    Rule(data.one_class_far_worse, rank=83),
)
AT_THE_END = (Rule(training.learning_rate_too_small, rank=70, is_last=True),)
RULES = (*SYMPTOMS, *CAUSES, *AT_THE_END)
