"""The last layer that every task reaches, in networks of the usual kinds and in unusual ones."""

import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from balancers import BalancerWarning, GradNorm, find_shared_layer
from balancers.shared_layer import SharedLayer
from balancers.shared_search import SharedSearch
from balancers.testing import TASKS, TinyNetwork


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def squares(**outputs):
    return {task: (output - 1).square().mean() for task, output in outputs.items()}


def found(model, losses):
    return list(find_shared_layer(model, losses))


def mlp(*sizes):
    return nn.Sequential(*(part for a, b in pairwise(sizes) for part in (nn.Linear(a, b), nn.Tanh())))


def net(**parts):
    return nn.ModuleDict(parts)


PAGE = Path(__file__).resolve().parents[2] / "docs" / "shared-layer.md"
X = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
WORDS = torch.randint(20, (8, 6), generator=torch.Generator().manual_seed(0))


class TestUsualNetworks:
    def test_a_trunk_whatever_the_order_of_its_parts_in_the_model(self):
        model = net(far=nn.Linear(8, 1), last=nn.Linear(8, 8), near=nn.Linear(8, 1), first=nn.Linear(4, 8))
        features = model.last(model.first(X).relu()).relu()
        assert find_shared_layer(model, squares(a=model.far(features), b=model.near(features))) == {
            "last": model.last
        }

    def test_convolutions_with_norms_scales_and_skips(self):
        class Block(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.norm, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
                self.scale = nn.Parameter(torch.full((4, 1, 1), 0.1))

            def forward(self, x):
                return x + self.scale * self.two(self.norm(self.one(x)).relu())

        trunk = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), Block(), Block(), nn.GroupNorm(2, 4))
        model = net(trunk=trunk, a=nn.Conv2d(4, 1, 1), b=nn.Conv2d(4, 3, 1))
        features = model.trunk(torch.randn(2, 1, 8, 8))
        assert found(model, squares(a=model.a(features), b=model.b(features))) == ["trunk.2.two"]

    def test_a_unet_with_a_task_at_its_bottleneck(self):
        down, up = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ConvTranspose2d(4, 4, 2, 2)
        model = net(
            down=down, deep=nn.Conv2d(4, 4, 3, padding=1), up=up, mask=nn.Conv2d(5, 1, 1), kind=nn.Linear(4, 3)
        )
        image = torch.randn(2, 1, 8, 8)
        deep = model.deep(model.down(image).relu()).relu()
        decoded = torch.cat([model.up(deep), image], 1)
        both = {"mask": model.mask(decoded), "edges": model.mask(decoded.relu())}
        assert found(model, squares(**both, kind=model.kind(deep.mean((2, 3))))) == ["deep"]
        model["edges"] = nn.Conv2d(5, 1, 1)
        assert found(model, squares(mask=model.mask(decoded), edges=model.edges(decoded))) == ["up"]

    @pytest.mark.parametrize("reads_both", [True, False])
    def test_a_pyramid_whose_heads_read_several_scales(self, reads_both):
        body = nn.ModuleList([nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1)])
        out = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)])
        model = net(body=body, out=out, a=nn.LazyConv2d(1, 1), b=nn.LazyConv2d(1, 1))
        fine = model.body[0](torch.randn(2, 1, 8, 8)).relu()
        coarse = model.body[1](fine).relu()
        scales = [model.out[0](fine), functional.interpolate(model.out[1](coarse), scale_factor=2)]
        if reads_both:
            features = torch.cat(scales, 1).relu()
            assert found(model, squares(a=model.a(features), b=model.b(features))) == ["out.0", "out.1"]
        else:
            assert found(model, squares(a=model.a(scales[0]), b=model.b(scales[1]))) == ["body.0"]

    @pytest.mark.parametrize("with_heads", [True, False])
    def test_mmoe_has_the_last_layers_of_all_experts(self, with_heads):
        class MMoE(nn.Module):
            def __init__(self):
                super().__init__()
                self.bottom = nn.Linear(4, 8)
                self.experts = nn.ModuleList(mlp(8, 8, 8) for _ in range(3))
                self.gates = nn.ModuleList(nn.Linear(8, 3) for _ in range(2))
                self.heads = nn.ModuleList(mlp(8, 4, 1) if with_heads else nn.Identity() for _ in range(2))

            def forward(self, x):
                x = self.bottom(x)
                outputs = torch.stack([expert(x) for expert in self.experts], 1)
                mixed = [(gate(x).softmax(1)[:, :, None] * outputs).sum(1) for gate in self.gates]
                return [head(features) for head, features in zip(self.heads, mixed, strict=True)]

        model = MMoE()
        a, b = model(X)
        assert found(model, squares(a=a, b=b)) == ["experts.0.2", "experts.1.2", "experts.2.2"]

    def test_mmoe_whose_experts_are_one_parameter(self):
        model = nn.Module()
        model.first, model.second = nn.Parameter(torch.randn(3, 4, 8)), nn.Parameter(torch.randn(3, 8, 8))
        model.gates, model.heads = nn.Parameter(torch.randn(2, 4, 3)), nn.Parameter(torch.randn(2, 8, 1))
        outputs = torch.einsum("ebh,eho->ebo", torch.einsum("bi,eih->ebh", X, model.first).tanh(), model.second)
        mixed = torch.einsum("tbe,ebo->tbo", torch.einsum("bi,tie->tbe", X, model.gates).softmax(2), outputs)
        a, b = torch.bmm(mixed, model.heads).unbind()
        assert find_shared_layer(model, squares(a=a, b=b)) == {"second": model.second}

    @pytest.mark.parametrize("levels", [1, 2])
    def test_ple_has_the_shared_experts_of_its_last_level(self, levels):
        class Level(nn.Module):
            def __init__(self, width):
                super().__init__()
                self.experts = nn.ModuleDict({name: nn.Linear(width, 8) for name in ("a", "b", "both")})
                self.gates = nn.ModuleDict({name: nn.LazyLinear(2 if name != "both" else 3) for name in self.experts})

            def forward(self, inputs):
                outputs = {name: expert(inputs[name]).relu() for name, expert in self.experts.items()}
                read = {"a": ["a", "both"], "b": ["b", "both"], "both": ["a", "b", "both"]}
                return {
                    name: self.mix(gate(inputs[name]), [outputs[n] for n in read[name]])
                    for name, gate in self.gates.items()
                }

            def mix(self, gate, outputs):
                return (gate.softmax(1)[:, None] * torch.stack(outputs, 2)).sum(2)

        model = net(levels=nn.Sequential(*(Level(8) for _ in range(levels))), bottom=nn.Linear(4, 8))
        model["a"], model["b"] = nn.Linear(8, 1), nn.Linear(8, 1)
        outputs = model.levels(dict.fromkeys(("a", "b", "both"), model.bottom(X).relu()))
        losses = squares(a=model.a(outputs["a"]), b=model.b(outputs["b"]))
        assert found(model, losses) == [f"levels.{levels - 1}.experts.both"]

    @pytest.mark.parametrize("chain", [2, 3])
    def test_esmm_has_the_embedding_that_its_towers_share(self, chain):
        model = net(
            table=nn.EmbeddingBag(20, 8),
            **{f"tower{k}": nn.Sequential(mlp(8, 8), nn.Linear(8, 1)) for k in range(chain)},
        )
        features, product, losses = model.table(WORDS), 1.0, {}
        for k in range(chain):
            product = product * model[f"tower{k}"](features).sigmoid()
            losses[f"task{k}"] = functional.binary_cross_entropy(product, torch.ones_like(product))
        assert found(model, losses) == ["table"]
        wide = nn.Linear(4, 8)
        model["table"] = wide
        click = model.tower0(wide(X)).sigmoid()
        assert found(model, squares(click=click, buy=click * model.tower1(wide(X)).sigmoid())) == ["table"]

    def test_esmm_on_a_mixture_of_experts_has_the_experts(self):
        experts = nn.ModuleList(mlp(8, 8, 8) for _ in range(2))
        model = net(table=nn.EmbeddingBag(20, 8), experts=experts)
        outputs = [expert(features := model.table(WORDS)) for expert in experts]
        chances = []
        for task in ("click", "buy"):
            model[f"{task}_gate"], model[f"{task}_tower"] = nn.Linear(8, 1), mlp(8, 4, 1)
            share = model[f"{task}_gate"](features).sigmoid()
            chances.append(model[f"{task}_tower"](share * outputs[0] + (1 - share) * outputs[1]).sigmoid())
        assert found(model, squares(click=chances[0], buy=chances[0] * chances[1])) == ["experts.0.2", "experts.1.2"]

    def test_a_tower_whose_task_has_a_head_of_its_own_is_shared(self):
        """As in AITM: the second task reads what the first has learned, before the first one's output."""
        model = net(
            table=nn.Embedding(20, 8), one=nn.Linear(8, 8), two=nn.Linear(8, 8), a=nn.Linear(8, 1), b=nn.Linear(8, 1)
        )
        features = model.table(WORDS).mean(1)
        info = model.one(features).relu()
        losses = squares(a=model.a(info), b=model.b(info + model.two(features).relu()))
        assert found(model, losses) == ["one"]

    @pytest.mark.parametrize("joined", [False, True])
    def test_a_transformer_with_tied_embeddings_has_its_last_block(self, joined):
        block = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True)
        body = nn.TransformerEncoder(block, 2, enable_nested_tensor=False)
        model = net(table=nn.Embedding(20, 8), body=body, topic=nn.Linear(8, 3))
        features = model.body(model.table(WORDS))
        words, topic = features @ model.table.weight.T, model.topic(features)
        if joined:
            words, topic = torch.cat([words, topic], 2).split([20, 3], 2)
        assert found(model, squares(words=words, topic=topic)) == ["body.layers.1.linear2"]

    def test_tied_embeddings_alone_are_refused(self):
        model = net(table=nn.Embedding(20, 8), topic=nn.Linear(8, 3))
        features = model.table(WORDS)
        losses = squares(words=features @ model.table.weight.T, topic=model.topic(features))
        with pytest.raises(ValueError, match=r"Found `table.weight` alone, which a head uses too \(tied"):
            find_shared_layer(model, losses)

    @pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
    def test_recurrent_networks(self, kind):
        model = net(
            table=nn.Embedding(20, 8), rnn=kind(8, 8, 2, batch_first=True), a=nn.Linear(8, 1), b=nn.Linear(8, 1)
        )
        out, _ = model.rnn(model.table(WORDS))
        names = found(model, squares(a=model.a(out), b=model.b(out[:, -1])))
        assert names
        assert set(names) <= {"rnn.weight_ih_l1", "rnn.weight_hh_l1"}


