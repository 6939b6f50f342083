"""Test a LightningModule while it is trained, so that training goes on as if it had not been tested."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from hpo.training.global_state import as_found


def metrics_on_test(trainer: Trainer, module: LightningModule, dataloaders: Any) -> dict[str, Any]:
    """Return the metrics that a module logs on the test split.

    Args:
        trainer: which trains the module; another one tests it, without logs and files.
        module: that is trained.
        dataloaders: as for ``Trainer.test``; ``None`` asks the datamodule of ``trainer``, or the module.
    """
    datamodule = trainer.datamodule if dataloaders is None else None
    with as_found(), _kept(trainer, module), _silence():
        tester = _of_the_same_package(trainer)(**_settings(trainer))
        tester.test(module, dataloaders=dataloaders, datamodule=datamodule, verbose=False)
    return dict(tester.callback_metrics)


def _settings(trainer: Trainer) -> dict[str, Any]:
    device = trainer.strategy.root_device
    return {
        "accelerator": device.type,
        "devices": 1 if device.index is None else [device.index],
        "precision": trainer.precision,
        "limit_test_batches": trainer.limit_test_batches,
        "default_root_dir": trainer.default_root_dir,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }


def _of_the_same_package(trainer: Trainer) -> type[Trainer]:
    """The Trainer of ``lightning`` or of ``pytorch_lightning``, without what a subclass adds."""
    kinds = type(trainer).__mro__
    return next(kind for kind in kinds if kind.__module__.partition(".")[0] in ("lightning", "pytorch_lightning"))


@contextmanager
def _kept(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Put back what belongs to the training of a module: attributes, gradients, device, trainer."""
    attributes, device = dict(vars(module)), trainer.strategy.root_device
    gradients = [(one, one.grad) for one in module.parameters()]
    try:
        yield
    finally:
        module.to(device)  # the other Trainer has left it on the host
        for parameter, gradient in gradients:
            parameter.grad = gradient
        vars(module).update(attributes)
        module.trainer = trainer
        if trainer.datamodule is not None:
            trainer.datamodule.trainer = trainer


@contextmanager
def _silence() -> Iterator[None]:
    """Leave out Lightning's lines about the machine, which the Trainer that trains has written."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "pytorch_lightning")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
