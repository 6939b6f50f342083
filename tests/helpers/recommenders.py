"""Recommenders as their libraries write them: all tasks' predictions in one tensor, a column each."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers.networks import ONE, Case, case, layers

FIELDS, VOCABULARY, WIDTH, BATCH = 3, 7, 4, 12


class Embedded(nn.Module):
    """Embeddings of categorical fields, side by side."""

    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(VOCABULARY, WIDTH) for _ in range(FIELDS)])

    def forward(self, x):
        return torch.cat([table(x[:, k]) for k, table in enumerate(self.tables)], dim=1)


def expert():
    return layers(FIELDS * WIDTH, 8, 6)


def tower():
    return nn.Sequential(*layers(6, 4), nn.Linear(4, 1))


class MMoE(nn.Module):
    """Experts that a gate for each task mixes (Ma et al., KDD 2018)."""

    def __init__(self, tasks=3, experts=4):
        super().__init__()
        self.embedding = Embedded()
        self.experts = nn.ModuleList([expert() for _ in range(experts)])
        self.gates = nn.ModuleList([nn.Linear(FIELDS * WIDTH, experts) for _ in range(tasks)])
        self.towers = nn.ModuleList([tower() for _ in range(tasks)])

    def forward(self, x):
        embedded = self.embedding(x)
        experts = torch.cat([expert(embedded).unsqueeze(1) for expert in self.experts], dim=1)
        outputs = []
        for gate, tower in zip(self.gates, self.towers, strict=True):
            mixed = (gate(embedded).softmax(dim=1).unsqueeze(-1) * experts).sum(dim=1)
            outputs.append(tower(mixed).sigmoid())
        return torch.cat(outputs, dim=1)


class PLE(nn.Module):
    """Experts of all tasks and of each, with a gate for each task (Tang et al., RecSys 2020)."""

    def __init__(self, tasks=3):
        super().__init__()
        self.embedding = Embedded()
        self.common = nn.ModuleList([expert() for _ in range(2)])
        self.specific = nn.ModuleList([nn.ModuleList([expert() for _ in range(2)]) for _ in range(tasks)])
        self.gates = nn.ModuleList([nn.Linear(FIELDS * WIDTH, 4) for _ in range(tasks)])
        self.towers = nn.ModuleList([tower() for _ in range(tasks)])

    def forward(self, x):
        embedded = self.embedding(x)
        common = [expert(embedded) for expert in self.common]
        outputs = []
        for own, gate, tower in zip(self.specific, self.gates, self.towers, strict=True):
            experts = torch.stack([expert(embedded) for expert in own] + common, dim=1)
            mixed = torch.bmm(gate(embedded).softmax(1).unsqueeze(1), experts).squeeze(1)
            outputs.append(tower(mixed).sigmoid())
        return torch.cat(outputs, 1)


class ESMM(nn.Module):
    """Clicks, and conversions as clicks times conversions after a click (Ma et al., SIGIR 2018)."""

    def __init__(self):
        super().__init__()
        self.embedding = Embedded()
        self.click, self.conversion = (nn.Sequential(*layers(FIELDS * WIDTH, 4), nn.Linear(4, 1)) for _ in range(2))

    def forward(self, x):
        embedded = self.embedding(x)
        click, conversion = self.click(embedded).sigmoid(), self.conversion(embedded).sigmoid()
        return torch.cat([click, click * conversion], dim=1)


def data(tasks):
    return torch.randint(VOCABULARY, (BATCH, FIELDS)), torch.randint(2, (BATCH, tasks)).to(torch.get_default_dtype())


def by_column(network, shared, tasks):
    x, y = data(tasks)

    def losses():
        out = network(x)
        return {f"task{i}": F.binary_cross_entropy(out[:, i], y[:, i]) for i in range(tasks)}

    return Case(losses, list(network.parameters()), shared)


def by_vector(network, shared, tasks):
    x, y = data(tasks)

    def losses():
        every = F.binary_cross_entropy(network(x), y, reduction="none").mean(0)
        return {f"task{i}": every[i] for i in range(tasks)}

    return Case(losses, list(network.parameters()), shared)


@case(ONE)
def mmoe_by_column():
    network = MMoE()
    return by_column(network, nn.ModuleList([expert[2] for expert in network.experts]), 3)


@case(ONE)
def mmoe_by_a_vector_of_losses():
    network = MMoE()
    return by_vector(network, nn.ModuleList([expert[2] for expert in network.experts]), 3)


@case(ONE)
def ple_by_column():
    network = PLE()
    return by_column(network, nn.ModuleList([expert[2] for expert in network.common]), 3)


@case(ONE)
def ple_by_a_vector_of_losses():
    network = PLE()
    return by_vector(network, network.embedding, 3)


@case(ONE)
def esmm_by_column():
    network = ESMM()
    return by_column(network, network.embedding, 2)


@case(ONE)
def esmm_by_a_vector_of_losses():
    network = ESMM()
    return by_vector(network, network.embedding, 2)