def test_it_finds_every_layer_that_the_documentation_names():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    namespace, compared = {"__name__": "page"}, []

    def train(model, shared, batches, losses):
        names = {id(parameter) for parameter in SharedLayer(shared).trained()}
        layers = find_shared_layer(model, losses(model, batches[0]))
        assert {id(p) for p in SharedLayer(layers.values()).trained()} == names, layers
        compared.append(type(model).__name__)
        return taught(model, shared, batches, losses)

    for block in blocks:
        exec(block, namespace)  # noqa: S102 - our own page
        if namespace["train"] is not train:
            taught, namespace["train"] = namespace["train"], train
    assert compared == ["Trunk", "Pyramid", "MMoE", "PLE", "ESMM", "Encoder"]


class TestReach:
    @pytest.mark.parametrize("join", [torch.cat, torch.stack])
    def test_outputs_that_were_joined(self, join):
        model = net(trunk=mlp(4, 8), heads=nn.ModuleList([mlp(8, 8, 1), mlp(8, 8, 1)]))
        out = join([head(model.trunk(X)) for head in model.heads], 1)
        assert found(model, squares(a=out[:, 0], b=out[:, 1])) == ["trunk.0"]

    def test_one_output_layer_with_a_row_for_each_task_is_not_shared(self):
        model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
        out = model(X)
        assert found(model, squares(a=out[:, 0], b=out[:, 1])) == ["0"]
        out = model[2](X @ torch.randn(4, 8))
        with pytest.raises(ValueError, match=r"Found `2.weight` alone, of which each task reads other rows"):
            find_shared_layer(model, squares(a=out[:, 0], b=out[:, 1]))

    @pytest.mark.parametrize("part", [0, 2])
    def test_a_head_that_begins_at_zero_reaches_as_far_as_the_others(self, part):
        model = net(trunk=mlp(4, 8, 8), a=mlp(8, 8, 1), b=mlp(8, 8, 1))
        nn.init.zeros_(model.a[part].weight)
        features = model.trunk(X)
        assert found(model, squares(a=model.a(features), b=model.b(features))) == ["trunk.2"]

    def test_branches_and_norms_that_begin_at_zero_count(self):
        model = net(first=nn.Linear(4, 4), branch=nn.Linear(4, 4), a=nn.Linear(4, 1), b=nn.Linear(4, 1))
        model.register_parameter("alpha", nn.Parameter(torch.zeros(())))
        model["norm"] = nn.BatchNorm1d(4)
        nn.init.zeros_(model.norm.weight)
        features = model.first(X)
        features = features + model.alpha * model.norm(model.branch(features))
        assert found(model, squares(a=model.a(features), b=model.b(features))) == ["branch"]

    def test_what_is_multiplied_by_a_constant_zero_does_not_count(self):
        """Loops for DistributedDataParallel add every output times 0, so that no parameter is without gradient."""
        model = net(trunk=mlp(4, 8), a=mlp(8, 8, 1), b=mlp(8, 8, 1))
        a, b = model.a(model.trunk(X)), model.b(model.trunk(X))
        losses = squares(a=a, b=b)
        assert found(model, {"a": losses["a"] + 0 * b.sum(), "b": losses["b"] + 0 * a.sum()}) == ["trunk.0"]

    def test_a_penalty_on_all_weights_is_no_use_of_them(self):
        model = net(trunk=mlp(4, 8, 8), a=nn.Linear(8, 1), b=nn.Linear(8, 1))
        features = model.trunk(X)
        penalty = sum(p.square().sum() for p in model.parameters()) + model.trunk[0].weight.norm()
        losses = {
            task: loss + 0.1 * penalty for task, loss in squares(a=model.a(features), b=model.b(features)).items()
        }
        assert found(model, losses) == ["trunk.2"]

    def test_frozen_layers_do_not_count(self):
        model = net(trunk=mlp(4, 8, 8), a=nn.Linear(8, 1), b=nn.Linear(8, 1))
        model.trunk[2].requires_grad_(False)
        features = model.trunk(X)
        assert found(model, squares(a=model.a(features), b=model.b(features))) == ["trunk.0"]

    def test_tasks_with_batches_of_their_own(self):
        model = net(trunk=mlp(4, 8, 8), a=nn.Linear(8, 1), b=nn.Linear(8, 1))
        assert found(model, squares(a=model.a(model.trunk(X)), b=model.b(model.trunk(X + 1)))) == ["trunk.2"]

    def test_one_task_has_its_last_layer(self):
        model = mlp(4, 8, 1)
        assert found(model, squares(a=model(X))) == ["2"]


