#!/usr/bin/env python3
"""Records what llama.cpp answers for one model: the reference that pare's golden tests compare with.

  tools/build_llama_cpp.sh                       # once: builds llama.cpp
  python3 -m venv env && env/bin/pip install numpy typing-extensions
  env/bin/python tools/record_llama_reference.py --name smollm2-135m-instruct \\
      --model MODEL.gguf --out tests/data/reference/smollm2-135m-instruct.json

The JSON written has
  source        llama.cpp's version, build flags and the SHA-256 of the model file
  tokenize      ids of varied strings: `plain` (text only), `special` (special tokens parsed in the text),
                neither with a BOS; `adds_bos` and `bos`, the rule for a whole prompt; `sample_text`, the ids
                of the whole sample text under that rule
  greedy        32 raw prompts (BOS as the model says), up to 32 greedy tokens each, ending early only at an
                end-of-generation token: the ids and, for each step, the five likeliest [id, logprob]
  score         for a text of 128 tokens: logprob of each token after the first, and the likeliest id there
  perplexity    llama-perplexity on the sample text (and on --text FILE…), command and estimates kept

Settings: fp32 logits, KV in fp16, flash attention off, 2 threads, the whole prompt in one batch,
sequences one at a time. logprobs are natural logarithms, normalised in float64, kept to six decimals.

`--tiny FOLDER` instead runs the models of tests/data/tiny and prints how far llama.cpp's logits are from
the recorded ones (KV in fp32): the check that those GGUF files mean what their Hugging Face twins mean.
`--compare A.json B.json` prints how far two recordings of one model are apart.
"""

import argparse
import hashlib
import importlib
import json
import os
import pathlib
import re
import subprocess
import sys
import types

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
SAMPLE_TEXT = ROOT / "tests" / "data" / "text" / "pare_sample.txt"
THREADS = 2
CONTEXT = 512
CHUNKS = 8
GREEDY_TOKENS = 32
SCORED_TOKENS = 128

STRINGS = [
    "", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "\t\tx", "a", " a", "a ", "Hello world",
    " Hello  World", "Hello, world! How are you?", "don't can't I'll we've you're he'd I'm it's",
    "DON'T CAN'T I'LL", "3", "33", "333", "3333", "1234567890", "3.14159", "1,000,000.50", "x=1;y=22;z=333",
    "2024-02-29T12:34:56Z", "camelCaseIdentifier snake_case_name SCREAMING_CASE",
    "http://example.org/a?b=c&d=%20#e",
    "user.name+tag@example.co.uk", "C:\\Users\\me\\file.txt", "for (int i = 0; i < n; ++i) { sum += a[i]; }",
    "def f(x):\n    if x > 0:\n        return x\n    return -x\n", "\tif (a)\n\t\treturn b;\n",
    "#include <vector>\nint main() { return 0; }\n", "SELECT * FROM t WHERE a = 'b' AND c <> 1;",
    "{\"key\": [1, 2.5, null, true], \"s\": \"\\u00e9\\n\"}", "<p class=\"x\">A &amp; B</p>",
    "naïve café façade Ångström", "Straße Übermut ñandú", "e\u0301 versus \u00e9", "Привет, мир!",
    "Γειά σου Κόσμε",
    "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก", "你好，世界！", "日本語のテキストとカタカナ",
    "안녕하세요 세계", "👍", "👩‍👩‍👧‍👦 family", "🇩🇪🇯🇵 flags 🏳️‍🌈", "a\u00a0b\u2003c\u3000d",
    "zero\u200bwidth\u200djoin",
    "\ufeffbom", "𝕊𝕡𝕖𝕔𝕚𝕒𝕝 𝔐𝔞𝔱𝔥", "…—–‘’“”«»", "¼ ½ ² ³ ⅷ ①", "     leading and trailing     ",
    "a\n\n\n\nb", "word\n   \n  word",
    "!!!???...,,,;;;:::", "=====-----*****", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "\u0001\u0002\u001f\u007f", "x" * 100,
    "The quick brown fox jumps over the lazy dog. " * 3,
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|>", "a<|endoftext|>b", "<|im_start|>", "<s>[INST] hi [/INST]</s>",
    "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n", "<eos>", "<pad><unk>",
    " <|im_end|> ",
    "<|im_end", "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>", "<tool_call>\n{}\n</tool_call>",
    "<0x41><0x0A>", "▁under▁lines", "[multimodal]", "<unused0> <unused99>",
]

