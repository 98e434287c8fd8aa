"""Small random models that differ from the bundled one in everything a loader must not assume: layer order, widths, expert counts, top-k, tensor types.
Random weights are the sharpest parity check: every mistake of more than a few 1e-5 shows in the last logits.

    python parity_models.py OUT_DIR [NAME...]     # NAME.gguf, NAME.npz (logits_nNNNN, tokens_nNNNN) and NAME.json per model
"""
import json, os, sys
import numpy as np
from config import Config, Q2_RECIPE, hf_model, randomise
from quantise import write_model
import golden

SMALL = dict(hidden=512, ff=256, heads=4, q_lora=128, groups=2, o_lora=64, experts=4, used=2, hash_layers=1, idx_heads=4, top_k=16)
R = lambda **k: {**Q2_RECIPE, **k}
MODELS = {
    "order_4_128_0_4": Config((4, 128, 0, 4), **SMALL),                                                      # no plain layer first, and one in the middle
    "plain_only": Config((0, 0), **{**SMALL, "hash_layers": 1}),                                             # no compressor anywhere
    "hidden_768": Config((0, 4, 128), **{**SMALL, "hidden": 768, "ff": 512, "heads": 2, "groups": 1, "o_lora": 96, "experts": 3, "top_k": 24}),
    "experts_32_used_6": Config((4, 0, 128), **{**SMALL, "experts": 32, "used": 6, "hash_layers": 0, "heads": 8, "groups": 4, "idx_heads": 16, "top_k": 512}),
    "all_hash_no_bias": Config((0, 4), **{**SMALL, "hash_layers": 2, "top_k": 1, "vocab": 640}),
    "no_router_bias": Config((128, 4), **{**SMALL, "hash_layers": 0, "router_bias": False, "experts": 5, "used": 5}),
    "q4_k_layers": Config((0, 4, 128, 4), **SMALL, layer_recipe={2: dict(gate_up="Q4_K", down="Q4_K"), 3: dict(gate_up="Q4_K", down="Q4_K")}),
    "q2_k_gate_iq2_down": Config((4, 128), **SMALL, recipe=R(gate_up="Q2_K", down="IQ2_XXS")),
    "experts_mixed": Config((0, 4, 128, 0), **SMALL, layer_recipe={0: dict(gate_up="IQ2_XXS", down="Q4_K"), 1: dict(gate_up="Q4_K", down="Q2_K"), 2: dict(gate_up="Q2_K", down="Q2_K"), 3: dict(gate_up="Q4_K", down="IQ2_XXS")}),
    "poly_q8_0": Config((0, 4, 128), **SMALL, recipe=R(embd="Q8_0", hc="Q8_0", router="Q8_0", comp="Q8_0", idx="Q8_0")),
    "poly_f32": Config((0, 4, 128), **SMALL, recipe=R(embd="F32", hc="F32", router="F32", comp="F32", idx="F32", ape="F32")),
    "poly_f16_dense": Config((0, 4, 128), **SMALL, recipe=R(output="F16", attn="F16", shexp="F16")),
    "poly_per_layer": Config((4, 128, 4), **SMALL, layer_recipe={0: dict(attn="F16", hc="F32", comp="Q8_0", idx="F32"), 1: dict(shexp="F16", router="F32", comp="F32", ape="F32"), 2: dict(attn="F16", shexp="F16", hc="Q8_0", idx="Q8_0", router="Q8_0")}),
}
LENGTHS = [3, 7, 128, 130, 257, 389]


def main(out, names):
    os.makedirs(out, exist_ok=True)
    tk = open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizer.json"), encoding="utf-8").read()
    for i, (name, cfg) in enumerate(MODELS.items()):
        if names and name not in names: continue
        seed = 100 + i; m = randomise(hf_model(cfg, seed), seed); path = f"{out}/{name}.gguf"
        write_model(path, cfg, {**dict(m.named_parameters()), **dict(m.named_buffers())}, tk, "assay parity " + name)
        m, back = golden.load(path); w = golden.Watch(m, back); arrays, index = {}, []
        for n in LENGTHS:
            best = None
            for s in range(12):                       # prefer a prompt without any selection near a tie
                ids = golden.random_prompts(cfg, [n], 1000 * i + 10 * s + n)[0]["tokens"]; lg, fl, last = golden.forward(m, w, ids); near = int((fl & 6).bool().sum())
                if best is None or near < best[0]: best = (near, ids, lg, fl, last)
                if near == 0: break
            near, ids, lg, fl, last = best; k = f"n{n:04d}"; arrays["tokens_" + k] = np.array(ids, np.int32); arrays["logits_" + k] = lg[-1].numpy()
            index.append(dict(name=k, n=n, tokens=ids, argmax=int(lg[-1].argmax()), clean=near == 0, positions_near=near, last_flags=int(fl[-1]), margins={a: b if b < 1e30 else None for a, b in last.items()}))
        np.savez(f"{out}/{name}.npz", **arrays)
        json.dump(dict(model=name + ".gguf", bytes=os.path.getsize(path), seed=seed, ratios=cfg.ratios, recipe=cfg.recipe, layer_recipe=cfg.layer_recipe, prompts=index), open(f"{out}/{name}.json", "w"))
        print(f"{name:22s} {os.path.getsize(path) / 1e6:5.1f} MB  clean " + " ".join("y" if p["clean"] else str(p["positions_near"]) for p in index), f" |logits| {np.abs(arrays['logits_n0130']).mean():.2f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
