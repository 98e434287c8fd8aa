"""Writes a model as GGUF v3, and reads one back for transformers.

Reading uses the PyPI package `gguf`, whose parser and dequantisers share no code with the encoders here: what the
golden logits see is the file, not our idea of it.
"""
from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize
from torch import Tensor
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4ForCausalLM

import container
from config import (
    BOS_ID,
    EOS_ID,
    HEAD_DIM,
    INDEX_DIM,
    ROPE_DIM,
    SPECIALS,
    STREAMS,
    WINDOW,
    Config,
    tensors,
)
from quantise import FORMATS, packed

# GGUF value types, and how a scalar of each is stored.
U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
SCALAR = {U32: "<I", I32: "<i", F32: "<f", BOOL: "<?", U64: "<Q"}
ALIGNMENT = 32
LICENCE = "MIT OR Apache-2.0"
# llama.cpp's token types
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5

KeyValue = tuple[str, int, Any]


def _string(s: str) -> bytes:
    b = s.encode()
    return struct.pack("<Q", len(b)) + b


def _value(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _string(value)
    if kind == ARRAY:
        element, items = value
        return struct.pack("<IQ", element, len(items)) + b"".join(_value(element, i) for i in items)
    return struct.pack(SCALAR[kind], value)


def _architecture(cfg: Config) -> list[KeyValue]:
    """The keys of §1.1, without their prefix."""
    return [
        ("block_count", U32, cfg.layers), ("embedding_length", U32, cfg.hidden), ("vocab_size", U32, cfg.vocab),
        ("context_length", U32, 1048576), ("attention.head_count", U32, cfg.heads), ("attention.head_count_kv", U32, 1),
        ("attention.key_length", U32, HEAD_DIM), ("attention.value_length", U32, HEAD_DIM),
        ("rope.dimension_count", U32, ROPE_DIM), ("attention.q_lora_rank", U32, cfg.q_lora),
        ("attention.output_lora_rank", U32, cfg.o_lora), ("attention.output_group_count", U32, cfg.groups),
        ("expert_count", U32, cfg.experts), ("expert_used_count", U32, cfg.used),
        ("expert_feed_forward_length", U32, cfg.ff), ("expert_shared_count", U32, 1),
        ("hash_layer_count", U32, cfg.hash_layers), ("expert_group_count", U32, 0), ("expert_group_used_count", U32, 0),
        ("attention.sliding_window", U32, WINDOW), ("attention.indexer.head_count", U32, cfg.index_heads),
        ("attention.indexer.key_length", U32, INDEX_DIM), ("attention.indexer.top_k", U32, cfg.top_k),
        ("hyper_connection.count", U32, STREAMS), ("hyper_connection.sinkhorn_iterations", U32, 20),
        ("hyper_connection.epsilon", F32, 1e-6), ("attention.compress_ratios", ARRAY, (I32, list(cfg.ratios))),
        ("swiglu_clamp_exp", ARRAY, (F32, [10.0] * cfg.layers)), ("rope.freq_base", F32, 10000.0),
        ("rope.scaling.factor", F32, 16.0), ("rope.scaling.original_context_length", U64, 65536),
        ("rope.scaling.yarn_beta_fast", F32, 32.0), ("rope.scaling.yarn_beta_slow", F32, 1.0),
        ("attention.compress_rope_freq_base", F32, 160000.0), ("expert_weights_scale", F32, 1.5),
        ("expert_weights_norm", BOOL, True), ("attention.layer_norm_rms_epsilon", F32, 1e-6),
    ]


def _tokenizer(cfg: Config, tokenizer_json: str) -> list[KeyValue]:
    spec = json.loads(tokenizer_json)
    by_id = {i: text for text, i in spec["model"]["vocab"].items()}
    by_id.update({t["id"]: t["content"] for t in spec["added_tokens"]})
    tokens = [by_id[i] for i in range(len(by_id))]
    assert len(tokens) <= cfg.vocab and tuple(tokens[:len(SPECIALS)]) == SPECIALS
    tokens += [f"<unused{i}>" for i in range(cfg.vocab - len(tokens))]

    def kind(i: int, text: str) -> int:
        if i < 4:
            return CONTROL
        if text in SPECIALS:
            return USER_DEFINED
        return NORMAL if i < len(by_id) else UNUSED

    merges = [m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]]
    return [
        ("tokenizer.ggml.model", STRING, "gpt2"), ("tokenizer.ggml.pre", STRING, "joyai-llm"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, tokens)),
        ("tokenizer.ggml.token_type", ARRAY, (I32, [kind(i, t) for i, t in enumerate(tokens)])),
        ("tokenizer.ggml.merges", ARRAY, (STRING, merges)),
        ("tokenizer.ggml.bos_token_id", U32, BOS_ID), ("tokenizer.ggml.eos_token_id", U32, EOS_ID),
    ]


