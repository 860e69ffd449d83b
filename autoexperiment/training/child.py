"""The process that trains, evaluates or describes, for `mlx run-experiment` and `mlx eval`.

Usage: python -m autoexperiment.training.child REQUEST_JSON   (see request.py)

Exit codes: 0 done · 1 refused or failed · 3 diverged · 130 interrupted (SIGINT, SIGTERM). Its last line says the
same in words; 0 without a last line that begins with "done:" is foreign code that has ended the process.
MLX is imported for models that need it only.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from autoexperiment.errors import DataError, LabError, unknown
from autoexperiment.files import write_json
from autoexperiment.paths import RunPaths
from autoexperiment.training.request import DESCRIBE, EVALUATE, TRAIN, Request
from autoexperiment.training.voice import Voice

INTERRUPTED_EXIT = 130


class Stop:
    """What SIGINT and SIGTERM do: raise KeyboardInterrupt, or, once training goes on, wait for the batch's end."""

    def __init__(self) -> None:
        self.is_asked = False
        self.waits = False

    def install(self) -> None:
        """Also after foreign code has run, which may have put handlers of its own there."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._come)

    def _come(self, number: int, frame: FrameType | None) -> None:
        self.is_asked = True
        if not self.waits:
            raise KeyboardInterrupt


def main(argv: list[str]) -> int:
    """Do what one request asks for."""
    voice, stop = Voice.take_over(), Stop()
    try:
        stop.install()
        return act(Request.from_json(argv[0]), voice, stop)
    except KeyboardInterrupt:
        voice.say("interrupted: before the first epoch")
        return INTERRUPTED_EXIT
    except LabError as error:
        voice.say(f"error: {error}")
    except MemoryError as error:
        voice.say(f"error: out of memory: {error}. Use a smaller model or dataset, or a smaller training.batch_size.")
    except BaseException:
        voice.write(traceback.format_exc())
    return 1


def act(request: Request, voice: Voice, stop: Stop) -> int:
    """Raises: LabError: the request can't be fulfilled."""
    acts: dict[str, Callable[[Request, Voice, Stop], int]] = {
        TRAIN: _train,
        EVALUATE: _evaluate,
        DESCRIBE: _describe,
    }
    if request.act not in acts:
        raise DataError(unknown("act", request.act, acts))
    return acts[request.act](request, voice, stop)


@contextmanager
def _foreign_code(request: Request, stop: Stop) -> Iterator[None]:
    """While a dataset's own class may run: in the workspace's root, where its paths start; signals are ours again after."""
    if not request.config["dataset"].get("loader"):
        yield
        return
    import autoexperiment.blas  # noqa: F401  # before the class imports mlx.core

    with chdir(request.root):
        yield
    stop.install()


def _load(request: Request, voice: Voice, stop: Stop) -> Any:
    """The data, split."""
    from autoexperiment import datasets

    with _foreign_code(request, stop):
        splits = datasets.load(request.config["dataset"], root=Path(request.root))
    sizes = ", ".join(f"{len(splits.part(name))} {name}" for name in ("train", "val", "test"))
    shape = splits.facts.shape
    voice.say(f"dataset: {sizes} rows of {' x '.join(map(str, shape))} {'features' if len(shape) == 1 else 'numbers'}")
    return splits


def _train(request: Request, voice: Voice, stop: Stop) -> int:
    config, run = request.config, RunPaths(Path(request.run_dir).resolve())
    splits = _load(request, voice, stop)
    from autoexperiment import models
    from autoexperiment.training import fit

    model = models.make(config["model"], splits.facts)
    voice.say(f"model: {model.name}, {model.n_parameters()} parameters")
    should_stop = _waiting(stop)
    trainer = fit.trainer_of(model, splits, config["training"], should_stop=should_stop)
    end = fit.train(
        trainer, run, fit.Plan.of(config), data=splits.fingerprint,
        resume=request.resume, say=voice.say, should_stop=should_stop,
    )  # fmt: skip
    voice.say(end.line)
    return end.exit_code


def _waiting(stop: Stop) -> Callable[[], bool]:
    """From here on, a signal is looked at after each batch."""
    stop.waits = True
    return lambda: stop.is_asked


def _evaluate(request: Request, voice: Voice, stop: Stop) -> int:
    from autoexperiment import datasets
    from autoexperiment.training import evaluate

    checkpoint, model = evaluate.load(Path(request.run_dir), request.checkpoint, config=request.config)
    voice.say(f"checkpoint: {checkpoint.name}, after epoch {checkpoint.epoch}")
    splits = _load(request, voice, stop)
    evaluate.check_fit(model, splits.facts, where=checkpoint.folder)
    datasets.check_part(request.config["dataset"], splits.facts, request.split)
    own_data = evaluate.is_own_data(checkpoint, splits.fingerprint, is_meant=request.own_dataset)
    part = splits.part(request.split)
    metrics = evaluate.measure(model, part, facts=splits.facts)
    answer = {
        "checkpoint": checkpoint.name,
        "epoch": checkpoint.epoch,
        "split": request.split,
        "task": splits.facts.task,
        "n_rows": len(part),
        "own_data": own_data,
        "metrics": metrics,
        **({"classes": list(model.facts.classes)} if model.facts.classes else {}),
    }
    write_json(Path(request.result), answer)
    voice.say(f"done: {len(part)} rows")
    return 0


def _describe(request: Request, voice: Voice, stop: Stop) -> int:
    from autoexperiment import datasets

    with _foreign_code(request, stop):
        facts = datasets.describe(request.config["dataset"], root=Path(request.root))
    write_json(Path(request.result), asdict(facts))
    voice.say(f"done: {facts.n_rows} rows")
    return 0


if __name__ == "__main__":
    # Everything is on the disk. A thread that foreign code has left, or what it wants done at exit, changes nothing.
    os._exit(main(sys.argv[1:]))
