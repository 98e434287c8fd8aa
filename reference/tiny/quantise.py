"""Quantisers for the block formats of DeepSeek V4 Flash's GGUF files, and a GGUF v3 writer. Own code; only the IQ2_XXS grid is a constant of the format.

Each format has one encoder that returns packed bytes *and* the values those bytes mean, so that training can round to exactly
what the file will hold. Everything runs in torch on the weights' device.

    python quantise.py WEIGHTS.pt OUT.gguf      # WEIGHTS.pt: {hf parameter name: tensor}, shape = config.TINY
"""
import json, os, struct, sys
import numpy as np
import torch
from config import BOS_ID, EOS_ID, SPECIALS, TINY, tensors

# ---------------------------------------------------------------- block formats
# name: (ggml type id, elements a block, bytes a block)
TYPES = dict(F32=(0, 1, 4), F16=(1, 1, 2), Q8_0=(8, 32, 34), Q2_K=(10, 256, 84), Q4_K=(12, 256, 144), IQ2_XXS=(16, 256, 66), I32=(26, 1, 4))
TINY_F16 = 6.0e-8                       # the smallest f16 step: block scales are never stored as zero

# 256 grid entries of 8 values from {8, 25, 43}, two bits each, first value in the low bits.
GRID_HEX = (
    "00000200050008000a00110014002000220028002a00410044005000580061006400800082008a00a20001010401100115014001840198010002020222028202"
    "010404041004210424044004420448046004810484049004a404000502050805200546056905800591050906100640068406a406000805080808140828084108"
    "440850085208880804094009020a140a01100410101021104010601084109010951000110811201150115a118011241245120014081420142514491480141815"
    "6215001616160118041810184018811800190519a019511a002002200a2044206120802082202921482100220222012404241024402456240025412564259026"
    "082820289428442a0140044010401840214024404040484056406040814084409040004120416141804185410142104248425642684200440844204480449944"
    "124524450046014804481048404845480049584961498249454a904a005008501150195020508050885004514251a4519152905492540a550156545600581158"
    "195864584059085a04601060406068600061556118626062006405641065126584654268008002800a8041808280048118814081118201840484108415844084"
    "608400854685948509864086608602880489118a0490109024904090a19016918091459200942294449451958198209902a050a085a009a100a218a450a804a9")


def grid(dev, _cache={}):
    if dev not in _cache:
        b = np.frombuffer(bytes.fromhex(GRID_HEX), np.uint8)
        _cache[dev] = torch.tensor(np.array([8, 25, 43])[(b[:, None] >> np.array([0, 2, 4, 6])) & 3].reshape(256, 8), dtype=torch.float32, device=dev)
    return _cache[dev]


def f16_bytes(x):
    """[n] f32 -> [n, 2] u8, little endian."""
    return x.half().contiguous().view(torch.uint8).view(-1, 2)


def f16_scale(x):
    """Round a scale to f16, never to zero; NaN-free for all-zero blocks."""
    return x.half().float().clamp_min(TINY_F16).half().float()


