"""Every field of a protocol that is enforced does something: one test shows what."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path

import contracts
import pytest
import standin
from contracts import additions, document

from autoexperiment import confine, loop, machine, night, session, views
from autoexperiment.errors import BudgetSpent, Refused, UsageError
from autoexperiment.ledger import Experiment
from autoexperiment.paths import RunPaths
from autoexperiment.protocol import checks
from autoexperiment.run import Run
from autoexperiment.session import Session
from autoexperiment.vocabulary import Outcome, TrustLevel, Verdict


def step(running: Session, **constants: object) -> Experiment:
    """Measure the baseline, or an edit of train.py's constants."""
    if not running.ledger.experiments:
        loop.measure_baseline(running)
    if constants:
        standin.edit(running.project.root, **constants)
        return loop.step(running, f"set {constants}")
    return running.ledger.experiments[-1]


def run_of(running: Session, experiment: Experiment, number: int = -1) -> Run:
    return Run.load(RunPaths(running.project.root / experiment.runs[number].folder))


def log_of(running: Session, experiment: Experiment, number: int = -1) -> str:
    return RunPaths(running.project.root / experiment.runs[number].folder).log.read_text()


def script(root: Path, text: str) -> None:
    """Replace train.py in the last commit."""
    (root / "train.py").write_text(text)
    standin.git(root, "commit", "-qam", "other script")


# ---- meta


@pytest.mark.parametrize("word", ["needs_harness", "ineligible"])
def test_project_that_is_not_eligible_is_not_run(contract: Path, word: str) -> None:
    with pytest.raises(Refused, match=word):
        contracts.start(contract, document(meta__eligibility=word))


def test_bundle_id_is_recorded_with_the_session(contract: Path) -> None:
    with contracts.start(contract, document(meta__protocolBundleId="bundle-7")) as running:
        assert running.start_record["options"]["bundle"] == "bundle-7"


def test_session_keeps_the_protocol_byte_for_byte(contract: Path) -> None:
    with contracts.start(contract, document()) as running:
        assert running.paths.protocol.read_text() == (contract / "protocol.json").read_text()


# ---- environment


def test_setup_commands_run_once_and_every_run_starts_from_what_they_made(contract: Path) -> None:
    script(
        contract,
        "import os\nprint('score:', open('made/here').read().strip())\nopen('made/left', 'w')\nprint(os.path.exists('made/mark'))\n",
    )
    commands = ["mkdir made", {"kind": "sh", "args": ["-c", "echo 2.5 > made/here; date +%s%N >> made/count"]}]

    with contracts.start(contract, document(environment__setupCommands=commands)) as running:
        first = step(running)
        (contract / "models" / "small.py").write_text("WIDTH = 2\n")
        second = loop.step(running, "wider")

    assert first.metrics["score"] == 2.5
    work = RunPaths(contract / first.runs[0].folder).work
    assert len((work / "made" / "count").read_text().split()) == 1
    assert second.outcome is Outcome.OK
    assert log_of(running, second) == "score: 2.5\nFalse\n"
    assert not (contract / "made").exists()


def test_runs_happen_where_the_setup_was_made(contract: Path) -> None:
    script(contract, "import os\nprint('score: 1.0')\nprint(open('place').read() == os.getcwd())\n")

    with contracts.start(
        contract, document(environment__setupCommands=["sh -c 'printf %s \"$PWD\" > place'"])
    ) as running:
        first = step(running)

    assert log_of(running, first).endswith("True\n")


def test_setup_that_fails_stops_before_the_baseline(contract: Path) -> None:
    with contracts.start(contract, document(environment__setupCommands=["sh -c 'echo no wheels; exit 3'"])) as running:
        with pytest.raises(Refused, match="exit 3"):
            loop.measure_baseline(running)

        assert running.ledger.experiments == []
        assert "no wheels" in running.paths.setup_log.read_text()


def test_new_dependency_is_refused(contract: Path) -> None:
    with contracts.start(contract, document()) as running:
        step(running)
        (contract / "train.py").write_text("import sklearn_fancy\n" + contracts.TRAIN)

        with pytest.raises(Refused, match="sklearn_fancy"):
            loop.step(running, "use another library")


def test_new_dependency_is_fine_where_the_protocol_allows_it(contract: Path) -> None:
    with contracts.start(contract, document(environment__constraints__noNewDependencies=False)) as running:
        step(running)
        (contract / "train.py").write_text(
            "try:\n    import sklearn_fancy\nexcept ImportError:\n    pass\n" + contracts.TRAIN
        )

        assert loop.step(running, "use another library").outcome is Outcome.OK


CONNECT = """\
import socket
try:
    socket.create_connection(("127.0.0.1", {port}), timeout=2)
    print("score: 1.0")
except OSError:
    print("score: 9.0")
"""


