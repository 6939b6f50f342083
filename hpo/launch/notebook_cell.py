"""A part of a notebook cell's output that is redrawn in place."""

from __future__ import annotations

from io import StringIO
from typing import Any

from rich.console import RenderableType

from hpo.launch.console import Console

_WIDTH = 100
_FORMAT = '<pre style="white-space:pre;overflow-x:auto;line-height:normal;font-family:monospace">{code}</pre>'


class NotebookCell:
    """Draws into the output of a Jupyter cell and replaces its previous drawing each time.

    It uses a display id of IPython, which every front end supports and a saved notebook keeps as one output. Rich's
    own live display needs ipywidgets.
    """

    def __init__(self) -> None:
        self._handle: Any = None

    def draw(self, renderable: RenderableType) -> None:
        """Replace the previous drawing."""
        from IPython.display import display

        console = Console(file=StringIO(), record=True, width=_WIDTH, force_jupyter=False)
        console.print(renderable)
        text = console.export_text(clear=False)
        content = {"text/html": console.export_html(inline_styles=True, code_format=_FORMAT), "text/plain": text}
        if self._handle is None:
            self._handle = display(content, raw=True, display_id=True)
        else:
            self._handle.update(content, raw=True)
