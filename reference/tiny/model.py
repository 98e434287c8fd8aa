"""A fast PyTorch forward of the architecture for training, over transformers' parameters (container.build).

128-token windows as chunks, every expert as one dense product, one Triton kernel pair for Sinkhorn. Products in bf16;
weights, residual streams, norms, router and softmax in f32. train.py compares it with transformers in f32.
Section numbers are those of docs/model.md. Shapes: B sequences, S tokens (a multiple of 128), R compressed rows.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4ForCausalLM

from config import HEAD_DIM, INDEX_DIM, ROPE_DIM, STREAMS, WINDOW, Config

NEG = -1e30
EPS = 1e-6
SINKHORN_ITERATIONS = 20
MAX_POSITIONS = 4096

Params = Mapping[str, Tensor]


@dataclass(frozen=True)
class Evaluate:
    """How to evaluate: which mechanism to break, or the published engine's roundings."""

    without_rows: tuple[int, ...] = ()       # compression ratios whose rows nobody attends to
    select: str = "index"                    # ratio-4 rows by: index, all, last, random
    sinks: bool = True
    window: int = WINDOW                     # raw rows seen, the token itself included
    ds4: bool = False                        # fp8 rows (§8.1), Hadamard + fp4 index (§11.1)


# ---------------------------------------------------------------- Sinkhorn (§5)
try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

if triton is not None:
    @triton.jit
    def _sinkhorn_kernel(logits, out, saved, n_matrices, ITERATIONS: tl.constexpr, SAVE: tl.constexpr, BLOCK: tl.constexpr):
        """`saved` receives the input of every normalisation but the first column step's, for the backward pass."""
        n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        i = tl.arange(0, 4)
        at = n[:, None, None] * 16 + i[None, :, None] * 4 + i[None, None, :]
        live = (n < n_matrices)[:, None, None]
        x = tl.load(logits + at, mask=live, other=0.0)
        x = tl.exp(x - tl.max(x, 2, keep_dims=True))
        x = x / tl.sum(x, 2, keep_dims=True) + 1e-6
        if SAVE:
            tl.store(saved + at, x, mask=live)
        x = x / (tl.sum(x, 1, keep_dims=True) + 1e-6)
        for t in range(ITERATIONS - 1):
            if SAVE:
                tl.store(saved + (2 * t + 1) * n_matrices * 16 + at, x, mask=live)
            x = x / (tl.sum(x, 2, keep_dims=True) + 1e-6)
            if SAVE:
                tl.store(saved + (2 * t + 2) * n_matrices * 16 + at, x, mask=live)
            x = x / (tl.sum(x, 1, keep_dims=True) + 1e-6)
        tl.store(out + at, x, mask=live)

    @triton.jit
    def _sinkhorn_backward_kernel(grad, saved, out, n_matrices, ITERATIONS: tl.constexpr, BLOCK: tl.constexpr):
        """y = x / (Σx + ε) has dx = (g − Σ(g·x) / s) / s with s = Σx + ε, along the normalised axis."""
        n = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        i = tl.arange(0, 4)
        at = n[:, None, None] * 16 + i[None, :, None] * 4 + i[None, None, :]
        live = (n < n_matrices)[:, None, None]
        g = tl.load(grad + at, mask=live, other=0.0)
        for back in range(ITERATIONS - 1):
            t = ITERATIONS - 2 - back
            x = tl.load(saved + (2 * t + 2) * n_matrices * 16 + at, mask=live, other=1.0)
            s = tl.sum(x, 1, keep_dims=True) + 1e-6
            g = (g - tl.sum(g * x, 1, keep_dims=True) / s) / s
            x = tl.load(saved + (2 * t + 1) * n_matrices * 16 + at, mask=live, other=1.0)
            s = tl.sum(x, 2, keep_dims=True) + 1e-6
            g = (g - tl.sum(g * x, 2, keep_dims=True) / s) / s
        x = tl.load(saved + at, mask=live, other=1.0)
        s = tl.sum(x, 1, keep_dims=True) + 1e-6
        g = (g - tl.sum(g * x, 1, keep_dims=True) / s) / s
        x = x - 1e-6                                            # the softmax itself
        tl.store(out + at, x * (g - tl.sum(g * x, 2, keep_dims=True)), mask=live)