def iq2_xxs(w, pack=True):
    """2.06 bits: f16 d per 256, a 4-bit scale per 32, and per 8 weights one of 256 magnitude patterns plus 7 sign bits (even parity)."""
    x = w.reshape(-1, 8).float(); a = x.abs(); neg = x < 0; g = grid(x.device); half_norm = .5 * g.square().sum(1)
    odd = neg.sum(1, keepdim=True) % 2 == 1                              # make parity even by flipping the smallest weight's sign
    flip = torch.zeros_like(neg).scatter(1, a.argmin(1, keepdim=True), odd)
    sign = neg ^ flip; a = torch.where(flip, -a, a)

    def nearest(s):                                                      # s per 32 weights -> index of the nearest pattern per 8
        an = a / s.repeat_interleave(4).unsqueeze(1).clamp_min(1e-12); out = torch.empty(len(a), dtype=torch.long, device=a.device)
        for i in range(0, len(an), 1 << 18): out[i:i + (1 << 18)] = (an[i:i + (1 << 18)] @ g.t() - half_norm).argmax(1)
        return out
    top = a.view(-1, 32).abs().amax(1); best = None
    for f in (.75, .95):                                                 # two starting scales, one least-squares step each
        c = g[nearest(top * f / 43)]; num, den = (a * c).view(-1, 32).sum(1), c.square().view(-1, 32).sum(1)
        s = (num / den).clamp_min(1e-12); err = -num * num / den
        best = (s, err) if best is None else (torch.where(err < best[1], s, best[0]), torch.minimum(err, best[1]))
    s = best[0].view(-1, 8); d = f16_scale(s.amax(1, keepdim=True) / (.25 * 15.5))
    q = (s / (.25 * d) - .5).round().clamp(0, 15); s = (d * (.5 + q) * .25).reshape(-1)
    idx = nearest(s); val = g[idx] * torch.where(sign, -1.0, 1.0) * s.repeat_interleave(4).unsqueeze(1)
    if not pack: return val.reshape(w.shape), None
    n = len(d); bits = (sign[:, :7].long() << torch.arange(7, device=x.device)).sum(1).view(n, 8, 4)
    hi = (bits << torch.tensor([0, 7, 14, 21], device=x.device)).sum(2) | (q.long() << 28)
    grp = torch.cat([idx.view(n, 8, 4), (hi.unsqueeze(2) >> torch.tensor([0, 8, 16, 24], device=x.device)) & 255], 2).to(torch.uint8)
    return val.reshape(w.shape), torch.cat([f16_bytes(d.flatten()), grp.view(n, 64)], 1)


def q2_k(w, pack=True):
    """2.6 bits: per 16 weights a 4-bit scale and a 4-bit minimum, both on f16 steps per 256."""
    x = w.reshape(-1, 16, 16).float(); best = None
    for f in (1.0, .9, .8, .7, .6):                                      # shrink the range, then least squares for scale and minimum
        mn = (x.amin(-1, keepdim=True) * f).clamp(max=0); sc = ((x.amax(-1, keepdim=True) * f - mn) / 3).clamp_min(1e-10)
        q = ((x - mn) / sc).round().clamp(0, 3); qm, xm = q.mean(-1, keepdim=True), x.mean(-1, keepdim=True)
        sc = (((q - qm) * (x - xm)).sum(-1, keepdim=True) / ((q - qm).square().sum(-1, keepdim=True) + 1e-12)).clamp_min(1e-10)
        mn = (xm - sc * qm).clamp(max=0); err = (x - mn - sc * q).square().sum(-1, keepdim=True)
        best = (sc, mn, err) if best is None else tuple(torch.where(err < best[2], n, o) for n, o in zip((sc, mn, err), best))
    sc, mn, _ = best; d, dm = f16_scale(sc.amax(1, keepdim=True) / 15), f16_scale((-mn).amax(1, keepdim=True) / 15)
    s4, m4 = (sc / d).round().clamp(0, 15), (-mn / dm).round().clamp(0, 15)
    q = ((x + dm * m4) / (d * s4).clamp_min(1e-10)).round().clamp(0, 3); val = d * s4 * q - dm * m4
    if not pack: return val.reshape(w.shape), None
    n = len(x); scales = (s4.long() | (m4.long() << 4)).view(n, 16).to(torch.uint8)
    qs = (q.long().view(n, 2, 4, 32) << torch.tensor([0, 2, 4, 6], device=x.device).view(1, 1, 4, 1)).sum(2).view(n, 64).to(torch.uint8)
    return val.reshape(w.shape), torch.cat([scales, qs, f16_bytes(d.flatten()), f16_bytes(dm.flatten())], 1)


