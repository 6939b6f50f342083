"""Networks that join the outputs of heads in one tensor, or compute losses as a vector, each with its path."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.helpers.networks import ONE, TASKS, Case, case, layers, of

T = 3


@dataclass
class Heads:
    """A linear W and towers of one column each."""

    W: nn.Module
    towers: nn.ModuleList
    x: Tensor

    def outputs(self, x=None):
        features = self.W(self.x if x is None else x).relu()
        return [tower(features) for tower in self.towers]

    def case(self, tasks: Callable[[list[Tensor]], list[Tensor]]):
        return of([self.W, self.towers], self.W, lambda: tasks(self.outputs()))

    def losses(self, tasks: Callable[[list[Tensor]], list[Tensor]]):
        leaves = [*self.W.parameters(), *self.towers.parameters()]
        return Case(lambda: dict(zip("abcdef", tasks(self.outputs()), strict=False)), leaves, self.W)


def heads(count=T, columns=1):
    towers = nn.ModuleList([nn.Sequential(*layers(6, 4), nn.Linear(4, columns)) for _ in range(count)])
    return Heads(nn.Linear(5, 6), towers, torch.randn(8, 5))


def columns(take: Callable[[Tensor], list[Tensor]], count=T):
    """A case of a tensor of columns, taken apart."""
    return heads(count).case(lambda outputs: take(torch.cat(outputs, 1)))


WAYS: dict[str, Callable[[Tensor], list[Tensor]]] = {
    "select": lambda out: [out[:, 0], out[:, 1], out[:, -1]],
    "select from the first dimension": lambda out: list(out.t()),
    "slice": lambda out: [out[:, :1], out[..., 1:2], out[:, 2:]],
    "slice with a step": lambda out: [out[:, ::2], out[:, 1::2]],
    "narrow": lambda out: [out.narrow(1, i, 1) for i in range(T)],
    "unbind": lambda out: list(out.unbind(1)),
    "chunk": lambda out: list(out.chunk(T, -1)),
    "split": lambda out: list(out.split(1, dim=1)),
    "split of two sizes": lambda out: list(out.split([2, 1], dim=-1)),
    "tensor split": lambda out: list(out.tensor_split(T, dim=1)),
    "index of a list": lambda out: [out[:, [0, 2]], out[:, [1]]],
    "index of a list from the end": lambda out: [out[:, [-1]], out[:, [0, 1]]],
    "index select": lambda out: [out.index_select(1, torch.tensor([i])) for i in range(T)],
    "mask of rows": lambda out: [out[torch.arange(8) % (i + 2) > 0, i] for i in range(T)],
    "mask of rows first": lambda out: [out[torch.arange(8) % (i + 2) > 0][:, i] for i in range(T)],
    "mask of columns": lambda out: [out[:, torch.arange(T) == 0], out[:, 1], out[:, 2]],
    "view": lambda out: [o.view(-1) for o in out.view(2, 4, T).split(1, 2)],
    "reshape of a transposed": lambda out: list(out.t().reshape(T, 2, 4)),
    "flat": lambda out: [out.t().reshape(-1)[8 * i : 8 * (i + 1)] for i in range(T)],
    "flat, row by row": lambda out: [out.flatten()[i::T] for i in range(T)],
    "squeeze": lambda out: [o.squeeze() for o in out.unsqueeze(0).unsqueeze(-1).unbind(2)],
    "permute": lambda out: list(out.unsqueeze(0).permute(2, 0, 1)),
    "two columns of a task": lambda out: [out[:, 0:2], out[:, 2]],
    "columns of a task apart": lambda out: [out[:, 0] * out[:, 2], out[:, 1]],
    "after one activation": lambda out: list(out.sigmoid().unbind(1)),
    "after one scale": lambda out: list((out * torch.arange(1.0, 4.0) + 1).unbind(1)),
    "a dict of rows": lambda out: [torch.stack([row[i] for row in out]) for i in range(T)],
}
for _name, _take in WAYS.items():

    @case(ONE, f"columns by {_name}")
    def _(take=_take):
        return columns(take)


VECTORS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "squares": lambda out, y: ((out - y) ** 2).mean(0),
    "mse_loss": lambda out, y: F.mse_loss(out, y, reduction="none").mean(0),
    "binary cross entropy": lambda out, y: F.binary_cross_entropy(out.sigmoid(), y.sigmoid(), reduction="none").sum(
        0
    ),
    "with logits": lambda out, y: F.binary_cross_entropy_with_logits(out, y.sigmoid(), reduction="none").mean(0),
    "smooth L1": lambda out, y: F.smooth_l1_loss(out, y, reduction="none").mean(dim=0, keepdim=True)[0],
    "L1": lambda out, y: (out - y).abs().mean(0),
    "labels that are missing": lambda out, y: ((out - y) ** 2 * (y > 0)).sum(0) / (y > 0).sum(0).clamp(min=1),
    "rows apart": lambda out, y: torch.stack([(row - y[k]).square() for k, row in enumerate(out)]).mean(0),
    "a norm": lambda out, y: (out - y).norm(dim=0),
    "cross entropy": lambda out, y: F.cross_entropy(
        torch.stack([out, -out], 1), (y > 0).long(), reduction="none"
    ).mean(0),
}
for _name, _vector in VECTORS.items():

    @case(ONE, f"a vector of losses by {_name}")
    def _(vector=_vector):
        y = torch.randn(8, T)
        return heads().losses(lambda outputs: list(vector(torch.cat(outputs, 1), y)))

    @case(ONE, f"one head layer, a vector of losses by {_name}")
    def _(vector=_vector):
        W, head, x, y = nn.Linear(5, 6), nn.Linear(6, T), torch.randn(8, 5), torch.randn(8, T)
        leaves = [*W.parameters(), *head.parameters()]
        return Case(lambda: dict(zip("abc", vector(head(W(x).relu()), y).unbind(), strict=True)), leaves, W)


@case(ONE)
def heads_whose_outputs_are_stacked():
    return heads().case(lambda outputs: list(torch.stack(outputs)))


@case(ONE)
def losses_that_were_stacked():
    return heads().losses(lambda outputs: list(torch.stack([o.square().mean() for o in outputs])))


@case(ONE)
def a_stack_of_columns():
    def take(outputs):
        both = torch.stack([torch.cat(outputs[:2], 1), torch.cat(outputs[2:], 1)], 1)
        return [both[:, i // 2, i % 2] for i in range(4)]

    return heads(4).case(take)


@case(ONE)
def columns_of_stacks():
    def take(outputs):
        both = torch.cat([torch.stack(outputs[:2]), torch.stack(outputs[2:])])
        return [both[i] for i in range(4)]

    return heads(4).case(take)


@case(ONE)
def columns_beside_numbers_without_graph():
    def take(outputs):
        out = torch.cat([outputs[0], outputs[1], torch.ones(8, 2), outputs[2]], -1)
        return [out[:, 0], out[:, 1], out[:, 4]]

    return heads().case(take)


@case(ONE)
def columns_of_which_no_task_reads_one():
    return heads().case(lambda outputs: [torch.cat(outputs, 1)[:, i] for i in (0, 2)])


@case(ONE)
def columns_of_one_layer():
    W, head, x = nn.Linear(5, 6), nn.Linear(6, T), torch.randn(8, 5)
    return of([W, head], W, lambda: list(head(W(x).relu()).unbind(1)))


@case(ONE)
def columns_of_one_layer_behind_a_hidden_one_on_tokens():
    W, hidden, head, x = nn.Linear(5, 6), nn.Linear(6, 7, bias=False), nn.Linear(7, T), torch.randn(4, 3, 5)
    return of([W, hidden, head], W, lambda: list(head(hidden(W(x).relu()).tanh()).unbind(2)))


@case(ONE)
def columns_of_one_layer_that_sees_several_tokens():
    W, head, x = nn.Linear(5, 6), nn.Linear(3 * 6, T), torch.randn(4, 3, 5)
    return of([W, head], W, lambda: list(head(W(x).relu().flatten(1)).unbind(1)))


@case(ONE)
def a_head_of_two_tasks_among_others():
    W, one, two, pair = nn.Linear(5, 6), layers(6, 4, 1), layers(6, 4, 1), layers(6, 4, 2)
    x = torch.randn(8, 5)

    def forward():
        features = W(x).tanh()
        return list(torch.cat([one(features), pair(features), two(features)], 1).unbind(1))

    return of([W, one, two, pair], W, forward)


@case(ONE)
def columns_and_a_head_apart():
    towers = heads()
    return towers.case(lambda outputs: [*torch.cat(outputs[:2], 1).unbind(1), outputs[2]])


@case(ONE)
def dense_outputs_of_one_convolution():
    W, after, head, x = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1), torch.randn(2, 3, 6, 6)

    def forward():
        out = head(after(W(x)).relu()).view(2, 2, 3, 4, 4).permute(0, 1, 3, 4, 2)
        return [out[..., :1].sigmoid(), out[..., 1:3].exp()]

    return of([W, after, head], W, forward)


@case(ONE)
def scales_of_a_detector_joined():
    """Boxes and scores of two scales, each in one tensor, out of heads that the scales share."""
    body, laterals = nn.Conv2d(3, 4, 3, padding=1), nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, 2, 1)])
    box, score, x = nn.Conv2d(4, 4, 1), nn.Conv2d(4, 3, 1), torch.randn(2, 3, 8, 8)

    def forward():
        base = body(x).relu()
        scales = [lateral(base).relu() for lateral in laterals]
        rows = [torch.cat([box(f), score(f)], 1).flatten(2).transpose(1, 2) for f in scales]
        out = torch.cat(rows, 1)
        return [out[..., :4], out[..., 4], out[..., 5:]]

    return of([body, laterals, box, score], laterals, forward)


@case(ONE)
def a_bank_of_towers():
    W, bank, x = nn.Linear(5, 6), nn.Parameter(torch.randn(T, 6, 4)), torch.randn(8, 5)
    last = nn.Parameter(torch.randn(T, 4, 1))

    def forward():
        hidden = torch.einsum("nd,tde->tne", W(x).relu(), bank).relu()
        return list(torch.bmm(hidden, last).squeeze(-1).t().unbind(1))

    return of([W], W, forward, [bank, last])


@case(ONE)
def rows_of_each_task_in_one_batch():
    W, towers, x = nn.Linear(5, 6), [nn.Linear(6, 1) for _ in range(T)], torch.randn(9, 5)

    def forward():
        rows = torch.nn.functional.layer_norm(W(x), (6,)).split([2, 3, 4])
        return [tower(row) for tower, row in zip(towers, rows, strict=True)]

    return of([W, *towers], W, forward)


@case(ONE)
def rows_of_each_task_and_a_shared_scale():
    """Followed too far, the tasks would be apart in what is W."""
    W, towers, x = nn.Parameter(torch.randn(6)), [nn.Linear(6, 1) for _ in range(T)], torch.randn(9, 6)

    def forward():
        return [tower(row) for tower, row in zip(towers, (W * x).split([2, 3, 4]), strict=True)]

    return of(towers, W, forward, [W])


@case(ONE)
def towers_that_are_pieces_of_one_layer():
    W, wide, x = nn.Linear(5, 6), nn.Linear(6, T * 4), torch.randn(8, 5)
    towers = nn.ModuleList([nn.Linear(4, 1) for _ in range(T)])

    def forward():
        pieces = wide(W(x).relu()).relu().chunk(T, 1)
        out = torch.cat([tower(piece) for tower, piece in zip(towers, pieces, strict=True)], 1)
        return list(out.unbind(1))

    return of([W, wide, towers], W, forward)


@case(ONE)
def a_column_that_does_not_depend_on_w():
    def take(outputs):
        out = torch.cat([*outputs[:2], outputs[2].detach() + outputs[1].sum() * 0], 1)
        return list(out.unbind(1))

    return heads().case(take)


@case(ONE)
def a_column_without_graph():
    return heads().case(lambda o: list(torch.cat([o[0], o[1], o[2].detach()], 1).unbind(1)))


@case(TASKS)
def a_task_that_reads_two_columns_of_others():
    def take(outputs):
        out = torch.cat(outputs, 1)
        return [*out.unbind(1), out.sum(1)]

    return heads().case(take)


@case(TASKS)
def columns_that_are_normalized_together():
    return columns(lambda out: list(F.layer_norm(out, (T,)).unbind(1)))


@case(TASKS)
def shares_of_the_tasks():
    return columns(lambda out: list(out.softmax(1).unbind(1)))


@case(TASKS)
def columns_written_in_place():
    def take(outputs):
        out = torch.zeros(8, T)
        for i, output in enumerate(outputs):
            out[:, i] = output[:, 0]
        return list(out.unbind(1))

    return heads().case(take)


@case(TASKS)
def columns_between_numbers_without_graph():
    """`cat` does not keep the sizes of what has no graph."""
    towers, ones = heads(), torch.ones(8, 1)
    return towers.case(lambda o: list(torch.cat([ones, o[0], o[1], ones, o[2]], 1).unbind(1))[1:])
