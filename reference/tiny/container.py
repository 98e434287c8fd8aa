"""transformers' DeepseekV4ForCausalLM as the container of our weights and as the reference forward."""
from __future__ import annotations

import torch
from transformers.models.deepseek_v4 import DeepseekV4Config
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4ForCausalLM

from config import HEAD_DIM, INDEX_DIM, Config

LAYER_TYPE = {0: "sliding_attention", 4: "compressed_sparse_attention", 128: "heavily_compressed_attention"}


def build(cfg: Config, seed: int) -> DeepseekV4ForCausalLM:
    """A model of this shape in f32 with our own initialisation.

    transformers leaves the hash table, sinks and position biases at zero. Zeros there would hide a mistake in an
    engine (every token would go to expert 0, a missing sink would change little), so all of them are filled.
    """
    hf_config = DeepseekV4Config(
        vocab_size=cfg.vocab, hidden_size=cfg.hidden, moe_intermediate_size=cfg.ff, num_hidden_layers=cfg.layers,
        num_attention_heads=cfg.heads, head_dim=HEAD_DIM, q_lora_rank=cfg.q_lora, o_groups=cfg.groups,
        o_lora_rank=cfg.o_lora, n_routed_experts=cfg.experts, num_experts_per_tok=cfg.used,
        index_n_heads=cfg.index_heads, index_head_dim=INDEX_DIM, index_topk=cfg.top_k,
        # Without an explicit schedule transformers would take that of another model.
        layer_types=[LAYER_TYPE[r] for r in cfg.ratios],
        mlp_layer_types=["hash_moe" if layer < cfg.hash_layers else "moe" for layer in range(cfg.layers)],
        max_position_embeddings=1048576,
        rope_parameters={"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 65536,
                         "beta_fast": 32, "beta_slow": 1})
    hf_config._attn_implementation = "eager"
    hf_config._experts_implementation = "eager"
    torch.manual_seed(seed)
    model = DeepseekV4ForCausalLM(hf_config).float().eval()
    _initialise(model, cfg, torch.Generator().manual_seed(seed))
    return model


def _initialise(model: DeepseekV4ForCausalLM, cfg: Config, rng: torch.Generator) -> None:
    def normal(p: torch.Tensor, std: float) -> None:
        p.data.copy_(torch.randn(p.shape, generator=rng) * std)

    for name, p in model.named_parameters():
        if name.endswith("embed_tokens.weight"):
            normal(p, .5)
        elif name.endswith("lm_head.weight"):
            normal(p, .02)
        elif "hc" in name and name.endswith("fn"):
            normal(p, .02)
        elif "hc" in name and name.endswith("scale"):
            p.data.fill_(.3)
        elif name.endswith("_hc.base"):           # pre, post and comb: start near "read a quarter of each stream,
            normal(p, .3)                         # write to all, keep every stream"
            p.data[:4] -= 1.1
            p.data[8:] += 3 * torch.eye(4).flatten()
        elif name.endswith("hc_base"):
            p.data.fill_(-1.1)
        elif name.endswith("sinks"):
            p.data.copy_(1 + 4 * torch.rand(p.shape, generator=rng))
        elif "position_bias" in name:
            normal(p, .1)
        elif p.dim() >= 2:
            writes_residual = "o_b_proj" in name or "down_proj" in name
            normal(p, p.shape[-1] ** -.5 * (.5 if writes_residual else 1))
    for layer in range(cfg.hash_layers):
        choices = [torch.randperm(cfg.experts, generator=rng)[:cfg.used] for _ in range(cfg.vocab)]
        model.model.layers[layer].mlp.gate.tid2eid.copy_(torch.stack(choices))


def randomise(model: DeepseekV4ForCausalLM, seed: int) -> None:
    """For models that are never trained: give everything that starts at a constant a value that matters."""
    rng = torch.Generator().manual_seed(seed + 1)

    def random(p: torch.Tensor) -> torch.Tensor:
        return torch.randn(p.shape, generator=rng)

    for name, p in model.named_parameters():
        if "norm" in name and p.dim() == 1:
            p.data.copy_(1 + .2 * random(p))
        elif "hc" in name and name.endswith("scale"):
            p.data.copy_(.8 + .3 * torch.rand(p.shape, generator=rng))
        elif "hc" in name and name.endswith("fn"):
            p.data.copy_(.05 * random(p))
        elif name.endswith("hc_base"):
            p.data.add_(.5 * random(p))
        elif "position_bias" in name:
            p.data.copy_(.5 * random(p))
        elif name.endswith("lm_head.weight"):
            p.data.copy_(p.shape[-1] ** -.5 * 2 * random(p))
        elif "mlp." in name and ("gate_up" in name or "gate_proj" in name or "up_proj" in name):
            p.data.mul_(2.5)                      # so that some pre-activations reach the clamp
    for name, b in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            b.copy_(.3 * random(b))


def weights(model: DeepseekV4ForCausalLM) -> dict[str, torch.Tensor]:
    """Parameters and buffers by name."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
