"""A box never leaves out an element to which an operation sends gradient; every rule is tried on its operation."""

from itertools import product

import pytest
import torch
from torch.nn import functional as F

from balancers.box_rules import RULES, carried
from balancers.boxes import ALL, confined

Y = torch.full((4, 3), 0.25, dtype=torch.float64)
KEEPS = torch.arange(12).view(4, 3) % 2 == 0
PLAIN = ["Abs", "Clone", "Cos", "Exp", "Expm1", "Log", "Log1P", "Neg", "Reciprocal", "Relu", "Rsqrt"]
PLAIN += ["Sigmoid", "Sin", "Sqrt", "Tanh"]
SAMPLES = {
    "Select": [lambda x: x[:, -1], lambda x: x[2]],
    "Slice": [lambda x: x[:, 1:], lambda x: x[-3:-1], lambda x: x[:, ::2]],
    "Unbind": [lambda x: x.unbind(-1)],
    "Split": [lambda x: x.split(2, 1), lambda x: x.chunk(2, -1)],
    "UnsafeSplit": [lambda x: x.unsafe_split(2, 1)],
    "SplitWithSizes": [lambda x: x.split([1, 2], -1)],
    "IndexSelect": [lambda x: x.index_select(-1, torch.tensor([2, 0]))],
    "Index": [
        lambda x: x[:, [0, -1]],
        lambda x: x[torch.tensor([True, False, False, True])],
        lambda x: x[:, [[0], [1]]],
        lambda x: x[KEEPS],
        lambda x: x[[0, 1], [1, 2]],
    ],
    "Cat": [
        lambda x: torch.cat([x, torch.ones(4, 2), x], -1),
        lambda x: torch.cat([torch.ones(1, 3), x, torch.ones(1, 3)]),
        lambda x: torch.cat([torch.ones(0), x.flatten()]),
    ],
    "Stack": [lambda x: torch.stack([x, torch.ones(4, 3)], -1), lambda x: torch.stack([x, 2 * x])],
    "View": [
        lambda x: x.view(3, 4),
        lambda x: x.view(2, 2, 3),
        lambda x: x.view(12),
        lambda x: x.view(4, 1, 3, 1),
        lambda x: x.view(2, 6),
    ],
    "UnsafeView": [lambda x: torch.ops.aten._unsafe_view(x, [6, 2])],
    "ReshapeAlias": [lambda x: torch.ops.aten._reshape_alias(x, [12], [1])],
    "Unsqueeze": [lambda x: x.unsqueeze(-1), lambda x: x.unsqueeze(1)],
    "Squeeze": [
        lambda x: x.view(4, 1, 3).squeeze(),
        lambda x: x.view(4, 1, 3).squeeze(1),
        lambda x: x.view(1, 4, 1, 3).squeeze((0, 2)),
    ],
    "T": [lambda x: x.t(), lambda x: x[0].t()],
    "Transpose": [lambda x: x.transpose(0, -1)],
    "Permute": [lambda x: x.view(2, 2, 3).permute(-1, 0, 1)],
    "Expand": [lambda x: x.expand(2, 4, 3), lambda x: x[:, :1].expand(4, 5)],
    "Add": [lambda x: x + x, lambda x: x[:, :1] + x[:1], lambda x: x + 1],
    "Sub": [lambda x: x - x[0]],
    "Rsub": [lambda x: torch.rsub(x, 1)],
    "Mul": [lambda x: x * x[:, 1:2], lambda x: x * 2],
    "Div": [lambda x: Y / x, lambda x: x / x[2, 2]],
    "Lerp": [lambda x: torch.lerp(x, Y, 0.3), lambda x: torch.lerp(x, Y, x)],
    "Addcmul": [lambda x: torch.addcmul(x, x, Y)],
    "Maximum": [lambda x: torch.maximum(x, Y)],
    "Minimum": [lambda x: torch.minimum(x, Y)],
    "Where": [lambda x: torch.where(KEEPS, x, x[0])],
    "MaskedFill": [lambda x: x.masked_fill(KEEPS, 0)],
    "Pow": [lambda x: x**2, lambda x: x**x, lambda x: 2**x],
    "Clamp": [lambda x: x.clamp(0.1, 0.9), lambda x: x.clamp(Y)],
    "ClampMin": [lambda x: torch.clamp_min(x, 0.1)],
    "ClampMax": [lambda x: torch.clamp_max(x, 0.9)],
    "MseLoss": [lambda x: F.mse_loss(x, Y, reduction="none"), lambda x: F.mse_loss(x, Y)],
    "SmoothL1Loss": [lambda x: F.smooth_l1_loss(x, Y, reduction="none")],
    "HuberLoss": [lambda x: F.huber_loss(x, Y, reduction="none")],
    "BinaryCrossEntropy": [lambda x: F.binary_cross_entropy(x, Y, reduction="none")],
    "BinaryCrossEntropyWithLogits": [lambda x: F.binary_cross_entropy_with_logits(x, Y, reduction="none")],
    "Amax": [lambda x: x.amax(1), lambda x: x.amax((0, 1))],
    "Amin": [lambda x: x.amin(0, keepdim=True)],
    "LinalgVectorNorm": [lambda x: x.norm(dim=0), lambda x: torch.linalg.vector_norm(x)],
    "Logsumexp": [lambda x: x.logsumexp(-1)],
    "Max": [lambda x: x.max(1).values],
    "Min": [lambda x: x.min(0, keepdim=True).values],
    "Mean": [lambda x: x.mean(0), lambda x: x.mean(-1, keepdim=True)],
    "Nansum": [lambda x: x.nansum(0)],
    "Prod": [lambda x: x.prod(0)],
    "Std": [lambda x: x.std(0), lambda x: x.std()],
    "Sum": [lambda x: x.sum(1), lambda x: x.view(2, 2, 3).sum((0, -1))],
    "Var": [lambda x: x.var(-1)],
    "Softmax": [lambda x: x.softmax(-1)],
    "LogSoftmax": [lambda x: x.log_softmax(0)],
    "Cumsum": [lambda x: x.cumsum(1)],
    "NllLoss": [lambda x: F.nll_loss(x, torch.tensor([0, 2, 1, 0]), reduction="none")],
    "NllLoss2D": [
        lambda x: torch.ops.aten.nll_loss2d_forward(x.view(2, 2, 3, 1), torch.zeros(2, 3, 1).long(), None, 0, -100)[0]
    ],
    "Bmm": [lambda x: torch.bmm(x.view(2, 2, 3), x.view(2, 3, 2))],
    "Baddbmm": [lambda x: torch.baddbmm(x.view(3, 2, 2), x.view(3, 2, 2), x.view(3, 2, 2))],
    "Alias": [lambda x: torch.ops.aten.alias(x)],
    "NativeDropout": [lambda x: torch.native_dropout(x, 0.5, True)[0]],
    "ToCopy": [lambda x: x.float()],
    "Gelu": [F.gelu],
    "Elu": [F.elu],
    "LeakyRelu": [F.leaky_relu],
    "LogSigmoid": [F.logsigmoid],
    "NanToNum": [torch.nan_to_num],
    "Silu": [F.silu],
    "Softplus": [F.softplus],
    **{name: [getattr(torch, name.lower())] for name in PLAIN},
}


