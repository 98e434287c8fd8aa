"""Training data and probes. Every sample is made as *text* and goes through the real tokenizer; loss weights are kept per character.

Tasks (shares in MIX):
  text    source code, plain next-token prediction
  recall  facts "@QX=47;" inside text, asked later as "?QX=47;"                      -> window, ratio-4 rows, indexer
  dense   the same without text between
  copy    ":abc|abc"
  arith   "38+45=83;" modulo 100
  block   128-token blocks aligned with the ratio-128 windows; asked for the commonest digit of an earlier block -> ratio-128 rows
  chat    the chat layout (one or more turns): recall, addition, largest of three, repeat; answers end with EOS
"""
import importlib.metadata, importlib.util, math, os, random, sysconfig
import numpy as np
import tokenizer
from config import ASSISTANT, BOS, BOS_ID, END_THINK, EOS, EOS_ID, THINK, USER

MIX = dict(text=.28, recall=.13, dense=.04, copy=.06, arith=.03, block=.10, chat=.36)
KINDS = list(MIX)
PACKAGES = ["sympy", "networkx", "scipy", "numpy", "torch"]      # all BSD-3-Clause; the standard library is PSF-2.0
UP, LOW = "ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz"
SUBJECT = "the river|a small boat|the old mill|my neighbour|the night train|a grey cat|the baker|our garden|the museum|a young student|the north wind|her brother".split("|")
VERB = "waits near|runs past|looks at|belongs to|was built beside|turns towards|remembers|is older than|stands behind|moves around|likes|watches".split("|")
OBJECT = "the stone bridge|a quiet street|the market square|an empty house|the harbour|the library|a row of trees|the clock tower|the blue door|some paper lamps|the long hill|a field of wheat".split("|")


def corpus(limit, roots=None):
    """ASCII Python sources: (documents, {package: version}). Shuffled with a fixed seed, vendored third-party folders left out."""
    import platform
    found = {"python": platform.python_version()}; docs = []
    std = sysconfig.get_paths()["stdlib"]; dirs = [(std, True)]
    for p in (PACKAGES if roots is None else roots):
        sp = importlib.util.find_spec(p)
        if sp and sp.submodule_search_locations: dirs.append((list(sp.submodule_search_locations)[0], False)); found[p] = importlib.metadata.version(p)
    for d, is_std in dirs:
        for f, t in tokenizer.ascii_sources(d):
            rel = f[len(d):]
            if is_std and "-packages" in rel or any(x in rel for x in ("/_vendor", "/_external", "third_party", "/array_api_", "/encodings/", "/lib2to3/", "/idlelib/")): continue
            docs.append(t)
    random.Random(1).shuffle(docs); n, keep = 0, []
    for t in docs:
        keep.append(t); n += len(t)
        if n > limit: break
    return keep, found