@pytest.mark.parametrize(("policy", "value"), [("full", 1.0), ("offline", 9.0), ("sandbox", 9.0), ("unknown", 9.0)])
def test_network_policy_keeps_runs_from_the_network(contract: Path, policy: str, value: float) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        script(contract, CONNECT.format(port=server.getsockname()[1]))
        try:
            running = contracts.start(contract, document(environment__constraints__networkPolicy=policy))
        except Refused as refusal:  # a container without the right to make namespaces
            assert policy != "full"
            assert "networkPolicy" in str(refusal)
            return
        with running:
            assert step(running).metrics["score"] == value


def test_sandbox_memory_ends_a_run_that_takes_more(contract: Path) -> None:
    script(
        contract,
        "import time\nblock = bytearray(300_000_000)\nblock[::4096] = b'x' * len(block[::4096])\ntime.sleep(5)\nprint('score: 1.0')\n",
    )

    with contracts.start(contract, document(environment__sandbox={"memory": "100m"})) as running:
        assert step(running).outcome is Outcome.OOM


SPAWNS = """\
import subprocess, sys, time
for _ in range(8):
    subprocess.Popen([sys.executable, "-I", "-S", "-c", "import time; time.sleep(20)"])
time.sleep(10)
print("score: 1.0")
"""


def test_sandbox_pids_end_a_run_that_starts_more(contract: Path) -> None:
    script(contract, SPAWNS)

    with contracts.start(contract, document(environment__sandbox={"pids": 4})) as running:
        assert step(running).outcome is Outcome.REJECTED


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can bind a process to CPUs")
def test_sandbox_cpus_bind_a_run(contract: Path) -> None:
    script(contract, "import os\nprint('score:', len(os.sched_getaffinity(0)))\n")

    with contracts.start(contract, document(environment__sandbox={"cpus": "1"})) as running:
        assert step(running).metrics["score"] == 1


# ---- surfaces


def test_candidate_may_add_change_and_delete_files_of_the_allowed_globs(contract: Path) -> None:
    train = "import os\nprint('score:', 5 - len(os.listdir('models/deep')) if os.path.isdir('models/deep') else 5)\n"
    script(contract, train)
    with contracts.start(contract, document()) as running:
        step(running)
        (contract / "models" / "deep").mkdir()
        (contract / "models" / "deep" / "a.py").write_text("A = 1\n")
        (contract / "models" / "small.py").unlink()

        kept = loop.step(running, "another model")

    assert kept.verdict is Verdict.KEEP
    assert standin.git(contract, "status", "--porcelain") == ""
    assert standin.git(contract, "ls-files", "models").split() == ["models/deep/a.py", "models/fixed.py"]


def test_discarded_candidate_leaves_no_added_file_and_brings_deleted_ones_back(contract: Path) -> None:
    with contracts.start(contract, document()) as running:
        step(running)
        (contract / "models" / "new.py").write_text("N = 1\n")
        (contract / "models" / "small.py").unlink()

        discarded = step(running, VALUE=3.0)

    assert discarded.verdict is Verdict.DISCARD
    assert standin.git(contract, "status", "--porcelain") == ""
    assert not (contract / "models" / "new.py").exists()
    assert (contract / "models" / "small.py").exists()
    assert "models/new.py" in standin.git(contract, "ls-tree", "-r", "--name-only", running.ref(discarded.number))


@pytest.mark.parametrize("name", ["models/fixed.py", "notes.md", "harness/check.py"])
def test_edit_outside_the_surface_is_refused(contract: Path, name: str) -> None:
    with contracts.start(contract, document()) as running:
        step(running)
        (contract / name).write_text("changed\n")

        with pytest.raises(Refused, match=name):
            loop.step(running, "reach too far")


def test_file_added_to_the_harness_is_noticed(contract: Path) -> None:
    with contracts.start(contract, document()) as running:
        step(running)
        (contract / "harness" / "conftest.py").write_text("x = 1\n")

        with pytest.raises(Refused, match=r"harness/conftest\.py was added"):
            loop.step(running, "help the harness")


@pytest.mark.parametrize(
    "deed", ["open('harness/check.py', 'w').write('print(0)')", "open('harness/more.py', 'w').write('1')"]
)
def test_run_that_touches_the_harness_is_rejected(contract: Path, deed: str) -> None:
    with contracts.start(contract, document()) as running:
        step(running)
        (contract / "train.py").write_text(contracts.TRAIN.replace("VALUE = 2.0", "VALUE = 1.0") + deed + "\n")

        cheat = loop.step(running, "touch the harness")

    assert cheat.outcome is Outcome.REJECTED
    assert "harness" in cheat.reason


def test_harness_is_put_back_by_a_driver_and_the_edit_saved(contract: Path) -> None:
    with contracts.start(contract, document()) as running:
        step(running)
        (contract / "harness" / "check.py").write_text("print(0)\n")

        loop.reset(running)

        assert (contract / "harness" / "check.py").read_text() == "print(1)\n"
        refs = running.repository.pinned(f"refs/autoexperiment/{running.tag}/")
        saved = [ref for ref in refs if "/stray-" in ref]
        assert len(saved) == 1
        assert standin.git(contract, "show", f"{saved[0]}:harness/check.py") == "print(0)"


