"""Measures a model file: recall by distance, the other tasks, text loss; whole, and with each mechanism broken in turn.

    python evaluate.py model.gguf --heldout heldout.npz --out evaluation.json [--device cuda] [--probes 64]

The weights are the file's, dequantised; everything is f32.
"""
from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

import data
import gguf_file
import tokenizer
from config import ASSISTANT, BOS, BOS_ID, END_THINK, EOS_ID, USER
from model import Evaluate, FastModel, Params

DISTANCES = (16, 60, 110, 180, 300, 500, 700, 950)
LENGTH = 1024                    # of text and block sequences
PAD_ID = 7

Probes = tuple[list[list[int]], list[list[int]]]          # prompts, answers with EOS


def recall_probes(tk: Tokenizer, corpus: data.Corpus, distance: int, n: int, **kind: bool) -> Probes:
    generator = data.Generator(tk, corpus, 9000 + distance, LENGTH)
    probes = [generator.probe(distance, **kind) for _ in range(n)]
    return [tk.encode(p).ids for p, _ in probes], [tk.encode(a).ids + [EOS_ID] for _, a in probes]


class Evaluation:
    """One way of running one model: whole, or with something broken."""

    def __init__(self, model: FastModel, tk: Tokenizer, corpus: data.Corpus, dtype: torch.dtype = torch.float32) -> None:
        self.model, self.tk, self.corpus, self.dtype = model, tk, corpus, dtype
        self.mode = Evaluate()
        self.layers: Sequence[Params] = model.layers
        self.probes: dict[tuple[int, int], Probes] = {}

    def logits(self, ids: Tensor) -> Tensor:
        return self.model.logits(ids.to(self.model.device), self.mode, self.dtype, self.layers)

    def correct(self, probes: Probes) -> float:
        """Share of prompts whose answer, EOS included, is what greedy decoding gives."""
        longest = max(len(p) + len(a) for p, a in zip(*probes))
        ids = torch.full((len(probes[0]), longest), PAD_ID)
        for row, prompt, answer in zip(ids, *probes):
            row[:len(prompt) + len(answer)] = torch.tensor(prompt + answer)
        best = self.logits(ids).argmax(-1).cpu()
        hits = [row[len(p) - 1:len(p) + len(a) - 1].tolist() == a for row, p, a in zip(best, *probes)]
        return sum(hits) / len(hits)

    def recall(self, distance: int, n: int) -> float:
        key = (distance, n)
        if key not in self.probes:
            self.probes[key] = recall_probes(self.tk, self.corpus, distance, n)
        return self.correct(self.probes[key])

    def text_loss(self, n: int) -> float:
        """Nats per token of held-out text."""
        starts = np.linspace(0, len(self.corpus.tokens) - LENGTH - 1, n).astype(int)
        ids = torch.tensor(np.stack([self.corpus.tokens[s:s + LENGTH] for s in starts]).astype(np.int64))
        ids[:, 0] = BOS_ID
        logits = self.logits(ids)
        return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten().to(logits.device)).item()

    def blocks(self, n: int) -> tuple[float, float]:
        """Accuracy and loss on the answers in the second half of block sequences."""
        generator = data.Generator(self.tk, self.corpus, 77, LENGTH)
        made = [generator.block() for _ in range(n)]
        ids = torch.tensor(np.stack([ids for ids, _ in made]))
        asked = torch.tensor(np.stack([weights for _, weights in made])) > 0
        asked[:, :LENGTH // 2] = False
        logits = self.logits(ids).cpu()[:, :-1][asked[:, 1:]]
        answers = ids[:, 1:][asked[:, 1:]]
        return (logits.argmax(-1) == answers).float().mean().item(), F.cross_entropy(logits, answers).item()

    def measure(self, n: int) -> dict[str, float]:
        row = {f"recall_{d}": self.recall(d, n) for d in DISTANCES}
        row["block_accuracy"], row["block_loss"] = self.blocks(max(2, n // 4))
        row["text_loss"] = self.text_loss(max(2, n // 2))
        return {k: round(v, 4) for k, v in row.items()}

    def small_tasks(self, n: int) -> dict[str, float]:
        generator = data.Generator(self.tk, self.corpus, 4, LENGTH)
        out = {}
        for ask in (generator.addition, generator.largest, generator.repeat):
            pairs = [ask() for _ in range(n)]
            prompts = [self.tk.encode(BOS + USER + q + ASSISTANT + END_THINK).ids for q, _ in pairs]
            out[ask.__name__] = self.correct((prompts, [self.tk.encode(a).ids + [EOS_ID] for _, a in pairs]))
        for name, distance, count, kind in (("recall_200, thinking layout", 200, n, {"think": True}),
                                            ("recall_200, facts only", 200, n, {"facts_only": True}),
                                            ("recall_400, facts only", 400, n, {"facts_only": True}),
                                            ("recall_1700 (twice the trained length)", 1700, min(n, 32), {})):
            out[name] = self.correct(recall_probes(self.tk, self.corpus, distance, count, **kind))
        return {k: round(v, 4) for k, v in out.items()}


def changed(layers: Sequence[Params], part: str, change: Callable[[Tensor], Tensor]) -> list[Params]:
    return [{name: change(p) if part in name else p for name, p in layer.items()} for layer in layers]


def breakages(model: FastModel) -> dict[str, tuple[Evaluate, Sequence[Params]]]:
    torch.manual_seed(3)
    shuffled = torch.randperm(model.cfg.vocab, device=model.device)
    layers = model.layers
    return {
        "whole": (Evaluate(), layers),
        "ds4 roundings (fp8 rows, fp4 index)": (Evaluate(ds4=True), layers),
        "every ratio-4 row attended to": (Evaluate(select="all"), layers),
        "window of one token": (Evaluate(window=1), layers),
        "ratio-4 rows removed": (Evaluate(without_rows=(4,)), layers),
        "ratio-128 rows removed": (Evaluate(without_rows=(128,)), layers),
        "indexer takes the last rows": (Evaluate(select="last"), layers),
        "indexer takes random rows": (Evaluate(select="random"), layers),
        "sinks dropped": (Evaluate(sinks=False), layers),
        "position biases (APE) zeroed": (Evaluate(), changed(layers, "position_bias", torch.zeros_like)),
        "hash table permuted": (Evaluate(), changed(layers, "tid2eid", lambda t: t[shuffled])),
        "router bias zeroed": (Evaluate(), changed(layers, "e_score_correction_bias", torch.zeros_like)),
        "routed experts zeroed": (Evaluate(), changed(layers, ".experts.", torch.zeros_like)),
    }


def load_heldout(path: Path) -> data.Corpus:
    stored = np.load(path)
    return data.Corpus(stored["text"].tobytes().decode(), stored["tokens"])


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("model", type=Path)
    args.add_argument("--heldout", type=Path, default=Path("heldout.npz"))
    args.add_argument("--out", type=Path, default=Path("evaluation.json"))
    args.add_argument("--device", default="cuda")
    args.add_argument("--probes", type=int, default=64)
    a = args.parse_args()
    torch.set_float32_matmul_precision("highest")
    hf, cfg = gguf_file.load(a.model)
    model = FastModel(hf, cfg, torch.device(a.device))
    evaluation = Evaluation(model, tokenizer.load(), load_heldout(a.heldout))
    results: dict[str, dict[str, float]] = {}
    for name, (evaluation.mode, evaluation.layers) in breakages(model).items():
        results[name] = evaluation.measure(a.probes)
        print(f"{name:36s}", " ".join(f"{k.replace('recall_', 'r')}={v:.3f}" for k, v in results[name].items()), flush=True)
        if name == "whole":
            small = evaluation.small_tasks(a.probes)
            print(small, flush=True)
        sinks = [[round(x, 2) for x in layer["self_attn.sinks"].tolist()] for layer in model.layers]
        a.out.write_text(json.dumps({"probes": a.probes, "results": results, "other_tasks": small, "sinks": sinks}, indent=1))


if __name__ == "__main__":
    main()
