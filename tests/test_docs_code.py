"""Code on the pages: Python runs, YAML is a study file, commands and options exist, links lead to files."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader
from typer.main import get_command

from hpo.cli.app import app
from hpo.study.spec import Study
from tests.helpers.weights_files import write_weights_file

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OWN_TEST = {"python.md"}  # tests/test_python_page.py runs it in a process of its own
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path, kind: str) -> list[str]:
    """Find a page's blocks of one kind."""
    return [text for found, text in BLOCK.findall(page.read_text()) if found == kind]


def having(kind: str) -> list[Path]:
    """Find the pages that have a block of a kind."""
    return [page for page in PAGES if blocks(page, kind) and page.name not in OWN_TEST]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


class Network(nn.Module):
    """A trunk and two heads: the network that a reader has."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(4, 8))
        self.depth, self.normals = nn.Linear(8, 1), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.trunk(x).relu()
        return self.depth(features), self.normals(features)


def readers_names() -> dict[str, Any]:
    """Make what pages take for granted: a model, its data, its losses and its optimizer."""
    torch.manual_seed(0)
    model = Network()
    batches: Any = [(torch.randn(6, 4), torch.randn(6, 1), torch.randn(6, 3)) for _ in range(3)]
    return {
        "Network": Network,
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters(), lr=1e-3),
        "mse_loss": mse_loss,
        "dataset": [{"x": torch.randn(4), "depth": torch.randn(1), "normals": torch.randn(3)} for _ in range(6)],
        "loader": DataLoader(batches, batch_size=None),
        "depth_loss": lambda model, batch: mse_loss(model(batch[0])[0], batch[1]),
        "normals_loss": lambda model, batch: mse_loss(model(batch[0])[1], batch[2]),
        "evaluate": lambda model, split: {
            "depth": float(model(batches[0][0])[0].detach().mean()),
            "normals": len(split),
        },
        "losses_of": lambda out, batch: {"depth": mse_loss(out[0], batch[1]), "normals": mse_loss(out[1], batch[2])},
    }


@pytest.mark.parametrize("page", [page for page in having("python") if page.stem != "bring-your-own"], ids=name_of)
def test_python_on_a_page_runs_from_its_first_block_to_its_last(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = readers_names()
    for block in blocks(page, "python"):
        if loaded := re.search(r"load\(\"(.*)\", tasks=(\[.*\])\)", block):
            write_weights_file(tmp_path / loaded[1], dict.fromkeys(yaml.safe_load(loaded[2]), 1.0))
        exec(compile(block, name_of(page), "exec"), names)  # noqa: S102 - that it runs is the test


@pytest.mark.parametrize("page", having("yaml"), ids=name_of)
def test_yaml_on_a_page_is_a_study_file_or_a_part_of_one(page: Path) -> None:
    for block in blocks(page, "yaml"):
        Study.model_validate({"name": "page", "problem": "toy", **yaml.safe_load(block)})


@pytest.mark.parametrize("page", having("sh"), ids=name_of)
def test_commands_on_a_page_exist_with_their_options(page: Path) -> None:
    commands: Any = get_command(app)
    for line in "\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines():
        if not (found := re.search(r"\bgradsweep ((?:[a-z]+|--)\b.*)", line)) or line.startswith("pip "):
            continue
        command, *words = shlex.split(found[1].partition(" && ")[0], comments=True)
        options = [word.partition("=")[0] for word in (command, *words) if word.startswith("-")]
        parameters = commands.params if command.startswith("-") else commands.commands[command].params
        known = {name for parameter in parameters for name in (*parameter.opts, *parameter.secondary_opts)}
        assert set(options) <= known, line


def test_links_of_the_readme_and_the_contributing_page_lead_somewhere() -> None:
    for file in ("README.md", "CONTRIBUTING.md", "SECURITY.md"):
        for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", (ROOT / file).read_text()):
            assert (ROOT / link).exists(), f"{file}: {link}"
