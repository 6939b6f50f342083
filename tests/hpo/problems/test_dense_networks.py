from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from balancers import GradNorm, find_shared_layer
from hpo.core.errors import ProblemError
from hpo.problems.dense_networks import (
    FCN,
    LEAST_CHANNELS,
    Architecture,
    Bottleneck,
    DenseNetwork,
    SegNet,
    UNet,
    dense_network,
    unet,
)

ARCHITECTURES: tuple[Architecture, ...] = get_args(Architecture)
OUTPUTS = {"depth": 1, "normals": 3, "segmentation": 13}
SCALES = {"depth": 100.0, "normals": 1.0, "segmentation": 10.0}


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> Architecture:
    return request.param  # type: ignore[no-any-return]


def small(architecture: Architecture, seed: int = 0, stride: int = 1, inputs: int = 3) -> DenseNetwork:
    return dense_network(architecture, inputs, OUTPUTS, width=0.125, seed=seed, stride=stride)


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize("sides", [(60, 60), (32, 32), (33, 47), (64, 96), (63, 61)])
@pytest.mark.parametrize("stride", [1, 2, 4])
def test_outputs_have_the_grid_of_the_input_over_the_stride(
    architecture: Architecture, sides: tuple[int, int], stride: int
) -> None:
    outputs = small(architecture, stride=stride, inputs=4)(images(2, 4, *sides))
    grid = tuple(-(-side // stride) for side in sides)
    assert {task: output.shape for task, output in outputs.items()} == {
        task: (2, channels, *grid) for task, channels in OUTPUTS.items()
    }


@pytest.mark.parametrize(
    ("architecture", "stride", "parameters"),
    [("segnet", 4, 29_178_705), ("segnet", 1, 29_473_169), ("fcn", 4, 15_403_857), ("fcn", 1, 15_403_857)],
)
def test_at_width_one_the_parameters_are_the_papers_29_and_15_million(
    architecture: Architecture, stride: int, parameters: int
) -> None:
    network = dense_network(architecture, 3, OUTPUTS, width=1.0, seed=0, stride=stride)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters
    assert int(parameters / 1e6) == {"segnet": 29, "fcn": 15}[architecture]


def test_segnet_is_vgg16_and_its_mirror_image() -> None:
    network = dense_network("segnet", 3, {}, width=1.0, seed=0)
    channels = [(layer.in_channels, layer.out_channels) for layer in convolutions(network)]
    down = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256)]
    down += [(256, 512), (512, 512), (512, 512), (512, 512), (512, 512), (512, 512)]
    assert channels[:13] == down
    assert channels[13:] == [*((after, before) for before, after in down[:0:-1]), (64, 64)]
    assert {layer.kernel_size for layer in convolutions(network)} == {(3, 3)}


def test_segnet_unpools_to_where_the_largest_values_were() -> None:
    seen: dict[str, Tensor] = {}
    trunk = small("segnet").trunk
    assert isinstance(trunk, SegNet)
    trunk.down[0].register_forward_hook(lambda _, __, output: seen.update(encoded=output))
    trunk.up[-1].register_forward_pre_hook(lambda _, arguments: seen.update(unpooled=arguments[0]))
    trunk(images(2, 3, 64, 64))
    (encoded, unpooled) = (windows(seen[name]) for name in ("encoded", "unpooled"))
    filled = unpooled.ne(0)
    assert filled.any()
    assert int(filled.sum(-1).max()) == 1
    assert torch.equal(encoded[filled], encoded.amax(-1)[filled.any(-1)])


