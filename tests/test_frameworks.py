"""GradNorm inside Lightning and the Trainer of Hugging Face trains as it does in a plain loop."""

import lightning
import pytest
import torch

from balancers import GradNorm
from examples.hugging_face_trainer import train as train_with_trainer
from examples.lightning_loops import PARTS, Automatic, Manual, train
from examples.own_problem import Digits

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # theirs: devices, workers, deprecations between them
]


@pytest.fixture
def by_sgd(monkeypatch):
    """Adam hides the scale of a gradient, which accumulation must not change."""
    monkeypatch.setattr(Digits, "build_optimizer", lambda self, model: torch.optim.SGD(model.parameters(), lr=1e-3))


def plain(epochs):
    lightning.seed_everything(0, verbose=False)
    problem = Digits()
    model = problem.build_model(seed=0)
    balancer = GradNorm.robust(["digit", "ink"], problem.shared_layer(model), alpha=0.5, accumulate=PARTS)
    optimizer = problem.build_optimizer(model)
    for index, batch in enumerate(problem.loader("train", seed=0) * epochs):
        balancer.backward(problem.losses(model, batch))
        if (index + 1) % PARTS == 0:
            optimizer.step()
            optimizer.zero_grad()
    return model, balancer


@pytest.mark.parametrize("kind", [Automatic, Manual])
def test_lightning_trains_like_the_plain_loop(kind, tmp_path, by_sgd):
    module = kind()
    train(module, epochs=4, enable_checkpointing=False, default_root_dir=tmp_path)
    model, balancer = plain(4)
    torch.testing.assert_close(module.balancer.weights, balancer.weights, rtol=1e-4, atol=1e-6)
    assert module.balancer.step == balancer.step == 4 * 24 // PARTS
    assert module.balancer.path.name == "one pass"
    for left, right in zip(module.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", [Automatic, Manual])
def test_lightning_continues_the_balancer_from_its_checkpoint(kind, tmp_path):
    whole = kind()
    train(whole, epochs=4, enable_checkpointing=False, default_root_dir=tmp_path)
    first = train(kind(), epochs=2, enable_checkpointing=False, default_root_dir=tmp_path)
    first.save_checkpoint(tmp_path / "half.ckpt")
    module = kind()
    train(module, epochs=4, checkpoint=tmp_path / "half.ckpt", enable_checkpointing=False, default_root_dir=tmp_path)
    assert torch.equal(module.balancer.weights, whole.balancer.weights)
    assert torch.equal(module.balancer.mean_weights(), whole.balancer.mean_weights())
    assert module.balancer.step == whole.balancer.step


@pytest.mark.parametrize("kind", [Automatic, Manual])
def test_lightning_in_mixed_precision(kind, tmp_path):
    module = kind()
    train(module, epochs=2, precision="bf16-mixed", enable_checkpointing=False, default_root_dir=tmp_path)
    assert module.balancer.weights.isfinite().all()
    assert module.balancer.path.name == "one pass"


def test_the_trainer_accumulates_to_the_large_batch(tmp_path):
    """The order of rows is the Trainer's, so two batches of 50 are one of 100."""
    # By SGD and without clipping, so that the scale of a gradient counts; from ones, since a balanced start is of the
    # first 50 alone.
    plain = {"optim": "sgd", "max_grad_norm": 0.0, "learning_rate": 1e-4, "recipe": GradNorm.paper}
    quiet = {"num_train_epochs": 2, "disable_tqdm": True, "logging_strategy": "no"}
    small = train_with_trainer(str(tmp_path), parts=2, batch=50, **plain, **quiet)
    large = train_with_trainer(str(tmp_path), parts=1, batch=100, **plain, **quiet)
    assert small.balancer.step == large.balancer.step == 24
    assert small.balancer.path.name == "one pass"
    torch.testing.assert_close(small.balancer.weights, large.balancer.weights, rtol=1e-4, atol=1e-6)
    for left, right in zip(small.model.parameters(), large.model.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)


def test_the_trainer_continues_the_balancer_from_its_checkpoint_in_mixed_precision(tmp_path):
    settings = {"num_train_epochs": 2, "bf16": True, "disable_tqdm": True, "save_strategy": "steps", "save_steps": 6}
    whole = train_with_trainer(str(tmp_path / "whole"), **settings)
    again = train_with_trainer(str(tmp_path / "again"), checkpoint=tmp_path / "whole" / "checkpoint-6", **settings)
    assert again.balancer.step == whole.balancer.step == 24
    assert torch.equal(again.balancer.weights, whole.balancer.weights)
    for left, right in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(left, right)
