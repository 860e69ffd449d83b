"""Files derived from the ledger: the results table, last_run.json, the daily log, the report, the picture.

They may be lost, edited or wiped at any time: the next refresh writes them again. A view that can't be
written is told of on stderr and stops nothing, since it holds no truth.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from autoexperiment import daily_log, handover, plots, report, results
from autoexperiment.errors import LabError
from autoexperiment.files import load_json, write_atomic, write_json
from autoexperiment.paths import RunPaths
from autoexperiment.run import Run
from autoexperiment.session import Session
from autoexperiment.summary import Summary, summarise
from autoexperiment.vocabulary import Verdict


def refresh(session: Session) -> None:
    """Write the cheap views again: after every experiment."""
    _guarded(session.recipe.results.path, _write_results, session)
    _guarded("the daily log", _write_daily_log, session)
    _guarded("data/last_run.json", _write_last_run, session)
    _guarded(session.recipe.baseline_log, _write_baseline_log, session)
    _guarded("the handover to hooks", handover.write, session)


def write_all(session: Session) -> dict[str, Path]:
    """Write every view again; returns those that are there, by what they are."""
    refresh(session)
    _guarded("the report", _write_report, session)
    paths, project = session.paths, session.project
    views = {"report": paths.report, "picture": paths.progress_picture, "results": results_file(session)}
    days = sorted({daily_log.local_day(e.decided_at) for e in session.ledger.experiments if e.decided})
    if days:
        views["daily log"] = project.daily_log(days[-1])
    return {name: path for name, path in views.items() if path.exists()}


def _guarded(name: str, write: Callable[[Session], None], session: Session) -> None:
    try:
        write(session)
    except (OSError, LabError) as error:
        print(f"mlx: {name} could not be written ({error}); the ledger has everything.", file=sys.stderr)


def _summary(session: Session) -> Summary:
    return summarise(session.start_record, session.ledger.experiments)


def results_file(session: Session) -> Path:
    """Where the recipe has its table of results."""
    return session.project.root / session.recipe.results.path


def _write_results(session: Session) -> None:
    recipe = session.recipe
    rows = results.rows(session.ledger.experiments, recipe.metric)
    write_atomic(results_file(session), results.render(rows, recipe.metric, recipe.results))


def _write_baseline_log(session: Session) -> None:
    """A copy of the baseline's output where the protocol wants one."""
    first = next((e for e in session.ledger.experiments if e.verdict is Verdict.KEEP), None)
    if not session.recipe.baseline_log or first is None:
        return
    target = session.project.root / session.recipe.baseline_log
    log = RunPaths(session.project.root / first.runs[-1].folder).log
    if log.exists() and (not target.exists() or target.read_bytes() != log.read_bytes()):
        write_atomic(target, log.read_bytes())


def _write_daily_log(session: Session) -> None:
    decided = [e for e in session.ledger.experiments if e.decided]
    if decided:
        day = daily_log.local_day(decided[-1].decided_at)
        daily_log.write_day(session.project, session.tag, day, session.ledger)


def _write_last_run(session: Session) -> None:
    """The last run's own report with the measured metric in it, and how that was obtained; none if it left none."""
    runs = [run for e in session.ledger.experiments[-1:] for run in e.runs if run.metrics]
    if not runs:
        return
    paths = RunPaths(session.project.root / runs[-1].folder)
    reported = paths.reported if paths.reported.exists() else paths.kept_report
    if not reported.exists():
        return
    value = load_json(reported.read_bytes())
    run, name = Run.load(paths), session.recipe.metric
    stated = value.get("result")
    measured = {**(stated if isinstance(stated, dict) else {}), name: run.metrics[name], "trust": str(run.trust[name])}
    write_json(session.project.last_run, {**value, "result": measured, "run": runs[-1].folder})


def _write_report(session: Session) -> None:
    summary, picture = _summary(session), session.paths.progress_picture
    has_picture = plots.save_progress(summary, picture)
    write_atomic(
        session.paths.report,
        report.render(
            summary,
            session.start_record,
            picture=picture.name if has_picture else None,
            notes=session.ledger.notes,
        ),
    )
