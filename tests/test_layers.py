"""The layer map of CLAUDE.md, enforced: imports point down, and the lower layers run on a bare python3."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "autoexperiment"


def module_names() -> list[str]:
    names = []
    for file in PACKAGE.rglob("*.py"):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return sorted(name for name in names if name)


def packages(*names: str) -> set[str]:
    """All modules of some packages."""
    return {name for name in module_names() if name.split(".")[0] in names}


# Each layer may import its own and every earlier one. A module is named by its path in the package.
LAYERS: list[tuple[str, set[str]]] = [
    ("facts", {"errors", "vocabulary", "failpoint", "files", "paths", "budget", "metrics", "blas", "machine", "clocks",
               "globs", "goals", "threads", "dotpaths", "extras", "naming", "hosts"}),
    ("values", {"recipe", "run", "failure", "ending", "surface", "readings", "seeding", "references",
                "untrusted", "constants"}),
    ("effects", {"warden", "confine", "watch", "supervisor", "journal", "ledger", "git", "worktree", "index", "trees",
                 "candidates", "holdout", "snapshot", "preparation", "fence", "awake", "history"}),
    ("measure", {"measure.wire", "measure.predictor", "measure.scorer", "measure"}),
    ("judgement", {"verdict", "breaker", "results", "summary", "gate", "brief"}),
    ("documents", packages("protocol", "config")),
    ("harness", packages("datasets", "models", "training")),
    ("acts", {"trained", "sealed", "evaluation", "trial", "surroundings", "session", "launch", "admission",
              "measuring", "judging", "daily_log", "report", "plots", "views", "record", "loop", "night",
              "handover", "limits", "desk", "preflight", "trainer", "planning", "kept", "evaluations",
              "runner", "ring"} | packages("workflow", "sweep")),
    ("edges", packages("analysis", "agents", "cli", "zoo", "trackers") | {"doctor", "__main__"}),
]  # fmt: skip
BARE = ["errors", "vocabulary", "failpoint", "files", "paths", "budget", "metrics", "globs", "recipe", "surface",
        "readings", "seeding", "gate", "journal", "ledger", "git", "worktree", "index", "trees", "candidates",
        "verdict", "breaker", "results", "daily_log", "record", "blas",
        "goals", "history", "training.request"]  # fmt: skip


def path_of(name: str) -> Path:
    file = PACKAGE / (name.replace(".", "/") + ".py")
    return file if file.exists() else PACKAGE / name.replace(".", "/") / "__init__.py"


def imports_of(source: str, *, top_level_only: bool = False) -> set[str]:
    """Modules of the package that a source imports, as paths in the package."""
    known, found = set(module_names()), set()
    tree = ast.parse(source)
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            below = {name for name in names if name.removeprefix("autoexperiment.") in known}
            found |= below if below == names else {*below, node.module}
    inside = {name.removeprefix("autoexperiment.") for name in found if name.startswith("autoexperiment.")}
    return inside & known


def rank(name: str) -> int:
    return next(i for i, (_, members) in enumerate(LAYERS) if name in members)


def test_every_module_has_a_layer() -> None:
    placed = set().union(*(members for _, members in LAYERS))

    assert set(module_names()) == placed


@pytest.mark.parametrize("name", module_names())
def test_imports_point_down(name: str) -> None:
    targets = imports_of(path_of(name).read_text())

    wrong = [target for target in targets if rank(target) > rank(name)]
    assert not wrong, f"{name} imports {wrong} from a higher layer"


def test_there_is_no_import_cycle() -> None:
    edges = {name: imports_of(path_of(name).read_text(), top_level_only=True) - {name} for name in module_names()}

    while leaves := [name for name, targets in edges.items() if not targets & edges.keys()]:
        for name in leaves:
            del edges[name]

    assert not edges, f"these modules import each other: {sorted(edges)}"


def test_the_checker_sees_a_planted_upward_import() -> None:
    planted = "def f():\n    from autoexperiment.loop import step\n"

    assert imports_of(planted) >= {"loop"}
    assert rank("loop") > rank("errors")


@pytest.mark.parametrize("name", BARE)
def test_lower_layers_run_on_a_bare_python(name: str) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import autoexperiment.{name}"

    answer = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)

    assert answer.returncode == 0, answer.stderr


def test_nothing_of_ours_is_importable_as_mlx() -> None:
    assert not (ROOT / "mlx").exists()
    assert not (ROOT / "mlx.py").exists()
    assert not (PACKAGE / "mlx.py").exists()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; sys.argv = ['mlx', '--help']\n"
        "from autoexperiment.cli import main\nmain()\n"
        "heavy = {'mlx', 'numpy', 'matplotlib', 'psutil', 'tabulate', 'pandas'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)

    assert answer.returncode == 0, answer.stderr
    assert "loop" in answer.stdout
