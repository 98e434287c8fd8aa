"""Encoders of the block formats of §2.4. Own code; the IQ2_XXS grid is a constant of the format.

Each encoder returns the values that the packed bytes mean, and the bytes when asked, so that training can round to
exactly what the file will hold. Everything runs in torch, on the weights' device.
"""
from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

TINY_F16 = 6.0e-8             # about the smallest f16 step: block scales are never stored as zero

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


class Encoded(NamedTuple):
    values: Tensor            # f32, the weights' shape
    data: Tensor | None       # u8, in file order


class Format(NamedTuple):
    id: int                   # ggml type id
    block: int                # elements a block
    size: int                 # bytes a block
    encode: Callable[[Tensor, bool], Encoded]


@lru_cache
def grid(device: torch.device) -> Tensor:
    packed = np.frombuffer(bytes.fromhex(GRID_HEX), np.uint8)
    entries = np.array([8, 25, 43])[(packed[:, None] >> np.array([0, 2, 4, 6])) & 3].reshape(256, 8)
    return torch.tensor(entries, dtype=torch.float32, device=device)


def f16_bytes(x: Tensor) -> Tensor:
    """[n] f32 -> [n, 2] u8, little endian."""
    return x.half().contiguous().view(torch.uint8).view(-1, 2)


def f16_scale(x: Tensor) -> Tensor:
    """Round a block scale to f16, never to zero, so that an all-zero block divides by something."""
    return x.half().float().clamp_min(TINY_F16).half().float()


def shifts(values: list[int], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device)


def nearest_pattern(magnitude: Tensor, scale: Tensor) -> Tensor:
    """Index of the nearest grid entry for each 8 magnitudes. magnitude [n, 8], scale [n / 4] (one per 32)."""
    g = grid(magnitude.device)
    half_norm = .5 * g.square().sum(1)
    target = magnitude / scale.repeat_interleave(4).unsqueeze(1).clamp_min(1e-12)
    return torch.cat([(part @ g.t() - half_norm).argmax(1) for part in target.split(1 << 18)])


def iq2_xxs(w: Tensor, pack: bool) -> Encoded:
    """2.06 bits: f16 d per 256, a 4-bit scale per 32, and per 8 weights a magnitude pattern and 7 sign bits."""
    g = grid(w.device)
    x = w.reshape(-1, 8).float()
    magnitude, negative = x.abs(), x < 0
    # The eighth sign is the parity of the seven stored ones: where it comes out wrong, the smallest weight gives way.
    odd = negative.sum(1, keepdim=True) % 2 == 1
    flip = torch.zeros_like(negative).scatter(1, magnitude.argmin(1, keepdim=True), odd)
    negative, magnitude = negative ^ flip, torch.where(flip, -magnitude, magnitude)

    top = magnitude.view(-1, 32).abs().amax(1)
    scale, error = torch.zeros_like(top), torch.full_like(top, float("inf"))
    for share in (.75, .95):                              # two starting scales, one least-squares step each
        pattern = g[nearest_pattern(magnitude, top * share / 43)]
        dot, norm = (magnitude * pattern).view(-1, 32).sum(1), pattern.square().view(-1, 32).sum(1)
        candidate, candidate_error = (dot / norm).clamp_min(1e-12), -dot * dot / norm
        scale = torch.where(candidate_error < error, candidate, scale)
        error = torch.minimum(error, candidate_error)
    scale = scale.view(-1, 8)
    d = f16_scale(scale.amax(1, keepdim=True) / (.25 * 15.5))
    q = (scale / (.25 * d) - .5).round().clamp(0, 15)
    scale = (d * (.5 + q) * .25).reshape(-1)
    index = nearest_pattern(magnitude, scale)
    values = g[index] * torch.where(negative, -1.0, 1.0) * scale.repeat_interleave(4).unsqueeze(1)
    if not pack:
        return Encoded(values.reshape(w.shape), None)
    n = len(d)
    signs = (negative[:, :7].long() << torch.arange(7, device=w.device)).sum(1).view(n, 8, 4)
    high = (signs << shifts([0, 7, 14, 21], w)).sum(2) | (q.long() << 28)
    groups = torch.cat([index.view(n, 8, 4), (high.unsqueeze(2) >> shifts([0, 8, 16, 24], w)) & 255], 2)
    return Encoded(values.reshape(w.shape), torch.cat([f16_bytes(d.flatten()), groups.to(torch.uint8).view(n, 64)], 1))


