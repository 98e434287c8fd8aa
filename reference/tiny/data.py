"""Training data and probes. Every sample is made as text and goes through the real tokenizer.

Tasks and their shares:
  text    source code, plain next-token prediction
  recall  facts "@QX=47;" inside text, asked for later as "?QX=47;": the window, ratio-4 rows, the indexer
  dense   the same without text between
  copy    ":abc|abc"
  arith   "38+45=83;", modulo 100
  block   128-token blocks that are the windows of ratio-128 rows; asks for the commonest digit of an earlier block
  chat    the chat layout of §16.4, one or more turns: recall, addition, largest of three, repeat; answers end in EOS
"""
from __future__ import annotations

import importlib.metadata
import importlib.util
import math
import platform
import random
import sysconfig
from dataclasses import dataclass

import numpy as np
from tokenizers import Tokenizer

import tokenizer
from config import ASSISTANT, BOS, BOS_ID, END_THINK, EOS, THINK, USER, WINDOW

MIX = {"text": .28, "recall": .13, "dense": .04, "copy": .06, "arith": .03, "block": .10, "chat": .36}
TASKS = list(MIX)

# Loss weights.
NONE, FORMAT, FILLER, NEXT, COPY, SUM, ANSWER = 0.0, .1, .25, 1.0, 1.5, 2.0, 4.0

PACKAGES = ("sympy", "networkx", "scipy", "numpy", "torch")      # all BSD-3-Clause; the standard library is PSF-2.0
NOT_OURS_TO_LIST = ("/_vendor", "/_external", "third_party", "/array_api_", "/encodings/", "/lib2to3/", "/idlelib/")

UPPER, LOWER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz"
SUBJECTS = ("the river", "a small boat", "the old mill", "my neighbour", "the night train", "a grey cat", "the baker",
            "our garden", "the museum", "a young student", "the north wind", "her brother")
VERBS = ("waits near", "runs past", "looks at", "belongs to", "was built beside", "turns towards", "remembers",
         "is older than", "stands behind", "moves around", "likes", "watches")
OBJECTS = ("the stone bridge", "a quiet street", "the market square", "an empty house", "the harbour", "the library",
           "a row of trees", "the clock tower", "the blue door", "some paper lamps", "the long hill", "a field of wheat")

FACT_TOKENS = 7                  # "@QX=47;" in this vocabulary
MAX_FACTS = 400                  # of 676 keys: drawing unused ones stays cheap


@dataclass(frozen=True)
class Corpus:
    text: str
    tokens: np.ndarray           # i16, the same documents, each with EOS


@dataclass
class Fact:
    position: float              # in tokens, estimated
    key: str
    value: str

    @property
    def stated(self) -> str:
        return f"@{self.key}={self.value};"


class Draft:
    """A sample under construction: pieces of text with a loss weight each, and its estimated length in tokens."""

    def __init__(self) -> None:
        self.texts: list[str] = [BOS]
        self.weights: list[float] = [NONE]
        self.tokens: float = 1

    def add(self, text: str, weight: float, tokens: float) -> None:
        self.texts.append(text)
        self.weights.append(weight)
        self.tokens += tokens

    def encode(self, tk: Tokenizer) -> tuple[np.ndarray, np.ndarray]:
        """Ids (i64) and weights (f32). A token takes the weight of its first character."""
        encoding = tk.encode("".join(self.texts))
        by_char = np.repeat(np.array(self.weights, np.float32), [len(t) for t in self.texts])
        return np.array(encoding.ids, np.int64), by_char[np.array([start for start, _ in encoding.offsets], np.int64)]


