"""``gradsweep problems``"""

from __future__ import annotations

from rich.table import Table

from hpo.cli.options import console


def problems() -> None:
    """List the problems a study can name, with their tasks and arguments."""
    from hpo.problems import available

    table = Table(title="problem: NAME, or {name: NAME, argument: value, ...}", title_justify="left")
    for column in ("name", "what", "tasks", "arguments"):
        table.add_column(column, overflow="fold")
    for info in available().values():
        tasks = ", ".join(f"{task.name} ({task.metric})" for task in info.tasks)
        arguments = ", ".join(f"{key}={value}" for key, value in info.arguments.items())
        table.add_row(info.name, info.error or info.summary, tasks, arguments)
    console.print(table)
    console.print(
        "Your own: package.module:Class, a subclass of hpo.problems.Problem; examples/own_problem.py\n"
        "or package.module:function, below @gradsweep.training; examples/training_function.py"
    )
