"""The bundled model's tokenizer: byte-level BPE, the joyai-llm split (§16.2), 7 special tokens, 512 entries.

Trained once on the Python standard library (PSF licence). The result is tokenizer.json, and the same data is in
model.gguf.

    python tokenizer.py            # retrain
"""
from __future__ import annotations

import glob
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from config import SPECIALS

FILE = Path(__file__).resolve().parent / "tokenizer.json"
VOCAB = 512
ASCII_PUNCTUATION = r"""!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~"""
SPLITS = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    rf"[{ASCII_PUNCTUATION}][A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
)


def joyai(single_digits: bool) -> pre_tokenizers.PreTokenizer:
    steps: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.Split(Regex(r), "isolated") for r in SPLITS]
    if single_digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    return pre_tokenizers.Sequence(steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def ascii_sources(root: str, limit: int = 60_000) -> Iterator[tuple[str, str]]:
    """Path and text (at most `limit` characters) of the all-ASCII Python files under root, in sorted order."""
    for path in sorted(glob.glob(root + "/**/*.py", recursive=True)):
        try:
            yield path, Path(path).read_text(encoding="ascii")[:limit]
        except (UnicodeDecodeError, OSError):
            continue


def text() -> str:
    return FILE.read_text(encoding="utf-8")


def load() -> Tokenizer:
    return Tokenizer.from_str(text())


def train() -> Tokenizer:
    # Tests and tables of character names would crowd out ordinary words.
    sources = ascii_sources(sysconfig.get_paths()["stdlib"])
    documents = [t for path, t in sources if not any(part in path for part in ("-packages", "/test", "/encodings/"))]
    random.Random(1).shuffle(documents)
    tk = Tokenizer(models.BPE())
    # Merges never join two digits: a value like 47 is always two tokens. With no such merge in the table, splitting
    # digits one by one here and the run-time split into runs of up to three give the same tokens.
    tk.pre_tokenizer = joyai(single_digits=True)
    tk.train_from_iterator(documents[:400], trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=list(SPECIALS), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False))
    tk.pre_tokenizer, tk.decoder = joyai(single_digits=False), decoders.ByteLevel()
    tk.save(str(FILE))
    return tk


if __name__ == "__main__":
    trained = train()
    print(trained.get_vocab_size(), trained.encode("<｜User｜>@QX=47; the cat ?QX=<｜Assistant｜></think>47").tokens)
