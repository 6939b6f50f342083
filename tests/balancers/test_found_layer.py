"""The last layer that every task reaches, in networks of the usual kinds."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from balancers import GradNorm, find_shared_layer
from balancers.shared_layer import SharedLayer
from balancers.testing import TinyNetwork
from tests.helpers.shared_networks import WORDS, X, found, mlp, net, squares

PAGE = Path(__file__).resolve().parents[2] / "docs" / "shared-layer.md"


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


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
        with pytest.raises(ValueError, match=r"got `table.weight` alone, which a head uses too \(tied"):
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
            (lambda a, b, c: {"a": a, "b": None}, "losses: expected a loss of every task, .* got none of b"),
            (lambda a, b, c: {"a": a, "b": 0 * b, "c": c * torch.nan}, "none of b, c"),
            (lambda a, b, c: {}, "losses: expected a loss for each task"),
            (lambda a, b, c: [a, b], "losses: .* got list"),
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
        with pytest.raises(ValueError, match="got none below the loss of `near`"):
            find_shared_layer(TinyNetwork(), TinyNetwork().losses())