class Gen:
    def __init__(self, tk, text, tokens, seed, S):
        """text: a long string for fillers; tokens: the same kind of text, tokenised (int16), for plain text."""
        self.tk, self.text, self.tokens, self.S = tk, text, tokens, S
        self.r, self.nr = random.Random(seed), np.random.default_rng(seed)

    # ---- pieces: (text, weight per character)
    def encode(self, pieces, pad=True):
        s = "".join(p[0] for p in pieces); e = self.tk.encode(s)
        cw = np.repeat(np.array([p[1] for p in pieces], np.float32), [len(p[0]) for p in pieces])
        ids = np.array(e.ids, np.int64); w = cw[np.array([o[0] for o in e.offsets], np.int64)]
        if not pad: return ids, w
        assert len(ids) >= self.S, (len(ids), self.S); return ids[:self.S], w[:self.S]

    def code(self, chars):
        i = self.r.randrange(len(self.text) - chars - 1); return self.text[i:i + chars]

    def filler(self, tokens):
        """About `tokens` tokens of something."""
        r = self.r; kind = r.random()
        if kind < .6: return self.code(max(1, int(tokens * 2.6)))
        if kind < .7: return " ".join(self.code(max(1, int(tokens * 2.9))).split())
        out = []; n = 0
        while n < tokens:
            s = f"{r.choice(SUBJECT)} {r.choice(VERB)} {r.choice(OBJECT)}"; s = s[0].upper() + s[1:] + "."; out.append(s); n += len(s) / 1.9
        s = " ".join(out); return s[:max(1, int(tokens * 1.9))]

    def fact(self, used):
        while True:
            k = self.r.choice(UP) + self.r.choice(UP)
            if k not in used: used.add(k); return k, f"{self.r.randrange(100):02d}"

    def pick(self, facts, pos, lo=7, hi=950):
        """A fact about a log-uniform distance back."""
        tgt = pos - math.exp(self.r.uniform(math.log(lo), math.log(hi)))
        return min(self.r.sample(facts, min(len(facts), 24)), key=lambda f: abs(f[0] - tgt))

    # ---- tasks
    def t_text(self):
        i = self.r.randrange(len(self.tokens) - self.S - 1); q = self.tokens[i:i + self.S].astype(np.int64); q[0] = BOS_ID
        w = np.ones(self.S, np.float32); w[0] = 0; return q, w

    def t_recall(self, dense=False):
        r = self.r; p = [(BOS, 0)]; pos = 1; facts, used = [], set(); gap = 0 if dense else self.S / r.randint(10, 56)
        while pos < self.S * 1.25 + 40:
            if gap:
                n = int(r.expovariate(1 / gap)) + 1; f = self.filler(n); p.append((f, 1)); pos += n
            if facts and r.random() < .55:
                f = self.pick(facts, pos); p += [("?" + f[1], 0), ("=", .1), (f[2], 4), (";", .1)]
                if r.random() < .8: facts.remove(f)          # or the previous answer would serve the next question
            else:
                k, v = self.fact(used); facts.append((pos, k, v)); p += [(f"@{k}", 0), ("=", .1), (v, 0), (";", .1)]
            if dense and r.random() < .1: p.append((r.choice(" \n"), 0))
            pos += 7
            if len(used) > 400: break
        p.append((self.code(self.S * 4), 1)); return self.encode(p)

    def t_dense(self): return self.t_recall(True)

    def t_copy(self):
        r = self.r; p = [(BOS, 0)]; n = 0
        while n < 2.2 * self.S:
            m = int(math.exp(r.uniform(math.log(8), math.log(220)))); x = "".join(r.choices(LOW, k=m)); p += [(":" + x, 0), ("|", 1.5), (x, 1.5), ("\n", 1.5)]; n += 2 * m + 3
        return self.encode(p)

    def t_arith(self):
        p = [(BOS, 0)]
        for _ in range(self.S // 9 + 2):
            a, b = self.r.randrange(100), self.r.randrange(100); p += [(f"{a:02d}+{b:02d}", 0), ("=", .1), (f"{(a + b) % 100:02d}", 2), (";", .1)]
        return self.encode(p)

    def t_block(self):
        """One token a character: block b is "#b", six questions "!j=d" about earlier blocks, then digits 0-7."""
        r = self.r; p = [(BOS, 0), ("0", 0)]; best = []
        for b in range(self.S // 128):
            z = 2
            if b:
                p.append((f"#{b % 10}", 0))
                for _ in range(6): j = r.randrange(b); p += [(f"!{j % 10}=", 0), (str(best[j]), 4)]; z += 4
            x = self.nr.choice(8, 128 - z, p=self.nr.dirichlet(np.full(8, .7))); p.append(("".join(map(str, x)), 0)); best.append(int(np.bincount(x, minlength=8).argmax()))
        return self.encode(p)

    # ---- chat
    def answer(self, text):
        think = [(THINK, 0), (END_THINK, 1)] if self.r.random() < .25 else [(END_THINK, 0)]
        return [(ASSISTANT, 0)] + think + [(text, 4), (EOS, 4)]

    def question(self, k):
        return self.r.choices([f"?{k}=", f"?{k}", f"What is {k}?"], [.5, .25, .25])[0]

    def t_chat(self):
        r = self.r; p = [(BOS, 0)]; pos = 1; facts, used = [], set(); first = True
        if r.random() < .1: n = r.randint(5, 60); p.append((self.filler(n), .25)); pos += n
        style = r.random()                       # < .4: one long message, then questions only; else turns of any size
        while pos < self.S * 1.25 + 40:
            p.append((USER, 0)); pos += 1; kind = r.random()
            if not first and kind < .25 or not facts and len(used) > 380:
                what = r.random()
                if what < .5: a, b = r.randrange(100), r.randrange(100); q, ans = f"{a:02d}+{b:02d}=", f"{(a + b) % 100:02d}"
                elif what < .75: v = [f"{r.randrange(100):02d}" for _ in range(3)]; q, ans = "max " + " ".join(v), max(v)
                else: ans = "".join(r.choices(LOW, k=r.randint(2, 12))); q = "repeat: " + ans
                p.append((q, .05)); pos += len(q)
            elif facts and (style < .4 and not first or r.random() < .25):
                f = self.pick(facts, pos); p.append((self.question(f[1]), 0)); ans = f[2]; pos += 5
                if r.random() < .8: facts.remove(f)
            else:
                n = int(math.exp(r.uniform(math.log(8), math.log(500)))) if style >= .4 or not first else r.randint(150, 900)
                m = 1 + int(r.expovariate(1 / max(1, n / r.choice((9, 20, 40))))); m = min(m, n // 7 + 1, 90); plain = r.random() < .3; gap = max(0, n - 7 * m) / m; sep = r.choice(["", "", " ", "\n"])
                if r.random() < .3 and not plain: f = self.filler(max(1, gap)); p.append((f, .25)); pos += gap
                for _ in range(m):
                    if len(used) > 400: break
                    k, v = self.fact(used); facts.append((pos, k, v)); p.append((f"@{k}={v};" + sep, 0)); pos += 7 + (sep != "")
                    if not plain and gap >= 1: f = self.filler(max(1, r.expovariate(1 / gap))); p.append((f, .25)); pos += gap
                if not facts: k, v = self.fact(used); facts.append((pos, k, v)); p.append((f"@{k}={v};", 0))
                f = self.pick(facts, pos); p.append((r.choice(["", " ", " ", "\n"]) + self.question(f[1]), 0)); ans = f[2]; pos += 5
                if r.random() < .8: facts.remove(f)
            p += self.answer(ans); pos += 5; first = False
        p.append((USER, 0)); p.append((self.code(self.S * 4), 0)); return self.encode(p)

    def sample(self):
        t = self.r.choices(range(len(KINDS)), MIX.values())[0]; q, w = getattr(self, "t_" + KINDS[t])(); w = w.copy(); w[0] = 0; return q, w, t

    # ---- probes: single-turn chats with a known answer
    def probe(self, dist, distractors=10, head=40, plain=False, think=False):
        """Text of a prompt whose fact lies `dist` tokens (+-1) before the end of the prompt; and its answer."""
        used = set(); k, v = self.fact(used); r = self.r; n = lambda s: len(self.tk.encode(s).ids); tail = f"?{k}="
        end = tail + ASSISTANT + (THINK if think else "") + END_THINK
        for _ in range(200):
            body = []; left = dist - 12
            if left < 0: filler = ""
            else:
                d = min(distractors, left // 14); chunk = max(1, left // (d + 1) - 7)
                for _ in range(d): k2, v2 = self.fact(used); body.append((self.filler(chunk + 10) if not plain else "") + f"@{k2}={v2};"); used.discard(k2)
                filler = "".join(body) + (self.filler(chunk + 10) if not plain else "")
            pre = self.filler(r.randint(1, head)) if not plain else ""
            fact = f"@{k}={v};"; lo, hi = 0, len(filler)       # trim the filler from the front until the distance fits
            while lo < hi:
                mid = (lo + hi) // 2
                if n(fact + filler[mid:] + " " + end) <= dist: hi = mid
                else: lo = mid + 1
            prompt = pre + fact + filler[lo:] + " " + tail; got = n(fact + filler[lo:] + " " + end)
            if abs(got - dist) <= (1 if dist > 12 else 6) and (f"@{k}=" not in filler[lo:]): break
        return prompt, v, BOS + USER + prompt + end[len(tail):]
