"""The guide that the harness grew from, walked through block by block, with the package's name adapted.

Each fenced block has an entry in STEPS, in its order; a block without one fails. Samples of output are compared line
by line: each line must begin one of ours, in the same order, once what no two runs share (times, paths, numbers) is
masked. Ours may say more.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from standin import git_environment

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT.parent / "shared" / "seeds" / "000_b996c5d8f89138c8.txt"
STAMP = re.compile(r"20\d{6}_\d{6}(?:_\d+)?")
NUMBER = re.compile(r"-?\d+\.\d+")
BASE: dict[str, Any] = {
    "name": "my-experiment",
    "dataset": {"name": "synthetic_regression", "params": {"n_samples": 100, "n_features": 5}},
    "model": {"name": "linear_regression"},
    "training": {"epochs": 2},
}

pytestmark = [
    pytest.mark.skipif(not GUIDE.exists(), reason="the guide is not here"),
    pytest.mark.skipif(shutil.which("jq") is None, reason="the guide's commands need jq"),
]


@dataclass
class Walk:
    """A workspace, and what the last command printed."""

    root: Path
    environment: dict[str, str]
    printed: str = ""
    runs: dict[str, str] = field(default_factory=dict)  # experiment -> timestamp of its last run

    def shell(self, text: str, *, cwd: Path | None = None, code: int = 0) -> str:
        answer = subprocess.run(
            ["bash", "-e", "-o", "pipefail", "-c", text], cwd=cwd or self.root, env=self.environment,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert answer.returncode == code, f"{text}\n{answer.stdout}\n{answer.stderr}"
        self.printed = answer.stdout + answer.stderr
        for name, stamp in re.findall(r"saved to: \S*/([^/\s]+)/(20\d{6}_\d{6}(?:_\d+)?)", self.printed):
            self.runs[name] = stamp
        return self.printed

    def bash(self, block: str, *, of: str = "", cwd: Path | None = None) -> str:
        """A block as it stands, but for the names of the package and of the run directories."""
        text = block.replace("python -m mlx", "python -m autoexperiment")
        if of:
            text = STAMP.sub(self.runs[of], text.replace("<timestamp>", self.runs[of]))
        return self.shell(text, cwd=cwd)

    def python(self, block: str, *, of: str = "", before: str = "", after: str = "") -> str:
        text = re.sub(r"^from mlx\.", "from autoexperiment.", block, flags=re.MULTILINE)
        if of:
            text = STAMP.sub(self.runs[of], text)
        answer = subprocess.run(
            [sys.executable, "-c", f"{before}\n{text}\n{after}"], cwd=self.root, env=self.environment,
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert answer.returncode == 0, answer.stderr
        self.printed = answer.stdout
        return answer.stdout

    def write(self, name: str, value: Any) -> Path:
        file = self.root / name
        file.write_text(json.dumps(value))
        return file

    def run(self, name: str, **changes: Any) -> None:
        self.write("my-config.json", merged({**BASE, "name": name}, changes))
        self.shell("mlx run-experiment --config my-config.json")

    def plan(self, value: dict[str, Any]) -> dict[str, Any]:
        self.write("fragment.json", value)
        answer: dict[str, Any] = json.loads(self.shell("mlx run-experiment --dry-run --json --config fragment.json"))
        return answer

    def refused(self, value: Any, *, config: str = "broken.json") -> str:
        if value is not None:
            self.write(config, value)
        return self.shell(f"mlx run-experiment --config {config}", code=1)


def merged(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """One configuration over another, objects key by key."""
    out = dict(base)
    for key, value in change.items():
        inside = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merged(out[key], value) if inside else value
    return out


def fragment(block: str) -> dict[str, Any]:
    """A piece of JSON of the guide: its comments go, and a bare member gets its braces."""
    text = re.sub(r"(?<!:)//.*", "", block).strip()
    text = re.sub(r",(\s*})", r"\1", text)
    value: dict[str, Any] = json.loads(text if text.startswith("{") else "{" + text + "}")
    return value


def masked(line: str) -> str:
    line = re.sub(r"/\S*/(?=(outputs|runs)\b)", "", STAMP.sub("STAMP", line)).replace("…", "...")
    return NUMBER.sub("N", line).strip().rstrip("|").rstrip()


def assert_like(sample: str, printed: str) -> None:
    """Each line of a sample begins a line of what was printed, in order; `...` stands for any lines."""
    lines = [masked(line) for line in printed.splitlines()]
    at = 0
    for wanted in (masked(line) for line in sample.splitlines()):
        if wanted in ("", "..."):
            continue
        found = next((i for i in range(at, len(lines)) if lines[i].startswith(wanted)), None)
        assert found is not None, f"no line like {wanted!r} after line {at} of\n{printed}"
        at = found + 1


def assert_keys(sample: str, value: Any) -> None:
    """A value has at least the keys of a sample of JSON, and the same kinds of values there."""
    kinds: Callable[[Any], type] = lambda v: float if isinstance(v, (int, float)) else type(v)  # noqa: E731

    def look(wanted: Any, got: Any) -> None:
        assert kinds(wanted) is kinds(got)
        if isinstance(wanted, dict):
            for key, inner in wanted.items():
                look(inner, got[key])
        elif isinstance(wanted, list) and wanted:
            look(wanted[0], got[0])

    whole = re.sub(r",(\s*\])", r"\1", re.sub(r"\n\s*\.\.\.", "", sample))
    look(json.loads(whole), value)


def accepts(walk: Walk, block: str, **besides: Any) -> None:
    """A fragment, over a small whole configuration, is taken with exactly its values."""
    change = fragment(block)
    base = merged(BASE, besides)
    if "dataset" in change and change["dataset"].get("name", "").startswith("synthetic"):
        base = {**base, "dataset": {}}
    if "model" in change and "name" in change["model"]:
        base = {**base, "model": {}}
    if change.get("dataset", {}).get("name") == "synthetic_classification":
        base["model"] = {"name": "mlp", "params": {"layer_sizes": [10, 4, 2]}}
    config = walk.plan(merged(base, change))["config"]
    assert merged(config, change) == config


def layout(walk: Walk, block: str, folder: Path) -> None:
    """Each name of a drawn tree, whatever its epoch's number, is in the folder."""
    there = {re.sub(r"epoch_\d+", "epoch_N", p.name) for p in folder.rglob("*")}
    names = re.findall(r"── ([\w.]+)", block)
    assert names and {re.sub(r"epoch_\d+", "epoch_N", name) for name in names} <= there


