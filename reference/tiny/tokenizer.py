"""The bundled model's tokenizer: byte-level BPE, the joyai-llm split, 7 special tokens, 512 entries.
Trained once on the Python standard library (PSF licence); the result is tokenizer.json, and the same data is in model.gguf.

    python tokenizer.py            # retrain
"""
import glob, os, random, sysconfig
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from config import SPECIALS

HERE = os.path.dirname(os.path.abspath(__file__))
VOCAB = 512
PUNCT = r"""!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~"""
SPLIT = [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+",
         rf"[{PUNCT}][A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+| ?[\p{{P}}\p{{S}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]


def joyai(single_digits=False):
    s = [pre_tokenizers.Split(Regex(r), "isolated") for r in SPLIT]
    if single_digits: s.append(pre_tokenizers.Digits(individual_digits=True))
    return pre_tokenizers.Sequence(s + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def ascii_sources(root, limit=60_000):
    """All-ASCII Python files under root (at most `limit` characters of each), in sorted order."""
    for f in sorted(glob.glob(root + "/**/*.py", recursive=True)):
        try: t = open(f, encoding="ascii").read()
        except (UnicodeDecodeError, OSError): continue
        yield f, t[:limit]


def load():
    return Tokenizer.from_file(os.path.join(HERE, "tokenizer.json"))


def train():
    std = sysconfig.get_paths()["stdlib"]
    docs = [t for f, t in ascii_sources(std) if "-packages" not in f and "/test" not in f and "/encodings/" not in f]   # encodings: tables of character names
    random.Random(1).shuffle(docs)
    tk = Tokenizer(models.BPE())
    # Merges never join two digits: a value like 47 is always two tokens. With no such merge in the table, splitting digits one by
    # one here and the run-time split into runs of up to three give the same tokens.
    tk.pre_tokenizer = joyai(single_digits=True)
    tk.train_from_iterator(docs[:400], trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tk.pre_tokenizer, tk.decoder = joyai(), decoders.ByteLevel()
    tk.save(os.path.join(HERE, "tokenizer.json"))
    return tk


if __name__ == "__main__":
    tk = train(); print(tk.get_vocab_size(), tk.encode("<｜User｜>@QX=47;@LM=03; the cat  12 ?QX=<｜Assistant｜></think>47<｜end▁of▁sentence｜>").tokens)
    print([tk.id_to_token(i) for i in range(263, 512)])
