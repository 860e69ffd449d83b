"""Run the candidate's model on tokens and hand back logits. This process runs untrusted code.

Usage: python predictor.py MODULE CHECKPOINT SHARED REQUEST_FD ANSWER_FD ROWS LENGTH VOCAB
(started by the scorer in a fresh folder that holds the candidate's files)

It is given inputs, never targets, and reports nothing but logits.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from autoexperiment.measure import wire


def _load_model(module: str, checkpoint: Path) -> Any:
    candidate = importlib.import_module(module)
    import mlx.core as mx  # after the candidate's own import, which loads the BLAS first

    model = candidate.build_model(json.loads((checkpoint / "config.json").read_text()))
    model.load_weights(str(checkpoint / "model.safetensors"))
    mx.eval(model.parameters())
    return model


def _answer(model: Any, tokens: np.ndarray, shape: wire.Shape, slot: np.ndarray) -> bytes:
    import mlx.core as mx

    logits = model(mx.array(tokens))
    if tuple(logits.shape) != (*tokens.shape, shape.vocab):
        print(f"build_model gave logits of shape {tuple(logits.shape)}, not {(*tokens.shape, shape.vocab)}")
        return wire.WRONG_SHAPE
    slot[: tokens.size * shape.vocab] = np.array(logits.astype(mx.float32), copy=False).reshape(-1)
    return wire.DONE


def main(argv: list[str]) -> int:
    """Serve requests until the pipe closes."""
    module, checkpoint, shared, request_fd, answer_fd, *sizes = argv
    shape = wire.Shape(*(int(size) for size in sizes))
    slots = np.memmap(shared, dtype=np.float32, mode="r+", shape=(wire.SLOTS, shape.slot_bytes // 4))
    sys.path.insert(0, str(Path.cwd()))
    model = _load_model(module, Path(checkpoint))
    while request := wire.read_request(int(request_fd)):
        slot, rows = request
        blob = wire.read_exactly(int(request_fd), rows * shape.length * 4)
        tokens = np.frombuffer(blob, dtype=np.int32).reshape(rows, shape.length)
        wire.write_all(int(answer_fd), _answer(model, tokens, shape, slots[slot]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
