"""The prompts of the README, with their known answers, checked by greedy decoding of the weights as the file holds them.

    python prompts.py model.gguf prompts.json

Decoding is transformers' own forward in f32. What breaking a mechanism does to each answer comes from model.py, which
can break them one by one.
"""
from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers.models.deepseek_v4.modeling_deepseek_v4 import DeepseekV4ForCausalLM

import gguf_file
import tokenizer
from config import ASSISTANT, BOS, END_THINK, EOS_ID, USER, WINDOW
from evaluate import breakages
from model import FastModel

MAX_NEW_TOKENS = 24


@dataclass(frozen=True)
class Case:
    name: str
    why: str
    prompt: str
    answer: str


STORY = ("The river runs past the old mill. My neighbour likes the clock tower. A grey cat moves around the harbour. "
         "The baker waits near the stone bridge. Her brother remembers the long hill. Our garden belongs to the museum. "
         "The night train looks at a row of trees.")
FACTS = ("@ZN=64;@KD=18;@RB=72;@WM=05;@TJ=39;@HC=91;@LV=26;@QX=83;@GF=50;@YS=17;@EB=66;@NP=42;@DK=08;@UO=95;@IW=31;@CA=74;"
         "@MR=12;@XH=59;@SJ=87;@FT=23;@BV=60;@OL=36;@PG=01;@JE=98;@AQ=45;@VU=70;@KM=14;@ZD=53;@RY=29;@WC=86;@TB=07;@HN=61;"
         "@LS=34;@QF=90;@GX=48;@YI=22;@EO=79;@NA=11;@DV=57;@UK=03;@IP=68;@CJ=85;@MT=40;@XW=16;@SB=93;@FR=27;@BL=62;@OG=38;"
         "@PE=04;@JQ=76;@AZ=51;@VH=19;@KU=88;@ZC=33;@RM=65;@WY=20;@TD=97;@HS=44")

CASES = (
    Case("window", "the fact is among the last 128 tokens: raw rows hold it",
         "@QX=47; @LM=03; @TB=88; What is LM?", "03"),
    Case("compressed", "the fact has left the window, and every compressed row is still attended to: ratio-4 rows hold it",
         f"@QX=47; @LM=03; {STORY} What is QX?", "47"),
    Case("indexer", "the fact has left the window and more rows are visible than the top-k: the indexer must find it",
         f"{FACTS}; What is RB?", "72"),
    Case("indexer-text", "the same, with sentences between",
         f"@QX=47; {STORY} @LM=03; The museum was built beside the library. {STORY} @TB=88; A small boat watches the "
         f"market square. {STORY} What is LM?", "03"),
    Case("addition", "no recall: addition modulo 100", "38+45=", "83"),
    Case("largest", "no recall: the largest of three", "max 12 94 30", "94"),
    Case("repeat", "copying", "repeat: assay", "assay"),
)


@torch.no_grad()
def greedy(model: DeepseekV4ForCausalLM, ids: list[int]) -> tuple[list[int], float]:
    """Generated ids, EOS included, and the smallest margin of a choice in standard deviations of the logits."""
    out: list[int] = []
    margin = float("inf")
    while len(out) < MAX_NEW_TOKENS and (not out or out[-1] != EOS_ID):
        logits = model(input_ids=torch.tensor([ids + out]), use_cache=False).logits[0, -1]
        top = logits.topk(2)
        margin = min(margin, ((top.values[0] - top.values[1]) / logits.std()).item())
        out.append(int(top.indices[0]))
    return out, margin


def check(case: Case, hf: DeepseekV4ForCausalLM, fast: FastModel) -> dict[str, Any]:
    tk = tokenizer.load()
    layout = BOS + USER + case.prompt + ASSISTANT + END_THINK
    ids = tk.encode(layout).ids
    generated, margin = greedy(hf, ids)
    expected = tk.encode(case.answer).ids + [EOS_ID]
    assert generated == expected, f"{case.name}: expected {case.answer!r}, got {tk.decode(generated)!r}"
    padded = torch.tensor([ids + expected])
    spoilt = []
    for name, (mode, layers) in breakages(fast).items():
        best = fast.logits(padded, mode, layers=layers)[0].argmax(-1)
        if best[len(ids) - 1:-1].tolist() != expected:
            spoilt.append(name)
    n = len(ids)
    return {"name": case.name, "why": case.why, "prompt": case.prompt, "layout": layout, "answer": case.answer,
            "answer_tokens": expected, "tokens": n, "past_window": n > WINDOW, "visible_ratio4_rows": n // 4,
            "top_k": fast.cfg.top_k, "smallest_margin": round(margin, 3), "wrong_when": spoilt}


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("model", type=Path)
    args.add_argument("out", type=Path)
    a = args.parse_args()
    hf, cfg = gguf_file.load(a.model)
    fast = FastModel(hf, cfg, torch.device("cpu"))
    checked = [check(case, hf, fast) for case in CASES]
    for c in checked:
        print(c["name"], c["tokens"], "tokens, rows", c["visible_ratio4_rows"], "->", c["answer"], "margin", c["smallest_margin"],
              "wrong when:", ", ".join(c["wrong_when"]) or "-")
    a.out.write_text(json.dumps({"schema": "assay.prompts/1", "model": a.model.name, "prompts": checked}, indent=1,
                                ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
