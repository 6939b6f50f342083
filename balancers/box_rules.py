"""Rules by which operations carry a gradient back from outputs to inputs, box by box (`balancers.boxes`).

Each rule is tried on its operation, element by element, in `tests/balancers/test_box_rules.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor
from torch.autograd.graph import Node

from balancers import losses
from balancers.boxes import ALL, NOTHING, Box, Shares, around
from balancers.torch_private import saved, shape_of

Sizes = tuple[int, ...]
_FEW = 1 << 8  # numbers of an index
_MOST = 1 << 14  # elements of dimensions that a view merges or splits: beyond, the box is that of all of them


@dataclass
class Way:
    """From one output of a node back to one of its inputs.

    Attributes:
        node: of the graph.
        output: number of the output.
        box: where the gradient of the output may be other than 0.
        after: sizes of the output.
        edge: number of the input.
        inputs: sizes of all inputs, ``None`` of those without graph.
        before: sizes of the input.
    """

    node: Node
    output: int
    box: Box
    after: Sizes
    edge: int
    inputs: Sequence[Sizes | None]
    before: Sizes


def carried(node: Node, arrived: Mapping[int, Shares]) -> list[Shares]:
    """For each input of a node, where the tasks' gradients may be other than 0; `ALL` where nothing is known.

    Args:
        node: of the graph.
        arrived: for each output, where the tasks' gradients may be.
    """
    kind, edges = type(node).__name__, node.next_functions
    if len(arrived) == 1 and kind not in PICKING:  # most nodes: of a head, of one task
        (only,) = arrived.values()
        if list(only.values()) == [ALL]:
            return [only] * len(edges)
    rule = RULES.get(kind)
    flows: list[Shares] = [{} for _ in edges]
    if rule is None or (kind not in PICKING and all(b is None for s in arrived.values() for b in s.values())):
        whole: Shares = {task: ALL for shares in arrived.values() for task in shares}
        return [whole for _ in edges]
    inputs = [None if child is None else shape_of(child, number) for child, number in edges]
    with_graph = [k for k, (child, _) in enumerate(edges) if child is not None]
    for output, shares in arrived.items():
        after = shape_of(node, output)
        for task, box in shares.items():
            for k in with_graph:
                before, part = inputs[k], ALL
                if before is not None and after is not None:
                    part = _shortest(rule(Way(node, output, box, after, k, inputs, before)), before)
                if part != NOTHING:
                    flows[k][task] = around(flows[k][task], part) if task in flows[k] else part
    return flows


def _bits(indices: Sequence[int]) -> int:
    if isinstance(indices, range) and indices.step == 1:
        return (1 << len(indices)) - 1 << indices.start
    found = 0
    for index in indices:
        found |= 1 << index
    return found


def _shortest(box: Box, sizes: Sizes) -> Box:
    """The same box, with ``None`` where all of a dimension counts."""
    if box is None:
        return ALL
    if 0 in box:
        return NOTHING
    short = tuple(None if bits is None or bits == (1 << n) - 1 else bits for bits, n in zip(box, sizes, strict=True))
    return ALL if all(bits is None for bits in short) else short


def _filled(box: Box, sizes: Sizes) -> list[int | None]:
    return [None] * len(sizes) if box is None else list(box)


def _signed(number: int) -> int:
    """A number that torch shows as one without sign."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _dim(way: Way, name: str, rank: int) -> int:
    return _signed(saved(way.node, name)) % rank


def _picked(way: Way, dim: int, indices: Sequence[int], keeps: bool) -> Box:
    """The output is some indices of a dimension of the input, whose place it has kept or not."""
    whole = _filled(way.box, way.after)
    if not keeps:
        whole.insert(dim, _bits(indices))
    elif whole[dim] is None:
        whole[dim] = _bits(indices)
    else:
        whole[dim] = _bits([index for k, index in enumerate(indices) if whole[dim] >> k & 1])  # type: ignore[operator]
    return tuple(whole)


def _select(way: Way) -> Box:
    dim = _dim(way, "dim", len(way.before))
    return _picked(way, dim, [_signed(saved(way.node, "index")) % way.before[dim]], keeps=False)


def _slice(way: Way) -> Box:
    dim = _dim(way, "dim", len(way.before))
    part = slice(_signed(saved(way.node, "start")), _signed(saved(way.node, "end")), saved(way.node, "step"))
    return _picked(way, dim, range(way.before[dim])[part], keeps=True)


def _unbind(way: Way) -> Box:
    return _picked(way, _dim(way, "dim", len(way.before)), [way.output], keeps=False)


