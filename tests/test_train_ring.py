"""Several processes train the recipe together, on one machine or two, and reach the loss of a single one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rings import job_of, processes_of

from autoexperiment import ring
from autoexperiment.vocabulary import RunStatus

ROOT = Path(__file__).resolve().parent.parent
VOCAB, SEQ_LEN = 32, 16
STEPS = 24


@pytest.fixture(autouse=True)
def one_blas_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    for name in ("MLX_HOSTFILE", "MLX_RANK"):
        monkeypatch.delenv(name, raising=False)


def with_constants(folder: Path, edit: tuple[str, str] = ("", ""), **values: object) -> Path:
    """A copy of the recipe in `folder` that trains a tiny model; `edit` replaces one place of its text."""
    source = (ROOT / "train.py").read_text()
    small = {"DEPTH": 2, "HEADS": 2, "HEAD_DIM": 8, "DEVICE_BATCH_SIZE": 8, "TOTAL_BATCH_SIZE": 8 * SEQ_LEN}
    for name, value in {**small, **values}.items():
        source, count = re.subn(rf"^{name} = [^#\n]*", f"{name} = {value}  ", source, flags=re.MULTILINE)
        assert count == 1
    if edit[0]:
        assert source.count(edit[0]) == 1
        source = source.replace(*edit)
    folder.mkdir(exist_ok=True)
    (folder / "train.py").write_text(source)
    for name in ("prepare.py", "data_sources.py"):
        (folder / name).write_text((ROOT / name).read_text())
    return folder / "train.py"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder of 64 rows in which each token follows from the one before."""
    folder = tmp_path_factory.mktemp("tiny")
    random = np.random.default_rng(0)
    starts, strides = random.integers(1, VOCAB, (64, 1)), random.integers(1, 4, (64, 1))
    rows = ((starts + strides * np.arange(SEQ_LEN + 1)) % (VOCAB - 1)).astype(np.uint16)
    rows[:, 0] = VOCAB - 1
    (folder / "train.bin").write_bytes(rows[:48].tobytes())
    (folder / "val.bin").write_bytes(rows[48:].tobytes())
    np.save(folder / "token_bytes.npy", np.array([1] * (VOCAB - 1) + [0], dtype=np.int32))
    files = {file.name: {"size": file.stat().st_size} for file in folder.iterdir()}
    manifest = {"format": 1, "dataset": "tiny", "snapshot": "0", "vocab_size": VOCAB, "seq_len": SEQ_LEN,
                "bos": VOCAB - 1, "files": files}  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def recipe(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a training run of `STEPS` steps on the tiny dataset."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("AUTOEXPERIMENT_DATA", str(tiny))
    monkeypatch.setenv("STEP_BUDGET", str(STEPS))
    for name in ("SEED", "TIME_BUDGET", "TOKEN_BUDGET", "DEVICE_BATCH_DIVISOR", "AUTOEXPERIMENT_SKIP_EVAL"):
        monkeypatch.delenv(name, raising=False)


def train_alone(script: Path, **variables: str) -> dict[str, Any]:
    """What a single process reports."""
    words = [sys.executable, str(script)]
    subprocess.run(words, cwd=script.parent, env={**os.environ, **variables}, check=True, capture_output=True)
    return report_of(script)


def report_of(script: Path) -> dict[str, Any]:
    return json.loads((script.parent / "data" / "last_run.json").read_text())


def weights_of(script: Path) -> bytes:
    return (script.parent / "data" / "checkpoint" / "model.safetensors").read_bytes()


def train_job(script: Path, *, size: int = 2, words: tuple[str, ...] = ()) -> ring.Job:
    return replace(job_of(script.parent, "", size=size), command=words or (sys.executable, str(script)))


@pytest.mark.usefixtures("recipe")
def test_two_processes_reach_the_loss_of_one(tmp_path: Path) -> None:
    alone, passes, shared = (with_constants(tmp_path / name) for name in ("alone", "passes", "shared"))
    one = train_alone(alone)
    train_alone(passes, DEVICE_BATCH_DIVISOR="2")
    job, shown = train_job(shared), list[bytes]()

    ending = ring.launch(job, on_line=shown.append)

    assert ending.exit_code == 0, job.log(0).read_text() + job.log(1).read_text()
    two = report_of(shared)
    assert two["training"]["total_steps"] == STEPS
    assert two["training"]["total_tokens"] == one["training"]["total_tokens"] == STEPS * 8 * SEQ_LEN
    assert two["training"]["final_loss"] == pytest.approx(one["training"]["final_loss"], rel=0, abs=1e-5)
    assert two["result"]["val_bpb"] == pytest.approx(one["result"]["val_bpb"], rel=0, abs=1e-5)
    assert (one["ranks"], two["ranks"]) == (1, 2)
    assert one["training"]["final_loss"] < 3.2  # it has learned: ln 31 is 3.43
    # Halves of a step are added up in the same order by one process in two passes: then every bit is the same.
    assert weights_of(shared) == weights_of(passes) != weights_of(alone)
    assert b"".join(shown).count(b"---\n") == 1
    assert job.log(1).read_text() == "rank 1 of 2\n"
    assert len(list(shared.parent.glob("data/run_*.json"))) == 1


METHODS = """
import itertools, json, sys
import train
import mlx.core as mx
ring = train.join(__import__("os").environ)
mean = ring.mean(mx.array(1.0 + ring.rank), {"a": [mx.array([[2.0, 4.0 * ring.rank]])], "b": mx.array(float(ring.rank))})
try:
    ring.check({"one": 1, "this": ring.rank, "that": 7})
    refusal = ""
except train.BadSetting as error:
    refusal = str(error)
ring.check({"one": [1, 2]})
loss, tree = mean
print(json.dumps({
    "loss": loss.item(), "a": tree["a"][0].tolist(), "b": tree["b"].item(), "longest": ring.longest(0.5 + ring.rank),
    "refusal": refusal, "part": list(itertools.islice(ring.part(iter(range(9))), 3)),
}))
"""


@pytest.mark.usefixtures("recipe")
def test_what_the_processes_exchange(tmp_path: Path) -> None:
    script = with_constants(tmp_path / "recipe")
    job = train_job(script, words=(sys.executable, "-c", METHODS))

    ending = ring.launch(job)

    assert ending.exit_code == 0, job.log(0).read_text()
    said = [json.loads(job.log(rank).read_text().splitlines()[1]) for rank in (0, 1)]
    for rank in (0, 1):
        assert (said[rank]["loss"], said[rank]["a"], said[rank]["b"]) == (1.5, [[2.0, 2.0]], 0.5)
        assert said[rank]["longest"] == 1.5
        assert said[rank]["refusal"].startswith("The 2 processes differ in this. ")
        assert said[rank]["part"] == [rank, rank + 2, rank + 4]


@pytest.mark.usefixtures("recipe")
def test_a_loss_that_diverges_in_one_ends_both_with_3(tmp_path: Path) -> None:
    bad = "return mx.mean(outputs[0]) * (math.nan if os.environ['MLX_RANK'] == '1' else 1)"
    script = with_constants(tmp_path / "recipe", ("return mx.mean(outputs[0])", bad), IS_GPU=False, COMPILE=False)
    job = train_job(script)

    ending = ring.launch(job)

    assert (ending.exit_code, ending.status) == (3, RunStatus.DIVERGED)
    for rank in (0, 1):
        assert job.log(rank).read_text().endswith("diverged: loss nan at step 1\n")
    assert not (script.parent / "data" / "last_run.json").exists()


@pytest.mark.usefixtures("recipe")
def test_processes_with_different_seeds_refuse_to_train(tmp_path: Path) -> None:
    script = with_constants(tmp_path / "recipe")
    job = train_job(script, words=("sh", "-c", f'SEED=$MLX_RANK exec "{sys.executable}" "{script}"'))

    ending = ring.launch(job)

    assert ending.exit_code == 2
    assert "train.py: The 2 processes differ in the settings." in job.log(ending.first_failed or 0).read_text()


@pytest.mark.usefixtures("recipe")
def test_a_step_that_does_not_divide_ends_with_2(tmp_path: Path) -> None:
    script = with_constants(tmp_path / "recipe", DEVICE_BATCH_SIZE=1, TOTAL_BATCH_SIZE=SEQ_LEN)
    job = train_job(script)

    ending = ring.launch(job)

    assert ending.exit_code == 2
    assert "2 processes can't share a step of 1 rows evenly." in job.log(ending.first_failed or 0).read_text()


@pytest.mark.usefixtures("recipe")
def test_a_rank_killed_in_mid_training_ends_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEP_BUDGET", "1000000")
    script = with_constants(tmp_path / "recipe")
    job = train_job(script)

    ending = ring.launch(job, on_line=when_said(b"training started", lambda: kill_rank(job, 1)))

    assert (ending.exit_code, ending.first_failed) == (137, 1)
    assert ending.members[0].exit_code != 0
    assert processes_of(job) == []
    assert not (script.parent / "data" / "last_run.json").exists()


def when_said(start: bytes, do: Callable[[], None]) -> Callable[[bytes], None]:
    return lambda line: do() if line.startswith(start) else None


def kill_rank(job: ring.Job, rank: int) -> None:
    for process in processes_of(job):
        if process.environ().get("MLX_RANK") == str(rank):
            process.kill()


@pytest.mark.usefixtures("recipe")
def test_seconds_end_both_at_the_same_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STEP_BUDGET")
    monkeypatch.setenv("TIME_BUDGET", "0.5")
    script = with_constants(tmp_path / "recipe")
    job = train_job(script)

    ending = ring.launch(job)

    assert ending.exit_code == 0, job.log(0).read_text() + job.log(1).read_text()
    assert report_of(script)["training"]["training_seconds"] >= 0.5


@pytest.mark.usefixtures("recipe")
@pytest.mark.parametrize(
    ("text", "rank", "named"), [("nope", "0", "can't join"), ('[["127.0.0.1:1"], ["127.0.0.1:2"]]', "7", "MLX_RANK=7")]
)
def test_a_place_in_no_group_is_refused(tmp_path: Path, text: str, rank: str, named: str) -> None:
    script = with_constants(tmp_path / "recipe")
    (tmp_path / "hosts.json").write_text(text)
    place = {"MLX_HOSTFILE": str(tmp_path / "hosts.json"), "MLX_RANK": rank}

    answer = subprocess.run(
        [sys.executable, str(script)], cwd=script.parent, env={**os.environ, **place}, capture_output=True, text=True
    )

    assert answer.returncode == 1
    assert answer.stderr.startswith("train.py: ") and named in answer.stderr and "mlx ring" in answer.stderr


# --- two machines: network namespaces with a cable between them ---


def ip(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True)


@pytest.fixture
def machines() -> Iterator[list[str]]:
    """Two network namespaces, 10.9.0.1 and 10.9.0.2."""
    names = [f"ring{os.getpid()}{side}" for side in "ab"]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "name", "cable", "netns", names[1])
        for number, name in enumerate(names, start=1):
            ip("-n", name, "address", "add", f"10.9.0.{number}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
        yield names
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces can't be made here (they need root and ip): {error}")
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                subprocess.run(["ip", "netns", "delete", name], capture_output=True)


COMMAND = "import sys; from autoexperiment.cli.ring import command; sys.exit(command.main(standalone_mode=False))"


def start_machine(rank: int, name: str, script: Path, *options: str) -> subprocess.Popen[str]:
    """`mlx ring --rank` with the recipe in one of the two namespaces."""
    place = ["--host", "10.9.0.1:5000", "--host", "10.9.0.2:5000"]
    ring_words = [
        sys.executable,
        "-c",
        COMMAND,
        "--rank",
        str(rank),
        *place,
        *options,
        "--",
        sys.executable,
        str(script),
    ]
    words = ["ip", "netns", "exec", name, *ring_words]
    return subprocess.Popen(words, cwd=script.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.usefixtures("recipe")
def test_two_machines_reach_the_loss_of_one(tmp_path: Path, machines: list[str]) -> None:
    alone = with_constants(tmp_path / "alone")
    scripts = [with_constants(tmp_path / f"machine{rank}") for rank in (0, 1)]

    started = [start_machine(rank, name, scripts[rank], "--json") for rank, name in enumerate(machines)]
    one = train_alone(alone)
    answers = [process.communicate() for process in started]

    assert [process.returncode for process in started] == [0, 0], answers
    told = [json.loads(out)["ranks"] for out, _ in answers]
    assert [[member["rank"] for member in ranks] for ranks in told] == [[0], [1]]
    assert "It waits for rank 1 at 10.9.0.2:5000." in answers[0][1]
    two = report_of(scripts[0])
    assert two["training"]["final_loss"] == pytest.approx(one["training"]["final_loss"], rel=0, abs=1e-5)
    assert not (tmp_path / "machine1" / "data" / "last_run.json").exists()


@pytest.mark.usefixtures("recipe")
def test_a_machine_whose_launcher_is_killed_ends_the_other(
    tmp_path: Path, machines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEP_BUDGET", "1000000")
    scripts = [with_constants(tmp_path / f"machine{rank}") for rank in (0, 1)]
    stays, dies = (start_machine(rank, name, scripts[rank]) for rank, name in enumerate(machines))
    assert stays.stdout is not None

    next(line for line in stays.stdout if line.startswith("training started"))
    dies.kill()
    dies.communicate()
    _, said = stays.communicate()

    assert stays.returncode == 1
    assert "rank 0 failed: It lost the connection to another rank" in said
