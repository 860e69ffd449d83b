"""`mlx doctor`."""

from __future__ import annotations

import dataclasses

import click

from autoexperiment.files import dump_json


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool) -> None:
    """Show device, BLAS and speed, and what to install if something is missing.

    Exits 1 when something that a training run needs is missing.
    """
    from autoexperiment import doctor

    report = doctor.examine()
    click.echo(dump_json(dataclasses.asdict(report)) if as_json else doctor.render(report))
    if report.has_problem:
        raise click.exceptions.Exit(1)
