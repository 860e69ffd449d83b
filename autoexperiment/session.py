"""A loop session: one tag, one branch, one ledger, one lock; started, opened, recovered.

Whoever holds a `Session` holds the project's lock, and the ledger has no half-done experiment.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autoexperiment import breaker, failpoint, machine
from autoexperiment.budget import Budget, parse_budget
from autoexperiment.candidates import Repository
from autoexperiment.errors import Refused, UsageError, unknown
from autoexperiment.files import Lock, load_json
from autoexperiment.ledger import Experiment, Ledger, LedgerView, read_ledger
from autoexperiment.paths import BRANCH, ProjectPaths, SessionPaths, check_tag
from autoexperiment.recipe import SEALED, Recipe
from autoexperiment.supervisor import Ending, Failure
from autoexperiment.verdict import POLICIES
from autoexperiment.vocabulary import Outcome, Verdict

REFS = "refs/autoexperiment"
SEEDS_PER_CANDIDATE = 16
ENTERED = "branch entered"


def now() -> datetime:
    return datetime.now(UTC)


def seeds(tag: str) -> list[int]:
    """The session's seeds: run i of every candidate gets the same one, so that runs are paired.

    Derived from the tag, so that no candidate can choose its own.
    """
    digests = (hashlib.sha256(f"{tag}/{i}".encode()).digest() for i in range(SEEDS_PER_CANDIDATE))
    return [int.from_bytes(digest[:4], "big") % 2**31 for digest in digests]


def content_id(files: dict[str, bytes]) -> str:
    """Identity of a candidate: a hash of its mutable files' names and bytes."""
    whole = hashlib.sha256()
    for name, blob in sorted(files.items()):
        whole.update(f"{len(name)}:{name}:{len(blob)}:".encode() + blob)
    return whole.hexdigest()


@dataclass(frozen=True)
class Plan:
    """What `mlx loop start` fixes for the whole session."""

    budget: Budget
    policy: str = "quality-throughput"
    dataset: str | None = None
    recipe: Recipe = field(default_factory=Recipe)


@dataclass
class Session:
    """An open session. `lock` is held until `close`."""

    project: ProjectPaths
    tag: str
    lock: Lock
    repository: Repository
    ledger: Ledger

    @property
    def paths(self) -> SessionPaths:
        return self.project.session(self.tag)

    @property
    def start_record(self) -> dict[str, Any]:
        return self.ledger.session

    @property
    def recipe(self) -> Recipe:
        return Recipe.from_json(self.start_record["recipe"])

    @property
    def budget(self) -> Budget:
        return parse_budget(self.start_record["budget"])

    @property
    def branch(self) -> str:
        return str(self.start_record["branch"])

    @property
    def data(self) -> Path | None:
        """The prepared dataset's folder, or None when the recipe brings its own data."""
        folder = self.start_record["options"].get("data")
        return Path(folder) if folder else None

    @property
    def head(self) -> str:
        """The commit to build the next candidate on: the incumbent's, else the session's base."""
        incumbent = self.ledger.incumbent
        return incumbent.commit if incumbent else str(self.start_record["base"])

    def ref(self, experiment: int) -> str:
        return f"{REFS}/{self.tag}/run-{experiment:05d}"

    def harness_files(self) -> dict[str, bytes]:
        """The immutable files as they were when the session started, whatever the tree holds now."""
        return self.repository.files_at(str(self.start_record["base"]), self.recipe.immutable)

    def files_of(self, commit: str) -> dict[str, bytes]:
        """A commit's mutable files."""
        return self.repository.files_at(commit, self.recipe.mutable)

    def close(self) -> None:
        self.lock.release()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


_ASK_PREPARE = """
import json, sys, prepare
from autoexperiment.errors import LabError
try:
    dataset = prepare.load_dataset(sys.argv[1] or None)
except LabError as error:
    sys.exit(str(error))
print(json.dumps({"data": str(dataset.folder), "name": dataset.name, "snapshot": dataset.snapshot}))
"""


def _dataset(root: Path, plan: Plan) -> dict[str, str]:
    """Folder and snapshot of the prepared data, pinned for the whole session.

    Asked of the project's own `prepare.py` in a process of its own, so that nothing of it stays in this one.
    """
    if plan.recipe.scoring != SEALED:
        return {}
    command = [sys.executable, "-c", _ASK_PREPARE, plan.dataset or ""]
    answer = subprocess.run(command, cwd=root, capture_output=True, text=True)
    if answer.returncode != 0:
        raise Refused((answer.stderr.strip().splitlines() or ["prepare.py gave no answer."])[-1])
    found: dict[str, str] = load_json(answer.stdout)
    return found