# ---- the blocks


def first_experiment(walk: Walk, block: str) -> None:
    for line in (line for line in block.splitlines() if line.startswith("mlx ")):
        walk.bash(line, of="" if "run-experiment" in line else "example-comprehensive")
    assert list((walk.root / "runs" / "example-comprehensive").glob("20*/summary.json"))


def inspect_run(walk: Walk, block: str) -> None:
    walk.bash(block if shutil.which("tree") else block.replace("tree .", "find ."), of="my-first-experiment")


def run_folder(walk: Walk, name: str, directory: str = "outputs") -> Path:
    return walk.root / directory / name / walk.runs[name]


def look_into(walk: Walk, block: str) -> None:
    walk.bash(block, cwd=run_folder(walk, "my-first-experiment"))


def written(name: str) -> Callable[[Walk, str], None]:
    def check(walk: Walk, block: str) -> None:
        assert_keys(block, json.loads((run_folder(walk, "my-first-experiment") / name).read_text()))

    return check


def first_config(walk: Walk, block: str) -> None:
    walk.write("my-config.json", json.loads(block))


def output_fragment(walk: Walk, block: str) -> None:
    config = json.loads((walk.root / "my-config.json").read_text())
    assert walk.plan(merged(config, fragment(block)))["output_dir"] == str(walk.root / "runs")


def like_before(walk: Walk, block: str) -> None:
    assert_like(block, walk.printed)