def documents(limit: int, packages: tuple[str, ...] = PACKAGES) -> tuple[list[str], dict[str, str]]:
    """ASCII Python sources in a fixed random order, at most about `limit` characters; and the packages' versions."""
    versions = {"python": platform.python_version()}
    roots = [(sysconfig.get_paths()["stdlib"], True)]
    for package in packages:
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.submodule_search_locations:
            roots.append((list(spec.submodule_search_locations)[0], False))
            versions[package] = importlib.metadata.version(package)
    found: list[str] = []
    for root, is_stdlib in roots:
        for path, text in tokenizer.ascii_sources(root):
            inside = path[len(root):]
            if not (is_stdlib and "-packages" in inside) and not any(part in inside for part in NOT_OURS_TO_LIST):
                found.append(text)
    random.Random(1).shuffle(found)
    kept: list[str] = []
    total = 0
    for text in found:
        kept.append(text)
        total += len(text)
        if total > limit:
            break
    return kept, versions


class Generator:
    def __init__(self, tk: Tokenizer, corpus: Corpus, seed: int, length: int) -> None:
        self.tk, self.corpus, self.length = tk, corpus, length
        self.rng, self.np_rng = random.Random(seed), np.random.default_rng(seed)

    def sample(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Ids [length], loss weights [length], index of the task."""
        task = self.rng.choices(range(len(TASKS)), list(MIX.values()))[0]
        ids, weights = getattr(self, TASKS[task])()
        assert len(ids) >= self.length, (TASKS[task], len(ids))
        weights[0] = NONE
        return ids[:self.length], weights[:self.length], task

    # ---------------------------------------------------------------- pieces
    def code(self, chars: int) -> str:
        start = self.rng.randrange(len(self.corpus.text) - chars - 1)
        return self.corpus.text[start:start + chars]

    def sentences(self, tokens: float) -> str:
        out, got = [], 0.0
        while got < tokens:
            s = " ".join(self.rng.choice(words) for words in (SUBJECTS, VERBS, OBJECTS))
            out.append(s[0].upper() + s[1:] + ".")
            got += len(out[-1]) / 1.9
        return " ".join(out)[:max(1, int(tokens * 1.9))]

    def filler(self, tokens: float) -> str:
        """About that many tokens of code, of code on one line, or of simple sentences."""
        kind = self.rng.random()
        if kind < .6:
            return self.code(max(1, int(tokens * 2.6)))
        if kind < .7:
            return " ".join(self.code(max(1, int(tokens * 2.9))).split()) or " "
        return self.sentences(tokens)

    def fact(self, used: set[str], position: float) -> Fact:
        while True:
            key = self.rng.choice(UPPER) + self.rng.choice(UPPER)
            if key not in used:
                used.add(key)
                return Fact(position, key, f"{self.rng.randrange(100):02d}")

    def ask_about(self, facts: list[Fact], position: float) -> Fact:
        """A fact about a log-uniform distance back. Mostly forgotten once asked for: its answer stands in the text
        from then on and would serve the next question at a short distance."""
        target = position - math.exp(self.rng.uniform(math.log(7), math.log(950)))
        fact = min(self.rng.sample(facts, min(len(facts), 24)), key=lambda f: abs(f.position - target))
        if self.rng.random() < .8:
            facts.remove(fact)
        return fact

    # ---------------------------------------------------------------- tasks
    def text(self) -> tuple[np.ndarray, np.ndarray]:
        start = self.rng.randrange(len(self.corpus.tokens) - self.length - 1)
        ids = self.corpus.tokens[start:start + self.length].astype(np.int64)
        ids[0] = BOS_ID
        return ids, np.full(self.length, NEXT, np.float32)

    def recall(self, gap: float | None = None) -> tuple[np.ndarray, np.ndarray]:
        draft = Draft()
        facts: list[Fact] = []
        used: set[str] = set()
        gap = self.length / self.rng.randint(10, 56) if gap is None else gap
        while draft.tokens < self.length * 1.25 + 40 and len(used) < MAX_FACTS:
            if gap:
                tokens = int(self.rng.expovariate(1 / gap)) + 1
                draft.add(self.filler(tokens), NEXT, tokens)
            if facts and self.rng.random() < .55:
                fact = self.ask_about(facts, draft.tokens)
                draft.add("?" + fact.key, NONE, 3)
                draft.add("=", FORMAT, 1)
                draft.add(fact.value, ANSWER, 2)
            else:
                fact = self.fact(used, draft.tokens)
                facts.append(fact)
                draft.add("@" + fact.key, NONE, 3)
                draft.add("=", FORMAT, 1)
                draft.add(fact.value, NONE, 2)
            draft.add(";", FORMAT, 1)
            if not gap and self.rng.random() < .1:
                draft.add(self.rng.choice(" \n"), NONE, 1)
        draft.add(self.code(self.length * 4), NEXT, self.length)
        return draft.encode(self.tk)

    def dense(self) -> tuple[np.ndarray, np.ndarray]:
        return self.recall(gap=0)

    def copy(self) -> tuple[np.ndarray, np.ndarray]:
        draft, chars = Draft(), 0
        while chars < 2.2 * self.length:
            n = int(math.exp(self.rng.uniform(math.log(8), math.log(220))))
            word = "".join(self.rng.choices(LOWER, k=n))
            draft.add(":" + word, NONE, n)
            draft.add("|" + word + "\n", COPY, n)
            chars += 2 * n + 3
        return draft.encode(self.tk)

    def arith(self) -> tuple[np.ndarray, np.ndarray]:
        draft = Draft()
        for _ in range(self.length // 9 + 2):
            question, answer = self.addition()
            draft.add(question[:-1], NONE, 5)
            draft.add("=", FORMAT, 1)
            draft.add(answer, SUM, 2)
            draft.add(";", FORMAT, 1)
        return draft.encode(self.tk)

    def block(self) -> tuple[np.ndarray, np.ndarray]:
        """One token a character, so that each block is exactly one window: "#b", six questions "!j=d" about earlier
        blocks, then digits 0..7. Block 0 starts with BOS and a "0"."""
        draft = Draft()
        draft.add("0", NONE, 1)
        commonest: list[int] = []
        for b in range(self.length // WINDOW):
            head = 2
            if b:
                draft.add(f"#{b % 10}", NONE, 2)
                for _ in range(6):
                    j = self.rng.randrange(b)
                    draft.add(f"!{j % 10}=", NONE, 3)
                    draft.add(str(commonest[j]), ANSWER, 1)
                    head += 4
            digits = self.np_rng.choice(8, WINDOW - head, p=self.np_rng.dirichlet(np.full(8, .7)))
            draft.add("".join(map(str, digits)), NONE, len(digits))
            commonest.append(int(np.bincount(digits, minlength=8).argmax()))
        return draft.encode(self.tk)

    # ---------------------------------------------------------------- chat
    def addition(self) -> tuple[str, str]:
        a, b = self.rng.randrange(100), self.rng.randrange(100)
        return f"{a:02d}+{b:02d}=", f"{(a + b) % 100:02d}"

    def largest(self) -> tuple[str, str]:
        values = [f"{self.rng.randrange(100):02d}" for _ in range(3)]
        return "max " + " ".join(values), max(values)

    def repeat(self) -> tuple[str, str]:
        word = "".join(self.rng.choices(LOWER, k=self.rng.randint(2, 12)))
        return "repeat: " + word, word

    def question(self, key: str) -> str:
        return self.rng.choices([f"?{key}=", f"?{key}", f"What is {key}?"], [.5, .25, .25])[0]

    def message(self, draft: Draft, facts: list[Fact], used: set[str], tokens: int) -> None:
        """About that many tokens of facts, most often with filler between them."""
        rng = self.rng
        count = min(1 + int(rng.expovariate(1 / max(1, tokens / rng.choice((9, 20, 40))))), tokens // FACT_TOKENS + 1, 90)
        gap = 0 if rng.random() < .3 else max(0, tokens - FACT_TOKENS * count) / count
        separator = rng.choice(["", "", " ", "\n"])
        if gap >= 1 and rng.random() < .3:
            draft.add(self.filler(gap), FILLER, gap)
        for _ in range(count):
            if len(used) >= MAX_FACTS:
                break
            fact = self.fact(used, draft.tokens)
            facts.append(fact)
            draft.add(fact.stated + separator, NONE, FACT_TOKENS + len(separator))
            if gap >= 1:
                between = max(1, rng.expovariate(1 / gap))
                draft.add(self.filler(between), FILLER, between)

    def chat(self) -> tuple[np.ndarray, np.ndarray]:
        rng, draft = self.rng, Draft()
        facts: list[Fact] = []
        used: set[str] = set()
        if rng.random() < .1:                                  # a system text
            tokens = rng.randint(5, 60)
            draft.add(self.filler(tokens), FILLER, tokens)
        one_long_message = rng.random() < .4                   # then questions only; else turns of any size
        first = True
        while draft.tokens < self.length * 1.25 + 40:
            draft.add(USER, NONE, 1)
            if (not first and rng.random() < .25) or (not facts and len(used) >= MAX_FACTS - 20):
                ask = rng.choices([self.addition, self.largest, self.repeat], [.5, .25, .25])[0]
                question, answer = ask()
                draft.add(question, FORMAT / 2, len(question))
            else:
                ask_only = facts and not first if one_long_message else facts and rng.random() < .25
                if not ask_only:
                    long = one_long_message and first
                    tokens = rng.randint(150, 900) if long else int(math.exp(rng.uniform(math.log(8), math.log(500))))
                    self.message(draft, facts, used, tokens)
                if not facts:
                    facts.append(self.fact(used, draft.tokens))
                    draft.add(facts[0].stated, NONE, FACT_TOKENS)
                fact = self.ask_about(facts, draft.tokens)
                draft.add(("" if ask_only else rng.choice(["", " ", " ", "\n"])) + self.question(fact.key), NONE, 5)
                answer = fact.value
            draft.add(ASSISTANT, NONE, 1)
            if rng.random() < .25:
                draft.add(THINK, NONE, 1)
                draft.add(END_THINK, NEXT, 1)
            else:
                draft.add(END_THINK, NONE, 1)
            draft.add(answer + EOS, ANSWER, len(answer) + 1)
            first = False
        draft.add(USER + self.code(self.length * 4), NONE, self.length)
        return draft.encode(self.tk)

    # ---------------------------------------------------------------- probes
    def probe(self, distance: int, facts_only: bool = False, think: bool = False, distractors: int = 10) -> tuple[str, str]:
        """A single-turn chat whose fact starts `distance` tokens (give or take one) before the end of the prompt, with
        up to `distractors` other facts between; and its answer."""
        used: set[str] = set()
        fact = self.fact(used, 0)
        end = f" ?{fact.key}=" + ASSISTANT + (THINK if think else "") + END_THINK

        def length(between: str) -> int:
            return len(self.tk.encode(fact.stated + between + end).ids)

        shortest = length("")
        while True:
            between = ""
            if distance > shortest:
                count = min(distractors, (distance - shortest) // (2 * FACT_TOKENS))
                gap = (distance - shortest) // (count + 1) + 10         # more than enough: trimmed below

                def stretch() -> str:
                    return "" if facts_only else self.filler(gap)

                if facts_only:
                    count = distance // FACT_TOKENS + 1
                between = "".join(stretch() + self.fact(used, 0).stated for _ in range(count)) + stretch()
                low, high = 0, len(between)                   # drop characters from the front until the distance fits
                while low < high:
                    middle = (low + high) // 2
                    if length(between[middle:]) <= distance:
                        high = middle
                    else:
                        low = middle + 1
                between = between[low:]
            exact = abs(length(between) - max(distance, shortest)) <= 1
            if exact and f"@{fact.key}=" not in between:
                before = "" if facts_only else self.filler(self.rng.randint(1, 40))
                return BOS + USER + before + fact.stated + between + end, fact.value
