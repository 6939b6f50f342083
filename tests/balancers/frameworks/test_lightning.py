"""A balancer in Lightning: resumed as if never stopped, in step with the Trainer, its weights logged."""

from __future__ import annotations

import csv
import os
import warnings
from pathlib import Path

import lightning
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch.callbacks import EarlyStopping, GradientAccumulationScheduler, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from balancers import BalancerWarning, GradNorm, Static, Uncertainty
from balancers.frameworks.lightning import BalancerCallback
from balancers.testing import TASKS
from balancers.torchjd_methods import torchjd_balancer

pytestmark = pytest.mark.filterwarnings(
    "ignore::lightning.pytorch.utilities.warnings.PossibleUserWarning",
    "ignore:.*LeafSpec",
    "ignore:The dirpath has changed",
)

BATCHES = 7  # of an epoch: with three in a step the last step has one


class Loader:
    """Batches that know where they are, so that Lightning can go on in the middle of an epoch."""

    def __init__(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.batches = [torch.randn(8, 5, generator=generator) for _ in range(BATCHES)]
        self.place = 0

    def __len__(self):
        return BATCHES

    def __iter__(self):
        for index in range(self.place % BATCHES, BATCHES):
            self.place = index + 1
            yield self.batches[index]

    def state_dict(self):
        return {"place": self.place}

    def load_state_dict(self, state):
        self.place = state["place"]


class Module(lightning.LightningModule):
    """Three heads, a schedule that steps with the optimizer, and one function for training and validation."""

    def __init__(self, recipe=GradNorm.robust, **settings):
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh())
        self.heads = nn.ModuleDict({task: nn.Linear(6, 1) for task in TASKS})
        self.balancer = recipe(list(TASKS), self.net[2], **settings)

    def configure_callbacks(self):
        return [BalancerCallback(self.balancer)]

    def configure_optimizers(self):
        optimizer = torch.optim.Adam(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 30)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def training_step(self, batch, _):
        features = self.net(batch)
        outputs = {task: self.heads[task](features) for task in TASKS}
        return self.balancer({task: 30.0**i * (outputs[task] - 1).square().mean() for i, task in enumerate(TASKS)})

    def validation_step(self, batch, index):
        self.log("loss", self.training_step(batch, index), batch_size=len(batch))


class Manual(Module):
    """Owns its loop, in which every other batch makes a step."""

    def __init__(self, **settings):
        super().__init__(**settings)
        self.automatic_optimization = False

    def training_step(self, batch, index):
        self.manual_backward(super().training_step(batch, index) / 2)
        if index % 2:
            self.optimizers().step()
            self.optimizers().zero_grad()


def fit(module, folder, checkpoint=None, seed=0, **settings):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    quiet |= {"enable_checkpointing": False, "devices": 1, "max_epochs": 2, "default_root_dir": folder}
    trainer = lightning.Trainer(**quiet | settings)
    trainer.fit(module, Loader(seed), ckpt_path=checkpoint)
    return trainer


def assert_same(one, two):
    assert torch.equal(one.balancer.weights, two.balancer.weights)
    for kind in ("arithmetic", "geometric"):
        assert torch.equal(one.balancer.mean_weights(kind), two.balancer.mean_weights(kind))
    assert one.balancer.step == two.balancer.step > 0
    for left, right in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(left, right)


def as_users_train(module, folder, checkpoint=None):
    """Accumulation, clipping, mixed precision, validation, early stopping, and a checkpoint of every step."""
    saved = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)
    stop = EarlyStopping("loss", patience=1, min_delta=0.5)
    settings = {"max_epochs": 12, "accumulate_grad_batches": 3, "gradient_clip_val": 0.5, "precision": "bf16-mixed"}
    settings |= {"callbacks": [saved, stop], "enable_checkpointing": True}
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = lightning.Trainer(default_root_dir=folder, devices=1, **settings | quiet)
    trainer.fit(module, Loader(), Loader(), ckpt_path=checkpoint)
    return trainer


