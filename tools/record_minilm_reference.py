#!/usr/bin/env python3
"""Records the sentence embeddings that all-MiniLM-L6-v2 has in its published implementation.

  python3 -m venv env && env/bin/pip install torch transformers
  env/bin/python tools/record_minilm_reference.py FOLDER tests/data/reference/all-minilm-l6-v2.json

FOLDER is the model's Hugging Face folder. For each sentence the JSON has its token ids ([CLS] and [SEP]
included, nothing padded or cut) and its embedding: mean over all tokens of the last hidden state, then
L2-normalised, float32 kept to seven decimals. `cosine` is the matrix of their inner products.
"""

import argparse
import hashlib
import json
import pathlib
import sys

import numpy as np
import torch
import transformers

SENTENCES = [
    "The cat sits on the mat.",
    "A kitten is lying on the rug.",
    "The stock market fell sharply on Tuesday.",
    "Shares dropped in early trading.",
    "How do I reset my password?",
    "I forgot my login credentials and cannot sign in.",
    "Paris is the capital of France.",
    "paris is the CAPITAL of france",
    "Die Katze sitzt auf der Matte.",
    "Le chat est assis sur le tapis.",
    "def add(a, b): return a + b",
    "A function that returns the sum of two numbers.",
    "Naïve café façades — élan & Ångström!",
    "猫坐在垫子上。",
    "👍🎉",
    "a",
    "",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis",
    "1234567890 3.14159 $1,000.00 50% 12:30 2024-02-29",
    "A lighthouse is a tower that holds a lamp where sailors can see it. The lamp need not be very strong, "
    "because the work is done by the lens in front of it, which gathers the light that would have gone into "
    "the sky or the sea and sends it all towards the horizon. Each tower has its own rhythm of flashes, so "
    "that a ship that sees two of them on a clear night knows which two they are, and can find its own place "
    "on the chart with a ruler and a pencil.",
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()

    tokenizer = transformers.AutoTokenizer.from_pretrained(arguments.folder)
    model = transformers.AutoModel.from_pretrained(
        arguments.folder, dtype=torch.float32, attn_implementation="eager").eval()
    records, embeddings = [], []
    for sentence in SENTENCES:
        ids = tokenizer(sentence, truncation=False, padding=False)["input_ids"]
        with torch.no_grad():
            mean = model(torch.tensor([ids])).last_hidden_state[0].mean(dim=0)
        embeddings.append((mean / mean.norm()).numpy())
        records.append({"text": sentence, "ids": ids})

    def row(values, decimals):
        return json.dumps([round(float(v), decimals) for v in values])

    cosine = np.stack(embeddings) @ np.stack(embeddings).T
    source = {
        "script": "tools/record_minilm_reference.py",
        "weights_sha256": hashlib.sha256((arguments.folder / "model.safetensors").read_bytes()).hexdigest(),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "pooling": "mean", "normalized": True, "dim": len(embeddings[0]),
    }
    sentences = ",\n".join(
        f'  {{"text": {json.dumps(r["text"], ensure_ascii=False)},\n   "ids": {json.dumps(r["ids"])},\n'
        f'   "embedding": {row(e, 7)}}}' for r, e in zip(records, embeddings))
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(
        f'{{\n "model": "all-minilm-l6-v2",\n "source": {json.dumps(source)},\n'
        f' "sentences": [\n{sentences}\n ],\n "cosine": [\n' + ",\n".join("  " + row(r, 6) for r in cosine) + "\n ]\n}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