def windows(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, C, H / 2, W / 2, 4)."""
    return x.unfold(2, 2, 2).unfold(3, 2, 2).flatten(-2)


def test_the_fcn_is_a_thinned_resnet_50() -> None:
    network = dense_network("fcn", 3, OUTPUTS, width=1.0, seed=0)
    encoder = [block for block in network.modules() if isinstance(block, Bottleneck)][:16]
    assert len(encoder) == 3 + 4 + 6 + 3
    assert 1 + sum(len(convolutions(block.path)) for block in encoder) == 49  # ResNet-50 without its classifier
    assert max(layer.out_channels for layer in convolutions(network)) == 1024


def test_the_fcns_strides_are_moved_to_earlier_layers() -> None:
    sides: list[int] = []
    network = small("fcn")
    for block in network.modules():
        if isinstance(block, Bottleneck):
            block.register_forward_hook(lambda _, __, output: sides.append(output.shape[-1]))
    network(images(2, 3, 128, 128))
    assert sides == [16] * 3 + [8] * 4 + [4] * 6 + [4] * 3 + [8, 16, 32]  # ResNet-50 has 32, 16, 8, 4


def test_an_odd_grid_is_cut_where_halving_rounded_up() -> None:
    assert FCN(3, 0.125)(images(2, 3, 61, 35)).shape[-2:] == (16, 9)


def test_batch_normalisation_follows_every_shared_convolution(architecture: Architecture) -> None:
    network = small(architecture)
    shared = [module for part in (network.trunk, network.last) for module in part.modules()]
    kinds = [type(module) for module in shared if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.BatchNorm2d)]
    assert kinds[1::2] == [nn.BatchNorm2d] * (len(kinds) // 2)
    assert nn.BatchNorm2d not in kinds[::2]


def test_width_scales_the_channels_down_to_the_least() -> None:
    least = [
        min(layer.out_channels for layer in convolutions(small(architecture).trunk)) for architecture in ARCHITECTURES
    ]
    assert least == [LEAST_CHANNELS, LEAST_CHANNELS]
    assert max(layer.out_channels for layer in convolutions(small("segnet"))) == 64


def test_the_shared_layer_is_the_convolution_that_the_heads_read(architecture: Architecture) -> None:
    network = small(architecture)
    shared = network.shared_layer
    assert isinstance(shared, nn.Conv2d)
    assert {task: head.kernel_size for task, head in network.heads.items()} == dict.fromkeys(OUTPUTS, (1, 1))
    assert {head.in_channels for head in network.heads.values()} == {shared.out_channels}
    names, parameters = zip(*network.named_parameters(), strict=True)
    outputs = network(images(2, 3, 32, 32))
    losses = {task: output.square().mean() for task, output in outputs.items()}
    assert find_shared_layer(network, losses) == {"last.0": shared}
    for task, output in outputs.items():
        found = torch.autograd.grad(output.square().mean(), parameters, retain_graph=True, allow_unused=True)
        unused = {name for name, gradient in zip(names, found, strict=True) if gradient is None}
        assert unused == {
            f"heads.{other}.{part}" for other in OUTPUTS if other != task for part in ("weight", "bias")
        }


@pytest.mark.parametrize("stride", [1, 4])
def test_gradnorm_needs_one_pass(architecture: Architecture, stride: int) -> None:
    """And finds what it finds task by task."""
    found = []
    for one_pass in (True, False):
        network = small(architecture, stride=stride).double()
        balancer = GradNorm(list(OUTPUTS), network.shared_layer, one_pass=one_pass)
        for _ in range(2):
            outputs = network(images(3, 3, 60, 44).double())
            balancer.backward({task: (SCALES[task] * y - 1).square().mean() for task, y in outputs.items()})
        assert balancer.path is not None
        assert balancer.path.name == ("one pass" if one_pass else "task by task")
        found.append([balancer.weights, *(parameter.grad for parameter in network.parameters())])
    assert not torch.equal(found[0][0], torch.ones(3))
    for ours, expected in zip(*found, strict=True):
        assert torch.allclose(ours, expected, rtol=1e-9, atol=1e-12)


def test_a_seed_fixes_the_parameters_and_leaves_the_global_state(architecture: Architecture) -> None:
    state = torch.get_rng_state()
    one, same, other = (small(architecture, seed).state_dict() for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert not torch.equal(one["last.0.weight"], other["last.0.weight"])


def test_features_neither_vanish_nor_explode_at_the_start(architecture: Architecture) -> None:
    with torch.no_grad():
        outputs = small(architecture)(images(4, 3, 64, 64))
    assert all(0.1 < float(output.std()) < 10 for output in outputs.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"architecture": "unet"}, "architecture: expected 'segnet', 'fcn', got 'unet'"),
        ({"inputs": 0}, "inputs: expected an integer >= 1, got 0"),
        ({"outputs": {"depth": 0}}, r"outputs\['depth'\]: expected an integer >= 1, got 0"),
        ({"width": 0.0}, "width: expected a finite number > 0, got 0.0"),
        ({"stride": 3}, "stride: expected 1, 2, 4, got 3"),
        ({"stride": 4.0}, "stride: expected an integer >= 1, got 4.0"),
        ({"stride": True}, "stride: expected an integer >= 1, got True"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    good: dict[str, object] = {"architecture": "fcn", "inputs": 3, "outputs": OUTPUTS, "width": 0.125, "seed": 0}
    with pytest.raises(ProblemError, match=f"^{message}$"):
        dense_network(**{**good, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize("sides", [(60, 60), (33, 47)])
def test_the_unet_keeps_the_grid(sides: tuple[int, int]) -> None:
    network = unet(4, OUTPUTS, 0.125, seed=0)
    outputs = network(torch.randn(2, 4, *sides))
    assert {task: y.shape for task, y in outputs.items()} == {
        task: (2, channels, *sides) for task, channels in OUTPUTS.items()
    }
    assert UNet(4, 1.0).channels == 2 * 64
    assert UNet(4, 0.01).channels == 2 * 8
