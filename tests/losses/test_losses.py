"""Losses: torch's own numbers from targets in any form, weighted sums as by hand, refusals before the first step."""

import contextlib
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from meanings import meaning_of
from plain import parts_of
from trainer.errors import UserError
from trainer.losses.criteria import Composite, Dice, L1Penalty, L2Penalty, SumSquaredError
from trainer.losses.fits import INSTEAD, WANTS
from trainer.losses.function import LossFunction
from trainer.losses.term import Term
from trainer.meaning import Classes, Labels, Numbers, Places, as_dict, from_dict

NAMES = {"loss": "chosen", "model": "net", "data": "numbers"}
# What the choices that messages name stand for.
CHOICES = {
    "loss=bce": nn.BCELoss,
    "loss=bce_with_logits": nn.BCEWithLogitsLoss,
    "loss=cross_entropy": nn.CrossEntropyLoss,
    "loss=nll": nn.NLLLoss,
}
# Criteria that take class labels, in whatever form.
OF_CLASSES = {criterion: wants for criterion, wants in WANTS.items() if not wants.only}
MSE = {"weight": 1, "criterion": nn.MSELoss()}
MEAN = {nn.KLDivLoss: {"reduction": "batchmean"}}  # of its own mean it is refused
FORMS = ("logits", "probabilities", "log_probabilities")


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def labels(num_classes: int, num_samples: int = 9) -> Tensor:
    return torch.arange(num_samples) * 7 % num_classes


class Net(nn.Module):
    """Weights, biases, a norm layer and a frozen layer: what penalties tell apart."""

    def __init__(self, gives: str = "logits") -> None:
        super().__init__()
        self.gives = gives
        self.first, self.norm, self.second = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.frozen = nn.Linear(5, 5).requires_grad_(False)
        self.double()


def loss_function(criterion: nn.Module, num_classes: int | None = None, model: nn.Module | None = None) -> LossFunction:
    return LossFunction(criterion, model or Net(), meaning_of(num_classes), NAMES).double()


class TestSumSquaredError:
    def test_is_the_sum_over_all_numbers(self):
        outputs, targets = drawn(5, 3), drawn(5, 3, seed=1)
        by_hand = sum((outputs[i, j] - targets[i, j]) ** 2 for i in range(5) for j in range(3))
        assert_close(SumSquaredError()(outputs, targets), by_hand, rtol=1e-12, atol=0)
        assert_close(SumSquaredError()(outputs, targets), nn.MSELoss(reduction="sum")(outputs, targets))


class TestPenalties:
    @pytest.mark.parametrize(
        ("penalty", "of"),
        [(L1Penalty(), lambda w: abs(w)), (L2Penalty(), lambda w: w * w / 2)],
        ids=["l1", "l2"],
    )
    def test_is_over_trainable_weights_alone(self, penalty, of):
        net = Net()
        by_hand = sum(of(w) for layer in (net.first, net.second) for w in layer.weight.flatten().tolist())
        assert penalty(net).item() == pytest.approx(by_hand, rel=1e-12)

    def test_the_gradient_of_l2_is_the_weight_and_of_l1_its_sign(self):
        net = Net()
        for penalty, gradient in ((L2Penalty(), lambda w: w), (L1Penalty(), torch.sign)):
            (grad,) = torch.autograd.grad(penalty(net), [net.first.weight])
            assert_close(grad, gradient(net.first.weight.detach()), rtol=0, atol=0)