@pytest.fixture(autouse=True)
def repeatable():
    torch.manual_seed(0)


def kinds():
    return {kind.rstrip("0123456789").removesuffix("Backward") for kind in RULES}


def test_every_rule_has_an_operation_that_tries_it():
    assert kinds() == set(SAMPLES)


@pytest.mark.parametrize("name", SAMPLES)
def test_what_an_element_sends_back_lies_in_its_box(name):
    narrower = False
    for call in SAMPLES[name]:
        found = call(torch.rand(4, 3, dtype=torch.float64).requires_grad_() * 0.8 + 0.1)
        for output in found if isinstance(found, tuple | list) else [found]:
            node = output.grad_fn
            assert type(node).__name__ in RULES, f"torch calls the node of {name} {type(node).__name__} now"
            for place in product(*map(range, output.shape)):
                narrower |= check(node, output, place)
    assert narrower, "no element has a box smaller than the whole"


def check(node, output, place):
    """One element of an output; whether some input has a smaller box than all of it."""
    gradient = torch.zeros_like(output)
    gradient[place] = 1
    given = [None] * len(node._input_metadata)
    given[output.output_nr] = gradient
    sent = node(*given)
    shares = carried(node, {output.output_nr: {0: tuple(1 << k for k in place) if place else ALL}})
    narrower = False
    for k, part in enumerate(sent if isinstance(sent, tuple) else (sent,)):
        child, number = node.next_functions[k]
        if child is None:
            continue
        part = part.sum_to_size(child._input_metadata[number].shape)  # as the engine does
        if 0 not in shares[k]:
            assert not part.any()
        else:
            torch.testing.assert_close(confined(part, shares[k][0]), part)
        narrower |= shares[k] != {0: ALL}
    return narrower
