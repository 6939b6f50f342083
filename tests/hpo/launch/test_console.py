"""Text from others cannot control the terminal: it is escaped wherever it is printed."""

from __future__ import annotations

import re
import unicodedata
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

from hpo.core.text import commands_in, printable
from hpo.launch.console import Console
from tests.helpers.runs import Case, main

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\ud800"
ESCAPED = r"\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\ud800"


def printed(thing: object, **options: object) -> str:
    console = Console(file=StringIO(), width=200, **options)
    console.print(thing)
    return console.file.getvalue()  # type: ignore[attr-defined]


def table(cell: object) -> Table:
    drawn = Table(title="title")
    drawn.add_column("column")
    drawn.add_row(cell)
    return drawn


@pytest.mark.parametrize("options", [{}, {"force_terminal": True, "color_system": None}])
@pytest.mark.parametrize("wrap", [str, table, Text])
def test_no_control_character_is_printed(wrap, options):
    out = printed(wrap(HOSTILE), **options)
    assert [c for c in out if unicodedata.category(c)[0] == "C" and c != "\n"] == []
    assert r"\x1b]0;owned" in out
    assert r"\x1b[2J\x9b31m\u202e\ud800" in out


def test_a_cell_that_was_measured_before_it_was_escaped_is_cut():
    out = printed(table(Text(HOSTILE)))
    assert [c for c in out if unicodedata.category(c)[0] == "C" and c != "\n"] == []
    assert len({len(line) for line in out.splitlines()[1:]}) == 1


def test_our_colours_are_drawn_and_those_in_other_text_are_not():
    out = printed(Text("\x1b[31mred", "bold"), force_terminal=True, color_system="standard")
    assert out == "\x1b[1m\\x1b[31mred\x1b[0m\n"


def test_markup_in_other_text_is_not_interpreted():
    assert printed("[bold]x[/nothing] :smile:") == "[bold]x[/nothing] :smile:\n"
    assert "[/nothing]" in printed(table("[/nothing]"))


def test_lines_tabs_and_other_scripts_stay():
    for text in ("one\ntwo", "a → ± ünïcode 日本　語", "🙂"):
        assert printed(text) == f"{text}\n"


def test_progress_bars_are_escaped_too():
    console = Console(file=StringIO(), width=200, force_terminal=True, color_system=None)
    with Progress(TextColumn("{task.description}", markup=False), console=console) as bars:
        bars.add_task(HOSTILE)
    out = console.file.getvalue()  # type: ignore[attr-defined]
    assert "owned" in out
    assert "\x1b]" not in out
    assert "\x07" not in out


@given(st.text())
def test_what_is_printable_stays_and_everything_else_is_escaped(text: str) -> None:
    found = printable(text)
    assert found.isprintable() or all(unicodedata.category(c) == "Zs" for c in found if not c.isprintable())
    assert printable(found) == found
    assert text != found or commands_in(text) == ""
    assert printable(text, keep="\n").count("\n") == text.count("\n")


@pytest.fixture
def case(tmp_path, monkeypatch) -> Case:
    monkeypatch.chdir(tmp_path)
    return Case(tmp_path, workers=1)


def test_text_of_a_problem_is_escaped(case, capsys):
    case.study(problem={"name": "tests.helpers.problems:Named", "task": "\x1b[2J"})
    code, out, err = main(capsys, "plan", "study.yaml")
    assert (code, out) == (2, "")
    assert re.fullmatch(r"error: [\x20-\x7e]+\n", err)
    assert r"\x1b[2J" in err


def test_an_error_that_nobody_expected_is_escaped_and_holds_no_secret_of_the_environment(case, capsys, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise LookupError(f"{HOSTILE} at http://ada:hidden@h")

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://ada:hidden@h")
    monkeypatch.setattr("hpo.api.study.read_study_file", fail)
    code, out, err = main(capsys, "plan", "study.yaml")
    assert (code, out) == (1, "")
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.endswith(f"LookupError: {ESCAPED} at http://ada:***@h\n")