@pytest.mark.parametrize(("kind", "refused"), [("code_edit", "settings.json"), ("config_edit", "train.py")])
def test_kind_of_edit_that_is_not_allowed_is_refused(contract: Path, kind: str, refused: str) -> None:
    with contracts.start(contract, document(mutableSurface__allowedKinds=[kind])) as running:
        step(running)
        text = '{"a": 1}\n' if refused == "settings.json" else contracts.TRAIN.replace("2.0", "1.0")
        (contract / refused).write_text(text)

        with pytest.raises(Refused, match=refused.replace(".", r"\.")):
            loop.step(running, "another kind")


def test_path_prefix_narrows_the_surface(contract: Path) -> None:
    with contracts.start(contract, document(provenance__gitWorkflow={"pathPrefix": "models"})) as running:
        step(running)
        standin.edit(contract, VALUE=1.0)

        with pytest.raises(Refused, match=r"train\.py"):
            loop.step(running, "outside the prefix")


def test_static_gate_stops_a_driver_s_candidate_without_a_run(contract: Path) -> None:
    with contracts.start(contract, document()) as running:
        step(running)
        files = {**running.files_of(running.head), "train.py": b"eval(input())\nprint('score: 0.0')\n"}

        refused = loop.evaluate(running, loop.Proposal(files, "cheat"), source="x", observer=loop.Quiet())

    assert (refused.verdict, refused.outcome, refused.runs) == (Verdict.DISCARD, Outcome.REJECTED, ())
    assert "eval" in refused.reason


# ---- execution


def test_command_with_shell_syntax_runs_in_a_shell(contract: Path) -> None:
    command = "{python} -I -S train.py | sed 's/2.0/1.5/' && echo done"
    with contracts.start(contract, document(execution__command=command)) as running:
        first = step(running)

    assert first.metrics["score"] == 1.5
    assert log_of(running, first).endswith("done\n")


def test_cwd_is_where_the_command_runs(contract: Path) -> None:
    with contracts.start(
        contract, document(execution__cwd="models", execution__command="{python} -I -S ../train.py")
    ) as running:
        first = step(running)
        assert first.outcome is Outcome.OK


def test_hard_timeout_ends_a_run(contract: Path) -> None:
    with contracts.start(contract, document(execution__hardTimeoutSeconds=1)) as running:
        step(running)
        assert step(running, MODE="hang").outcome is Outcome.TIMED_OUT


def stop(**fields: object) -> dict[str, object]:
    return document(execution__stopCondition=fields)


def test_wall_clock_budget_is_told_and_bounds_the_run(contract: Path) -> None:
    script(contract, contracts.TRAIN + "print('budget', os.environ['TIME_BUDGET'])\n")
    with contracts.start(contract, stop(type="wall_clock", trainingSecondsBudget=0.5)) as running:
        first = step(running)
        (contract / "train.py").write_text("import time\ntime.sleep(4)\nprint('score: 1.0')\n")
        late = loop.step(running, "train longer")

    assert "budget 0.5" in log_of(running, first)
    assert late.outcome is Outcome.REJECTED


def test_compilation_can_count_against_the_budget(contract: Path) -> None:
    script(contract, "import time\ntime.sleep(3)\nprint('score: 1.0')\n")
    strict = stop(type="wall_clock", trainingSecondsBudget=0.2, excludeCompilationFromBudget=False)

    with contracts.start(contract, strict) as running:
        assert step(running).outcome is Outcome.REJECTED
    with contracts.start(contract, stop(type="wall_clock", trainingSecondsBudget=0.2), "u") as running:
        assert step(running).outcome is Outcome.OK


STEPS = {
    "name": "num_steps",
    "direction": "maximize",
    "extract": {"kind": "regex", "pattern": r"^num_steps: ([0-9]+)$"},
}


@pytest.mark.parametrize(
    ("kind", "field", "variable"), [("max_steps", "maxSteps", "STEP_BUDGET"), ("epochs", "epochs", "EPOCH_BUDGET")]
)
def test_counted_budgets_are_told_and_not_overstepped(contract: Path, kind: str, field: str, variable: str) -> None:
    name = {"max_steps": "num_steps", "epochs": "num_epochs"}[kind]
    script(contract, contracts.TRAIN.replace("num_steps", name) + f"print('budget', os.environ['{variable}'])\n")
    count = {"name": name, "direction": "maximize", "extract": {"kind": "regex", "pattern": f"^{name}: ([0-9]+)$"}}
    doc = contracts.changed(stop(type=kind, **{field: 5}), measurement__secondaryMetrics=[count])

    with contracts.start(contract, doc) as running:
        first = step(running)
        over = step(running, STEPS=6, VALUE=1.0)

    assert "budget 5" in log_of(running, first)
    assert over.outcome is Outcome.REJECTED
    assert "budget is 5" in over.reason


LEARNS = """\
import time
LOSS = 5.0
RATE = 0.5
while True:
    LOSS -= RATE
    print("loss:", LOSS, flush=True)
    time.sleep(0.1)
"""


