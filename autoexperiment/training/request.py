"""What the harness asks a training process to do: the words of its command line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

TRAIN, EVALUATE, DESCRIBE = "train", "evaluate", "describe"


@dataclass(frozen=True)
class Request:
    """One thing to do, in a process of its own: `python -m autoexperiment.training.child JSON`.

    Attributes:
        act: "train", "evaluate" or "describe".
        root: the workspace's root: relative data paths start there, and `module:Class` is looked for there.
        config: the experiment's configuration, as config.json holds it.
        run_dir: where config.json, metrics/ and checkpoints/ are; "" to describe.
        result: the JSON file to write the answer of "evaluate" or "describe" to.
        resume: go on from the last complete checkpoint.
        checkpoint, split: of "evaluate": a checkpoint's name, and "train", "val" or "test".
        own_dataset: of "evaluate": the dataset is meant to be the one that the run was trained on.
    """

    act: str
    root: str
    config: Mapping[str, Any]
    run_dir: str = ""
    result: str = ""
    resume: bool = False
    checkpoint: str = ""
    split: str = "test"
    own_dataset: bool = True

    def to_json(self) -> str:
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, text: str) -> Request:
        return cls(**json.loads(text))
