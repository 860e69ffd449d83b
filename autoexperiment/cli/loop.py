"""`mlx loop …`: the unattended loop."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from autoexperiment.cli import show
from autoexperiment.errors import Refused, UsageError
from autoexperiment.files import dump_json
from autoexperiment.paths import find_root

if TYPE_CHECKING:
    from autoexperiment.night import Limit
    from autoexperiment.recipe import Recipe
    from autoexperiment.session import Plan, Session

WAIT_POLL_S = 0.2
TIMED_OUT_EXIT = 124
BASELINE = "baseline"

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
tag_argument = click.argument("tag", required=False)


def _root() -> Path:
    return find_root(Path.cwd())


def _tag(tag: str | None) -> str:
    from autoexperiment.session import current_tag

    return tag or current_tag(_root())


def _plan(protocol: str | None, dataset: str | None, budget: str | None, policy: str | None) -> Plan:
    from autoexperiment import launch

    return launch.make_plan(_root(), protocol, budget=budget, policy=policy, dataset=dataset)


def _printer(session: Session) -> Any:
    from autoexperiment.cli.progress import Printer

    return Printer(session.recipe.metric, session.budget.seconds)


def _say_unenforced(plan: Plan) -> None:
    """Name what the protocol asks for and nobody sees to."""
    if paths := [path for path, _ in plan.unenforced]:
        click.echo(f"Of the protocol nobody enforces: {', '.join(paths)}. Why: mlx protocol validate")


def _say_written(views: dict[str, Path]) -> None:
    """Where the views lie, as a person in this folder types it."""
    for name, path in views.items():
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        click.echo(f"{name}: {shown}")


def _require_end(limit: Limit, recipe: Recipe) -> None:
    has_own = recipe.night.experiments is not None or recipe.night.seconds is not None
    if limit.experiments is None and limit.hours is None and limit.usd is None and not has_own:
        raise UsageError(
            "A night needs an end. Give --experiments N, --hours H or --max-cost USD, for example: --hours 8. A protocol "
            "may set one with miningLoop.maxTrials."
        )


def plan_options(function: Any) -> Any:
    """The options that fix a session when it is created."""
    options = [
        click.option(
            "--protocol", help="What may change and how it is measured. Default: the project's protocol.json."
        ),
        click.option("--dataset", help="A prepared dataset. Default: pystdlib."),
        click.option(
            "--budget", help="Training of each run: 300s, 5m, tokens:20M, steps:500. Default: the protocol's."
        ),
        click.option("--policy", help="greedy or quality-throughput. Default: the protocol's."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@click.group("loop", no_args_is_help=True)
def command() -> None:
    """Run experiments unattended: each one is measured, judged, recorded, and kept or taken back.

    \b
    One line is enough for a night:
      mlx loop run mar5 --hours 8
    By hand, or from an agent:
      mlx loop start mar5
      … edit train.py …
      mlx loop step -m "raise MATRIX_LR to 0.05"
    """


command.add_command(show.command)


@command.command()
@click.argument("tag")
@plan_options
@json_option
def start(
    tag: str, protocol: str | None, dataset: str | None, budget: str | None, policy: str | None, as_json: bool
) -> None:
    """Create the session's branch (autoresearch/TAG), check it out, and open the ledger.

    The baseline is measured by the first 'mlx loop step' or 'mlx loop run'.
    """
    from autoexperiment import handover
    from autoexperiment import session as sessions

    plan = _plan(protocol, dataset, budget, policy)
    with sessions.start(_root(), tag, plan) as session:
        handover.write(session)  # not as a view: without it no hook guards the session
        record = session.start_record
    if as_json:
        click.echo(dump_json(record))
        return
    click.echo(
        f"Session {tag} started on branch {record['branch']}, budget {record['budget']}, policy {record['policy']}."
    )
    _say_unenforced(plan)
    click.echo(f"Ledger: {session.paths.ledger}")
    click.echo("Measure the baseline, then your edits: mlx loop step -m baseline")


@command.command()
@click.option("-m", "--message", required=True, help="What changed, in one line.")
@click.option("--tag", help="The session. Default: the one of the branch that is checked out.")
@click.option("--detach", is_flag=True, help="Return at once; see 'mlx loop wait'.")
@click.option("--source", default="hand", help="Who had the idea; recorded with the experiment.")
@click.option("--lock-fd", type=int, default=-1, hidden=True)
@click.option("--candidate", default="", hidden=True)
@json_option
def step(message: str, tag: str | None, detach: bool, source: str, lock_fd: int, candidate: str, as_json: bool) -> None:
    """Measure the working tree's edit, then keep it or take it back.

    The first step measures the baseline three times before anything else.
    """
    from autoexperiment import loop
    from autoexperiment import session as sessions

    if source == BASELINE:
        raise UsageError(f"The source {source!r} is the loop's own word. Name who had the idea: --source hand")
    with sessions.open_session(_root(), _tag(tag), lock_fd=lock_fd) as session:
        if detach:
            _detach(session, loop.stage(session, message), message, source)
            return
        observer = None if as_json else _printer(session)
        experiment = loop.step(session, message, source=source, candidate=candidate, observer=observer)
        if as_json:
            click.echo(dump_json(_line_json(session, experiment.number)))


def _detach(session: Session, candidate: str, message: str, source: str) -> None:
    """Hand the held lock to a background process that does the step."""
    command_line = [sys.executable, "-m", "autoexperiment", "loop", "step", "--tag", session.tag, "--source", source]
    command_line += ["--lock-fd", str(session.lock.fd), "--candidate", candidate, "-m", message]
    with session.paths.step_log.open("wb") as log:
        process = subprocess.Popen(
            command_line, cwd=session.project.root, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
            start_new_session=True, pass_fds=(session.lock.fd,),
        )  # fmt: skip
    click.echo(f"Measuring {candidate[:7]} in the background (pid {process.pid}).")
    click.echo(f"Output: {session.paths.step_log}")
    click.echo(f"Wait for the verdict: mlx loop wait {session.tag}")


def _line_json(session: Session, number: int) -> dict[str, Any]:
    from dataclasses import asdict

    from autoexperiment.summary import summarise

    return asdict(summarise(session.start_record, session.ledger.experiments).lines[number])


@command.command()
@tag_argument
@click.option("--timeout", type=float, help="Seconds to wait at most; then exit 124.")
@json_option
def wait(tag: str | None, timeout: float | None, as_json: bool) -> None:
    """Wait until no step is running, then print the last experiment."""
    import time

    from autoexperiment.files import lock_holder
    from autoexperiment.paths import ProjectPaths

    name, lock = _tag(tag), ProjectPaths(_root()).lock
    began = time.monotonic()
    while lock_holder(lock) is not None:
        if timeout is not None and time.monotonic() - began >= timeout:
            click.echo(f"Still running after {timeout:g} s. Wait again: mlx loop wait {name}", err=True)
            raise click.exceptions.Exit(TIMED_OUT_EXIT)
        time.sleep(WAIT_POLL_S)
    _print_last(name, as_json)


def _print_last(tag: str, as_json: bool) -> None:
    from dataclasses import asdict

    from autoexperiment.cli import tables

    if fault := tables.step_fault(_root(), tag):
        raise Refused(f"The background step ended without a verdict: {fault}")
    summary, _ = tables.load(_root(), tag)
    if not summary.lines:
        raise Refused("No experiment was measured yet. Measure the baseline: mlx loop step -m baseline")
    last = summary.lines[-1]
    click.echo(dump_json(asdict(last)) if as_json else tables.one(last, summary.metric))


@command.command()
@click.argument("tag")
@click.option(
    "--agent",
    default="search",
    show_default=True,
    help="Who has the ideas: claude, codex, opencode, pi, gemini, command:'…' or search, which needs no model.",
)
@click.option("--model", help="The agent's model. Default: the client's own.")
@click.option(
    "--experiments", type=click.IntRange(min=1), help="Stop when the session has this many judged experiments."
)
@click.option("--hours", type=click.FloatRange(min=0, min_open=True), help="Stop after so many hours.")
@click.option(
    "--max-cost",
    type=click.FloatRange(min=0, min_open=True),
    help="Stop when the agents have cost so many US dollars, as claude, opencode and pi state it; others state nothing.",
)
@click.option(
    "--idle-minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=15,
    show_default=True,
    help="End an agent that is silent for so long.",
)
@click.option(
    "--agent-minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=60,
    show_default=True,
    help="End an agent that takes so long.",
)
@plan_options
def run(
    tag: str,
    agent: str,
    model: str | None,
    experiments: int | None,
    hours: float | None,
    max_cost: float | None,
    idle_minutes: float,
    agent_minutes: float,
    protocol: str | None,
    dataset: str | None,
    budget: str | None,
    policy: str | None,
) -> None:
    """Run experiments until a limit: starts session TAG, or goes on where it was left.

    With a headless agent, every experiment gets a fresh one, whose prompt is made from the ledger; it works on a
    copy, and has no part in the measuring. A usage limit is waited out. The machine is kept awake meanwhile.

    Protocol, budget, dataset and policy count only when the session is created.
    """
    from autoexperiment import night, views
    from autoexperiment import session as sessions
    from autoexperiment.agents import agent_named
    from autoexperiment.cli import tables

    chosen = agent_named(agent, model=model, idle_s=60 * idle_minutes, wall_s=60 * agent_minutes)
    limit = night.Limit(experiments, hours, max_cost)
    is_new = not sessions.exists(_root(), tag)
    plan = _plan(protocol, dataset, budget, policy) if is_new else None
    if plan is not None:
        _require_end(limit, plan.recipe)
        opened = sessions.start(_root(), tag, plan)
        click.echo(f"Session {tag} starts on branch {opened.branch}, budget {opened.budget}.")
        _say_unenforced(plan)
    else:
        opened = sessions.open_session(_root(), tag)
        click.echo(f"Session {tag} goes on: {night.judged(opened)} experiments are judged.")
    with opened as session:
        _require_end(limit, session.recipe)
        try:
            reason = night.drive(session, chosen, limit, observer=_printer(session))
            click.echo(f"Ended: {reason}.\n")
        finally:
            written = views.write_all(session)
    click.echo(tables.night(_root(), tag))
    _say_written(written)


@command.command()
@tag_argument
@json_option
def status(tag: str | None, as_json: bool) -> None:
    """Show a session: what runs now, what was kept, the noise, the breaker."""
    from autoexperiment.cli import tables

    state = tables.status(_root(), _tag(tag))
    click.echo(dump_json(state) if as_json else tables.status_text(state))


@command.command()
@tag_argument
@click.option("--last", type=click.IntRange(min=1), help="Only the last so many experiments.")
@json_option
def log(tag: str | None, last: int | None, as_json: bool) -> None:
    """List a session's experiments with their numbers and trust levels."""
    from dataclasses import asdict

    from autoexperiment.cli import tables

    summary, _ = tables.load(_root(), _tag(tag))
    lines = summary.lines[-last:] if last else summary.lines
    click.echo(dump_json([asdict(line) for line in lines]) if as_json else tables.table(summary, lines))