def test_until_metric_ends_a_run_at_its_target_and_measures_the_time(contract: Path) -> None:
    script(contract, LEARNS)
    timed = {"name": "seconds_to_target", "direction": "minimize", "extract": {"kind": "custom"}}
    loss = {"name": "loss", "direction": "minimize", "extract": {"kind": "regex", "pattern": "^loss: ([0-9.]+)$"}}
    doc = contracts.changed(
        additions(
            target=1.0, extract={"seconds_to_target": {"measured": "seconds_to_target"}, "loss": {"take": "last"}}
        ),
        execution__stopCondition={"type": "until_metric"},
        measurement__primaryMetric=timed,
        measurement__secondaryMetrics=[loss],
        provenance__resultsLog__columns=["commit", "seconds_to_target", "status"],
    )
    with contracts.start(contract, doc) as running:
        first = step(running)
        (contract / "train.py").write_text(LEARNS.replace("RATE = 0.5", "RATE = 2.0"))
        faster = loop.step(running, "learn faster")
        (contract / "train.py").write_text("print('loss: 2.0')\n")
        short = loop.step(running, "give up early")

    assert first.outcome is Outcome.OK
    assert first.metrics["loss"] <= 1.0
    assert first.runs[0].trust == TrustLevel.MEASURED
    assert faster.verdict is Verdict.KEEP
    assert short.outcome is Outcome.REJECTED
    assert "target" in short.reason


def test_fixed_suite_must_not_shrink(contract: Path) -> None:
    suite = "PASS = 3\nTOTAL = 4\nprint(f'== {PASS} passed, {TOTAL - PASS} failed in 0.10s ==')\n"
    script(contract, suite)
    passed = {"name": "passed", "direction": "maximize", "extract": {"kind": "pytest_summary"}}
    doc = document(measurement__primaryMetric=passed, provenance__resultsLog__columns=["commit", "passed", "status"])

    with contracts.start(contract, doc) as running:
        first = step(running)
        fewer = step(running, PASS=3, TOTAL=3)
        more = step(running, PASS=4, TOTAL=4)

    assert first.metrics["passed"] == 3
    assert fewer.outcome is Outcome.REJECTED
    assert "3 test cases" in fewer.reason
    assert more.verdict is Verdict.KEEP


def test_seed_of_the_session_is_the_same_for_candidate_and_incumbent(contract: Path) -> None:
    with contracts.start(contract, document()) as running:
        first, second = step(running), step(running, VALUE=1.0)

    assert first.runs[0].seed == second.runs[0].seed is not None
    assert f"seed: {first.runs[0].seed} None" in log_of(running, first)


@pytest.mark.parametrize(
    ("derivation", "told"),
    [
        ({"mode": "none"}, "seed: None None"),
        ({"mode": "fixed", "fixedSeed": 7, "envVar": "TRIAL_SEED"}, "seed: None 7"),
    ],
)
def test_seed_derivation_fixes_what_a_run_is_told(contract: Path, derivation: dict[str, object], told: str) -> None:
    with contracts.start(contract, document(execution__determinism={"seedDerivation": derivation})) as running:
        assert told in log_of(running, step(running))


def test_seed_of_fiat_shamir_changes_with_the_source_only(contract: Path) -> None:
    derivation = {"mode": "fiat_shamir", "envVar": "SEED", "seedBits": 32, "sourcePaths": ["train.py"], "salt": "s"}
    with contracts.start(contract, document(execution__determinism={"seedDerivation": derivation})) as running:
        first = step(running)
        (contract / "models" / "small.py").write_text("WIDTH = 2\n")
        same = loop.step(running, "another file")
        other = step(running, VALUE=1.0)

    assert first.runs[0].seed == same.runs[0].seed
    assert first.runs[0].seed != other.runs[0].seed
    assert first.runs[0].seed < 2**32


def test_listed_seeds_are_used_in_order(contract: Path) -> None:
    doc = contracts.changed(
        additions(seeds=[11, 12, 13]), measurement__sampling={"warmupTrials": 0, "measuredTrials": 3}
    )
    with contracts.start(contract, doc) as running:
        assert [run.seed for run in step(running).runs] == [11, 12, 13]


# ---- measurement


def test_direction_maximize_keeps_what_is_higher(contract: Path) -> None:
    with contracts.start(contract, document(measurement__primaryMetric__direction="maximize")) as running:
        step(running)
        assert step(running, VALUE=1.0).verdict is Verdict.DISCARD
        assert step(running, VALUE=3.0).verdict is Verdict.KEEP


def metric(extract: dict[str, object], **more: object) -> dict[str, object]:
    doc = additions(extract={"score": more}) if more else document()
    return contracts.changed(doc, measurement__primaryMetric__extract=extract)


def test_json_pointer_reads_a_file_of_the_run(contract: Path) -> None:
    script(contract, "import json\njson.dump({'a': {'b/c': [1, 2.5]}}, open('out.json', 'w'))\n")
    with contracts.start(
        contract, metric({"kind": "json_pointer", "jsonPointer": "/a/b~1c/1"}, file="out.json")
    ) as running:
        assert step(running).metrics["score"] == 2.5


