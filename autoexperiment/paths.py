"""Every file and folder name that the lab writes, in one place."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import uuid
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from autoexperiment.errors import UsageError

_TAG = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_RESERVED = {"head", "con", "nul", "aux", "prn"}
LOOP_EXPERIMENT = "autoresearch-"
BRANCH = "autoresearch/{tag}"
PROTOCOL = "protocol.json"
EPOCH_CHECKPOINT = "checkpoint_epoch_"
FINAL_CHECKPOINT = "checkpoint_final"


def check_tag(tag: str) -> str:
    """A run tag that is safe as a branch, a folder and a ref on every file system.

    Raises: UsageError: anything but 1 to 64 of a-z 0-9 . _ - starting with a letter or digit.
    """
    fine = _TAG.fullmatch(tag) and ".." not in tag and not tag.endswith((".", ".lock")) and tag not in _RESERVED
    if not fine:
        raise UsageError(
            f"Tag {tag!r} is not usable as a branch and folder name. Allowed: 1 to 64 characters a-z 0-9 . _ -, "
            "starting with a letter or digit. For example: mar5"
        )
    return tag


def branch_of(pattern: str, tag: str) -> str:
    """The branch of a tag's session: `{tag}` in the pattern is the tag's place."""
    return pattern.replace("{tag}", tag)


def state_home() -> Path:
    """The folder for state that must survive anything done to a working tree."""
    if override := os.environ.get("XDG_STATE_HOME"):
        return Path(override) / "autoexperiment"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "autoexperiment"
    return Path.home() / ".local" / "state" / "autoexperiment"


def cache_home() -> Path:
    """Where data that is fetched or converted once is kept: `AUTORESEARCH_CACHE`, or `~/.cache/autoresearch`."""
    override = os.environ.get("AUTORESEARCH_CACHE")
    return Path(override) if override else Path.home() / ".cache" / "autoresearch"


def find_root(start: Path) -> Path:
    """The project's root: the top of the git working tree around `start`, else `start` itself."""
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / ".git").exists():
            return folder
    return start.resolve()


def _identity_file(root: Path) -> Path | None:
    answer = subprocess.run(
        ["git", "rev-parse", "--path-format=absolute", "--git-common-dir"], cwd=root, capture_output=True, text=True
    )
    return Path(answer.stdout.strip()) / "autoexperiment-id" if answer.returncode == 0 else None


def repo_id(root: Path) -> str:
    """A name for this repository's state: fixed at first use, kept when the folder moves, new in a copy.

    It is stored inside the git folder, which `reset` and `clean` leave alone; all worktrees share it.
    Without git it is derived from the folder's path.
    """
    file = _identity_file(root) if (root / ".git").exists() else None
    if file is None:
        return f"{root.name}-{hashlib.sha256(str(root).encode()).hexdigest()[:12]}"
    home = str(file.parent)
    try:
        name, _, recorded = file.read_text().rstrip("\n").partition("\t")
    except FileNotFoundError:
        name, recorded = "", ""
    if name and recorded == home:
        return name
    original = Path(recorded) / file.name if recorded else None
    is_copy = original is not None and original.exists() and original.read_text().startswith(f"{name}\t")
    if not name or is_copy:
        name = f"{re.sub(r'[^A-Za-z0-9._-]', '_', root.name)}-{uuid.uuid4().hex[:12]}"
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    temporary.write_text(f"{name}\t{home}\n")
    os.replace(temporary, file)
    return name


@dataclass(frozen=True)
class ProjectPaths:
    """Files of one project (a working tree). `root` is its top folder."""

    root: Path

    @property
    def state(self) -> Path:
        """Outside the working tree: ledgers and locks."""
        return state_home() / repo_id(self.root)

    @property
    def lock(self) -> Path:
        return self.state / "loop.lock"

    @property
    def outputs(self) -> Path:
        return self.root / "outputs"

    @property
    def protocol(self) -> Path:
        return self.root / PROTOCOL

    @property
    def results(self) -> Path:
        return self.root / "results.tsv"

    @property
    def last_run(self) -> Path:
        return self.root / "data" / "last_run.json"

    @property
    def experiment_notes(self) -> Path:
        return self.root / "EXPERIMENT.md"

    def daily_log(self, day: str) -> Path:
        """`day`: YYYY-MM-DD."""
        return self.root / "internal" / "log" / f"log_{day}.md"

    def session(self, tag: str) -> SessionPaths:
        return SessionPaths(self.state / check_tag(tag), self.outputs / f"{LOOP_EXPERIMENT}{tag}")

    def tags(self) -> list[str]:
        """Tags with a ledger, the most recently changed last."""
        ledgers = self.state.glob(f"*/{SessionPaths.LEDGER}") if self.state.exists() else []
        return [p.parent.name for p in sorted(ledgers, key=lambda p: p.stat().st_mtime)]


