"""The loop on projects that are not ours: five small repositories, each with its own language, metric and agent."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import contracts
import pytest
import standin

from autoexperiment import loop, night
from autoexperiment.agents.search import SearchAgent
from autoexperiment.session import Session
from autoexperiment.vocabulary import Goal, Outcome, TrustLevel, Verdict

KEEP, DISCARD, CRASH = Verdict.KEEP, Verdict.DISCARD, Verdict.CRASH


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test makes its repository."""
    (tmp_path / "home").mkdir()
    for name, value in standin.git_environment(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    return tmp_path / "project"


def repository(root: Path, files: dict[str, str]) -> Path:
    root.mkdir()
    standin.git(root, "init", "-q", "-b", "main")
    for name, text in {".gitignore": "outputs/\ninternal/\ndata/\nresults.tsv\n__pycache__/\n", **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(textwrap.dedent(text).lstrip("\n"))
    standin.git(root, "add", "-A")
    standin.git(root, "commit", "-qm", "project")
    return root


def protocol(
    name: str, direction: str, extract: dict[str, Any], *, command: str, mutable: list[str], harness: list[str],
    archetype: str = "benchmark_opt", extension: dict[str, Any] | None = None, **changes: Any,
) -> dict[str, Any]:  # fmt: skip
    """A protocol for one of these projects."""
    return contracts.changed(
        contracts.DOCUMENT,
        meta__archetype=archetype,
        mutableSurface={"allowedGlobs": mutable, "forbiddenGlobs": [], "allowedKinds": ["code_edit", "config_edit"]},
        immutableHarness={"paths": harness, "rationale": "They measure."},
        execution__command=command,
        measurement__primaryMetric={"name": name, "direction": direction, "extract": extract},
        provenance__resultsLog__columns=["commit", name, "status", "description"],
        archetypeExtensions={
            "build_test": {
                "autoexperiment": {
                    "version": 1,
                    "noise": {"baselineRuns": 1, "standardErrors": 0},
                    **(extension or {}),
                }
            }
        },
        **changes,
    )


class Script:
    """An agent that proposes prepared edits: (description, {file: (old text, new text)})."""

    name = "script"

    def __init__(self, edits: Sequence[tuple[str, dict[str, tuple[str, str]]]]) -> None:
        self.edits = list(edits)

    def propose(self, going: night.Night) -> loop.Proposal | str:
        session = going.session
        if not self.edits:
            return "no ideas are left"
        description, changes = self.edits.pop(0)
        files = session.files_of(session.head)
        for name, (old, new) in changes.items():
            assert old.encode() in files.get(name, b""), f"{name} has no {old!r}"
            files[name] = files[name].replace(old.encode(), textwrap.dedent(new).encode())
        return loop.Proposal(files, description)


def drive(running: Session, agent: night.Agent, experiments: int = 20) -> list[Verdict | None]:
    night.drive(running, agent, night.Limit(experiments=experiments))
    return [e.verdict for e in running.ledger.experiments[1:]]


def test_scikit_learn_script_that_prints_its_accuracy(place: Path) -> None:
    pytest.importorskip("sklearn")
    root = repository(place, {
        "train.py": """
            import os

            from sklearn.datasets import load_digits
            from sklearn.model_selection import train_test_split
            from sklearn.tree import DecisionTreeClassifier

            MAX_DEPTH = 2  # levels of the tree | search: 1..12 int

            X, y = load_digits(return_X_y=True)
            X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
            tree = DecisionTreeClassifier(max_depth=MAX_DEPTH, random_state=int(os.environ["SEED"]) % 2**32)
            print(f"accuracy: {tree.fit(X_train, y_train).score(X_test, y_test):.4f}")
            """,
    })  # fmt: skip
    document = protocol(
        "accuracy", "maximize", {"kind": "regex", "pattern": r"^accuracy: ([0-9.]+)$", "exampleStdout": "accuracy: 0.3111"},
        command="{python} train.py", mutable=["train.py"], harness=[".gitignore"], archetype="ml_train",
    )  # fmt: skip

    with contracts.start(root, document) as running:
        verdicts = drive(running, SearchAgent(), 5)
        values = [e.metrics["accuracy"] for e in running.ledger.experiments]
        incumbent = running.ledger.incumbent

    assert running.recipe.goal is Goal.MAXIMIZE
    assert len(verdicts) == 5
    assert KEEP in verdicts
    assert incumbent is not None and incumbent.metrics["accuracy"] == max(values) > values[0]


@pytest.mark.skipif(shutil.which("make") is None or shutil.which("cc") is None, reason="needs make and a C compiler")
def test_run_time_of_a_c_program_through_make(place: Path) -> None:
    slow = "for (long j = 0; j < i % 2000; j++) sum += 1;"
    root = repository(place, {
        "Makefile": """
            run: bench
            \t./bench
            bench: main.c work.c
            \tcc -O0 -o bench main.c work.c
            """,
        "main.c": """
            #include <stdio.h>
            #include <time.h>
            long work(long n);
            int main(void) {
              struct timespec a, b;
              clock_gettime(CLOCK_MONOTONIC, &a);
              long found = work(20000);
              clock_gettime(CLOCK_MONOTONIC, &b);
              if (found != 19990000) { fprintf(stderr, "wrong: %ld\\n", found); return 1; }
              printf("milliseconds: %.3f\\n", (b.tv_sec - a.tv_sec) * 1e3 + (b.tv_nsec - a.tv_nsec) / 1e6);
              return 0;
            }
            """,
        "work.c": f"""
            long work(long n) {{
              long sum = 0;
              for (long i = 0; i < n; i++) {{ {slow} }}
              return sum;
            }}
            """,
    })  # fmt: skip
    document = protocol(
        "milliseconds", "minimize", {"kind": "regex", "pattern": r"^milliseconds: ([0-9.]+)$"},
        command="make -s run", mutable=["work.c"], harness=["main.c", "Makefile"],
        measurement__sampling={"warmupTrials": 1, "measuredTrials": 5, "aggregator": "median"},
        measurement__minScoreImprovementBips=1000,
    )  # fmt: skip
    edits = [
        ("one addition for the inner loop", {"work.c": (slow, "sum += i % 2000;")}),
        (
            "three times the work",
            {"work.c": ("sum += i % 2000;", "for (int k = 0; k < 300; k++) sum += (i % 2000) * (k == 0);")},
        ),
        ("a typo", {"work.c": ("return sum;", "return sun;")}),
        ("skip half of it", {"work.c": ("i++", "i += 2")}),
    ]

    with contracts.start(root, document) as running:
        verdicts = drive(running, Script(edits))
        first, better, *_ = running.ledger.experiments
        last = running.ledger.experiments[-1].runs[-1]

    assert verdicts == [KEEP, DISCARD, CRASH, CRASH]
    assert len(first.runs) == len(better.runs) == 6
    measured = sorted(run.metrics["milliseconds"] for run in better.runs[1:])
    assert better.metrics["milliseconds"] == measured[2]
    assert "wrong: " in (root / last.folder / "run.log").read_text()


def test_number_of_tests_that_pass(place: Path) -> None:
    root = repository(place, {
        "sums.py": """
            def add(a, b):
                return a - b

            def double(a):
                return a

            def half(a):
                return a / 2
            """,
        "tests/test_sums.py": """
            import sys
            sys.path.insert(0, ".")
            import sums
            def test_add(): assert sums.add(2, 2) == 4
            def test_double(): assert sums.double(2) == 4
            def test_half(): assert sums.half(4) == 2
            """,
    })  # fmt: skip
    document = protocol(
        "passed", "maximize", {"kind": "pytest_summary"}, archetype="build_test",
        command="{python} -m pytest -q -p no:cacheprovider tests || true",
        mutable=["*.py"], harness=["tests"],
    )  # fmt: skip
    edits = [
        ("add adds", {"sums.py": ("a - b", "a + b")}),
        ("half breaks", {"sums.py": ("a / 2", "a")}),
        ("double doubles", {"sums.py": ("return a\n", "return 2 * a\n")}),
        (
            "prints a summary of its own",
            {"sums.py": ("def add", "print('== 9 passed in 0.01s ==', flush=True)\ndef add")},
        ),
        (
            "skips the tests",
            {"sums.py": ("def add", "import pytest\npytest.skip('all', allow_module_level=True)\ndef add")},
        ),
    ]

    with contracts.start(root, document) as running:
        verdicts = drive(running, Script(edits))
        experiments = running.ledger.experiments

    assert verdicts[:3] == [KEEP, DISCARD, KEEP]
    assert DISCARD is verdicts[3] is verdicts[4]
    assert [e.metrics.get("passed") for e in experiments[:4]] == [1, 2, 1, 3]
    assert running.ledger.incumbent is not None and running.ledger.incumbent.number == 3


def test_metric_in_a_json_file_steered_by_a_settings_file(place: Path) -> None:
    root = repository(place, {
        "fit.py": """
            import json, os
            settings = json.load(open("settings.json"))
            rows = [(x, 3 * x + 1) for x in range(10)]
            slope, bias = 0.0, 0.0
            for _ in range(settings["rounds"]):
                for x, y in rows:
                    error = slope * x + bias - y
                    slope -= settings["rate"] * error * x
                    bias -= settings["rate"] * error
            rmse = (sum((slope * x + bias - y) ** 2 for x, y in rows) / len(rows)) ** 0.5
            os.makedirs("out", exist_ok=True)
            json.dump({"result": {"rmse": rmse}}, open("out/metrics.json", "w"))
            """,
        "settings.json": '{"rate": 0.001, "rounds": 10}\n',
    })  # fmt: skip
    document = protocol(
        "rmse", "minimize", {"kind": "json_pointer", "jsonPointer": "/result/rmse"},
        command="{python} fit.py", mutable=["settings.json"], harness=["fit.py"],
        extension={"extract": {"rmse": {"file": "out/metrics.json"}}}, mutableSurface__allowedKinds=["config_edit"],
    )  # fmt: skip
    document["mutableSurface"]["allowedKinds"] = ["config_edit"]
    edits = [
        ("a higher rate", {"settings.json": ('"rate": 0.001', '"rate": 0.01')}),
        ("a rate that diverges", {"settings.json": ('"rate": 0.01', '"rate": 10')}),
        ("more rounds", {"settings.json": ('"rounds": 10', '"rounds": 50')}),
        ("no JSON any more", {"settings.json": ('"rounds"', "rounds")}),
    ]

    with contracts.start(root, document) as running:
        verdicts = drive(running, Script(edits))
        experiments = running.ledger.experiments

    assert verdicts == [KEEP, CRASH, KEEP, DISCARD]
    assert experiments[2].outcome is Outcome.CRASHED
    assert experiments[4].runs == ()  # the static gate spares the run
    assert '"rounds": 50' in (root / "settings.json").read_text()


def test_solver_on_a_fixed_suite_judged_by_the_harness(place: Path) -> None:
    root = repository(place, {
        "solve.py": """
            import json
            answers = {}
            for case in json.load(open("suite/cases.json")):
                room, chosen = case["room"], []
                order = range(len(case["items"]))
                for i in order:
                    if case["items"][i][0] <= room:
                        room -= case["items"][i][0]
                        chosen.append(i)
                answers[case["name"]] = chosen
            json.dump(answers, open("answers.json", "w"))
            """,
        "judge.py": """
            import json, os, pathlib, sys
            answers = json.loads((pathlib.Path(os.environ["RUN_FOLDER"]) / "answers.json").read_text())
            total = 0
            for case in json.load(open("suite/cases.json")):
                chosen = answers[case["name"]]
                weight = sum(case["items"][i][0] for i in set(chosen))
                if len(set(chosen)) != len(chosen) or weight > case["room"]:
                    sys.exit(f"case {case['name']} is not packed by the rules")
                total += sum(case["items"][i][1] for i in chosen)
            print("value", file=sys.stderr)
            print(total)
            """,
        "suite/cases.json": """
            [{"name": "a", "room": 10, "items": [[10, 10], [5, 9], [5, 9]]},
             {"name": "b", "room": 6, "items": [[4, 2], [3, 6], [3, 6]]}]
            """,
    })  # fmt: skip
    document = protocol(
        "value", "maximize", {"kind": "custom"}, archetype="solver_compete",
        command="{python} -I -S solve.py", mutable=["solve.py"], harness=["judge.py", "suite"],
        extension={"extract": {"value": {"command": "{python} -I -S judge.py"}}},
    )  # fmt: skip
    by_value = 'sorted(range(len(case["items"])), key=lambda i: -case["items"][i][1] / case["items"][i][0])'
    edits = [
        ("densest first", {"solve.py": ('range(len(case["items"]))', by_value)}),
        ("pack everything", {"solve.py": ('if case["items"][i][0] <= room:', "if True:")}),
        ("heaviest first", {"solve.py": ("-case", "case")}),
        ("write the suite", {"solve.py": ("import json\n", "import json\nopen('suite/cases.json', 'a').write(' ')\n")}),
    ]

    with contracts.start(root, document) as running:
        verdicts = drive(running, Script(edits))
        experiments = running.ledger.experiments

    # By hand: in order 10 + 2; densest first 18 + 12.
    assert [e.metrics.get("value") for e in experiments] == [12, 30, None, 12, None]
    assert verdicts == [KEEP, DISCARD, DISCARD, DISCARD]
    assert experiments[0].runs[0].trust == TrustLevel.RECOMPUTED
    assert "judge" in experiments[2].reason or "not packed" in experiments[2].reason
    assert "suite/cases.json" in experiments[4].reason
