"""Sweeps on a dask cluster of real processes, of which the scheduler, workers and the sweep itself are killed."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from dask_cluster import Cluster, Forks, cluster_in, kill
from held_points import NAME, PATIENCE_S, SOURCE, Held, lives, sweep_of, wait_until
from workflow_modules import modules
from workspaces import LINEAR, Workspace

from autoexperiment.config.sweep_loader import load_sweep
from autoexperiment.errors import LabError, Refused
from autoexperiment.files import Lock
from autoexperiment.paths import SweepPaths
from autoexperiment.supervisor import Signals
from autoexperiment.sweep import crew, dask, launching, results
from autoexperiment.sweep.dask import DaskExecutor
from autoexperiment.sweep.engine import Quiet
from autoexperiment.sweep.launching import Where
from autoexperiment.sweep.plans import make_plan

pytest.importorskip("distributed")
XS = [1, 2, 3, 4]
HURRIED = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "1s"}  # dask's own setting; a minute otherwise


@dataclass
class Hearing(Quiet):
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)


@dataclass
class Place:
    """A workspace, in which sweeps are run here or by a process of their own."""

    workspace: Workspace
    held: Held
    hearing: Hearing = field(default_factory=Hearing)
    signals: Signals = field(default_factory=Signals)

    @property
    def root(self) -> Path:
        return self.workspace.root

    @property
    def paths(self) -> SweepPaths:
        return SweepPaths(self.root / "outputs" / NAME)

    def run(self, config: dict[str, Any], address: str = "", **more: Any) -> bool:
        """Run a sweep in this process."""
        where = Where("dask" if address else "local", address, more.pop("max_parallel", None))
        sweep = load_sweep(self.root / self.workspace.write(config))
        signals = more.pop("signals", None)
        plan = make_plan(sweep, root=self.root, where=where, **more)
        return launching.run(plan.launch, observer=self.hearing, signals=signals)

    @contextmanager
    def running(self, config: dict[str, Any], address: str) -> Iterator[list[object]]:
        """Run a sweep in a thread; the list holds what it answered, or its error, when the block is over."""
        answers: list[object] = []
        signals = self.signals = Signals()

        def run() -> None:
            try:
                answers.append(self.run(config, address, signals=signals))
            except BaseException as error:
                answers.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            yield answers
        except BaseException:
            signals.received += [signal.SIGTERM, signal.SIGTERM]
            raise
        finally:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "the sweep does not end"

    def start(self, config: dict[str, Any], address: str, *words: str) -> subprocess.Popen[str]:
        """Run a sweep in a process of its own."""
        name = self.workspace.write(config)
        return self.workspace.start("sweep", "run", "--config", name, "--dask", address, *words)

    def values(self, config: Mapping[str, Any]) -> dict[int, float]:
        """The value by x, of rows that are all completed, each of another point."""
        rows = results.rows(SweepPaths(self.root / "outputs" / str(config["name"])))
        assert [row["status"] for row in rows] == ["completed"] * len(rows), rows
        assert len({row["key"] for row in rows}) == len(rows)
        found = {row["params"]["square.x"]: row["metrics"]["value"] for row in rows}
        assert len(found) == len(rows)
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Workspace.of(tmp_path) as workspace, modules(workspace.root) as made:
        made.write("held", SOURCE)
        held = Held(workspace.root)
        yield Place(workspace, held)
        held.release()


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    made = Forks()
    yield made
    made.close()


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory, forks: Forks) -> Iterator[Cluster]:
    """A scheduler for tests that do not kill it."""
    folder = tmp_path_factory.mktemp("cluster")
    with Workspace.of(folder) as workspace, cluster_in(folder / "dask", workspace.environment, forks) as made:
        made.start_scheduler()
        yield made


@pytest.fixture
def cluster(scheduler: Cluster) -> Cluster:
    """The scheduler with two workers that live, each with one thread."""
    scheduler.workers = [worker for worker in scheduler.workers if lives(worker)]
    while len(scheduler.workers) < 2:
        scheduler.start_worker()
    return scheduler


@pytest.fixture
def own_cluster(tmp_path: Path, place: Place, forks: Forks) -> Iterator[Cluster]:
    with cluster_in(tmp_path / "dask", place.workspace.environment, forks) as made:
        yield made


def expected(xs: list[int] = XS) -> dict[int, float]:
    return {x: float(x * x) for x in xs}


# ---- it brings what one machine brings


def test_cluster_brings_the_rows_of_one_machine(place: Place, cluster: Cluster) -> None:
    base = {name: value for name, value in LINEAR.items() if name != "name"}
    lines = {"name": "here", "base": base, "parameters": {"dataset.params.n_samples": [40, 60]}, "seeds": 2}

    assert place.run(lines, max_parallel=2)
    assert place.run({**lines, "name": "there"}, cluster.address)

    here, there = (results.rows(SweepPaths(place.root / "outputs" / name)) for name in ("here", "there"))
    facts = ("number", "trial", "rung", "seed", "params", "status", "trust", "reason", "key")
    assert [[row[fact] for fact in facts] for row in there] == [[row[fact] for fact in facts] for row in here]
    assert [row["metrics"]["val_loss"] for row in there] == [row["metrics"]["val_loss"] for row in here]
    assert len(there) == 4
    assert all((place.root / row["run_dir"] / "run.json").is_file() for row in there)


def test_all_threads_of_all_workers_are_used(place: Place, cluster: Cluster) -> None:
    place.held.hold()

    with place.running(sweep_of(XS), cluster.address) as answers:
        place.held.wait_for("begun", 2)
        place.held.release()

    assert answers == [True]
    assert place.values(sweep_of(XS)) == expected()
    assert not place.paths.stop_request.exists()


def test_max_parallel_bounds_what_runs_at_once(place: Place, cluster: Cluster) -> None:
    assert place.run(sweep_of(XS), cluster.address, max_parallel=1)

    said = [line.split()[0] for line in (place.root / "said.txt").read_text().splitlines()]
    assert said == ["begun", "done"] * 4


def test_failed_points_are_rows_and_are_tried_again_when_that_is_asked_for(place: Place, cluster: Cluster) -> None:
    unlucky = place.root / "fail2"
    unlucky.touch()

    assert place.run(sweep_of([1, 2, 3]), cluster.address)
    first = [row["status"] for row in results.rows(place.paths)]
    unlucky.unlink()
    assert place.run(sweep_of([1, 2, 3]), cluster.address, is_resumed=True)
    second = [row["status"] for row in results.rows(place.paths)]
    assert place.run(sweep_of([1, 2, 3]), cluster.address, is_resumed=True, retries_failed=True)

    assert first == second == ["completed", "failed", "completed"]
    assert place.values(sweep_of(XS)) == expected([1, 2, 3])
    assert sorted(place.held.said("begun")) == [1, 2, 2, 3]


# ---- workers come and go


def test_point_of_a_killed_worker_is_run_elsewhere_and_a_new_worker_is_used(place: Place, cluster: Cluster) -> None:
    place.held.hold()

    with place.running(sweep_of(XS), cluster.address) as answers:
        place.held.wait_for("begun", 2)
        victims = place.held.pids()
        kill(cluster.workers[0])
        wait_until(lambda: not all(map(lives, victims)), "the end of what it ran")
        wait_until(lambda: any("has left" in note for note in place.hearing.notes), "the news that it is gone")
        cluster.start_worker(threads=2)
        place.held.wait_for("begun", 4)
        place.held.release()

    assert answers == [True]
    assert place.values(sweep_of(XS)) == expected()
    assert len(place.held.said("done")) == 4
    assert [note.partition("://")[0] for note in place.hearing.notes] == ["Worker tcp", "Worker tcp"]
    assert "has joined" in place.hearing.notes[1]
    place.held.check_gone()


def test_sweep_waits_for_its_first_worker_and_for_the_next_when_all_are_gone(
    place: Place, own_cluster: Cluster
) -> None:
    own_cluster.start_scheduler()
    place.held.hold()

    with place.running(sweep_of(XS), own_cluster.address) as answers:
        wait_until(lambda: place.hearing.notes, "a note")
        own_cluster.start_worker()
        place.held.wait_for("begun", 1)
        own_cluster.kill_workers()
        wait_until(lambda: len(place.hearing.notes) == 3, "the news")
        place.held.release()
        own_cluster.start_worker(threads=2)

    assert answers == [True]
    assert "has no workers yet; waiting for the first" in place.hearing.notes[0]
    assert place.hearing.notes[2] == "No worker is left; waiting for the next."
    assert place.values(sweep_of(XS)) == expected()


def test_point_whose_workers_die_again_and_again_is_one_that_failed(
    place: Place, own_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask, "MOST_LOSSES", 1)
    own_cluster.start_scheduler()
    place.held.hold()

    with place.running(sweep_of([1]), own_cluster.address) as answers:
        for count in (1, 2):
            own_cluster.start_worker()
            place.held.wait_for("begun", count)
            own_cluster.kill_workers()

    assert answers == [True]
    (row,) = results.rows(place.paths)
    assert (row["status"], row["reason"]) == ("failed", "It was lost 2 times: its workers died, or the cluster did.")


def test_scheduler_may_give_a_point_up_that_ends_its_workers(place: Place, own_cluster: Cluster) -> None:
    own_cluster.environment["DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES"] = "0"  # 3 otherwise
    own_cluster.start_scheduler()
    victim = own_cluster.start_worker()
    own_cluster.start_worker()
    place.held.hold()

    with place.running(sweep_of([1, 2]), own_cluster.address) as answers:
        place.held.wait_for("begun", 2)
        kill(victim)
        wait_until(lambda: place.hearing.notes, "the news")
        place.held.release()

    assert answers == [True]
    failed, completed = sorted(results.rows(place.paths), key=lambda row: row["status"], reverse=True)
    assert (failed["status"], completed["status"]) == ("failed", "completed")
    assert failed["reason"].startswith("Every worker that ran it died: ")


OLD = """
import pathlib
import autoexperiment.sweep.crew as crew
crew.__version__ = "0.0.1"
crew.run_once = lambda *_, **__: pathlib.Path(__file__).with_name("used").touch()
"""


def test_worker_with_another_version_is_refused_at_first_and_left_out_later(place: Place, cluster: Cluster) -> None:
    preload = place.root / "old.py"
    preload.write_text(OLD)
    place.held.hold()

    with place.running(sweep_of(XS), cluster.address) as answers:
        place.held.wait_for("begun", 2)
        stranger = cluster.start_worker("--preload", str(preload))
        wait_until(lambda: place.hearing.notes, "a note")
        for worker in cluster.workers[:2]:
            kill(worker)
        wait_until(lambda: "No worker is left; waiting for the next." in place.hearing.notes, "the news")
        place.held.release()
        cluster.start_worker()
    with pytest.raises(Refused, match=r"has autoexperiment 0\.0\.1; here it is .*Install the same on all machines"):
        place.run({**sweep_of(XS), "name": "other"}, cluster.address)
    kill(stranger)

    assert answers == [True]
    assert place.hearing.notes[0].startswith("It is left out: Worker tcp://")
    assert not (place.root / "used").exists()
    assert place.values(sweep_of(XS)) == expected()


# ---- other machines


def _root_fault(*tools: str) -> str:
    """Why namespaces can't be made here, or ""."""
    if sys.platform != "linux":
        return "namespaces are Linux's"
    if missing := [tool for tool in tools if shutil.which(tool) is None]:
        return f"{missing[0]} is not installed"
    if os.geteuid() != 0:
        return "only root makes namespaces"
    tried = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, text=True)
    return "" if tried.returncode == 0 else f"no namespaces here: {tried.stderr.strip()}"


