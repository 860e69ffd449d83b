"""The process that fine-tunes a language model with mlx-lm, or asks one; started under the supervisor by mlx_lm.py.

Usage: python -m autoexperiment.workflow.backends.mlx_lm_child REQUEST.json

Exit: 0 done · 1 failed · 3 the loss diverged. What it gives stands in files; one that is named last is written last.
"""

from __future__ import annotations

import autoexperiment.blas  # noqa: F401  loads a fast BLAS: comes before the first import of mlx

# isort: split
import math
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from autoexperiment import snapshot
from autoexperiment.files import dump_json, load_json, read_json, write_json

SEPARATOR = "\n"  # between prompt and completion, for a tokenizer without a chat template
WEIGHTS, SETTINGS, MANIFEST = "adapters.safetensors", "adapter_config.json", "manifest.json"
ANSWER_SLACK = 8  # tokens: a text may be written with more of them than it has at least
REPORTS = 50  # losses that are written down, at most about so many
DIVERGED = 3

Row = tuple[list[int], int]  # tokens, and how many of them are the prompt


class Diverged(Exception):
    """The loss is not finite."""


# ---- text as tokens


def encode_prompt(tokenizer: Any, prompt: str) -> list[int]:
    """The tokens after which the answer begins."""
    if tokenizer.has_chat_template:
        asked = [{"role": "user", "content": prompt}]
        return list(tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False))
    tokens = list(tokenizer.encode(prompt + SEPARATOR))
    return tokens[:-1] if tokens and tokens[-1] == tokenizer.eos_token_id else tokens


def encode_row(tokenizer: Any, prompt: str, completion: str, *, mask_prompt: bool) -> Row:
    """A row's tokens, the end included, and how many at its beginning no loss is taken of."""
    asked = encode_prompt(tokenizer, prompt)
    if tokenizer.has_chat_template:
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": completion}]
        whole = list(tokenizer.apply_chat_template(messages, return_dict=False))
    else:
        end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
        whole = [*asked, *tokenizer.encode(completion, add_special_tokens=False), *end]
    return whole, len(asked) if mask_prompt else 0


def read_pairs(file: Path) -> list[tuple[str, str]]:
    """Prompt and completion of each line."""
    rows = [load_json(line) for line in file.read_bytes().splitlines()]
    return [(row["prompt"], row["completion"]) for row in rows]


# ---- loss


def masked_loss(model: Any, batch: Any, bounds: Any) -> tuple[Any, Any]:
    """Mean cross-entropy in nats over the tokens that count, and how many these are.

    Args:
        batch: int32 (B, T + 1), padded at the end.
        bounds: (B, 2): the first position that counts, and the length; mlx-lm's own loss counts a padding token, too.
    """
    import mlx.core as mx
    import mlx.nn as nn

    targets = batch[:, 1:]
    steps = mx.arange(1, targets.shape[1] + 1)
    mask = mx.logical_and(steps >= bounds[:, 0:1], steps < bounds[:, 1:])
    count = mx.maximum(mask.sum(), 1)
    nats = nn.losses.cross_entropy(model(batch[:, :-1]).astype(mx.float32), targets) * mask
    return nats.sum() / count, count


def loss_of(model: Any, rows: Sequence[Row], settings: Mapping[str, Any]) -> float | None:
    """The mean over all tokens of all rows; None without rows, or if it is not finite."""
    if not rows:
        return None
    tuner: Any = import_module("mlx_lm.tuner")
    sizes = range(1, min(len(rows), settings["batch_size"]) + 1)
    size = max(size for size in sizes if len(rows) % size == 0)  # mlx-lm leaves a last, smaller batch out
    loss = float(tuner.evaluate(model, rows, size, -1, max_seq_length=settings["max_seq_length"], loss=masked_loss))
    return loss if math.isfinite(loss) else None


# ---- training


