"""Networks of every shape that a graph can have around the shared layer, each with the path that fits it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

ONE, TASKS = "one pass", "task by task"


@dataclass
class Case:
    """Losses of a network as a function, its leaves, and W."""

    losses: Callable[[], dict[str, Tensor]]
    leaves: list[Tensor]
    shared: nn.Module | nn.Parameter | list[nn.Parameter]


CASES: dict[str, tuple[str, Callable[[], Case]]] = {}


def case(path, name=""):
    def register(make):
        CASES[name or make.__name__.replace("_", " ")] = (path, make)
        return make

    return register


def of(modules, shared, forward: Callable[[], Mapping[str, Tensor] | list[Tensor]], leaves=()):
    """A case of modules, whose ``forward`` gives outputs (squared to losses, of unlike scales)."""

    def losses():
        outputs = forward()
        named = outputs if isinstance(outputs, Mapping) else dict(zip("abcdefgh", outputs, strict=False))
        return {task: 10.0**i * output.square().mean() for i, (task, output) in enumerate(named.items())}

    found = [p for module in modules for p in module.parameters()] + list(leaves)
    return Case(losses, list(dict.fromkeys(found)), shared)


def layers(*sizes, activation=nn.ReLU):
    return nn.Sequential(*[m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), activation())])


def linear(activation, rank=2, bias=True, tasks=4):
    trunk, W = layers(5, 7), nn.Linear(7, 6, bias=bias)
    heads = [nn.Linear(6, k + 1) for k in range(tasks)]
    x = torch.randn(*[3] * (rank - 1), 5)

    def forward():
        features = activation(W(trunk(x)))
        return [head(features) for head in heads]

    return of([trunk, W, *heads], W, forward)


@case(ONE)
def linear_and_relu():
    return linear(torch.relu)


@case(ONE)
def linear_on_tokens():
    return linear(torch.relu, rank=3)


@case(ONE)
def linear_without_bias_on_four_dimensions():
    return linear(torch.relu, rank=4, bias=False)


@case(ONE)
def linear_and_nothing():
    return linear(lambda z: z)


@case(ONE)
def linear_and_gelu():
    return linear(nn.functional.gelu, rank=3)


@case(ONE)
def linear_and_tanh_gelu():
    return linear(nn.GELU("tanh"))


@case(ONE)
def linear_and_silu():
    return linear(nn.functional.silu, rank=3)


@case(ONE)
def linear_tanh_and_sigmoid():
    return linear(lambda z: z.tanh().sigmoid())


@case(ONE)
def linear_and_relu_in_place():
    return linear(nn.ReLU(inplace=True))


@case(ONE)
def linear_and_layer_norm():
    return linear(nn.LayerNorm(6), rank=3)


@case(ONE)
def linear_then_twice_the_features():
    return linear(lambda z: z.relu() + z.sin())


@case(ONE)
def many_tasks_of_large_features():
    """More than goes into one product."""
    W, heads = nn.Linear(9, 512), [nn.Linear(512, 1) for _ in range(7)]
    x = torch.randn(100, 9)

    def forward():
        features = W(x).relu()
        return [head(features) for head in heads]

    return of([W, *heads], W, forward)


@case(ONE)
def weight_alone_is_shared():
    found = linear(torch.relu)
    return Case(found.losses, found.leaves, found.shared.weight)


@case(ONE)
def parameters_in_another_order():
    found = linear(torch.relu)
    return Case(found.losses, found.leaves, [found.shared.bias, found.shared.weight])


@case(ONE)
def plain_product():
    W, x, heads = nn.Parameter(torch.randn(5, 6)), torch.randn(8, 5), [nn.Linear(6, 1) for _ in range(3)]
    return of(heads, W, lambda: [head(features) for features in [(x @ W).relu()] for head in heads], [W])


@case(ONE)
def layer_used_twice_in_the_trunk():
    W, heads = nn.Linear(6, 6), [nn.Linear(6, 1) for _ in range(3)]
    x = torch.randn(8, 6)
    return of([W, *heads], W, lambda: [head(f) for f in [W(W(x).relu()).relu()] for head in heads])


@case(ONE)
def last_of_several_shared_layers():
    trunk, heads = layers(5, 7, 6), [nn.Linear(6, 1) for _ in range(3)]
    x = torch.randn(8, 5)
    return of([trunk, *heads], trunk, lambda: [head(f) for f in [trunk(x)] for head in heads])


@case(ONE)
def convolutions_with_batch_norm():
    trunk = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3))
    after, heads = nn.Sequential(nn.BatchNorm2d(5), nn.ReLU()), [nn.Conv2d(5, k + 1, 1) for k in range(3)]
    x = torch.randn(2, 3, 8, 8)
    return of([trunk, after, *heads], trunk[-1], lambda: [h(f) for f in [after(trunk(x))] for h in heads])


@case(ONE)
def features_of_several_scales():
    """A dict of features, as of a pyramid; each head reads the scales it wants."""
    body, lateral = nn.Conv2d(3, 4, 3, padding=1), nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3, 2, 1)])
    heads = nn.ModuleList([nn.Conv2d(4, 1, 1) for _ in range(3)])
    x = torch.randn(2, 3, 8, 8)

    def forward():
        base = body(x).relu()
        features = {"p2": lateral[0](base), "p3": lateral[1](base)}
        return [
            heads[0](features["p2"]),
            heads[1](features["p3"]),
            heads[2](features["p2"]).mean() + heads[2](features["p3"]).mean(),
        ]

    return of([body, lateral, heads], lateral, forward)


@case(ONE)
def a_tuple_of_features_from_one_operation():
    W, heads = nn.Linear(5, 8), [nn.Linear(4, 1) for _ in range(3)]
    x = torch.randn(8, 5)

    def forward():
        left, right = W(x).chunk(2, dim=1)
        return [heads[0](left), heads[1](right), heads[2](left * right)]

    return of([W, *heads], W, forward)


@case(ONE)
def a_decoder_that_two_of_three_share():
    W, decoder, heads = nn.Linear(5, 6), nn.Linear(6, 6), [nn.Linear(6, 1) for _ in range(3)]
    x = torch.randn(8, 5)

    def forward():
        features = W(x).relu()
        decoded = decoder(features).relu()
        return [heads[0](decoded), heads[1](decoded), heads[2](features)]

    return of([W, decoder, *heads], W, forward)


@case(ONE)
def a_skip_connection_around_the_shared_layer():
    trunk, W, heads = nn.Linear(5, 6), nn.Linear(6, 6), [nn.Linear(6, 1) for _ in range(3)]
    x = torch.randn(8, 5)

    def forward():
        early = trunk(x).relu()
        features = W(early).relu()
        return [heads[0](features), heads[1](features + early), heads[2](features * early.mean())]

    return of([trunk, W, *heads], W, forward)


@case(ONE)
def heads_that_share_a_layer_of_their_own():
    W, tied = nn.Linear(5, 6), nn.Linear(6, 1)
    x = torch.randn(8, 5)
    return of([W, tied], W, lambda: [tied(f * k) for f in [W(x).relu()] for k in (1, 2, 3)])


@case(ONE)
def heads_tied_to_a_layer_of_the_trunk():
    trunk, W = nn.Linear(6, 6), nn.Linear(6, 6)
    x = torch.randn(8, 6)
    return of([trunk, W], W, lambda: [trunk(f) * k for f in [W(trunk(x).relu()).relu()] for k in (1, 2, 3)])


@case(ONE)
def a_head_that_reads_only_a_part_of_w():
    W = nn.ModuleList([nn.Linear(5, 6), nn.Linear(5, 6)])
    x = torch.randn(8, 5)

    def forward():
        one, two = W[0](x), W[1](x)
        return [one.sin(), two.cos(), one * two]

    return of([W], W, forward)


@case(ONE)
def a_trunk_recomputed_at_need():
    trunk, W, heads = layers(5, 7), nn.Linear(7, 6), [nn.Linear(6, 1) for _ in range(3)]
    x = torch.randn(8, 5)

    def forward():
        features = checkpoint(lambda x: W(trunk(x)).relu(), x, use_reentrant=False)
        return [head(features) for head in heads]

    return of([trunk, W, *heads], W, forward)


@case(ONE)
def a_loss_that_adds_a_penalty_on_early_layers():
    trunk, W, heads = layers(5, 7), nn.Linear(7, 6), [nn.Linear(6, 1) for _ in range(3)]
    x = torch.randn(8, 5)

    def forward():
        features = W(trunk(x)).relu()
        outputs = [head(features) for head in heads]
        return [outputs[0].mean() + trunk[0].weight.square().sum(), *outputs[1:]]

    return of([trunk, W, *heads], W, forward)


@case(ONE)
def heads_out_of_one_operation():
    W, heads = nn.Linear(5, 6), nn.Linear(6, 3)
    x = torch.randn(8, 5)
    return of([W, heads], W, lambda: list(heads(W(x).relu()).unbind(1)))


def hooked(hook, where, after=torch.relu):
    """A user's hook on the features, on W's output or on W itself."""
    trunk, W, heads = layers(5, 7), nn.Linear(7, 6), [nn.Linear(6, 1) for _ in range(3)]
    x = torch.randn(8, 5)
    if where == "W":
        W.weight.register_hook(hook)

    def forward():
        z = W(trunk(x))
        features = after(z)
        if where != "W":
            (features if where == "features" else z).register_hook(hook)
        return [head(features) for head in heads]

    return of([trunk, W, *heads], W, forward)


@case(ONE)
def a_hook_that_scales_the_gradient_of_the_features():
    return hooked(lambda g: 0.1 * g, "features")


@case(ONE)
def a_hook_that_clips_the_gradient_of_the_features():
    return hooked(lambda g: g.clamp(-1e-3, 1e-3), "features", nn.LayerNorm(6))


@case(ONE)
def a_hook_on_the_output_of_w():
    return hooked(lambda g: -g, "output")


@case(ONE)
def a_hook_on_w():
    return hooked(lambda g: 2 * g, "W", nn.LayerNorm(6))


@case(ONE)
def a_part_of_w_that_no_task_uses():
    W = nn.ModuleList([nn.Linear(5, 6), nn.Linear(5, 6)])
    heads, x = [nn.Linear(6, 1) for _ in range(3)], torch.randn(8, 5)
    return of([W, *heads], W, lambda: [head(f) for f in [W[0](x).relu()] for head in heads])


@case(ONE)
def a_single_number_is_shared():
    W, heads, x = nn.Parameter(torch.tensor(2.0)), [nn.Linear(5, 1) for _ in range(3)], torch.randn(8, 5)
    return of(heads, W, lambda: [head(f) for f in [(W * x).relu()] for head in heads], [W])


@case(ONE)
def a_bias_for_each_row():
    W, b = nn.Parameter(torch.randn(6, 5)), nn.Parameter(torch.randn(8, 6))
    heads, x = [nn.Linear(6, 1) for _ in range(3)], torch.randn(8, 5)
    forward = lambda: [head(f) for f in [torch.addmm(b, x, W.t()).relu()] for head in heads]  # noqa: E731
    return of(heads, [W, b], forward, [W, b])


@case(ONE)
def features_beside_earlier_ones():
    trunk, W, heads = nn.Linear(5, 6), nn.Linear(6, 6), [nn.Linear(12, 1) for _ in range(3)]
    x = torch.randn(8, 5)

    def forward():
        early = trunk(x).relu()
        features = torch.cat([W(early).relu(), early], dim=1)
        return [head(features) for head in heads]

    return of([trunk, W, *heads], W, forward)


@case(TASKS)
def a_head_that_reads_w_itself():
    W, heads = nn.Linear(5, 6), [nn.Linear(6, 1) for _ in range(2)]
    x = torch.randn(8, 5)
    return of([W, *heads], W, lambda: [*(h(f) for f in [W(x).relu()] for h in heads), W.weight])


@case(TASKS)
def a_pass_through_the_trunk_for_each_task():
    """Each task has data of its own."""
    W, heads = nn.Linear(5, 6), [nn.Linear(6, 1) for _ in range(3)]
    xs = [torch.randn(4 + k, 5) for k in range(3)]
    return of([W, *heads], W, lambda: [h(W(x).relu()) for h, x in zip(heads, xs, strict=True)])


@case(TASKS)
def one_task():
    return linear(torch.relu, tasks=1)


@case(ONE)
def a_trunk_checkpointed_the_old_way():
    trunk, W, heads = layers(5, 7), nn.Linear(7, 6), [nn.Linear(6, 1) for _ in range(3)]
    x = torch.randn(8, 5, requires_grad=True)

    def forward():
        features = W(checkpoint(trunk, x, use_reentrant=True)).relu()
        return [head(features) for head in heads]

    return of([trunk, W, *heads], W, forward, [x])


def compiled(model):
    return torch.compile(model, backend="aot_eager")


@case(ONE)
def compiled_trunk_and_heads_around_w():
    trunk, W, heads = layers(5, 7), nn.Linear(7, 6), [layers(6, 4) for _ in range(3)]
    x, fast, fast_heads = torch.randn(8, 5), compiled(trunk), [compiled(head) for head in heads]

    def forward():
        features = W(fast(x)).relu()
        return [head(features) for head in fast_heads]

    return of([trunk, W, *heads], W, forward)


@case(TASKS)
def compiled_trunk_with_w_and_compiled_heads():
    trunk, heads = layers(5, 7, 6), [layers(6, 4) for _ in range(3)]
    x, fast, fast_heads = torch.randn(8, 5), compiled(trunk), [compiled(head) for head in heads]
    return of([trunk, *heads], trunk[2], lambda: [head(f) for f in [fast(x)] for head in fast_heads])


@case(TASKS)
def compiled_whole():
    trunk, heads = layers(5, 7, 6), [nn.Linear(6, 1) for _ in range(3)]
    x = torch.randn(8, 5)
    whole = compiled(lambda x: [head(f) for f in [trunk(x)] for head in heads])
    return of([trunk, *heads], trunk[2], lambda: whole(x))


@case(TASKS)
def compiled_with_its_losses():
    trunk, heads = layers(5, 7, 6), [nn.Linear(6, 1) for _ in range(3)]
    x = torch.randn(8, 5)
    whole = compiled(lambda x: [head(f).square().mean() for f in [trunk(x)] for head in heads])
    return of([trunk, *heads], trunk[2], lambda: whole(x))
