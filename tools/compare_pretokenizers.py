#!/usr/bin/env python3
"""Compares pare's pre-tokenizer splits with Python's `regex` on random strings, and records a small golden file.

  pip install regex
  ninja text_probe
  python3 tools/compare_pretokenizers.py PATH/text_probe [--count 100000] [--seed 1]
                                         [--record tests/data/tokenizers/splits.json]

The patterns here are the published ones (tokenizer.json files; "default" is llama.cpp's), run by an engine that
shares nothing with PCRE2. Characters whose category differs between `regex` and Python's unicodedata (another
Unicode version) are left out of the strings and counted.
"""
import argparse
import hashlib
import json
import random
import struct
import subprocess
import sys
import unicodedata

import regex

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
HEAD = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|"
TAIL = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
DEEPSEEK_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373"
    "\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-"
    "\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-"
    "\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d"
    "\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-"
    "\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-"
    "\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-"
    "\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-"
    "\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-"
    "\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943")
PATTERNS = {
    "gpt-2": [GPT2],
    "mpt": [GPT2],
    "roberta-bpe": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "starcoder": [r"\p{N}", GPT2],
    "refact": [r"\p{N}", GPT2],
    "command-r": [r"\p{N}", GPT2],
    "qwen2": [HEAD + r"\p{N}" + TAIL],
    "llama-bpe": [HEAD + r"\p{N}{1,3}" + TAIL],
    "dbrx": [HEAD + r"\p{N}{1,3}" + TAIL],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", CJK, r"\p{N}"],
    "deepseek-llm": [r"[\r\n]", r"\s?[" + DEEPSEEK_LETTERS + "]+",
                     r"\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+", r"\s+\Z", CJK, r"\p{N}+"],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, r"[0-9][0-9][0-9]"],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
}


def reference_split(stages, text):
    pieces = [text]
    for stage in stages:
        cut = []
        for piece in pieces:
            done = 0
            for match in stage.finditer(piece):
                if match.end() == match.start():
                    continue
                if match.start() > done:
                    cut.append(piece[done:match.start()])
                cut.append(match.group())
                done = match.end()
            if done < len(piece):
                cut.append(piece[done:])
        pieces = cut
    ends, at = [], 0
    for piece in pieces:
        at += len(piece.encode())
        ends.append(at)
    return ends


def alphabet():
    """Characters by general category, as far as both Unicode databases agree on them."""
    by_category, dropped = {}, 0
    known = {}
    for code in range(0x110000):
        category = unicodedata.category(chr(code))
        if category in ("Cs", "Cn"):
            continue
        if category not in known:
            known[category] = regex.compile(r"\p{%s}" % category)
        if known[category].match(chr(code)):
            by_category.setdefault(category, []).append(chr(code))
        else:
            dropped += 1
    return by_category, dropped


def random_strings(count, seed):
    rng = random.Random(seed)
    by_category, dropped = alphabet()
    categories = sorted(by_category)
    spaces = list("     \t\n\r\n\r\x0b\x0c\x85\xa0\u1680\u180e\u2000\u2009\u200b\u2028\u2029\u202f\u205f\u3000\ufeff\x1c\x1f")
    fragments = ["'s", "'S", "'ll", "'LL", "'re", "'ve", "'d", "'m", "'t", "'\u017f", "''", "123", "1234567", "don't",
                 "  ", "   ", "\n\n", " \n ", "\t\t", "...", "!!!", "$1.50", "a1b2", "\u00bd", "\u4e2d\u6587", "\uac00",
                 "\U0001f999", "e\u0301", "\u0939\u093f", "x" * 20, " " * 20, "\r\n" * 3, "`~^|<=>+$"]
    for _ in range(count):
        parts = []
        for _ in range(rng.randrange(1, 24)):
            kind = rng.random()
            if kind < 0.25:
                parts.append(rng.choice(spaces))
            elif kind < 0.45:
                parts.append(rng.choice(fragments))
            elif kind < 0.65:
                parts.append(chr(rng.randrange(0x20, 0x7F)))
            else:
                parts.append(rng.choice(by_category[rng.choice(categories)]))
        yield "".join(parts)
    print(f"{dropped} characters left out: the Unicode databases differ", file=sys.stderr)


def probe(program, name, strings):
    packed = b"".join(struct.pack("<I", len(s)) + s for s in (t.encode() for t in strings))
    out = subprocess.run([program, "split", name], input=packed, stdout=subprocess.PIPE, check=True).stdout
    at, result = 0, []
    while at < len(out):
        (n,) = struct.unpack_from("<I", out, at)
        result.append(list(struct.unpack_from(f"<{n}I", out, at + 4)))
        at += 4 + 4 * n
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record")
    args = parser.parse_args()
    strings = list(random_strings(args.count, args.seed))
    failures = 0
    for name, patterns in PATTERNS.items():
        stages = [regex.compile(p) for p in patterns]
        got = probe(args.program, name, strings)
        bad = [i for i, text in enumerate(strings) if reference_split(stages, text) != got[i]]
        print(f"{name}: {len(strings)} strings, {len(bad)} differ")
        for i in bad[:5]:
            print(f"  {strings[i]!r}\n    want {reference_split(stages, strings[i])}\n    got  {got[i]}")
        failures += len(bad)
    if args.record and failures == 0:
        sample = strings[:150]
        with open(__file__, "rb") as script:
            digest = hashlib.sha256(script.read()).hexdigest()
        golden = {
            "source": {"script": "tools/compare_pretokenizers.py", "script_sha256": digest, "regex": regex.__version__,
                       "seed": args.seed, "compared": len(strings)},
            "strings": sample,
            "ends": {name: [reference_split([regex.compile(p) for p in patterns], text) for text in sample]
                     for name, patterns in PATTERNS.items()},
        }
        with open(args.record, "w", encoding="ascii") as file:
            json.dump(golden, file, separators=(",", ":"))
            file.write("\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