def metrics_lines(walk: Walk, block: str) -> None:
    rows = [json.loads(line) for line in walk.printed.splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, 11))
    assert set(json.loads(block.splitlines()[0])) <= set(rows[0])


def jq_queries(walk: Walk, block: str) -> None:
    chosen = walk.bash(block)
    assert '"experiment": "my-first-experiment"' in chosen
    assert chosen.rstrip().splitlines()[-1] == str(
        len(json.loads((walk.root / "outputs/index.json").read_text())["runs"])
    )


def history_api(walk: Walk, block: str) -> None:
    printed = walk.python(block)
    assert f"{walk.runs['my-first-experiment']}: my-first-experiment/{walk.runs['my-first-experiment']}" in printed
    assert re.search(r"Total runs: [1-9]", printed)


def json_form(walk: Walk, block: str) -> None:
    walk.write("form.json", json.loads(block))
    walk.shell("mlx run-experiment --dry-run --json --config form.json")


def yaml_form(walk: Walk, block: str) -> None:
    as_json = json.loads(walk.printed)
    (walk.root / "form.yaml").write_text(block)
    assert json.loads(walk.shell("mlx run-experiment --dry-run --json --config form.yaml")) == as_json


def many(walk: Walk, block: str) -> None:
    walk.bash(block)
    index = json.loads((walk.root / "runs" / "index.json").read_text())["runs"]
    assert len([run for run in index if run["experiment"].startswith("multi-")]) == 3


def long_run(walk: Walk, block: str) -> None:
    walk.run("my-experiment", training={"epochs": 50}, output={"checkpoint_frequency": 10})
    walk.bash(block, of="my-experiment")


def module_form(walk: Walk, block: str) -> None:
    walk.run("my-experiment")
    walk.bash(block, of="my-experiment")


def layout_of_runs(walk: Walk, block: str) -> None:
    walk.run("my-experiment", training={"epochs": 20}, output={"checkpoint_frequency": 10, "directory": "runs"})
    layout(walk, block, run_folder(walk, "my-experiment", "runs"))


def metrics_of_runs(walk: Walk, block: str) -> None:
    assert_keys(block, json.loads((run_folder(walk, "my-experiment", "runs") / "metrics/metrics.json").read_text()))


def stream_of_runs(walk: Walk, block: str) -> None:
    walk.shell(f"cat runs/my-experiment/{walk.runs['my-experiment']}/metrics/metrics.ndjson | jq .loss")
    assert len(walk.printed.split()) == 20
    assert float(walk.printed.split()[0]) > 0


def markdown_of_runs(walk: Walk, block: str) -> None:
    assert_like(block, (run_folder(walk, "my-experiment", "runs") / "metrics/metrics.md").read_text())


def load_checkpoint(walk: Walk, block: str) -> None:
    assert walk.python(block, of="my-experiment", after="print(predictions.shape)") == "(10,)\n"


def names(walk: Walk, block: str) -> None:
    for name in re.findall(r'"name": "([^"]+)"', block):
        assert walk.plan({**BASE, "name": name})["experiment"] == name


def evaluation_sample(walk: Walk, block: str) -> None:
    walk.shell(f"mlx eval --run-dir outputs/my-experiment/{walk.runs['my-experiment']}")
    assert_like(block, walk.printed)


def seeds(walk: Walk, block: str) -> None:
    accepts(walk, block)


