"""`mlx ring`."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from autoexperiment.hosts import Hosts
    from autoexperiment.ring import Job, RingEnding

LOGS = Path("data", "ring")
_EXAMPLE = "Type: mlx ring -n 2 -- python train.py"


@click.command("ring", context_settings={"allow_interspersed_args": False})
@click.option("-n", "size", type=click.IntRange(min=1), help="How many processes; with hosts, their number.")
@click.option("--hosts", "file", type=click.Path(path_type=Path), help='JSON: [["10.0.0.1:5000"], ["10.0.0.2:5000"]]')
@click.option(
    "--host", "given", multiple=True, metavar="ADDRESS:PORT", help="Instead of a file; once for each process."
)
@click.option("--rank", type=int, help="Start this one only; the others are started on their own machines.")
@click.option("--log-dir", type=click.Path(path_type=Path), help=f"One log for each process [{LOGS}/TIMESTAMP]")
@click.option("--timeout-s", type=click.FloatRange(min=0, min_open=True), help="End all processes after this time.")
@click.option("--join-s", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True,
              help="How long the processes may take to find each other.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print how it ended as JSON; the run's own lines go to stderr.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def command(
    size: int | None,
    file: Path | None,
    given: tuple[str, ...],
    rank: int | None,
    log_dir: Path | None,
    timeout_s: float | None,
    join_s: float,
    as_json: bool,
    command: tuple[str, ...],
) -> int:
    """Train with several processes that share each step, on this machine or on several.

    All of them end when one fails. Exit codes: that of the one that failed first (3: its loss diverged, 137: it was
    killed), 124 timed out, 130 interrupted, 1 they did not find each other, 2 wrong usage.

    \b
    mlx ring -n 2 -- python train.py
    mlx ring --rank 0 --hosts hosts.json -- python train.py      on the first machine
    mlx ring --rank 1 --hosts hosts.json -- python train.py      on the second
    """
    from autoexperiment.ring import Job, check_backend, launch
    from autoexperiment.trainer import NO_TIMEOUT_S

    hosts = _hosts(size, file, given, rank)
    _check_program(command[0])
    if hosts.size > 1:
        import mlx.core as mx

        check_backend(mx.distributed)
    ranks = tuple(range(hosts.size)) if rank is None else (rank,)
    for one in ranks:  # before a folder for logs is made
        hosts.check_rank(one)
    logs = log_dir or _new_logs()
    job = Job(command, hosts, ranks, cwd=Path.cwd(), log_dir=logs, timeout_s=timeout_s or NO_TIMEOUT_S, join_s=join_s)
    click.echo(_begun(job), err=True)
    ending = launch(job, on_line=Echo(is_aside=as_json))
    click.echo(_ended(ending, job), err=True)
    if as_json:
        from autoexperiment.files import dump_json

        click.echo(dump_json(ending.to_json(job)))
    return ending.exit_code


def _hosts(size: int | None, file: Path | None, given: tuple[str, ...], rank: int | None) -> Hosts:
    from autoexperiment import hosts

    if file is not None and given:
        raise click.UsageError(f"'--hosts' and '--host' say the same thing. Allowed: one of them. {_EXAMPLE}")
    if file is None and not given:
        if rank is not None:
            raise click.UsageError("'--rank' needs the addresses of all ranks: '--hosts FILE', or '--host' for each.")
        if size is None:
            raise click.UsageError(f"Missing option '-n' (or '--hosts', '--host'): how many processes? {_EXAMPLE}")
        return hosts.hosts_here(size)
    found = hosts.read_hosts(file) if file is not None else hosts.given_hosts(given)
    if size not in (None, found.size):
        raise click.UsageError(
            f"'-n {size}' does not fit the {found.size} hosts. Leave '-n' out, or name {size} hosts."
        )
    return found


def _check_program(name: str) -> None:
    if shutil.which(name) is None:
        hint = f"Type: mlx ring -n 2 -- python {name}" if name.endswith(".py") else _EXAMPLE
        raise click.UsageError(f"There is no program {name!r}. Allowed: a command as a shell would run it. {hint}")


def _new_logs() -> Path:
    from autoexperiment.paths import new_run

    return new_run(LOGS, datetime.now()).folder


class Echo:
    """Shows the lines of a rank. That nobody listens any more is no reason to stop."""

    def __init__(self, *, is_aside: bool) -> None:
        self._is_aside, self._is_heard = is_aside, True

    def __call__(self, line: bytes) -> None:
        if self._is_heard:
            try:
                click.echo(line.decode("utf-8", "replace"), nl=False, err=self._is_aside)
            except OSError:
                self._is_heard = False


def _begun(job: Job) -> str:
    from autoexperiment.ring import listed

    def placed(ranks: Sequence[int]) -> str:
        return listed([f"{rank} at {job.hosts.places[rank][0]}" for rank in ranks])

    others = [rank for rank in range(job.hosts.size) if rank not in job.ranks]
    waiting = f" It waits for rank {placed(others)}." if others else ""
    return f"mlx ring: rank {placed(job.ranks)}, of {job.hosts.size}. Logs: {job.log_dir}.{waiting}"


def _ended(ending: RingEnding, job: Job) -> str:
    if ending.exit_code == 0:
        doubt = f" {ending.warning}" if ending.warning else ""
        return f"mlx ring: {len(ending.members)} of {job.hosts.size} ranks ran here and ended well.{doubt}"
    if ending.first_failed is None:
        return f"mlx ring: {ending.reason} Logs: {job.log_dir}"
    return f"mlx ring: rank {ending.first_failed} failed: {ending.reason} Its log: {job.log(ending.first_failed)}"