PROMPTS = [
    "The capital of France is", "Once upon a time, in a village by the sea,",
    "Water boils at a temperature of",
    "The three laws of motion are", "My grandmother's recipe for apple pie begins with",
    "In 1969, the first human being", "The difference between a virus and a bacterium is that",
    "Dear Sir or Madam,\n\nI am writing to", "Q: What is the largest planet in the solar system?\nA:",
    "A list of five fruits:\n1. Apple\n2.", "It was a dark and stormy night;", "The opposite of hot is",
    "To be, or not to be, that is", "Photosynthesis is the process by which",
    "If a train travels 60 miles in one hour, then in three hours it travels",
    "2 + 2 = 4\n3 + 5 = 8\n7 + 6 =", "The chemical formula of table salt is",
    "Yesterday I went to the market and bought",
    "def fibonacci(n):\n    \"\"\"Return the n-th Fibonacci number.\"\"\"\n",
    "#include <stdio.h>\n\nint main(void) {\n    printf(", "import numpy as np\n\ndef softmax(x):\n",
    "SELECT name, age FROM users WHERE", "function add(a, b) {\n", "class Stack:\n    def __init__(self):\n",
    "// Returns true if the string is a palindrome.\nbool is_palindrome(const std::string& s) {\n",
    "{\"name\": \"Alice\", \"age\": 30, \"city\":",
    "#!/bin/bash\n# Count the lines of every text file.\nfor f in",
    "La capitale de l'Italie est", "Die Hauptstadt von Deutschland ist", "El perro corre por el parque y",
    "中国的首都是", "Сегодня хорошая погода, и мы",
]

SCORED_TEXT = (
    "A lighthouse is a tower that holds a lamp where sailors can see it. The lamp need not be very strong, "
    "because the work is done by the lens in front of it, which gathers the light that would have gone into "
    "the sky or the sea and sends it all towards the horizon. Each tower has its own rhythm of flashes, so "
    "that a ship that sees two of them on a clear night knows which two they are, and can find its own place "
    "on the chart with a ruler and a pencil. Today the same ship has a receiver that listens to satellites, "
    "and the lighthouses are kept mostly because people like them, and because a lamp on a rock does not "
    "stop when a battery does. The keepers are gone; a clock turns the lamp on and a sensor turns it off.")


def load_bindings(peer, level):
    """llama_cpp's ctypes declarations on the library that build_llama_cpp.sh made."""
    os.environ["LLAMA_CPP_LIB_PATH"] = str(peer / level / "bin")
    package = types.ModuleType("llama_cpp")  # without the package's own __init__, which needs far more
    package.__path__ = [str(peer / "source" / "llama_cpp")]
    sys.modules["llama_cpp"] = package
    return importlib.import_module("llama_cpp.llama_cpp")


class Model:
    """One GGUF file in llama.cpp with one sequence."""

    def __init__(self, bindings, path, context, kv_type):
        self.llama = bindings
        self._silence = bindings.llama_log_callback(lambda *_: None)
        bindings.llama_log_set(self._silence, None)
        bindings.llama_backend_init()
        self.model = bindings.llama_model_load_from_file(
            str(path).encode(), bindings.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        self.vocab = bindings.llama_model_get_vocab(self.model)
        self.vocab_size = bindings.llama_vocab_n_tokens(self.vocab)
        parameters = bindings.llama_context_default_params()
        parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = context
        parameters.n_threads = parameters.n_threads_batch = THREADS
        parameters.flash_attn_type = bindings.LLAMA_FLASH_ATTN_TYPE_DISABLED
        parameters.type_k = parameters.type_v = kv_type
        self.context = bindings.llama_init_from_model(self.model, parameters)
        if not self.context:
            raise RuntimeError(f"llama.cpp cannot make a context for {path}")
        self.position = 0

    def tokenize(self, text, add_special, parse_special):
        data = text.encode()
        ids = (self.llama.llama_token * (len(data) + 8))()
        count = self.llama.llama_tokenize(
            self.vocab, data, len(data), ids, len(ids), add_special, parse_special)
        if count < 0:
            raise RuntimeError(f"llama_tokenize: {-count} tokens for {text!r}")
        return list(ids[:count])

    def clear(self):
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), True)
        self.position = 0

    def forward(self, ids):
        """Appends ids to the sequence: their logits, float32 [len(ids), vocab]."""
        batch = self.llama.llama_batch_init(len(ids), 0, 1)
        try:
            batch.n_tokens = len(ids)
            for i, token in enumerate(ids):
                batch.token[i] = token
                batch.pos[i] = self.position + i
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
                batch.logits[i] = True
            result = self.llama.llama_decode(self.context, batch)
            if result != 0:
                raise RuntimeError(f"llama_decode: {result}")
        finally:
            self.llama.llama_batch_free(batch)
        self.position += len(ids)
        rows = [np.ctypeslib.as_array(self.llama.llama_get_logits_ith(self.context, i), (self.vocab_size,))
                for i in range(len(ids))]
        return np.stack(rows)

    def embed(self, ids):
        """One pooled, L2-normalised embedding of an encoder."""
        self.llama.llama_set_embeddings(self.context, True)
        batch = self.llama.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, True
            batch.seq_id[i][0] = 0
        result = self.llama.llama_encode(self.context, batch)
        self.llama.llama_batch_free(batch)
        if result != 0:
            raise RuntimeError(f"llama_encode: {result}")
        size = self.llama.llama_model_n_embd(self.model)
        pooled = np.ctypeslib.as_array(self.llama.llama_get_embeddings_seq(self.context, 0), (size,))
        return pooled / np.linalg.norm(pooled)

    def close(self):
        self.llama.llama_free(self.context)
        self.llama.llama_model_free(self.model)