def test_json_pointer_reads_the_last_json_line_of_the_output(contract: Path) -> None:
    script(contract, "print('start')\nprint('{\"s\": 1}')\nprint('{\"s\": 4}')\nprint('end')\n")
    with contracts.start(contract, metric({"kind": "json_pointer", "jsonPointer": "/s"})) as running:
        assert step(running).metrics["score"] == 4


def test_junit_counts_a_report(contract: Path) -> None:
    cases = '<testcase name="a"/><testcase name="b"/><testcase name="c"><failure/></testcase>'
    report = f'<testsuite tests="3" failures="1">{cases}</testsuite>'
    script(contract, f"open('junit.xml', 'w').write('''{report}''')\n")
    with contracts.start(contract, metric({"kind": "junit"}, count="pass_rate")) as running:
        assert step(running).metrics["score"] == pytest.approx(2 / 3)


def test_pytest_summary_counts_what_is_asked_for(contract: Path) -> None:
    script(contract, "print('=== 1 failed, 5 passed in 0.2s ===')\n")
    with contracts.start(contract, metric({"kind": "pytest_summary"}, count="failed")) as running:
        assert step(running).metrics["score"] == 1


def test_custom_command_of_the_harness_measures_what_the_run_left(contract: Path) -> None:
    (contract / "harness" / "check.py").write_text(
        "import os, pathlib\nprint('thinking')\nprint(len((pathlib.Path(os.environ['RUN_FOLDER']) / 'out.txt').read_text()))\n"
    )
    script(contract, "open('out.txt', 'w').write('12345')\nprint('score: 0.0')\n")
    with contracts.start(contract, metric({"kind": "custom"}, command="{python} -I -S harness/check.py")) as running:
        first = step(running)

    assert first.metrics["score"] == 5
    assert first.runs[0].trust == TrustLevel.RECOMPUTED


def test_time_measured_from_outside_can_be_the_metric(contract: Path) -> None:
    with contracts.start(contract, metric({"kind": "custom"}, measured="wall_s")) as running:
        first, slow = step(running), step(running, MODE="late", VALUE=0.0)

    assert slow.verdict is Verdict.DISCARD
    assert slow.metrics["score"] > first.metrics["score"] + 0.9
    assert first.runs[0].trust == TrustLevel.MEASURED


def test_metric_printed_twice_needs_a_word_on_which_counts(contract: Path) -> None:
    script(contract, "print('score: 3.0')\nprint('score: 2.0')\n")
    extract = contracts.DOCUMENT["measurement"]["primaryMetric"]["extract"]
    with contracts.start(contract, document()) as running:
        assert step(running).outcome is Outcome.REJECTED
    with contracts.start(contract, metric(extract, take="last"), "u") as running:
        assert step(running).metrics["score"] == 2


def test_secondary_metrics_are_recorded_and_decide_nothing(contract: Path) -> None:
    doc = document(measurement__secondaryMetrics=[STEPS, {"name": "gone", "direction": "minimize"}])
    with contracts.start(contract, doc) as running:
        step(running)
        kept = step(running, VALUE=1.0, STEPS=1)

    assert kept.verdict is Verdict.KEEP
    assert kept.metrics["num_steps"] == 1
    assert "gone" not in kept.metrics


VARIES = """\
import os
SHIFT = 0.0
VALUES = [9.0, 1.0, 2.0, 6.0]
SEEDS = {seeds!r}
print("score:", VALUES[SEEDS.index(os.environ["SEED"])] + SHIFT)
"""


def varying(root: Path) -> dict[str, object]:
    """A project whose score depends on its seed: the warm-up's is 9, the measured ones' 1, 2 and 6."""
    script(root, VARIES.format(seeds=["24", "21", "22", "23"]))
    return additions(seeds=[21, 22, 23, 24])


@pytest.mark.parametrize(("word", "value"), [("median", 2.0), ("mean", 3.0), ("min", 1.0), ("max", 6.0)])
def test_sampling_drops_warm_ups_and_aggregates(contract: Path, word: str, value: float) -> None:
    sampling = {"warmupTrials": 1, "measuredTrials": 3, "aggregator": word}
    with contracts.start(contract, contracts.changed(varying(contract), measurement__sampling=sampling)) as running:
        first = step(running)

    assert len(first.runs) == 4
    assert first.runs[0].metrics is None
    assert first.metrics["score"] == value


def test_every_candidate_is_sampled_alike(contract: Path) -> None:
    sampling = {"warmupTrials": 1, "measuredTrials": 3, "aggregator": "median"}
    with contracts.start(contract, contracts.changed(varying(contract), measurement__sampling=sampling)) as running:
        step(running)
        better = step(running, SHIFT=-0.5)

    assert len(better.runs) == 4
    assert better.verdict is Verdict.KEEP
    assert better.metrics["score"] == 1.5


def test_runs_that_spread_too_far_are_not_judged(contract: Path) -> None:
    sampling = {"warmupTrials": 1, "measuredTrials": 3, "maxRelativeStdDev": 0.1}
    with contracts.start(contract, contracts.changed(varying(contract), measurement__sampling=sampling)) as running:
        first = loop.measure_baseline(running)

    assert first.verdict is Verdict.DISCARD
    assert "Too noisy" in first.reason