needs_mounts = pytest.mark.skipif(bool(_root_fault("unshare", "mount")), reason=_root_fault("unshare", "mount"))
needs_networks = pytest.mark.skipif(bool(_root_fault("unshare", "ip")), reason=_root_fault("unshare", "ip"))


@needs_mounts
def test_worker_that_does_not_see_the_workspace_is_refused(place: Place, cluster: Cluster) -> None:
    hide = ["unshare", "--mount", "sh", "-c", f'mount -t tmpfs none {place.root} && exec "$@"', "sh"]
    stranger = cluster.start_worker(inside=hide)

    with pytest.raises(Refused, match=rf"does not see {place.paths.folder}\. All machines need the workspace under"):
        place.run(sweep_of(XS), cluster.address)
    kill(stranger)

    assert not place.held.said("begun")
    assert results.rows(place.paths) == []


@dataclass(frozen=True)
class Network:
    """A network namespace, linked to this machine by a pair of virtual cables. `here`: this machine's end."""

    name: str
    here: str
    there: str

    @property
    def inside(self) -> list[str]:
        return ["ip", "netns", "exec", self.name]


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextmanager
def network(number: int) -> Iterator[Network]:
    """Names and addresses are this process's own, so that tests can run side by side."""
    made = Network(
        f"ae{os.getpid()}n{number}",
        *(f"10.{60 + number + 2 * (os.getpid() // 250 % 64)}.{os.getpid() % 250}.{end}" for end in (1, 2)),
    )
    cable = f"ae{os.getpid()}v{number}"
    ip("netns", "add", made.name)
    try:
        ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", made.name)
        ip("address", "add", f"{made.here}/24", "dev", cable)
        ip("link", "set", cable, "up")
        for words in (
            ["address", "add", f"{made.there}/24", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["route", "add", "default", "via", made.here],
        ):
            ip("-n", made.name, *words)
        yield made
    finally:
        subprocess.run(["ip", "link", "delete", cable], capture_output=True)
        ip("netns", "delete", made.name)


@needs_networks
def test_machine_that_dies_in_mid_trial_loses_nothing_and_doubles_nothing(
    place: Place, tmp_path: Path, forks: Forks
) -> None:
    environment = place.workspace.environment
    with (
        network(1) as one,
        network(2) as two,
        cluster_in(tmp_path / "dask", environment, forks, host=one.here) as cluster,
    ):
        cluster.start_scheduler()
        victim = cluster.start_worker(inside=one.inside)
        cluster.start_worker(inside=two.inside)
        place.held.hold()
        with place.running(sweep_of(XS), cluster.address) as answers:
            place.held.wait_for("begun", 2)
            kill(victim)
            wait_until(lambda: place.hearing.notes, "the news")
            place.held.release()

    assert answers == [True]
    assert place.hearing.notes[0].startswith(f"Worker tcp://{one.there}:")
    assert place.values(sweep_of(XS)) == expected()
    assert sorted(place.held.said("done")) == XS
    place.held.check_gone()


# ---- the executor alone


@contextmanager
def executor(place: Place, cluster: Cluster, **where: Any) -> Iterator[DaskExecutor]:
    wanted = Where("dask", cluster.address, **where)
    with Lock(place.paths.lock):
        made = DaskExecutor(wanted, place.paths.folder, place.signals, say=place.hearing.note)
        with closing(made):
            yield made


def test_as_many_points_run_at_once_as_workers_have_threads(place: Place, own_cluster: Cluster) -> None:
    own_cluster.start_scheduler()
    own_cluster.start_worker(threads=3)
    with executor(place, own_cluster) as made:
        all_threads = made.slots
        own_cluster.kill_workers()
        wait_until(lambda: made.wait(0.01) or place.hearing.notes, "the news")

        none_left = made.slots  # one that waits for the next worker, or the sweep would seem to be at its end

    assert (all_threads, none_left) == (3, 1)


def test_fewer_points_run_at_once_where_that_is_asked_for(place: Place, own_cluster: Cluster) -> None:
    own_cluster.start_scheduler()
    own_cluster.start_worker(threads=3)

    with executor(place, own_cluster, max_parallel=2) as made:
        assert made.slots == 2


def test_workers_go_on_when_the_scheduler_is_gone(
    place: Place, own_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dask, "RETURN_S", 0.5)
    own_cluster.start_scheduler()
    own_cluster.start_worker()
    with executor(place, own_cluster) as made:
        own_cluster.kill_scheduler()
        with pytest.raises(LabError, match="is gone"):
            wait_until(lambda: made.wait(0.01), "the error")

        made.stop()

        assert not place.paths.stop_request.exists()


class Lost:
    """Stands in for the future of a point that was run, whose answer does not come."""

    status = "finished"

    def result(self, timeout: float) -> Any:
        raise TimeoutError


def test_answer_that_does_not_come_is_asked_for_again(place: Place, cluster: Cluster) -> None:
    with executor(place, cluster) as made:
        assert made._answer(Lost()) is None


class Flaky:
    """Stands in for a client that loses the line to the only worker at first."""

    scheduler = type("Scheduler", (), {"ncores": None})
    asked = 0

    def sync(self, *_: object, **__: object) -> dict[str, int]:
        return {"tcp://w:1": 3}

    def run(self, act: Any, lock: str, **_: object) -> dict[str, Any]:
        from distributed.comm import CommClosedError

        self.asked += 1
        return {"tcp://w:1": CommClosedError("gone") if self.asked == 1 else act(lock)}


def test_worker_whose_line_was_cut_is_asked_again(place: Place) -> None:
    with Lock(place.paths.lock):
        made = crew.Crew(Flaky(), place.paths)

        wait_until(lambda: made.look() or made.is_known, "an answer")

    assert (made.fit, made.faults) == ({"tcp://w:1": 3}, {})


def test_fault_of_a_machine_names_it(place: Place, cluster: Cluster) -> None:
    place.paths.folder.mkdir(parents=True)
    (place.paths.folder / ".points").write_text("a file where a folder belongs")

    with pytest.raises(LabError, match=rf"could not be run: .* on {platform.node()} "):
        place.run(sweep_of(XS), cluster.address)
    assert results.rows(place.paths) == []


# ---- the sweep ends


def test_signal_ends_the_points_on_the_workers_and_the_sweep_can_go_on(place: Place, cluster: Cluster) -> None:
    config = sweep_of(XS)
    place.held.hold()
    sweep = place.start(config, cluster.address)
    place.held.wait_for("begun", 2, of=sweep)

    sweep.send_signal(signal.SIGTERM)
    _, complaint = sweep.communicate(timeout=PATIENCE_S)

    assert (sweep.returncode, complaint.count("\n")) == (130, 1)
    assert "Go on: mlx sweep run --resume" in complaint
    place.held.check_gone()
    assert not place.paths.stop_request.exists()
    place.held.release()
    assert place.run(config, cluster.address, is_resumed=True)
    assert place.values(config) == expected()
    assert sorted(place.held.said("done")) == XS


def test_second_signal_leaves_a_worker_that_does_not_answer(place: Place, cluster: Cluster) -> None:
    config = sweep_of([1])
    place.held.hold()
    for worker in cluster.workers[1:]:
        kill(worker)

    with place.running(config, cluster.address) as answers:
        place.held.wait_for("begun", 1)
        os.kill(cluster.workers[0], signal.SIGSTOP)
        place.signals.received += [signal.SIGINT, signal.SIGINT]
    is_asked_to_stop = place.paths.stop_request.exists()
    os.kill(cluster.workers[0], signal.SIGCONT)
    place.held.check_gone()
    place.held.release()

    assert answers == [False]
    assert is_asked_to_stop
    assert place.run(config, cluster.address, is_resumed=True)
    assert place.values(config) == {1: 1.0}


def test_what_runs_when_the_sweep_is_killed_is_taken_over(place: Place, cluster: Cluster) -> None:
    config = sweep_of(XS)
    place.held.hold()
    sweep = place.start(config, cluster.address)
    place.held.wait_for("begun", 2, of=sweep)

    sweep.kill()
    sweep.communicate(timeout=PATIENCE_S)
    place.held.release()
    assert place.run(config, cluster.address, is_resumed=True)

    assert place.values(config) == expected()
    assert sorted(place.held.said("begun")) == XS


def test_scheduler_that_stays_away_ends_the_sweep_and_what_the_worker_ended_counts(
    place: Place, own_cluster: Cluster
) -> None:
    config = sweep_of(XS)
    own_cluster.start_scheduler()
    own_cluster.start_worker(threads=2)
    place.workspace.environment.update(HURRIED)
    place.held.hold()
    sweep = place.start(config, own_cluster.address)
    place.held.wait_for("begun", 2, of=sweep)

    own_cluster.kill_scheduler()
    told, complaint = sweep.communicate(timeout=PATIENCE_S)
    place.held.release()  # the worker ends what it runs
    place.held.wait_for("done", 2)

    assert (sweep.returncode, complaint.count("\n")) == (1, 1)
    assert f"mlx: The dask scheduler at {own_cluster.address} is gone" in complaint
    assert "go on: --resume" in complaint
    assert "does not answer; waiting for it" in told
    own_cluster.start_scheduler()
    own_cluster.start_worker(threads=2)
    assert place.run(config, own_cluster.address, is_resumed=True)
    assert place.values(config) == expected()
    assert sorted(place.held.said("begun")) == XS


def test_scheduler_that_comes_back_in_time_goes_unnoticed(place: Place, own_cluster: Cluster) -> None:
    own_cluster.start_scheduler()
    own_cluster.start_worker()
    place.held.hold()

    with place.running(sweep_of([1, 2]), own_cluster.address) as answers:
        place.held.wait_for("begun", 1)
        own_cluster.kill_scheduler()
        own_cluster.start_scheduler()
        place.held.release()
        own_cluster.start_worker()

    assert answers == [True]
    assert place.values(sweep_of([1, 2])) == expected([1, 2])
    assert sorted(place.held.said("begun")) == [1, 2]


# ---- what is refused


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    import dask

    monkeypatch.setitem(dask.config.config["distributed"]["comm"]["timeouts"], "connect", "1s")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nowhere.invalid", "carrier-pigeon://x:1"])
def test_address_without_a_scheduler_is_named(place: Place, hurried: None, address: str) -> None:
    with pytest.raises(LabError, match=f"No dask scheduler answers at {address}. Start one"):
        place.run(sweep_of(XS), address)


def test_server_of_another_kind_is_no_scheduler(place: Place, hurried: None) -> None:
    import http.server

    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with pytest.raises(LabError, match="No dask scheduler answers"):
                place.run(sweep_of(XS), f"tcp://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()


def test_worker_is_no_scheduler(place: Place, cluster: Cluster) -> None:
    place.workspace.environment.update(HURRIED)
    sweep = place.start(sweep_of(XS), cluster.worker_address())

    _, complaint = sweep.communicate(timeout=PATIENCE_S)

    assert (sweep.returncode, complaint.count("\n")) == (1, 1)
    assert f"mlx: No dask scheduler answers at {cluster.worker_address()}." in complaint


HERE: dict[str, Any] = {
    "versions": {"autoexperiment": "1", "numpy": "2"},
    "has_lock": True,
    "is_writable": True,
    "holder": 7,
}


@pytest.mark.parametrize(
    ("there", "said"),
    [
        ({}, ""),
        ({"versions": {"autoexperiment": "1", "numpy": "3"}}, "has numpy 3; here it is 2"),
        ({"versions": {"numpy": "2"}}, "has autoexperiment None; here it is 1"),
        ({"has_lock": False}, "does not see /there/s. All machines need the workspace under the same path"),
        ({"is_writable": False}, "can't write to /there/s"),
        ({"holder": None}, "does not see the lock of this sweep in /there/s"),
        ({"holder": 8}, "does not see the lock of this sweep in /there/s"),
        ({"colour": "red"}, "can't run this version of autoexperiment"),
    ],
)
def test_what_a_worker_lacks_is_named(there: dict[str, Any], said: str) -> None:
    fault = crew.fault_of("tcp://w:1", {**HERE, **there}, HERE, Path("/there/s"))

    assert (said in fault) if said else (fault == "")


def test_worker_without_the_package_is_refused() -> None:
    fault = crew.fault_of("tcp://w:1", ModuleNotFoundError("No module named 'autoexperiment'"), HERE, Path("/s"))

    assert "Worker tcp://w:1 can't run this version of autoexperiment" in fault
    assert "No module named 'autoexperiment'. Install the same on all machines." in fault


def test_folder_is_seen_by_its_lock(tmp_path: Path) -> None:
    lock = tmp_path / ".sweep.lock"

    absent = crew.facts(str(lock))
    with Lock(lock):
        held = crew.facts(str(lock))
    free = crew.facts(str(lock))  # a copy of the folder, or a file system without locks

    assert (absent["has_lock"], absent["holder"]) == (False, None)
    assert (held["has_lock"], held["is_writable"], held["holder"]) == (True, True, os.getpid())
    assert (free["has_lock"], free["holder"]) == (True, None)
    assert json.loads(json.dumps(held)) == held


@pytest.mark.parametrize(
    ("wanted", "points", "threads"), [(None, 1, 4), (None, 4, 2), (None, 16, 1), (1, 2, 1), (3, 4, 2), (8, 1, 4)]
)
def test_threads_are_those_of_the_sweep_unless_there_are_too_few_cores(
    monkeypatch: pytest.MonkeyPatch, wanted: int | None, points: int, threads: int
) -> None:
    monkeypatch.setattr(launching, "cores", lambda: 8)
    for module in (launching, crew):
        monkeypatch.setattr(module, "usual", lambda: 4)

    assert crew.threads_here(wanted, points) == threads
