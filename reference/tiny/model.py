"""A fast PyTorch forward of the DeepSeek V4 architecture for training, over transformers' parameters (config.hf_model is the container and
the reference: `parity` in train.py compares the two in f32). 128-token windows as chunks, every expert as one dense product, one Triton kernel
pair for Sinkhorn. bf16 products; f32 weights, residual streams, norms, router and softmax.
"""
import types
import torch
import torch.nn.functional as F

W, RD = 128, 64
NEG = -1e30
EV = lambda **k: types.SimpleNamespace(**{**dict(drop=(), sel="top", sink="", ds4=False), **k})      # evaluation switches: what to break

# ---------------------------------------------------------------- Sinkhorn, 20 iterations on 4x4
try:
    import triton, triton.language as tl

    @triton.jit
    def _sk_fwd(L_, O, X, N, IT: tl.constexpr, SAVE: tl.constexpr, BL: tl.constexpr):
        n = tl.program_id(0) * BL + tl.arange(0, BL); i = tl.arange(0, 4)
        off = n[:, None, None] * 16 + i[None, :, None] * 4 + i[None, None, :]; m = (n < N)[:, None, None]
        x = tl.load(L_ + off, mask=m, other=0.0); x = tl.exp(x - tl.max(x, 2, keep_dims=True)); x = x / tl.sum(x, 2, keep_dims=True) + 1e-6
        if SAVE: tl.store(X + off, x, mask=m)
        x = x / (tl.sum(x, 1, keep_dims=True) + 1e-6)
        for t in range(IT - 1):
            if SAVE: tl.store(X + (2 * t + 1) * N * 16 + off, x, mask=m)
            x = x / (tl.sum(x, 2, keep_dims=True) + 1e-6)
            if SAVE: tl.store(X + (2 * t + 2) * N * 16 + off, x, mask=m)
            x = x / (tl.sum(x, 1, keep_dims=True) + 1e-6)
        tl.store(O + off, x, mask=m)

    @triton.jit
    def _sk_bwd(G, X, O, N, IT: tl.constexpr, BL: tl.constexpr):
        n = tl.program_id(0) * BL + tl.arange(0, BL); i = tl.arange(0, 4)
        off = n[:, None, None] * 16 + i[None, :, None] * 4 + i[None, None, :]; m = (n < N)[:, None, None]
        g = tl.load(G + off, mask=m, other=0.0)
        for u in range(IT - 1):
            t = IT - 2 - u
            x = tl.load(X + (2 * t + 2) * N * 16 + off, mask=m, other=1.0); s = tl.sum(x, 1, keep_dims=True) + 1e-6; g = (g - tl.sum(g * x, 1, keep_dims=True) / s) / s
            x = tl.load(X + (2 * t + 1) * N * 16 + off, mask=m, other=1.0); s = tl.sum(x, 2, keep_dims=True) + 1e-6; g = (g - tl.sum(g * x, 2, keep_dims=True) / s) / s
        x = tl.load(X + off, mask=m, other=1.0); s = tl.sum(x, 1, keep_dims=True) + 1e-6; g = (g - tl.sum(g * x, 1, keep_dims=True) / s) / s
        x = x - 1e-6; tl.store(O + off, x * (g - tl.sum(g * x, 2, keep_dims=True)), mask=m)
except ImportError:
    triton = None


def sinkhorn_plain(x):
    c = torch.softmax(x, -1) + 1e-6; c = c / (c.sum(-2, keepdim=True) + 1e-6)
    for _ in range(19):
        c = c / (c.sum(-1, keepdim=True) + 1e-6); c = c / (c.sum(-2, keepdim=True) + 1e-6)
    return c


@torch.library.custom_op("assay_tiny::sinkhorn", mutates_args=())
def sk_op(x: torch.Tensor) -> torch.Tensor:
    x = x.contiguous(); o = torch.empty_like(x); N = x.numel() // 16
    _sk_fwd[(triton.cdiv(N, 64),)](x, o, o, N, 20, False, 64); return o


@sk_op.register_fake
def _(x): return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op("assay_tiny::sinkhorn_bwd", mutates_args=())
def skb_op(x: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    x, g = x.contiguous(), g.contiguous(); N = x.numel() // 16
    X = torch.empty(39, N, 16, device=x.device); o = torch.empty_like(x)
    _sk_fwd[(triton.cdiv(N, 64),)](x, o, X, N, 20, True, 64); _sk_bwd[(triton.cdiv(N, 64),)](g, X, o, N, 20, 64); return o


@skb_op.register_fake
def _(x, g): return torch.empty_like(x, memory_format=torch.contiguous_format)


sk_op.register_autograd(lambda ctx, g: skb_op(ctx.saved_tensors[0], g), setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]))
sinkhorn = lambda x: sk_op(x) if x.is_cuda else sinkhorn_plain(x)