SINKHORN_BLOCK = 64


@torch.library.custom_op("assay_tiny::sinkhorn", mutates_args=())
def _sinkhorn_cuda(logits: Tensor) -> Tensor:
    logits = logits.contiguous()
    out, n = torch.empty_like(logits), logits.numel() // 16
    _sinkhorn_kernel[(triton.cdiv(n, SINKHORN_BLOCK),)](logits, out, out, n, SINKHORN_ITERATIONS, False, SINKHORN_BLOCK)
    return out


@torch.library.custom_op("assay_tiny::sinkhorn_backward", mutates_args=())
def _sinkhorn_backward_cuda(logits: Tensor, grad: Tensor) -> Tensor:
    logits, grad = logits.contiguous(), grad.contiguous()
    out, n = torch.empty_like(logits), logits.numel() // 16
    saved = torch.empty(2 * SINKHORN_ITERATIONS - 1, n, 16, device=logits.device)
    blocks = (triton.cdiv(n, SINKHORN_BLOCK),)
    _sinkhorn_kernel[blocks](logits, out, saved, n, SINKHORN_ITERATIONS, True, SINKHORN_BLOCK)
    _sinkhorn_backward_kernel[blocks](grad, saved, out, n, SINKHORN_ITERATIONS, SINKHORN_BLOCK)
    return out


@_sinkhorn_cuda.register_fake
def _(logits: Tensor) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


@_sinkhorn_backward_cuda.register_fake
def _(logits: Tensor, grad: Tensor) -> Tensor:
    return torch.empty_like(logits, memory_format=torch.contiguous_format)


_sinkhorn_cuda.register_autograd(
    lambda ctx, grad: _sinkhorn_backward_cuda(ctx.saved_tensors[0], grad),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]))


def sinkhorn(logits: Tensor) -> Tensor:
    """[..., 4, 4] -> nearly doubly stochastic. A softmax counts as the first row step."""
    if logits.is_cuda:
        return _sinkhorn_cuda(logits)
    c = torch.softmax(logits, -1) + EPS
    c = c / (c.sum(-2, keepdim=True) + EPS)
    for _ in range(SINKHORN_ITERATIONS - 1):
        c = c / (c.sum(-1, keepdim=True) + EPS)
        c = c / (c.sum(-2, keepdim=True) + EPS)
    return c


