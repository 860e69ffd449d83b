"""Train a candidate once, have it measured, and say what happened.

Nothing here decides or records: a trial goes from bytes to an immutable `Run` in its own folder.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from autoexperiment import seeding, threads
from autoexperiment.budget import Budget
from autoexperiment.evaluation import REPORT_BYTES, Result, evaluate, harness_files, watched
from autoexperiment.files import read_plain
from autoexperiment.paths import RunPaths
from autoexperiment.preparation import words
from autoexperiment.recipe import SEALED
from autoexperiment.run import Run
from autoexperiment.snapshot import HOME
from autoexperiment.supervisor import Ending, Signals, run_environment, supervise
from autoexperiment.trained import Trained, TrialPlan, fresh, limits_of, write_tree
from autoexperiment.vocabulary import Outcome

STARTUP_FACTOR = 1.5  # a run may take this times the baseline's own start-up …
STARTUP_SLACK_S = 2.0  # … and this much longer, before its training counts as longer than the budget
BATCH_DIVISOR = "DEVICE_BATCH_DIVISOR"


def allowed_wall_s(budget: Budget, startup_s: float | None, *, counts_startup: bool = False) -> float | None:
    """Longest wall time a run may take from exec to exit, or None when nothing bounds it but the hard timeout."""
    if budget.seconds is None:
        return None
    if counts_startup:
        return budget.seconds + STARTUP_SLACK_S
    return None if startup_s is None else budget.seconds + STARTUP_FACTOR * startup_s + STARTUP_SLACK_S


def _variables(plan: TrialPlan) -> dict[str, str]:
    recipe = plan.recipe
    variables = {**seeding.environment(recipe.seeds, plan.seed), **plan.budget.environment()}
    if plan.data is not None:
        variables["AUTOEXPERIMENT_DATA"] = str(plan.data)
    if recipe.scoring == SEALED:
        variables["AUTOEXPERIMENT_SKIP_EVAL"] = "1"
    if recipe.oom == "reduce_batch":
        variables[BATCH_DIVISOR] = str(plan.batch_divisor)
    if plan.threads is not None:
        variables |= dict.fromkeys(threads.VARIABLES, str(plan.threads))
    return variables


def _lay_out(plan: TrialPlan, folder: Path) -> None:
    if plan.lay_out is not None:
        plan.lay_out(folder)
    else:
        folder.mkdir(parents=True)
        write_tree(folder, {**plan.candidate, **plan.harness})


def _occupy(plan: TrialPlan, folder: Path) -> Path:
    """A folder with the whole project in it, new or as new: the session's place, else `folder`."""
    if plan.place is not None:
        return plan.place(lambda place: _lay_out(plan, place))
    _lay_out(plan, folder)
    return folder


def _link_data(plan: TrialPlan, work: Path, home: Path) -> None:
    for name, target in plan.links.items():
        _link(home / name.removeprefix(HOME) if name.startswith(HOME) else work / name, target)


def _link(link: Path, target: Path) -> None:
    """Make data appear at a place; in a folder that the project has as well, what is missing there."""
    if link.is_dir() and target.is_dir() and not link.is_symlink():
        for child in target.iterdir():
            _link(link / child.name, child)
    elif not link.exists():
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(target)


def _remove_old_results(plan: TrialPlan, work: Path) -> None:
    """Files that numbers are read from: one that came with the project says nothing about this run."""
    recipe = plan.recipe
    files = [e.file for e in (recipe.extract, *(quantity.extract for quantity in recipe.secondary)) if e.file]
    for place in [work / "data" / "last_run.json", *(work / recipe.cwd / file for file in files)]:
        if place.is_file() or place.is_symlink():
            place.unlink()


def _train(
    plan: TrialPlan, paths: RunPaths, work: Path, on_tick: Callable[[float], None] | None, signals: Signals | None
) -> Trained:
    recipe = plan.recipe
    allowed = allowed_wall_s(plan.budget, plan.startup_s, counts_startup=recipe.stop.counts_startup)
    limits = replace(limits_of(recipe, recipe.hard_timeout_s or plan.budget.hard_timeout_s), allowed_wall_s=allowed)
    environment = run_environment(paths.folder, extra=_variables(plan))
    ending = supervise(
        words(recipe.command), cwd=work / recipe.cwd, log=paths.log, limits=limits, env=environment,
        on_tick=on_tick, until=watched(recipe), signals=signals,
    )  # fmt: skip
    return Trained(plan, paths, work, ending, environment, signals)


