"""The real recipe under the real loop: an honest night, and candidates that cheat or fail on purpose."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import standin

from autoexperiment import gate, launch, loop, session
from autoexperiment.errors import Refused
from autoexperiment.session import Session
from autoexperiment.vocabulary import Outcome, TrustLevel, Verdict

ROOT = Path(__file__).resolve().parent.parent.parent
BUDGET_S = 2.0


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory, prepared: Path):  # type: ignore[no-untyped-def]
    """An open session on the real recipe, its baseline measured."""
    with pytest.MonkeyPatch.context() as patch:
        root = standin.make_recipe(tmp_path_factory.mktemp("night"), prepared, patch)
        plan = launch.make_plan(root, root / "protocol.json", budget=f"{BUDGET_S}s")
        with session.start(root, "e2e", plan) as running:
            assert loop.measure_baseline(running).verdict is Verdict.KEEP
            yield running


def plant(night: Session, description: str, old: str, new: str):  # type: ignore[no-untyped-def]
    """Measure the incumbent with one text replaced."""
    file = night.project.root / "train.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    return loop.step(night, description)


def value_of(night: Session) -> float:
    return night.ledger.experiments[0].metrics["val_bpb"]


def test_baseline_is_scored_by_the_scorer(night: Session) -> None:
    first = night.ledger.experiments[0]

    assert len(first.runs) == 3
    assert {run.trust for run in first.runs} == {TrustLevel.RECOMPUTED}
    assert 1.0 < value_of(night) < 8.0
    assert first.metrics["avg_tok_sec"] > 0
    last = json.loads(night.project.last_run.read_text())
    assert last["result"]["trust"] == "recomputed"


def test_printed_number_that_is_false_rejects_the_run(night: Session) -> None:
    lie = '    print("val_bpb:          0.500000")\n'
    found = plant(night, "print a better number", "    print(block(result)", lie + "    print(block(result)")

    assert found.outcome is Outcome.REJECTED
    assert found.verdict is Verdict.DISCARD
    assert "0.500000" in found.reason
    assert found.metrics == {}


def test_training_longer_than_the_budget_rejects_the_run(night: Session) -> None:
    found = plant(night, "train four times as long", "    done = train(", "    time.sleep(20)\n    done = train(")

    assert found.outcome is Outcome.REJECTED
    assert "allow" in found.reason


def test_rewritten_harness_in_the_run_s_folder_rejects_the_run(night: Session) -> None:
    found = plant(
        night, "rewrite prepare.py while training",
        "    done = train(", '    open("prepare.py", "a").write("\\ndef bpb(*a): return 0.1\\n")\n    done = train(',
    )  # fmt: skip

    assert found.outcome is Outcome.REJECTED
    assert "changed prepare.py" in found.reason


def test_crash_names_the_exception_and_the_frame(night: Session) -> None:
    found = plant(night, "raise", "    done = train(", '    raise KeyError("planted")\n    done = train(')

    assert found.verdict is Verdict.CRASH
    failure = (found.runs[-1].ending or {})["failure"]
    assert failure["kind"] == "KeyError"
    assert "train.py:" in failure["frame"] and "in run" in failure["frame"]


def test_diverged_run_is_a_crash_of_its_own_kind(night: Session) -> None:
    found = plant(night, "absurd limit", "MAX_LOSS = 100.0", "MAX_LOSS = 0.001")

    assert found.verdict is Verdict.CRASH
    assert found.outcome is Outcome.DIVERGED


def test_checkpoint_that_is_a_link_is_never_followed(night: Session) -> None:
    found = plant(
        night, "link the weights", "    print(block(result)",
        '    os.remove("data/checkpoint/model.safetensors")\n'
        '    os.symlink("/etc/passwd", "data/checkpoint/model.safetensors")\n    print(block(result)',
    )  # fmt: skip

    assert found.outcome is Outcome.REJECTED
    assert "regular file" in found.reason


def test_child_left_behind_does_not_outlive_its_run(night: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    import psutil

    monkeypatch.setattr(gate, "check", lambda *_, **__: [])  # which would not let it start a process
    marker = "e2e-left-behind"
    child = (
        f'subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)  # {marker}"], start_new_session=True)'
    )
    plant(night, "leave a child", "    done = train(", f"    import subprocess; {child}\n    done = train(")

    assert not [p for p in psutil.process_iter(["cmdline"]) if marker in " ".join(p.info["cmdline"] or [])]


def test_training_can_leave_nothing_for_the_scoring_in_its_home(night: Session) -> None:
    file = night.project.root / "train.py"
    text = file.read_text()
    text = text.replace("    done = train(", '    (Path.home() / "stash").write_text("x")\n    done = train(', 1)
    check = '    assert not (Path.home() / "stash").exists(), "found the stash"\n'
    file.write_text(text.replace("    return GPT(Config(**config))", check + "    return GPT(Config(**config))", 1))

    found = loop.step(night, "stash something at home")

    assert found.outcome is Outcome.OK, found.reason


def by_hand(folder: Path, prepared: Path, **variables: str) -> str:
    for name in standin.RECIPE_FILES:
        shutil.copy(ROOT / name, folder / name)
    environment = {**os.environ, "AUTOEXPERIMENT_DATA": str(prepared), **variables}
    answer = subprocess.run([sys.executable, "train.py"], cwd=folder, env=environment, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_number_of_train_py_by_hand_is_the_scorer_s(tmp_path: Path, prepared: Path) -> None:
    from autoexperiment.measure.scorer import ScoreRequest, score

    by_hand(tmp_path, prepared, STEP_BUDGET="3", SEED="7")
    own = json.loads((tmp_path / "data" / "last_run.json").read_text())["result"]["val_bpb"]
    request = ScoreRequest(str(tmp_path), str(tmp_path), str(tmp_path / "data" / "checkpoint"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOEXPERIMENT_DATA", str(prepared))

        found = score(request, scratch=tmp_path)

    assert found.val_bpb == pytest.approx(own, abs=1e-4)


def test_data_side_may_change_and_the_evaluation_stays(tmp_path: Path, prepared: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        root = standin.make_recipe(tmp_path, prepared, patch)
        plan = launch.make_plan(root, root / "protocol.data.json", budget=f"{BUDGET_S}s")
        with session.start(root, "data", plan) as running:
            assert loop.measure_baseline(running).verdict is Verdict.KEEP
            file = root / "prepare.py"
            lie = "    return nats / (math.log(2) * text_bytes)"
            assert lie in file.read_text()
            file.write_text(file.read_text().replace(lie, lie.replace("nats /", "0.001 * nats /")))

            flattering = loop.step(running, "count a thousandth of the bits")

            (root / "train.py").write_text("print('other')")
            with pytest.raises(Refused, match=r"train\.py"):
                loop.step(running, "another model")

    assert flattering.outcome is Outcome.OK
    assert flattering.metrics["val_bpb"] > 1.0
    assert flattering.runs[0].trust == TrustLevel.RECOMPUTED
