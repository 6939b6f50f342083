"""The command line, also as ``python -m gradsweep``."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

HOME = Path(__file__).resolve().parents[1]
PACKAGES = ("balancers", "search_spaces", "hpo")


def hidden() -> str:
    """Describe the package that hides one of gradsweep's on Python's path; empty if none does."""
    for name in PACKAGES:
        spec = find_spec(name)
        found = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if found is None or found.parents[1] != HOME:
            return (
                f"the package {name!r} of gradsweep cannot be imported: expected the one in {HOME}, got "
                f"{found or 'none'}; rename yours, remove its folder from PYTHONPATH, or start in another folder"
            )
    return ""


def main() -> None:
    """Run the command after a check that it imports gradsweep's own packages."""
    if text := hidden():
        print(f"error: {text}", file=sys.stderr)
        sys.exit(2)
    from hpo.cli.app import main as command

    command()


if __name__ == "__main__":
    main()