@pytest.mark.parametrize(("value", "verdict"), [(1.99, Verdict.DISCARD), (1.98, Verdict.KEEP)])
def test_gain_must_reach_the_bips(contract: Path, value: float, verdict: Verdict) -> None:
    with contracts.start(contract, document(measurement__minScoreImprovementBips=100)) as running:
        step(running)
        assert step(running, VALUE=value).verdict is verdict


NOISY = """\
import os
SHIFT = 0.0
print("score:", {"1": 1.0, "2": 2.0, "3": 3.0}[os.environ["SEED"]] + SHIFT)
"""


@pytest.mark.parametrize(("shift", "verdict"), [(-0.8, Verdict.DISCARD), (-0.9, Verdict.KEEP)])
def test_gain_must_exceed_the_noise(contract: Path, shift: float, verdict: Verdict) -> None:
    # The baseline's sd is 1; three runs against three have a standard error of sqrt(2/3) = 0.816.
    script(contract, NOISY)
    doc = contracts.changed(
        additions(seeds=[1, 2, 3], noise={"baselineRuns": 3, "standardErrors": 1}),
        measurement__sampling={"warmupTrials": 0, "measuredTrials": 3, "aggregator": "mean"},
    )
    with contracts.start(contract, doc) as running:
        step(running)
        judged = step(running, SHIFT=shift)

    assert judged.verdict is verdict
    assert ("within noise" in judged.reason) is (verdict is Verdict.DISCARD)


def test_baseline_runs_are_as_many_as_asked_for(contract: Path) -> None:
    with contracts.start(contract, additions(noise={"baselineRuns": 2, "standardErrors": 0})) as running:
        assert len(step(running).runs) == 2


def test_policy_of_the_protocol_judges(contract: Path) -> None:
    with contracts.start(contract, additions(policy="quality-throughput")) as running:
        assert running.start_record["policy"] == "quality-throughput"


