from __future__ import annotations

import re

import pytest

from hpo.report import ImageError, write_images
from hpo.report.figures import FIGURES
from tests.helpers.chromium import chromium
from tests.helpers.report_builder import Builder


@pytest.mark.slow
def test_every_figure_becomes_a_file(tmp_path):
    chromium()
    data = Builder(tuned=True).data()
    files = write_images(data, tmp_path / "new", "svg")
    assert sorted(file.name for file in files) == sorted(f"{name}.svg" for name in FIGURES)
    assert sorted((tmp_path / "new").iterdir()) == sorted(files)
    for file in files:
        text = file.read_text()
        assert text.startswith("<svg")
        assert text.count("<path") > 5
        height = FIGURES[file.stem].figure(data).layout.height
        assert re.search(rf'<svg[^>]* width="900" height="{height}"', text), text[:200]


def test_without_a_chrome_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "none"))
    with pytest.raises(ImageError, match="--figures: needs Chrome or Chromium"):
        write_images(Builder(T=2, points=6).data(), tmp_path / "images", "png")
    assert list((tmp_path / "images").iterdir()) == []
