"""A loop session: one tag, one branch, one ledger, one lock; started, opened, recovered.

Whoever holds a `Session` holds the project's lock, and the ledger has no half-done experiment.
"""

from __future__ import annotations

import functools
import hashlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from autoexperiment import breaker, failpoint, machine, preparation, snapshot
from autoexperiment.budget import Budget, parse_budget
from autoexperiment.candidates import Repository, check_branch_name
from autoexperiment.errors import Refused, UsageError, unknown
from autoexperiment.files import Lock, load_json, write_atomic
from autoexperiment.globs import any_matches
from autoexperiment.ledger import Experiment, Ledger, LedgerView, read_ledger, read_start
from autoexperiment.paths import ProjectPaths, SessionPaths, branch_of, check_tag
from autoexperiment.recipe import SEALED, Recipe
from autoexperiment.supervisor import Ending, Failure
from autoexperiment.surface import OWN, Surface, surface_of
from autoexperiment.surroundings import check_confinement, data_snapshot
from autoexperiment.verdict import POLICIES
from autoexperiment.vocabulary import Outcome, Verdict

REFS = "refs/autoexperiment"
ENTERED = "branch entered"
COMMITS_KEPT = 4


def now() -> datetime:
    return datetime.now(UTC)


def content_id(files: dict[str, bytes]) -> str:
    """Identity of a candidate: a hash of its mutable files' names and bytes."""
    whole = hashlib.sha256()
    for name, blob in sorted(files.items()):
        whole.update(f"{len(name)}:{name}:{len(blob)}:".encode("utf-8", "surrogateescape") + blob)
    return whole.hexdigest()


@dataclass(frozen=True)
class Plan:
    """What `mlx loop start` fixes for the whole session.

    Attributes:
        protocol: the document that the recipe comes from, as text; "" for a recipe made by hand.
        bundle: the document's own id.
        unenforced: what it asks for and nobody sees to, as (path, reason).
    """

    budget: Budget
    recipe: Recipe
    policy: str = "greedy"
    dataset: str | None = None
    protocol: str = ""
    bundle: str = ""
    unenforced: tuple[tuple[str, str], ...] = ()


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

    @functools.cached_property
    def recipe(self) -> Recipe:
        return Recipe.from_json(self.start_record["recipe"])

    @property
    def surface(self) -> Surface:
        return surface_of(self.recipe)

    @property
    def base(self) -> str:
        """The commit that the session started from."""
        return str(self.start_record["base"])

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
        return incumbent.commit if incumbent else self.base

    def ref(self, experiment: int) -> str:
        return f"{REFS}/{self.tag}/run-{experiment:05d}"

    def harness_files(self) -> dict[str, bytes]:
        """The immutable files as they were when the session started, whatever the tree holds now."""
        return dict(self._harness)

    @functools.cached_property
    def _harness(self) -> dict[str, bytes]:
        return self.repository.surface_at(self.base, self.surface.is_immutable)

    def files_of(self, commit: str) -> dict[str, bytes]:
        """A commit's mutable files."""
        if commit not in self._files:
            if len(self._files) >= COMMITS_KEPT:
                self._files.pop(next(iter(self._files)))
            self._files[commit] = self.repository.surface_at(commit, self.surface.is_mutable)
        return dict(self._files[commit])

    @functools.cached_property
    def _files(self) -> dict[str, dict[str, bytes]]:
        """The mutable files of the commits asked for last; one turn of the loop asks ten times for two or three."""
        return {}

    @functools.cached_property
    def base_paths(self) -> frozenset[str]:
        """Every file of the session's first commit."""
        return frozenset(self.repository.tree_files(self.base))

    def edited_files(self) -> dict[str, bytes] | None:
        """The working tree's mutable files, or None when one of them can't be read as a plain file."""
        return self.repository.surface_if_readable(self.surface.is_mutable)

    def lay_out(self, commit: str) -> Callable[[Path], None]:
        """What puts a commit's files into a folder, the held-out ones apart."""
        return lambda folder: self.repository.checkout(commit, folder, skip=self.surface.is_held_out)

    def place(self) -> Callable[[Callable[[Path], None]], Path] | None:
        """What makes the folder that runs happen in, or None when each run has its own."""
        return functools.partial(preparation.fresh_place, self.paths) if self.recipe.setup else None

    def links(self) -> dict[str, Path]:
        """Data that runs find at its place, though it is not in the repository."""
        return {name: snapshot.place(self.project.root, name) for name in self.recipe.data}

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
    branch = branch_of(plan.recipe.branch, check_tag(tag))
    if fault := check_branch_name(branch):
        raise UsageError(f"Branch {branch!r} is not possible: {fault} Mend provenance.gitWorkflow.branchPattern.")
    if repository.branch_exists(branch) or exists(project.root, tag):
        raise Refused(
            f"Tag {tag!r} is taken: branch {branch} or its ledger exists, and a session always starts fresh. "
            f"Continue it with 'mlx loop run {tag}', or choose another tag."
        )
    base = repository.resolve("HEAD")
    if base is None:
        raise Refused("This repository has no commit yet. Commit the recipe first: git add -A && git commit")
    _check_base(repository, base, surface_of(plan.recipe))
    return base