def test_other_machine_is_refused(contract: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contracts.start(contract, document()) as running:
        step(running)
        here = machine.facts()
        monkeypatch.setattr(machine, "facts", lambda: {**here, "cores": 999})

        with pytest.raises(Refused, match="cores"):
            step(running, VALUE=1.0)


def test_other_machine_is_fine_where_the_protocol_does_not_mind(
    contract: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contracts.start(contract, document(measurement__baselinePolicy__establishOnHardware=False)) as running:
        step(running)
        here = machine.facts()
        monkeypatch.setattr(machine, "facts", lambda: {**here, "cores": 999})

        assert step(running, VALUE=1.0).verdict is Verdict.KEEP


@pytest.mark.parametrize("is_pinned", [True, False])
def test_data_that_changed_is_refused(contract: Path, is_pinned: bool) -> None:
    (contract / "data").mkdir()
    (contract / "data" / "rows.csv").write_text("1,2\n")
    script(contract, contracts.TRAIN + "print(open('data/rows.csv').read())\n")
    doc = contracts.changed(additions(data=["data/rows.csv"]), measurement__baselinePolicy__sameDataSnapshot=is_pinned)
    with contracts.start(contract, doc) as running:
        first = step(running)
        (contract / "data" / "rows.csv").write_text("1,3\n")

        if is_pinned:
            with pytest.raises(Refused, match="data changed"):
                step(running, VALUE=1.0)
        else:
            assert step(running, VALUE=1.0).verdict is Verdict.KEEP

    assert running.start_record["snapshot"].startswith("sha256:")
    assert "1,2" in log_of(running, first)


def test_data_below_the_home_is_linked_into_the_run_s_own_home(contract: Path) -> None:
    (Path.home() / "corpus").mkdir()
    (Path.home() / "corpus" / "text").write_text("words")
    script(contract, contracts.TRAIN + "print(open(os.path.expanduser('~/corpus/text')).read())\n")

    with contracts.start(contract, additions(data=["~/corpus"])) as running:
        assert "words" in log_of(running, step(running))


def test_held_out_files_reach_no_run(contract: Path) -> None:
    (contract / "holdout.csv").write_text("secret\n")
    standin.git(contract, "add", "holdout.csv")
    script(contract, contracts.TRAIN + "print(os.path.exists('holdout.csv'), os.path.exists('notes.md'))\n")

    with contracts.start(contract, additions(holdOut=["holdout.csv"])) as running:
        assert "False True" in log_of(running, step(running))


def test_evaluator_that_differs_from_its_hash_is_refused(contract: Path) -> None:
    with pytest.raises(UsageError, match=r"harness/check\.py"):
        contracts.start(contract, additions(evaluator={"harness/check.py": "0" * 64}))


# ---- provenance


def test_results_log_has_exactly_the_columns_named(contract: Path) -> None:
    doc = document(measurement__secondaryMetrics=[STEPS])
    doc["provenance"]["resultsLog"]["columns"] = ["commit", "score", "num_steps", "status", "description"]
    with contracts.start(contract, doc) as running:
        step(running)
        step(running, VALUE=1.0)

    rows = contracts.table(contract)
    assert rows[0] == ["commit", "score", "num_steps", "status", "description"]
    assert [row[1:4] for row in rows[1:]] == [["2.000000", "5", "keep"], ["1.000000", "5", "keep"]]


def test_results_log_can_be_csv_elsewhere(contract: Path) -> None:
    log = {"format": "csv", "path": "data/results.csv", "columns": ["score", "status", "description"]}
    with contracts.start(contract, document(provenance__resultsLog=log)) as running:
        step(running)
        standin.edit(contract, MODE="crash")
        loop.step(running, 'say "hi", twice')

    assert (contract / "data" / "results.csv").read_text().splitlines() == [
        "score,status,description", "2,keep,baseline", ',crash,"say ""hi"", twice"',
    ]  # fmt: skip


def test_results_log_can_be_json_lines(contract: Path) -> None:
    log = {"format": "jsonl", "path": "results.jsonl", "columns": ["experiment", "score", "outcome", "trust"]}
    with contracts.start(contract, document(provenance__resultsLog=log)) as running:
        step(running)
        step(running, MODE="crash")

    assert [json.loads(line) for line in (contract / "results.jsonl").read_text().splitlines()] == [
        {"experiment": 0, "score": 2.0, "outcome": "ok", "trust": "self_reported"},
        {"experiment": 1, "score": None, "outcome": "crashed", "trust": None},
    ]


@pytest.mark.parametrize(
    ("pattern", "branch"),
    [("lab/", "lab/t"), ("lab/{tag}/run", "lab/t/run"), ("x-<tag>", "x-t"), ("night/*", "night/t"), ("solo", "solo/t")],
)
def test_branch_pattern_names_the_branch(contract: Path, pattern: str, branch: str) -> None:
    with contracts.start(contract, document(provenance__gitWorkflow={"branchPattern": pattern})) as running:
        assert standin.git(contract, "symbolic-ref", "--short", "HEAD") == branch
        assert session.current_tag(contract) == running.tag == "t"


def test_commits_hold_the_mutable_files_only(contract: Path) -> None:
    with contracts.start(contract, document()) as running:
        step(running)
        (contract / "mine.txt").write_text("mine\n")
        kept = step(running, VALUE=1.0)

    assert standin.git(contract, "diff", "--name-only", f"{kept.commit}~1", kept.commit) == "train.py"


def test_baseline_s_output_is_put_where_the_protocol_says(contract: Path) -> None:
    with contracts.start(
        contract, document(provenance__baselineArtifactPath=".autoresearch/create/baseline.log")
    ) as running:
        step(running)
        views.refresh(running)

    assert "score: 2.000000" in (contract / ".autoresearch" / "create" / "baseline.log").read_text()


# ---- safety


def test_run_out_of_memory_is_repeated_with_a_smaller_batch(contract: Path) -> None:
    with contracts.start(contract, document(safety__oomPolicy="reduce_batch")) as running:
        step(running)
        kept = step(running, MODE="oom", VALUE=1.0)

    assert kept.verdict is Verdict.KEEP
    assert [run.ending["outcome"] for run in kept.runs] == ["oom", "ok"]
    assert kept.evidence["batch_divisor"] == 2
    assert run_of(running, kept).provenance["batch_divisor"] == 2


@pytest.mark.parametrize("policy", ["fail", "unknown", None])
def test_run_out_of_memory_fails_otherwise(contract: Path, policy: str | None) -> None:
    with contracts.start(contract, document(safety__oomPolicy=policy)) as running:
        step(running)
        assert step(running, MODE="oom").verdict is Verdict.CRASH


@pytest.mark.parametrize(
    ("status", "verdict", "runs"),
    [
        ("crash", Verdict.CRASH, 1),
        ("discard", Verdict.DISCARD, 1),
        ("retry", Verdict.CRASH, 2),
        (None, Verdict.CRASH, 1),
    ],
)
def test_crash_status_says_what_becomes_of_a_crash(
    contract: Path, status: str | None, verdict: Verdict, runs: int
) -> None:
    with contracts.start(contract, document(safety__crashStatus=status)) as running:
        step(running)
        crashed = step(running, MODE="crash")

    assert (crashed.verdict, len(crashed.runs), crashed.outcome) == (verdict, runs, Outcome.CRASHED)
    assert contracts.table(contract)[-1][1:3] == ["0.000000", str(verdict)]


# ---- limits of a session


def drive(running: Session, experiments: int = 10) -> str:
    return night.drive(running, Lowering(), night.Limit(experiments=experiments))


class Lowering:
    """An agent that proposes ever lower values, or higher ones."""

    name = "lowering"

    def __init__(self, stride: float = -0.1) -> None:
        self.stride = stride

    def propose(self, going: night.Night) -> loop.Proposal:
        running = going.session
        number = len(running.ledger.experiments)
        files = running.files_of(running.head)
        text = contracts.TRAIN.replace("VALUE = 2.0", f"VALUE = {2.0 + self.stride * number:.2f}")
        return loop.Proposal({**files, "train.py": text.encode()}, f"proposal {number}")


def test_most_trials_end_night_and_steps(contract: Path) -> None:
    with contracts.start(contract, document(miningLoop={"maxTrials": 2})) as running:
        assert "maxTrials" in drive(running)
        assert night.judged(running) == 2
        with pytest.raises(BudgetSpent, match="maxTrials"):
            step(running, VALUE=1.0)


def test_wall_time_of_a_session_ends_the_night(contract: Path) -> None:
    with contracts.start(contract, document(miningLoop={"maxSessionWallSeconds": 1})) as running:
        assert "maxSessionWallSeconds" in drive(running, 1000)


def test_experiments_without_improvement_end_the_night(contract: Path) -> None:
    with contracts.start(contract, document(miningLoop={"maxConsecutiveNonImprovements": 2})) as running:
        reason = night.drive(running, Lowering(stride=0.1), night.Limit(experiments=10))

    assert "maxConsecutiveNonImprovements" in reason
    assert night.judged(running) == 2


def test_cost_ends_the_night(contract: Path) -> None:
    price = {"perHour": 3_600_000, "max": 1, "currency": "EUR"}
    with contracts.start(contract, additions(cost=price)) as running:
        assert "EUR" in drive(running)
        assert night.judged(running) == 0


# ---- extensions of an archetype


def test_test_command_must_pass_for_a_run_to_count(contract: Path) -> None:
    check = "{python} -I -S -c \"import sys; sys.exit('VALUE = 1.0' in open('train.py').read())\""
    with contracts.start(contract, document(archetypeExtensions__build_test={"testCommand": check})) as running:
        step(running)
        broken = step(running, VALUE=1.0)
        fine = step(running, VALUE=1.5)

    assert broken.outcome is Outcome.REJECTED
    assert "test command" in broken.reason
    assert "score" not in broken.metrics
    assert fine.verdict is Verdict.KEEP


def test_test_subset_is_part_of_the_test_command(contract: Path) -> None:
    build = {"testCommand": "test -f", "testSubset": "train.py"}
    with contracts.start(contract, document(archetypeExtensions__build_test=build)) as running:
        assert step(running).outcome is Outcome.OK
    build = {"testCommand": "test -f", "testSubset": "nowhere.py"}
    with contracts.start(contract, document(archetypeExtensions__build_test=build), "u") as running:
        assert loop.measure_baseline(running).outcome is Outcome.REJECTED


def test_number_of_seeds_of_an_environment_is_the_number_of_runs(contract: Path) -> None:
    with contracts.start(contract, document(archetypeExtensions__rl_loop={"numSeeds": 4})) as running:
        first = step(running)

    assert len({run.seed for run in first.runs}) == 4


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("network", "environment.constraints.networkPolicy", "offline"),
        ("memory", "environment.sandbox.memory", "1g"),
        ("processes", "environment.sandbox.pids", 4),
        ("cpus", "environment.sandbox.cpus", "1"),
    ],
)
def test_limit_that_this_system_can_not_hold_a_run_to_is_named_and_refused(
    contract: Path, monkeypatch: pytest.MonkeyPatch, name: str, path: str, value: object
) -> None:
    monkeypatch.setattr(confine, "fault", lambda asked: "It has no such thing." if asked == name else "")
    doc = document(**{path.replace(".", "__"): value})

    findings = checks.validate(json.dumps(doc), name="test", repo=None)

    assert [f.path for f in findings if "no such thing" in f.reason] == [path]
    with pytest.raises(Refused, match="no such thing"):
        contracts.start(contract, doc)


