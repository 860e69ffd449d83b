"""The guide that sweeps grew from: every block of it runs with our package's names, a local model and our backend."""

from __future__ import annotations

import ast
import asyncio
import re
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from workspaces import Workspace

SEED = next((Path(__file__).resolve().parents[2] / "shared" / "seeds").glob("003_*.txt"), None)
NAMES = {
    "motools.workflow": "autoexperiment.workflow",
    "motools.analysis": "autoexperiment.analysis",
    "mozoo.workflows.train_and_evaluate": "autoexperiment.workflow",
    "mozoo.datasets.hello_world": "autoexperiment.zoo.hello_world",
    "mozoo.tasks.hello_world": "autoexperiment.zoo.hello_world",
    "meta-llama/Llama-3.2-1B": "mlp",
    '"tinker"': '"harness"',
    '"inspect"': '"harness"',
}
pytestmark = pytest.mark.skipif(SEED is None, reason="the document is not beside this checkout")


def blocks() -> list[str]:
    """The Python blocks of the document, in order, with our names."""
    assert SEED is not None
    text = SEED.read_text()
    for theirs, ours in NAMES.items():
        text = text.replace(theirs, ours)
    return [textwrap.dedent(block) for block in re.findall(r"```python\n(.*?) *```", text, re.DOTALL)]


def run(code: str, place: Workspace) -> str:
    """Run a script in a workspace; returns what it printed."""
    (place.root / "script.py").write_text(code)
    answer = subprocess.run(
        [sys.executable, "script.py"], cwd=place.root, env=place.environment, capture_output=True, text=True
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout


def test_complete_example_gives_table_intervals_picture_and_best(tmp_path: Path) -> None:
    example = next(block for block in blocks() if block.startswith('"""Complete sweep example'))

    with Workspace.of(tmp_path) as place:
        printed = run(example, place)
        again = run(example, place)

        assert re.search(r"learning_rate +mean +lower_bound +upper_bound +count +confidence", printed)
        assert re.search(r"Best learning rate: (0\.0001|5e-05|1e-05)\n", printed)
        accuracy = float(re.search(r"Best accuracy: (\S+)", printed)[1])  # type: ignore[index]
        assert 0 <= accuracy <= 1
        width, height = struct.unpack(">II", (place.root / "results.png").read_bytes()[16:24])
        assert width > 300 < height
        assert again == printed
        assert len(list(place.root.glob("outputs/*/2*"))) == 3  # nothing was run twice


def test_basic_example_says_how_many_were_run(tmp_path: Path) -> None:
    with Workspace.of(tmp_path) as place:
        printed = run(blocks()[0], place)

    assert printed == "Completed 3 workflow runs\n"


def test_every_other_block_runs_on_a_sweep_of_two_parameters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = [block for block in blocks() if not block.startswith('"""Complete')]
    sweep = first.replace("[1e-4, 5e-5, 1e-5],", '[1e-2, 1e-3],\n "submit_training.hyperparameters.lora_rank": [2, 4],')
    sweep = sweep.replace("asyncio.run(main())", "").replace("print(f", "return results\n    print(f")
    monkeypatch.chdir(tmp_path)
    known: dict[str, Any] = {}
    exec(sweep, known)

    async def all_blocks() -> None:
        known["results"] = await known["main"]()
        for block in others:
            code = compile(block, "block", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            waits = eval(code, known)
            if waits is not None:
                await waits

    asyncio.run(all_blocks())

    assert list(known["df"].columns) == [
        "learning_rate",
        "lora_rank",
        "task",
        "accuracy",
        "f1_score",
        "status",
        "error",
    ]
    assert len(known["df"]) == 4
    assert known["fig"].axes[0].get_title() == "Hyperparameter Heatmap"
    assert (tmp_path / "sweep_results.csv").read_text().count("\n") == 5
    assert set(known["param_grid"]) == {
        "submit_training.hyperparameters.learning_rate", "submit_training.hyperparameters.seed"
    }  # fmt: skip