class TestTargets:
    """The same number from class labels through `Term` and from the form that torch documents."""

    @pytest.mark.parametrize(
        "criterion", [c for c, wants in OF_CLASSES.items() if wants.targets not in ("index", "masks")]
    )
    @pytest.mark.parametrize("num_classes", [2, 3, 10])
    def test_labels_become_one_hot(self, criterion, num_classes):
        form, mean = WANTS[criterion].outputs[0], MEAN.get(criterion, {})
        outputs = drawn(9, num_classes).softmax(1) if form == "probabilities" else drawn(9, num_classes)
        term = Term(criterion(**mean), form, meaning_of(num_classes), NAMES).double()
        expected = criterion(**mean)(outputs, F.one_hot(labels(num_classes), num_classes).double())
        assert term(outputs, labels(num_classes)).equal(expected)

    def test_two_classes_and_one_logit_are_a_softmax_over_zero_and_the_logit(self):
        outputs = drawn(9, 1)
        term = Term(nn.BCEWithLogitsLoss(), "logits", meaning_of(2), NAMES).double()
        pairs = torch.cat([torch.zeros(9, 1), outputs], 1)
        assert_close(term(outputs, labels(2)), F.cross_entropy(pairs, labels(2)), rtol=1e-12, atol=0)

    def test_index_criteria_get_the_labels(self):
        outputs = drawn(9, 4)
        term = Term(nn.CrossEntropyLoss(label_smoothing=0.1), "logits", meaning_of(4), NAMES)
        assert term(outputs, labels(4)).equal(F.cross_entropy(outputs, labels(4), label_smoothing=0.1))

    def test_logits_log_probabilities_and_probabilities_have_one_likelihood(self):
        logits = drawn(9, 4)
        forms = {"logits": logits, "log_probabilities": logits.log_softmax(1), "probabilities": logits.softmax(1)}
        ways = [
            (nn.CrossEntropyLoss, "logits"),
            (nn.CrossEntropyLoss, "log_probabilities"),
            (nn.NLLLoss, "log_probabilities"),
            (nn.NLLLoss, "probabilities"),
        ]
        likelihoods = [row.exp()[label] / row.exp().sum() for row, label in zip(logits, labels(4), strict=True)]
        by_hand = -sum(math.log(likelihood) for likelihood in likelihoods) / len(likelihoods)
        for criterion, form in ways:
            loss = Term(criterion(), form, meaning_of(4), NAMES)(forms[form], labels(4))
            assert loss.item() == pytest.approx(by_hand, rel=1e-12)

    def test_a_probability_of_zero_gives_finite_loss_and_gradient(self):
        outputs = torch.tensor([[0.0, 1.0], [1e-45, 1.0]], requires_grad=True)
        loss = Term(nn.NLLLoss(), "probabilities", meaning_of(2), NAMES)(outputs, torch.tensor([0, 0]))
        (grad,) = torch.autograd.grad(loss, outputs)
        assert math.isfinite(loss.item())
        assert grad.isfinite().all()

    def test_regression_targets_and_the_users_own_criterion_get_what_the_data_has(self):
        class Own(nn.Module):
            def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
                self.got = targets
                return outputs.sum()

        own, floats = Own(), drawn(9, 4)
        Term(own, "logits", meaning_of(4), NAMES)(drawn(9, 4), labels(4))
        assert own.got.equal(labels(4))
        assert Term(nn.MSELoss(), "logits", meaning_of(None), NAMES)(drawn(9, 4, seed=1), floats).equal(
            F.mse_loss(drawn(9, 4, seed=1), floats)
        )


