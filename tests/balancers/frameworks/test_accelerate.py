"""A balancer in a loop of accelerate: registered for checkpointing, resumed as if never stopped."""

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch.utils.data import DataLoader

from balancers import GradNorm
from balancers.testing import TASKS, TinyNetwork

EPOCHS, ROWS, BATCH, PARTS = 3, 26, 4, 3  # 7 batches in an epoch: with three in a step the last step has one


def train(folder, checkpoint=None):
    """Save after every step; from a checkpoint on, skip what was trained."""
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=PARTS)
    network = TinyNetwork()
    balancer = GradNorm.robust(list(TASKS), network.shared, accumulate=accelerator.gradient_accumulation_steps)
    accelerator.register_for_checkpointing(balancer)
    loader = DataLoader(torch.randn(ROWS, 5, generator=torch.Generator().manual_seed(0)), BATCH)
    model, optimizer, loader = accelerator.prepare(network, torch.optim.Adam(network.parameters(), 1e-2), loader)
    done = 0
    if checkpoint is not None:
        accelerator.load_state(checkpoint)
        done = balancer.step
    per_epoch = -(-len(loader) // PARTS)
    for epoch in range(done // per_epoch, EPOCHS):
        skipped = done % per_epoch * PARTS if epoch == done // per_epoch else 0
        for x in accelerator.skip_first_batches(loader, skipped):
            with accelerator.accumulate(model):
                network.inputs, network.targets = x, {task: torch.ones(len(x), 1) for task in TASKS}
                accelerator.backward(balancer(network.losses()))
                optimizer.step()
                optimizer.zero_grad()
            if accelerator.gradient_state.end_of_dataloader:
                balancer.end_epoch()
            if accelerator.sync_gradients:
                accelerator.save_state(f"{folder}/{balancer.step}")
    return network, balancer


def test_resumed_after_any_step_training_is_as_if_never_stopped(tmp_path):
    network, whole = train(tmp_path / "whole")
    assert whole.step == 9
    for step in (1, 3, 5):
        other, balancer = train(tmp_path / "again", tmp_path / "whole" / str(step))
        assert torch.equal(balancer.weights, whole.weights)
        assert torch.equal(balancer.mean_weights(), whole.mean_weights())
        for left, right in zip(network.parameters(), other.parameters(), strict=True):
            assert torch.equal(left, right)
