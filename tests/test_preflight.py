"""The look at an edit before a budget is spent on it, with the real recipe; nothing of it is recorded or left behind."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import contracts
import psutil
import pytest
import standin

from autoexperiment import gate, launch, machine, preflight, session
from autoexperiment.ending import Ending
from autoexperiment.errors import Refused
from autoexperiment.loop import Stopped
from autoexperiment.preflight import FIRST_STEP, GATE, SCORING, SYNTAX, Preflight
from autoexperiment.run import Run
from autoexperiment.session import Session
from autoexperiment.vocabulary import Outcome

NOT_PYTHON = "print 'of another time'\n"


def open_recipe(folder: Path, prepared: Path, patch: pytest.MonkeyPatch, *, budget: str) -> Session:
    """A session on the real recipe in a repository of its own; its baseline is not measured."""
    root = standin.make_recipe(folder, prepared, patch)
    return session.start(root, "look", launch.make_plan(root, root / "protocol.json", budget=budget))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, prepared: Path) -> Iterator[Session]:
    """A session whose runs may train for an hour."""
    folder = tmp_path_factory.mktemp("look")
    with pytest.MonkeyPatch.context() as patch, open_recipe(folder, prepared, patch, budget="1h") as opened:
        yield opened


def edited(session: Session, old: str = "", new: str = "") -> dict[str, bytes]:
    """The incumbent with one text of train.py replaced."""
    text = session.files_of(session.head)["train.py"].decode()
    assert old in text
    return {"train.py": text.replace(old, new, 1).encode()}


def traces(session: Session) -> list[object]:
    """Everything that a look must leave as it was."""
    root, state = session.project.root, session.paths.state
    return [
        session.paths.ledger.read_bytes(),
        sorted(str(path) for path in state.rglob("*")),
        sorted(str(path) for path in root.rglob("*") if ".git/objects" not in str(path)),
        standin.git(root, "status", "--porcelain", "--ignored"),
        standin.git(root, "for-each-ref"),
    ]


def look(session: Session, files: dict[str, bytes], *, timeout_s: float = preflight.TIMEOUT_S) -> Preflight:
    """What a look brings, once it is sure that it left nothing."""
    before = traces(session)

    found = preflight.check(session, files, timeout_s=timeout_s)

    assert traces(session) == before
    assert found.seconds > 0
    return found


STEP = "        loss, gradients = self.gradients("
TRAIN = "    done = train("
SAVE = "    model.save_weights(str(temporary))"
SAVED = "    save_checkpoint(model)\n"
BUILD = "    return GPT(Config(**config))"
LOGITS = "        return self.unembedding(rms_norm(x))"
ON_SCORING = "    if Path.cwd().name == 'candidate':\n        {}\n"  # where the scorer has the candidate's files


# ---- edits that are fine


def test_good_edit_passes_every_stage(running: Session) -> None:
    found = look(running, edited(running, "MATRIX_LR = 0.02", "MATRIX_LR = 0.03"))

    assert (found.ok, found.stage, found.reason, found.failure) == (True, SCORING, "", None)


def test_edit_that_understands_the_session_s_kind_of_budget_only_passes(running: Session) -> None:
    """A budget in steps would let it train for its own five minutes, and it would be taken for a hang."""
    only = edited(running, ', "TOKEN_BUDGET": "tokens", "STEP_BUDGET": "steps"}', "}")

    assert look(running, only).ok


def test_edit_that_fits_into_memory_with_a_smaller_batch_passes(running: Session) -> None:
    large = edited(running, TRAIN, f"    if settings.rows > 1:\n        raise MemoryError('planted')\n{TRAIN}")

    assert look(running, large).ok


def test_recipe_s_own_evaluation_is_left_out(running: Session) -> None:
    fail = "    raise ValueError('evaluated')\n"
    began = "    began = time.perf_counter()\n    val_bpb = "

    assert look(running, edited(running, began, fail + began)).ok


@pytest.mark.parametrize("budget", ["steps:100000", "tokens:1G"])
def test_counted_budget_is_cut_to_one_step(
    tmp_path: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch, budget: str
) -> None:
    with open_recipe(tmp_path, prepared, monkeypatch, budget=budget) as opened:
        counted = edited(opened, SAVED, f"    if done.steps != 1:\n        raise ValueError(done.steps)\n{SAVED}")

        found = look(opened, counted)

    assert found.ok, found.reason


# ---- edits that are not


def test_syntax_error_is_found_with_its_line(running: Session) -> None:
    broken = {"train.py": b"import os\n\ndef f(:\n    pass\n"}

    found = look(running, broken)

    assert (found.ok, found.stage) == (False, SYNTAX)
    assert found.reason == "SyntaxError at train.py:3: invalid syntax"
    assert found.failure is not None
    assert (found.failure.kind, found.failure.frame) == ("SyntaxError", "train.py:3")


def test_error_that_only_the_compiler_sees_is_found(running: Session) -> None:
    found = look(running, {"train.py": b"x = 1\nreturn x\n"})

    assert (found.stage, found.reason) == (SYNTAX, "SyntaxError at train.py:2: 'return' outside function")


@pytest.mark.parametrize("blob", [b"x = 1\0", b"\xff\xfe", b"-" * 100_000 + b"1"])
def test_source_that_no_parser_takes_is_a_syntax_error(running: Session, blob: bytes) -> None:
    found = look(running, {"train.py": blob})

    assert (found.ok, found.stage) == (False, SYNTAX)
    assert "train.py:1" in found.reason


def test_finding_of_the_static_gate_stops_the_look(running: Session) -> None:
    found = look(running, edited(running, TRAIN, f"    import subprocess; subprocess.run(['true'])\n{TRAIN}"))

    assert (found.ok, found.stage) == (False, GATE)
    assert "starts processes with subprocess" in found.reason
    assert found.failure is not None
    assert found.failure.frame.startswith("train.py:")


@pytest.mark.parametrize(
    ("old", "new", "kind", "where"),
    [
        ("import numpy as np\n", "import numpy as np\nimport mlx.nothing\n", "ModuleNotFoundError", " in <module>"),
        (STEP, f"        raise KeyError('planted')\n{STEP}", "KeyError", " in step"),
        (SAVE, "    raise OSError('planted')", "OSError", " in save_checkpoint"),
    ],
    ids=["at an import", "at the first step", "only when it saves"],
)
def test_crash_is_found_with_its_frame(running: Session, old: str, new: str, kind: str, where: str) -> None:
    found = look(running, edited(running, old, new))

    assert (found.ok, found.stage) == (False, FIRST_STEP)
    assert found.failure is not None
    assert found.failure.kind == kind
    assert found.failure.frame.startswith("train.py:") and found.failure.frame.endswith(where)
    assert found.reason.startswith(f"{kind} at train.py:")


def test_loss_that_is_no_number_is_found(running: Session) -> None:
    found = look(running, edited(running, "        value = float(loss.item())", "        value = math.nan"))

    assert (found.ok, found.stage) == (False, FIRST_STEP)
    assert found.reason == "diverged: loss nan at step 1"


def test_hang_is_cut_off_and_leaves_no_process(running: Session) -> None:
    found = look(running, edited(running, TRAIN, f"    time.sleep(600)\n{TRAIN}"), timeout_s=6.0)
    left = [p for p in psutil.process_iter(["cwd"]) if str(running.paths.state) in (p.info["cwd"] or "")]

    assert (found.ok, found.stage) == (False, FIRST_STEP)
    assert found.reason == "The first step was not over after 6 s, with the smallest budget there is."
    assert found.failure is not None
    assert found.failure.message == "Killed after 6 s, the hard timeout."
    assert left == []


def test_hang_while_scoring_is_cut_off_too(running: Session) -> None:
    hang = ON_SCORING.format("time.sleep(600)")
    found = look(running, edited(running, BUILD, hang + BUILD), timeout_s=15.0)

    assert (found.ok, found.stage) == (False, SCORING)
    assert found.reason == "The scoring of the first step was not over after 15 s, with the smallest budget there is."
    assert found.failure is not None
    assert found.failure.message == "Killed after 15 s, the hard timeout."


def test_run_without_a_checkpoint_is_found(running: Session) -> None:
    found = look(running, edited(running, SAVED, ""))

    assert (found.ok, found.stage) == (False, SCORING)
    assert found.reason == "The first step left no checkpoint: data/checkpoint/model.safetensors is missing."


def test_model_that_does_not_load_is_found_with_its_frame(running: Session) -> None:
    fail = ON_SCORING.format("raise KeyError('planted')")
    found = look(running, edited(running, BUILD, fail + BUILD))

    assert (found.ok, found.stage) == (False, SCORING)
    assert found.failure is not None
    assert (found.failure.kind, found.failure.message) == ("KeyError", "'planted'")
    assert found.reason.startswith("KeyError at train.py:") and "in build_model" in found.reason


@pytest.mark.parametrize(
    ("logits", "reason"),
    [
        ("logits[:, :1]", "build_model(config) gives logits of another shape than (B, T, vocab)."),
        ("logits * math.nan", "The model's logits are not finite."),
    ],
    ids=["of another shape", "not finite"],
)
def test_logits_that_can_t_be_scored_are_found(running: Session, logits: str, reason: str) -> None:
    new = LOGITS.replace("return", "logits =")
    new += f"\n        return {logits} if Path.cwd().name == 'candidate' else logits"

    found = look(running, edited(running, LOGITS, new))

    assert (found.ok, found.stage, found.reason) == (False, SCORING, reason)


def test_edit_that_changes_the_harness_while_it_runs_is_found(running: Session) -> None:
    rewrite = "    open('prepare.py', 'a').write('x = 1')\n"
    found = look(running, edited(running, TRAIN, rewrite + TRAIN))

    assert (found.ok, found.stage) == (False, FIRST_STEP)
    assert found.reason == "The run changed prepare.py, which belongs to the harness."


# ---- what is no fault of the edit


def test_signal_is_no_failed_edit(running: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "check", lambda *_, **__: [])
    interrupt = f"    os.kill({os.getpid()}, 2)\n    time.sleep(600)\n"
    before = traces(running)

    with pytest.raises(Stopped, match=r"Stopped by SIGINT.*mlx loop run look"):
        preflight.check(running, edited(running, TRAIN, interrupt + TRAIN))

    assert traces(running) == before


def fake_ending(monkeypatch: pytest.MonkeyPatch, ending: Ending) -> None:
    run = Run(ending.outcome, ending.reason, None, ending=ending.to_json())
    monkeypatch.setattr(preflight, "run_trial", lambda plan, paths: run)


def test_machine_that_slept_says_nothing_about_the_edit(running: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ending(monkeypatch, Ending.interrupted("The machine slept 90.0 s during the run."))

    found = look(running, edited(running))

    assert (found.ok, found.stage) == (True, FIRST_STEP)
    assert found.reason == "The machine slept 90.0 s during the run."


def test_log_that_could_not_be_written_says_nothing_about_the_edit(
    running: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_ending(monkeypatch, Ending(Outcome.CRASHED, log_error="No space left on device"))

    found = look(running, edited(running))

    assert found.ok
    assert found.reason == "Its log could not be written: No space left on device."


def test_process_that_can_t_be_killed_stops_everything(running: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_ending(monkeypatch, Ending(Outcome.OK, survivors=(4711,)))

    with pytest.raises(Refused, match="kill -9 4711"):
        look(running, edited(running))


def test_full_disk_is_no_failed_edit(running: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "free_bytes", lambda _: 5 << 20)

    with pytest.raises(Refused, match=r"Only 5 MB are free .* needs 1024 MB"):
        look(running, edited(running))


def test_what_a_killed_look_left_is_removed(running: Session) -> None:
    left = running.paths.preflight / "old" / "work"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_text("x")

    assert preflight.check(running, edited(running)).ok
    assert not (running.paths.preflight).exists()


# ---- other recipes


@pytest.mark.parametrize("mode", ["crash", "hang"])
def test_recipe_without_a_sealed_evaluation_is_not_run(contract: Path, mode: str) -> None:
    with contracts.start(contract, contracts.document()) as opened:
        found = look(opened, {**opened.files_of(opened.head), **edited(opened, 'MODE = "fine"', f'MODE = "{mode}"')})

    assert (found.ok, found.stage, found.reason) == (True, GATE, "")


def test_recipe_that_reports_its_own_number_is_not_run_either(project: Path) -> None:
    with session.start(project, "t", standin.PLAN) as opened:
        found = look(opened, edited(opened, 'MODE = "fine"', 'MODE = "crash"'))

    assert (found.ok, found.stage) == (True, GATE)


def test_file_that_never_was_python_of_today_is_let_be(contract: Path) -> None:
    (contract / "models" / "old.py").write_text(NOT_PYTHON)
    standin.git(contract, "add", "-A")
    standin.git(contract, "commit", "-qm", "old")
    with contracts.start(contract, contracts.document()) as opened:
        files = opened.files_of(opened.head)
        assert "models/old.py" in files

        changed = look(opened, {**files, "models/old.py": NOT_PYTHON.encode() * 2})
        added = look(opened, {**files, "models/new.py": NOT_PYTHON.encode()})

    assert changed.ok
    assert (added.ok, added.stage) == (False, SYNTAX)
    assert "models/new.py:1" in added.reason


def test_removed_file_is_no_syntax_error(contract: Path) -> None:
    with contracts.start(contract, contracts.document()) as opened:
        files = opened.files_of(opened.head)
        del files["models/small.py"]

        assert look(opened, files).ok