# ---------------------------------------------------------------- parts
def rms(x, w=None):
    x = x.float(); x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6); return x if w is None else x * w


def rope(x, c, s):
    n, r = x[..., :-RD], x[..., -RD:].float().unflatten(-1, (RD // 2, 2)); a, b = r[..., 0], r[..., 1]
    return torch.cat([n, torch.stack((a * c - b * s, a * s + b * c), -1).flatten(-2).to(x.dtype)], -1)


def lin(x, w): return F.linear(x, w.to(x.dtype))


def fp8_round(x):
    """The published engine's KV rounding (e4m3, power-of-two scale per 64, first 448 dims); evaluation only."""
    n = x[..., :448].unflatten(-1, (7, 64)); sc = torch.exp2(torch.ceil(torch.log2(n.abs().amax(-1, keepdim=True).clamp_min(1e-4) / 448)))
    n = (n / sc).clamp(-448, 448).to(torch.float8_e4m3fn).float() * sc; return torch.cat([n.flatten(-2), x[..., 448:]], -1)


def hadamard_fp4(x):
    """The published engine's indexer rounding; evaluation only."""
    h = torch.ones(1, 1, device=x.device)
    while h.shape[0] < 128: h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)], 0)
    x = (x.float() @ h) * 128 ** -.5; b = x.unflatten(-1, (4, 32)); sc = torch.exp2(torch.ceil(torch.log2(b.abs().amax(-1, keepdim=True).clamp_min(7e-38) / 6)))
    lv = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6], device=x.device); v = (b / sc).clamp(-6, 6)
    return (lv[(v.abs().unsqueeze(-1) - lv).abs().argmin(-1)] * v.sign() * sc).flatten(-2)


def compress(a, p, u, hd, r, cs):
    k, g = lin(a, p[u + "kv_proj.weight"]).float(), lin(a, p[u + "gate_proj.weight"]).float(); B, S, width = k.shape; n = S // r
    k, g = k.view(B, n, r, width), g.view(B, n, r, width) + p[u + "position_bias"]
    if r == 4:                           # first halves of the previous window, second halves of this one
        k = torch.cat([F.pad(k[:, :-1, :, :hd], (0, 0, 0, 0, 1, 0)), k[..., hd:]], 2)
        g = torch.cat([F.pad(g[:, :-1, :, :hd], (0, 0, 0, 0, 1, 0), value=NEG), g[..., hd:]], 2)
    return rope(rms((k * torch.softmax(g, 2)).sum(2), p[u + "kv_norm.weight"]), cs[0][::r][:n], cs[1][::r][:n])


def hc_in(h, p, pre):
    mix = F.linear(rms(h.flatten(-2)), p[pre + ".fn"]); sc, b = p[pre + ".scale"], p[pre + ".base"]
    x = ((torch.sigmoid(mix[..., :4] * sc[0] + b[:4]) + 1e-6).unsqueeze(-1) * h).sum(-2)
    return x, 2 * torch.sigmoid(mix[..., 4:8] * sc[1] + b[4:8]), sinkhorn((mix[..., 8:] * sc[2] + b[8:]).unflatten(-1, (4, 4)))


def hc_out(h, y, post, C):
    return post.unsqueeze(-1) * y.float().unsqueeze(-2) + (C.unsqueeze(-1) * h.unsqueeze(-2)).sum(-3)