class TestOrder:
    def test_a_block_that_is_run_several_times(self):
        model = net(block=mlp(8, 8, 8), first=nn.Linear(4, 8), a=nn.Linear(8, 1), b=nn.Linear(8, 1))
        features = model.block(model.block(model.block(model.first(X))))
        assert found(model, squares(a=model.a(features), b=model.b(features))) == ["block.2"]

    @pytest.mark.parametrize("rows", [(), (8,), (8, 8)])
    def test_features_of_the_shape_of_a_weight(self, rows):
        model = net(trunk=mlp(8, 8, 8), a=nn.Linear(8, 1), b=nn.Linear(8, 1))
        for layer in (model.trunk[0], model.trunk[2]):
            layer.bias = None
        features = model.trunk(torch.randn(*rows, 8))
        assert found(model, squares(a=model.a(features), b=model.b(features))) == ["trunk.2"]

    @pytest.mark.parametrize("reentrant", [False, True])
    def test_gradient_checkpointing(self, reentrant):
        model = net(trunk=mlp(4, 8, 8), a=nn.Linear(8, 1), b=nn.Linear(8, 1))
        features = checkpoint(model.trunk, X.clone().requires_grad_(), use_reentrant=reentrant)
        losses = squares(a=model.a(features), b=model.b(features))
        if reentrant:
            with pytest.raises(ValueError, match="Gradient checkpointing should have `use_reentrant=False`"):
                find_shared_layer(model, losses)
        else:
            assert found(model, losses) == ["trunk.2"]
        sum(losses.values()).backward()
        assert model.trunk[0].weight.grad.any()

    @pytest.mark.parametrize(
        "change", [parametrizations.weight_norm, parametrizations.spectral_norm, prune.l1_unstructured]
    )
    def test_weights_that_are_computed_from_parameters(self, change):
        layers = [nn.Linear(8, 8) for _ in range(3)]
        for layer in layers:
            change(layer, "weight", **({"amount": 0.5} if change is prune.l1_unstructured else {}))
        model = net(trunk=nn.Sequential(nn.Linear(4, 8), *layers), a=nn.Linear(8, 1), b=nn.Linear(8, 1))
        features = model.trunk(X)
        names = found(model, squares(a=model.a(features), b=model.b(features)))
        assert [name.split(".")[:2] for name in names] == [["trunk", "3"]]

    def test_low_rank_additions_to_frozen_weights(self):
        model = nn.Module()
        model.up = nn.ParameterList(torch.randn(8, 2) for _ in range(3))
        model.down = nn.ParameterList(torch.randn(2, 8) for _ in range(3))
        model.heads = nn.ModuleList([nn.Linear(8, 1), nn.Linear(8, 1)])
        x = torch.randn(16, 8)
        for up, down in zip(model.up, model.down, strict=True):
            x = functional.linear(x, torch.randn(8, 8) + up @ down).tanh()
        assert found(model, squares(a=model.heads[0](x), b=model.heads[1](x))) == ["up.2", "down.2"]

    def test_derivatives_of_the_network_as_in_physics(self):
        model = mlp(2, 8, 8).append(nn.Linear(8, 1))
        x = torch.randn(16, 2, requires_grad=True)
        out = model(x)
        slope = torch.autograd.grad(out.sum(), x, create_graph=True)[0]
        assert found(model, squares(equation=slope[:, 0] + slope[:, 1].square(), border=out)) == ["4"]

    def test_casts_of_autocast(self):
        model = net(trunk=mlp(4, 8, 8), a=nn.Linear(8, 1), b=nn.Linear(8, 1))
        with torch.autocast("cpu", torch.bfloat16):
            features = model.trunk(X)
            losses = squares(a=model.a(features), b=model.b(features))
        assert found(model, losses) == ["trunk.2"]

    @pytest.mark.parametrize("whole", [True, False])
    def test_compiled_modules(self, whole):
        model = net(trunk=mlp(4, 8, 8), a=nn.Linear(8, 1), b=nn.Linear(8, 1))
        trunk = torch.compile(model.trunk if whole else model.trunk[2], backend="aot_eager")
        features = trunk(X if whole else model.trunk[:2](X))
        losses = squares(a=model.a(features), b=model.b(features))
        if whole:
            with pytest.raises(ValueError, match="Found a compiled module around `trunk"):
                find_shared_layer(model, losses)
        else:
            assert found(model, losses) == ["trunk.2"]