def log_softmax(logits):
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True))


def top(logprobs, count):
    """[[id, logprob]…], likeliest first, ties to the lowest id."""
    best = np.lexsort((np.arange(len(logprobs)), -logprobs))[:count]
    return [[int(i), round(float(logprobs[i]), 6)] for i in best]


def record_tokens(model):
    return {
        "adds_bos": bool(model.llama.llama_vocab_get_add_bos(model.vocab)),
        "bos": model.llama.llama_vocab_bos(model.vocab),
        "sample_text": model.tokenize(SAMPLE_TEXT.read_text(), True, False),
        "strings": [{"text": text, "plain": model.tokenize(text, False, False),
                     "special": model.tokenize(text, False, True)} for text in STRINGS],
    }


def record_greedy(model, prompt):
    model.clear()
    prompt_ids = model.tokenize(prompt, True, False)
    logits = model.forward(prompt_ids)[-1]
    tokens, steps = [], []
    while True:
        best = top(log_softmax(logits), 5)
        tokens.append(best[0][0])
        steps.append(best)
        if len(tokens) == GREEDY_TOKENS or model.llama.llama_vocab_is_eog(model.vocab, tokens[-1]):
            return {"prompt": prompt, "prompt_ids": prompt_ids, "tokens": tokens, "top": steps}
        logits = model.forward(tokens[-1:])[0]


def record_score(model):
    model.clear()
    ids = model.tokenize(SCORED_TEXT, True, False)[:SCORED_TOKENS]
    if len(ids) < SCORED_TOKENS:
        raise RuntimeError(f"the scored text has only {len(ids)} tokens")
    logprobs = log_softmax(model.forward(ids))[:-1]
    following = np.array(ids[1:])
    return {
        "text": SCORED_TEXT,
        "ids": ids,
        "logprobs": [round(float(p), 6) for p in logprobs[np.arange(len(following)), following]],
        "likeliest": [int(i) for i in logprobs.argmax(axis=-1)],
    }


def record_perplexity(peer, level, model, text):
    size = text.stat().st_size
    arguments = ["-c", str(CONTEXT), "-b", str(CONTEXT), "-ub", str(CONTEXT), "--chunks", str(CHUNKS),
                 "-t", str(THREADS), "-fa", "off", "-ctk", "f16", "-ctv", "f16"]
    run = subprocess.run([peer / level / "bin" / "llama-perplexity", "-m", model, "-f", text, *arguments],
                         capture_output=True, text=True)
    output = run.stdout + run.stderr
    final = re.search(r"Final estimate: PPL = ([\d.]+) \+/- ([\d.]+)", output)
    if run.returncode != 0 or not final:
        raise RuntimeError(f"llama-perplexity on {text}: exit status {run.returncode}\n{output[-2000:]}")
    running = [float(v) for _, v in re.findall(r"\[(\d+)\]([\d.]+),", output)]
    return {
        "file": text.name, "bytes": size, "sha256": sha256(text), "context": CONTEXT,
        "chunks": len(running),
        "command": " ".join(["llama-perplexity", "-m", model.name, "-f", text.name, *arguments]),
        "running": running, "perplexity": float(final[1]), "standard_error": float(final[2]),
    }


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def describe_build(peer, level):
    version = subprocess.run([peer / level / "bin" / "llama-perplexity", "--version"],
                             capture_output=True, text=True, check=True)
    flags = dict(line.split(": ", 1) for line in (peer / level / "FLAGS").read_text().splitlines())
    first_line = (version.stdout + version.stderr).splitlines()[0]
    return {"level": level, "version": first_line.removeprefix("version: "), "package": flags["source"],
            "flags": flags["flags"], "compiler": flags["compiler"]}


def compact_json(value, indent=0):
    """JSON with one line for each list of scalars or pairs, so that diffs stay readable."""
    pad = " " * (indent + 1)
    flat = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, (dict, list)) or len(flat) <= 110 or (
            isinstance(value, list) and not any(isinstance(v, dict) for v in value)):
        return flat
    if isinstance(value, dict):
        items = [f"{json.dumps(k)}: {compact_json(v, indent + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(pad + i for i in items) + "\n" + " " * indent + "}"
    return "[\n" + ",\n".join(pad + compact_json(v, indent + 1) for v in value) + "\n" + " " * indent + "]"