# ---------------------------------------------------------------- parts
def rms_norm(x: Tensor, weight: Tensor | None = None) -> Tensor:
    x = x.float()
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)
    return x if weight is None else x * weight


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Interleaved pairs of the last 64 dims (§9); cos and sin broadcast against [..., 32]."""
    nope, tail = x[..., :-ROPE_DIM], x[..., -ROPE_DIM:].float().unflatten(-1, (ROPE_DIM // 2, 2))
    a, b = tail[..., 0], tail[..., 1]
    return torch.cat([nope, torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)], -1)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    return F.linear(x, weight.to(x.dtype))


def fp8_round(x: Tensor) -> Tensor:
    """§8.1, over the 448 dims that are not rotated."""
    nope = x[..., :-ROPE_DIM].float().unflatten(-1, (-1, 64))
    scale = torch.exp2(torch.ceil(torch.log2(nope.abs().amax(-1, keepdim=True).clamp_min(1e-4) / 448)))
    nope = (nope / scale).clamp(-448, 448).to(torch.float8_e4m3fn).float() * scale
    return torch.cat([nope.flatten(-2), x[..., -ROPE_DIM:].float()], -1).to(x.dtype)


def hadamard_fp4(x: Tensor) -> Tensor:
    """§11.1, over vectors of 128."""
    h = torch.ones(1, 1, device=x.device)
    while h.shape[0] < INDEX_DIM:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)], 0)
    blocks = ((x.float() @ h) * INDEX_DIM ** -.5).unflatten(-1, (-1, 32))
    scale = torch.exp2(torch.ceil(torch.log2(blocks.abs().amax(-1, keepdim=True).clamp_min(6 * 2.0 ** -126) / 6)))
    levels = torch.tensor([0, .5, 1, 1.5, 2, 3, 4, 6], device=x.device)
    odd = torch.arange(8, device=x.device) % 2 * 1e-7           # ties go to the even code
    v = (blocks / scale).clamp(-6, 6)
    nearest = levels[((v.abs().unsqueeze(-1) - levels).abs() + odd).argmin(-1)]
    return (nearest * v.sign() * scale).flatten(-2)


def pool(a: Tensor, p: Params, prefix: str, dim: int, ratio: int, cos: Tensor, sin: Tensor) -> Tensor:
    """Compressed rows (§10): a [B, S, hidden] -> [B, S / ratio, dim]."""
    k, gate = linear(a, p[prefix + "kv_proj.weight"]).float(), linear(a, p[prefix + "gate_proj.weight"]).float()
    batch, tokens, width = k.shape
    n = tokens // ratio
    k = k.view(batch, n, ratio, width)
    gate = gate.view(batch, n, ratio, width) + p[prefix + "position_bias"]
    if ratio == 4:                       # first halves of the previous window, second halves of this one
        before = (0, 0, 0, 0, 1, 0)
        k = torch.cat([F.pad(k[:, :-1, :, :dim], before), k[..., dim:]], 2)
        gate = torch.cat([F.pad(gate[:, :-1, :, :dim], before, value=NEG), gate[..., dim:]], 2)
    rows = rms_norm((k * torch.softmax(gate, 2)).sum(2), p[prefix + "kv_norm.weight"])
    return rotate(rows, cos[::ratio][:n], sin[::ratio][:n])


def reduce_streams(h: Tensor, p: Params, prefix: str) -> tuple[Tensor, Tensor, Tensor]:
    """The input of a sublayer from the streams [B, S, 4, hidden], and what `expand_streams` needs (§5)."""
    mix = F.linear(rms_norm(h.flatten(-2)), p[prefix + ".fn"])
    scale, base = p[prefix + ".scale"], p[prefix + ".base"]
    pre = torch.sigmoid(mix[..., :4] * scale[0] + base[:4]) + EPS
    post = 2 * torch.sigmoid(mix[..., 4:8] * scale[1] + base[4:8])
    comb = sinkhorn((mix[..., 8:] * scale[2] + base[8:]).unflatten(-1, (4, 4)))
    return (pre.unsqueeze(-1) * h).sum(-2), post, comb


def expand_streams(h: Tensor, y: Tensor, post: Tensor, comb: Tensor) -> Tensor:
    return post.unsqueeze(-1) * y.float().unsqueeze(-2) + (comb.unsqueeze(-1) * h.unsqueeze(-2)).sum(-3)


# ---------------------------------------------------------------- attention (§7, §8, §11, §12)
def index_scores(a: Tensor, qr: Tensor, p: Params, cfg: Config, cos: Tensor, sin: Tensor, ds4: bool) -> Tensor:
    """[B, S, R], before any mask."""
    batch, tokens = a.shape[:2]
    prefix = "self_attn.compressor.indexer."
    rows = pool(a, p, prefix, INDEX_DIM, 4, cos, sin)
    q = linear(qr, p[prefix + "q_b_proj.weight"]).view(batch, tokens, cfg.index_heads, INDEX_DIM)
    q = rotate(q, cos[:, None], sin[:, None])
    if ds4:
        rows, q = hadamard_fp4(rows), hadamard_fp4(q)
    flat = q.reshape(batch, tokens * cfg.index_heads, INDEX_DIM).to(a.dtype)
    dots = torch.matmul(flat, rows.to(a.dtype).transpose(1, 2)).float().view(batch, tokens, cfg.index_heads, -1)
    head_weights = linear(a, p[prefix + "scorer.weights_proj.weight"]).float() * (INDEX_DIM * cfg.index_heads) ** -.5
    return (F.relu(dots) * head_weights.unsqueeze(-1)).sum(2)


def select_rows(scores: Tensor, visible: Tensor, top_k: int, mode: Evaluate) -> Tensor:
    """[B, S, R] bool: the best `top_k` rows of each token, the lower index winning ties."""
    rows = scores.shape[-1]
    if mode.select == "last":
        scores = torch.arange(rows, device=scores.device).float().expand_as(scores)
    elif mode.select == "random":
        scores = torch.rand_like(scores)
    k = rows if mode.select == "all" else min(top_k, rows)
    order = torch.sort(scores.masked_fill(~visible, NEG), dim=-1, descending=True, stable=True).indices
    return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, order[..., :k], True)


def attention(h: Tensor, p: Params, cos: Tensor, sin: Tensor, ratio: int, cfg: Config, dtype: torch.dtype,
              attend_all: Tensor, mode: Evaluate | None) -> tuple[Tensor, Tensor]:
    """New streams, and the indexer's loss.

    Selecting rows passes no gradient to the indexer. In training (`mode` None) it learns, on detached inputs, by KL
    towards the attention mass that the heads together put on the rows; while `attend_all` (0 or 1) is set, every
    visible row is attended to, so that this mass is worth learning before it decides.
    """
    batch, tokens = h.shape[:2]
    chunks, heads = tokens // WINDOW, cfg.heads
    cos, sin = cos[:tokens], sin[:tokens]
    x, post, comb = reduce_streams(h, p, "attn_hc")
    a = rms_norm(x, p["input_layernorm.weight"]).to(dtype)
    qr = rms_norm(linear(a, p["self_attn.q_a_proj.weight"]), p["self_attn.q_a_norm.weight"]).to(dtype)
    q = rms_norm(linear(qr, p["self_attn.q_b_proj.weight"]).view(batch, tokens, heads, HEAD_DIM)).to(dtype)
    q = rotate(q, cos[:, None], sin[:, None])
    kv = rms_norm(linear(a, p["self_attn.kv_proj.weight"]), p["self_attn.kv_norm.weight"]).to(dtype)
    kv = rotate(kv, cos, sin)
    if mode is not None and mode.ds4:
        kv = fp8_round(kv)

    # Raw rows: each chunk of queries sees its own chunk and the one before it.
    own = kv.view(batch, chunks, WINDOW, HEAD_DIM)
    near = torch.cat([F.pad(own[:, :-1], (0, 0, 0, 0, 1, 0)), own], 2)
    q = q.view(batch, chunks, WINDOW, heads, HEAD_DIM).transpose(2, 3).reshape(batch, chunks, heads * WINDOW, HEAD_DIM)
    window = WINDOW if mode is None else mode.window
    i, j = torch.arange(WINDOW, device=h.device)[:, None], torch.arange(2 * WINDOW, device=h.device)[None]
    first_chunk = (torch.arange(chunks, device=h.device) == 0)[:, None, None]
    seen = (j <= i + WINDOW) & (j > i + WINDOW - window) & (~first_chunk | (j >= WINDOW))
    scale = HEAD_DIM ** -.5
    raw = torch.matmul(q, near.transpose(-1, -2)).float().view(batch, chunks, heads, WINDOW, 2 * WINDOW) * scale
    raw = raw.masked_fill(~seen[:, None], NEG)
    sink = p["self_attn.sinks"].view(1, 1, heads, 1, 1)
    if mode is not None and not mode.sinks:
        sink = sink * 0 + NEG
    sink = sink.expand(batch, chunks, heads, WINDOW, 1)

    index_loss = h.new_zeros(())
    if ratio == 0 or (mode is not None and ratio in mode.without_rows):
        share = torch.softmax(torch.cat([raw, sink], -1), -1).to(dtype)
        out = torch.matmul(share[..., :2 * WINDOW].reshape(batch, chunks, heads * WINDOW, 2 * WINDOW), near)
    else:
        rows = pool(a, p, "self_attn.compressor.", HEAD_DIM, ratio, cos, sin)
        if mode is not None and mode.ds4:
            rows = fp8_round(rows)
        rows = rows.to(dtype)
        n = rows.shape[1]
        far = torch.matmul(q.view(batch, chunks * heads * WINDOW, HEAD_DIM), rows.transpose(1, 2)).float()
        far = far.view(batch, chunks, heads, WINDOW, n) * scale
        visible = torch.arange(n, device=h.device)[None] < ((torch.arange(tokens, device=h.device) + 1) // ratio)[:, None]
        far = far.masked_fill(~visible.view(chunks, 1, WINDOW, n), NEG)
        if ratio == 4:
            scores = index_scores(a.detach(), qr.detach(), p, cfg, cos, sin, mode is not None and mode.ds4)
            scores = scores.masked_fill(~visible, NEG)
            if mode is None:
                with torch.no_grad():
                    mass = torch.softmax(torch.cat([raw, far, sink], -1), -1)[..., 2 * WINDOW:2 * WINDOW + n]
                    mass = mass.sum(2).view(batch, tokens, n)
                    total = mass.sum(-1, keepdim=True)
                    target = mass / total.clamp_min(1e-9)
                    threshold = scores.topk(min(cfg.top_k, n), -1).values[..., -1:]
                    selected = (scores >= threshold) | (attend_all > 0)
                log_share = torch.log_softmax(scores, -1)
                kl = torch.where(visible, target * (torch.log(target.clamp_min(1e-9)) - log_share), 0.0).sum(-1)
                weight = total[..., 0].clamp_min(.02)
                index_loss = (kl * weight).sum() / weight.sum()
            else:
                selected = select_rows(scores, visible, cfg.top_k, mode)
            far = far.masked_fill(~selected.view(batch, chunks, 1, WINDOW, n), NEG)
        share = torch.softmax(torch.cat([raw, far, sink], -1), -1).to(dtype)
        out = torch.matmul(share[..., :2 * WINDOW].reshape(batch, chunks, heads * WINDOW, 2 * WINDOW), near)
        far_share = share[..., 2 * WINDOW:2 * WINDOW + n].reshape(batch, chunks * heads * WINDOW, n)
        out = out + torch.matmul(far_share, rows).view(batch, chunks, heads * WINDOW, HEAD_DIM)

    out = out.view(batch, chunks, heads, WINDOW, HEAD_DIM).transpose(2, 3).reshape(batch, tokens, heads, HEAD_DIM)
    out = rotate(out, cos[:, None], -sin[:, None])
    group_width = heads * HEAD_DIM // cfg.groups
    low_weight = p["self_attn.o_a_proj.weight"].to(dtype).view(cfg.groups, cfg.o_lora, group_width)
    low = torch.einsum("bsgi,goi->bsgo", out.reshape(batch, tokens, cfg.groups, group_width), low_weight).flatten(2)
    return expand_streams(h, linear(low, p["self_attn.o_b_proj.weight"]), post, comb), index_loss


# ---------------------------------------------------------------- feed-forward (§13) and head (§14)
def ffn(h: Tensor, p: Params, ids: Tensor, hashed: bool, cfg: Config, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """New streams, and the share of tokens that each expert got.

    Every expert is computed for every token and weighted by the router: with 8 experts cheaper than sorting tokens.
    """
    batch, tokens = h.shape[:2]
    x, post, comb = reduce_streams(h, p, "ffn_hc")
    b = rms_norm(x, p["post_attention_layernorm.weight"]).view(batch * tokens, cfg.hidden)
    low = b.to(dtype)
    affinity = torch.sqrt(F.softplus(F.linear(b, p["mlp.gate.weight"])))
    if hashed:
        chosen = p["mlp.gate.tid2eid"][ids.reshape(-1)]
    else:
        chosen = torch.topk((affinity + p["mlp.gate.e_score_correction_bias"]).detach(), cfg.used, -1).indices
    on = torch.zeros_like(affinity).scatter(1, chosen, 1.0)
    weight = affinity * on
    weight = weight / (weight.sum(-1, keepdim=True) + 1e-20) * 1.5
    both = F.linear(low, p["mlp.experts.gate_up_proj"].to(dtype).view(cfg.experts * 2 * cfg.ff, cfg.hidden))
    gate, up = both.view(-1, cfg.experts, 2, cfg.ff).float().unbind(2)
    mid = F.silu(gate.clamp(max=10)) * up.clamp(-10, 10) * weight.unsqueeze(-1)
    down = p["mlp.experts.down_proj"].to(dtype).permute(0, 2, 1).reshape(cfg.experts * cfg.ff, cfg.hidden)
    y = mid.to(dtype).view(-1, cfg.experts * cfg.ff) @ down
    gate = linear(low, p["mlp.shared_experts.gate_proj.weight"]).float().clamp(max=10)
    up = linear(low, p["mlp.shared_experts.up_proj.weight"]).float().clamp(-10, 10)
    y = y + linear((F.silu(gate) * up).to(dtype), p["mlp.shared_experts.down_proj.weight"])
    return expand_streams(h, y.view(batch, tokens, cfg.hidden), post, comb), on.mean(0)


def head(h: Tensor, p: Params, dtype: torch.dtype) -> Tensor:
    """Logits [B, S, vocab]."""
    mix = F.linear(rms_norm(h.flatten(-2)), p["hc_fn"])
    weight = torch.sigmoid(mix * p["hc_scale"] + p["hc_base"]) + EPS
    return linear(rms_norm((weight.unsqueeze(-1) * h).sum(-2), p["norm"]).to(dtype), p["output"]).float()


def head_loss(h: Tensor, p: Params, ids: Tensor, weight: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Weighted next-token loss, over everything and of each sequence."""
    logits = head(h, p, dtype)[:, :-1]
    loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), ids[:, 1:].reshape(-1), reduction="none")
    loss, weight = loss.view(ids.shape[0], -1), weight[:, 1:]
    return (loss * weight).sum() / weight.sum(), (loss.detach() * weight).sum(1) / weight.sum(1)


