"""Compute bits per byte from a candidate's logits, in a process that never imports the candidate.

Usage: python -m autoexperiment.measure.scorer REQUEST.json RESULT.json

The rows, the targets, the byte counts, the batch shape and the arithmetic come from the harness's
own copy of `prepare.py`; the candidate contributes logits and nothing else. Exit 0 when a result
was written, whether it is a score or a reason why there is none.
"""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autoexperiment.files import read_json, write_json
from autoexperiment.measure import wire

LOGITS_BUDGET_BYTES = 64_000_000  # per slot: bounds memory whatever the vocabulary and the row length
MAX_ROWS = 16


@dataclass(frozen=True)
class ScoreRequest:
    """What to score.

    Attributes:
        harness: folder with the harness's prepare.py.
        candidate: fresh folder with the candidate's files.
        rows: how many of the validation rows, from the first; None for all, as for every number that counts.
    """

    harness: str
    candidate: str
    checkpoint: str
    module: str = "train"
    rows: int | None = None

    def save(self, path: Path) -> None:
        write_json(path, asdict(self))


@dataclass(frozen=True)
class Score:
    """The metric, or why there is none.

    `nats` is summed over `tokens` targets that stand for `text_bytes` bytes of text. `problem` is one of
    "" (scored), "crashed" (the candidate's code failed), "nonfinite", "shape".
    """

    val_bpb: float | None
    nats: float | None
    tokens: int
    text_bytes: int
    eval_s: float
    problem: str
    message: str

    def save(self, path: Path) -> None:
        write_json(path, asdict(self))

    @classmethod
    def load(cls, path: Path) -> Score:
        return cls(**read_json(path))


class _PredictorFailed(Exception):
    """`args[0]` is the problem word, `args[1]` the message."""


class _Predictor:
    """The untrusted child and the two pipes to it."""

    def __init__(self, request: ScoreRequest, shape: wire.Shape, shared: Path) -> None:
        ask_read, self.ask = os.pipe()
        self.answers, answer_write = os.pipe()
        shared.touch()
        os.truncate(shared, shape.shared_bytes)
        sizes = [str(shape.rows), str(shape.length), str(shape.vocab)]
        command = [sys.executable, "-m", "autoexperiment.measure.predictor"]
        command += [request.module, request.checkpoint, str(shared), str(ask_read), str(answer_write), *sizes]
        self.process = subprocess.Popen(
            command, cwd=request.candidate, stdin=subprocess.DEVNULL, pass_fds=(ask_read, answer_write)
        )
        os.close(ask_read)
        os.close(answer_write)

    def send(self, slot: int, tokens: Any) -> None:
        try:
            wire.write_all(self.ask, wire.pack_request(slot, len(tokens)) + tokens.tobytes())
        except BrokenPipeError:
            raise self._died() from None

    def wait_answer(self) -> None:
        status = wire.read_exactly(self.answers, 1)
        if status == wire.WRONG_SHAPE:
            raise _PredictorFailed("shape", "build_model(config) gives logits of another shape than (B, T, vocab).")
        if status != wire.DONE:
            raise self._died()

    def _died(self) -> _PredictorFailed:
        code = self.process.wait()
        return _PredictorFailed("crashed", f"The candidate's model failed while it was being scored (exit {code}).")

    def close(self) -> None:
        os.close(self.ask)
        os.close(self.answers)
        self.process.kill()
        self.process.wait()


def _batches(rows: Any, size: int) -> Iterator[Any]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def score(request: ScoreRequest, *, scratch: Path) -> Score:
    """Score one checkpoint on the dataset's fixed validation rows.

    `scratch`: a folder for the shared file. The predictor works one batch ahead of the arithmetic.
    """
    sys.path.insert(0, request.harness)
    prepare = importlib.import_module("prepare")
    dataset = prepare.load_dataset()
    if request.rows is not None:
        dataset = replace(dataset, val_rows=dataset.val_rows[: request.rows])
    rows = max(1, min(MAX_ROWS, LOGITS_BUDGET_BYTES // (dataset.seq_len * dataset.vocab_size * 4)))
    shape = wire.Shape(rows, dataset.seq_len, dataset.vocab_size)
    shared = scratch / "logits"
    predictor = _Predictor(request, shape, shared)
    started = time.perf_counter()
    try:
        nats, text_bytes = _sum_over(predictor, prepare, dataset, shape, shared)
    except _PredictorFailed as failure:
        return Score(None, None, 0, 0, time.perf_counter() - started, *failure.args)
    finally:
        predictor.close()
        shared.unlink(missing_ok=True)
    eval_s = time.perf_counter() - started
    tokens = len(dataset.val_rows) * dataset.seq_len
    if not abs(nats) < float("inf"):
        return Score(None, None, tokens, text_bytes, eval_s, "nonfinite", "The model's logits are not finite.")
    return Score(prepare.bpb(nats, text_bytes), nats, tokens, text_bytes, eval_s, "", "")


def _sum_over(predictor: _Predictor, prepare: Any, dataset: Any, shape: wire.Shape, shared: Path) -> tuple[float, int]:
    import mlx.core as mx
    import numpy as np

    slots = np.memmap(shared, dtype=np.float32, mode="r", shape=(wire.SLOTS, shape.slot_bytes // 4))
    batches = [np.asarray(batch, dtype=np.int32) for batch in _batches(dataset.val_rows, shape.rows)]
    nats, text_bytes = 0.0, 0
    predictor.send(0, batches[0][:, :-1])
    for number, batch in enumerate(batches):
        predictor.wait_answer()
        if number + 1 < len(batches):
            predictor.send((number + 1) % wire.SLOTS, batches[number + 1][:, :-1])
        size = len(batch) * shape.length * shape.vocab
        logits = slots[number % wire.SLOTS][:size].reshape(len(batch), shape.length, shape.vocab)
        batch_nats, batch_bytes = prepare.nats_and_bytes(mx.array(logits), mx.array(batch[:, 1:]), dataset.token_bytes)
        nats, text_bytes = nats + batch_nats, text_bytes + batch_bytes
    return nats, text_bytes


def main(argv: list[str]) -> int:
    """Read the request, score, write the result beside it."""
    request, result = ScoreRequest(**read_json(Path(argv[0]))), Path(argv[1])
    score(request, scratch=result.parent).save(result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
