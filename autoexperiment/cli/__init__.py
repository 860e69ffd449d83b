"""The command `mlx`: every body parses, makes one library call, prints, and sets the exit code."""

from __future__ import annotations

import importlib
import sys

import click

from autoexperiment import __version__
from autoexperiment.errors import LabError

# command -> module that defines `command`; imported only when it is asked for
_COMMANDS = {
    "completion": ("autoexperiment.cli.completion", "Print what makes bash, zsh or fish complete the words of mlx."),
    "doctor": (
        "autoexperiment.cli.doctor",
        "Show device, BLAS and speed, and what to install if something is missing.",
    ),
    "eval": ("autoexperiment.cli.evaluate", "Compute metrics of a run's checkpoint, without training."),
    "history": ("autoexperiment.cli.history", "List, show and compare runs; the best of an experiment."),
    "loop": ("autoexperiment.cli.loop", "Run experiments unattended: start, step, run, status, log, stop."),
    "protocol": ("autoexperiment.cli.protocol", "Check the document that says what may change and how it is measured."),
    "run-experiment": ("autoexperiment.cli.run_experiment", "Train what a configuration describes."),
    "ring": ("autoexperiment.cli.ring", "Train on several processes or machines at once, data-parallel."),
    "schema": ("autoexperiment.cli.schema", "Print the JSON Schema of a document."),
    "sweep": ("autoexperiment.cli.sweep", "Run many configurations, and say which is best and how sure that is."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are used, so that `mlx --help` stays fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[cmd_name][0]).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_text) for name, (_, help_text) in sorted(_COMMANDS.items())])


@click.group(cls=LazyGroup)
@click.version_option(__version__, prog_name="mlx")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.pass_context
def mlx(context: click.Context, debug: bool) -> None:
    """A lab for unattended machine-learning experiments on Apple's MLX.

    Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 circuit breaker open,
    4 budget spent, 124 timed out, 130 interrupted.
    """
    context.obj = debug


def _trace() -> None:
    """The traceback of the error that is being handled, if it was asked for."""
    if "--debug" in sys.argv:
        import traceback

        traceback.print_exc()


def main() -> int:
    """Run the command line; returns the exit code."""
    try:
        code = mlx.main(standalone_mode=False, prog_name="mlx")
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        return 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        click.echo("Interrupted.", err=True)
        return 130
    except LabError as error:
        _trace()
        click.echo(f"{error.label}: {error}", err=True)
        return error.exit_code
    except OSError as error:
        _trace()
        where = f" ({error.filename})" if error.filename else ""
        click.echo(f"mlx: {error.strerror or error}{where}. Nothing that was recorded is lost.", err=True)
        return 1
    return code if isinstance(code, int) else 0
