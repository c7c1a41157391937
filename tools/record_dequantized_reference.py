#!/usr/bin/env python3
"""Records what a quantized model answers when its weights are widened to float32 and nothing else is rounded.

llama.cpp rounds activations to 8 bits as well, so it is not the last word on a quantized file. This is:
`transformers` reads the GGUF file, widens each weight exactly, and computes in float32.

  python3 -m venv env && env/bin/pip install torch transformers accelerate gguf==0.19.0
  env/bin/python tools/record_dequantized_reference.py MODEL.gguf tests/data/reference/NAME.json

Reads the ids of `score` in NAME.json (made by record_llama_reference.py) and writes NAME.dequantized.json:
  score        for the same 128 ids, logprob of each after the first and the likeliest id in its place, and
               the 32 largest [id, logit] after the first id and after all of them
  perplexity   of the sample text by llama-perplexity's rule: whole contexts of 512, each with its first id
               replaced by BOS if the model adds one, scored from position 256 to 510
"""

import argparse
import hashlib
import json
import math
import pathlib
import sys

import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parent.parent
SAMPLE_TEXT = ROOT / "tests" / "data" / "text" / "pare_sample.txt"
CONTEXT = 512


def logprobs(model, ids):
    """float64 natural log-probabilities [len(ids), vocab]."""
    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    return logits, torch.log_softmax(logits.double(), dim=-1)


def record_score(model, ids):
    logits, every = logprobs(model, ids)
    following = torch.tensor(ids[1:])
    chosen = every[:-1].gather(1, following[:, None])[:, 0]

    def largest(row):
        values, indices = row.topk(32)
        return [[int(i), round(float(v), 5)] for i, v in zip(indices, values)]

    return {"logprobs": [round(float(p), 6) for p in chosen],
            "likeliest": [int(i) for i in every[:-1].argmax(dim=-1)],
            "largest_logits": {"after_first": largest(logits[0]), "after_last": largest(logits[-1])}}


def record_perplexity(model, ids, bos):
    total, count, running = 0.0, 0, []
    for start in range(0, len(ids) - CONTEXT + 1, CONTEXT):
        window = list(ids[start:start + CONTEXT])
        if bos is not None:
            window[0] = bos
        _, every = logprobs(model, window)
        first = CONTEXT // 2
        rows = every[first:CONTEXT - 1].gather(1, torch.tensor(window[first + 1:])[:, None])
        total -= float(rows.sum())
        count += len(rows)
        running.append(round(math.exp(total / count), 4))
    return {"file": SAMPLE_TEXT.name, "context": CONTEXT, "running": running, "perplexity": running[-1]}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("reference", type=pathlib.Path)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    transformers.logging.disable_progress_bar()

    reference = json.loads(arguments.reference.read_text())
    ids = reference["score"]["ids"]
    sample_ids = reference["tokenize"]["sample_text"]
    model = transformers.AutoModelForCausalLM.from_pretrained(
        arguments.model.parent, gguf_file=arguments.model.name, dtype=torch.float32,
        attn_implementation="eager").eval()
    bos = reference["tokenize"]["bos"] if reference["tokenize"]["adds_bos"] else None
    record = {
        "model": reference["model"],
        "source": {
            "script": "tools/record_dequantized_reference.py",
            "file_sha256": hashlib.sha256(arguments.model.read_bytes()).hexdigest(),
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        },
        "score": {"ids": ids, **record_score(model, ids)},
        "perplexity": record_perplexity(model, sample_ids, bos),
    }
    out = arguments.reference.with_suffix(".dequantized.json")
    lines = ",\n".join(f" {json.dumps(k)}: {json.dumps(v)}" for k, v in record.items())
    out.write_text("{\n" + lines + "\n}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