class TestShares:
    """Targets that are a share of each class: soft labels."""

    FORMS = (("logits", drawn(9, 4)), ("probabilities", drawn(9, 4).softmax(1)), ("log_probabilities", drawn(9, 4)))
    SHARES = drawn(9, 4, seed=1).softmax(1)

    @pytest.mark.parametrize(("gives", "outputs"), FORMS)
    def test_the_divergence_is_the_sum_of_its_definition_and_comes_from_any_form(self, gives, outputs):
        loss_fn = LossFunction(nn.KLDivLoss(reduction="batchmean"), Net(gives), Numbers(4), NAMES).double()
        outputs = outputs.log_softmax(1) if gives == "log_probabilities" else outputs
        loss_fn.check(outputs, self.SHARES)
        said = {"logits": outputs.softmax(1), "log_probabilities": outputs.exp()}.get(gives, outputs)
        by_hand = (self.SHARES * (self.SHARES / said).log()).sum(1)
        assert_close(loss_fn(outputs, self.SHARES).total, by_hand.mean())
        assert_close(loss_fn.each(outputs, self.SHARES), by_hand)
        assert_close(loss_fn.meaning.scores(outputs), said)  # what mae and r2 are of

    def test_cross_entropy_takes_them_too_and_weighs_by_samples(self):
        weight = torch.tensor([1.0, 2.0, 3.0, 4.0])
        loss_fn = LossFunction(nn.CrossEntropyLoss(weight), Net(), Numbers(4), NAMES).double()
        outputs = drawn(9, 4)
        loss_fn.check(outputs, self.SHARES)
        expected = F.cross_entropy(outputs, self.SHARES, weight.double())
        whole = loss_fn.whole(9, self.SHARES)
        parts = [loss_fn(outputs[part], self.SHARES[part], of=whole).total for part in (slice(4), slice(4, 9))]
        assert_close(loss_fn(outputs, self.SHARES).total, expected)
        assert_close(sum(parts), expected)

    @pytest.mark.parametrize(
        ("criterion", "says"),
        [(nn.CrossEntropyLoss(), "takes class labels"), (nn.KLDivLoss(reduction="batchmean"), "takes a share of each")],
    )
    @pytest.mark.parametrize("targets", [drawn(9, 4), 2 * SHARES, drawn(9, 1).sigmoid()], ids=["any", "2", "one"])
    def test_other_numbers_are_refused(self, criterion, says, targets):
        with pytest.raises(UserError, match=rf"^loss=chosen: {says}.* Type loss=mse\.$"):
            LossFunction(criterion, Net(), Numbers(targets.shape[1]), NAMES).check_targets(targets)

    def test_several_labels_are_told_of_where_each_is_0_or_1(self):
        with pytest.raises(UserError, match=r", or data\.task=multilabel loss=bce_with_logits if several can be 1\.$"):
            LossFunction(nn.CrossEntropyLoss(), Net(), Numbers(3), NAMES).check_targets(torch.ones(4, 3))

    @pytest.mark.parametrize("reduction", ["mean", "batchmean"])
    def test_the_mean_over_outputs_too_is_refused_by_the_key_of_the_term(self, reduction):
        composite = Composite({"kl": {"weight": 1, "criterion": nn.KLDivLoss(reduction=reduction)}})
        refused = pytest.raises(UserError, match=r"Type loss\.terms\.kl\.criterion\.reduction=batchmean")
        with refused if reduction == "mean" else contextlib.nullcontext():
            loss_function(composite, 3)


class TestNumbersThatOutputsStandFor:
    """mae and r2 are of them, and not of what the loss takes."""

    @pytest.mark.parametrize(
        ("criterion", "link"),
        [
            (nn.MSELoss(), lambda x: x),
            (nn.BCEWithLogitsLoss(), torch.sigmoid),
            (nn.PoissonNLLLoss(), torch.exp),
            (nn.PoissonNLLLoss(log_input=False), lambda x: x),
        ],
        ids=["mse", "bce_with_logits", "poisson", "poisson of counts"],
    )
    def test_each_loss_has_its_own(self, criterion, link):
        outputs = drawn(9, 2).abs()
        loss_fn = LossFunction(criterion, Net(), Numbers(2), NAMES).double()
        targets = link(outputs).clone()
        loss_fn.check(outputs, targets)
        sums = {name: total.tolist() for name, total in loss_fn.meaning.judged(outputs, targets).items()}
        assert loss_fn.meaning.concluded(sums, 9) == {"mae": 0.0, "r2": 1.0}
        assert from_dict(as_dict(loss_fn.meaning)) == loss_fn.meaning

    def test_what_was_kept_before_there_were_several_is_read(self):
        assert from_dict({"kind": "numbers", "num_outputs": 3, "is_judged": True}) == Numbers(3, is_judged=True)

    def test_a_distance_is_no_number(self):
        loss_fn = LossFunction(nn.HingeEmbeddingLoss(), Net(), Numbers(1), NAMES)
        loss_fn.check(torch.zeros(2, 1), torch.ones(2, 1))
        assert loss_fn.meaning.metrics == ()

    def test_counts_have_no_logarithm_below_0(self):
        loss_fn = LossFunction(nn.PoissonNLLLoss(log_input=False), Net(), Numbers(1), NAMES)
        with pytest.raises(UserError, match=r"^model=net: gives numbers below 0.* Type loss\.log_input=true\.$"):
            loss_fn.check(torch.tensor([[-0.1]]), torch.ones(1, 1))