def _split(way: Way) -> Box:
    dim = _dim(way, "dim", len(way.before))
    begin = way.output * int(saved(way.node, "split_size"))
    return _picked(way, dim, range(begin, begin + way.after[dim]), keeps=True)


def _split_with_sizes(way: Way) -> Box:
    dim = _dim(way, "dim", len(way.before))
    begin = sum(saved(way.node, "split_sizes")[: way.output])
    return _picked(way, dim, range(begin, begin + way.after[dim]), keeps=True)


def _index_select(way: Way) -> Box:
    return _listed(way, _dim(way, "dim", len(way.before)), saved(way.node, "index").flatten())


def _index(way: Way) -> Box:
    """Indexing with one list of numbers, or a mask, of one dimension."""
    given = [(dim, index) for dim, index in enumerate(saved(way.node, "indices")) if index is not None]
    return _listed(way, *given[0]) if len(given) == 1 and given[0][1].dim() == 1 else ALL


def _listed(way: Way, dim: int, index: Tensor) -> Box:
    """The output is what a tensor of numbers, or a mask, names of a dimension; a long one is not read."""
    if index.numel() > _FEW or not losses.on_host(index):
        whole = _filled(way.box, way.after)
        whole[dim] = None
        return tuple(whole)
    numbers = index.tolist()
    if index.element_size() == 1:  # a mask
        return _picked(way, dim, [number for number, kept in enumerate(numbers) if kept], keeps=True)
    return _picked(way, dim, [number % way.before[dim] for number in numbers], keeps=True)


def _cat(way: Way) -> Box:
    if way.box is None:
        return ALL
    dim = _dim(way, "dim", len(way.after))
    if len(way.before) != len(way.after):
        return ALL  # an empty one
    sizes = [None if s is None else s[dim] if len(s) == len(way.after) else 0 for s in way.inputs]
    ahead, behind = sizes[: way.edge], sizes[way.edge + 1 :]
    if None not in ahead:
        begin = sum(ahead)  # type: ignore[arg-type]
    elif None not in behind:
        begin = way.after[dim] - sum(behind) - way.before[dim]  # type: ignore[arg-type]
    else:
        return ALL  # sizes of inputs without graph are not kept
    bits = way.box[dim]
    own = None if bits is None else bits >> begin & (1 << way.before[dim]) - 1
    return (*way.box[:dim], own, *way.box[dim + 1 :])


def _stack(way: Way) -> Box:
    if way.box is None:
        return ALL
    dim = _dim(way, "dim", len(way.after))
    bits = way.box[dim]
    if bits is None or bits >> way.edge & 1:
        return (*way.box[:dim], *way.box[dim + 1 :])
    return NOTHING


def _view(way: Way) -> Box:
    return ALL if way.box is None else _regrouped(way.box, way.after, way.before)


