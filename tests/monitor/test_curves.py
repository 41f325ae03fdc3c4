"""PR curves: the counts of the definition, in the form that the tab's own code reads."""

import numpy as np
import pytest
import torch
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.pr_curve import metadata
from tensorboard.util import tensor_util

from trainer.monitor.curves import pr_curves, summary, tells_something


def drawn(num_samples: int, num_classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(num_samples, num_classes, generator=generator).softmax(1)
    return scores, torch.randint(num_classes, (num_samples,), generator=generator)


@pytest.mark.parametrize(("num_classes", "num_thresholds"), [(2, 11), (5, 201)])
def test_counts_are_those_of_the_definition(num_classes: int, num_thresholds: int) -> None:
    scores, targets = drawn(60, num_classes)
    curves = pr_curves(scores, targets, num_thresholds)
    assert curves.shape == (num_classes, 6, num_thresholds)
    for k in range(num_classes):
        for i in range(num_thresholds):
            found = scores[:, k].double() >= i / (num_thresholds - 1)
            is_class = targets == k
            counts = [(found & is_class), (found & ~is_class), (~found & ~is_class), (~found & is_class)]
            assert curves[k, :4, i].tolist() == [int(count.sum()) for count in counts]
            tp, fp, _, fn = (int(count.sum()) for count in counts)
            assert curves[k, 4, i] == pytest.approx(tp / (tp + fp) if tp + fp else 0)
            assert curves[k, 5, i] == pytest.approx(tp / (tp + fn))


def test_whoever_is_always_right_has_the_corner() -> None:
    _, targets = drawn(50, 3)
    precision, recall = pr_curves(torch.eye(3)[targets], targets)[:, 4:].unbind(1)
    assert bool((precision[:, 1:] == 1).all())
    assert bool((recall == 1).all())


def test_a_class_that_is_not_there_has_a_curve_of_zeros() -> None:
    curves = pr_curves(torch.full((4, 2), 0.5), torch.zeros(4, dtype=torch.int64))
    assert not curves[1, [0, 4, 5]].any()


def test_the_first_classes_of_many_have_the_same_curves() -> None:
    scores, targets = drawn(200, 9)
    assert torch.equal(pr_curves(scores[:, :4], targets), pr_curves(scores, targets)[:4])


def test_a_curve_that_is_nothing_but_its_frame_is_left_out() -> None:
    targets = torch.arange(400) % 4
    sure = torch.eye(4)[targets]
    taken = targets.clone()
    taken[0], taken[1:21:4] = 1, 2  # of class 0 one in 100 is taken for 1; of class 1 five for 2
    found = [tells_something(curve) for curve in pr_curves(torch.eye(4)[taken], targets)]
    assert found == [False, True, True, False]
    assert [tells_something(curve) for curve in pr_curves(sure, targets)] == [False] * 4
    assert not tells_something(pr_curves(sure, targets.clamp_max(2))[3]), "nor that of a class without samples"


def test_tensorboard_reads_the_record() -> None:
    scores, targets = drawn(60, 3)
    curves = pr_curves(scores, targets)
    record = Summary.FromString(summary(dict(zip(("cat", "dog", "cow"), curves, strict=True))).SerializeToString())
    assert [value.tag for value in record.value] == ["test/pr/cat", "test/pr/dog", "test/pr/cow"]
    for value, curve in zip(record.value, curves, strict=True):
        assert value.metadata.plugin_data.plugin_name == metadata.PLUGIN_NAME
        assert metadata.parse_plugin_metadata(value.metadata.plugin_data.content).num_thresholds == 201
        assert np.array_equal(tensor_util.make_ndarray(value.tensor), curve.numpy())