class TestLossFunction:
    def test_one_criterion_has_a_total_and_no_terms(self):
        outputs = drawn(9, 4)
        losses = loss_function(nn.CrossEntropyLoss(), 4)(outputs, labels(4))
        assert losses.total.equal(F.cross_entropy(outputs, labels(4)))
        assert losses.terms == {}

    def test_a_composite_is_the_weighted_sum_by_hand_and_so_is_its_gradient(self):
        net, outputs = Net(), drawn(9, 4).requires_grad_()
        criterion = Composite(
            {
                "entropy": {"weight": 0.5, "criterion": nn.CrossEntropyLoss()},
                "squares": {"weight": 2, "criterion": nn.MSELoss()},
                "left_out": None,
                "l1": {"weight": 0.25, "criterion": L1Penalty()},
                "l2": {"weight": 3.0, "criterion": L2Penalty()},
            }
        )
        losses = loss_function(criterion, 4, net)(outputs, labels(4))
        by_hand = {
            "entropy": F.cross_entropy(outputs, labels(4)),
            "squares": F.mse_loss(outputs, F.one_hot(labels(4), 4).double()),
            "l1": net.first.weight.abs().sum() + net.second.weight.abs().sum(),
            "l2": (net.first.weight.square().sum() + net.second.weight.square().sum()) / 2,
        }
        total = 0.5 * by_hand["entropy"] + 2 * by_hand["squares"] + 0.25 * by_hand["l1"] + 3 * by_hand["l2"]
        assert losses.terms.keys() == by_hand.keys()
        for name, term in losses.terms.items():
            assert not term.requires_grad
            assert_close(term, by_hand[name].detach(), rtol=1e-12, atol=0)
        wanted = [outputs, net.first.weight, net.second.weight]
        assert_close(losses.total, total, rtol=1e-12, atol=0)
        assert_close(
            torch.autograd.grad(losses.total, wanted), torch.autograd.grad(total, wanted), rtol=1e-12, atol=1e-15
        )

    @pytest.mark.parametrize("name", ["values", "type", "squared.error", "loss"])
    def test_a_term_may_have_any_name(self, name):
        outputs, targets = drawn(9, 2), drawn(9, 2, seed=1)
        losses = loss_function(Composite({name: {"weight": 2, "criterion": nn.MSELoss()}}))(outputs, targets)
        assert losses.terms == {name: F.mse_loss(outputs, targets)}
        assert losses.total == 2 * F.mse_loss(outputs, targets)

    @pytest.mark.parametrize(
        "terms",
        [{}, {"a": None}, {"a": {"criterion": nn.MSELoss()}}, {"a": {"weight": 1.0}}, {"a": 3}],
        ids=["empty", "all left out", "no weight", "no criterion", "a number"],
    )
    def test_terms_that_are_none_are_refused(self, terms):
        with pytest.raises(ValueError, match="terms"):
            Composite(terms)

    def test_what_its_criteria_take_need_not_be_listed(self):
        """Beside a key that is listed; two processes and parts of a batch weigh such classes, too."""
        word = "loss.terms.cross_entropy.criterion"
        words = (f"{word}.weight=[{'1,' * 9}2]", f"{word}.label_smoothing=0.1", "loss.terms.l1.weight=2")
        loss_fn = parts_of("model=two_layer", "loss=composite", *words).loss_fn
        (term,) = loss_fn.terms
        assert (term.kind, term.criterion.label_smoothing, loss_fn.weights[1]) == ("weighted mean", 0.1, 2)

    def test_has_no_parameters_and_nothing_to_save(self):
        loss_fn = loss_function(Composite({"l2": {"weight": 1, "criterion": L2Penalty()}, "mse": MSE}), 3)
        assert not list(loss_fn.parameters())
        assert not loss_fn.state_dict()

    def test_follows_the_dtype_of_the_run(self):
        outputs = drawn(9, 3)
        exact = F.mse_loss(outputs, F.one_hot(labels(3), 3).double())
        losses = loss_function(nn.MSELoss(), 3)(outputs, labels(3))
        assert losses.total.dtype == torch.float64
        assert losses.total.equal(exact)


