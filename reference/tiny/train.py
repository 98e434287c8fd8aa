"""Trains the bundled model and writes model.gguf: main phase, 2-bit finish, export.

    python train.py --out OUT            # one GPU, about 8 minutes on an H200
    python train.py --out OUT --smoke    # a minute on a CPU: a few small steps, to check the plumbing

Leaves in OUT: model.gguf, train.json (settings, corpus, losses) and heldout.npz (text for evaluate.py).
"""
from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

import container
import data
import gguf_file
import tokenizer
from config import EOS_ID, TINY, Config
from evaluate import Evaluation
from model import FastModel
from quantise import rounded


@dataclass(frozen=True)
class Settings:
    seed: int = 7
    batch: int = 32
    length: int = 1024
    steps: int = 2800
    finish_steps: int = 300
    muon_lr: float = 3e-3
    adam_lr: float = 2e-3
    weight_decay: float = .1
    warmup_steps: int = 100
    attend_all_until: float = .30        # share of the main phase with every ratio-4 row attended to
    flat_until: float = .50              # constant learning rate, then linear down
    end_lr: float = .02                  # share of the learning rate at the end
    finish_lr: float = .3                # share of the learning rate at the start of the finish
    balance: float = 1e-3                # step of the router bias against uneven load
    corpus_chars: int = 48_000_000
    workers: int = 12


SMOKE = Settings(batch=2, length=256, steps=3, finish_steps=1, corpus_chars=3_000_000, workers=1)
START = time.time()


def log(*what: Any) -> None:
    print(f"[{time.time() - START:6.1f}]", *what, flush=True)


# ---------------------------------------------------------------- optimisers
class Muon:
    """Momentum orthogonalised by Newton-Schulz, for matrices, batched over equal shapes."""

    def __init__(self, views: list[tuple[Tensor, tuple[int, int, int]]], lr: float, weight_decay: float) -> None:
        """views: parameter, and the (count, rows, columns) of the matrices that it holds."""
        self.lr, self.weight_decay = lr, weight_decay
        self.groups: dict[tuple[int, int], list[tuple[Tensor, tuple[int, int, int]]]] = {}
        for p, view in views:
            self.groups.setdefault(view[1:], []).append((p, view))
        self.momentum = {shape: torch.zeros(sum(view[0] for _, view in members), *shape, device=members[0][0].device)
                         for shape, members in self.groups.items()}

    @torch.no_grad()
    def step(self, scale: float) -> None:
        lr = self.lr * scale
        for shape, members in self.groups.items():
            grad = torch.cat([p.grad.reshape(view) for p, view in members])
            momentum = self.momentum[shape]
            momentum.lerp_(grad, .05)
            x = grad.lerp(momentum, .95).bfloat16()
            tall = shape[0] > shape[1]
            if tall:
                x = x.transpose(1, 2)
            x = x / (x.float().square().sum((1, 2), keepdim=True).sqrt() + 1e-7).bfloat16()
            for _ in range(5):
                gram = x @ x.transpose(1, 2)
                x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
            if tall:
                x = x.transpose(1, 2)
            update = x.float() * (.2 * max(shape) ** .5 * lr)
            start = 0
            for p, view in members:
                p.mul_(1 - lr * self.weight_decay)
                p.sub_(update[start:start + view[0]].reshape(p.shape))
                start += view[0]


# Vectors, and the matrices whose rows are looked up, are few, or feed a decision: Adam.
FOR_ADAM = ("indexer", "embed", "lm_head", "_hc", "hc_head", "gate.weight", "position_bias")


def optimisers(model: torch.nn.Module, cfg: Config, s: Settings) -> tuple[Muon, torch.optim.Adam]:
    matrices: list[tuple[Tensor, tuple[int, int, int]]] = []
    others: list[Tensor] = []
    for name, p in model.named_parameters():
        if p.dim() < 2 or any(part in name for part in FOR_ADAM):
            others.append(p)
        elif "gate_up_proj" in name:
            matrices.append((p, (cfg.experts * 2, cfg.ff, cfg.hidden)))
        elif "down_proj" in name and p.dim() == 3:
            matrices.append((p, (cfg.experts, cfg.hidden, cfg.ff)))
        elif "o_a_proj" in name:
            matrices.append((p, (cfg.groups, cfg.o_lora, p.shape[1])))
        else:
            matrices.append((p, (1, p.shape[0], p.shape[1])))
    adam = torch.optim.Adam(others, lr=s.adam_lr, betas=(.9, .98), eps=1e-10, fused=others[0].is_cuda)
    return Muon(matrices, s.muon_lr, s.weight_decay), adam


# ---------------------------------------------------------------- data
@dataclass(frozen=True)
class Batch:
    ids: Tensor            # [B, S] i64
    weights: Tensor        # [B, S] f32
    tasks: Tensor          # [B] i64