def q4_k(w, pack=True):
    """4.5 bits: per 32 weights a 6-bit scale and a 6-bit minimum, both on f16 steps per 256."""
    x = w.reshape(-1, 8, 32).float(); mn = x.amin(-1, keepdim=True).clamp(max=0); sc = ((x.amax(-1, keepdim=True) - mn) / 15).clamp_min(1e-10)
    d, dm = f16_scale(sc.amax(1, keepdim=True) / 63), f16_scale((-mn).amax(1, keepdim=True) / 63)
    s6, m6 = (sc / d).round().clamp(0, 63), (-mn / dm).round().clamp(0, 63)
    q = ((x + dm * m6) / (d * s6).clamp_min(1e-10)).round().clamp(0, 15); val = d * s6 * q - dm * m6
    if not pack: return val.reshape(w.shape), None
    n = len(x); s, m = s6.long().view(n, 8), m6.long().view(n, 8)
    sb = torch.cat([s[:, :4] | (s[:, 4:] >> 4 << 6), m[:, :4] | (m[:, 4:] >> 4 << 6), (s[:, 4:] & 15) | ((m[:, 4:] & 15) << 4)], 1).to(torch.uint8)
    p = q.long().view(n, 4, 2, 32); qs = (p[:, :, 0] | (p[:, :, 1] << 4)).view(n, 128).to(torch.uint8)
    return val.reshape(w.shape), torch.cat([f16_bytes(d.flatten()), f16_bytes(dm.flatten()), sb, qs], 1)


def q8_0(w, pack=True):
    x = w.reshape(-1, 32).float(); d = f16_scale(x.abs().amax(1, keepdim=True) / 127); q = (x / d).round().clamp(-127, 127)
    if not pack: return (q * d).reshape(w.shape), None
    return (q * d).reshape(w.shape), torch.cat([f16_bytes(d.flatten()), q.to(torch.int8).view(torch.uint8)], 1)


def f16(w, pack=True):
    return w.half().float(), w.half().contiguous().view(torch.uint8) if pack else None


ENCODE = dict(F16=f16, Q8_0=q8_0, Q2_K=q2_k, Q4_K=q4_k, IQ2_XXS=iq2_xxs,
              F32=lambda w, pack=True: (w.float(), w.float().contiguous().view(torch.uint8)),
              I32=lambda w, pack=True: (w, w.to(torch.int32).contiguous().view(torch.uint8)))


def rounded(w, ty):
    """The values the file would hold."""
    return ENCODE[ty](w, pack=False)[0]


# ---------------------------------------------------------------- GGUF
U32, I32_, F32_, BOOL, STR, ARR, U64 = 4, 5, 6, 7, 8, 9, 10
FMT = {U32: "<I", I32_: "<i", F32_: "<f", BOOL: "<?", U64: "<Q"}


def _str(s):
    b = s.encode(); return struct.pack("<Q", len(b)) + b


def _value(ty, v):
    if ty == STR: return _str(v)
    if ty == ARR:
        et, items = v; return struct.pack("<IQ", et, len(items)) + b"".join(_value(et, i) for i in items)
    return struct.pack(FMT[ty], v)