class TestAnswers:
    def test_the_module_where_it_is_one_layer_else_the_parameter(self):
        model = net(trunk=mlp(4, 8), a=nn.Linear(8, 1), b=nn.Linear(8, 1))
        features = model.trunk(X)
        layers = find_shared_layer(model, squares(a=model.a(features), b=model.b(features)))
        assert layers == {"trunk.0": model.trunk[0]}
        balancer = GradNorm.robust(["a", "b"], layers.values())
        assert balancer.shared == [model.trunk[0].weight, model.trunk[0].bias]

    def test_nothing_is_left_behind(self):
        network = TinyNetwork()
        losses = network.losses()
        assert found(network, losses) == ["trunk.2"]
        assert all(parameter.grad is None for parameter in network.parameters())
        sum(losses.values()).backward()
        plain = TinyNetwork()
        sum(plain.losses().values()).backward()
        for one, other in zip(network.parameters(), plain.parameters(), strict=True):
            assert torch.equal(one.grad, other.grad)

    @pytest.mark.parametrize(
        ("losses", "match"),
        [
            (lambda a, b, c: {"a": a, "b": b}, "none that both `a` and `b` reach"),
            (lambda a, b, c: {"a": a, "c": c, "b": b}, "none that both `a` and `b` reach"),
            (lambda a, b, c: {"a": a, "b": torch.ones((), requires_grad=True)}, "none below the loss of `b`"),
            (lambda a, b, c: {"a": a, "b": None}, "`losses` should be a loss of every task, .* Found .*none of b"),
            (lambda a, b, c: {"a": a, "b": 0 * b, "c": c * torch.nan}, "none of b, c"),
            (lambda a, b, c: {}, "`losses` should be a loss for each task"),
            (lambda a, b, c: [a, b], "Found `losses = list`"),
        ],
    )
    def test_what_is_refused(self, losses, match):
        model = net(left=nn.Linear(4, 4), right=nn.Linear(4, 4))
        a, b = squares(a=model.left(X), b=model.right(X)).values()
        with pytest.raises(ValueError, match=match):
            find_shared_layer(model, losses(a, b, a + b))

    def test_three_tasks_of_which_only_pairs_share(self):
        model = net(ab=nn.Linear(4, 1), bc=nn.Linear(4, 1), ca=nn.Linear(4, 1))
        ab, bc, ca = (model[name](X) for name in ("ab", "bc", "ca"))
        with pytest.raises(ValueError, match=r"none that all of \['a', 'b', 'c'\] reach"):
            find_shared_layer(model, squares(a=ab * ca, b=ab * bc, c=bc * ca))

    def test_the_losses_of_another_model(self):
        with pytest.raises(ValueError, match="Found none below the loss of `near`"):
            find_shared_layer(TinyNetwork(), TinyNetwork().losses())