def _padding(length: int) -> bytes:
    return b"\0" * (-length % ALIGNMENT)


def write(path: Path, cfg: Config, weights: Mapping[str, Tensor], tokenizer_json: str, name: str) -> dict[str, int]:
    """Quantises by the config's recipes and writes the file. Returns bytes by type."""
    metadata = [("general.architecture", STRING, "deepseek4"), ("general.name", STRING, name),
                ("general.license", STRING, LICENCE), ("general.alignment", U32, ALIGNMENT)]
    metadata += [("deepseek4." + key, kind, value) for key, kind, value in _architecture(cfg)]
    metadata += _tokenizer(cfg, tokenizer_json)
    table = tensors(cfg)
    header = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(table), len(metadata)))
    for key, kind, value in metadata:
        header += _string(key) + struct.pack("<I", kind) + _value(kind, value)
    blobs: list[bytes] = []
    sizes: dict[str, int] = {}
    offset = 0
    for t in table:
        w = weights[t.hf].detach()
        if t.half is not None:
            w = w.chunk(2, dim=1)[t.half]
        type_name = "I32" if t.role == "i32" else cfg.type_of(t.role, t.layer)
        fmt = FORMATS[type_name]
        assert w.shape[-1] % fmt.block == 0, f"{t.gguf}: rows of {w.shape[-1]} are no multiple of {type_name}'s {fmt.block}"
        data = packed(w, type_name)
        assert len(data) == w.numel() // fmt.block * fmt.size, t.gguf
        header += _string(t.gguf) + struct.pack("<I", w.dim()) + b"".join(struct.pack("<Q", d) for d in reversed(w.shape))
        header += struct.pack("<IQ", fmt.id, offset)
        offset += len(data) + len(_padding(len(data)))
        blobs.append(data)
        sizes[type_name] = sizes.get(type_name, 0) + len(data)
    with open(path, "wb") as f:
        f.write(header + _padding(len(header)))
        for data in blobs:
            f.write(data + _padding(len(data)))
    return sizes


def read_config(reader: GGUFReader) -> Config:
    def get(key: str) -> Any:
        return reader.fields["deepseek4." + key].contents()

    return Config(
        ratios=tuple(get("attention.compress_ratios")), hidden=get("embedding_length"), ff=get("expert_feed_forward_length"),
        heads=get("attention.head_count"), q_lora=get("attention.q_lora_rank"), groups=get("attention.output_group_count"),
        o_lora=get("attention.output_lora_rank"), experts=get("expert_count"), used=get("expert_used_count"),
        hash_layers=get("hash_layer_count"), index_heads=get("attention.indexer.head_count"),
        top_k=get("attention.indexer.top_k"), vocab=get("vocab_size"),
        router_bias=any(t.name.endswith("exp_probs_b.bias") for t in reader.tensors))


def read_weights(reader: GGUFReader, cfg: Config) -> dict[str, Tensor]:
    """transformers' name -> f32 (hash tables: i64), dequantised."""
    stored = {t.name: t for t in reader.tensors}
    out: dict[str, Tensor] = {}
    for t in tensors(cfg):
        entry = stored.pop(t.gguf)
        if entry.tensor_type in (GGMLQuantizationType.F32, GGMLQuantizationType.I32):
            values = np.array(entry.data)
        elif entry.tensor_type == GGMLQuantizationType.F16:
            values = entry.data.astype(np.float32)
        else:
            values = dequantize(entry.data, entry.tensor_type)
        w = torch.from_numpy(np.ascontiguousarray(values)).reshape([int(d) for d in reversed(entry.shape)])
        if t.role == "i32":
            w = w.long()
        out[t.hf] = torch.cat([out[t.hf], w], 1) if t.half == 1 else w
    assert not stored, f"tensors that the table does not know: {sorted(stored)}"
    return out


def load(path: Path, device: str = "cpu") -> tuple[DeepseekV4ForCausalLM, Config]:
    """transformers' model with the weights as the file holds them, f32."""
    reader = GGUFReader(path)
    cfg = read_config(reader)
    model = container.build(cfg, seed=0)
    stored = read_weights(reader, cfg)
    for name, p in container.weights(model).items():
        if name.endswith("inv_freq"):
            continue                              # computed, not stored
        if name.endswith("e_score_correction_bias") and not cfg.router_bias:
            p.zero_()
            continue
        assert p.shape == stored[name].shape, (name, p.shape, stored[name].shape)
        p.data.copy_(stored[name])
    return model.to(device).eval(), cfg
