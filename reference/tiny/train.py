"""Trains the bundled model and writes model.gguf: main phase, 2-bit finish (straight-through over the real block formats), export.

    python train.py --out OUT            # one GPU with bf16, about 8 minutes on an H200, then: python evaluate.py OUT/model.gguf
    python train.py --out OUT --smoke    # a minute on a CPU: two tiny steps, checks the plumbing
"""
import argparse, json, multiprocessing as mp, os, time
import numpy as np
import torch
import data, tokenizer
from config import TINY, hf_model, tensors
from model import EV, Tiny, attention, ffn, head_loss
from quantise import rounded, write_model

# ---------------------------------------------------------------- configuration
SEED = 7
BATCH, SEQ = 32, 1024
STEPS, FINISH_STEPS = 2700, 300            # 88 M + 10 M tokens
LR_MUON, LR_ADAM, WEIGHT_DECAY = 3e-3, 2e-3, .1
DENSE_UNTIL = .30                          # attend to every ratio-4 row for the first part of the run, then top-k
FLAT_UNTIL, LR_END = .50, .02              # constant learning rate, then linear down to this share
CORPUS_CHARS = 48_000_000
WORKERS = 12
T0 = time.time()


def log(*a): print(f"[{time.time() - T0:6.1f}]", *a, flush=True)


# ---------------------------------------------------------------- optimiser
class Muon:
    """Orthogonalised momentum for matrices, batched over equal shapes. items: (param, (count, rows, cols) view)."""
    def __init__(self, items, lr):
        self.g, self.lr = {}, lr
        for p, v in items: self.g.setdefault(v[1:], []).append((p, v))
        self.m = {k: torch.zeros(sum(v[0] for _, v in it), *k, device=it[0][0].device) for k, it in self.g.items()}

    @torch.no_grad()
    def step(self, f):
        for k, it in self.g.items():
            G = torch.cat([p.grad.reshape(v) for p, v in it]); m = self.m[k]; m.lerp_(G, .05); X = G.lerp(m, .95).bfloat16(); tr = k[0] > k[1]
            if tr: X = X.transpose(1, 2)
            X = X / (X.float().square().sum((1, 2), keepdim=True).sqrt() + 1e-7).bfloat16()
            for _ in range(5):
                Q = X @ X.transpose(1, 2); X = 3.4445 * X + (-4.775 * Q + 2.0315 * Q @ Q) @ X
            if tr: X = X.transpose(1, 2)
            U = X.float() * (.2 * max(k) ** .5 * self.lr * f); o = 0
            for p, v in it:
                p.mul_(1 - self.lr * f * WEIGHT_DECAY); p.sub_(U[o:o + v[0]].reshape(p.shape)); o += v[0]


def optimisers(hf, cfg):
    mu, ad = [], []
    for n, p in hf.named_parameters():
        if p.dim() < 2 or any(x in n for x in ("indexer", "embed", "lm_head", "_hc", "hc_head", "gate.weight", "position_bias")): ad.append(p)
        elif "gate_up_proj" in n: mu.append((p, (cfg.experts * 2, cfg.ff, cfg.hidden)))
        elif p.dim() == 3: mu.append((p, tuple(p.shape)))
        elif "o_a_proj" in n: mu.append((p, (cfg.groups, cfg.o_lora, p.shape[1])))
        else: mu.append((p, (1, *p.shape)))
    return Muon(mu, LR_MUON), torch.optim.Adam(ad, lr=LR_ADAM, betas=(.9, .98), eps=1e-10, fused=ad[0].is_cuda)


# ---------------------------------------------------------------- data workers
def worker(qu, tk_json, text, tokens, seed, batch, seq):
    from tokenizers import Tokenizer
    os.environ["TOKENIZERS_PARALLELISM"] = "false"; torch.set_num_threads(1)
    g = data.Gen(Tokenizer.from_str(tk_json), text, tokens, seed, seq)
    while True:
        b = [g.sample() for _ in range(batch)]
        qu.put((np.stack([x[0] for x in b]).astype(np.int16), np.stack([x[1] for x in b]), np.array([x[2] for x in b], np.int64)))


def quick(t, tk, ev, dt, dists=(16, 60, 200, 400, 700), n=32):
    """Recall of chat probes and text loss, for the log."""
    from evaluate import recall, text_loss
    return {**{f"r{d}": round(recall(t, tk, ev, d, n, dt=dt)[0], 3) for d in dists}, "text": round(text_loss(t, ev, dt=dt, n=16), 4)}