def _guard(plan: TrialPlan, paths: RunPaths, signals: Signals | None) -> Result | None:
    """Why a run whose numbers are fine does not count: its test command fails. None when it passes."""
    folder = fresh(paths.folder / "guard")
    work = _occupy(plan, folder / "work")
    _link_data(plan, work, RunPaths(folder).private)
    limits = limits_of(plan.recipe, plan.recipe.hard_timeout_s or plan.budget.hard_timeout_s)
    environment = run_environment(folder, extra=_variables(plan))
    log = paths.folder / "guard.log"
    ending = supervise(
        words(plan.recipe.guard), cwd=work / plan.recipe.cwd, log=log, limits=limits, env=environment, signals=signals
    )
    for used in (work, folder):
        shutil.rmtree(used, ignore_errors=True)
    if ending.outcome is Outcome.OK:
        return None
    if ending.outcome is Outcome.INTERRUPTED:
        return Result(Outcome.INTERRUPTED, ending.reason, interruption=ending)
    return Result(Outcome.REJECTED, f"The test command failed: {ending.reason or ending.outcome}")


def run_trial(
    plan: TrialPlan,
    paths: RunPaths,
    *,
    on_tick: Callable[[float], None] | None = None,
    signals: Signals | None = None,
) -> Run:
    """Train and measure one candidate in `paths.folder`, which must be new; writes `run.json` there.

    Args: signals: as of `supervise`.
    """
    work = _occupy(plan, paths.work)
    known = copy_kernels(plan.kernels, paths.kernels)
    _remove_old_results(plan, work)
    _link_data(plan, work, paths.private)
    harness_before = harness_files(plan.recipe, work)
    trained = _train(plan, paths, work, on_tick, signals)
    result = evaluate(trained, harness_before=harness_before)
    if work != paths.work and work.is_dir():  # the run may have removed it
        shutil.move(work, paths.work)
    if result.outcome is Outcome.OK and plan.recipe.guard:
        result = _guarded(result, _guard(plan, paths, signals), plan.recipe.metric)
    run = _record(plan, result, trained.ending, new_kernels=_count(paths.kernels) - known)
    run.save(paths)
    return run


def _guarded(result: Result, refusal: Result | None, metric: str) -> Result:
    if refusal is None:
        return result
    numbers = {name: value for name, value in result.metrics.items() if name != metric}
    trust = {name: level for name, level in result.trust.items() if name != metric}
    return replace(refusal, metrics=numbers, trust=trust, evaluation=result.evaluation)


def _record(plan: TrialPlan, result: Result, ending: Ending, *, new_kernels: int) -> Run:
    return Run(
        outcome=result.outcome,
        reason=result.reason,
        seed=plan.seed,
        metrics=result.metrics,
        trust=result.trust,
        ending=(result.interruption or ending).to_json(),
        evaluation=result.evaluation,
        provenance={
            **(plan.provenance or {}),
            "files": _hashes(plan),
            "budget": str(plan.budget),
            "batch_divisor": plan.batch_divisor,
            "new_kernels": new_kernels,
        },
    )


def copy_kernels(source: Path | None, target: Path) -> int:
    """Copy compiled kernels, if there are any; returns the number of files then in `target`.

    Links and pipes that a run left among them are passed over.
    """
    if source is not None and source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=_not_plain)
    return _count(target)


def _not_plain(folder: str, names: list[str]) -> list[str]:
    modes = {name: Path(folder, name).lstat().st_mode for name in names}
    return [name for name, mode in modes.items() if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))]


def _count(folder: Path) -> int:
    return sum(file.is_file() for file in folder.rglob("*"))


def _hashes(plan: TrialPlan) -> dict[str, str]:
    return {n: hashlib.sha256(b).hexdigest() for n, b in sorted({**plan.candidate, **plan.harness}.items())}


def discard_weights(paths: RunPaths) -> None:
    """Free the disk of a run that was not kept: its record, log and report stay, its work folder goes."""
    blob = read_plain(paths.reported, REPORT_BYTES)
    if blob is not None:
        paths.kept_report.write_bytes(blob)
    shutil.rmtree(paths.work, ignore_errors=True)
