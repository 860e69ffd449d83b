"""The backend of mlx-lm: LoRA fine-tuning of a language model in a local folder, and asking the model that comes of it.

A model is an adapter, `<run_dir>/training/adapter/`, which mlx-lm's own commands take as well. Nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from autoexperiment import machine, snapshot
from autoexperiment.errors import DataError, HarnessError, LabError, Refused, UsageError, unknown
from autoexperiment.files import dump_json, load_json, read_json, remove_folder, write_json
from autoexperiment.paths import RunPaths
from autoexperiment.supervisor import Limits, run_environment, supervise
from autoexperiment.trainer import NO_TIMEOUT_S, blas_threads
from autoexperiment.vocabulary import Outcome
from autoexperiment.workflow import datasets
from autoexperiment.workflow.backends.base import Dataset, EvalTask, Place, Training
from autoexperiment.workflow.backends.mlx_lm_settings import check, settings_of
from autoexperiment.workflow.steps import Reads

INSTALL = "pip install 'autoexperiment[lora]'"
CHILD = "autoexperiment.workflow.backends.mlx_lm_child"
PARTS = ("train", "val", "test")
METRICS = ("accuracy", "f1_score", "loss", "perplexity")
SEEN = Path("outputs", ".cache", "models.json")
MOST_NATS = 700.0  # e to the power of more is no float


class MlxLm:
    """Fine-tunes a model folder on prompts and completions."""

    name = "mlx_lm"

    def check(self, model: str, hyperparameters: Mapping[str, Any]) -> None:
        """All that can be said without model and data. Raises: UsageError. HarnessError: mlx-lm is not installed."""
        need_mlx_lm()
        check(hyperparameters)

    def is_clocked(self, hyperparameters: Mapping[str, Any]) -> bool:
        return False

    def reader(self, root: Path) -> Reads:
        seen: dict[str, str] = {}

        def look(config: Mapping[str, Any]) -> dict[str, Any]:
            model = config["submit_training"]["model"]
            if model not in seen:
                _model_folder(model, root)
                seen[model] = _model_hash(model, root)
            return {"model": seen[model]}

        return look

    def submit(self, training: Training, place: Place) -> dict[str, Any]:
        need_mlx_lm()
        if training.dataset.kind != datasets.TEXT:
            raise DataError(
                f"The backend 'mlx_lm' trains on text, and {training.dataset.path} is of the kind "
                f'{training.dataset.kind!r}. Let the loader give a list of {{"prompt": text, "completion": text}}.'
            )
        layers = _layers(_model_folder(training.model, place.root))
        given = check(training.hyperparameters)
        pairs = datasets.texts(training.dataset, root=place.root)
        parts = {part: len(rows) for part, rows in split(pairs, given).items()}
        return {
            "backend": self.name,
            "model": training.model,
            "model_sha256": _model_hash(training.model, place.root),
            "dataset": asdict(training.dataset),
            "parts": parts,
            "settings": settings_of(given, n_train=parts["train"], layers=layers),
        }

    def wait(self, job: Mapping[str, Any], place: Place, *, timeout_s: float | None) -> dict[str, Any]:
        need_mlx_lm()
        folder = place.run_dir / "training"
        _begin(folder)
        settings, model = job["settings"], _unchanged(job, place.root)
        kept = {part: folder / f"{part}.jsonl" for part in PARTS}
        rows = split(_rows(job, place.root), settings)
        for part, file in kept.items():
            _write_pairs(file, rows[part])
        request = {
            "action": "fine_tune", "settings": settings, "model": str(model), "adapter": str(folder / "adapter"),
            "losses": str(folder / "losses.jsonl"), "parts": {part: str(kept[part]) for part in ("train", "val")},
        }  # fmt: skip
        _run(request, folder, what="training", timeout_s=timeout_s)
        return {
            **{name: job[name] for name in ("backend", "model", "model_sha256", "dataset", "parts", "settings")},
            "run_dir": Path(os.path.relpath(folder, place.root)).as_posix(),
            "sha256": identity_of(folder),
            "metrics": read_json(folder / "adapter" / "manifest.json")["metrics"],
        }

    def evaluate(self, model: Mapping[str, Any], task: EvalTask, place: Place) -> dict[str, dict[str, Any]]:
        need_mlx_lm()
        for name in task.metrics:
            if name not in METRICS:
                raise UsageError(unknown("metric", name, METRICS, where=f"task {task.name!r}"))
        trained, folder = place.root / model["run_dir"], place.run_dir / "evaluation"
        pairs = list(task.samples) or _read_pairs(trained / f"{task.split}.jsonl")
        if not pairs:
            raise DataError(
                f"There are no rows in the part {task.split!r} that task {task.name!r} asks. Raise "
                f"{task.split}_fraction, or give the task samples of its own."
            )
        _begin(folder)
        _write_pairs(folder / "asked.jsonl", pairs)
        request = {
            "action": "ask", "settings": model["settings"], "model": str(_unchanged(model, place.root)),
            "adapter": str(trained / "adapter"), "pairs": str(folder / "asked.jsonl"), "is_exact": task.match == "exact",
            "answers": str(folder / "answers.jsonl"), "result": str(folder / "result.json"),
        }  # fmt: skip
        _run(request, folder, what="evaluation", timeout_s=None)
        lines = [load_json(line) for line in (folder / "answers.jsonl").read_bytes().splitlines()]
        loss = read_json(folder / "result.json")["loss"]
        found = {**scores([(line["answer"], line["wanted"]) for line in lines], task.match), **losses(loss)}
        return {task.name: {name: found[name] for name in task.metrics or METRICS}}

    def is_there(self, model: Mapping[str, Any], place: Place) -> bool:
        try:
            here = identity_of(place.root / model["run_dir"]), _model_hash(model["model"], place.root)
            return here == (model["sha256"], model["model_sha256"])
        except (OSError, LabError):
            return False


BACKEND = MlxLm()


def need_mlx_lm() -> None:
    """Raises: HarnessError: mlx-lm is not installed."""
    if importlib.util.find_spec("mlx_lm") is None:
        raise HarnessError(
            f"The backend 'mlx_lm' needs mlx-lm, which is not installed. It comes with the extra 'lora'. Type: {INSTALL}"
        )


# ---- the model folder


def _model_folder(model: str, root: Path) -> Path:
    """Raises: UsageError: there is no such folder, or it holds no model."""
    folder = snapshot.place(root, model)
    if not folder.is_dir():
        raise UsageError(
            f"There is no model folder {model!r}. The backend 'mlx_lm' takes models from local folders, relative to the "
            "workspace, and downloads nothing. Fetch one first: hf download NAME --local-dir FOLDER"
        )
    if missing := [name for name in ("config.json", "tokenizer_config.json") if not (folder / name).is_file()]:
        raise UsageError(f"The model folder {model!r} has no {missing[0]}. Needed: a model as mlx-lm loads it.")
    if not any(folder.glob("model*.safetensors")):
        raise UsageError(f"The model folder {model!r} has no model*.safetensors. Needed: a model as mlx-lm loads it.")
    return folder


def _layers(folder: Path) -> int | None:
    """How many layers the model says that it has."""
    config = read_json(folder / "config.json")
    for place in (config, config.get("text_config") or {}):
        if isinstance(layers := place.get("num_hidden_layers"), int):
            return layers
    return None


def _model_hash(model: str, root: Path) -> str:
    """One hash over all files of the folder; a file that was seen before is not read again."""
    return snapshot.take(root, [model], cache=root / SEEN)


def _unchanged(job: Mapping[str, Any], root: Path) -> Path:
    """The model's folder. Raises: Refused: it is not as it was when the job was made."""
    folder = _model_folder(job["model"], root)
    if _model_hash(job["model"], root) != job["model_sha256"]:
        raise Refused(
            f"The model folder {job['model']!r} is not as it was when the job was made. Run the workflow "
            "again, in a sweep with retry_failed=True."
        )
    return folder.resolve()


