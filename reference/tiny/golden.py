"""Golden logits: transformers' DeepseekV4 in f32 over the weights *as the GGUF file holds them* (read back and dequantised with the PyPI package
`gguf`, which shares no code with quantise.py).

    python golden.py MODEL.gguf OUT_DIR [--lengths 1,2,3,...] [--full 64,200]

OUT_DIR/golden.json lists every prompt; OUT_DIR/<name>.npy is f32: [vocab] (last position) or [n, vocab] ("full").
Ties: a selection whose margin is zero follows "lower index wins"; margins at or below the noise level are recorded per prompt.
"""
import argparse, json, os
import numpy as np
import torch
from gguf import GGUFReader, GGMLQuantizationType
from gguf.quants import dequantize
from config import Config, hf_model, tensors

NOISE = 2e-5            # relative to the spread of the compared scores: engines in f32 differ by less, so a larger margin is safe


# ---------------------------------------------------------------- reading a model back
def _field(r, key):
    f = r.fields[key]; return f.contents()


def read_config(r):
    g = lambda k: _field(r, "deepseek4." + k)
    return Config(ratios=tuple(g("attention.compress_ratios")), hidden=g("embedding_length"), ff=g("expert_feed_forward_length"), heads=g("attention.head_count"),
                  q_lora=g("attention.q_lora_rank"), groups=g("attention.output_group_count"), o_lora=g("attention.output_lora_rank"), experts=g("expert_count"),
                  used=g("expert_used_count"), hash_layers=g("hash_layer_count"), idx_heads=g("attention.indexer.head_count"), top_k=g("attention.indexer.top_k"),
                  vocab=g("vocab_size"), router_bias=any(t.name.endswith("exp_probs_b.bias") for t in r.tensors))


def read_weights(r, cfg):
    """{hf name: f32 tensor} from the file."""
    have = {t.name: t for t in r.tensors}; out = {}; halves = {}
    for g, h, role, _ in tensors(cfg):
        t = have.pop(g)
        if t.tensor_type in (GGMLQuantizationType.F32, GGMLQuantizationType.I32): v = np.array(t.data)
        elif t.tensor_type == GGMLQuantizationType.F16: v = t.data.astype(np.float32)
        else: v = dequantize(t.data, t.tensor_type)
        v = torch.from_numpy(np.ascontiguousarray(v)).reshape([int(d) for d in reversed(t.shape)])
        if role == "i32": v = v.long()
        base, _, part = h.partition("#")
        if part: halves.setdefault(base, {})[part] = v
        else: out[h] = v
    for base, p in halves.items(): out[base] = torch.cat([p["0"], p["1"]], 1)
    assert not have, sorted(have)
    return out


def load(path, device="cpu"):
    r = GGUFReader(path); cfg = read_config(r); m = hf_model(cfg); w = read_weights(r, cfg)
    own = {**dict(m.named_parameters()), **{n: b for n, b in m.named_buffers() if "inv_freq" not in n}}
    for n, p in own.items():
        if not cfg.router_bias and n.endswith("e_score_correction_bias"): p.zero_(); continue
        assert p.shape == w[n].shape, (n, p.shape, w[n].shape); p.data.copy_(w[n])
    return m.to(device).eval(), cfg


# ---------------------------------------------------------------- margins
class Watch:
    """Hooks on the two selections. Also makes the indexer's tie rule "lower index wins" (torch.topk leaves it open)."""
    def __init__(self, m, cfg):
        self.cfg, self.idx, self.rt = cfg, [], []
        for l in m.model.layers:
            c = getattr(l.self_attn, "compressor", None)
            if c is not None and hasattr(c, "indexer"): c.indexer.scorer.register_forward_hook(self.scorer)
            if not l.mlp.is_hash: l.mlp.gate.register_forward_hook(self.router)

    def scorer(self, mod, args, s):
        B, S, T = s.shape; k = self.cfg.top_k; dev = s.device
        seen = (torch.arange(S, device=dev) + 1) // 4; vis = torch.arange(T, device=dev)[None] < seen[:, None]
        margin = torch.full((S,), float("inf"))
        if T > k:
            v = s[0].masked_fill(~vis, float("-inf")).sort(-1, descending=True).values; more = seen > k
            spread = (s[0].masked_fill(~vis, float("-inf")).amax(-1) - s[0].masked_fill(~vis, float("inf")).amin(-1)).clamp_min(1e-30)
            margin[more.cpu()] = ((v[:, k - 1] - v[:, k]) / spread)[more].cpu()
        self.idx.append(margin)
        rank = torch.empty_like(s).scatter_(-1, torch.sort(s, dim=-1, descending=True, stable=True).indices, torch.arange(T, device=dev, dtype=s.dtype).expand(B, S, T).contiguous())
        return -rank

    def router(self, mod, args, out):
        sc = mod.score_fn(out[0]) + mod.e_score_correction_bias; v = sc.sort(-1, descending=True).values
        k = mod.top_k
        if k < sc.shape[-1]: self.rt.append(((v[:, k - 1] - v[:, k]) / (v[:, 0] - v[:, -1]).clamp_min(1e-30)).cpu())

    def take(self, n):
        f = lambda l: torch.stack(l).amin(0) if l else torch.full((n,), float("inf"))
        i, r = f(self.idx), f(self.rt); self.idx, self.rt = [], []; return i, r


@torch.no_grad()
def forward(m, watch, ids):
    """Logits [n, vocab] of one prompt, and per-position flags: 1 indexer tie (exact), 2 indexer near, 4 router near, 8 argmax near."""
    dev = next(m.parameters()).device
    lg = m(input_ids=torch.tensor([ids], device=dev), use_cache=False).logits[0].float().cpu(); im, rm = watch.take(len(ids))
    top = lg.topk(2, -1).values; am = (top[:, 0] - top[:, 1]) / lg.std(-1)
    fl = (im == 0) * 1 + ((im > 0) & (im <= NOISE)) * 2 + (rm <= NOISE) * 4 + (am <= 1e-3) * 8
    return lg, fl.to(torch.uint8), dict(min_indexer=float(im.min()), min_router=float(rm.min()), indexer=float(im[-1]), router=float(rm[-1]), argmax=float(am[-1]))


def classes(n, top_k):
    c = [f"n%4={n % 4}"]
    if n % 128 in (0, 1, 127): c.append(f"n%128={n % 128}")
    if n > 128: c.append("past-window")
    if n // 4 > top_k: c.append("past-top-k")
    if n >= 1000: c.append("long")
    return c


def write(m, cfg, prompts, out):
    """prompts: [{name, tokens, full?, ...}]. Writes the .npy files and golden.json."""
    os.makedirs(out, exist_ok=True); w = Watch(m, cfg); index = []; fin = lambda x: x if x < 1e30 else None
    for p in prompts:
        lg, fl, last = forward(m, w, p["tokens"]); n = len(p["tokens"]); full = bool(p.pop("full", False))
        np.save(f"{out}/{p['name']}.npy", lg.numpy() if full else lg[-1].numpy())
        e = {**p, "n": n, "classes": classes(n, cfg.top_k), "file": p["name"] + ".npy", "full": full, "argmax": int(lg[-1].argmax()),
             "last_margin": {k: fin(v) for k, v in last.items()}, "last_flags": int(fl[-1]),
             "positions_indexer_tied": int((fl & 1).bool().sum()), "positions_indexer_near": int((fl & 2).bool().sum()), "positions_router_near": int((fl & 4).bool().sum()),
             "positions_argmax_near": int((fl & 8).bool().sum()), "clean": not bool((fl & 6).any())}
        if full: np.save(f"{out}/{p['name']}.flags.npy", fl.numpy()); e["flags"] = p["name"] + ".flags.npy"
        index.append(e)
    import transformers
    json.dump(dict(schema=1, source=f"transformers {transformers.__version__} deepseek_v4, eager, f32, CPU", numerics="exact",
                   noise=NOISE, flags={"1": "indexer: selection boundary exactly tied (lower index taken)", "2": "indexer: margin within noise, not zero", "4": "router: margin within noise", "8": "argmax within noise"},
                   clean="no selection at any position within noise (exact ties follow the rule): logits must agree to float accuracy", prompts=index), open(f"{out}/golden.json", "w"), indent=1, ensure_ascii=False)
    return index


def random_prompts(cfg, lengths, seed, full=()):
    r = np.random.default_rng(seed)
    return [dict(name=f"n{n:04d}", tokens=[0] + r.integers(7, cfg.vocab, n - 1).tolist(), full=n in full) for n in lengths]


LENGTHS = [1, 2, 3, 4, 5, 6, 7, 31, 126, 127, 128, 129, 130, 131, 132, 133, 170, 255, 256, 257, 383, 384, 385, 519, 1000, 1023, 1025]
if __name__ == "__main__":
    ap = argparse.ArgumentParser(); ap.add_argument("model"); ap.add_argument("out"); ap.add_argument("--lengths", default=",".join(map(str, LENGTHS))); ap.add_argument("--full", default="70,260"); ap.add_argument("--seed", type=int, default=5)
    a = ap.parse_args(); ints = lambda s: [int(x) for x in s.split(",") if x]
    m, cfg = load(a.model)
    for e in write(m, cfg, random_prompts(cfg, sorted(set(ints(a.lengths) + ints(a.full))), a.seed, ints(a.full)), a.out):
        print(e["name"], e["classes"], "clean" if e["clean"] else f"tied {e['positions_indexer_tied']} near {e['positions_indexer_near']} router {e['positions_router_near']}", e["last_margin"])