def metadata(cfg, tokenizer_json, name, licence="MIT OR Apache-2.0"):
    """(key, type, value), in file order. Key names and types: the ones the published files' loaders require."""
    k = [("general.architecture", STR, "deepseek4"), ("general.name", STR, name), ("general.license", STR, licence), ("general.alignment", U32, 32)]
    p = lambda key, ty, v: k.append(("deepseek4." + key, ty, v))
    p("block_count", U32, cfg.layers); p("embedding_length", U32, cfg.hidden); p("vocab_size", U32, cfg.vocab); p("context_length", U32, 1048576)
    p("attention.head_count", U32, cfg.heads); p("attention.head_count_kv", U32, 1)
    p("attention.key_length", U32, cfg.head_dim); p("attention.value_length", U32, cfg.head_dim); p("rope.dimension_count", U32, cfg.rope)
    p("attention.q_lora_rank", U32, cfg.q_lora); p("attention.output_lora_rank", U32, cfg.o_lora); p("attention.output_group_count", U32, cfg.groups)
    p("expert_count", U32, cfg.experts); p("expert_used_count", U32, cfg.used); p("expert_feed_forward_length", U32, cfg.ff)
    p("expert_shared_count", U32, 1); p("hash_layer_count", U32, cfg.hash_layers); p("expert_group_count", U32, 0); p("expert_group_used_count", U32, 0)
    p("attention.sliding_window", U32, cfg.window); p("attention.indexer.head_count", U32, cfg.idx_heads)
    p("attention.indexer.key_length", U32, cfg.idx_dim); p("attention.indexer.top_k", U32, cfg.top_k)
    p("hyper_connection.count", U32, cfg.streams); p("hyper_connection.sinkhorn_iterations", U32, 20); p("hyper_connection.epsilon", F32_, 1e-6)
    p("attention.compress_ratios", ARR, (I32_, list(cfg.ratios))); p("swiglu_clamp_exp", ARR, (F32_, [10.0] * cfg.layers))
    p("rope.freq_base", F32_, 10000.0); p("rope.scaling.factor", F32_, 16.0); p("rope.scaling.original_context_length", U64, 65536)
    p("rope.scaling.yarn_beta_fast", F32_, 32.0); p("rope.scaling.yarn_beta_slow", F32_, 1.0); p("attention.compress_rope_freq_base", F32_, 160000.0)
    p("expert_weights_scale", F32_, 1.5); p("expert_weights_norm", BOOL, True); p("attention.layer_norm_rms_epsilon", F32_, 1e-6)
    model = json.loads(tokenizer_json)["model"]
    vocab = {i: t for t, i in model["vocab"].items()}; vocab.update({t["id"]: t["content"] for t in json.loads(tokenizer_json)["added_tokens"]})
    toks = [vocab[i] for i in range(len(vocab))]
    assert len(toks) <= cfg.vocab and toks[BOS_ID] == SPECIALS[0] and toks[EOS_ID] == SPECIALS[1]
    toks += [f"<unused{i}>" for i in range(cfg.vocab - len(toks))]
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    kind = [3 if t in SPECIALS[:4] else 4 if t in SPECIALS else 5 if t.startswith("<unused") else 1 for t in toks]     # control, user-defined, unused, normal
    k += [("tokenizer.ggml.model", STR, "gpt2"), ("tokenizer.ggml.pre", STR, "joyai-llm"), ("tokenizer.ggml.tokens", ARR, (STR, toks)),
          ("tokenizer.ggml.token_type", ARR, (I32_, kind)), ("tokenizer.ggml.merges", ARR, (STR, merges)),
          ("tokenizer.ggml.bos_token_id", U32, BOS_ID), ("tokenizer.ggml.eos_token_id", U32, EOS_ID)]
    return k


def write_gguf(path, kv, entries):
    """entries: (name, dims in ggml order, type name, bytes). GGUF v3, data aligned to 32."""
    out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(entries), len(kv)))
    for key, ty, v in kv: out += _str(key) + struct.pack("<I", ty) + _value(ty, v)
    off = 0
    for name, dims, ty, data in entries:
        out += _str(name) + struct.pack("<I", len(dims)) + b"".join(struct.pack("<Q", d) for d in dims) + struct.pack("<IQ", TYPES[ty][0], off)
        off += (len(data) + 31) // 32 * 32
    with open(path, "wb") as f:
        f.write(out); f.write(b"\0" * (-len(out) % 32))
        for _, _, _, data in entries: f.write(data); f.write(b"\0" * (-len(data) % 32))


def write_model(path, cfg, weights, tokenizer_json, name):
    """weights: {hf name: tensor}, parameters and buffers. Returns bytes per type."""
    entries, total = [], {}
    for g, h, role, l in tensors(cfg):
        base, _, part = h.partition("#"); w = weights[base].detach()
        if part: w = w.chunk(2, dim=1)[int(part)]
        ty = "I32" if role == "i32" else cfg.type_of(role, l)
        assert w.shape[-1] % TYPES[ty][1] == 0 or ty in ("F32", "I32"), (g, ty, w.shape)
        data = ENCODE[ty](w.contiguous())[1].reshape(-1).cpu().numpy().tobytes()
        assert len(data) == w.numel() // TYPES[ty][1] * TYPES[ty][2], g
        entries.append((g, list(reversed(w.shape)), ty, data)); total[ty] = total.get(ty, 0) + len(data)
    write_gguf(path, metadata(cfg, tokenizer_json, name), entries)
    return total


if __name__ == "__main__":
    src, dst = sys.argv[1:3]
    tk = open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "tokenizer.json"), encoding="utf-8").read()
    print(write_model(dst, TINY, torch.load(src), tk, "assay tiny"), os.path.getsize(dst))