@pytest.mark.parametrize(
    ("recipe", "steps"),
    [(GradNorm.robust, (4, 6)), (lambda tasks, _: torchjd_balancer("dwa", tasks), (6,))],
    ids=["GradNorm", "a method that counts epochs"],
)
def test_resumed_after_a_step_training_is_as_if_never_stopped(recipe, steps, tmp_path):
    """In the middle of an epoch, and after its last step, which has one batch in place of three."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BalancerWarning)  # of DWA, which cannot accumulate
        whole = Module(recipe)
        trainer = as_users_train(whole, tmp_path / "whole")
        assert 3 < trainer.current_epoch < 12  # stopped early
        for step in steps:
            module = Module(recipe)
            again = as_users_train(module, tmp_path / f"{step}", tmp_path / "whole" / f"step={step}.ckpt")
            assert_same(module, whole)
            assert again.current_epoch == trainer.current_epoch
            assert again.global_step == trainer.global_step


def test_w_moves_once_in_a_step_of_the_optimizer(tmp_path):
    module = Module()
    trainer = fit(module, tmp_path, accumulate_grad_batches=3)
    assert module.balancer.step == trainer.global_step == 6
    assert module.balancer.accumulate == 3


def test_accumulation_that_changes_with_the_epoch_is_followed(tmp_path):
    module = Module(accumulate=3)
    trainer = fit(module, tmp_path, callbacks=[GradientAccumulationScheduler({0: 3, 1: 2})])
    assert module.balancer.step == trainer.global_step == 3 + 4


def told(function):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        function()
    return [str(one.message) for one in found if issubclass(one.category, BalancerWarning)]


def test_another_accumulation_is_corrected_with_one_warning(tmp_path):
    module = Module(accumulate=2)
    (warning,) = told(lambda: fit(module, tmp_path, accumulate_grad_batches=3))
    assert warning.startswith("accumulate: expected 3, as `accumulate_grad_batches of the Lightning Trainer`, got 2.")
    assert module.balancer.step == 6


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Manual(), ["GradNorm took 2 steps in one step of the optimizer"]),
        (lambda: Manual(accumulate=4), ["GradNorm took 2 of 4 passes of a step in one step of the optimizer"]),
        (lambda: Manual(accumulate=2), []),
    ],
)
def test_manual_optimization_that_accumulates_otherwise_is_told_once(make, words, tmp_path):
    found = told(lambda: fit(make(), tmp_path))
    assert len(found) == len(words)
    assert all(text.startswith(start) for text, start in zip(found, words, strict=True))


@pytest.mark.parametrize(
    ("recipe", "warnings"),
    [
        (lambda tasks, _: Uncertainty(tasks), 1),
        (lambda tasks, _: Static(tasks, dict.fromkeys(tasks, 1.0)), 0),
    ],
)
def test_a_balancer_that_cannot_accumulate_says_so_if_its_weights_move(recipe, warnings, tmp_path):
    found = told(lambda: fit(Module(recipe), tmp_path, accumulate_grad_batches=3))
    assert len(found) == warnings
    assert all("Uncertainty moved its weights 3 times in one step of the optimizer" in text for text in found)


@pytest.mark.parametrize(("kind", "accumulate"), [(Module, 2), (Manual, 1)])
def test_weights_are_logged_every_so_many_steps(kind, accumulate, tmp_path):
    module = kind(accumulate=2)
    logger = CSVLogger(tmp_path)
    fit(module, tmp_path, logger=logger, log_every_n_steps=2, accumulate_grad_batches=accumulate)
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    steps = 2 * BATCHES if kind is Manual else 2 * (BATCHES // 2 + 1)
    assert [row["step"] for row in rows] == list(range(1, steps, 2))
    assert {task: rows[-1][f"w/{task}"] for task in TASKS} == pytest.approx(module.balancer.as_dict())


def save(module, folder):
    trainer = fit(module, folder, max_epochs=1)
    trainer.save_checkpoint(folder / "half.ckpt")
    return folder / "half.ckpt"


class Without(Module):
    def configure_callbacks(self):
        return []


class Other(Module):
    def __init__(self, **settings):
        super().__init__(**settings)
        self.balancer = GradNorm.robust(["near", "else", "odd"], self.net[2])


@pytest.mark.parametrize(
    ("made", "read", "message"),
    [
        (Without, Module, "ckpt_path: expected one that was saved with a BalancerCallback"),
        (Module, lambda: Module(GradNorm.direct), r"state: expected a state of GradNorm \(direct\), got .*\(log\)"),
        (Module, Other, r"state: expected a state of the tasks \['near', 'else', 'odd'\]"),
    ],
)
def test_a_checkpoint_of_another_balancer_is_refused_in_one_line(made, read, message, tmp_path):
    checkpoint = save(made(), tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        fit(read(), tmp_path, checkpoint)
    assert "\n" not in str(error.value)


def test_validation_with_a_checkpoint_leaves_the_balancer(tmp_path):
    checkpoint = save(Module(), tmp_path)
    for module in (Module(), Without()):
        trainer = lightning.Trainer(logger=False, enable_progress_bar=False, default_root_dir=tmp_path)
        trainer.validate(module, Loader(), ckpt_path=checkpoint, verbose=False)
        assert module.balancer.step == 0


def work(rank, folder):
    """Train whole, then its second half again, from a checkpoint in the middle of an epoch."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    place = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({key: str(value) for key, value in place.items()} | {"TORCHELASTIC_RUN_ID": "here"})
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        found = []
        for checkpoint in (None, f"{folder}/step=4.ckpt"):
            module = Module()
            saved = [] if checkpoint else [ModelCheckpoint(folder, "{step}", every_n_train_steps=4, save_top_k=-1)]
            settings = {"strategy": "ddp", "devices": 2, "use_distributed_sampler": False, "max_epochs": 3}
            settings |= {"callbacks": saved, "enable_checkpointing": bool(saved), "accumulate_grad_batches": 2}
            fit(module, folder, checkpoint, rank, **settings)
            found.append([module.balancer.weights, module.balancer.mean_weights(), *module.parameters()])
        torch.save([[tensor.detach() for tensor in run] for run in found], f"{folder}/{rank}.pt")
        dist.barrier()
    finally:
        dist.destroy_process_group()


@pytest.mark.slow
def test_ranks_resumed_are_as_if_never_stopped(tmp_path):
    mp.spawn(work, args=(str(tmp_path),), nprocs=2)
    (whole, again), other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    for run in (again, *other):
        for one, two in zip(whole, run, strict=True):
            assert torch.equal(one, two)