SOMETIMES = """\
import os, pathlib
VALUE = 2.0
mark = pathlib.Path({mark!r})
if os.environ["SEED"] == "2" and not mark.exists():
    mark.touch()
    raise MemoryError("planted")
print("score:", VALUE * int(os.environ["DEVICE_BATCH_DIVISOR"]))
"""


def test_runs_of_one_candidate_are_all_made_with_the_same_batch(contract: Path, tmp_path: Path) -> None:
    script(contract, SOMETIMES.format(mark=str(tmp_path / "mark")))
    doc = contracts.changed(
        additions(seeds=[1, 2], noise={"baselineRuns": 2, "standardErrors": 0}), safety__oomPolicy="reduce_batch"
    )
    with contracts.start(contract, doc) as running:
        first = loop.measure_baseline(running)

    assert [run.ending["outcome"] for run in first.runs] == ["ok", "oom", "ok"]
    assert [run.metrics and run.metrics["score"] for run in first.runs] == [2.0, None, 2.0]


def test_run_that_never_fits_is_given_up_at_an_eighth_of_the_batch(contract: Path) -> None:
    script(contract, contracts.TRAIN.replace("< 2", "< 99"))
    with contracts.start(contract, document(safety__oomPolicy="reduce_batch")) as running:
        step(running)
        crashed = step(running, MODE="oom")

    assert crashed.verdict is Verdict.CRASH
    divisors = [run_of(running, crashed, i).provenance["batch_divisor"] for i in range(len(crashed.runs))]
    assert divisors == [1, 2, 4, 8]
