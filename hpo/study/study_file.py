"""Study files: read safely and checked, with one line for each fault."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import yaml
from pydantic import (
    ValidationError,
)

from hpo.core.errors import StudyError
from hpo.core.text import complaint, expected, quoted, unquoted
from hpo.study.spec import Study

MOST_CHARACTERS = 1_000_000  # of a file with its aliases written out: YAML reads 100,000 a second
MOST_LEVELS = 50
MOST_FAULTS = 20  # shown


class StudyFile(NamedTuple):
    """A study with the text of its file, so that the file need not be read again."""

    study: Study
    text: str


class _Refused(yaml.MarkedYAMLError):
    """The file is YAML but not a study."""

    def __init__(self, node: yaml.Node, problem: str) -> None:
        super().__init__(problem=problem, problem_mark=node.start_mark)


_TOO_DEEP = expected(f"at most {MOST_LEVELS} levels of lists and mappings", "more")
_SCALARS = {
    "tag:yaml.org,2002:bool": "true or false",
    "tag:yaml.org,2002:float": "a number of at most 250 characters",
    "tag:yaml.org,2002:int": "a whole number of at most 250 characters",  # so that a float can hold it, hex or not
    "tag:yaml.org,2002:timestamp": "a date, or text in quotes",
}


class _Loader(yaml.SafeLoader):
    """Plain YAML without mistakes or attacks: repeated keys, exploding aliases, endless numbers are refused."""

    def get_single_node(self) -> yaml.Node | None:
        node = super().get_single_node()
        if node is not None:
            _check_nodes(node)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            if node.tag in _SCALARS and isinstance(node, yaml.ScalarNode) and len(node.value) > 250:
                raise ValueError
            return super().construct_object(node, deep)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):  # of int, float, date
            if node.tag not in _SCALARS:
                raise
            raise _Refused(node, expected(_SCALARS[node.tag], quoted(node.value))) from None


class _Dumper(yaml.SafeDumper):
    """Plain YAML that `read_yaml` reads as it was: text that looks like a number is quoted."""


# PyYAML follows YAML 1.1, which takes 1e-3 and 1.5e3 for text; in YAML 1.2, in JSON and in Python they are numbers.
_EXPONENT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+.0123456789"))


def _check_nodes(root: yaml.Node) -> None:
    """Check the size and depth of the file with its aliases written out; a list that contains itself is too deep."""
    left, todo = 2 * MOST_CHARACTERS, [(root, 1)]  # twice: what follows counts brackets and empty values too
    while todo:
        node, level = todo.pop()
        left -= 1 + len(node.value)
        if left < 0:
            raise _Refused(root, expected(f"at most {MOST_CHARACTERS} characters with aliases written out", "more"))
        if level > MOST_LEVELS:
            raise _Refused(node, _TOO_DEEP)
        if isinstance(node, yaml.ScalarNode):
            _check_text(node)
        elif isinstance(node, yaml.MappingNode):
            _check_keys(node)
            todo += ((part, level + 1) for pair in node.value for part in pair)
        else:
            todo += ((part, level + 1) for part in node.value)


def _check_text(node: yaml.ScalarNode) -> None:
    try:
        node.value.encode()
    except UnicodeEncodeError:  # half a surrogate pair: no terminal, file or database takes it
        raise _Refused(node, expected("text in Unicode", quoted(node.value))) from None


def _check_keys(mapping: yaml.MappingNode) -> None:
    seen = set()
    for node, _ in mapping.value:
        if isinstance(node, yaml.ScalarNode):
            if (node.tag, node.value) in seen:  # else the last would win without a word
                raise _Refused(node, expected("each key once", f"{quoted(node.value)} twice"))
            seen.add((node.tag, node.value))


def read_yaml(text: str) -> Any:
    """Read plain data from YAML; repeated keys and inputs that would take forever are refused.

    Raises:
        yaml.YAMLError: it is not YAML, or it is refused.
        RecursionError: it is nested too deeply.
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader that refuses more


def load_study(path: Path) -> Study:
    """Read a study file.

    Raises:
        StudyError: see `read_study_file`.
    """
    return read_study_file(path)[0]


