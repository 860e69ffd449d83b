"""The training process: its lines and exit codes, signals, foreign code, evaluation, and what it need not import."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trainings
from trainings import (
    CLASSIFIER,
    LINEAR,
    MLP,
    classification,
    config,
    files_of,
    finish,
    loader,
    regression,
    request,
    start,
)

from autoexperiment import datasets, failure, models
from autoexperiment.errors import HarnessError
from autoexperiment.training import child
from autoexperiment.training.request import DESCRIBE, EVALUATE, TRAIN, Request
from autoexperiment.training.voice import Voice
from autoexperiment.vocabulary import Outcome

FOREIGN = """
import os, signal, sys, threading, time
import numpy as np
from autoexperiment.datasets import BaseDataset, Table

class Rows(BaseDataset):
    def load(self):
        self.misbehave()
        rng = np.random.default_rng(0)
        return Table(rng.normal(size=(40, 4)), rng.normal(size=40))

    def misbehave(self):
        pass

class Loud(Rows):
    def misbehave(self):
        print("done: 3 epochs")
        print("epoch 1/3: loss 0.0", file=sys.stderr)
        sys.stdout.buffer.write(b"half a line")

class Deaf(Rows):
    def misbehave(self):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

class Quitter(Rows):
    def misbehave(self):
        sys.exit(0)

class Stuck(Rows):
    def misbehave(self):
        print("stuck", flush=True)
        time.sleep(60)

class Nearby(Rows):
    def misbehave(self):
        open("mark").close()
        os.chdir("/")

class Careless(Rows):
    def misbehave(self):
        import mlx.core
        import autoexperiment.blas
        print("blas:", autoexperiment.blas.loaded().reason)

class Lingering(Rows):
    def misbehave(self):
        threading.Thread(target=self.linger).start()

    def linger(self):
        time.sleep(5)
        open("lingered", "w").close()
"""


def project(folder: Path) -> Path:
    """A workspace with a module of datasets."""
    (folder / "foreign.py").write_text(FOREIGN)
    return folder


def wait_for(process: subprocess.Popen[str], word: str) -> list[str]:
    """The lines of a process up to the first with this word."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line.rstrip("\n"))
        if word in line:
            return lines
    raise AssertionError(f"no line with {word!r}: {lines}")


def rest_of(process: subprocess.Popen[str]) -> tuple[int, list[str]]:
    said, _ = process.communicate()
    return process.returncode, said.splitlines()


# ---- what it says


def test_a_training_says_what_it_does(tmp_path: Path) -> None:
    code, said = finish(request(tmp_path, config(LINEAR)))

    row = json.loads((tmp_path / "run" / "metrics" / "metrics.ndjson").read_text().splitlines()[0])
    assert code == 0
    assert said[:4] == [
        "dataset: 32 train, 4 val, 4 test rows of 4 features",
        "model: linear_regression, 5 parameters",
        "metrics: ready",
        f"epoch 1/3: loss {row['loss']:.6f}, val_loss {row['val_loss']:.6f}",
    ]
    assert [line.split(":")[0] for line in said[4:]] == ["epoch 2/3", "epoch 3/3", "done"]
    assert said[-1] == "done: 3 epochs"


def test_a_divergence_is_told_to_the_supervisor(tmp_path: Path) -> None:
    code, said = finish(request(tmp_path, config(MLP, epochs=20, learning_rate=1e25, optimizer="sgd")))

    outcome, fault = failure.classify("\n".join(said).encode(), exit_code=code, signal=None, folder=tmp_path)
    assert code == 3
    assert outcome is Outcome.DIVERGED
    assert fault is not None and " epoch " in fault.message


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (config({"name": "mlp", "params": {"layer_sizes": [9, 1]}}), "'layer_sizes' begins with 9"),
        (config(LINEAR, classification()), "the dataset is a classification"),
        (config(LINEAR, loader("nowhere:Rows")), "There is no module 'nowhere'"),
    ],
)
def test_a_fault_is_one_line_without_a_traceback(tmp_path: Path, what: dict[str, Any], message: str) -> None:
    code, said = finish(request(tmp_path, what))

    assert code == 1
    assert said[-1].startswith("error: ") and message in said[-1]
    assert not any("Traceback" in line for line in said)
    assert not (tmp_path / "run").exists()


