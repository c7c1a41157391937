#!/usr/bin/env python3
"""Compares pare's reading of a tokenizer.json with the `tokenizers` library, and records a golden file of ids.

  pip install tokenizers
  ninja text_probe
  python3 tools/compare_tokenizer_json.py PATH/text_probe FOLDER [--count 20000] [--seed 1]
                                          [--record tests/data/tokenizers/all-minilm.json]

FOLDER holds tokenizer.json and, maybe, tokenizer_config.json and vocab.txt (each of them is compared).
The library classes characters by an older Unicode version than pare (14) and Python's unicodedata; those that it
takes for something else (marks and punctuation added since) are left out of the random strings and counted.
"""
import argparse
import hashlib
import json
import os
import random
import struct
import subprocess
import sys
import unicodedata

import tokenizers

PLAIN = [
    "", " ", "Hello, world!", "The quick brown fox jumps over the lazy dog.", "na\u00efve caf\u00e9 R\u00e9sum\u00e9 \u00c5ngstr\u00f6m",
    "e\u0301a\u0300\u0323", "\u1ec6 \u1e69 \u0130stanbul STRASSE stra\u00dfe", "\u4e2d\u6587\u5b57 mixed\u4e2dtext \u3042\u3044\u3046 \ud55c\uad6d\uc5b4",
    "$5+3=8 <tag> ^_` ~|", "tab\tnew\nline\r\nend", "zero\u200bwidth \ufeffbom \u00adsoft", "a\u0000b \ufffd c", "x" * 100, "x" * 101,
    "unaffable embeddings tokenization", "\U0001f999 \U0001f600 emoji", "\u00bd \u2460 \u00b2 3.14 1,000", "don't can't I'm we'll",
    "\u2014dash \u2018quotes\u2019 \u201cdouble\u201d \u2026", "\u0939\u093f\u0928\u094d\u0926\u0940 \u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e2\u05d1\u05e8\u05d9\u05ea",
    "\uff21\uff22\uff43 \ufb01ne \u2126 \u212b", "\u2f81a \uf900 \U0002f800 \U0002b820 \U0002b920", "C++ C# .NET node.js http://a.b/c?d=e&f",
]


def same_class(char, category):
    clean = tokenizers.normalizers.BertNormalizer(True, False, False, False)
    accents = tokenizers.normalizers.BertNormalizer(False, False, True, False)
    split = tokenizers.pre_tokenizers.BertPreTokenizer()
    removed = clean.normalize_str("a" + char) == "a"
    if removed != (category in ("Cc", "Cf", "Co") and char not in "\t\n\r" or char in "\0\ufffd"):
        return False
    if (accents.normalize_str("a" + char) == "a") != (category == "Mn"):
        return False
    alone = len(split.pre_tokenize_str("a" + char + "b")) == 3
    return alone == (category[0] == "P" or char in "$+<=>^`|~")


def strings(count, seed):
    rng = random.Random(seed)
    by_category, dropped = {}, 0
    for code in range(0x110000):
        category = unicodedata.category(chr(code))
        if category in ("Cs", "Cn"):
            continue
        if same_class(chr(code), category):
            by_category.setdefault(category, []).append(chr(code))
        else:
            dropped += 1
    print(f"{dropped} characters left out: the Unicode databases differ", file=sys.stderr)
    categories = sorted(by_category)
    words = ("the of and token model unhappiness Transformer r\u00e9sum\u00e9 2024 don't e-mail \u4e2d\u56fd \u00fcber na\u00efve GPU "
             "self-attention re-tokenized").split()
    yield from PLAIN
    for _ in range(count):
        parts = []
        for _ in range(rng.randrange(1, 16)):
            kind = rng.random()
            if kind < 0.4:
                parts.append(rng.choice(words) + rng.choice(["", " ", " "]))
            elif kind < 0.6:
                parts.append(chr(rng.randrange(0x20, 0x250)))
            elif kind < 0.7:
                parts.append(rng.choice(" \t\n\r\x0b\x85\xa0\u2003\u2028\u3000\u200b\u180e"))
            else:
                parts.append(rng.choice(by_category[rng.choice(categories)]))
        yield "".join(parts)


def probe(program, arguments, texts):
    packed = b"".join(struct.pack("<I", len(s)) + s for s in (t.encode() for t in texts))
    out = subprocess.run([program, "encode", *arguments], input=packed, stdout=subprocess.PIPE, check=True).stdout
    at, result = 0, []
    while at < len(out):
        (n,) = struct.unpack_from("<I", out, at)
        result.append(list(struct.unpack_from(f"<{n}i", out, at + 4)))
        at += 4 + 4 * n
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("folder")
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record")
    args = parser.parse_args()
    path = os.path.join(args.folder, "tokenizer.json")
    reference = tokenizers.Tokenizer.from_file(path)
    reference.no_truncation()
    reference.no_padding()
    texts = list(strings(args.count, args.seed))
    want = [e.ids for e in reference.encode_batch(texts)]
    config = os.path.join(args.folder, "tokenizer_config.json")
    failures = 0
    for name in ("tokenizer.json", "vocab.txt"):
        file = os.path.join(args.folder, name)
        if not os.path.exists(file):
            continue
        got = probe(args.program, [file, config] if os.path.exists(config) else [file], texts)
        bad = [i for i in range(len(texts)) if got[i] != want[i]]
        print(f"{name}: {len(texts)} strings, {len(bad)} differ")
        for i in bad[:8]:
            print(f"  {texts[i]!r}\n    want {want[i]}\n    got  {got[i]}")
        failures += len(bad)
    if args.record and failures == 0:
        with open(__file__, "rb") as script, open(path, "rb") as model:
            source = {"script": "tools/compare_tokenizer_json.py", "script_sha256": hashlib.sha256(script.read()).hexdigest(),
                      "tokenizers": tokenizers.__version__, "seed": args.seed, "compared": len(texts),
                      "tokenizer_json_sha256": hashlib.sha256(model.read()).hexdigest()}
        with open(args.record, "w", encoding="ascii") as out:
            json.dump({"source": source, "strings": texts[:300], "ids": want[:300]}, out, separators=(",", ":"))
            out.write("\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
