"""The reach of each task's gradient, and the order in which the losses use the weights."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from balancers import find_shared_layer
from balancers.shared_search import SharedSearch
from tests.helpers.shared_networks import X, found, mlp, net, squares


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


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
        with pytest.raises(ValueError, match=r"got `2.weight` alone, of which each task reads other rows"):
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
            with pytest.raises(ValueError, match="gradient checkpointing: expected `use_reentrant=False`"):
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
            with pytest.raises(ValueError, match="got a compiled module around `trunk"):
                find_shared_layer(model, losses)
        else:
            assert found(model, losses) == ["trunk.2"]


class TestLater:
    """Weights after a layer that is not the last."""

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
