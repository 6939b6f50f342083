"""MMOE, PLE and ESMM of torch-rechub on Census-Income (KDD), for `benchmarks.public_models`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch_rechub.basic.features import DenseFeature, SparseFeature
from torch_rechub.models.multi_task import ESMM, MMOE, PLE
from torch_rechub.utils.data import get_loss_func

from hpo.problems.census import read_table, source_files
from hpo.problems.census_encoding import LOGARITHMIC, input_columns

ROWS, BATCH, WIDTH = 20_000, 256, 16
EXPERT = {"dims": [64, 32], "activation": "relu"}
TOWER = {"dims": [16], "activation": "relu"}
QUESTIONS = {"income": "classification", "never_married": "classification", "age": "regression"}
FUNNEL = {"employed": "classification", "income": "classification"}  # as click, and conversion of those who click


@dataclass
class PublicModel:
    """A network of somebody else's, and the way in which its users train it.

    Attributes:
        name: as in the table.
        model: the network.
        batches: of the training data, in order.
        losses: the loss of each task on a batch.
        optimizers: makes the optimizers of the network.
        shared: W, by its name in the network; ``None`` lets `find_shared_layer` find it.
    """

    name: str
    model: nn.Module
    batches: list[Any]
    losses: Callable[[nn.Module, Any], dict[str, Tensor]]
    optimizers: Callable[[nn.Module], list[torch.optim.Optimizer]]
    shared: str | None = None


class Table:
    """Rows of the census: an id for each category, logarithms of the numbers, and labels."""

    def __init__(self, rows: int = ROWS) -> None:
        table = read_table(source_files()[0]).sample(rows, random_state=0)
        self.sizes, self.x = dict[str, int](), dict[str, Tensor]()
        for column in input_columns(leaky=False):
            if column in LOGARITHMIC:
                self.x[column] = torch.tensor(table[column].to_numpy()).float().log1p()
            else:
                ids, categories = table[column].factorize()
                self.sizes[column] = len(categories)
                self.x[column] = torch.tensor(ids)
        earns, employed = (table["income"] == "50000+.").to_numpy(), table["weeks_worked_in_year"].to_numpy() > 0
        never_married = (table["marital_stat"] == "Never married").to_numpy()
        labels = {"income": earns, "never_married": never_married, "age": table["age"].to_numpy()}
        labels |= {"employed": employed, "both": earns & employed}
        self.labels = {name: torch.tensor(numbers).float() for name, numbers in labels.items()}

    def sparse(self) -> list[Any]:
        """New features of the categories: torch-rechub keeps the embeddings in them, so models share those."""
        return [SparseFeature(column, size, embed_dim=WIDTH) for column, size in self.sizes.items()]

    def features(self) -> list[Any]:
        """New features of all columns."""
        return self.sparse() + [DenseFeature(column) for column in self.x if column not in self.sizes]

    def batches(self, labels: list[str]) -> list[Any]:
        """Batches as torch-rechub's loaders give them: a column each, and the labels of all tasks in one tensor."""
        y = torch.stack([self.labels[name] for name in labels], 1)
        starts = range(0, len(y) - BATCH + 1, BATCH)
        return [({k: v[s : s + BATCH] for k, v in self.x.items()}, y[s : s + BATCH]) for s in starts]


def by_column(tasks: dict[str, str], first: int = 0) -> Callable[[nn.Module, Any], dict[str, Tensor]]:
    """Losses as in torch-rechub's `MTLTrainer`: of one column each.

    Args:
        tasks: the kind of each.
        first: the column of the first task.
    """
    criteria = [get_loss_func(kind) for kind in tasks.values()]

    def losses(model: nn.Module, batch: Any) -> dict[str, Tensor]:
        x, y = batch
        out = model(x)[:, first:]
        return {task: criteria[k](out[:, k], y[:, k]) for k, task in enumerate(tasks)}

    return losses


def adam(model: nn.Module) -> list[torch.optim.Optimizer]:
    """The optimizer of `MTLTrainer`, with its defaults."""
    return [torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-5)]


def adam_of_sparse(model: nn.Module) -> list[torch.optim.Optimizer]:
    """Adam, and one for embeddings whose gradients are sparse."""
    tables = [p for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()]
    others = [p for p in model.parameters() if all(p is not table for table in tables)]
    return [torch.optim.Adam(others, lr=1e-3), torch.optim.SparseAdam(tables, lr=1e-3)]


def recommenders(rows: int = ROWS) -> list[PublicModel]:
    """The networks of torch-rechub, as its examples build them."""
    table, kinds, towers = Table(rows), list(QUESTIONS.values()), [TOWER] * len(QUESTIONS)
    questions, funnel = table.batches(list(QUESTIONS)), table.batches(["employed", "both"])

    def esmm() -> nn.Module:
        torch.manual_seed(0)
        features = table.sparse()
        return ESMM(features[::2], features[1::2], {"dims": [32, 16]}, {"dims": [32, 16]})

    torch.manual_seed(0)
    mmoe = MMOE(table.features(), kinds, n_expert=6, expert_params=EXPERT, tower_params_list=towers)
    ple = PLE(
        table.features(),
        kinds,
        n_level=1,
        n_expert_specific=2,
        n_expert_shared=2,
        expert_params=EXPERT,
        tower_params_list=towers,
    )
    sparse = esmm()
    for module in sparse.modules():
        if isinstance(module, nn.Embedding):
            module.sparse = True
    funnel_losses = by_column(FUNNEL, first=1)  # column 0 is no task: conversions of all, clicked or not
    return [
        PublicModel("MMOE", mmoe, questions, by_column(QUESTIONS), adam),
        PublicModel("PLE", ple, questions, by_column(QUESTIONS), adam),
        PublicModel("ESMM", esmm(), funnel, funnel_losses, adam),
        PublicModel("ESMM, sparse tables", sparse, funnel, funnel_losses, adam_of_sparse),
    ]
