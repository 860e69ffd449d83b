"""`mlx schema`."""

from __future__ import annotations

import importlib

import click
from click.shell_completion import CompletionItem

from autoexperiment.errors import UsageError, unknown

# document -> module that has its `json_schema`
NAMES = {
    "protocol": "autoexperiment.protocol.schema",
    "experiment": "autoexperiment.config.schema",
    "sweep": "autoexperiment.config.sweep_schema",
}


def _complete_names(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(name) for name in NAMES if name.startswith(incomplete)]


@click.command("schema")
@click.argument("name", required=False, metavar=f"[{'|'.join(NAMES)}]", shell_complete=_complete_names)
def command(name: str | None) -> None:
    """Print the JSON Schema (draft 2020-12) of a document: protocol, experiment or sweep.

    An editor that is told of it completes and checks the document while you write.
    """
    from autoexperiment.files import dump_json

    if name is None:
        raise UsageError(f"Which schema? Known: {', '.join(NAMES)}. Type: mlx schema experiment")
    if name not in NAMES:
        raise UsageError(f"{unknown('schema', name, NAMES)} Type: mlx schema experiment")
    click.echo(dump_json(importlib.import_module(NAMES[name]).json_schema()))