class Told:
    """Writes down the losses that mlx-lm reports. It asks for these two methods."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.first: float | None = None
        self.last: float | None = None

    def on_train_loss_report(self, told: Mapping[str, Any]) -> None:
        """Raises: Diverged."""
        loss = float(told["train_loss"])
        if not math.isfinite(loss):
            raise Diverged(f"loss {loss:g} at iteration {told['iteration']}")
        self.first = loss if self.first is None else self.first
        self.last = loss
        with self.file.open("a") as file:
            file.write(dump_json({"iteration": told["iteration"], "train_loss": loss}, indent=None) + "\n")

    def on_val_loss_report(self, told: Mapping[str, Any]) -> None:
        """Nothing: the validation rows are looked at before and after."""


def fine_tune(request: Mapping[str, Any]) -> None:
    """Train an adapter, and leave it in a folder whose manifest is written when all else is there."""
    import mlx.core as mx
    import numpy as np

    lm: Any = import_module("mlx_lm")
    tuner: Any = import_module("mlx_lm.tuner")
    settings, folder = request["settings"], Path(request["adapter"])
    folder.mkdir()
    model, tokenizer = lm.load(request["model"])
    rows = {
        part: [encode_row(tokenizer, *pair, mask_prompt=settings["mask_prompt"]) for pair in read_pairs(Path(file))]
        for part, file in request["parts"].items()
    }
    mx.random.seed(settings["seed"])
    np.random.seed(settings["seed"] % 2**32)  # mlx-lm draws the order of the batches from here
    lora = {"rank": settings["lora_rank"], "scale": settings["lora_scale"], "dropout": settings["lora_dropout"]}
    model.freeze()
    tuner.linear_to_lora_layers(model, settings["lora_layers"], lora)
    before = loss_of(model, rows["val"], settings)
    told = Told(Path(request["losses"]))
    tuner.train(
        model, _optimizer(settings), rows["train"], None, loss=masked_loss, training_callback=told,
        args=tuner.TrainingArgs(
            batch_size=settings["batch_size"], iters=settings["iters"], max_seq_length=settings["max_seq_length"],
            steps_per_report=max(1, settings["iters"] // REPORTS), adapter_file=str(folder / WEIGHTS),
            steps_per_save=settings["iters"] + 1,  # at the end only
        ),
    )  # fmt: skip
    write_json(
        folder / SETTINGS,
        {"fine_tune_type": "lora", "num_layers": settings["lora_layers"], "lora_parameters": lora},
    )
    metrics = {
        "train_loss_first": told.first, "train_loss": told.last,
        "val_loss_before": before, "val_loss": loss_of(model, rows["val"], settings),
    }  # fmt: skip
    _seal(folder, {name: value for name, value in metrics.items() if value is not None})


def _optimizer(settings: Mapping[str, Any]) -> Any:
    import mlx.optimizers as optim

    kinds = {"adam": optim.Adam, "adamw": optim.AdamW, "sgd": optim.SGD}
    return kinds[settings["optimizer"]](learning_rate=settings["learning_rate"])


def _seal(folder: Path, metrics: Mapping[str, float]) -> None:
    files = {name: snapshot.content(folder / name) for name in (WEIGHTS, SETTINGS)}
    write_json(folder / MANIFEST, {"files": files, "metrics": metrics})


# ---- asking


def ask(request: Mapping[str, Any]) -> None:
    """Let the fine-tuned model answer each prompt greedily; writes the answers, then the loss on the wanted ones."""
    lm: Any = import_module("mlx_lm")
    settings, pairs = request["settings"], read_pairs(Path(request["pairs"]))
    model, tokenizer = lm.load(request["model"], adapter_path=request["adapter"])
    most = _most_tokens(tokenizer, [wanted for _, wanted in pairs], request)
    with Path(request["answers"]).open("w") as file:
        for prompt, wanted in pairs:
            tokens = encode_prompt(tokenizer, prompt)
            answer = lm.generate(model, tokenizer, prompt=tokens, max_tokens=most)
            line = {"prompt": prompt, "wanted": wanted, "answer": answer}
            file.write(dump_json(line, indent=None) + "\n")
    rows = [encode_row(tokenizer, *pair, mask_prompt=settings["mask_prompt"]) for pair in pairs]
    write_json(Path(request["result"]), {"loss": loss_of(model, rows, settings)})


def _most_tokens(tokenizer: Any, wanted: Sequence[str], request: Mapping[str, Any]) -> int:
    """How long an answer may be: one that goes on past the longest wanted one is none of them."""
    most: int = request["settings"]["max_answer_tokens"]
    if not request["is_exact"]:
        return most
    longest = max(len(tokenizer.encode(text, add_special_tokens=False)) for text in wanted)
    return min(most, longest + ANSWER_SLACK)


def main(argv: list[str]) -> int:
    """Do what the request says."""
    request = read_json(Path(argv[0]))
    try:
        {"fine_tune": fine_tune, "ask": ask}[request["action"]](request)
    except Diverged as error:
        print(f"diverged: {error}", flush=True)
        return DIVERGED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
