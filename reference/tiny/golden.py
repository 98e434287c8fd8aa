"""Golden logits: transformers' DeepseekV4 in f32 over the weights as a GGUF file holds them.

    python golden.py model.gguf OUT_DIR              # the bundled model's set, prompts.json included
    python golden.py model.gguf OUT_DIR --lengths 3,130,257 --full 70 --seed 5

OUT_DIR/index.json lists the prompts; OUT_DIR/NAME.npy is f32, [vocab] (last position) or [n, vocab] ("full").

Selections are discontinuous: where two scores around the boundary of a top-k differ by less than float noise, two
correct engines may choose differently. So every prompt records its margins, and whether it is "clean": no selection at
any position within noise. Scores that tie exactly (ReLU makes zeros common) follow "the lower index wins" (§11).
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4ForCausalLM

import gguf_file
import tokenizer
from config import BOS_ID, SPECIALS, WINDOW, Config

# Relative to the spread of the compared scores. Engines in f32 differ by less, so a selection with more is safe.
NOISE = 2e-5
ARGMAX_NOISE = 1e-3              # relative to the standard deviation of the logits
INDEX_TIED, INDEX_NEAR, ROUTER_NEAR, ARGMAX_NEAR = 1, 2, 4, 8
FLAGS = {INDEX_TIED: "indexer: scores at the selection boundary exactly equal, lower index taken",
         INDEX_NEAR: "indexer: margin within noise, not zero", ROUTER_NEAR: "router: margin within noise",
         ARGMAX_NEAR: "argmax of the logits within noise"}

LENGTHS = (1, 2, 3, 4, 5, 6, 7, 31, 126, 127, 128, 129, 130, 131, 132, 133, 170, 255, 256, 257, 383, 384, 385, 519,
           1000, 1023, 1024, 1025)
FULL = (70, 260)                 # every position's logits


@dataclass
class Prompt:
    name: str
    tokens: list[int]
    full: bool = False
    note: dict[str, Any] = field(default_factory=dict)


@dataclass
class Result:
    logits: Tensor               # [n, vocab] f32
    flags: Tensor                # [n] u8
    last_margins: dict[str, float]

    @property
    def clean(self) -> bool:
        return not bool((self.flags & (INDEX_NEAR | ROUTER_NEAR)).any())


class Reference:
    """transformers' forward, with hooks on both selections that record margins and fix the indexer's tie rule, which
    torch.topk leaves open."""

    def __init__(self, model: DeepseekV4ForCausalLM, cfg: Config) -> None:
        self.model, self.cfg = model, cfg
        self.index_margins: list[Tensor] = []
        self.router_margins: list[Tensor] = []
        for layer, ratio in zip(model.model.layers, cfg.ratios):
            if ratio == 4:
                layer.self_attn.compressor.indexer.scorer.register_forward_hook(self._on_index_scores)
            if not layer.mlp.is_hash:
                layer.mlp.gate.register_forward_hook(self._on_router)

    def _on_index_scores(self, _module: torch.nn.Module, _args: Any, scores: Tensor) -> Tensor:
        """scores [1, n, rows] -> ranks that torch.topk cannot tie."""
        _, n, rows = scores.shape
        visible_rows = (torch.arange(n) + 1) // 4
        margin = torch.full((n,), float("inf"))
        if rows > self.cfg.top_k:
            visible = torch.arange(rows)[None] < visible_rows[:, None]
            ordered = scores[0].masked_fill(~visible, float("-inf")).sort(-1, descending=True).values
            lowest = scores[0].masked_fill(~visible, float("inf")).amin(-1)
            spread = (ordered[:, 0] - lowest).clamp_min(1e-30)
            contested = visible_rows > self.cfg.top_k
            margin[contested] = ((ordered[:, self.cfg.top_k - 1] - ordered[:, self.cfg.top_k]) / spread)[contested]
        self.index_margins.append(margin)
        order = torch.sort(scores, dim=-1, descending=True, stable=True).indices
        ranks = torch.arange(rows, dtype=scores.dtype).expand_as(scores).contiguous()
        return -torch.empty_like(scores).scatter_(-1, order, ranks)

    def _on_router(self, module: torch.nn.Module, _args: Any, out: tuple[Tensor, Tensor, Tensor]) -> None:
        scores = (module.score_fn(out[0]) + module.e_score_correction_bias).sort(-1, descending=True).values
        if self.cfg.used < self.cfg.experts:
            spread = (scores[:, 0] - scores[:, -1]).clamp_min(1e-30)
            self.router_margins.append((scores[:, self.cfg.used - 1] - scores[:, self.cfg.used]) / spread)

    @torch.no_grad()
    def run(self, ids: list[int]) -> Result:
        self.index_margins, self.router_margins = [], []
        logits = self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()

        def smallest(margins: list[Tensor]) -> Tensor:
            return torch.stack(margins).amin(0) if margins else torch.full((len(ids),), float("inf"))

        index, router = smallest(self.index_margins), smallest(self.router_margins)
        top = logits.topk(2, -1).values
        argmax = (top[:, 0] - top[:, 1]) / logits.std(-1)
        flags = ((index == 0) * INDEX_TIED + ((index > 0) & (index <= NOISE)) * INDEX_NEAR
                 + (router <= NOISE) * ROUTER_NEAR + (argmax <= ARGMAX_NOISE) * ARGMAX_NEAR)
        last = {"indexer": float(index[-1]), "router": float(router[-1]), "argmax": float(argmax[-1])}
        return Result(logits, flags.to(torch.uint8), last)


def classes(n: int, top_k: int) -> list[str]:
    out = [f"n mod 4 = {n % 4}"]
    if n % WINDOW in (0, 1, WINDOW - 1):
        out.append(f"n mod 128 = {n % WINDOW}")
    if n == 3:
        out.append("n = 3")
    if n > WINDOW:
        out.append("past the window")
    if n // 4 > top_k:
        out.append("past the top-k")
    if n >= 1000:
        out.append("n >= 1000")
    return out


def describe(prompt: Prompt, result: Result, top_k: int) -> dict[str, Any]:
    """The entry of one prompt in an index."""
    def positions(flag: int) -> list[int]:
        return (result.flags & flag).nonzero().flatten().tolist()

    return {
        "name": prompt.name, **prompt.note, "n": len(prompt.tokens), "classes": classes(len(prompt.tokens), top_k),
        "full": prompt.full, "clean": result.clean, "argmax": int(result.logits[-1].argmax()),
        "last_flags": int(result.flags[-1]),
        "last_margins": {k: v if np.isfinite(v) else None for k, v in result.last_margins.items()},
        "index_tied": positions(INDEX_TIED), "index_near": positions(INDEX_NEAR), "router_near": positions(ROUTER_NEAR),
        "argmax_near": positions(ARGMAX_NEAR), "tokens": prompt.tokens,
    }


def write_set(reference: Reference, prompts: Iterable[Prompt], out: Path, model_name: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    entries = []
    for prompt in prompts:
        result = reference.run(prompt.tokens)
        np.save(out / f"{prompt.name}.npy", (result.logits if prompt.full else result.logits[-1]).numpy())
        entries.append({"file": f"{prompt.name}.npy", **describe(prompt, result, reference.cfg.top_k)})
        e = entries[-1]
        print(f"{e['name']:12s} {'clean' if e['clean'] else 'NEAR '} tied {len(e['index_tied'])} near {len(e['index_near'])} "
              f"router {len(e['router_near'])} argmax {e['argmax']}", e["last_margins"], flush=True)
    index = {"schema": "assay.golden/1", "model": model_name, "numerics": "exact",
             "source": f"transformers {transformers.__version__} deepseek_v4, eager, f32 on the CPU, torch {torch.__version__}",
             "noise": NOISE, "argmax_noise": ARGMAX_NOISE, "flags": {str(bit): text for bit, text in FLAGS.items()},
             "prompts": entries}
    (out / "index.json").write_text(_compact(index), encoding="utf-8")


def _compact(index: dict[str, Any]) -> str:
    """One prompt a line: readable in a diff, and token lists do not fill pages."""
    head = {k: v for k, v in index.items() if k != "prompts"}
    lines = ",\n".join("  " + json.dumps(e, ensure_ascii=False) for e in index["prompts"])
    return json.dumps(head, indent=1, ensure_ascii=False)[:-2] + f',\n "prompts": [\n{lines}\n ]\n}}\n'


def random_prompt(cfg: Config, n: int, seed: int, full: bool = False) -> Prompt:
    """BOS and uniformly random ordinary tokens."""
    ids = np.random.default_rng(seed).integers(len(SPECIALS), cfg.vocab, n - 1).tolist()
    return Prompt(f"n{n:04d}", [BOS_ID] + ids, full)


def readme_prompts(path: Path) -> list[Prompt]:
    tk = tokenizer.load()
    return [Prompt("readme-" + p["name"], tk.encode(p["layout"]).ids, note={"expected": p["answer"]})
            for p in json.loads(path.read_text(encoding="utf-8"))["prompts"]]


def main() -> None:
    def lengths(text: str) -> tuple[int, ...]:
        return tuple(int(part) for part in text.split(","))

    args = argparse.ArgumentParser()
    args.add_argument("model", type=Path)
    args.add_argument("out", type=Path)
    args.add_argument("--prompts", type=Path, help="a prompts.json whose prompts are added")
    args.add_argument("--lengths", type=lengths, default=LENGTHS)
    args.add_argument("--full", type=lengths, default=FULL)
    args.add_argument("--seed", type=int, default=5)
    a = args.parse_args()
    model, cfg = gguf_file.load(a.model)
    prompts = [random_prompt(cfg, n, a.seed * 10_000 + n, n in a.full) for n in sorted({*a.lengths, *a.full})]
    if a.prompts is not None:
        prompts += readme_prompts(a.prompts)
    write_set(Reference(model, cfg), prompts, a.out, a.model.name)


if __name__ == "__main__":
    main()