@dataclass(frozen=True)
class SessionPaths:
    """Files of one loop session. `state` lies outside the working tree, `outputs` inside it."""

    LEDGER = "ledger.jsonl"

    state: Path
    outputs: Path

    @property
    def ledger(self) -> Path:
        return self.state / self.LEDGER

    @property
    def stop_request(self) -> Path:
        return self.state / "stop"

    @property
    def kernels(self) -> Path:
        """Kernels that the baseline compiled: later runs start from a copy of them."""
        return self.state / "kernels"

    @property
    def protocol(self) -> Path:
        """The protocol that the session was started with, byte for byte."""
        return self.state / "protocol.json"

    @property
    def place(self) -> Path:
        """Where runs happen when the recipe has set-up commands; see preparation.py."""
        return self.state / "place"

    @property
    def template(self) -> Path:
        """What the set-up commands made."""
        return self.state / "template"

    @property
    def setup_done(self) -> Path:
        return self.state / "setup.done"

    @property
    def setup_log(self) -> Path:
        return self.state / "setup.log"

    @property
    def data_seen(self) -> Path:
        """Hashes of the data's files; see snapshot.py."""
        return self.state / "data.json"

    @property
    def step_log(self) -> Path:
        return self.state / "step.log"

    @property
    def handover(self) -> Path:
        """What a chat's hooks read of the session; see handover.py."""
        return self.state / "handover.json"

    @property
    def desk(self) -> Path:
        """Where a headless agent works; see desk.py."""
        return self.state / "desk"

    @property
    def preflight(self) -> Path:
        """Scratch folder of a pre-flight; see preflight.py."""
        return self.state / "preflight"

    @property
    def activity(self) -> Path:
        """What a night does between two experiments, in one line; gone when it does nothing of that kind."""
        return self.state / "activity"

    @property
    def visit_log(self) -> Path:
        """Output of the last headless agent."""
        return self.state / "visit.log"

    @property
    def report(self) -> Path:
        return self.outputs / "report.md"

    @property
    def progress_picture(self) -> Path:
        return self.outputs / "progress.png"

    def new_run(self, now: datetime) -> RunPaths:
        return new_run(self.outputs, now)


def new_run(experiment: Path, now: datetime) -> RunPaths:
    """A run folder that did not exist before: `YYYYmmdd_HHMMSS`, with `_n` when taken.

    Args: experiment: the folder of the experiment's runs, made if it is not there.
    """
    stamp = now.strftime("%Y%m%d_%H%M%S")
    for n in range(1, 10_000):
        folder = experiment / (stamp if n == 1 else f"{stamp}_{n}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return RunPaths(folder)
    raise UsageError(f"{experiment} has too many runs of the same second.")


@dataclass(frozen=True)
class OutputPaths:
    """A folder of experiments: `<experiment>/<timestamp>/` for each run, and the index of them all."""

    root: Path

    @property
    def index(self) -> Path:
        """The history's view of the run directories; see history.py."""
        return self.root / "index.json"

    @property
    def index_lock(self) -> Path:
        return self.root / ".index.lock"

    def experiment(self, name: str) -> Path:
        return self.root / name


@dataclass(frozen=True)
class SweepPaths:
    """Files of one sweep. `folder`: that of its runs, the experiment's folder below an output folder."""

    folder: Path

    @property
    def definition(self) -> Path:
        """What the sweep was last asked to run."""
        return self.folder / "sweep.json"

    @property
    def book(self) -> Path:
        """How each of its points ended; see sweep/book.py."""
        return self.folder / "sweep.jsonl"

    @property
    def table(self) -> Path:
        """The same as a table for people and other programs."""
        return self.folder / "results.csv"

    @property
    def lock(self) -> Path:
        return self.folder / ".sweep.lock"

    @property
    def stop_request(self) -> Path:
        """What tells points on other machines to end."""
        return self.folder / ".stop"

    def result(self, key: str) -> Path:
        """How a point ended, put down by the process that ran it."""
        return self.folder / ".points" / f"{key}.json"

    def point_lock(self, key: str) -> Path:
        """Held while a point is run, so that it is run by one process only."""
        return self.folder / ".points" / f"{key}.lock"


@dataclass(frozen=True)
class RunPaths:
    """Files of one run. `work` is the fresh folder that a loop's recipe runs in."""

    folder: Path

    @property
    def work(self) -> Path:
        return self.folder / "work"

    @property
    def private(self) -> Path:
        """The run's own home, temporary and cache folder; gone when the run has been scored."""
        return self.folder / "private"

    @property
    def kernels(self) -> Path:
        """Where MLX keeps the CPU kernels that it compiled, below the run's TMPDIR."""
        return self.private / "tmp" / "mlx"

    @property
    def log(self) -> Path:
        return self.folder / "run.log"

    @property
    def record(self) -> Path:
        return self.folder / "run.json"

    @property
    def reported(self) -> Path:
        """What the recipe wrote about itself: never a measurement."""
        return self.work / "data" / "last_run.json"

    @property
    def kept_report(self) -> Path:
        """Copy of `reported` that stays when the work folder goes."""
        return self.folder / "reported.json"

    @property
    def checkpoint(self) -> Path:
        return self.work / "data" / "checkpoint"

    # of a run of the harness

    @property
    def config(self) -> Path:
        """The experiment's configuration, whole: what was given and every default."""
        return self.folder / "config.json"

    @property
    def summary(self) -> Path:
        return self.folder / "summary.json"

    @property
    def lock(self) -> Path:
        """Held while the run is going on: a run without a summary whose lock is free was killed."""
        return self.folder / ".lock"

    @property
    def state(self) -> Path:
        """Of a workflow: how far each of its steps has come."""
        return self.folder / "state.json"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.folder / "metrics"

    def checkpoint_of(self, epoch: int) -> Path:
        return self.checkpoints / f"{EPOCH_CHECKPOINT}{epoch}"

    @property
    def final_checkpoint(self) -> Path:
        return self.checkpoints / FINAL_CHECKPOINT