class FastModel:
    """The forward over a transformers model's own parameters: training it trains them."""

    def __init__(self, hf: DeepseekV4ForCausalLM, cfg: Config, device: torch.device) -> None:
        self.hf, self.cfg, self.device = hf.to(device), cfg, device
        self.attention: Callable[..., tuple[Tensor, Tensor]] = attention
        self.ffn: Callable[..., tuple[Tensor, Tensor]] = ffn
        self.head_loss: Callable[..., tuple[Tensor, Tensor]] = head_loss
        self.layers: list[Params] = [
            {**dict(layer.named_parameters()), **{n: b for n, b in layer.named_buffers() if ".gate." in n}}
            for layer in hf.model.layers]
        head_mix = hf.model.hc_head
        self.head: Params = {"hc_fn": head_mix.hc_fn, "hc_base": head_mix.hc_base, "hc_scale": head_mix.hc_scale,
                             "norm": hf.model.norm.weight, "output": hf.lm_head.weight}
        positions = torch.arange(MAX_POSITIONS, device=device).float()
        rotary = hf.model.rotary_emb
        self.rotations = []                                 # (cos, sin) of plain and of compressed layers
        for inv_freq in (rotary.main_inv_freq, rotary.compress_inv_freq):
            angle = torch.outer(positions, inv_freq.float())
            self.rotations.append((angle.cos(), angle.sin()))

    def compile(self) -> None:
        torch._dynamo.config.cache_size_limit = 32          # one variant for each ratio, router and parameter set
        self.attention = torch.compile(attention, dynamic=False)
        self.ffn = torch.compile(ffn, dynamic=False)
        self.head_loss = torch.compile(head_loss, dynamic=False)

    def streams(self, ids: Tensor, dtype: torch.dtype, attend_all: Tensor, mode: Evaluate | None = None,
                layers: Sequence[Params] | None = None) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """ids [B, S] -> final streams, index losses, expert loads of each layer. Compiled in training only."""
        attend, feed = (self.attention, self.ffn) if mode is None else (attention, ffn)
        h = self.hf.model.embed_tokens.weight[ids].unsqueeze(2).expand(-1, -1, STREAMS, -1).contiguous()
        losses, loads = [], []
        for layer, (ratio, p) in enumerate(zip(self.cfg.ratios, layers or self.layers)):
            cos, sin = self.rotations[ratio > 0]
            h, index_loss = attend(h, p, cos, sin, ratio, self.cfg, dtype, attend_all, mode)
            h, load = feed(h, p, ids, layer < self.cfg.hash_layers, self.cfg, dtype)
            losses.append(index_loss)
            loads.append(load)
        return h, losses, loads

    @torch.no_grad()
    def logits(self, ids: Tensor, mode: Evaluate = Evaluate(), dtype: torch.dtype = torch.float32,
               layers: Sequence[Params] | None = None, batch: int = 16) -> Tensor:
        """ids [B, S], any S: padded to a multiple of 128, which changes nothing before the padding."""
        tokens = ids.shape[1]
        ids = F.pad(ids, (0, -tokens % WINDOW), value=7)
        no = torch.zeros((), device=self.device)
        parts = [head(self.streams(part, dtype, no, mode, layers)[0], self.head, dtype)[:, :tokens]
                 for part in ids.split(batch)]
        return torch.cat(parts)