def q2_k(w: Tensor, pack: bool) -> Encoded:
    """2.6 bits: per 16 weights a 4-bit scale and a 4-bit minimum, both in f16 steps per 256."""
    x = w.reshape(-1, 16, 16).float()
    low, high, mean = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True), x.mean(-1, keepdim=True)
    scale, minimum, error = torch.zeros_like(low), torch.zeros_like(low), torch.full_like(low, float("inf"))
    for share in (1.0, .9, .8, .7, .6):                   # shrink the range, then least squares for both
        start = (low * share).clamp(max=0)
        step = ((high * share - start) / 3).clamp_min(1e-10)
        q = ((x - start) / step).round().clamp(0, 3)
        q_mean = q.mean(-1, keepdim=True)
        covariance = ((q - q_mean) * (x - mean)).sum(-1, keepdim=True)
        step = (covariance / ((q - q_mean).square().sum(-1, keepdim=True) + 1e-12)).clamp_min(1e-10)
        start = (mean - step * q_mean).clamp(max=0)
        candidate = (x - start - step * q).square().sum(-1, keepdim=True)
        better = candidate < error
        scale, minimum = torch.where(better, step, scale), torch.where(better, start, minimum)
        error = torch.where(better, candidate, error)
    d, d_min = f16_scale(scale.amax(1, keepdim=True) / 15), f16_scale((-minimum).amax(1, keepdim=True) / 15)
    s4, m4 = (scale / d).round().clamp(0, 15), (-minimum / d_min).round().clamp(0, 15)
    q = ((x + d_min * m4) / (d * s4).clamp_min(1e-10)).round().clamp(0, 3)
    values = d * s4 * q - d_min * m4
    if not pack:
        return Encoded(values.reshape(w.shape), None)
    n = len(x)
    scales = (s4.long() | (m4.long() << 4)).view(n, 16).to(torch.uint8)
    qs = (q.long().view(n, 2, 4, 32) << shifts([0, 2, 4, 6], w).view(1, 1, 4, 1)).sum(2).view(n, 64).to(torch.uint8)
    data = torch.cat([scales, qs, f16_bytes(d.flatten()), f16_bytes(d_min.flatten())], 1)
    return Encoded(values.reshape(w.shape), data)


def q4_k(w: Tensor, pack: bool) -> Encoded:
    """4.5 bits: per 32 weights a 6-bit scale and a 6-bit minimum, both in f16 steps per 256."""
    x = w.reshape(-1, 8, 32).float()
    minimum = x.amin(-1, keepdim=True).clamp(max=0)
    scale = ((x.amax(-1, keepdim=True) - minimum) / 15).clamp_min(1e-10)
    d, d_min = f16_scale(scale.amax(1, keepdim=True) / 63), f16_scale((-minimum).amax(1, keepdim=True) / 63)
    s6, m6 = (scale / d).round().clamp(0, 63), (-minimum / d_min).round().clamp(0, 63)
    q = ((x + d_min * m6) / (d * s6).clamp_min(1e-10)).round().clamp(0, 15)
    values = d * s6 * q - d_min * m6
    if not pack:
        return Encoded(values.reshape(w.shape), None)
    n = len(x)
    s, m = s6.long().view(n, 8), m6.long().view(n, 8)
    scales = torch.cat([s[:, :4] | (s[:, 4:] >> 4 << 6), m[:, :4] | (m[:, 4:] >> 4 << 6),
                        (s[:, 4:] & 15) | ((m[:, 4:] & 15) << 4)], 1).to(torch.uint8)
    pairs = q.long().view(n, 4, 2, 32)
    qs = (pairs[:, :, 0] | (pairs[:, :, 1] << 4)).view(n, 128).to(torch.uint8)
    return Encoded(values.reshape(w.shape), torch.cat([f16_bytes(d.flatten()), f16_bytes(d_min.flatten()), scales, qs], 1))


def q8_0(w: Tensor, pack: bool) -> Encoded:
    """8.5 bits: f16 d and 32 signed bytes."""
    x = w.reshape(-1, 32).float()
    d = f16_scale(x.abs().amax(1, keepdim=True) / 127)
    q = (x / d).round().clamp(-127, 127)
    data = torch.cat([f16_bytes(d.flatten()), q.to(torch.int8).view(torch.uint8)], 1) if pack else None
    return Encoded((q * d).reshape(w.shape), data)


def plain(dtype: torch.dtype) -> Callable[[Tensor, bool], Encoded]:
    def encode(w: Tensor, pack: bool) -> Encoded:
        stored = w.to(dtype).contiguous()
        return Encoded(stored.float(), stored.view(torch.uint8) if pack else None)
    return encode


FORMATS: dict[str, Format] = {
    "F32": Format(0, 1, 4, plain(torch.float32)),
    "F16": Format(1, 1, 2, plain(torch.float16)),
    "Q8_0": Format(8, 32, 34, q8_0),
    "Q2_K": Format(10, 256, 84, q2_k),
    "Q4_K": Format(12, 256, 144, q4_k),
    "IQ2_XXS": Format(16, 256, 66, iq2_xxs),
    "I32": Format(26, 1, 4, plain(torch.int32)),
}


def rounded(w: Tensor, format_name: str) -> Tensor:
    """The values that a file would hold."""
    return FORMATS[format_name].encode(w, False).values


def packed(w: Tensor, format_name: str) -> bytes:
    """The bytes that a file would hold."""
    data = FORMATS[format_name].encode(w.contiguous(), True).data
    assert data is not None
    return data.reshape(-1).cpu().numpy().tobytes()