@command.command()
@tag_argument
@click.option("--now", "at_once", is_flag=True, help="Interrupt the run that is going on instead of waiting for it.")
@json_option
def stop(tag: str | None, at_once: bool, as_json: bool) -> None:
    """Ask a running night, or a chat that works on the session, to end after the current experiment."""
    import signal

    from autoexperiment import session as sessions
    from autoexperiment.files import lock_holder, write_atomic
    from autoexperiment.paths import ProjectPaths

    name = _tag(tag)
    paths = sessions.require(_root(), name)
    pid = lock_holder(ProjectPaths(_root()).lock)
    write_atomic(paths.stop_request, "stop\n")
    if at_once and pid is not None:
        os.kill(pid, signal.SIGTERM)  # a night in the background of a shell ignores SIGINT
    how = "now" if at_once else "after the current experiment"
    text = f"Session {name} (pid {pid}) ends {how}." if pid else (
        f"Nothing of {name} is running now. A chat that works on it is not sent on any more; the next "
        f"'mlx loop run {name}' starts all the same."
    )  # fmt: skip
    click.echo(dump_json({"tag": name, "pid": pid, "at_once": at_once}) if as_json else text)


@command.command()
@tag_argument
@click.option("--save", is_flag=True, help="Save an unmeasured edit under a ref before putting the incumbent back.")
@click.option("--breaker", is_flag=True, help="Close the circuit breaker instead.")
def reset(tag: str | None, save: bool, breaker: bool) -> None:
    """Put the incumbent's files back into the working tree, refusing to lose an edit."""
    from autoexperiment import handover, loop
    from autoexperiment import session as sessions

    with sessions.open_session(_root(), _tag(tag)) as session:
        if breaker:
            loop.close_breaker(session)
            handover.write(session)
            click.echo("The circuit breaker is closed.")
            return
        ref = loop.reset(session, save=save)
    click.echo(f"The edit is saved as {ref}." if ref else "No edit had to be saved.")
    click.echo(f"{session.surface.words}: the incumbent's, {session.head[:7]}.")


@command.command()
@tag_argument
def report(tag: str | None) -> None:
    """Write report.md, progress.png, results.tsv and the daily log again from the ledger."""
    from autoexperiment import session as sessions
    from autoexperiment import views

    with sessions.open_session(_root(), _tag(tag)) as session:
        _say_written(views.write_all(session))
