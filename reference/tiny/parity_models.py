"""Small random models that differ from the bundled one in everything that a loader must not assume: layer order,
widths, expert counts, top-k, tensor types. Random weights are the sharpest check: nothing in them is redundant.

    python parity_models.py OUT_DIR [NAME...]     # NAME.gguf, and golden logits in NAME/ in golden.py's format
"""
from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import container
import gguf_file
import golden
import tokenizer
from config import Q2_RECIPE, Config

BASE = Config(ratios=(0, 4, 128), ff=256, q_lora=128, o_lora=64, experts=4, used=2, hash_layers=1, index_heads=4, top_k=32)
LENGTHS = (3, 7, 130, 257, 389)
TRIES = 8                        # prompts tried for one without any selection near a tie


def shape(ratios: tuple[int, ...], **changes: Any) -> Config:
    return replace(BASE, ratios=ratios, **changes)


def recipe(**types: str) -> dict[str, str]:
    return {**Q2_RECIPE, **types}


MODELS: dict[str, Config] = {
    # shapes
    "order_4_128_0_4": shape((4, 128, 0, 4), top_k=8),
    "plain_only": shape((0, 0)),
    "hidden_256": shape((4, 0, 128), hidden=256, heads=8, groups=4, experts=16, used=6, hash_layers=0, top_k=8),
    "hidden_768": shape((0, 4, 128), hidden=768, ff=512, heads=2, groups=1, o_lora=96, experts=3, top_k=24),
    "experts_16_used_5": shape((128, 4, 4), experts=16, used=5, index_heads=16, hash_layers=2, top_k=8),
    "experts_32_used_6": shape((4, 0, 128), experts=32, used=6, hash_layers=0, heads=8, groups=4, index_heads=16, top_k=512),
    "all_hash": shape((0, 4), hash_layers=2, top_k=1, vocab=640),
    "no_router_bias": shape((128, 4), hash_layers=0, router_bias=False, experts=8, used=3),
    "every_expert_used": shape((4, 128), experts=5, used=5, hash_layers=1, index_heads=1, top_k=8),
    "one_layer": shape((4,), hash_layers=0, heads=1, groups=1, top_k=8),
    # types of the routed experts
    "q4_k_last_layers": shape((0, 4, 128, 4), layer_recipe={
        2: {"gate_up": "Q4_K", "down": "Q4_K"}, 3: {"gate_up": "Q4_K", "down": "Q4_K"}}),
    "q2_k_gate_iq2_down": shape((4, 128), recipe=recipe(gate_up="Q2_K", down="IQ2_XXS"), top_k=8),
    "experts_mixed": shape((0, 4, 128, 0), layer_recipe={
        0: {"gate_up": "IQ2_XXS", "down": "Q4_K"}, 1: {"gate_up": "Q4_K", "down": "Q2_K"},
        2: {"gate_up": "Q2_K", "down": "Q2_K"}, 3: {"gate_up": "Q4_K", "down": "IQ2_XXS"}}),
    "q8_0_experts": shape((0, 4), recipe=recipe(gate_up="Q8_0", down="Q8_0")),
    # the other columns of §2
    "poly_q8_0": shape((0, 4, 128), recipe=recipe(embd="Q8_0", hc="Q8_0", router="Q8_0", comp="Q8_0", idx="Q8_0")),
    "poly_f32": shape((0, 4, 128), recipe=recipe(embd="F32", hc="F32", router="F32", comp="F32", idx="F32", ape="F32")),
    "poly_f16_dense": shape((0, 4, 128), recipe=recipe(output="F16", attn="F16", shexp="F16")),
    "poly_per_layer": shape((4, 128, 4), layer_recipe={
        0: {"attn": "F16", "hc": "F32", "comp": "Q8_0", "idx": "F32"},
        1: {"shexp": "F16", "router": "F32", "comp": "F32", "ape": "F32"},
        2: {"attn": "F16", "shexp": "F16", "hc": "Q8_0", "idx": "Q8_0", "router": "Q8_0"}}),
}


def clean_prompt(reference: golden.Reference, n: int, seed: int) -> golden.Prompt:
    """The first of a few random prompts whose selections are all clear of noise; else the last."""
    for attempt in range(TRIES):
        prompt = golden.random_prompt(reference.cfg, n, seed + 100_000 * attempt)
        if reference.run(prompt.tokens).clean:
            break
    return prompt


def main(out: Path, names: list[str]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for i, (name, cfg) in enumerate(MODELS.items()):
        if names and name not in names:
            continue
        seed = 100 + i
        made = container.build(cfg, seed)
        container.randomise(made, seed)
        path = out / f"{name}.gguf"
        gguf_file.write(path, cfg, container.weights(made), tokenizer.text(), "assay parity " + name)
        model, read = gguf_file.load(path)
        reference = golden.Reference(model, read)
        print(f"{name}: {path.stat().st_size / 1e6:.1f} MB", flush=True)
        golden.write_set(reference, [clean_prompt(reference, n, 1000 * i + n) for n in LENGTHS], out / name, path.name)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
