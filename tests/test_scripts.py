"""The helper scripts as people call them: from any folder, on a bare interpreter, with nothing installed."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
import standin

from autoexperiment import record, session
from autoexperiment.errors import Refused, UsageError
from autoexperiment.files import Lock
from autoexperiment.ledger import Ledger, read_ledger
from autoexperiment.paths import ProjectPaths
from autoexperiment.record import Entry
from autoexperiment.vocabulary import Goal, Outcome, TrustLevel, Verdict

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).parent / "golden"
SCRIPTS = ["parse_metrics", "record_result", "circuit_breaker", "update_log"]
HEADER = "commit\tval_bpb\tmemory_gb\tavg_tok_sec\tstatus\tdescription"
CRASH_LOG = 'Traceback (most recent call last):\n  File "train.py", line {0}, in main\nValueError: shape {0} at 0x{0}\n'


def call(name: str, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-S", str(ROOT / "scripts" / f"{name}.py"), *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True)


def recorded(*words: str, status: str = "keep") -> subprocess.CompletedProcess[str]:
    return call("record_result", "--description", "an edit", "--status", status, *words)


def crash(n: int, *, log: str = CRASH_LOG) -> subprocess.CompletedProcess[str]:
    Path("run.log").write_text(log.format(n))
    return recorded("--commit", f"c{n}", "--log", "run.log", status="crash")


def lines(root: Path) -> list[str]:
    return (root / "results.tsv").read_text().splitlines()


@pytest.fixture
def paths(project: Path) -> ProjectPaths:
    """A git repository without a session of any kind."""
    return ProjectPaths(project)


@pytest.mark.parametrize("name", SCRIPTS)
def test_script_says_what_it_does_from_any_folder_without_third_party_code(name: str, tmp_path: Path) -> None:
    answer = call(name, "--help", cwd=tmp_path)

    assert answer.returncode == 0, answer.stderr
    assert "usage:" in answer.stdout
    source = (ROOT / "scripts" / f"{name}.py").read_text()
    assert "\nUsage: python3 scripts/" in source
    assert "\nExit codes: 0 " in source


@pytest.mark.parametrize(("name", "word"), [(name, "--nonsense") for name in SCRIPTS] + [("record_result", "--json")])
def test_wrong_words_are_a_usage_error(name: str, word: str, tmp_path: Path) -> None:
    assert call(name, word, cwd=tmp_path).returncode == 2


def test_parse_metrics_reads_the_known_output_block() -> None:
    answer = call("parse_metrics", str(GOLDEN / "run.log"), "--json")

    value = json.loads(answer.stdout)
    assert value["metrics"]["val_bpb"] == 1.859
    assert value["metrics"]["avg_tok_sec"] == 140000.0
    assert value["trust"] == "self_reported"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--metric", "depth"], "depth\t4.0\n"),
        (["--pattern", r"total_tokens_M: +(\S+)"], "total_tokens_M: +(\\S+)\t41.0\n"),
    ],
)
def test_parse_metrics_reads_one_number(words: list[str], shown: str) -> None:
    assert call("parse_metrics", str(GOLDEN / "run.log"), *words).stdout == shown


def test_parse_metrics_follows_a_json_pointer(tmp_path: Path) -> None:
    (tmp_path / "last_run.json").write_text('{"result": {"val_bpb": 1.5}}')

    answer = call("parse_metrics", "last_run.json", "--json-pointer", "/result/val_bpb", cwd=tmp_path)

    assert answer.stdout == "/result/val_bpb\t1.5\n"


@pytest.mark.parametrize(
    ("log", "complaint"),
    [
        ("---\nval_bpb: nan\n", "not finite"),
        ("val_bpb: 1.5\n", "no '---' line"),
        ("---\nval_bpb: 1\nval_bpb: 1\n", "2 times"),
    ],
)
def test_parse_metrics_fails_with_one_line_and_no_number(log: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "run.log").write_text(log)

    answer = call("parse_metrics", "run.log", cwd=tmp_path)

    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.startswith("parse_metrics: ")
    assert complaint in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_parse_metrics_names_a_missing_file(tmp_path: Path) -> None:
    answer = call("parse_metrics", "gone.log", cwd=tmp_path)

    assert answer.returncode == 2
    assert "There is no file gone.log" in answer.stderr


def test_first_result_starts_a_ledger_and_the_view(paths: ProjectPaths) -> None:
    head = standin.git(paths.root, "rev-parse", "HEAD")

    answer = recorded(
        "--metric", "val_bpb=1.859", "--metric", "peak_memory_mb=14028.8", "--metric", "avg_tok_sec=140,000"
    )

    assert answer.returncode == 0, answer.stderr
    assert lines(paths.root) == [HEADER, f"{head[:7]}\t1.859000\t13.7\t140000\tkeep\tan edit"]
    experiment = read_ledger(paths.session("by-hand").ledger).experiments[0]
    assert experiment.commit == head
    assert experiment.runs[0].trust == TrustLevel.SELF_REPORTED
    assert experiment.applied


def test_numbers_come_from_the_last_run(paths: ProjectPaths) -> None:
    value = {"result": {"val_bpb": 1.84}, "training": {"peak_memory_mb": 1024, "avg_tok_sec": 138000.4}}
    paths.last_run.parent.mkdir()
    paths.last_run.write_text(json.dumps(value))

    answer = recorded("--last-run", "data/last_run.json", "--commit", "b2c3d4e", "--json", status="DISCARD")

    assert json.loads(answer.stdout)["experiments"] == [0]
    assert lines(paths.root)[1] == "b2c3d4e\t1.840000\t1.0\t138000\tdiscard\tan edit"


def test_session_keeps_the_metric_that_it_started_with(paths: ProjectPaths) -> None:
    recorded("--metric", "accuracy=0.5", "--goal", "maximize", "--commit", "a")

    other = recorded("--metric", "val_bpb=1.0", "--commit", "b")
    failed = crash(1)

    assert other.returncode == 2
    assert "no accuracy" in other.stderr
    assert failed.returncode == 0
    assert lines(paths.root)[0].split("\t")[1] == "accuracy"
    assert read_ledger(paths.session("by-hand").ledger).session["recipe"]["goal"] == Goal.MAXIMIZE


@pytest.mark.parametrize(
    ("status", "words", "complaint"),
    [
        ("keep", [], "no val_bpb"),
        ("discard", ["--metric", "avg_tok_sec=3", "--metric", "val_bpb=nan"], "not finite"),
        ("keep", ["--metric", "val_bpb=inf"], "not finite"),
        ("keep", ["--metric", "val_bpb=1_0"], "not a number"),
        ("keep", ["--metric", "val_bpb"], "NAME=VALUE"),
        ("keep", ["--metric", "val_bpb=1", "--metric", "avg_tok_sek=3"], "Did you mean 'avg_tok_sec'"),
        ("crash", ["--metric", "val_bpb=0"], "A crash has no numbers"),
        ("keep", ["--metric", "val_bpb=1", "--description", "  "], "a commit and a description"),
        ("keep", ["--metric", "val_bpb=1", "--tag", "../x"], "not usable"),
        ("maybe", [], "invalid choice"),
    ],
)
def test_result_that_can_not_be_believed_is_refused_and_nothing_is_written(
    paths: ProjectPaths, status: str, words: list[str], complaint: str
) -> None:
    answer = recorded("--commit", "a", *words, status=status)

    assert answer.returncode in (1, 2)
    assert complaint in answer.stderr
    assert not paths.results.exists()
    assert paths.tags() == []


def test_rows_of_a_loop_are_measured_not_typed(paths: ProjectPaths) -> None:
    session.start(paths.root, "mar5", standin.PLAN).close()

    answer = recorded("--metric", "val_bpb=0.001")

    assert answer.returncode == 1
    assert "measured, not typed" in answer.stderr
    assert read_ledger(paths.session("mar5").ledger).experiments == []


def test_results_that_no_ledger_knows_are_not_overwritten(paths: ProjectPaths) -> None:
    before = (GOLDEN / "results.tsv").read_text()
    paths.results.write_text(before)

    refused = recorded("--metric", "val_bpb=1.0", "--commit", "e5f6a7b")
    untouched = paths.results.read_text()
    imported = call("record_result", "--import", "results.tsv")
    added = recorded("--metric", "val_bpb=1.0", "--commit", "e5f6a7b")

    assert refused.returncode == 1
    assert "--import results.tsv" in refused.stderr
    assert untouched == before
    assert imported.returncode == added.returncode == 0
    assert paths.results.read_text() == before + "e5f6a7b\t1.000000\t0.0\t0\tkeep\tan edit\n"


def test_import_takes_crashes_over_without_numbers_and_a_second_time_is_refused(paths: ProjectPaths) -> None:
    file = GOLDEN / "results_five_columns.tsv"

    first = call("record_result", "--import", str(file), "--tag", "old")
    again = call("record_result", "--import", str(file), "--tag", "old")

    experiments = read_ledger(paths.session("old").ledger).experiments
    assert first.returncode == 0
    assert [(e.verdict, e.outcome, e.source) for e in experiments] == [
        (Verdict.KEEP, Outcome.OK, "import"),
        (Verdict.CRASH, Outcome.CRASHED, "import"),
    ]
    assert experiments[0].metrics == {"val_bpb": 0.9979, "peak_memory_mb": 44.0 * 1024}
    assert experiments[1].metrics == {}
    assert again.returncode == 1
    assert "imported before" in again.stderr


@pytest.mark.parametrize(
    ("row", "is_taken"),
    [("a\t0.0\t0\t0\tdiscard\ttimed out", True), ("a\t0.0\t0\t0\tkeep\tlie", False), ("a\t1\t1\t1\tkept\tx", False)],
)
def test_import_is_whole_or_not_at_all(paths: ProjectPaths, row: str, is_taken: bool) -> None:
    (paths.root / "old.tsv").write_text(f"{HEADER}\nb\t1.5\t1\t1\tkeep\tfine\n{row}\n")

    answer = call("record_result", "--import", "old.tsv")

    assert (answer.returncode == 0) is is_taken
    assert len(read_ledger(paths.session("by-hand").ledger).experiments if is_taken else []) == 2 * is_taken
    assert paths.results.exists() is is_taken


def test_description_of_many_bytes_fits_a_record(paths: ProjectPaths) -> None:
    done = record.record_by_hand(paths, "hand", Entry("a", Verdict.KEEP, "🙂" * 5000 + "\ud800", {"val_bpb": 1.0}))

    assert 100 < len(done.description) <= record.DESCRIPTION_LIMIT
    assert len(lines(paths.root)) == 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_library_refuses_a_number_that_is_not_finite_as_well(paths: ProjectPaths, value: float) -> None:
    with pytest.raises(UsageError, match="not finite"):
        record.record_by_hand(paths, "hand", Entry("a", Verdict.KEEP, "one", {"val_bpb": value}))

    assert paths.tags() == []


def test_import_takes_no_other_words(paths: ProjectPaths) -> None:
    answer = recorded("--import", str(GOLDEN / "results.tsv"))

    assert answer.returncode == 2
    assert paths.tags() == []


def test_recording_that_was_killed_is_closed_as_interrupted(paths: ProjectPaths) -> None:
    record.record_by_hand(paths, "hand", Entry("a", Verdict.KEEP, "one", {"val_bpb": 1.0}))
    ledger = Ledger.open(paths.session("hand").ledger)
    ledger.append(
        "begin", experiment=1, commit="b", base="", content="", description="two", lines_added=0, lines_removed=0, source="x"
    )  # fmt: skip
    ledger.append("started", experiment=1, run=0, folder="", seed=0)
    ledger.close()

    record.record_by_hand(paths, "hand", Entry("c", Verdict.KEEP, "three", {"val_bpb": 0.9}))

    assert [e.verdict for e in read_ledger(paths.session("hand").ledger).experiments] == [
        Verdict.KEEP,
        None,
        Verdict.KEEP,
    ]
    assert [line.split("\t")[0] for line in lines(paths.root)] == ["commit", "a", "c"]


def test_recording_waits_for_the_lock_and_then_gives_up(paths: ProjectPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "LOCK_S", 0.0)

    with Lock(paths.lock).acquire(), pytest.raises(Refused, match="Another process"):
        record.record_by_hand(paths, "hand", Entry("a", Verdict.KEEP, "one", {"val_bpb": 1.0}))

    assert not paths.results.exists()


def test_breaker_opens_on_the_same_crash_whatever_its_numbers_and_reset_closes_it(paths: ProjectPaths) -> None:
    states = []
    for n in (11, 22, 33):
        crash(n)
        states.append(call("circuit_breaker").returncode)
    told = json.loads(call("circuit_breaker", "--json").stdout)
    closed = call("circuit_breaker", "--reset", "mended the shapes")

    assert states == [0, 0, 3]
    assert (told["open"], told["streak"], told["tag"]) == (True, 3, "by-hand")
    assert closed.returncode == 0
    assert call("circuit_breaker", "--reset", "again").returncode == 1
    assert read_ledger(paths.session("by-hand").ledger).notes[-1]["why"] == "mended the shapes"


def test_crashes_of_unknown_cause_are_not_taken_for_the_same(paths: ProjectPaths) -> None:
    for n in range(3):
        recorded("--commit", f"c{n}", status="crash")

    assert call("circuit_breaker").returncode == 0


def test_breaker_of_a_session_that_does_not_exist_is_a_usage_error(paths: ProjectPaths) -> None:
    assert call("circuit_breaker", "--tag", "gone").returncode == 2
    assert call("circuit_breaker", "--tag", "../gone").returncode == 2


def test_log_of_a_crash_must_exist(paths: ProjectPaths) -> None:
    with pytest.raises(UsageError, match="There is no log"):
        record.failure_of(Path("gone.log"), paths.root)


def test_update_log_writes_the_day_and_the_next_ideas(paths: ProjectPaths) -> None:
    recorded("--metric", "val_bpb=1.859", "--commit", "a1b2c3d")
    paths.experiment_notes.write_text("# Goal\nmine\n")

    answer = call("update_log", "--next", "depth 8", "a wider MLP", "--json")

    written = json.loads(answer.stdout)
    assert "| 0 | `a1b2c3d` | 1.859000 |  | keep | an edit |" in Path(written["log"]).read_text()
    assert paths.experiment_notes.read_text() == "# Goal\nmine\n\n## Next to try\n- depth 8\n- a wider MLP\n"


def test_update_log_of_a_day_without_a_decision_is_refused(paths: ProjectPaths) -> None:
    recorded("--metric", "val_bpb=1.859", "--commit", "a1b2c3d")

    answer = call("update_log", "--date", "1999-01-01")

    assert answer.returncode == 1
    assert "decided nothing on 1999-01-01" in answer.stderr
    assert not paths.daily_log("1999-01-01").exists()
    assert call("update_log", "--date", "yesterday").returncode == 2


def test_ideas_need_no_session(paths: ProjectPaths) -> None:
    answer = call("update_log", "--next", "start small")

    assert answer.returncode == 0, answer.stderr
    assert paths.experiment_notes.read_text() == "## Next to try\n- start small\n"
    assert not paths.daily_log(date.today().isoformat()).exists()


def test_scripts_work_in_a_folder_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "plain"
    folder.mkdir()
    monkeypatch.chdir(folder)

    answer = recorded("--metric", "val_bpb=1.5", "--commit", "exp000")
    without_commit = recorded("--metric", "val_bpb=1.5")

    assert answer.returncode == 0, answer.stderr
    assert lines(folder)[1].startswith("exp000\t1.500000")
    assert without_commit.returncode != 0
    assert without_commit.stderr.startswith("record_result: ")