def check_tiny(bindings, folder):
    failures = 0
    for path in sorted(folder.glob("*/model.gguf")):
        meaning = json.loads((path.parent / "reference.json").read_text())
        expected = np.fromfile(path.parent / meaning["file"], "<f4").reshape(meaning["shape"])
        model = Model(bindings, path, 64, bindings.GGML_TYPE_F32)
        if meaning["file"] == "embeddings.f32":
            found = np.stack([model.embed(ids) for ids in meaning["ids"]])
        else:
            found = model.forward(meaning["ids"])
        model.close()
        gap = float(np.abs(found - expected).max())
        # llama.cpp looks GELU up in a table of fp16 values, and uses its tanh form for encoders too.
        has_gelu = path.parent.name in {"gemma3", "bert"}
        bound = (1e-3 if has_gelu else 1e-5) * float(np.abs(expected).max())
        failures += gap > bound
        print(f"{path.parent.name}: largest difference {gap:.1e}, allowed {bound:.1e}")
    return 1 if failures else 0


def compare(path_a, path_b):
    """Prints how far two recordings of one model are apart: the noise between two builds of one engine."""
    a, b = (json.loads(path.read_text()) for path in (path_a, path_b))
    same_prompts, equal, reached, gaps = 0, 0, 0, []
    for one, other in zip(a["greedy"], b["greedy"]):
        pairs = list(zip(one["tokens"], other["tokens"]))
        split = next((i for i, (x, y) in enumerate(pairs) if x != y), None)
        same_prompts += split is None
        equal += len(pairs) if split is None else split
        reached += len(pairs)
        if split is not None:
            gaps.append(one["top"][split][0][1] - one["top"][split][1][1])
    scores = np.abs(np.array(a["score"]["logprobs"]) - np.array(b["score"]["logprobs"]))
    likeliest = np.mean(np.array(a["score"]["likeliest"]) == np.array(b["score"]["likeliest"]))
    print(f"greedy: {same_prompts} of {len(a['greedy'])} prompts equal, {equal} of {reached} tokens before "
          f"the first difference, largest gap there {max(gaps, default=0.0):.3f}")
    print(f"score: mean difference {scores.mean():.4f}, largest {scores.max():.3f}, "
          f"same likeliest token {likeliest:.1%}")
    for one, other in zip(a["perplexity"], b["perplexity"]):
        print(f"perplexity of {one['file']}: {one['perplexity']} and {other['perplexity']} "
              f"({other['perplexity'] / one['perplexity'] - 1:+.2%})")


def main():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=pathlib.Path, default=cache / "pare" / "llama.cpp",
                        help="the folder given to build_llama_cpp.sh")
    parser.add_argument("--level", default="native", help="native or avx2")
    parser.add_argument("--name", help="the model's store name")
    parser.add_argument("--model", type=pathlib.Path, help="GGUF file")
    parser.add_argument("--text", type=pathlib.Path, action="append", default=[],
                        help="another text to measure perplexity on")
    parser.add_argument("--out", type=pathlib.Path)
    parser.add_argument("--tiny", type=pathlib.Path, help="check the models of this folder instead")
    parser.add_argument("--compare", type=pathlib.Path, nargs=2, metavar="JSON",
                        help="print how far two recordings are apart instead")
    arguments = parser.parse_args()

    if arguments.compare:
        compare(*arguments.compare)
        return 0
    bindings = load_bindings(arguments.peer, arguments.level)
    if arguments.tiny:
        return check_tiny(bindings, arguments.tiny)
    if not (arguments.name and arguments.model and arguments.out):
        parser.error("--name, --model and --out are needed")

    model = Model(bindings, arguments.model, CONTEXT, bindings.GGML_TYPE_F16)
    record = {
        "model": arguments.name,
        "source": {
            "script": "tools/record_llama_reference.py",
            "file_bytes": arguments.model.stat().st_size,
            "file_sha256": sha256(arguments.model),
            "llama_cpp": describe_build(arguments.peer, arguments.level),
            "settings": {"threads": THREADS, "flash_attention": False, "kv": "f16", "context": CONTEXT},
        },
        "tokenize": record_tokens(model),
        "score": record_score(model),
        "greedy": [record_greedy(model, prompt) for prompt in PROMPTS],
    }
    model.close()
    record["perplexity"] = [record_perplexity(arguments.peer, arguments.level, arguments.model, text)
                            for text in [SAMPLE_TEXT, *arguments.text]]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(compact_json(record) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