def _produce(queue: multiprocessing.Queue, tokenizer_json: str, corpus: data.Corpus, seed: int, s: Settings) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    generator = data.Generator(Tokenizer.from_str(tokenizer_json), corpus, seed, s.length)
    while True:
        samples = [generator.sample() for _ in range(s.batch)]
        ids, weights, tasks = zip(*samples)
        queue.put((np.stack(ids).astype(np.int16), np.stack(weights), np.array(tasks, np.int64)))


class Feed:
    """Batches made by worker processes; which worker's batch comes next is not deterministic."""

    def __init__(self, tk: Tokenizer, corpus: data.Corpus, s: Settings, device: torch.device) -> None:
        context = multiprocessing.get_context("fork")
        self.device, self.queue = device, context.Queue(32)
        self.workers = [context.Process(target=_produce, args=(self.queue, tk.to_str(), corpus, s.seed * 100 + i, s), daemon=True)
                        for i in range(s.workers)]
        for worker in self.workers:
            worker.start()

    def next(self) -> Batch:
        def move(x: Tensor) -> Tensor:
            return x.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else x

        ids, weights, tasks = (torch.from_numpy(x) for x in self.queue.get())
        return Batch(move(ids.long()), move(weights), move(tasks))

    def stop(self) -> None:
        for worker in self.workers:
            worker.terminate()