def monitor(walk: Walk, block: str) -> None:
    """Training in one terminal, `tail -f` in another: each epoch's loss comes while the training goes on."""
    walk.write("my-config.json", merged(BASE, {
        "output": {"directory": "runs", "checkpoint_frequency": 100_000},
        "dataset": {"params": {"n_samples": 4000}},
        "model": {"params": {"use_gradient_descent": True}},
        "training": {"epochs": 100_000},
    }))  # fmt: skip
    shutil.rmtree(walk.root / "runs" / "my-experiment")
    train, watch = (line for line in block.splitlines() if line and not line.startswith("#"))
    training = subprocess.Popen(["bash", "-c", f"exec {train}"], cwd=walk.root, env=walk.environment)
    files = walk.root / "runs" / "my-experiment"
    try:
        while not list(files.glob("*/metrics/metrics.ndjson")):
            assert training.poll() is None
            time.sleep(0.05)
        seen = subprocess.run(
            ["bash", "-c", f"({watch.replace('jq', 'jq --unbuffered')}) | head -3"], cwd=walk.root,
            env=walk.environment, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert training.poll() is None
        assert [float(word) > 0 for word in seen.stdout.split()] == [True] * 3
    finally:
        training.terminate()
        assert training.wait(timeout=60) == 130
    shutil.rmtree(files)


def commit(walk: Walk, block: str) -> None:
    walk.bash(block)
    assert "runs/" in (walk.root / ".gitignore").read_text()


def without_name(walk: Walk, block: str) -> None:
    assert_like(block, walk.refused({k: v for k, v in BASE.items() if k != "name"}))


def unknown_dataset(walk: Walk, block: str) -> None:
    assert_like(block.split(". Currently")[0], walk.refused({**BASE, "dataset": {"name": "my_dataset"}}))
    assert "Currently supported: synthetic_regression, synthetic_classification" in walk.printed


def bad_value(walk: Walk, block: str) -> None:
    assert_like(block, walk.refused(merged(BASE, {"dataset": {"params": {"n_samples": 0}}})))


def no_file(walk: Walk, block: str) -> None:
    assert_like(block, walk.refused(None, config="my_config.json"))


def no_run(walk: Walk, block: str) -> None:
    folder = block.split(": ")[-1].strip()
    assert_like(block, walk.shell(f"mlx eval --run-dir {folder}", code=1))


def list_missing(walk: Walk, block: str) -> None:
    walk.shell(block, code=2)


def no_permission(walk: Walk, block: str) -> None:
    if os.geteuid() == 0:  # nothing is forbidden to root
        return
    (walk.root / "runs").chmod(0o500)
    assert_like(block, walk.refused(merged(BASE, {"output": {"directory": "runs"}})))


def give_permission(walk: Walk, block: str) -> None:
    walk.shell(block.splitlines()[0])


def once_unsupported(walk: Walk, block: str) -> None:
    """Data sets of pictures are supported now; what is missing is the files, and the message says which."""
    printed = walk.refused({**BASE, "dataset": {"name": "mnist", "path": "nowhere"}, "model": {"name": "resnet"}})
    assert "not yet supported" not in printed
    assert "train-images" in printed


def no_layers(walk: Walk, block: str) -> None:
    assert block.strip().removeprefix("Error: ") in walk.refused({**BASE, "model": {"name": "mlp"}})


def layers(walk: Walk, block: str) -> None:
    accepts(walk, block, dataset={"params": {"n_features": 10}})


def custom(walk: Walk, block: str) -> None:
    change = fragment(block)
    change["dataset"]["path"] = str(walk.root / "experiments" / "data" / "pump.csv")
    walk.plan({**BASE, **change})


def tuning(walk: Walk, block: str) -> None:
    """The three configurations are example files; the loop and the comparison stand in the block."""
    loop = block[block.index("for config") :]
    answer = walk.bash(loop)
    objects = answer[answer.rindex("Metrics: ") :].split("\n", 1)[1]
    found = [json.loads(piece + "}") for piece in objects.split("}") if piece.strip()]
    assert {one["experiment"] for one in found} == {"tune-lr-0.001", "tune-lr-0.01", "tune-lr-0.1"}
    assert all(one["final_loss"] > 0 for one in found)


def compare(walk: Walk, block: str) -> None:
    walk.bash(block)
    assert re.search(r"^[\w.-]+: \d", walk.printed.splitlines()[-1])


def workflow(walk: Walk, block: str) -> None:
    walk.write("my-config.json", BASE)
    printed = walk.python(block)
    assert re.search(r"Run saved to: /.*my-experiment/20", printed)
    assert re.search(r"R² score: -?\d\.\d{4}", printed)


def too_large(walk: Walk, block: str) -> None:
    body = "\n".join("    " + line for line in block.splitlines())
    head = "from autoexperiment.datasets import SyntheticRegressionDataset\ntry:\n"
    assert "1000 MB" in walk.python(f"{head}{body}\nexcept Exception as error:\n    print(error)")


def reference(walk: Walk, block: str) -> None:
    for line in (line for line in block.splitlines() if line and not line.startswith("#")):
        walk.shell(
            re.sub(r"\[([^\]]*)\]", r"\1", line)
            .replace("python -m mlx <command> options", "python -m autoexperiment --help")
            .replace("--config <path>", "--config my-config.json")
            .replace("--run-dir <path>", f"--run-dir outputs/my-experiment/{walk.runs['my-experiment']}")
            .replace("<name>", "checkpoint_final")
        )


def nothing(walk: Walk, block: str) -> None:
    """A drawing of the life of an experiment: nothing to do."""


def at(folder: str) -> Callable[[Walk, str], None]:
    return lambda walk, block: layout(walk, block, run_folder(walk, folder))


def shell_for(name: str) -> Callable[[Walk, str], None]:
    return lambda walk, block: str(walk.bash(block, of=name)) and None


def index_sample(walk: Walk, block: str) -> None:
    assert_keys(block, json.loads((walk.root / "outputs" / "index.json").read_text()))


def plain(walk: Walk, block: str) -> None:
    walk.bash(block)


def installed(walk: Walk, block: str) -> None:
    walk.shell("\n".join(line for line in block.splitlines() if line.startswith("mlx")))


def checkpoints_kept(walk: Walk, block: str) -> None:
    walk.run("my-experiment", training={"epochs": 40}, output={"checkpoint_frequency": 10})
    walk.bash(block, of="my-experiment")


FIRST = "my-first-experiment"
STEPS: list[Callable[[Walk, str], None]] = [
    installed, first_experiment, nothing, first_config, plain, like_before, output_fragment, plain, like_before,
    inspect_run, at(FIRST), look_into, like_before, look_into, written("metrics/metrics.json"), look_into,
    metrics_lines, look_into, written("summary.json"), shell_for(FIRST), like_before, plain, index_sample, jq_queries,
    history_api, json_form, yaml_form, accepts, accepts, accepts, layers, accepts, accepts, plain, many, module_form,
    layout_of_runs, metrics_of_runs, stream_of_runs, markdown_of_runs, load_checkpoint, long_run,
    shell_for("my-experiment"), shell_for("my-experiment"), evaluation_sample, seeds, plain, names, accepts, monitor, plain,
    accepts, commit, without_name, json_form, unknown_dataset, bad_value, no_file, list_missing, no_run, plain,
    no_permission, give_permission, once_unsupported, no_layers, layers, accepts, accepts, accepts, checkpoints_kept,
    custom, tuning, compare, workflow, too_large, reference,
]  # fmt: skip


@pytest.fixture
def walk(tmp_path: Path) -> Walk:
    home = tmp_path / "home"
    home.mkdir()
    environment = {
        **git_environment(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "LANG": "C.UTF-8",
    }  # fmt: skip
    root = tmp_path / "workspace"
    shutil.copytree(ROOT / "experiments", root / "experiments", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run(["git", "init", "-q"], cwd=root, env=environment, check=True)
    return Walk(root, environment)


def test_every_block_of_the_guide_does_what_it_says(walk: Walk) -> None:
    blocks = re.findall(r"^```\w*\n(.*?)^```", GUIDE.read_text(), re.MULTILINE | re.DOTALL)

    assert len(blocks) == len(STEPS)
    for number, (block, step) in enumerate(zip(blocks, STEPS, strict=True)):
        try:
            step(walk, block)
        except BaseException as error:
            error.add_note(f"in block {number} of the guide:\n{block}")
            raise
