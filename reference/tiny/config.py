"""The shape of a model, and the one table that maps it to GGUF tensors and to transformers' parameter names.

Section numbers are those of docs/model.md.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

BOS, EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
THINK, END_THINK = "<think>", "</think>"
SPECIALS = (BOS, EOS, USER, ASSISTANT, THINK, END_THINK, "｜DSML｜")     # §16.3; ids 0..6
BOS_ID, EOS_ID = 0, 1

# Role of a tensor -> its type in the published "q2" files (§2).
Q2_RECIPE: dict[str, str] = {
    "embd": "F16", "output": "Q8_0", "attn": "Q8_0", "shexp": "Q8_0", "hc": "F16", "router": "F16",
    "comp": "F16", "idx": "F16", "ape": "F16", "gate_up": "IQ2_XXS", "down": "Q2_K",
}

# The same in every model of this architecture, and refused otherwise by the loader.
HEAD_DIM, ROPE_DIM, WINDOW, STREAMS, INDEX_DIM = 512, 64, 128, 4, 128


@dataclass(frozen=True)
class Config:
    """Everything in which models differ."""

    ratios: tuple[int, ...]                  # attention compression of each layer: 0, 4 or 128 (§3)
    hidden: int = 512
    ff: int = 512                            # width of one routed expert and of the shared expert
    heads: int = 4
    q_lora: int = 256
    groups: int = 2                          # head groups of the output projection
    o_lora: int = 128                        # rank of each group
    experts: int = 8
    used: int = 3
    hash_layers: int = 3
    index_heads: int = 8
    top_k: int = 48
    vocab: int = 512
    router_bias: bool = True                 # exp_probs_b.bias is optional
    recipe: Mapping[str, str] = field(default_factory=lambda: dict(Q2_RECIPE))
    layer_recipe: Mapping[int, Mapping[str, str]] = field(default_factory=dict)   # layer -> role -> type, over `recipe`

    @property
    def layers(self) -> int:
        return len(self.ratios)

    def type_of(self, role: str, layer: int | None) -> str:
        overrides = self.layer_recipe.get(layer, {}) if layer is not None else {}
        return overrides.get(role, self.recipe.get(role, "F32"))


# The bundled model. The layers are Flash's in order: two plain windows, then 4 and 128 in turn; layer 2 is both
# hash-routed and compressed. With 48 selected rows a prompt of 129..195 tokens is past the window and not yet past
# the top-k, so the two mechanisms can be told apart.
TINY = Config(ratios=(0, 0, 4, 128, 4))


class Tensor(NamedTuple):
    gguf: str
    hf: str
    half: int | None          # gate (0) and up (1) are the halves of the rows of one transformers parameter
    role: str                 # key of a recipe, or "f32" / "i32" for what is never quantised
    layer: int | None


_GLOBAL = (
    ("token_embd.weight", "model.embed_tokens.weight", "embd"),
    ("output_hc_fn.weight", "model.hc_head.hc_fn", "hc"),
    ("output_hc_base.weight", "model.hc_head.hc_base", "f32"),
    ("output_hc_scale.weight", "model.hc_head.hc_scale", "f32"),
    ("output_norm.weight", "model.norm.weight", "f32"),
    ("output.weight", "lm_head.weight", "output"),
)
_ATTENTION = (
    ("hc_attn_fn.weight", "attn_hc.fn", "hc"),
    ("hc_attn_scale.weight", "attn_hc.scale", "f32"),
    ("hc_attn_base.weight", "attn_hc.base", "f32"),
    ("attn_norm.weight", "input_layernorm.weight", "f32"),
    ("attn_q_a.weight", "self_attn.q_a_proj.weight", "attn"),
    ("attn_q_a_norm.weight", "self_attn.q_a_norm.weight", "f32"),
    ("attn_q_b.weight", "self_attn.q_b_proj.weight", "attn"),
    ("attn_kv.weight", "self_attn.kv_proj.weight", "attn"),
    ("attn_kv_a_norm.weight", "self_attn.kv_norm.weight", "f32"),
    ("attn_sinks.weight", "self_attn.sinks", "f32"),
    ("attn_output_a.weight", "self_attn.o_a_proj.weight", "attn"),
    ("attn_output_b.weight", "self_attn.o_b_proj.weight", "attn"),
)
_COMPRESSOR = (
    ("attn_compressor_ape.weight", "self_attn.compressor.position_bias", "ape"),
    ("attn_compressor_kv.weight", "self_attn.compressor.kv_proj.weight", "comp"),
    ("attn_compressor_gate.weight", "self_attn.compressor.gate_proj.weight", "comp"),
    ("attn_compressor_norm.weight", "self_attn.compressor.kv_norm.weight", "f32"),
)
_INDEXER = (
    ("indexer.attn_q_b.weight", "self_attn.compressor.indexer.q_b_proj.weight", "idx"),
    ("indexer.proj.weight", "self_attn.compressor.indexer.scorer.weights_proj.weight", "idx"),
    ("indexer_compressor_ape.weight", "self_attn.compressor.indexer.position_bias", "ape"),
    ("indexer_compressor_kv.weight", "self_attn.compressor.indexer.kv_proj.weight", "idx"),
    ("indexer_compressor_gate.weight", "self_attn.compressor.indexer.gate_proj.weight", "idx"),
    ("indexer_compressor_norm.weight", "self_attn.compressor.indexer.kv_norm.weight", "f32"),
)
_FFN = (
    ("hc_ffn_fn.weight", "ffn_hc.fn", "hc"),
    ("hc_ffn_scale.weight", "ffn_hc.scale", "f32"),
    ("hc_ffn_base.weight", "ffn_hc.base", "f32"),
    ("ffn_norm.weight", "post_attention_layernorm.weight", "f32"),
    ("ffn_gate_inp.weight", "mlp.gate.weight", "router"),
)
_HASH_TABLE = ("ffn_gate_tid2eid.weight", "mlp.gate.tid2eid", "i32")
_ROUTER_BIAS = ("exp_probs_b.bias", "mlp.gate.e_score_correction_bias", "f32")
_DOWN_AND_SHARED = (
    ("ffn_down_exps.weight", "mlp.experts.down_proj", "down"),
    ("ffn_gate_shexp.weight", "mlp.shared_experts.gate_proj.weight", "shexp"),
    ("ffn_up_shexp.weight", "mlp.shared_experts.up_proj.weight", "shexp"),
    ("ffn_down_shexp.weight", "mlp.shared_experts.down_proj.weight", "shexp"),
)


def tensors(cfg: Config) -> list[Tensor]:
    """Every tensor of a model of this shape, in file order."""
    table = [Tensor(gguf, hf, None, role, None) for gguf, hf, role in _GLOBAL]
    for layer, ratio in enumerate(cfg.ratios):
        def add(gguf: str, hf: str, role: str, half: int | None = None) -> None:
            table.append(Tensor(f"blk.{layer}.{gguf}", f"model.layers.{layer}.{hf}", half, role, layer))

        for row in _ATTENTION + (_COMPRESSOR if ratio else ()) + (_INDEXER if ratio == 4 else ()) + _FFN:
            add(*row)
        if layer < cfg.hash_layers:
            add(*_HASH_TABLE)
        elif cfg.router_bias:
            add(*_ROUTER_BIAS)
        add("ffn_gate_exps.weight", "mlp.experts.gate_up_proj", "gate_up", 0)
        add("ffn_up_exps.weight", "mlp.experts.gate_up_proj", "gate_up", 1)
        for row in _DOWN_AND_SHARED:
            add(*row)
    return table