def _check_start(project: ProjectPaths, tag: str, plan: Plan, repository: Repository) -> str:
    """The base commit, after every reason against starting has been looked at."""
    if plan.policy not in POLICIES:
        raise UsageError(unknown("policy", plan.policy, POLICIES))
    branch = BRANCH + check_tag(tag)
    if repository.branch_exists(branch) or exists(project.root, tag):
        raise Refused(
            f"Tag {tag!r} is taken: branch {branch} or its ledger exists, and a session always starts fresh. "
            f"Continue it with 'mlx loop run {tag}', or choose another tag."
        )
    base = repository.resolve("HEAD")
    if base is None:
        raise Refused("This repository has no commit yet. Commit the recipe first: git add -A && git commit")
    recipe = plan.recipe
    repository.files_at(base, (*recipe.mutable, *recipe.immutable))
    if dirty := repository.dirty((*recipe.mutable, *recipe.immutable)):
        raise Refused(
            f"{', '.join(dirty)} differ from the last commit, so the baseline would not be what git shows. "
            "Commit or stash the changes first: git stash push -- " + " ".join(dirty)
        )
    return base


def start(root: Path, tag: str, plan: Plan) -> Session:
    """Create a session: branch `autoresearch/<tag>`, checked out, and a ledger with its first record.

    Raises: Refused: the tag is taken, the recipe has uncommitted changes or is missing from HEAD.
    """
    project, repository = ProjectPaths(root), Repository(root)
    base = _check_start(project, tag, plan, repository)
    data = _dataset(root, plan)
    harness = {
        name: hashlib.sha256(blob).hexdigest()
        for name, blob in repository.files_at(base, plan.recipe.immutable).items()
    }
    lock = Lock(project.lock).acquire(timeout_s=2.0)
    try:
        ledger = Ledger.open(project.session(tag).ledger)
        failpoint.reach("session.ledger_created")
        ledger.append(
            "session",
            version=1,
            tag=tag,
            branch=BRANCH + tag,
            base=base,
            recipe=plan.recipe.to_json(),
            budget=str(plan.budget),
            policy=plan.policy,
            dataset=data.get("name"),
            snapshot=data.get("snapshot"),
            harness=harness,
            machine=machine.facts(),
            options={"data": data.get("data")},
        )
        failpoint.reach("session.recorded")
        session = Session(project, tag, lock, repository, ledger)
        _enter_branch(session)
    except BaseException:
        lock.release()
        raise
    return session


def _enter_branch(session: Session) -> None:
    """Create and check out the branch, once in a session's life; repeated after a kill in between."""
    repository, branch = session.repository, session.branch
    if not repository.branch_exists(branch):
        repository.create_branch(branch, session.head)
        failpoint.reach("session.branch_created")
    if repository.head_branch() != branch:
        repository.switch_to(branch)
    failpoint.reach("session.branch_entered")
    session.ledger.append("note", what=ENTERED)


def current_tag(root: Path) -> str:
    """The tag of the branch that is checked out.

    Raises: UsageError: another branch is; the message lists the tags there are.
    """
    branch = Repository(root).head_branch() or ""
    if branch.startswith(BRANCH):
        return branch.removeprefix(BRANCH)
    tags = ProjectPaths(root).tags()
    known = f"Sessions here: {', '.join(tags)}. Name one" if tags else "There is no session yet. Start one"
    raise UsageError(
        f"The branch {branch or 'HEAD'!r} belongs to no loop session. {known}: mlx loop {'status' if tags else 'start'} TAG"
    )


def exists(root: Path, tag: str) -> bool:
    """Whether a session of this tag was started here."""
    ledger = ProjectPaths(root).session(tag).ledger
    return ledger.exists() and bool(read_ledger(ledger).session)


def require(root: Path, tag: str) -> SessionPaths:
    """The paths of a session that exists. Raises: UsageError: there is none of this tag."""
    project = ProjectPaths(root)
    if not exists(root, tag):
        raise UsageError(
            f"There is no loop session {tag!r} here. Sessions: {', '.join(project.tags()) or 'none'}. "
            f"Start it with: mlx loop start {tag}"
        )
    return project.session(tag)


def open_session(root: Path, tag: str, *, lock_fd: int = -1) -> Session:
    """Take the lock, repair the ledger, and finish whatever a killed process left half done.

    Args:
        lock_fd: a descriptor on which the lock is held already, handed over by the parent process.
    """
    paths = require(root, tag)
    project = ProjectPaths(root)
    lock = Lock(project.lock, fd=lock_fd)
    if lock_fd >= 0:
        lock.sign()
    else:
        lock.acquire(timeout_s=2.0)
        paths.step_log.unlink(missing_ok=True)
    try:
        session = Session(project, tag, lock, Repository(root), Ledger.open(paths.ledger))
        recover(session)
        _require_branch(session)
    except BaseException:
        lock.release()
        raise
    return session


