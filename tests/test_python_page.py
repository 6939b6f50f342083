"""docs/python.md runs as one script, as it says; examples/notebook.ipynb runs in a kernel, as short as it says."""

import ast
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from balancers import Static
from tests.helpers.scripts import ROOT, run

PAGE = (ROOT / "docs" / "python.md").read_text()
NOTEBOOK = ROOT / "examples" / "notebook.ipynb"


@pytest.mark.slow
def test_the_page_runs_as_a_script(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 6
    (tmp_path / "page.py").write_text("\n".join(blocks))
    printed = run("page.py", folder=tmp_path)
    assert "\nseeds: expected a number >= 1, got -3\n" in f"\n{printed}"
    assert "__main__:ShortDigits@" in printed
    assert "\nFaults: 0, " in printed
    assert (tmp_path / "report.html").stat().st_size > 100_000
    weights = Static.load(tmp_path / "weights.json", tasks=["digit", "ink"]).weights
    assert float(weights.sum()) == pytest.approx(2)


def outputs(cell: nbformat.NotebookNode, kind: str) -> list[str]:
    return [output["data"][kind] for output in cell.outputs if kind in output.get("data", {})]


@pytest.mark.slow
def test_the_notebook_goes_from_a_class_to_weights_and_a_figure(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(shutil.copy(NOTEBOOK, tmp_path), as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert sum(bool(line.strip()) for cell in cells for line in cell.source.splitlines()) < 40
    assert not any(cell.outputs for cell in cells)
    client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}})
    client.execute()
    *_, check, study, ran, weights, figure, _ = cells
    assert "Faults: 0, warnings: 0." in outputs(check, "text/plain")[0]
    assert "times apart" in outputs(check, "text/plain")[0]
    (most,) = re.findall(r"^(\d+) trials, \d+ epochs", outputs(study, "text/plain")[0], re.MULTILINE)
    shown = outputs(ran, "text/plain")
    assert len(shown) < 15  # progress is drawn in place
    (done,) = [found for text in shown for found in re.findall(r"^all .* (\d+)/(\d+) ", text, re.MULTILINE)]
    assert done[0] == done[1]
    assert 0 < int(done[0]) <= int(most)  # arms with the same weights share a trial
    assert not [output for output in ran.outputs if output.output_type == "stream"]
    assert "Train with " in shown[-1]
    found = ast.literal_eval(outputs(weights, "text/plain")[0])
    assert found == json.loads((tmp_path / "weights.json").read_text())["weights"]
    (drawn,) = outputs(figure, "application/vnd.plotly.v1+json")
    assert len(drawn["data"]) >= 2
    assert sorted(path.name for path in Path(tmp_path).iterdir()) == [
        "gradsweep-output",
        "ipython",
        "notebook.ipynb",
        "weights.json",
    ]