class TestLater:
    """What is after a layer that is not the last."""

    def names_after(self, model, shared, losses):
        search = SharedSearch()
        for task, loss in losses.items():
            search.add(task, loss)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        return [names[id(weight)] for weight in search.after(list(shared.parameters()))]

    def heads(self, features):
        return {"a": features.square().sum(), "b": features.abs().sum()}

    def test_an_embedding_before_it(self):
        model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 2, bias=False), nn.Linear(2, 2))
        out = self.heads(model(torch.tensor([1, 2])))
        assert self.names_after(model, model[1], out) == ["2.weight"]
        assert self.names_after(model, model[2], out) == []

    def test_convolutions_and_norms(self):
        model = nn.Sequential(
            nn.Conv1d(1, 2, 3), nn.BatchNorm1d(2), nn.ReLU(), nn.Conv1d(2, 2, 3), nn.GroupNorm(1, 2)
        )
        out = self.heads(model(torch.randn(2, 1, 9)))
        assert self.names_after(model, model[0], out) == ["3.weight"]
        assert self.names_after(model, model[3], out) == []

    def test_a_skip_around_it(self):
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        inner = model[0](torch.randn(4, 3)).relu()
        assert self.names_after(model, model[1], self.heads(inner + model[1](inner))) == []

    def test_a_branch_beside_it(self):
        model = net(left=nn.Linear(3, 2), right=nn.Linear(3, 2), after=nn.Linear(4, 2))
        x = torch.randn(4, 3)
        both = torch.cat([model.left(x), model.right(x)], dim=1)
        assert self.names_after(model, model.left, self.heads(both)) == []
        assert self.names_after(model, model.left, self.heads(model.after(both))) == ["after.weight"]

    def test_a_block_of_a_transformer(self):
        model = nn.TransformerEncoderLayer(4, 1, 8, batch_first=True)
        out = self.heads(model(torch.randn(2, 3, 4)))
        assert self.names_after(model, model.linear2, out) == []
        assert "linear1.weight" in self.names_after(model, model.self_attn, out)


