#!/usr/bin/env python3
"""Makes the tiny random-weight models of tests/data/tiny and their reference outputs.

Each model is a few ten thousand seeded random weights of one architecture, written twice from the same
values: as a Hugging Face folder (config.json, model.safetensors) and as model.gguf, both float32. The
reference output is computed by `transformers`, which shares no code with pare:

  reference.json   the token ids fed, the output's shape and meaning
  logits.f32       decoders: float32 little-endian [tokens, vocab], causal, one sequence from position 0
  embeddings.f32   encoders: float32 little-endian [sequences, dim], mean pooled and L2-normalised

Weights are rounded to bfloat16 values, so a loader that keeps 16 bits has the same model. Normal use:

  python3 -m venv env && env/bin/pip install torch transformers safetensors gguf==0.19.0
  env/bin/python tools/make_tiny_models.py tests/data/tiny

With --check nothing is written: the models are made in a scratch folder and compared with the folder
given, weights byte for byte and outputs to 1e-5. MANIFEST.json has versions and SHA-256 of every file.
"""

import argparse
import hashlib
import json
import math
import pathlib
import sys
import tempfile

import gguf
import numpy as np
import safetensors.numpy
import torch
import transformers

VOCAB = 264
TOKENS = 48
MERGES = [("t", "h"), ("th", "e"), ("Ġ", "the"), ("i", "n")]
SPECIALS = ["<|bos|>", "<|eos|>", "<|pad|>", "<|unk|>"]
BOS, EOS, PAD, UNK = 260, 261, 262, 263


def llama(**changes):
    """A `llama` config.json; changes replace or add entries."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "vocab_size": VOCAB,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "torch_dtype": "float32",
    }
    config.update(changes)
    return config


def small_llama(rope_scaling):
    """One layer, long heads: enough to see every band of a RoPE scaling rule."""
    return llama(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                 num_key_value_heads=1, head_dim=32, max_position_embeddings=128,
                 tie_word_embeddings=True, rope_scaling=rope_scaling)


MODELS = {
    "llama": llama(),
    "llama_rope_linear": small_llama({"rope_type": "linear", "factor": 4.0}),
    "llama_rope_llama3": small_llama({
        "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32}),
    "llama_rope_yarn": small_llama({
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32,
        "beta_fast": 32.0, "beta_slow": 1.0}),
    "qwen2": llama(
        architectures=["Qwen2ForCausalLM"], model_type="qwen2", hidden_size=48, intermediate_size=80,
        num_attention_heads=3, num_key_value_heads=1, rope_theta=1000000.0, rms_norm_eps=1e-6,
        use_sliding_window=False, tie_word_embeddings=True, head_dim=None),
    # The newer spelling of the RoPE entries: one table instead of rope_theta and rope_scaling.
    "qwen3": llama(
        architectures=["Qwen3ForCausalLM"], model_type="qwen3", hidden_size=48, intermediate_size=64,
        rope_theta=None, rope_scaling=None, rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        rms_norm_eps=1e-6, use_sliding_window=False, tie_word_embeddings=True),
    "gemma3": llama(
        architectures=["Gemma3ForCausalLM"], model_type="gemma3_text", hidden_act=None,
        hidden_activation="gelu_pytorch_tanh", hidden_size=32, intermediate_size=48, num_hidden_layers=6,
        num_attention_heads=2, num_key_value_heads=1, head_dim=32, query_pre_attn_scalar=32,
        rope_theta=1000000.0, rope_local_base_freq=10000.0, sliding_window=16, sliding_window_pattern=6,
        layer_types=["sliding_attention"] * 5 + ["full_attention"], rms_norm_eps=1e-6, mlp_bias=None,
        attn_logit_softcapping=None, final_logit_softcapping=None, tie_word_embeddings=True),
    "bert": {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "position_embedding_type": "absolute",
        "vocab_size": VOCAB,
        "pad_token_id": 0,
        "torch_dtype": "float32",
    },
}


def bfloat16_values(array):
    """float32 values rounded to the nearest that bfloat16 holds."""
    bits = array.astype(np.float32).view(np.uint32).astype(np.uint64)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.astype(np.uint32).view(np.float32)


def make_weights(config, seed):
    """Name -> float32 array under Hugging Face names, drawn in name order from one seeded generator."""
    auto = transformers.AutoModel if config["model_type"] == "bert" else transformers.AutoModelForCausalLM
    with tempfile.TemporaryDirectory() as folder:
        (pathlib.Path(folder) / "config.json").write_text(json.dumps(config))
        loaded = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        shapes = {n: tuple(p.shape) for n, p in auto.from_config(loaded).named_parameters()}
    rng = np.random.default_rng(seed)
    weights = {}
    for name in sorted(shapes):
        shape = shapes[name]
        noise = rng.standard_normal(shape)
        if name.endswith("bias"):
            array = 0.2 * noise
        elif len(shape) == 1:  # a norm; Gemma stores the distance from one
            array = 0.2 * noise + (0.0 if config["model_type"] == "gemma3_text" else 1.0)
            array = np.round(array * 256) / 256
        elif "embed" in name:
            array = noise / (math.sqrt(shape[1]) if config["model_type"] == "gemma3_text" else 2.0)
        else:
            array = 1.5 * noise / math.sqrt(shape[1])
        weights[name] = bfloat16_values(array)
    return weights


def byte_level_alphabet():
    """The printable character that stands for each byte in a byte-level BPE vocabulary, by byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [b for b in range(256) if b not in shown]
    table = {b: chr(b) for b in shown} | {b: chr(256 + i) for i, b in enumerate(hidden)}
    return [table[b] for b in range(256)]