def _check_base(repository: Repository, base: str, surface: Surface) -> None:
    if not repository.surface_at(base, surface.is_mutable):
        raise Refused(
            f"No file of the last commit is mutable: {surface.words} matches none. Commit the recipe first, "
            "or mend mutableSurface.allowedGlobs."
        )
    for name in surface.recipe.immutable:
        if not repository.surface_at(base, lambda path, name=name: any_matches((name,), path)):  # type: ignore[misc]
            raise Refused(
                f"The immutable {name} is not in the last commit. Add and commit it, or mend immutableHarness.paths."
            )
    if dirty := repository.dirty(lambda path: surface.is_mutable(path) or surface.is_immutable(path)):
        raise Refused(
            f"{', '.join(dirty[:5])} differ from the last commit, so the baseline would not be what git shows. "
            "Commit or stash the changes first: git stash push --include-untracked -- " + " ".join(dirty[:5])
        )


def start(root: Path, tag: str, plan: Plan) -> Session:
    """Create a session: its branch, checked out, and a ledger with its first record.

    Raises: Refused: the tag is taken, the recipe has uncommitted changes or is missing from HEAD.
    """
    project, repository = ProjectPaths(root), Repository(root)
    base = _check_start(project, tag, plan, repository)
    check_confinement(plan.recipe)
    data = _dataset(root, plan)
    pinned = repository.surface_at(base, surface_of(plan.recipe).is_immutable)
    lock = Lock(project.lock).acquire(timeout_s=2.0)
    try:
        paths = project.session(tag)
        ledger = Ledger.open(paths.ledger)
        failpoint.reach("session.ledger_created")
        if plan.protocol:
            write_atomic(paths.protocol, plan.protocol)
        ledger.append(
            "session",
            version=1,
            tag=tag,
            branch=branch_of(plan.recipe.branch, tag),
            base=base,
            recipe=plan.recipe.to_json(),
            budget=str(plan.budget),
            policy=plan.policy,
            dataset=data.get("name"),
            snapshot=data.get("snapshot") or data_snapshot(root, plan.recipe, paths),
            harness=_harness_hashes(pinned),
            machine=machine.facts(),
            options={
                "data": data.get("data"),
                "protocol": hashlib.sha256(plan.protocol.encode()).hexdigest() if plan.protocol else None,
                "bundle": plan.bundle or None,
                "unenforced": [path for path, _ in plan.unenforced],
            },
        )
        failpoint.reach("session.recorded")
        session = Session(project, tag, lock, repository, ledger)
        repository.leave_out([f"/{name}*" for name in OWN])  # a search that respects git shows no run's log
        _enter_branch(session)
    except BaseException:
        lock.release()
        raise
    return session


_MANY = 50


def _harness_hashes(pinned: dict[str, bytes]) -> dict[str, str]:
    """SHA-256 of each immutable file; of many, one over all, since a ledger record is small."""
    if len(pinned) > _MANY:
        return {f"{len(pinned)} files": content_id(pinned)}
    return {name: hashlib.sha256(blob).hexdigest() for name, blob in pinned.items()}


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
    """The tag of the session whose branch is checked out.

    Raises: UsageError: another branch is; the message lists the tags there are.
    """
    branch, project = Repository(root).head_branch() or "", ProjectPaths(root)
    tags = project.tags()
    for tag in reversed(tags):
        if branch and read_start(project.session(tag).ledger).get("branch") == branch:
            return tag
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
        require_branch(session)
    except BaseException:
        lock.release()
        raise
    return session


def require_branch(session: Session) -> None:
    """Raises: Refused: another branch is checked out."""
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
    repository, surface = session.repository, session.surface
    wanted = session.files_of(session.head)
    current = session.edited_files()
    candidate = session.files_of(experiment.commit)
    if current is not None and current not in (wanted, candidate):
        save_stray(session, current, f"edit found in the working tree after experiment {experiment.number}")
    repository.restore(wanted, surface.is_mutable)
    failpoint.reach("apply.written")
    repository.update_index(session.head, surface.is_mutable)


def save_stray(session: Session, files: dict[str, bytes], why: str) -> str:
    """Commit bytes that nobody asked to have measured under a ref of their own; returns the ref."""
    return _save(session, files, why, surface=session.surface.is_mutable)


def _save(session: Session, files: dict[str, bytes], why: str, *, surface: Callable[[str], bool]) -> str:
    stray = session.repository.take(files, base=session.head, surface=surface, message=why, when=now())
    ref = f"{REFS}/{session.tag}/stray-{stray.commit[:12]}"
    session.repository.pin(ref, stray.commit)
    session.ledger.append("note", what="stray edit saved", ref=ref, commit=stray.commit)
    return ref


def put_harness_back(session: Session) -> list[str]:
    """Write the immutable files of the session's base over edited or deleted ones; returns their names.

    An edited one is first saved under a ref of its own.
    """
    repository, is_immutable = session.repository, session.surface.is_immutable
    wanted = session.harness_files()
    present = repository.surface_in_tree(is_immutable)
    changed = [name for name, blob in wanted.items() if present.get(name) != blob]
    edited = {name: present[name] for name in changed if name in present}
    if edited:
        _save(session, {**wanted, **edited}, "edit of the harness, taken back", surface=is_immutable)
    repository.write_files({name: wanted[name] for name in changed})
    repository.update_index(session.head, is_immutable)
    return changed


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
    last = failures[-1] if failures else experiment.evidence.get("failure")
    return Failure(**last).fingerprint if last else experiment.reason or None
