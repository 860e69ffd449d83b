"""LoRA fine-tuning by mlx-lm as a backend of the train-and-evaluate workflow, on a model that the test writes itself."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tiny_llama
from hypothesis import given
from hypothesis import strategies as st

from autoexperiment.errors import DataError, HarnessError, LabError, Refused, UsageError
from autoexperiment.workflow import datasets
from autoexperiment.workflow.backends import mlx_lm_child, mlx_lm_settings
from autoexperiment.workflow.backends.base import Dataset, EvalTask, Place, Training, backend
from autoexperiment.workflow.backends.mlx_lm import CHILD, identity_of, losses, scores, split
from autoexperiment.zoo.hello_world import generate_hello_world_dataset

LM: Any = backend("mlx_lm")
SMALL = {"iters": 40, "learning_rate": 1e-2, "batch_size": 4, "val_fraction": 0.1, "test_fraction": 0.2}

needs_mlx_lm = pytest.mark.skipif(importlib.util.find_spec("mlx_lm") is None, reason="needs the extra 'lora'")


@dataclass(frozen=True)
class Lab:
    """A workspace with a tiny model and the hello_world data."""

    place: Place
    dataset: Dataset

    def submit(self, *, model: str = "tiny", dataset: Dataset | None = None, **hyperparameters: Any) -> dict[str, Any]:
        job: dict[str, Any] = LM.submit(
            Training(dataset or self.dataset, model, {**SMALL, **hyperparameters}), self.place
        )
        return job


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    root = tmp_path_factory.mktemp("lora")
    rows = generate_hello_world_dataset(num_samples=60)
    tiny_llama.write(root / "tiny", [text for row in rows for text in row.values()])
    return Lab(
        Place(root, root / "outputs" / "lora" / "20260101_000000"), datasets.keep(rows, root=root, loader="test")
    )


@pytest.fixture(scope="module")
def job(lab: Lab) -> dict[str, Any]:
    return lab.submit()


@pytest.fixture(scope="module")
def model(lab: Lab, job: dict[str, Any]) -> dict[str, Any]:
    trained: dict[str, Any] = LM.wait(job, lab.place, timeout_s=None)
    return trained


def pairs_of(file: Path) -> list[tuple[str, str]]:
    return [(row["prompt"], row["completion"]) for row in map(json.loads, file.read_text().splitlines())]


# ---- the job


@needs_mlx_lm
def test_job_is_complete_plain_and_the_same_each_time(lab: Lab, job: dict[str, Any]) -> None:
    assert lab.submit() == job == json.loads(json.dumps(job))
    assert job["parts"] == {"train": 42, "val": 6, "test": 12}
    assert job["settings"] == {
        "iters": 40, "batch_size": 4, "learning_rate": 1e-2, "lora_rank": 8, "lora_layers": 2, "lora_scale": 20.0,
        "lora_dropout": 0.0, "max_seq_length": 2048, "max_answer_tokens": 256, "seed": 1, "split_seed": 0,
        "val_fraction": 0.1, "test_fraction": 0.2, "optimizer": "adam", "mask_prompt": True,
    }  # fmt: skip


@needs_mlx_lm
def test_another_content_of_the_model_folder_is_another_model(lab: Lab, tmp_path: Path) -> None:
    shutil.copytree(lab.place.root / "tiny", tmp_path / "tiny")
    config = {"submit_training": {"model": "tiny"}}
    look = LM.reader(tmp_path)
    before = look(config)
    with (tmp_path / "tiny" / "model.safetensors").open("ab") as file:
        file.write(b" ")

    assert LM.reader(tmp_path)(config) != before == look(config)
    with pytest.raises(UsageError, match="There is no model folder 'other'"):
        look({"submit_training": {"model": "other"}})


@needs_mlx_lm
def test_epochs_and_alpha_say_the_same_as_iterations_and_scale(lab: Lab) -> None:
    given = {name: value for name, value in SMALL.items() if name != "iters"}
    training = Training(lab.dataset, "tiny", {**given, "n_epochs": 3, "lora_alpha": 16, "lora_rank": 4})

    settings = LM.submit(training, lab.place)["settings"]

    assert settings["iters"] == 3 * (42 // 4)
    assert settings["lora_scale"] == 4.0


@pytest.mark.parametrize(
    ("hyperparameters", "message"),
    [
        ({"lora_rnk": 4}, "Unknown hyperparameter 'lora_rnk'.*Did you mean 'lora_rank'"),
        ({"n_epochs": 1, "iters": 2}, "'n_epochs' and 'iters' say the same"),
        ({"lora_scale": 1.0, "lora_alpha": 2.0}, "'lora_scale' and 'lora_alpha' say the same"),
        ({"batch_size": 0}, "'batch_size' is 0. Allowed: a whole number from 1"),
        ({"batch_size": 4.0}, "'batch_size' is 4.0. Allowed: a whole number"),
        ({"batch_size": True}, "'batch_size' is True"),
        ({"learning_rate": 0}, "'learning_rate' is 0. Allowed: a number above 0"),
        ({"learning_rate": float("nan")}, "'learning_rate' is nan"),
        ({"learning_rate": "1e-3"}, "'learning_rate' is '1e-3'"),
        ({"lora_layers": 0}, "'lora_layers' is 0. Allowed: a whole number from 1, or -1"),
        ({"lora_dropout": 1.0}, "'lora_dropout' is 1.0"),
        ({"optimizer": "lion"}, "'optimizer' is 'lion'. Allowed: adam, adamw, sgd"),
        ({"mask_prompt": 1}, "'mask_prompt' is 1. Allowed: true or false"),
        ({"val_fraction": 0.5, "test_fraction": 0.5}, "less than a tenth for training"),
    ],
)
def test_hyperparameter_that_is_not_sound_is_refused(hyperparameters: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        mlx_lm_settings.check(hyperparameters)


@needs_mlx_lm
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 43}, "There are 42 rows to train on, and a batch has 43"),
        ({"lora_layers": 3}, "lora_layers is 3, and the model has 2 layers"),
        ({"model": "meta/llama"}, "There is no model folder 'meta/llama'.*downloads nothing"),
        ({"model": "outputs"}, "The model folder 'outputs' has no config.json"),
        ({"iters": 0}, "'iters' is 0"),
    ],
)
def test_job_that_can_not_be_done_is_refused(lab: Lab, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LabError, match=message):
        lab.submit(**changes)


@needs_mlx_lm
@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("config.json", r"config\.json"), ("tokenizer_config.json", r"tokenizer_config\.json"),
        ("model.safetensors", r"model\*\.safetensors"),
    ],
)  # fmt: skip
def test_model_folder_that_lacks_a_file_is_refused(lab: Lab, tmp_path: Path, name: str, told: str) -> None:
    shutil.copytree(lab.place.root / "tiny", tmp_path / "half")
    (tmp_path / "half" / name).unlink()

    with pytest.raises(UsageError, match=rf"has no {told}\."):
        lab.submit(model=str(tmp_path / "half"))


@needs_mlx_lm
def test_data_that_are_no_text_are_refused(lab: Lab) -> None:
    with pytest.raises(DataError, match="of the kind 'table'"):
        lab.submit(dataset=replace(lab.dataset, kind="table"))


@needs_mlx_lm
def test_data_that_changed_are_refused(lab: Lab) -> None:
    with pytest.raises(DataError, match="was changed"):
        lab.submit(dataset=replace(lab.dataset, sha256="0" * 64))


@needs_mlx_lm
def test_missing_library_is_an_error_that_names_the_extra(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    for call in (
        lambda: LM.check("tiny", {}),
        lab.submit,
        lambda: LM.wait({}, lab.place, timeout_s=None),
        lambda: LM.evaluate({}, EvalTask("t"), lab.place),
    ):
        with pytest.raises(HarnessError, match=r"pip install 'autoexperiment\[lora\]'"):
            call()


# ---- rows

fractions = st.floats(0, 0.45)
some_pairs = st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), min_size=1, max_size=40)


@given(some_pairs, fractions, fractions, st.integers(0, 9))
def test_each_row_is_in_one_part_and_each_prompt_too(
    pairs: list[tuple[str, str]], val: float, test: float, seed: int
) -> None:
    settings = {"val_fraction": val, "test_fraction": test, "split_seed": seed}

    parts = split(pairs, settings)

    assert Counter(pair for rows in parts.values() for pair in rows) == Counter(pairs)
    prompts = [{prompt for prompt, _ in rows} for rows in parts.values()]
    assert sum(map(len, prompts)) == len(set().union(*prompts))
    assert {name: set(rows) for name, rows in split(pairs[::-1], settings).items()} == {
        name: set(rows) for name, rows in parts.items()
    }
    assert bool(parts["val"]) == (val > 0) or len(set().union(*prompts)) <= 2


def test_another_split_seed_is_another_split() -> None:
    pairs = [(str(number), "") for number in range(50)]
    fractions = {"val_fraction": 0.2, "test_fraction": 0.2}

    assert split(pairs, {**fractions, "split_seed": 0}) != split(pairs, {**fractions, "split_seed": 1})


# ---- scores


def test_scores_of_answers() -> None:
    """By hand: 3 of 5 are right. 'yes': 2 hits, 3 said, 3 wanted: 4/6. 'no': 1 hit, 1 said, 2 wanted: 2/3."""
    answers = [("yes", "yes"), (" yes\n", "yes"), ("no", "no"), ("yes", "no"), ("maybe", "yes")]

    found = scores(answers, "exact")

    assert found == {"accuracy": 0.6, "f1_score": pytest.approx(2 / 3)}


def test_scores_agree_with_scikit_learn() -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    wanted = rng.choice(["a", "b", "c"], 60).tolist()
    answers = [rng.choice([kind, "a", "b", "z"]) for kind in wanted]

    found = scores(list(zip(answers, wanted, strict=True)), "exact")

    assert found["f1_score"] == pytest.approx(f1_score(wanted, answers, labels=["a", "b", "c"], average="macro"))
    assert found["accuracy"] == np.mean(np.array(answers) == np.array(wanted))


def test_answer_that_only_contains_the_wanted_one_counts_where_that_is_asked() -> None:
    answers = [("Well, yes.", "yes")]

    assert scores(answers, "contains")["accuracy"] == 1
    assert scores(answers, "exact") == {"accuracy": 0, "f1_score": 0}


@pytest.mark.parametrize(
    ("loss", "perplexity"), [(0.0, 1.0), (math.log(5), pytest.approx(5.0)), (800.0, None), (None, None)]
)
def test_perplexity_is_e_to_the_loss_where_that_is_a_number(loss: float | None, perplexity: Any) -> None:
    assert losses(loss) == {"loss": loss, "perplexity": perplexity}


# ---- tokens and loss, in the child


class Letters:
    """A tokenizer of one token for each character; 0 ends a text."""

    eos_token_id: int | None = 0
    has_chat_template = False

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return [1] * add_special_tokens + [ord(letter) for letter in text]


class Chat(Letters):
    has_chat_template = True

    def apply_chat_template(
        self, messages: list[dict[str, str]], add_generation_prompt: bool = False, return_dict: bool = True
    ) -> list[int]:
        text = "".join(f"<{m['role'][0]}>{m['content']}" for m in messages) + "<a>" * add_generation_prompt
        return [ord(letter) for letter in text]


class Ending(Letters):
    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return super().encode(text, add_special_tokens) + [0] * add_special_tokens


@pytest.mark.parametrize("tokenizer", [Letters(), Ending()])
def test_row_without_a_template_is_prompt_separator_completion_and_end(tokenizer: Letters) -> None:
    tokens, start = mlx_lm_child.encode_row(tokenizer, "ab", "c", mask_prompt=True)

    assert (tokens, start) == ([1, 97, 98, 10, 99, 0], 4)
    assert mlx_lm_child.encode_prompt(tokenizer, "ab") == tokens[:start]


def test_row_of_a_model_with_a_template_is_a_conversation() -> None:
    tokens, start = mlx_lm_child.encode_row(Chat(), "ab", "c", mask_prompt=True)

    assert "".join(map(chr, tokens)) == "<u>ab<a>c"
    assert "".join(map(chr, mlx_lm_child.encode_prompt(Chat(), "ab"))) == "<u>ab<a>"
    assert start == 8
    assert mlx_lm_child.encode_row(Chat(), "ab", "c", mask_prompt=False)[1] == 0


def test_loss_is_of_the_tokens_that_count_and_of_no_padding() -> None:
    import mlx.core as mx

    logits = np.random.default_rng(0).normal(size=(2, 5, 7)).astype(np.float32)
    batch = np.array([[3, 1, 4, 1, 5, 0], [2, 6, 5, 0, 0, 0]])
    bounds = np.array([[0, 5], [2, 3]])
    nats = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, batch[:, 1:, None], -1)[..., 0]

    loss, count = mlx_lm_child.masked_loss(lambda _: mx.array(logits), mx.array(batch), mx.array(bounds))

    counted = [*nats[0, :4], nats[1, 1]]  # 1 4 1 5 of the first row; 5 of the second one
    assert int(count) == 5
    assert float(loss) == pytest.approx(np.mean(counted), rel=1e-5)


class Uniform:
    """Gives token 0 the probability 1/2 where the last token is odd, else 1/4; there are 3 tokens."""

    def eval(self) -> None: ...

    def __call__(self, tokens: Any) -> Any:
        import mlx.core as mx

        odd = (tokens % 2 == 1)[..., None]
        return mx.where(odd, mx.log(mx.array([0.5, 0.25, 0.25])), mx.log(mx.array([0.25, 0.5, 0.25])))


@needs_mlx_lm
def test_loss_is_over_all_rows_also_where_a_batch_would_be_left_over() -> None:
    rows = [*[([1, 0], 0)] * 4, ([1, 0, 0], 0)]  # the longest one would be left out
    settings = {"batch_size": 4, "max_seq_length": 64}

    loss = mlx_lm_child.loss_of(Uniform(), rows, settings)

    assert loss == pytest.approx((5 * math.log(2) + math.log(4)) / 6)
    assert mlx_lm_child.loss_of(Uniform(), [], settings) is None


def test_row_whose_prompt_fills_it_has_no_loss() -> None:
    import mlx.core as mx

    loss, _ = mlx_lm_child.masked_loss(lambda x: mx.zeros((1, 2, 4)), mx.zeros((1, 3), mx.int32), mx.array([[5, 3]]))

    assert float(loss) == 0


def test_loss_that_is_not_finite_ends_the_training(tmp_path: Path) -> None:
    told = mlx_lm_child.Told(tmp_path / "losses.jsonl")
    told.on_train_loss_report({"iteration": 1, "train_loss": 2.5})

    with pytest.raises(mlx_lm_child.Diverged, match="loss nan at iteration 2"):
        told.on_train_loss_report({"iteration": 2, "train_loss": math.nan})

    assert (told.first, told.last) == (2.5, 2.5)
    assert json.loads(told.file.read_text()) == {"iteration": 1, "train_loss": 2.5}


# ---- training


@needs_mlx_lm
def test_training_lowers_the_loss_and_leaves_a_whole_adapter(lab: Lab, model: dict[str, Any]) -> None:
    folder = lab.place.root / model["run_dir"]
    metrics, parts = model["metrics"], [pairs_of(folder / f"{part}.jsonl") for part in ("train", "val", "test")]

    assert metrics["val_loss"] < metrics["val_loss_before"] - 1
    assert metrics["train_loss"] < metrics["train_loss_first"] - 1
    assert [len(rows) for rows in parts] == [42, 6, 12]
    assert model["run_dir"] == "outputs/lora/20260101_000000/training"
    assert sorted(file.name for file in (folder / "adapter").iterdir()) == [
        "adapter_config.json", "adapters.safetensors", "manifest.json"
    ]  # fmt: skip
    assert not (folder / "private").exists()


@needs_mlx_lm
def test_saved_adapter_is_the_model_that_was_trained(lab: Lab, model: dict[str, Any]) -> None:
    """Another process finds the loss on the val part that the training found at its end."""
    found = LM.evaluate(model, EvalTask("hello", split="val"), lab.place)["hello"]

    answers = [json.loads(line) for line in (lab.place.run_dir / "evaluation" / "answers.jsonl").open()]
    assert found["loss"] == pytest.approx(model["metrics"]["val_loss"], rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert [(line["prompt"], line["wanted"]) for line in answers] == pairs_of(
        lab.place.root / model["run_dir"] / "val.jsonl"
    )
    assert found["accuracy"] == np.mean([line["answer"].strip() == line["wanted"] for line in answers])


@needs_mlx_lm
@pytest.mark.parametrize(
    ("task", "message"),
    [
        (EvalTask("t", ("accurcy",)), "Unknown metric 'accurcy' in task 't'.*Did you mean 'accuracy'"),
        (EvalTask("t", split="none"), "There are no rows in the part 'none'"),
    ],
)
def test_task_that_does_not_fit_is_refused(lab: Lab, model: dict[str, Any], task: EvalTask, message: str) -> None:
    (lab.place.root / model["run_dir"] / "none.jsonl").write_text("")

    with pytest.raises(LabError, match=message):
        LM.evaluate(model, task, lab.place)


@needs_mlx_lm
@pytest.mark.parametrize(
    "name",
    [
        "{run}/adapter/adapters.safetensors", "{run}/adapter/adapter_config.json", "{run}/adapter/manifest.json",
        "{run}/test.jsonl", "tiny/model.safetensors",
    ],
)  # fmt: skip
def test_model_is_there_as_long_as_all_its_files_are_as_they_were(lab: Lab, model: dict[str, Any], name: str) -> None:
    file = lab.place.root / name.format(run=model["run_dir"])
    before = file.read_bytes()

    assert LM.is_there(model, lab.place)
    file.write_bytes(before[:-2] + b" \n")
    assert not LM.is_there(model, lab.place)
    file.unlink()
    assert not LM.is_there(model, lab.place)
    file.write_bytes(before)
    assert LM.is_there(model, lab.place)


@needs_mlx_lm
def test_adapter_does_not_count_with_other_bytes_than_its_manifest_names(lab: Lab, model: dict[str, Any]) -> None:
    file = lab.place.root / model["run_dir"] / "adapter" / "adapters.safetensors"
    before = file.read_bytes()
    file.write_bytes(before[:-1])

    try:
        with pytest.raises(UsageError, match="not as it was when the training ended"):
            identity_of(lab.place.root / model["run_dir"])
    finally:
        file.write_bytes(before)


@needs_mlx_lm
def test_base_model_that_was_exchanged_is_not_trained_on_nor_asked(lab: Lab, model: dict[str, Any], job: Any) -> None:
    file = lab.place.root / "tiny" / "config.json"
    before = file.read_text()
    file.write_text(before + " ")

    try:
        with pytest.raises(Refused, match="not as it was when the job was made"):
            LM.wait(job, Place(lab.place.root, lab.place.root / "other"), timeout_s=None)
        with pytest.raises(Refused, match="not as it was"):
            LM.evaluate(model, EvalTask("t"), lab.place)
    finally:
        file.write_text(before)


@needs_mlx_lm
def test_another_seed_is_another_adapter_of_the_same_rows(lab: Lab, model: dict[str, Any]) -> None:
    place = Place(lab.place.root, lab.place.root / "outputs" / "lora" / "20260101_000002")

    other = LM.wait(lab.submit(seed=2), place, timeout_s=None)

    one, two = (lab.place.root / found["run_dir"] for found in (model, other))
    assert (one / "adapter" / "adapters.safetensors").read_bytes() != (
        two / "adapter" / "adapters.safetensors"
    ).read_bytes()
    assert (one / "train.jsonl").read_bytes() == (two / "train.jsonl").read_bytes()


@needs_mlx_lm
def test_kill_in_mid_training_leaves_nothing_and_the_next_attempt_is_the_same(
    lab: Lab, job: dict[str, Any], model: dict[str, Any]
) -> None:
    place = Place(lab.place.root, lab.place.root / "outputs" / "lora" / "20260101_000001")
    training = place.run_dir / "training"
    long = {**job, "settings": {**job["settings"], "iters": 10_000}}
    failed: list[BaseException] = []
    thread = threading.Thread(target=lambda: failed.append(error_of(long, place)))

    thread.start()
    while not (training / "losses.jsonl").exists() and thread.is_alive():
        time.sleep(0.02)
    os.kill(child_of(training), signal.SIGKILL)
    thread.join()

    assert isinstance(failed[0], HarnessError)
    assert not (training / "adapter" / "manifest.json").exists()
    assert not LM.is_there({**model, "run_dir": "outputs/lora/20260101_000001/training"}, place)
    again = LM.wait(job, place, timeout_s=None)
    assert {**again, "run_dir": model["run_dir"]} == model


def error_of(job: dict[str, Any], place: Place) -> BaseException:
    with pytest.raises(BaseException) as caught:
        LM.wait(job, place, timeout_s=None)
    return caught.value


def child_of(training: Path) -> int:
    """The process that trains in this folder."""
    request = str(training / "request.json")
    commands = {process.pid: process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])}
    return next(pid for pid, words in commands.items() if words[-1:] == [request] and words[-2:-1] == [CHILD])
