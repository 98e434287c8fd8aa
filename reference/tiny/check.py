"""Checks what is committed here, on a CPU, in about a minute; exits non-zero at the first difference.

    python check.py
"""
from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

import gguf_file
import golden
import tokenizer
from quantise import FORMATS, packed, rounded

HERE = Path(__file__).resolve().parent
TOLERANCE = 1e-5                 # relative; another torch or CPU sums in another order


def check_formats() -> None:
    """Each encoder's values are what `gguf`, which shares no code with it, reads from its bytes; and close to the weights."""
    rng = torch.Generator().manual_seed(1)
    weights = torch.randn(64, 512, generator=rng) * torch.logspace(-6, 1, 64)[:, None]
    weights[3], weights[4], weights[5], weights[6] = 0.0, 1.0, -0.25, torch.randn(512, generator=rng).abs()
    # Largest relative error (RMS) that a format of so few bits may make on normal weights.
    for name, limit in (("F16", 1e-3), ("Q8_0", .01), ("Q4_K", .1), ("Q2_K", .45), ("IQ2_XXS", .55)):
        kind = GGMLQuantizationType[name]
        assert int(kind) == FORMATS[name].id
        data = np.frombuffer(packed(weights, name), np.uint8)
        rows = data.reshape(len(weights), -1)
        read = torch.from_numpy(np.array(dequantize(rows.view(np.float16) if name == "F16" else rows, kind)))
        meant = rounded(weights, name)
        assert torch.allclose(read.float(), meant, rtol=1e-6, atol=0), name
        normal = torch.arange(len(weights)) > 20                 # above the f16 scales' own smallest steps
        error = ((meant - weights)[normal].norm(dim=1) / weights[normal].norm(dim=1)).max().item()
        assert error < limit, (name, error)
        print(f"{name}: bytes and values agree; error on normal weights {error:.3f}")


def check_model() -> None:
    digest = hashlib.sha256((HERE / "model.gguf").read_bytes()).hexdigest()
    assert digest == json.loads((HERE / "provenance.json").read_text())["sha256"], "model.gguf is not the one of provenance.json"
    tk = tokenizer.load()
    for p in json.loads((HERE / "prompts.json").read_text(encoding="utf-8"))["prompts"]:
        assert len(tk.encode(p["layout"]).ids) == p["tokens"], p["name"]
    print("model.gguf", digest)


def check_golden(longest: int) -> None:
    reference = golden.Reference(*gguf_file.load(HERE / "model.gguf"))
    prompts = json.loads((HERE / "golden" / "index.json").read_text(encoding="utf-8"))["prompts"]
    for p in prompts:
        stored = torch.from_numpy(np.load(HERE / "golden" / p["file"]))
        assert stored.shape == ((p["n"], reference.cfg.vocab) if p["full"] else (reference.cfg.vocab,)), p["name"]
        if p["n"] > longest:
            continue
        logits = reference.run(p["tokens"]).logits
        error = ((logits if p["full"] else logits[-1]) - stored).norm() / stored.norm()
        assert error < TOLERANCE, (p["name"], error.item())
    print(f"golden: {len(prompts)} files; recomputed those of at most {longest} tokens")


if __name__ == "__main__":
    check_formats()
    check_model()
    check_golden(longest=260)
