"""The system's Chromium, which the browser tests need."""

from __future__ import annotations

import shutil

import pytest


def chromium() -> str:
    """Return the path of Chromium; skip the test if there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    return path