def add_vocabulary(writer, is_bert):
    if is_bert:
        tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        tokens += ["▁" + chr(c) for c in range(33, 127)] + [chr(c) for c in range(33, 127)]
        tokens += [f"[unused{i}]" for i in range(VOCAB - len(tokens))]
        types = [gguf.TokenType.CONTROL if t.startswith("[") and len(t) > 2 else gguf.TokenType.NORMAL
                 for t in tokens]
        writer.add_tokenizer_model("bert")
        writer.add_token_list(tokens)
        writer.add_token_types(types)
        writer.add_token_type_count(2)
        writer.add_unk_token_id(1)
        writer.add_bos_token_id(2)
        writer.add_sep_token_id(3)
        writer.add_pad_token_id(0)
        writer.add_mask_token_id(4)
        return
    tokens = byte_level_alphabet() + [a + b for a, b in MERGES] + SPECIALS
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * 260 + [gguf.TokenType.CONTROL] * 4)
    writer.add_token_merges([f"{a} {b}" for a, b in MERGES])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_pad_token_id(PAD)
    writer.add_unk_token_id(UNK)
    writer.add_add_bos_token(False)


def interleaved_rope_rows(weight, heads):
    """Half-split rotary rows -> the adjacent pairs that GGUF's `llama` architecture keeps."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def llama3_frequency_divisors(config):
    """What each rotary frequency is divided by; GGUF carries it as the tensor rope_freqs.weight."""
    rule = config["rope_scaling"]
    half = np.arange(config["head_dim"] // 2)
    wavelength = 2 * math.pi * config["rope_theta"] ** (2 * half / config["head_dim"])
    context = rule["original_max_position_embeddings"]
    low, high, factor = rule["low_freq_factor"], rule["high_freq_factor"], rule["factor"]
    smooth = np.clip((context / wavelength - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1.0 - smooth) / factor + smooth)).astype(np.float32)


def write_gguf(path, name, config, weights):
    kind = config["model_type"]
    arch = {"gemma3_text": "gemma3"}.get(kind, kind)
    layers = config["num_hidden_layers"]
    writer = gguf.GGUFWriter(path, arch)
    writer.add_name(f"tiny {name}")
    writer.add_block_count(layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if kind == "bert":
        writer.add_layer_norm_eps(config["layer_norm_eps"])
        writer.add_causal_attention(False)
        writer.add_pooling_type(gguf.PoolingType.MEAN)
    else:
        rope = config.get("rope_parameters") or config
        writer.add_head_count_kv(config["num_key_value_heads"])
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(rope["rope_theta"])
        writer.add_vocab_size(VOCAB)
        if config["head_dim"]:
            writer.add_key_length(config["head_dim"])
            writer.add_value_length(config["head_dim"])
        if kind == "llama":
            writer.add_rope_dimension_count(config["head_dim"])
        if kind == "gemma3_text":
            writer.add_sliding_window(config["sliding_window"])
    scaling = config.get("rope_scaling") or {}
    if scaling.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    elif scaling.get("rope_type") == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(scaling["beta_fast"])
        writer.add_rope_scaling_yarn_beta_slow(scaling["beta_slow"])
    elif scaling.get("rope_type") == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_frequency_divisors(config))
    add_vocabulary(writer, kind == "bert")

    names = gguf.get_tensor_name_map(
        {a: e for e, a in gguf.MODEL_ARCH_NAMES.items()}[arch], layers)
    for hf_name in sorted(weights):
        if hf_name.startswith("pooler."):  # the GGUF architecture has no place for it
            continue
        array = weights[hf_name]
        if kind == "llama" and hf_name.endswith("q_proj.weight"):
            array = interleaved_rope_rows(array, config["num_attention_heads"])
        if kind == "llama" and hf_name.endswith("k_proj.weight"):
            array = interleaved_rope_rows(array, config["num_key_value_heads"])
        if kind == "gemma3_text" and hf_name.endswith("norm.weight"):
            array = array + np.float32(1.0)
        mapped = names.get_name(hf_name, try_suffixes=(".weight", ".bias"))
        if mapped is None:
            raise ValueError(f"{name}: no GGUF name for {hf_name}")
        writer.add_tensor(mapped, np.ascontiguousarray(array, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def reference(folder, config):
    """Runs `transformers` on the folder just written: (reference.json content, outputs float32)."""
    rng = np.random.default_rng(7)
    options = {"dtype": torch.float32, "attn_implementation": "eager"}
    if config["model_type"] == "bert":
        model = transformers.AutoModel.from_pretrained(folder, **options).eval()
        sequences = [[2, *map(int, rng.integers(5, VOCAB, n)), 3] for n in (1, 5, 17, 46)]
        pooled = []
        with torch.no_grad():
            for ids in sequences:
                mean = model(torch.tensor([ids])).last_hidden_state[0].mean(dim=0)
                pooled.append((mean / mean.norm()).numpy())
        outputs = np.stack(pooled)
        meaning = {"file": "embeddings.f32", "ids": sequences, "pooling": "mean", "normalized": True}
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, **options).eval()
        ids = [int(i) for i in rng.integers(0, 260, TOKENS)]
        with torch.no_grad():
            outputs = model(torch.tensor([ids]), use_cache=False).logits[0].numpy()
        meaning = {"file": "logits.f32", "ids": ids}
    return {**meaning, "shape": list(outputs.shape), "dtype": "float32 little-endian"}, outputs


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1) + "\n")


def make(name, root):
    config = {k: v for k, v in MODELS[name].items() if v is not None or k == "rope_scaling"}
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    weights = make_weights(config, seed)
    safetensors.numpy.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    if config["model_type"] == "bert":
        write_json(folder / "modules.json", [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"}])
        (folder / "1_Pooling").mkdir(exist_ok=True)
        write_json(folder / "1_Pooling" / "config.json", {
            "word_embedding_dimension": config["hidden_size"], "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False})
    write_gguf(folder / "model.gguf", name, MODELS[name], weights)
    meaning, outputs = reference(folder, config)
    write_json(folder / "reference.json", {**meaning, "seed": seed})
    outputs.astype("<f4").tofile(folder / meaning["file"])


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def files_of(root):
    return sorted(p.relative_to(root) for p in root.rglob("*") if p.is_file() and p.name != "MANIFEST.json")


def check(made, kept):
    """The names of files that differ: weights and configs in any byte, outputs by more than 1e-5."""
    different = sorted({str(p) for p in files_of(made)} ^ {str(p) for p in files_of(kept)})
    for path in sorted(set(files_of(made)) & set(files_of(kept))):
        a, b = (made / path).read_bytes(), (kept / path).read_bytes()
        if path.suffix == ".f32":
            same = len(a) == len(b) and np.allclose(
                np.frombuffer(a, "<f4"), np.frombuffer(b, "<f4"), rtol=1e-5, atol=1e-5)
        else:
            same = a == b
        if not same:
            different.append(str(path))
    return different


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--check", action="store_true", help="compare with FOLDER, write nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()

    if arguments.check:
        with tempfile.TemporaryDirectory() as scratch:
            for name in MODELS:
                make(name, pathlib.Path(scratch))
            different = check(pathlib.Path(scratch), arguments.folder)
        for path in different:
            print(f"differs: {path}", file=sys.stderr)
        return 1 if different else 0

    for name in MODELS:
        make(name, arguments.folder)
    write_json(arguments.folder / "MANIFEST.json", {
        "script": "tools/make_tiny_models.py",
        "script_sha256": sha256(pathlib.Path(__file__)),
        "versions": {"python": sys.version.split()[0], "numpy": np.__version__, "torch": torch.__version__,
                     "transformers": transformers.__version__, "safetensors": safetensors.__version__,
                     "gguf": "0.19.0"},
        "files": {str(p): sha256(arguments.folder / p) for p in files_of(arguments.folder)},
    })
    return 0


if __name__ == "__main__":
    sys.exit(main())
