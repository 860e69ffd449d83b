"""A language model that a test writes itself: two layers of width 32 with random weights, and a tokenizer of its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

WIDTH, HIDDEN, LAYERS, HEADS = 32, 64, 2, 2
SPECIAL = ["<unk>", "<s>", "</s>"]


def write(folder: Path, texts: Sequence[str]) -> Path:
    """A folder as mlx-lm and transformers read it; the tokenizer knows the texts' characters."""
    folder.mkdir(parents=True)
    vocabulary = _write_tokenizer(folder, texts)
    shape = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
        "intermediate_size": HIDDEN, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "rms_norm_eps": 1e-5,
        "vocab_size": vocabulary, "max_position_embeddings": 512, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(shape))
    _write_weights(folder, vocabulary)
    return folder


def _write_tokenizer(folder: Path, texts: Sequence[str]) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    words = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(words))
    return int(tokenizer.get_vocab_size())


def _write_weights(folder: Path, vocabulary: int) -> None:
    import mlx.core as mx

    rng = np.random.default_rng(0)

    def matrix(rows: int, columns: int) -> mx.array:
        return mx.array(rng.normal(0, columns**-0.5, (rows, columns)).astype(np.float32))

    weights = {
        "model.embed_tokens.weight": matrix(vocabulary, WIDTH),
        "lm_head.weight": 4 * matrix(vocabulary, WIDTH),  # else no token could ever be sure
        "model.norm.weight": mx.ones((WIDTH,)),
    }
    for number in range(LAYERS):
        layer = f"model.layers.{number}."
        for name in "qkvo":
            weights[f"{layer}self_attn.{name}_proj.weight"] = matrix(WIDTH, WIDTH)
        for name, rows, columns in (("gate", HIDDEN, WIDTH), ("up", HIDDEN, WIDTH), ("down", WIDTH, HIDDEN)):
            weights[f"{layer}mlp.{name}_proj.weight"] = matrix(rows, columns)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"{layer}{name}.weight"] = mx.ones((WIDTH,))
    mx.save_safetensors(str(folder / "model.safetensors"), weights)
