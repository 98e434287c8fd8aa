"""The model's shape, and one table that maps it to GGUF tensors and to transformers' parameter names."""
from dataclasses import dataclass, field

SPECIALS = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "｜DSML｜"]
BOS, EOS, USER, ASSISTANT, THINK, END_THINK = SPECIALS[:6]
BOS_ID, EOS_ID = 0, 1

# Roles of the quantisable tensors and the type each has in the published "q2" files.
Q2_RECIPE = dict(embd="F16", output="Q8_0", attn="Q8_0", shexp="Q8_0", hc="F16", router="F16",
                 comp="F16", idx="F16", ape="F16", gate_up="IQ2_XXS", down="Q2_K")


@dataclass(frozen=True)
class Config:
    """Everything that differs between models; the rest is DeepSeek V4 Flash's own and fixed below."""
    ratios: tuple                 # attention compression per layer: 0, 4 or 128
    hidden: int = 512
    ff: int = 512
    heads: int = 4
    q_lora: int = 256
    groups: int = 2
    o_lora: int = 128
    experts: int = 8
    used: int = 3
    hash_layers: int = 3
    idx_heads: int = 8
    top_k: int = 32
    vocab: int = 512
    router_bias: bool = True      # the published loader treats exp_probs_b.bias as optional
    recipe: dict = field(default_factory=lambda: dict(Q2_RECIPE))
    layer_recipe: dict = field(default_factory=dict)      # layer -> {role: type}, over `recipe`

    head_dim, rope, window, streams, idx_dim = 512, 64, 128, 4, 128   # not fields: the same in every model

    @property
    def layers(self):
        return len(self.ratios)

    def type_of(self, role, layer=None):
        return self.layer_recipe.get(layer, {}).get(role, self.recipe.get(role, "F32"))


# The bundled model. Layers as in Flash: two plain windows, then 4 and 128 in turn; layer 2 is hash-routed with ratio 4.
TINY = Config(ratios=(0, 0, 4, 128, 4))


def tensors(cfg):
    """(gguf name, hf name, role, layer) for every tensor; role "f32" and "i32" are never quantised.
    gate and up share one hf parameter: hf name "...gate_up_proj#0" is its first half of rows, "#1" its second."""
    t = [("token_embd.weight", "model.embed_tokens.weight", "embd", None),
         ("output_hc_fn.weight", "model.hc_head.hc_fn", "hc", None),
         ("output_hc_base.weight", "model.hc_head.hc_base", "f32", None),
         ("output_hc_scale.weight", "model.hc_head.hc_scale", "f32", None),
         ("output_norm.weight", "model.norm.weight", "f32", None),
         ("output.weight", "lm_head.weight", "output", None)]
    for l, r in enumerate(cfg.ratios):
        rows = [("hc_attn_fn.weight", "attn_hc.fn", "hc"), ("hc_attn_scale.weight", "attn_hc.scale", "f32"), ("hc_attn_base.weight", "attn_hc.base", "f32"),
                ("attn_norm.weight", "input_layernorm.weight", "f32"),
                ("attn_q_a.weight", "self_attn.q_a_proj.weight", "attn"), ("attn_q_a_norm.weight", "self_attn.q_a_norm.weight", "f32"),
                ("attn_q_b.weight", "self_attn.q_b_proj.weight", "attn"),
                ("attn_kv.weight", "self_attn.kv_proj.weight", "attn"), ("attn_kv_a_norm.weight", "self_attn.kv_norm.weight", "f32"),
                ("attn_sinks.weight", "self_attn.sinks", "f32"),
                ("attn_output_a.weight", "self_attn.o_a_proj.weight", "attn"), ("attn_output_b.weight", "self_attn.o_b_proj.weight", "attn")]
        if r:
            c = "self_attn.compressor."
            rows += [("attn_compressor_ape.weight", c + "position_bias", "ape"), ("attn_compressor_kv.weight", c + "kv_proj.weight", "comp"),
                     ("attn_compressor_gate.weight", c + "gate_proj.weight", "comp"), ("attn_compressor_norm.weight", c + "kv_norm.weight", "f32")]
        if r == 4:
            c = "self_attn.compressor.indexer."
            rows += [("indexer.attn_q_b.weight", c + "q_b_proj.weight", "idx"), ("indexer.proj.weight", c + "scorer.weights_proj.weight", "idx"),
                     ("indexer_compressor_ape.weight", c + "position_bias", "ape"), ("indexer_compressor_kv.weight", c + "kv_proj.weight", "idx"),
                     ("indexer_compressor_gate.weight", c + "gate_proj.weight", "idx"), ("indexer_compressor_norm.weight", c + "kv_norm.weight", "f32")]
        rows += [("hc_ffn_fn.weight", "ffn_hc.fn", "hc"), ("hc_ffn_scale.weight", "ffn_hc.scale", "f32"), ("hc_ffn_base.weight", "ffn_hc.base", "f32"),
                 ("ffn_norm.weight", "post_attention_layernorm.weight", "f32"), ("ffn_gate_inp.weight", "mlp.gate.weight", "router")]
        if l < cfg.hash_layers:
            rows += [("ffn_gate_tid2eid.weight", "mlp.gate.tid2eid", "i32")]
        elif cfg.router_bias:
            rows += [("exp_probs_b.bias", "mlp.gate.e_score_correction_bias", "f32")]
        rows += [("ffn_gate_exps.weight", "mlp.experts.gate_up_proj#0", "gate_up"), ("ffn_up_exps.weight", "mlp.experts.gate_up_proj#1", "gate_up"),
                 ("ffn_down_exps.weight", "mlp.experts.down_proj", "down"),
                 ("ffn_gate_shexp.weight", "mlp.shared_experts.gate_proj.weight", "shexp"), ("ffn_up_shexp.weight", "mlp.shared_experts.up_proj.weight", "shexp"),
                 ("ffn_down_shexp.weight", "mlp.shared_experts.down_proj.weight", "shexp")]
        t += [(f"blk.{l}.{g}", f"model.layers.{l}.{h}", role, l) for g, h, role in rows]
    return t


