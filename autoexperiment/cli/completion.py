"""`mlx completion`."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

PROGRAM, VARIABLE = "mlx", "_MLX_COMPLETE"  # the variable's name follows from the program's


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print what makes SHELL complete the words of mlx when you press the tab key.

    \b
    For good; it is there in the next shell that you open:
      bash (4.4 or newer)  mlx completion bash > ~/.mlx-completion.bash
                           echo '. ~/.mlx-completion.bash' >> ~/.bashrc
      zsh                  mlx completion zsh > ~/.mlx-completion.zsh
                           echo '. ~/.mlx-completion.zsh' >> ~/.zshrc    (after compinit)
      fish                 mlx completion fish > ~/.config/fish/completions/mlx.fish
    For this shell only:   eval "$(mlx completion bash)"
    """
    from autoexperiment.cli import mlx

    found = get_completion_class(shell)
    if found is None:
        raise click.ClickException(f"This version of click has no completion for {shell}.")
    click.echo(found(mlx, {}, PROGRAM, VARIABLE).source())