@pytest.mark.parametrize("meaning", [Classes(3), Labels(3), Numbers(3), Places(3)], ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("gives", FORMS)
def test_what_outputs_stand_for_can_be_read_again_under_every_loss(gives, meaning):
    """A run of several labels with Dice could not be evaluated."""
    for criterion in WANTS:
        with contextlib.suppress(UserError):
            found = LossFunction(criterion(**MEAN.get(criterion, {})), Net(gives), meaning, NAMES).meaning
            assert from_dict(as_dict(found)) == found


def test_masks_under_dice_are_the_sigmoid_of_the_outputs():
    outputs = drawn(2, 1, 3, 3)
    meaning = LossFunction(Dice(), Net(), Numbers(9), NAMES).meaning
    assert meaning.measured(outputs, outputs)[0].equal(outputs.sigmoid())


class TestRefusals:
    @pytest.mark.parametrize(("gives", "criterion"), INSTEAD, ids=lambda x: x if isinstance(x, str) else x.__name__)
    def test_a_criterion_that_cannot_take_the_outputs_names_one_that_can(self, gives, criterion):
        instead = INSTEAD[gives, criterion]
        with pytest.raises(UserError, match=rf"^loss=chosen: .*model=net gives {gives}\. Type {instead}\.$"):
            Term(criterion(), gives, meaning_of(2), NAMES)
        assert gives in WANTS[CHOICES[instead]].outputs

    @pytest.mark.parametrize(
        ("gives", "criterion"),
        [(g, c) for g in FORMS for c in OF_CLASSES if g in WANTS[c].outputs and c != Dice],
        ids=lambda x: x if isinstance(x, str) else x.__name__,
    )
    def test_what_is_not_refused_gives_a_finite_number(self, gives, criterion):
        outputs = {"logits": drawn(9, 3), "probabilities": drawn(9, 3).softmax(1)}
        outputs["log_probabilities"] = outputs["logits"].log_softmax(1)
        term = Term(criterion(**MEAN.get(criterion, {})), gives, meaning_of(3), NAMES).double()
        assert term(outputs[gives], labels(3)).isfinite()

    @pytest.mark.parametrize("criterion", [nn.CrossEntropyLoss, nn.NLLLoss])
    def test_class_criteria_refuse_float_targets(self, criterion):
        with pytest.raises(UserError, match=r"^loss=chosen: takes class labels, but data=numbers .*Type loss=mse\.$"):
            Term(criterion(), "log_probabilities", meaning_of(None), NAMES)

    @pytest.mark.parametrize(
        ("criterion", "num_classes", "outputs", "targets"),
        [
            (nn.MSELoss, None, (4, 1), (4, 3)),
            (nn.MSELoss, None, (4, 3), (4, 1)),
            (nn.MSELoss, None, (4,), (4, 1)),
            (nn.L1Loss, None, (1, 3), (4, 3)),
            (SumSquaredError, None, (4, 2, 3), (4, 3)),
            (nn.MSELoss, 3, (4, 1), None),
            (nn.BCEWithLogitsLoss, 3, (4, 2), None),
            (nn.BCEWithLogitsLoss, 2, (4,), None),
            (nn.CrossEntropyLoss, 3, (4, 4), None),
            (nn.CrossEntropyLoss, 3, (4, 2), None),
            (nn.CrossEntropyLoss, 2, (4, 1), None),
            (nn.CrossEntropyLoss, 3, (3,), None),
            (nn.CrossEntropyLoss, 3, (4, 3, 5), None),
        ],
        ids=str,
    )
    def test_shapes_that_do_not_fit_are_refused_with_both_sides_named(self, criterion, num_classes, outputs, targets):
        given = torch.arange(4) % num_classes if num_classes else torch.zeros(targets)
        with pytest.raises(UserError, match=r"^model=net: .*data=numbers.*loss=chosen takes") as caught:
            loss_function(criterion(), num_classes).check(torch.zeros(outputs), given)
        assert str(list(outputs)) in str(caught.value)

    @pytest.mark.parametrize(
        ("criterion", "num_classes", "outputs", "targets"),
        [
            (nn.MSELoss, None, (4, 1), (4, 1)),
            (SumSquaredError, None, (4, 2, 3), (4, 2, 3)),
            (nn.MSELoss, 3, (4, 3), None),
            (nn.MSELoss, 2, (4, 1), None),
            (nn.BCEWithLogitsLoss, 2, (4, 1), None),
            (nn.BCEWithLogitsLoss, 2, (4, 2), None),
            (nn.CrossEntropyLoss, 3, (4, 3), None),
        ],
        ids=str,
    )
    def test_shapes_that_fit_pass_and_give_one_number(self, criterion, num_classes, outputs, targets):
        given = torch.arange(4) % num_classes if num_classes else torch.zeros(targets)
        loss_fn = LossFunction(criterion(), Net(), meaning_of(num_classes), NAMES)
        loss_fn.check(torch.zeros(outputs), given)
        assert loss_fn(torch.zeros(outputs), given).total.dim() == 0

    @pytest.mark.parametrize("bad", [-0.1, 1.5])
    def test_binary_cross_entropy_refuses_targets_outside_0_to_1(self, bad):
        targets = torch.tensor([[0.0, 1.0], [0.5, bad]])
        with pytest.raises(UserError, match=rf"^loss=chosen: takes targets from 0 to 1, but .*{bad}.*Type loss=mse\.$"):
            loss_function(nn.BCEWithLogitsLoss()).check_targets(targets)
        loss_function(nn.BCEWithLogitsLoss()).check_targets(targets.clamp(0, 1))
        loss_function(nn.MSELoss()).check_targets(targets)

    @pytest.mark.parametrize(
        ("criterion", "good", "bad"),
        [
            (nn.PoissonNLLLoss, 3.0, -1.0),
            (nn.SoftMarginLoss, -1.0, 0.0),
            (nn.HingeEmbeddingLoss, -1.0, 0.5),
            (nn.MultiLabelSoftMarginLoss, 0.0, 2.0),
        ],
    )
    def test_criteria_that_are_defined_for_some_numbers_refuse_others(self, criterion, good, bad):
        """Torch gives a number for them, and one for outputs `[N]` beside targets `[N, 1]`."""
        loss_fn = loss_function(criterion())
        loss_fn.check_targets(torch.tensor([[1.0], [good]]))
        with pytest.raises(UserError, match=r"^loss=chosen: takes targets .*Type loss=mse\.$"):
            loss_fn.check_targets(torch.tensor([[1.0], [bad]]))
        with pytest.raises(UserError, match=r"loss=chosen takes equal shapes"):
            loss_fn.check(torch.zeros(2), torch.tensor([[1.0], [good]]))
        if WANTS[criterion].only:
            with pytest.raises(UserError, match=r"has class labels\. Type loss=cross_entropy\.$"):
                loss_function(criterion(), 3)

    def test_weights_that_are_all_zero_are_refused(self):
        with pytest.raises(UserError, match=r"^loss\.weight: all are 0"):
            loss_function(nn.CrossEntropyLoss(torch.zeros(3)), 3).check(torch.zeros(4, 3), torch.zeros(4).long())

    def test_what_a_model_says_that_it_gives_is_one_of_three(self):
        with pytest.raises(UserError, match=r"^model=net: says gives='softmax'; accepted are logits, probabilities, "):
            loss_function(nn.MSELoss(), 3, Net("softmax"))

    @pytest.mark.parametrize(("num_outputs", "instead"), [(3, "kl_div"), (1, "mse")])
    def test_probabilities_beside_numbers_do_not_go_to_a_loss_of_labels(self, num_outputs, instead):
        with pytest.raises(UserError, match=rf"Type loss={instead}\.$"):
            LossFunction(nn.CrossEntropyLoss(), Net("probabilities"), Numbers(num_outputs), NAMES)

    def test_weights_of_another_length_are_told_by_the_key_of_the_term(self):
        composite = Composite({"ce": {"weight": 1, "criterion": nn.CrossEntropyLoss(torch.ones(2))}})
        with pytest.raises(UserError, match=r"^loss\.terms\.ce\.criterion\.weight: has 2 numbers; 3 are needed"):
            loss_function(composite, 3).check(torch.zeros(4, 3), torch.zeros(4).long())

    def test_a_margin_is_of_one_class_for_each_sample(self):
        with pytest.raises(UserError, match=r"one for each place.* Type loss=cross_entropy\.$"):
            LossFunction(nn.MultiMarginLoss(), Net(), Places(3), NAMES)

    def test_a_loss_of_counts_takes_no_labels(self):
        with pytest.raises(UserError, match=r"takes targets of 0 and more, .* Type loss=bce_with_logits\.$"):
            LossFunction(nn.PoissonNLLLoss(), Net(), Labels(3), NAMES)

    def test_a_composite_is_refused_for_any_of_its_terms(self):
        terms = {"mse": MSE, "nll": {"weight": 1, "criterion": nn.NLLLoss()}}
        with pytest.raises(UserError, match=r"Type loss=cross_entropy\.$"):
            loss_function(Composite(terms), 2)

    @pytest.mark.parametrize(
        "criterion",
        [L2Penalty(), Composite({"l1": {"weight": 1, "criterion": L1Penalty()}})],
        ids=["a penalty", "a composite of penalties"],
    )
    def test_a_loss_that_looks_at_no_target_is_refused(self, criterion):
        with pytest.raises(UserError, match=r"^loss=chosen: .*penalt"):
            loss_function(criterion)