def read_study_file(path: Path) -> StudyFile:
    """Read a study file.

    Raises:
        StudyError: no such file, not YAML, or a field that is not allowed; one line for each fault.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MOST_CHARACTERS + 1)
        if len(raw) > MOST_CHARACTERS:
            raise StudyError(complaint(str(path), f"a study file of at most {MOST_CHARACTERS} bytes", "more"))
        text = raw.decode()
        content = read_yaml(text)
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        kind = "" if isinstance(error, _Refused) else "is not YAML: "
        raise StudyError(f"{path}: {kind}{where}{unquoted(error.problem, 300)}") from None
    except RecursionError:
        raise StudyError(f"{path}: {_TOO_DEEP}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise StudyError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise StudyError(complaint(str(path), "a mapping with at least name and problem", quoted(content)))
    return StudyFile(_checked(content, f"{path}: "), text)


def study_from(content: Mapping[str, Any]) -> StudyFile:
    """Make a study from the keys and values of a study file.

    Args:
        content: plain data; tuples count as lists, arrays and the numbers of numpy as theirs.

    Raises:
        StudyError: a field that is not allowed; one line for each fault.
    """
    plain = _plain(content)
    study = _checked(plain, "")
    try:
        return StudyFile(study, yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True))
    except yaml.YAMLError as error:
        raise StudyError(f"a study is plain data: {' '.join(str(error).split())}") from None


def _checked(content: Any, where: str) -> Study:
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        faults = [where + _line(fault) for fault in error.errors()[:MOST_FAULTS]]
        more = error.error_count() - len(faults)
        faults += [f"{where}and {more} more faults"] if more else []
        raise StudyError("\n".join(faults)) from None


def _plain(value: Any) -> Any:
    """Return data in YAML's types; other values are returned unchanged, and the checks report them."""
    if isinstance(value, Mapping):
        return {_plain(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, str):
        return str(value)
    return value.tolist() if hasattr(value, "tolist") else value


_ALLOWED = {
    "greater_than_equal": "a number >= {ge}",
    "greater_than": "a number > {gt}",
    "less_than_equal": "a number <= {le}",
    "less_than": "a number < {lt}",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "letters, digits, '_', '-' and '.', the first a letter, a digit or '_'",
    "string_too_short": "a name",
    "string_too_long": "at most {max_length} characters",
    "finite_number": "a finite number",
    "int_type": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "string_type": "text",
    "model_type": "a mapping",
    "dict_type": "a mapping",
}


def _line(fault: Any) -> str:
    """Return the line of one fault: the field, what is expected, what was found."""
    location = [part for part in fault["loc"] if part != "explicit"]  # the file has the list right below static
    field = "".join(f"[{part}]" if isinstance(part, int) else f".{unquoted(part)}" for part in location).lstrip(".")
    kind, found = fault["type"], quoted(fault["input"])
    if kind in ("extra_forbidden", "invalid_key"):
        return f"{field}: unknown key, allowed here: {', '.join(_fields(fault['loc'][:-1]))}"
    if kind == "missing":
        required = [name for name, info in _fields(fault["loc"][:-1]).items() if info.is_required()]
        return f"{field}: missing, required here: {', '.join(required)}"
    if kind == "value_error":
        text = str(fault["ctx"]["error"])
        if not location:  # of the study as a whole, which names the field itself
            return text
        whole = text.startswith(("unknown key", "unusable argument"))
        return f"{field}: {text if whole else expected(text, found)}"
    limits = {name: f"{x:g}" if isinstance(x, float) else x for name, x in fault.get("ctx", {}).items()}
    allowed = _ALLOWED[kind].format(**limits) if kind in _ALLOWED else fault["msg"]
    return complaint(field, allowed, found)


def _model(annotation: Any) -> Any:
    """The model of a field, which may be switched off."""
    return next((one for one in get_args(annotation) if one is not type(None)), annotation)


def _fields(location: tuple[Any, ...]) -> dict[str, Any]:
    model: Any = Study
    for part in location:
        model = _model(model.model_fields[part].annotation)
    return dict(model.model_fields)
