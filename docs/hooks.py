"""MkDocs hooks: generated parts of the reference, links into the repository, and a check that nothing is missing.

A page marks where generated text goes: ``<!-- generated: command-line -->``, ``<!-- generated: study-file -->``,
``<!-- generated: names balancers -->``, ``<!-- include: CHANGELOG.md -->``. Links to files of the repository outside
``docs/`` are relative, as GitHub shows them; here they become links to the repository.
"""

from __future__ import annotations

import importlib
import inspect
import posixpath
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.pages import Page
from mkdocstrings import Inventory

from hpo.study.spec import Study

ROOT = Path(__file__).resolve().parents[1]
PUBLIC = ("gradsweep", "balancers", "search_spaces", "hpo.problems")
MARK = re.compile(r"^<!-- (generated|include): (\S+) ?(\S*) -->$", re.MULTILINE)
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)\s#]+)(#[^)\s]*)?(?=\))")
CODE = re.compile(r"^(`{3,}).*?^\1$", re.MULTILINE | re.DOTALL)
BOUNDS = (("minimum", ">="), ("exclusiveMinimum", ">"), ("gt", ">"), ("ge", ">="), ("maximum", "<="))
BOUNDS += (("lt", "<"), ("maxLength", "length <="))
UNLIMITED = 2**31  # bounds that only keep a number within 32 bits are not worth a word


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, **_: object) -> str:
    """Fill a page's marks and direct its links."""
    here = posixpath.dirname(page.file.src_uri)
    text = _directed(markdown, posixpath.join("docs", here), here, config)
    return MARK.sub(lambda mark: _filled(mark, here, config), text)


def on_post_build(config: MkDocsConfig, **_: object) -> None:
    """Fail where a public name has no docstring or is missing from the reference."""
    if faults := undocumented(Path(config.site_dir) / "objects.inv"):
        raise PluginError("The reference is incomplete:\n" + "\n".join(faults))


def undocumented(inventory: Path) -> list[str]:
    """Return a line for each public name that has no docstring or is missing from a built inventory."""
    with inventory.open("rb") as file:
        known = set(Inventory.parse_sphinx(file))
    faults = []
    for module, name, value in _public():
        if not any(f"{package}.{name}" in known for package in _packages(name, value)):
            faults.append(f"{module}.{name}: not in the reference; add it to a page in docs/api/")
        if (inspect.isclass(value) or inspect.isfunction(value)) and not (value.__doc__ or "").strip():
            faults.append(f"{module}.{name}: has no docstring")
    return faults


def command_line() -> str:
    """Describe every command and option, from the code."""
    command = [sys.executable, "-m", "typer", "hpo.cli.app", "utils", "docs", "--name", "gradsweep"]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    _, _, commands = made.partition("## `gradsweep")
    return f"## `gradsweep{commands}".replace("{STUDY.yaml}", "STUDY.yaml")


def study_file() -> str:
    """Describe every key of a study file, from the models that read it."""
    schema = Study.model_json_schema()
    rows = ["| key | allowed | default | meaning |", "| --- | --- | --- | --- |"]
    rows += ["| " + " | ".join(cells) + " |" for cells in _keys(schema, schema["$defs"], "")]
    return "\n".join(rows)


def _keys(model: dict[str, Any], models: dict[str, Any], prefix: str) -> Iterator[tuple[str, str, str, str]]:
    """Yield a row for each key of a model, and of the models within it."""
    for name, field in model["properties"].items():
        part = models.get(field.get("$ref", "").rpartition("/")[2])
        default = "required" if name in model.get("required", ()) else "" if part else _value(field.get("default"))
        key = f"`{prefix}{name}`"
        yield key, "a mapping" if part else _allowed(field), default, field["description"].replace("|", "\\|")
        if part:
            yield from _keys(part, models, f"{prefix}{name}.")


def _value(value: Any) -> str:
    """Write a default as YAML has it."""
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _allowed(field: dict[str, Any]) -> str:
    """Describe a key's type and bounds."""
    kind = next((one for one in field.get("anyOf", ()) if one.get("type") != "null"), field)
    words = {"integer": "whole number", "number": "number", "string": "text", "array": "list"}
    if kind.get("maxItems") == 2:
        return "two numbers"
    bounds = [f"{sign} {kind[key]}" for key, sign in BOUNDS if key in kind and kind[key] < UNLIMITED]
    return ", ".join([words.get(kind.get("type", ""), "see right"), *bounds])


def _public() -> Iterator[tuple[str, str, Any]]:
    for module in PUBLIC:
        found = importlib.import_module(module)
        yield from ((module, name, getattr(found, name)) for name in found.__all__ if not name.startswith("__"))


def _packages(name: str, value: Any) -> list[str]:
    """Name the public packages that hand out a value under a name."""
    return [one for one in PUBLIC if getattr(importlib.import_module(one), name, None) is value]


def names(module: str) -> str:
    """Document every public name of a package; those that `gradsweep` hands on are links to their own page."""
    parts, elsewhere = [], []
    for package, name, value in _public():
        homes = [one for one in _packages(name, value) if one != "gradsweep"]
        if package == module == "gradsweep" and homes:
            elsewhere.append(f"| `gradsweep.{name}` | [`{homes[0]}.{name}`][{homes[0]}.{name}] |")
        elif package == module:
            parts.append(f"::: {module}.{name}")
    if elsewhere:
        parts.insert(0, "\n".join(["| name | documented as |", "| --- | --- |", *elsewhere]))
    return "\n\n".join(parts)


def _filled(mark: re.Match[str], here: str, config: MkDocsConfig) -> str:
    kind, what, argument = mark.groups()
    if kind == "include":
        return _directed((ROOT / what).read_text(), posixpath.dirname(what), here, config)
    made = {"command-line": command_line, "study-file": study_file, "names": lambda: names(argument)}
    return made[what]()


def _directed(text: str, source: str, here: str, config: MkDocsConfig) -> str:
    """Adapt the links of a text from the folder ``source`` for a page in ``docs/`` + ``here``."""

    def directed(link: re.Match[str]) -> str:
        target, anchor = posixpath.normpath(posixpath.join(source, link[1])), link[2] or ""
        if target.startswith("docs/") and not (ROOT / target).is_dir() and target not in HIDDEN:
            return posixpath.relpath(target, posixpath.join("docs", here)) + anchor
        if not (ROOT / target).exists():
            return link[0]  # MkDocs warns of it
        return f"{config.repo_url.rstrip('/')}/blob/main/{target}{anchor}"

    kept, end = [], 0
    for block in CODE.finditer(text):
        kept += [LINK.sub(directed, text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*kept, LINK.sub(directed, text[end:])])


HIDDEN = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.py")}  # not part of the site