def test_a_defect_leaves_a_traceback_for_the_supervisor(tmp_path: Path) -> None:
    what = {**config(LINEAR), "training": {}}

    code, said = finish(request(tmp_path, what))

    outcome, fault = failure.classify("\n".join(said).encode(), exit_code=code, signal=None, folder=trainings.ROOT)
    assert (code, outcome) == (1, Outcome.CRASHED)
    assert fault is not None and (fault.kind, fault.message) == ("KeyError", "'epochs'")
    assert "autoexperiment/training/fit.py" in fault.frame


def in_process(monkeypatch: pytest.MonkeyPatch, act: Callable[..., int]) -> int:
    """The exit code of `main` when its work is `act`; the process's own signals and streams come back."""
    monkeypatch.setattr(child, "act", act)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        return child.main([request(Path("nowhere"), config(LINEAR)).to_json()])
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def test_memory_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def act(*_: object) -> int:
        raise MemoryError("Unable to allocate 8 TiB")

    code = in_process(monkeypatch, act)

    said = capfd.readouterr().out
    assert code == 1
    assert said.startswith("error: out of memory: Unable to allocate 8 TiB. Use a smaller")
    outcome, _ = failure.classify(said.encode(), exit_code=code, signal=None, folder=Path("nowhere"))
    assert outcome is Outcome.OOM


def test_a_fault_of_several_lines_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def act(*_: object) -> int:
        raise child.DataError("one\n  - two\x1b[31m\rdone: 3 epochs")

    code = in_process(monkeypatch, act)

    assert (code, capfd.readouterr().out) == (1, "error: one - two done: 3 epochs\n")