class TestAuto:
    def recipes(self):
        return [GradNorm.paper, GradNorm.robust, GradNorm.direct]

    @pytest.mark.parametrize("style", ["backward", "call"])
    def test_it_trains_as_with_the_weight_that_it_finds(self, style):
        for recipe in self.recipes():
            balancers = []
            for auto in (True, False):
                network = TinyNetwork()
                balancer = recipe(TASKS, "auto" if auto else network.shared.weight, 0.5)
                optimizer = torch.optim.SGD(network.parameters(), lr=1e-4)
                for _ in range(4):
                    optimizer.zero_grad()
                    if style == "call":
                        balancer(network.losses()).backward()
                    else:
                        balancer.backward(network.losses())
                    optimizer.step()
                balancers.append(balancer)
                assert balancer.shared == [network.shared.weight]
            assert torch.equal(balancers[0].weights, balancers[1].weights)
            assert balancers[0].path == balancers[1].path
            assert balancers[0].notes() == [
                "The shared layer was found from the losses: weights of shape (6, 8); see `shared`."
            ]
            assert balancers[1].notes() == []

    def test_it_waits_for_a_task_that_is_absent_at_first(self):
        network = TinyNetwork()
        balancer = GradNorm.robust(TASKS, "auto", 0.5)
        balancer.backward(network.losses() | {"far": None})
        assert balancer.shared == []
        assert balancer.notes()[0].startswith("The shared layer is not found yet: no step had a loss of far")
        balancer.backward({"far": network.losses()["far"]})
        assert balancer.shared == [network.shared.weight]
        balancer.backward(network.losses())
        with pytest.warns(BalancerWarning, match="not found yet, or did not require grad, in 1 steps"):
            assert balancer.weights.isfinite().all()
        assert balancer.last.gradient_norms.gt(0).all()

    def test_parameters_may_be_plain_tensors_and_inputs_may_require_grad(self):
        network = TinyNetwork()
        plain = {f"net.{name}": p.detach().clone().requires_grad_() for name, p in network.named_parameters()}

        class Losses(nn.Module):
            def __init__(self):
                super().__init__()
                self.net = network

            def forward(self):
                return self.net.losses()

        balancer = GradNorm.robust(TASKS, "auto")
        balancer.backward(functional_call(Losses(), plain, ()))
        assert balancer.shared == [plain["net.trunk.2.weight"]]
        network.inputs.requires_grad_()
        balancer = GradNorm.robust(TASKS, "auto")
        balancer.backward(network.losses())
        assert balancer.shared == [network.trunk[2].weight]

    def test_a_state_is_taken_up(self):
        network = TinyNetwork()
        balancer, other = (GradNorm.direct(TASKS, "auto", 0.5) for _ in range(2))
        balancer.backward(network.losses())
        other.load_state_dict(balancer.state_dict())
        for one in (balancer, other):
            one.backward(network.losses())
        assert torch.equal(balancer.weights, other.weights)

    def test_accumulation(self):
        network = TinyNetwork()
        balancers = [GradNorm.robust(TASKS, shared, accumulate=2) for shared in ("auto", network.shared.weight)]
        for balancer in balancers:
            for _ in range(4):
                balancer.backward(network.losses())
        assert torch.equal(balancers[0].weights, balancers[1].weights)

    def test_another_word_is_refused(self):
        for wrong in ("last", None, 3):
            with pytest.raises(ValueError, match="`shared` should be a module, a parameter"):
                GradNorm(TASKS, wrong)