def hf_model(cfg, seed=7):
    """A transformers DeepseekV4ForCausalLM of this shape with our own initialisation, f32. Everything that transformers
    leaves at zero and that would hide a mistake in an engine (hash table, sinks, APE, router bias) is filled."""
    import torch
    from transformers.models.deepseek_v4 import DeepseekV4Config
    from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4ForCausalLM
    kind = {0: "sliding_attention", 4: "compressed_sparse_attention", 128: "heavily_compressed_attention"}
    hc = DeepseekV4Config(
        vocab_size=cfg.vocab, hidden_size=cfg.hidden, moe_intermediate_size=cfg.ff, num_hidden_layers=cfg.layers, num_attention_heads=cfg.heads,
        head_dim=cfg.head_dim, q_lora_rank=cfg.q_lora, num_experts_per_tok=cfg.used, n_routed_experts=cfg.experts,
        layer_types=[kind[r] for r in cfg.ratios],       # never transformers' default schedule
        mlp_layer_types=["hash_moe" if l < cfg.hash_layers else "moe" for l in range(cfg.layers)],
        o_groups=cfg.groups, o_lora_rank=cfg.o_lora, index_n_heads=cfg.idx_heads, index_head_dim=cfg.idx_dim, index_topk=cfg.top_k,
        max_position_embeddings=1048576,
        rope_parameters=dict(rope_type="yarn", factor=16.0, original_max_position_embeddings=65536, beta_fast=32, beta_slow=1))
    hc._attn_implementation = "eager"
    torch.manual_seed(seed)
    m = DeepseekV4ForCausalLM(hc).float().eval()
    g = torch.Generator().manual_seed(seed)
    normal = lambda p, std: p.data.copy_(torch.randn(p.shape, generator=g) * std)
    for n, p in m.named_parameters():
        if n.endswith("embed_tokens.weight"): normal(p, .5)
        elif n.endswith("lm_head.weight"): normal(p, .02)
        elif "_hc.fn" in n or "hc_fn" in n: normal(p, .02)
        elif n.endswith("_hc.scale") or n.endswith("hc_scale"): p.data.fill_(.3)
        elif n.endswith("_hc.base"):
            normal(p, .3); p.data[:4] -= 1.1; p.data[8:] += 3 * torch.eye(4).flatten()
        elif n.endswith("hc_base"): p.data.fill_(-1.1)
        elif n.endswith("sinks"): p.data.copy_(1 + 4 * torch.rand(p.shape, generator=g))
        elif "position_bias" in n: normal(p, .1)
        elif p.dim() >= 2: normal(p, p.shape[-1] ** -.5 * (.5 if ("o_b_proj" in n or "down_proj" in n) else 1))
    for l in range(cfg.hash_layers):
        t = m.model.layers[l].mlp.gate.tid2eid
        t.copy_(torch.stack([torch.randperm(cfg.experts, generator=g)[:cfg.used] for _ in range(cfg.vocab)]))
    return m


def randomise(m, seed):
    """For untrained parity models: give every parameter that starts at a constant a value that matters."""
    import torch
    g = torch.Generator().manual_seed(seed + 1)
    rnd = lambda p: torch.randn(p.shape, generator=g)
    for n, p in m.named_parameters():
        if "norm" in n and p.dim() == 1: p.data.copy_(1 + .2 * rnd(p))
        elif n.endswith("_hc.scale") or n.endswith("hc_scale"): p.data.copy_(.8 + .3 * torch.rand(p.shape, generator=g))
        elif "_hc.fn" in n or "hc_fn" in n: p.data.copy_(.05 * rnd(p))
        elif n.endswith("hc_base"): p.data.add_(.5 * rnd(p))
        elif "position_bias" in n: p.data.copy_(.5 * rnd(p))
        elif n.endswith("lm_head.weight"): p.data.copy_(p.shape[-1] ** -.5 * 2 * rnd(p))
        elif "gate_up_proj" in n or "gate_proj.weight" in n and "mlp" in n or "up_proj" in n: p.data.mul_(2.5)      # some pre-activations reach the clamp
    for n, b in m.named_buffers():
        if n.endswith("e_score_correction_bias"): b.copy_(.3 * rnd(b))
    return m