def attention(h, p, cs, r, cfg, dt, dense, o):
    """dense: tensor, > 0 = attend to every visible ratio-4 row. o: None in training, else an EV. Returns new streams and the indexer's KL."""
    B, S = h.shape[:2]; nC, H, HD, t = S // W, cfg.heads, cfg.head_dim, "self_attn."; dev = h.device; c, s = cs
    x, post, C = hc_in(h, p, "attn_hc"); a = rms(x, p["input_layernorm.weight"]).to(dt)
    qr = rms(lin(a, p[t + "q_a_proj.weight"]), p[t + "q_a_norm.weight"]).to(dt)
    q = rope(rms(lin(qr, p[t + "q_b_proj.weight"]).view(B, S, H, HD)).to(dt), c[:S, None], s[:S, None])
    kv = rope(rms(lin(a, p[t + "kv_proj.weight"]), p[t + "kv_norm.weight"]).to(dt), c[:S], s[:S])
    if o is not None and o.ds4: kv = fp8_round(kv.float()).to(dt)
    kc = kv.view(B, nC, W, HD); k2 = torch.cat([F.pad(kc[:, :-1], (0, 0, 0, 0, 1, 0)), kc], 2)
    q5 = q.view(B, nC, W, H, HD).transpose(2, 3).reshape(B, nC, H * W, HD); sc = HD ** -.5
    ll = torch.matmul(q5, k2.transpose(-1, -2)).float().view(B, nC, H, W, 2 * W) * sc
    i = torch.arange(W, device=dev); j = torch.arange(2 * W, device=dev); ci = torch.arange(nC, device=dev)
    ok = (j[None] <= i[:, None] + W) & (j[None] > i[:, None]) & ((ci[:, None, None] > 0) | (j >= W)); ll = ll.masked_fill(~ok[:, None], NEG)
    sink = p[t + "sinks"].view(1, 1, H, 1, 1)
    if o is not None and o.sink == "none": sink = sink * 0 + NEG
    sink = sink.expand(B, nC, H, W, 1); kl = h.new_zeros(())
    if r == 0 or (o is not None and r in o.drop):
        pr = torch.softmax(torch.cat([ll, sink], -1), -1); out = torch.matmul(pr[..., :2 * W].to(dt).view(B, nC, H * W, 2 * W), k2)
    else:
        rows = compress(a, p, t + "compressor.", HD, r, cs)
        if o is not None and o.ds4: rows = fp8_round(rows)
        rows = rows.to(dt); R = rows.shape[1]
        lc = torch.matmul(q5.view(B, nC * H * W, HD), rows.transpose(1, 2)).float().view(B, nC, H, W, R) * sc
        vis = torch.arange(R, device=dev)[None] < ((torch.arange(S, device=dev) + 1) // r)[:, None]
        lc = lc.masked_fill(~vis.view(nC, 1, W, R), NEG)
        if r == 4:
            # top-k passes no gradient to the indexer: it learns by KL towards the attention mass on the rows, on detached inputs
            ad, qd, u = a.detach(), qr.detach(), t + "compressor.indexer."; IH, ID = cfg.idx_heads, cfg.idx_dim
            ir = compress(ad, p, u, ID, 4, cs); iq = rope(lin(qd, p[u + "q_b_proj.weight"]).view(B, S, IH, ID), c[:S, None], s[:S, None])
            if o is not None and o.ds4: ir, iq = hadamard_fp4(ir), hadamard_fp4(iq)
            d = torch.matmul(iq.reshape(B, S * IH, ID).to(dt), ir.to(dt).transpose(1, 2)).float().view(B, S, IH, R)
            score = (F.relu(d) * (lin(ad, p[u + "scorer.weights_proj.weight"]).float() * (ID * IH) ** -.5).unsqueeze(-1)).sum(2).masked_fill(~vis, NEG)
            with torch.no_grad():
                if o is None:
                    pf = torch.softmax(torch.cat([ll, lc, sink], -1), -1)[..., 2 * W:2 * W + R].sum(2).view(B, S, R); mass = pf.sum(-1, keepdim=True); tgt = pf / mass.clamp_min(1e-9)
                ss = score
                if o is not None and o.sel == "last": ss = torch.arange(R, device=dev).float().expand(B, S, R).masked_fill(~vis, NEG)
                if o is not None and o.sel == "rand": ss = torch.rand(B, S, R, device=dev).masked_fill(~vis, NEG)
                k = R if (o is not None and o.sel == "all") else min(cfg.top_k, R)
                if o is None: sel = (ss >= ss.topk(k, -1).values[..., -1:]) | (dense > 0)
                else: sel = torch.zeros_like(ss, dtype=torch.bool).scatter(-1, torch.sort(ss, dim=-1, descending=True, stable=True).indices[..., :k], True)   # ties: lower index
            if o is None:
                lp = torch.log_softmax(score, -1); each = torch.where(vis, tgt * (torch.log(tgt.clamp_min(1e-9)) - lp), 0.0).sum(-1)
                m = mass[..., 0].clamp_min(.02); kl = (each * m).sum() / m.sum()
            lc = lc.masked_fill(~sel.view(B, nC, 1, W, R), NEG)
        pr = torch.softmax(torch.cat([ll, lc, sink], -1), -1).to(dt)
        out = torch.matmul(pr[..., :2 * W].reshape(B, nC, H * W, 2 * W), k2) + torch.matmul(pr[..., 2 * W:2 * W + R].reshape(B, nC * H * W, R), rows).view(B, nC, H * W, HD)
    out = rope(out.view(B, nC, H, W, HD).transpose(2, 3).reshape(B, S, H, HD), c[:S, None], -s[:S, None])
    g = cfg.groups; wa = p[t + "o_a_proj.weight"].to(dt).view(g, cfg.o_lora, H * HD // g)
    low = torch.einsum("bsgi,goi->bsgo", out.reshape(B, S, g, H * HD // g), wa).flatten(2)
    return hc_out(h, lin(low, p[t + "o_b_proj.weight"]), post, C), kl


def ffn(h, p, ids, hashed, cfg, dt):
    """Every expert computed for every token (8 experts: cheaper than sorting), weighted by the router. Also returns the load per expert."""
    B, S = h.shape[:2]; E, FF, D = cfg.experts, cfg.ff, cfg.hidden
    x, post, C = hc_in(h, p, "ffn_hc"); b = rms(x, p["post_attention_layernorm.weight"]).view(B * S, D); bd = b.to(dt)
    P = torch.sqrt(F.softplus(F.linear(b, p["mlp.gate.weight"])))
    if hashed: idx = p["mlp.gate.tid2eid"][ids.reshape(-1)]
    else: idx = torch.topk((P + p["mlp.gate.e_score_correction_bias"]).detach(), cfg.used, -1).indices
    sel = torch.zeros_like(P).scatter(1, idx, 1.0); w = P * sel; w = w / (w.sum(-1, keepdim=True) + 1e-20) * 1.5
    gu = F.linear(bd, p["mlp.experts.gate_up_proj"].to(dt).view(E * 2 * FF, D)).view(-1, E, 2 * FF)
    mid = (F.silu(gu[..., :FF].float().clamp(max=10)) * gu[..., FF:].float().clamp(-10, 10) * w.unsqueeze(-1)).to(dt).view(-1, E * FF)
    y = mid @ p["mlp.experts.down_proj"].to(dt).permute(0, 2, 1).reshape(E * FF, D); m = "mlp.shared_experts."
    sg, su = lin(bd, p[m + "gate_proj.weight"]).float().clamp(max=10), lin(bd, p[m + "up_proj.weight"]).float().clamp(-10, 10)
    y = y + lin((F.silu(sg) * su).to(dt), p[m + "down_proj.weight"])
    return hc_out(h, y.view(B, S, D), post, C), sel.mean(0)


def head(h, g, dt):
    pr = torch.sigmoid(F.linear(rms(h.flatten(-2)), g["fn"]) * g["scale"] + g["base"]) + 1e-6
    return lin(rms((pr.unsqueeze(-1) * h).sum(-2), g["norm"]).to(dt), g["out"]).float()


def head_loss(h, g, ids, w, dt):
    lg = head(h, g, dt)[:, :-1]; ce = F.cross_entropy(lg.reshape(-1, lg.shape[-1]), ids[:, 1:].reshape(-1), reduction="none").view(ids.shape[0], -1); ww = w[:, 1:]
    return (ce * ww).sum() / ww.sum(), (ce.detach() * ww).sum(1) / ww.sum(1)


# ---------------------------------------------------------------- the model
class Tiny:
    def __init__(self, hf, cfg, dev):
        self.hf, self.cfg, self.dev = hf.to(dev), cfg, torch.device(dev); self.attn, self.ffn, self.loss = attention, ffn, head_loss; self.P = []
        for ly in hf.model.layers: self.P.append({**dict(ly.named_parameters()), **{k: b for k, b in ly.named_buffers() if "gate." in k}})
        m = hf.model; self.G = dict(fn=m.hc_head.hc_fn, base=m.hc_head.hc_base, scale=m.hc_head.hc_scale, norm=m.norm.weight, out=hf.lm_head.weight)
        ang = lambda inv: torch.outer(torch.arange(4096, device=dev).float(), inv.float().to(dev)); r = m.rotary_emb
        self.cs = {False: (ang(r.main_inv_freq).cos(), ang(r.main_inv_freq).sin()), True: (ang(r.compress_inv_freq).cos(), ang(r.compress_inv_freq).sin())}

    def body(self, ids, dt, dense, o, P=None, attn=None, ffn_=None):
        P = P or self.P; cfg = self.cfg; h = self.hf.model.embed_tokens.weight[ids].unsqueeze(2).expand(-1, -1, 4, -1).contiguous(); kls, loads = [], []
        for l, r in enumerate(cfg.ratios):
            h, kl = (attn or self.attn)(h, P[l], self.cs[r > 0], r, cfg, dt, dense, o)
            h, ld = (ffn_ or self.ffn)(h, P[l], ids, l < cfg.hash_layers, cfg, dt); loads.append(ld)
            if r == 4: kls.append(kl)
        return h, kls, loads

    @torch.no_grad()
    def logits(self, ids, o=None, dt=torch.float32, P=None, batch=16):
        """ids [n, S], any S (padded to a multiple of 128; causal, so padding changes nothing)."""
        S = ids.shape[1]; ids = F.pad(ids, (0, -S % W), value=7); outs = []; zero = torch.zeros((), device=self.dev)
        for i in range(0, len(ids), batch):
            h, _, _ = self.body(ids[i:i + batch], dt, zero, o or EV(), P, attention, ffn); outs.append(head(h, self.G, dt)[:, :S])
        return torch.cat(outs)
