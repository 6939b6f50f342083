"""The documentation site: built strictly, every public name in the reference, every command and key on its page."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hpo.cli.app import COMMANDS
from hpo.report.glossary import glossary
from hpo.study.spec import Study

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site; a warning, such as one of a broken link, is an error."""
    folder = tmp_path_factory.mktemp("site")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def text(site: Path, page: str) -> str:
    return (site / page / "index.html").read_text()


def test_every_command_is_described(site: Path) -> None:
    page = text(site, "command-line")
    for command in COMMANDS:
        assert f'id="gradsweep-{command.__name__.replace("_", "-")}"' in page


def test_every_key_of_a_study_file_is_described_with_its_limits(site: Path) -> None:
    page = text(site, "study-file")
    for name in Study.model_fields:
        assert f"<code>{name}</code>" in page
    (row,) = re.findall(r"<tr>\s*<td><code>seeds</code></td>.*?</tr>", page, re.DOTALL)
    assert "whole number, &gt;= 1, &lt;= 1000" in row
    assert "<code>3</code>" in row


def test_the_glossary_of_the_report_is_on_the_site(site: Path) -> None:
    page = text(site, "glossary")
    for term in glossary():
        assert f'id="{term.anchor}"' in page


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    fetched = re.compile(r'<(?:script|link|img)[^>]+(?:src|href)="https?://(?!gradsweep\.)[^"]+"')
    assert [page for page in site.rglob("*.html") if fetched.search(page.read_text())] == []


def test_links_to_the_repository_name_files_that_are_there(site: Path) -> None:
    links = {
        link
        for page in site.rglob("*.html")
        for link in re.findall(r'href="https://github.com/gradsweep/gradsweep/blob/main/([^"#]+)', page.read_text())
    }
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []
