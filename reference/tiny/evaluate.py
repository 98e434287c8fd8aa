"""Measures a model file: recall by distance, the other tasks, text loss; whole, and with each mechanism broken in turn. Weights are the dequantised file's.

    python evaluate.py MODEL.gguf --heldout heldout.npz --out provenance-eval.json [--device cuda] [--n 64]
"""
import argparse, json
import numpy as np
import torch
import torch.nn.functional as F
import data, golden, tokenizer
from config import EOS_ID
from model import EV, Tiny

DISTANCES = (16, 60, 120, 200, 400, 700, 950)


def score(t, prompts, answers, o=None, dt=torch.float32, P=None):
    """Greedy exact match of answer + EOS. prompts, answers: lists of token lists."""
    S = max(len(p) + len(a) for p, a in zip(prompts, answers)); S += -S % 128; hit = []
    x = torch.full((len(prompts), S), 7, dtype=torch.long)
    for i, (p, a) in enumerate(zip(prompts, answers)): x[i, :len(p) + len(a)] = torch.tensor(p + a)
    pr = t.logits(x.to(t.dev), o, dt, P).argmax(-1).cpu()
    for i, (p, a) in enumerate(zip(prompts, answers)): hit.append(pr[i, len(p) - 1:len(p) + len(a) - 1].tolist() == a)
    return sum(hit) / len(hit), hit


def make_recall(tk, ev, d, n, seed=9, **k):
    g = data.Gen(tk, ev[0], ev[1], seed * 1000 + d, 1024); out = [g.probe(d, **k) for _ in range(n)]
    return [tk.encode(f).ids for _, _, f in out], [tk.encode(v).ids + [EOS_ID] for _, v, _ in out]


_made = {}


def recall(t, tk, ev, d, n, o=None, dt=torch.float32, P=None, **k):
    key = (d, n, tuple(k.items()))
    if key not in _made: _made[key] = make_recall(tk, ev, d, n, **k)
    return score(t, *_made[key], o, dt, P)


def text_loss(t, ev, o=None, dt=torch.float32, P=None, n=32, S=1024):
    x = torch.tensor(np.stack([ev[1][i:i + S] for i in np.linspace(0, len(ev[1]) - S - 1, n).astype(int)]).astype(np.int64), device=t.dev); x[:, 0] = 0
    lg = t.logits(x, o, dt, P); return F.cross_entropy(lg[:, :-1].reshape(-1, lg.shape[-1]), x[:, 1:].reshape(-1)).item()


def block(t, tk, ev, n, o=None, dt=torch.float32, P=None, S=1024):
    """(accuracy, loss) on the answers of the block task in the second half."""
    g = data.Gen(tk, ev[0], ev[1], 77, S); b = [g.t_block() for _ in range(n)]; x = torch.tensor(np.stack([q for q, _ in b]), device=t.dev); w = torch.tensor(np.stack([w for _, w in b]), device=t.dev) > 0; w[:, :S // 2] = False
    lg = t.logits(x, o, dt, P); m = w[:, 1:]; return (lg[:, :-1].argmax(-1) == x[:, 1:])[m].float().mean().item(), F.cross_entropy(lg[:, :-1][m], x[:, 1:][m]).item()


def small_tasks(t, tk, dt, n=200):
    r = np.random.default_rng(4); out = {}; from_text = lambda q: tk.encode(f"{data.BOS}{data.USER}{q}{data.ASSISTANT}{data.END_THINK}").ids
    def run(name, qa): out[name] = score(t, [from_text(q) for q, _ in qa], [tk.encode(a).ids + [EOS_ID] for _, a in qa], dt=dt)[0]
    ab = r.integers(0, 100, (n, 2)); run("addition", [(f"{a:02d}+{b:02d}=", f"{(a + b) % 100:02d}") for a, b in ab])
    v = r.integers(0, 100, (n, 3)); run("max", [("max " + " ".join(f"{x:02d}" for x in y), f"{y.max():02d}") for y in v])
    w = ["".join(r.choice(list("abcdefghijklmnopqrstuvwxyz"), r.integers(2, 13))) for _ in range(n)]; run("repeat", [("repeat: " + x, x) for x in w]); return out


def main():
    ap = argparse.ArgumentParser(); ap.add_argument("model"); ap.add_argument("--heldout", default="heldout.npz"); ap.add_argument("--out", default="evaluation.json"); ap.add_argument("--device", default="cuda"); ap.add_argument("--n", type=int, default=64)
    A = ap.parse_args(); hf, cfg = golden.load(A.model); tk = tokenizer.load(); z = np.load(A.heldout); ev = (z["text"].tobytes().decode(), z["tokens"]); t = Tiny(hf, cfg, torch.device(A.device)); torch.set_float32_matmul_precision("highest"); res = {}
    torch.manual_seed(3); perm = torch.randperm(cfg.vocab, device=t.dev)

    def measure(name, o=None, P=None):
        r = {f"recall_{d}": recall(t, tk, ev, d, A.n, o, P=P)[0] for d in DISTANCES}; r["text_loss"] = text_loss(t, ev, o, P=P); r["block_acc"], r["block_loss"] = block(t, tk, ev, max(2, A.n // 4), o, P=P)
        res[name] = {k: round(v, 4) for k, v in r.items()}; print(f"{name:32s}", " ".join(f"{k}={v:.3f}" for k, v in res[name].items()), flush=True)
    measure("whole")
    measure("ds4 numerics (fp8 KV, fp4 indexer)", EV(ds4=True))
    measure("all ratio-4 rows attended", EV(sel="all"))
    measure("ratio-4 rows removed", EV(drop=(4,))); measure("ratio-128 rows removed", EV(drop=(128,)))
    measure("indexer takes the last k", EV(sel="last")); measure("indexer takes random k", EV(sel="rand"))
    measure("sinks dropped", EV(sink="none"))
    measure("hash table permuted", P=[{k: (v[perm] if "tid2eid" in k else v) for k, v in d.items()} for d in t.P])
    measure("router bias zeroed", P=[{k: (torch.zeros_like(v) if "e_score" in k else v) for k, v in d.items()} for d in t.P])
    measure("routed experts zeroed", P=[{k: (torch.zeros_like(v) if ".experts." in k else v) for k, v in d.items()} for d in t.P])
    measure("APE zeroed", P=[{k: (torch.zeros_like(v) if "position_bias" in k else v) for k, v in d.items()} for d in t.P])
    ex = small_tasks(t, tk, torch.float32)
    ex["recall_1700 (2,048-token prompts, never trained on)"] = recall(t, tk, ev, 1700, 32)[0]; ex["recall_200, thinking layout"] = recall(t, tk, ev, 200, A.n, think=True)[0]
    ex["recall_200, facts only"] = recall(t, tk, ev, 200, A.n, plain=True)[0]; ex["recall_400, facts only"] = recall(t, tk, ev, 400, A.n, plain=True)[0]
    res["other tasks"] = {k: round(v, 4) for k, v in ex.items()}; print(res["other tasks"])
    res["sinks"] = [[round(x, 2) for x in d["self_attn.sinks"].tolist()] for d in t.P]
    json.dump(dict(n=A.n, results=res), open(A.out, "w"), indent=1)


if __name__ == "__main__":
    main()