def corpora(tk: Tokenizer, s: Settings) -> tuple[data.Corpus, data.Corpus, dict[str, Any]]:
    """Training text, held-out text (one document in 25), and what they are made of."""
    documents, versions = data.documents(s.corpus_chars)
    held = max(2, len(documents) // 25)

    def corpus(part: list[str]) -> data.Corpus:
        tokens = [np.array(e.ids + [EOS_ID], np.int16) for e in tk.encode_batch(part)]
        return data.Corpus("\n".join(part), np.concatenate(tokens))

    train, heldout = corpus(documents[held:]), corpus(documents[:held])
    return train, heldout, {"packages": versions, "documents": len(documents), "train_chars": len(train.text),
                            "train_tokens": len(train.tokens), "heldout_tokens": len(heldout.tokens),
                            "chars_per_token": round(len(train.text) / len(train.tokens), 3)}


# ---------------------------------------------------------------- training
class Trainer:
    def __init__(self, model: FastModel, feed: Feed, s: Settings, dtype: torch.dtype) -> None:
        self.model, self.feed, self.s, self.dtype = model, feed, s, dtype
        self.parameters = list(model.hf.parameters())
        self.muon, self.adam = optimisers(model.hf, model.cfg, s)
        self.attend_all = torch.ones((), device=model.device)
        self.experts = [(p, model.cfg.type_of("gate_up" if "gate_up" in name else "down", None))
                        for name, p in model.hf.named_parameters() if ".experts." in name]

    def step(self, scale: float, finish: bool) -> tuple[Batch, Tensor, Tensor]:
        """One update at `scale` times the learning rates. Returns the batch, its losses [B] and the indexer's loss.

        In the finish the pass runs at the rounded expert weights and the update goes to the unrounded ones
        (straight-through), so that what is learnt last is what survives the file format."""
        model, cfg = self.model, self.model.cfg
        batch = self.feed.next()
        if finish:
            unrounded = [p.data.clone() for p, _ in self.experts]
            for p, type_name in self.experts:
                p.data.copy_(rounded(p.data, type_name))
        h, index_losses, loads = model.streams(batch.ids, self.dtype, self.attend_all)
        loss, each = model.head_loss(h, model.head, batch.ids, batch.weights, self.dtype)
        index_loss = torch.stack(index_losses).sum()
        (loss + index_loss).backward()
        if finish:
            for (p, _), w in zip(self.experts, unrounded):
                p.data.copy_(w)
        torch.nn.utils.clip_grad_norm_([p for p in self.parameters if p.grad is not None], 1.0)
        for group in self.adam.param_groups:
            group["lr"] = self.s.adam_lr * scale
        self.muon.step(scale)
        self.adam.step()
        for p in self.parameters:
            p.grad = None
        for layer in range(cfg.hash_layers, cfg.layers):
            uneven = torch.sign(cfg.used / cfg.experts - loads[layer])
            model.layers[layer]["mlp.gate.e_score_correction_bias"].add_(self.s.balance * scale * uneven)
        return batch, each, index_loss.detach()

    def phase(self, name: str, steps: int, lr: Callable[[float], float], finish: bool, until: float) -> dict[str, Any]:
        """Runs `steps` steps, or fewer when the speed of the first 200 says that they would not end by `until`
        (seconds since the start); the schedule is laid over the number that will really run."""
        device, tasks = self.model.device, len(data.TASKS)
        losses, counts, index_loss = torch.zeros(tasks, device=device), torch.zeros(tasks, device=device), torch.zeros((), device=device)
        rows: list[dict[str, Any]] = []
        started = since = time.time()
        done = 0
        step = 0
        while step < steps:
            if step == 200:
                fits = int((until - (time.time() - START)) / ((time.time() - started) / step))
                steps = min(steps, step + max(fits, 0))
                log(name, "steps:", steps)
            self.attend_all.fill_(0.0 if finish or step >= self.s.attend_all_until * steps else 1.0)
            scale = lr(step / steps) * min(1, (step + 1) / self.s.warmup_steps)
            batch, each, kl = self.step(scale, finish)
            losses.index_add_(0, batch.tasks, each)
            counts.index_add_(0, batch.tasks, torch.ones_like(each))
            index_loss += kl
            step += 1
            if step % 100 == 0 or step == steps:
                mean = (losses / counts.clamp_min(1)).tolist()           # waits for the device
                now, n = time.time(), step - done
                rows.append({"phase": name, "step": step, "lr": round(scale, 4), "index_loss": round(index_loss.item() / n, 4),
                             "tokens_per_second": round(n * self.s.batch * self.s.length / (now - since)),
                             "loss": {task: round(x, 4) for task, x in zip(data.TASKS, mean)}})
                log(rows[-1], "batches waiting", self.feed.queue.qsize())
                for accumulated in (losses, counts, index_loss):
                    accumulated.zero_()
                since, done = now, step
        seconds = time.time() - started
        return {"steps": steps, "tokens": steps * self.s.batch * self.s.length, "seconds": round(seconds, 1), "rows": rows}


@torch.no_grad()
def difference_from_transformers(model: FastModel, heldout: data.Corpus) -> float:
    """Relative error of our forward's logits against transformers' own, both in f32."""
    torch.set_float32_matmul_precision("highest")
    ids = torch.tensor(heldout.tokens[:1000].astype(np.int64).reshape(2, 500), device=model.device)
    reference = model.hf(input_ids=ids, use_cache=False).logits.float()
    error = ((model.logits(ids) - reference).norm() / reference.norm()).item()
    torch.set_float32_matmul_precision("high")
    return error


def quick_evaluation(model: FastModel, tk: Tokenizer, heldout: data.Corpus, dtype: torch.dtype) -> dict[str, float]:
    evaluation = Evaluation(model, tk, heldout, dtype)
    out = {f"recall_{d}": evaluation.recall(d, 24) for d in (60, 180, 500)}
    out["block_accuracy"], out["block_loss"] = evaluation.blocks(16)
    out["text_loss"] = evaluation.text_loss(16)
    return {k: round(v, 4) for k, v in out.items()}


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("--out", type=Path, default=Path("out"))
    args.add_argument("--smoke", action="store_true")
    args.add_argument("--until", type=float, default=1e9, help="end the main phase by this many seconds after the start")
    a = args.parse_args()
    s = SMOKE if a.smoke else Settings()
    device = torch.device("cpu" if a.smoke else "cuda")
    dtype = torch.float32 if a.smoke else torch.bfloat16
    a.out.mkdir(parents=True, exist_ok=True)
    record: dict[str, Any] = {"settings": asdict(s), "mix": data.MIX, "torch": torch.__version__,
                              "device": "cpu" if a.smoke else torch.cuda.get_device_name()}

    tk = tokenizer.load()
    train, heldout, record["corpus"] = corpora(tk, s)
    log(record["corpus"])
    np.savez_compressed(a.out / "heldout.npz", text=np.frombuffer(heldout.text[:1_500_000].encode(), np.uint8),
                        tokens=heldout.tokens[:600_000])
    feed = Feed(tk, train, s, device)

    torch.set_float32_matmul_precision("high")
    model = FastModel(container.build(TINY, s.seed), TINY, device)
    record["parameters"] = sum(p.numel() for p in model.hf.parameters())
    record["difference_from_transformers"] = {"initial": difference_from_transformers(model, heldout)}
    log(record["parameters"], "parameters; against transformers", record["difference_from_transformers"])
    if not a.smoke:
        model.compile()
    trainer = Trainer(model, feed, s, dtype)
    for _ in range(2):
        trainer.step(1e-3, finish=False)
    path = a.out / "model.gguf"
    gguf_file.write(path, TINY, container.weights(model.hf), tokenizer.text(), "assay tiny")     # fails now or never
    log("first steps and export done")

    def main_lr(x: float) -> float:
        return 1.0 if x < s.flat_until else max(s.end_lr, (1 - x) / (1 - s.flat_until))

    def finish_lr(x: float) -> float:
        return s.finish_lr * max(.03, 1 - x)

    record["main"] = trainer.phase("main", s.steps, main_lr, False, a.until)
    record["difference_from_transformers"]["trained"] = difference_from_transformers(model, heldout)
    if not a.smoke:
        record["before_finish"] = quick_evaluation(model, tk, heldout, dtype)
        log(record["difference_from_transformers"], record["before_finish"])
    record["finish"] = trainer.phase("finish", s.finish_steps, finish_lr, True, 1e9)
    feed.stop()

    torch.set_float32_matmul_precision("highest")
    record["bytes_by_type"] = gguf_file.write(path, TINY, container.weights(model.hf), tokenizer.text(), "assay tiny")
    record["seconds"] = round(time.time() - START, 1)
    (a.out / "train.json").write_text(json.dumps(record, indent=1))
    log("wrote", path, path.stat().st_size)


if __name__ == "__main__":
    main()