def _require_branch(session: Session) -> None:
    branch = session.repository.head_branch()
    if branch != session.branch:
        raise Refused(
            f"The working tree is on {branch or 'a detached HEAD'}, but this session lives on {session.branch}. "
            f"Go there with: git switch {session.branch}"
        )


def recover(session: Session) -> None:
    """Bring ledger, refs and working tree to agreement after a kill; every part may be repeated."""
    repository, ledger = session.repository, session.ledger
    repository.remove_stale_locks(f"{REFS}/{session.tag}/", f"refs/heads/{session.branch}")
    if all(note["what"] != ENTERED for note in ledger.notes):
        _enter_branch(session)
    experiment = ledger.unfinished
    if experiment is None:
        return
    repository.pin(session.ref(experiment.number), experiment.commit)
    if not experiment.decided:
        _end_open_runs(session, experiment)
        failpoint.reach("recover.runs_ended")
        ledger.append(
            "decided",
            experiment=experiment.number,
            verdict=None,
            outcome=Outcome.INTERRUPTED,
            reason="The loop was killed during this experiment.",
            evidence={},
            metrics={},
        )
        failpoint.reach("recover.decided")
    apply(session, ledger.experiments[-1])
    ledger.append("note", what="recovered", experiment=experiment.number)


def _end_open_runs(session: Session, experiment: Experiment) -> None:
    for run in experiment.runs:
        if run.ending is None:
            ending = Ending.interrupted("The loop was killed during this run.")
            session.ledger.append("ended", experiment=experiment.number, run=run.run, ending=ending.to_json())


def apply(session: Session, experiment: Experiment) -> None:
    """Make branch, index and working tree say what was decided; safe to repeat.

    Keep advances the branch to the candidate. Discard and crash write the incumbent's files back, and
    save an edit made meanwhile under a ref of its own first. An interrupted candidate stays in the
    working tree, since nothing was decided about it.
    """
    repository, ledger = session.repository, session.ledger
    if experiment.verdict is Verdict.KEEP:
        repository.advance(session.branch, experiment.commit, experiment.base)
        failpoint.reach("apply.advanced")
    if experiment.verdict is not None:
        _settle_files(session, experiment)
    failpoint.reach("apply.settled")
    ledger.append("applied", experiment=experiment.number, head=session.head)


def _settle_files(session: Session, experiment: Experiment) -> None:
    """Leave the incumbent's files in the working tree and in the index."""
    repository = session.repository
    wanted = session.files_of(session.head)
    current = repository.read_files_if_present(session.recipe.mutable)
    candidate = session.files_of(experiment.commit)
    if current and current not in (wanted, candidate):
        save_stray(session, current, f"edit found in the working tree after experiment {experiment.number}")
    repository.write_files(wanted)
    failpoint.reach("apply.written")
    repository.update_index(session.head, session.recipe.mutable)


def save_stray(session: Session, files: dict[str, bytes], why: str) -> str:
    """Commit bytes that nobody asked to have measured under a ref of their own; returns the ref."""
    stray = session.repository.take(files, base=session.head, message=why, when=now())
    ref = f"{REFS}/{session.tag}/stray-{stray.commit[:12]}"
    session.repository.pin(ref, stray.commit)
    session.ledger.append("note", what="stray edit saved", ref=ref, commit=stray.commit)
    return ref


def breaker_state(ledger: LedgerView) -> breaker.BreakerState:
    """The circuit breaker's state, folded from the ledger: a 'breaker closed' note resets the streak."""
    return breaker.state(_breaker_events(ledger))


def _breaker_events(ledger: LedgerView) -> list[breaker.Event]:
    closed_before = [n["before"] for n in ledger.notes if n["what"] == "breaker closed"]
    events: list[breaker.Event] = []
    for experiment in ledger.experiments:
        if experiment.number in closed_before:
            events.append(breaker.CLOSED)
        if experiment.decided:
            events.append(breaker.Event(experiment.outcome, _fingerprint(experiment)))
    if closed_before and closed_before[-1] >= len(ledger.experiments):
        events.append(breaker.CLOSED)
    return events


def _fingerprint(experiment: Experiment) -> str | None:
    failures = [run.ending.get("failure") for run in experiment.runs if run.ending]
    last = failures[-1] if failures else None
    return Failure(**last).fingerprint if last else experiment.reason or None