@lru_cache(4096)
def _regrouped(box: Sequence[int | None], after: Sizes, before: Sizes) -> Box:
    """The box of a tensor of other sizes with the same elements in the same order."""
    whole: list[int | None] = [None] * len(before)
    if 0 in after:
        return ALL
    for new, old in _groups(after, before):
        if all(box[d] is None for d in new):
            continue
        long, kept = [d for d in new if after[d] > 1], [d for d in old if before[d] > 1]
        if len(long) == len(kept) == 1:
            whole[kept[0]] = box[long[0]]
        elif math.prod(after[d] for d in new) <= _MOST:
            places = _places([box[d] for d in new], [after[d] for d in new])
            for d in old:
                stride = math.prod(before[e] for e in old if e > d)
                whole[d] = _bits([place // stride % before[d] for place in places])
    return tuple(whole)


def _groups(after: Sizes, before: Sizes) -> list[tuple[list[int], list[int]]]:
    """Dimensions of the one that are those of the other, as few together as can be."""
    groups = []
    i = j = 0
    while i < len(after) or j < len(before):
        first, second, a, b = i, j, 1, 1
        while (i, j) == (first, second) or a != b:
            if (a <= b and i < len(after)) or j == len(before):
                a, i = a * after[i], i + 1
            else:
                b, j = b * before[j], j + 1
        groups.append((list(range(first, i)), list(range(second, j))))
    return groups


def _places(box: Sequence[int | None], sizes: Sequence[int]) -> list[int]:
    """The numbers of a box's elements, counted row by row."""
    found = [0]
    for bits, size in zip(box, sizes, strict=True):
        kept = [k for k in range(size) if bits is None or bits >> k & 1]
        found = [place * size + k for place in found for k in kept]
    return found


def _permute(way: Way) -> Box:
    """Transpositions too: ``dims[k]`` is the dimension of the input that is the k-th of the output."""
    kind, rank = type(way.node).__name__, len(way.before)
    dims = list(range(rank))
    if kind == "PermuteBackward0":
        dims = [_signed(d) % rank for d in saved(way.node, "dims")]
    elif kind == "TBackward0":
        dims.reverse()
    elif rank:
        one, other = _dim(way, "dim0", rank), _dim(way, "dim1", rank)
        dims[one], dims[other] = other, one
    whole: list[int | None] = [None] * rank
    for dim, bits in zip(dims, _filled(way.box, way.after), strict=True):
        whole[dim] = bits
    return tuple(whole)


def _each(way: Way) -> Box:
    """Element by element, with broadcasting; a loss that is also reduced to a number depends on all."""
    ahead = len(way.after) - len(way.before)
    if way.box is None or ahead < 0:
        return ALL
    pairs = zip(way.box[ahead:], way.before, way.after[ahead:], strict=True)
    return tuple(bits if before == after else None for bits, before, after in pairs)


def _reduced(way: Way) -> Box:
    """A number for all elements of some dimensions."""
    dims, rank = saved(way.node, "dim"), len(way.before)
    if way.box is None or dims is None or dims == ():
        return ALL
    gone = {_signed(d) % rank for d in ([dims] if isinstance(dims, int) else dims)}
    kept = iter(way.box)
    keeps = saved(way.node, "keepdim")
    whole = [(next(kept), None)[d in gone] if keeps or d not in gone else None for d in range(rank)]
    return tuple(whole)


def _along(way: Way) -> Box:
    """All elements of one dimension depend on one another."""
    if way.box is None:
        return ALL
    dim = _dim(way, "dim", len(way.before))
    return (*way.box[:dim], None, *way.box[dim + 1 :])


def _class(way: Way) -> Box:
    """The score of a class, of dimension 1, is the output."""
    return ALL if way.box is None else (*way.box[:1], None, *way.box[1:])


def _batch(way: Way) -> Box:
    """Matrix by matrix."""
    if way.box is None or len(way.before) != 3:
        return ALL
    first, rows, columns = way.box
    left = way.edge == (type(way.node).__name__ == "BaddbmmBackward0")
    return (first, rows, None) if left else (first, None, columns)


_EACH = """
    Abs Add Addcmul Alias BinaryCrossEntropy BinaryCrossEntropyWithLogits Clamp ClampMax ClampMin Clone Cos Div Elu
    Exp Expand Expm1 Gelu HuberLoss LeakyRelu Lerp Log Log1P LogSigmoid MaskedFill Maximum Minimum MseLoss Mul
    NanToNum NativeDropout Neg Pow Reciprocal Relu Rsqrt Rsub Sigmoid Silu Sin SmoothL1Loss Softplus Sqrt Sub Tanh
    ToCopy Where"""


def _kinds(rule: Callable[[Way], Box], names: str, numbers: Sequence[int] = (0,)) -> dict[str, Callable[[Way], Box]]:
    return {f"{name}Backward{k}": rule for name in names.split() for k in numbers}  # k tells overloads apart


RULES: dict[str, Callable[[Way], Box]] = {
    **_kinds(_select, "Select"),
    **_kinds(_slice, "Slice"),
    **_kinds(_unbind, "Unbind"),
    **_kinds(_split, "Split UnsafeSplit"),
    **_kinds(_split_with_sizes, "SplitWithSizes"),
    **_kinds(_index_select, "IndexSelect"),
    **_kinds(_index, "Index"),
    **_kinds(_cat, "Cat"),
    **_kinds(_stack, "Stack"),
    **_kinds(_view, "View UnsafeView ReshapeAlias Unsqueeze"),
    **_kinds(_view, "Squeeze", range(4)),
    **_kinds(_permute, "T Transpose Permute"),
    **_kinds(_each, _EACH, range(4)),
    **_kinds(_reduced, "Amax Amin LinalgVectorNorm Logsumexp Max Min Nansum Std Var"),
    **_kinds(_reduced, "Mean Prod Sum", [1]),
    **_kinds(_along, "Softmax LogSoftmax Cumsum"),
    **_kinds(_class, "NllLoss NllLoss2D"),
    **_kinds(_batch, "Bmm Baddbmm"),
}
"""For each kind of node the rule by which a box of its output becomes one of an input."""

_PARTS = ("Select", "Slice", "Unbind", "Split", "UnsafeSplit", "SplitWithSizes", "IndexSelect", "Index")
PICKING = {f"{name}Backward0" for name in _PARTS}
"""The kinds of node whose output is a part of their input."""