def test_bytes_of_a_name_that_are_no_text_are_shown(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def act(*_: object) -> int:
        raise child.DataError(f"There is no {os.fsdecode(b'caf' + bytes([0xE9]) + b'.csv')}.")

    in_process(monkeypatch, act)

    assert capfd.readouterr().out == "error: There is no caf\\udce9.csv.\n"


# ---- signals and kills


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_batch_and_it_can_be_gone_on_with(
    tmp_path: Path, number: signal.Signals
) -> None:
    what = config(MLP, epochs=100_000, output={"checkpoint_frequency": 5})
    process = start(request(tmp_path, what))
    wait_for(process, "epoch 7/")

    process.send_signal(number)
    code, said = rest_of(process)

    assert code == 130
    n = int(said[-1].removeprefix("interrupted: after epoch ").removesuffix(" of 100000"))
    assert n >= 7
    metrics = tmp_path / "run" / "metrics"
    view = json.loads((metrics / "metrics.json").read_text())["metrics"]
    assert [row["epoch"] for row in view] == list(range(1, n + 1))
    assert len((metrics / "metrics.ndjson").read_text().splitlines()) == n
    trainings.files_readable(tmp_path / "run")


def test_a_signal_while_the_data_is_loaded_ends_the_process(tmp_path: Path) -> None:
    process = start(request(project(tmp_path), config(LINEAR, loader("foreign:Stuck"))))
    wait_for(process, "stuck")

    process.terminate()
    code, said = rest_of(process)

    assert (code, said) == (130, ["interrupted: before the first epoch"])


def test_a_reader_that_goes_away_is_no_reason_to_stop(tmp_path: Path) -> None:
    process = start(request(tmp_path, config(LINEAR)))
    assert process.stdout is not None

    process.stdout.close()

    assert process.wait() == 0
    assert (tmp_path / "run" / "checkpoints" / "checkpoint_final").is_dir()


def test_kill_9_at_random_moments_costs_no_byte(tmp_path: Path) -> None:
    what = config(MLP, epochs=40)
    trainings.train_here(request(tmp_path / "whole", what))
    (tmp_path / "killed").mkdir()
    rng, folder = random.Random(5), tmp_path / "killed" / "run"
    for attempt in range(3):
        process = start(request(tmp_path / "killed", what, resume=attempt > 0))
        wait_for(process, "metrics: ready")
        time.sleep(rng.uniform(0.0, 0.15))
        process.kill()
        rest_of(process)
        trainings.files_readable(folder)

    code, _ = finish(request(tmp_path / "killed", what, resume=True))

    assert code == 0
    assert files_of(folder) == files_of(tmp_path / "whole" / "run")


# ---- foreign code


def test_what_a_dataset_prints_does_not_pass_for_our_lines(tmp_path: Path) -> None:
    code, said = finish(request(project(tmp_path), config(LINEAR, loader("foreign:Loud"))))

    assert code == 0
    assert "| done: 3 epochs" in said
    assert "| epoch 1/3: loss 0.0" in said
    assert [line for line in said if line.startswith("done:")] == ["done: 3 epochs"]
    assert "dataset: 32 train, 4 val, 4 test rows of 4 features" in said  # half a line is not in its way


def test_a_dataset_that_leaves_is_an_error(tmp_path: Path) -> None:
    code, said = finish(request(project(tmp_path), config(LINEAR, loader("foreign:Quitter"))))

    assert code == 1
    assert said[-1].startswith("error: ") and "foreign.py" in said[-1]


def test_a_dataset_that_ignores_signals_ignores_them_for_itself_only(tmp_path: Path) -> None:
    what = config(MLP, loader("foreign:Deaf"), epochs=20_000, output={"checkpoint_frequency": 20_000})
    process = start(request(project(tmp_path), what))
    wait_for(process, "epoch 1/")

    process.terminate()
    code, said = rest_of(process)

    assert (code, said[-1].split(":")[0]) == (130, "interrupted")


def test_paths_of_a_dataset_start_in_the_workspace(tmp_path: Path) -> None:
    (project(tmp_path) / "mark").touch()
    (tmp_path / "run").mkdir()
    asked = replace(request(tmp_path, config(LINEAR, loader("foreign:Nearby"))), run_dir=".")

    process = start(asked, cwd=tmp_path / "run")
    code, said = rest_of(process)

    assert (code, said[-1]) == (0, "done: 3 epochs")
    assert (tmp_path / "run" / "checkpoints" / "checkpoint_final").is_dir()


def test_paths_of_a_described_dataset_start_in_the_workspace(tmp_path: Path) -> None:
    (project(tmp_path) / "mark").touch()
    (tmp_path / "elsewhere").mkdir()
    asked = replace(request(tmp_path, config(LINEAR, loader("foreign:Nearby")), act=DESCRIBE), result="answer.json")

    process = start(asked, cwd=tmp_path / "elsewhere")
    code, said = rest_of(process)

    assert (code, said[-1]) == (0, "done: 40 rows")
    assert (tmp_path / "elsewhere" / "answer.json").is_file()


@pytest.mark.parametrize("act", [TRAIN, DESCRIBE])
def test_a_dataset_that_imports_mlx_does_not_cost_the_fast_blas(tmp_path: Path, act: str) -> None:
    _, said = finish(request(project(tmp_path), config(LINEAR, loader("foreign:Careless")), act=act))

    assert any(line.startswith("| blas: ") for line in said)
    assert not any("mlx.core was imported before" in line for line in said)


def test_a_thread_that_a_dataset_leaves_keeps_nobody_waiting(tmp_path: Path) -> None:
    code, said = finish(request(project(tmp_path), config(LINEAR, loader("foreign:Lingering"))))

    assert (code, said[-1]) == (0, "done: 3 epochs")
    assert not (tmp_path / "lingered").exists()


# ---- evaluating


def answer(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "answer.json").read_text())
    return found


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished run of each task."""
    made = {"regression": config(MLP), "classification": config(CLASSIFIER, classification())}
    folders = {name: tmp_path_factory.mktemp(name) for name in made}
    for name, what in made.items():
        trainings.train_here(request(folders[name], what))
    return folders


def evaluated(folder: Path, what: dict[str, Any], **rest: Any) -> tuple[int, list[str]]:
    return finish(request(folder, what, act=EVALUATE, **{"checkpoint": "checkpoint_final", **rest}))


@pytest.mark.parametrize(("split", "n_rows"), [("train", 32), ("val", 4), ("test", 4)])
def test_an_evaluation_measures_the_part_that_was_asked_for(runs: dict[str, Path], split: str, n_rows: int) -> None:
    folder = runs["regression"]

    code, said = evaluated(folder, config(MLP), checkpoint="2", split=split)

    assert code == 0, said
    assert said[0] == "checkpoint: checkpoint_epoch_2, after epoch 2" and said[-1] == f"done: {n_rows} rows"
    found = answer(folder)
    x, y = datasets.load(regression(), root=folder).part(split).take(slice(None))
    error = models.load(folder / "run" / "checkpoints" / "checkpoint_epoch_2").predict(x) - y
    assert found["metrics"]["mse"] == pytest.approx(np.mean(error**2), rel=1e-4)
    assert found["metrics"]["mae"] == pytest.approx(np.mean(np.abs(error)), rel=1e-4)
    assert {**found, "metrics": 0} == {
        "checkpoint": "checkpoint_epoch_2", "epoch": 2, "split": split, "task": "regression", "n_rows": n_rows, "own_data": True,
        "metrics": 0,
    }  # fmt: skip


def test_an_evaluation_in_batches_is_that_of_the_whole(runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from autoexperiment.training import evaluate

    _, model = evaluate.load(runs["regression"] / "run", "final", config=config(MLP))
    splits = datasets.load(regression(), root=Path())
    whole = evaluate.measure(model, splits.train, facts=splits.facts)

    monkeypatch.setattr(evaluate, "_NUMBERS_AT_ONCE", 5 * trainings.FEATURES)
    parts = evaluate.measure(model, splits.train, facts=splits.facts)

    assert parts == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(
    ("what", "rest", "message"),
    [
        (config(MLP), {"checkpoint": "9"}, "Unknown checkpoint '9'"),
        (config(MLP, regression(n_features=6)), {}, "regression with rows of 4 numbers. The dataset is a regression with rows of 6"),
        (config(MLP, classification()), {}, "regression with rows of 4 numbers. The dataset is a classification with rows of 4"),
        (config(MLP, {**regression(), "val_fraction": 0.0}), {"split": "val"}, "val_fraction is 0.0. Allowed: --split train"),
    ],
)  # fmt: skip
def test_an_evaluation_that_cannot_be_is_refused(
    runs: dict[str, Path], what: dict[str, Any], rest: dict[str, Any], message: str
) -> None:
    (runs["regression"] / "answer.json").unlink(missing_ok=True)

    code, said = evaluated(runs["regression"], what, **rest)

    assert code == 1
    assert said[-1].startswith("error: ") and message in said[-1]
    assert not (runs["regression"] / "answer.json").exists()


@pytest.fixture
def run_of_a_file(tmp_path: Path) -> Path:
    """A workspace with a data file and a finished run on it."""
    np.save(tmp_path / "t.npy", np.random.default_rng(1).normal(size=(40, trainings.FEATURES + 1)))
    what = config(LINEAR, trainings.custom("t.npy"))
    trainings.train_here(request(tmp_path, what))
    (tmp_path / "run" / "config.json").write_text(json.dumps(what))
    return tmp_path


def test_data_that_changed_since_the_run_is_refused(run_of_a_file: Path) -> None:
    np.save(run_of_a_file / "t.npy", np.load(run_of_a_file / "t.npy")[::-1])

    code, said = evaluated(run_of_a_file, config(LINEAR, trainings.custom("t.npy")))

    assert code == 1
    assert said[-1].startswith("error: The data changed since the run: its test part may hold rows it was trained on.")
    assert not (run_of_a_file / "answer.json").exists()


def test_other_data_is_evaluated_on_and_the_answer_says_so(run_of_a_file: Path) -> None:
    np.save(run_of_a_file / "u.npy", np.random.default_rng(2).normal(size=(40, trainings.FEATURES + 1)))
    np.save(run_of_a_file / "copy.npy", np.load(run_of_a_file / "t.npy"))
    own = []

    for name in ("u.npy", "copy.npy"):
        code, said = evaluated(run_of_a_file, config(LINEAR, trainings.custom(name)), own_dataset=False)
        assert code == 0, said
        own.append(answer(run_of_a_file)["own_data"])

    assert own == [False, True]


@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize(
    "how", [{"test_fraction": 0.2}, {"val_fraction": 0.2}, {"params": {"seed": 1}}, {"params": {"normalize": True}}]
)
def test_the_runs_rows_split_otherwise_are_no_test(run_of_a_file: Path, how: dict[str, Any], split: str) -> None:
    dataset = {**trainings.custom("t.npy"), **how}

    with pytest.raises(HarnessError) as caught:
        act_here(request(run_of_a_file, config(LINEAR, dataset), act=EVALUATE, checkpoint="final", own_dataset=False))

    assert "may be rows that the run was trained on" in str(caught.value)
    assert "The run's own: val_fraction 0.1, test_fraction 0.1, seed 42, normalize false." in str(caught.value)


def act_here(asked: Request) -> None:
    """What a training process does, in this one."""

    class Silent(Voice):
        def write(self, text: str) -> None: ...

    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        child.act(asked, Silent(1), child.Stop())
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    "text",
    ["{", '{"dataset": 1}', '{"dataset": {}}', '{"dataset": {"params": [], "val_fraction": 0, "test_fraction": 0}}'],
)
def test_a_damaged_configuration_of_the_run_is_left_out_of_the_message(run_of_a_file: Path, text: str) -> None:
    (run_of_a_file / "run" / "config.json").write_text(text)
    dataset = {**trainings.custom("t.npy"), "test_fraction": 0.2}

    with pytest.raises(HarnessError, match=r"that the run was trained on\. Leave --config out"):
        act_here(request(run_of_a_file, config(LINEAR, dataset), act=EVALUATE, checkpoint="final", own_dataset=False))


def test_an_answer_names_the_classes_that_have_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTORESEARCH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "t.csv").write_text("".join(f"{i},1,2,{i},{'ab'[i % 2]}\n" for i in range(30)))
    what = config(CLASSIFIER, trainings.custom("t.csv", task="classification"))
    trainings.train_here(request(tmp_path, what))

    act_here(request(tmp_path, what, act=EVALUATE, checkpoint="final"))

    assert answer(tmp_path)["classes"] == ["a", "b"]


def test_more_rows_of_the_same_generator_are_no_test(runs: dict[str, Path]) -> None:
    more = config(MLP, regression(n_samples=80))

    code, said = evaluated(runs["regression"], more, own_dataset=False)

    assert code == 1
    assert "has the run's own rows" in said[-1] and "another seed" in said[-1]


def test_an_evaluation_changes_nothing_in_the_run(runs: dict[str, Path]) -> None:
    before = files_of(runs["regression"] / "run")

    evaluated(runs["regression"], config(MLP))

    assert files_of(runs["regression"] / "run") == before


# ---- describing


def test_a_description_has_the_facts_whatever_the_model(tmp_path: Path) -> None:
    code, _ = finish(request(tmp_path, config(LINEAR, classification(n_classes=3)), act=DESCRIBE))

    assert code == 0
    assert answer(tmp_path) == {
        "task": "classification", "n_rows": 40, "shape": [4], "n_classes": 3, "n_test": 0, "classes": [],
    }  # fmt: skip


def test_a_description_asks_the_class_of_a_loader(tmp_path: Path) -> None:
    code, said = finish(request(project(tmp_path), config(LINEAR, loader("foreign:Loud")), act=DESCRIBE))

    assert (code, said[-1]) == (0, "done: 40 rows")
    assert answer(tmp_path) == {
        "task": "regression", "n_rows": 40, "shape": [4], "n_classes": 0, "n_test": 0, "classes": [],
    }  # fmt: skip


def test_an_unknown_act_is_refused(tmp_path: Path) -> None:
    code, said = finish(request(tmp_path, config(LINEAR), act="trian"))

    assert code == 1
    assert said == ["error: Unknown act 'trian'. Known: train, evaluate, describe. Did you mean 'train'?"]


# ---- start-up

IMPORTS = """
import sys
from autoexperiment.datasets.splits import Part
from autoexperiment.errors import HarnessError
from autoexperiment.training import child
code = child.main(sys.argv[1:])
heavy = {"mlx", "mlx.core", "pydantic", "click", "yaml", "tabulate", "matplotlib", "sklearn", "pyarrow", "psutil"}
sys.exit(f"{sorted(heavy & set(sys.modules))}" if heavy & set(sys.modules) else code)
"""


@pytest.mark.parametrize("act", ["train", "evaluate", "describe"])
def test_the_closed_form_imports_nothing_heavy(tmp_path: Path, act: str) -> None:
    trainings.train_here(request(tmp_path, config(LINEAR)))
    asked = request(tmp_path, config(LINEAR), act=act, checkpoint="final")

    answered = subprocess.run(
        [sys.executable, "-c", IMPORTS, asked.to_json()], cwd=tmp_path,
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(trainings.ROOT)},
    )  # fmt: skip

    assert answered.returncode == 0, answered.stderr