def main():
    ap = argparse.ArgumentParser(); ap.add_argument("--out", default="out"); ap.add_argument("--device", default="cuda"); ap.add_argument("--smoke", action="store_true")
    ap.add_argument("--steps", type=int, default=STEPS); ap.add_argument("--finish-steps", type=int, default=FINISH_STEPS); ap.add_argument("--no-compile", action="store_true")
    ap.add_argument("--compile-cache", default="", help="file with torch.compile artifacts to load; written to OUT/compile_cache.bin when absent"); ap.add_argument("--eval-every", type=int, default=600)
    ap.add_argument("--max-seconds", type=float, default=1e9, help="start the finish phase early when this much time has passed")
    A = ap.parse_args(); dev = torch.device("cpu" if A.smoke else A.device); cuda = dev.type == "cuda"; os.makedirs(A.out, exist_ok=True)
    B, S = (2, 256) if A.smoke else (BATCH, SEQ); steps, fin = (2, 1) if A.smoke else (A.steps, A.finish_steps); cfg = TINY; rec = dict(seed=SEED, batch=B, seq=S, mix=data.MIX, log=[])
    # ---- data
    tk = tokenizer.load(); docs, found = data.corpus(3_000_000 if A.smoke else CORPUS_CHARS, ["numpy"] if A.smoke else None); nh = max(2, len(docs) // 25)
    enc = lambda ds: np.concatenate([np.array(e.ids + [1], np.int16) for e in tk.encode_batch(ds)])
    tr, ev = ("\n".join(docs[nh:]), enc(docs[nh:])), ("\n".join(docs[:nh]), enc(docs[:nh]))
    rec["corpus"] = dict(packages=found, train_chars=len(tr[0]), train_tokens=len(tr[1]), heldout_tokens=len(ev[1]), chars_per_token=round(len(tr[0]) / len(tr[1]), 3)); log("corpus", rec["corpus"])
    np.savez_compressed(A.out + "/heldout.npz", text=np.frombuffer("\n".join(docs[:nh])[:1_500_000].encode(), np.uint8), tokens=ev[1][:600_000])
    ctx = mp.get_context("fork"); qu = ctx.Queue(32); tj = tk.to_str()
    ws = [ctx.Process(target=worker, args=(qu, tj, *tr, SEED * 100 + i, B, S), daemon=True) for i in range(2 if A.smoke else WORKERS)]
    for w in ws: w.start()
    # ---- model
    torch.set_float32_matmul_precision("high"); t = Tiny(hf_model(cfg, SEED), cfg, dev); dt = torch.bfloat16 if cuda else torch.float32
    params = list(t.hf.parameters()); rec["parameters"] = sum(p.numel() for p in params); log("parameters", rec["parameters"])

    @torch.no_grad()
    def parity(tag):
        torch.set_float32_matmul_precision("highest"); x = torch.tensor(ev[1][:2 * 500].astype(np.int64).reshape(2, 500), device=dev)
        a = t.hf(input_ids=x, use_cache=False).logits.float(); b = t.logits(x, EV()); torch.set_float32_matmul_precision("high")
        rec["parity_" + tag] = ((a - b).norm() / a.norm()).item(); log("own forward against transformers, f32,", tag, f"{rec['parity_' + tag]:.2e}")
    parity("init")
    if cuda and not A.no_compile:
        if A.compile_cache and os.path.exists(A.compile_cache): torch.compiler.load_cache_artifacts(open(A.compile_cache, "rb").read()); log("compile cache loaded")
        torch._dynamo.config.cache_size_limit = 32; c = lambda f: torch.compile(f, dynamic=False); t.attn, t.ffn, t.loss = c(attention), c(ffn), c(head_loss)
    mu, adam = optimisers(t.hf, cfg); dense = torch.ones((), device=dev)
    experts = [(p, cfg.type_of("gate_up" if "gate_up" in n else "down")) for n, p in t.hf.named_parameters() if ".experts." in n]

    def one(f, finish):
        q, w, ty = qu.get(); pin = (lambda x: x.pin_memory()) if cuda else (lambda x: x)
        ids, w = pin(torch.from_numpy(q).long()).to(dev, non_blocking=True), pin(torch.from_numpy(w)).to(dev, non_blocking=True)
        if finish:                                                     # forward and backward at the rounded weights, update the unrounded ones
            keep = [p.data.clone() for p, _ in experts]
            for p, qt in experts: p.data.copy_(rounded(p.data, qt))
        h, kls, loads = t.body(ids, dt, dense, None); loss, per = t.loss(h, t.G, ids, w, dt); kl = sum(kls); (loss + kl).backward()
        if finish:
            for (p, _), m in zip(experts, keep): p.data.copy_(m)
        torch.nn.utils.clip_grad_norm_([p for p in params if p.grad is not None], 1.0)
        for g in adam.param_groups: g["lr"] = LR_ADAM * f
        mu.step(f); adam.step()
        for p in params: p.grad = None
        for l in range(cfg.hash_layers, cfg.layers): t.P[l]["mlp.gate.e_score_correction_bias"].add_(1e-3 * f * torch.sign(cfg.used / cfg.experts - loads[l]))
        return per, torch.from_numpy(ty).to(dev), kl.detach()

    def phase(name, n, lr, finish):
        k = len(data.KINDS); acc, cnt, kl = torch.zeros(k, device=dev), torch.zeros(k, device=dev), torch.zeros((), device=dev); t0 = tl = time.time(); last = 0
        for i in range(n):
            dense.fill_(1.0 if not finish and i < DENSE_UNTIL * n else 0.0); f = lr(i / n) * min(1, (i + 1) / 100); per, ty, k_ = one(f, finish)
            acc.index_add_(0, ty, per); cnt.index_add_(0, ty, torch.ones_like(per)); kl += k_
            if (i + 1) % 100 == 0 or i + 1 == n:
                a = (acc / cnt.clamp_min(1)).tolist(); now = time.time(); row = dict(phase=name, step=i + 1, lr=round(f, 3), tok_s=round((i + 1 - last) * B * S / (now - tl)), kl=round(kl.item() / (i + 1 - last), 3), loss={y: round(v, 3) for y, v in zip(data.KINDS, a)})
                rec["log"].append(row); log(name, i + 1, row["tok_s"], "tok/s kl", row["kl"], " ".join(f"{y} {v}" for y, v in row["loss"].items()), "queue", qu.qsize()); acc.zero_(); cnt.zero_(); kl.zero_(); tl, last = now, i + 1
                if not finish and time.time() - T0 > A.max_seconds: log("out of time"); break
            if not finish and cuda and (i + 1) % A.eval_every == 0 and i + 1 < n: e = quick(t, tk, ev, dt); rec["log"].append(dict(phase=name, step=i + 1, eval=e)); log("  eval", e); tl = time.time(); last = i + 1
        if cuda: torch.cuda.synchronize()
        rec[name] = dict(steps=i + 1, tokens=(i + 1) * B * S, seconds=round(time.time() - t0, 1)); log(name, rec[name])
    one(1e-3, False); one(1e-3, False); log("first steps (compilation) done")
    if cuda and not A.no_compile and not (A.compile_cache and os.path.exists(A.compile_cache)):
        try: open(A.out + "/compile_cache.bin", "wb").write(torch.compiler.save_cache_artifacts()[0]); log("compile cache", os.path.getsize(A.out + "/compile_cache.bin"))
        except Exception as e: log("no compile cache:", repr(e)[:200])
    phase("train", steps, lambda x: 1.0 if x < FLAT_UNTIL else max(LR_END, (1 - x) / (1 - FLAT_UNTIL)), False)
    if cuda: parity("trained"); e = quick(t, tk, ev, dt); rec["eval_before_finish"] = e; log("before the 2-bit finish", e)
    phase("finish", fin, lambda x: .3 * max(.03, 1 - x), True)
    for w in ws: w.terminate()
    # ---- export
    w = {**dict(t.hf.named_parameters()), **dict(t.hf.named_buffers())}
    rec["bytes"] = write_model(A.out + "/model.gguf", cfg, w, open(os.path.join(tokenizer.HERE, "tokenizer.json"), encoding="utf-8").read(), "assay tiny")
    rec["torch"] = torch.__version__; rec["seconds"] = round(time.time() - T0, 1); rec["device"] = torch.cuda.get_device_name() if cuda else "cpu"
    json.dump(rec, open(A.out + "/train.json", "w"), indent=1); log("wrote", A.out + "/model.gguf", os.path.getsize(A.out + "/model.gguf"))


if __name__ == "__main__":
    main()