# ---- rows


def split(pairs: Sequence[tuple[str, str]], settings: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """The rows of each part. Rows with the same prompt are in the same part, so that no answer is known from training."""
    seed = settings["split_seed"]
    prompts = sorted({prompt for prompt, _ in pairs}, key=lambda text: _draw(seed, text))
    n_test, n_val = (_share(settings[f"{part}_fraction"], len(prompts)) for part in ("test", "val"))
    part_of = {prompt: _part(number, n_test, n_val) for number, prompt in enumerate(prompts)}
    return {part: [pair for pair in pairs if part_of[pair[0]] == part] for part in PARTS}


def _draw(seed: int, text: str) -> bytes:
    return hashlib.sha256(f"{seed}\0{text}".encode("utf-8", "surrogatepass")).digest()


def _share(fraction: float, count: int) -> int:
    return max(1, round(fraction * count)) if fraction else 0


def _part(number: int, n_test: int, n_val: int) -> str:
    return "test" if number < n_test else "val" if number < n_test + n_val else "train"


def _rows(job: Mapping[str, Any], root: Path) -> list[tuple[str, str]]:
    return datasets.texts(Dataset(**job["dataset"]), root=root)


def _write_pairs(file: Path, pairs: Sequence[tuple[str, str]]) -> None:
    lines = [dump_json({"prompt": prompt, "completion": wanted}, indent=None) for prompt, wanted in pairs]
    file.write_text("".join(f"{line}\n" for line in lines))


def _read_pairs(file: Path) -> list[tuple[str, str]]:
    rows = [load_json(line) for line in file.read_bytes().splitlines()]
    return [(row["prompt"], row["completion"]) for row in rows]


# ---- the child


def _begin(folder: Path) -> None:
    remove_folder(folder)  # what an attempt before left
    folder.mkdir(parents=True)


def _run(request: Mapping[str, Any], folder: Path, *, what: str, timeout_s: float | None) -> None:
    """Let a process of its own do it. Raises: HarnessError: it failed. KeyboardInterrupt: it was stopped."""
    write_json(folder / "request.json", request)
    extra = {"OPENBLAS_NUM_THREADS": str(blas_threads()), "TOKENIZERS_PARALLELISM": "false"}
    if machine.device_class() == "cpu":
        extra["MLX_DISABLE_COMPILE"] = "1"  # on a CPU it calls a C++ compiler, for seconds, and gains nothing
    run = RunPaths(folder)
    try:
        ending = supervise(
            [sys.executable, "-P", "-m", CHILD, str(folder / "request.json")], cwd=folder, log=run.log,
            limits=Limits(timeout_s or NO_TIMEOUT_S), env=run_environment(folder, extra=extra),
        )  # fmt: skip
    finally:
        remove_folder(run.private)
    if ending.outcome is Outcome.INTERRUPTED:
        raise KeyboardInterrupt
    if ending.outcome is not Outcome.OK:
        raise HarnessError(f"The {what} {_ENDED.get(ending.outcome, 'failed')}: {ending.reason}. Its output: {run.log}")


_ENDED = {Outcome.DIVERGED: "diverged", Outcome.TIMED_OUT: "took too long", Outcome.OOM: "ran out of memory"}


def identity_of(training: Path) -> str:
    """One hash over an adapter that is whole, and the rows that go with it. Raises: OSError, UsageError: it is not."""
    adapter = training / "adapter"
    files: Mapping[str, str] = read_json(adapter / "manifest.json")["files"]
    for name, digest in files.items():
        if snapshot.content(adapter / name) != digest:
            raise UsageError(f"{adapter / name} is not as it was when the training ended. Train again.")
    parts = [snapshot.content(adapter), *(snapshot.content(training / f"{part}.jsonl") for part in PARTS)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


# ---- scores


def scores(answers: Sequence[tuple[str, str]], match: str) -> dict[str, float]:
    """Accuracy and F1 of (answer, wanted) pairs.

    F1 is the plain mean over the wanted answers, each taken as a class: an answer is of the class that it matches.
    """
    right = sum(is_match(answer, wanted, match) for answer, wanted in answers)
    found: Counter[str] = Counter()  # hits, twice
    either: Counter[str] = Counter()
    for kind in {wanted.strip() for _, wanted in answers}:
        for answer, wanted in answers:
            is_said, is_wanted = is_match(answer, kind, match), wanted.strip() == kind
            found[kind] += 2 * (is_said and is_wanted)
            either[kind] += is_said + is_wanted
    f1 = [found[kind] / either[kind] for kind in either]
    return {"accuracy": right / len(answers), "f1_score": sum(f1) / len(f1)}


def is_match(answer: str, wanted: str, match: str) -> bool:
    """Whether a text answers as wanted; see `EvalTask.match`."""
    return answer.strip() == wanted.strip() if match == "exact" else wanted.strip() in answer


def losses(loss: float | None) -> dict[str, float | None]:
    """Mean nats of a token of the wanted answers, and e to that power; None where they are not finite."""
    return {"loss": loss, "perplexity": None if loss is None or loss > MOST_NATS else math.exp(loss)}
