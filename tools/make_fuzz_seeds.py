#!/usr/bin/env python3
"""Makes the seed files of fuzz/corpus/{gguf,safetensors,json_config,channel_mask,ranking}.

    venv/bin/pip install gguf==0.19.0 safetensors numpy
    venv/bin/python tools/make_fuzz_seeds.py

Seeds are small: a few tensors of each kind, every metadata type, and the configurations of the tiny models.
"""
import hashlib
import json
import pathlib
import shutil
import struct
import zipfile

import gguf
import numpy as np
import safetensors.numpy

ROOT = pathlib.Path(__file__).resolve().parent.parent
CORPUS = ROOT / "fuzz" / "corpus"


def gguf_seeds(folder: pathlib.Path) -> None:
    types = gguf.GGMLQuantizationType
    readable = [t for t in types if t.name in (
        "F32 F16 BF16 F64 I8 I16 I32 I64 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS".split())]
    writer = gguf.GGUFWriter(folder / "types.gguf", "llama")
    for t in readable:
        items, size = gguf.GGML_QUANT_SIZES[t]
        plain = {"F32": np.float32, "F16": np.float16, "F64": np.float64, "I8": np.int8, "I16": np.int16,
                 "I32": np.int32, "I64": np.int64}.get(t.name)
        if plain is not None:
            writer.add_tensor(t.name, np.arange(6).reshape(2, 3).astype(plain))
        else:
            writer.add_tensor(t.name, np.arange(2 * size, dtype=np.uint8).reshape(2, size), raw_dtype=t)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    writer = gguf.GGUFWriter(folder / "values.gguf", "qwen2")
    writer.add_custom_alignment(64)
    writer.add_uint8("u8", 1), writer.add_int8("i8", -1), writer.add_uint16("u16", 2), writer.add_int16("i16", -2)
    writer.add_uint32("u32", 3), writer.add_int32("i32", -3), writer.add_uint64("u64", 4), writer.add_int64("i64", -4)
    writer.add_float32("f32", 0.5), writer.add_float64("f64", 0.1), writer.add_bool("yes", True)
    writer.add_string("text", "é\n"), writer.add_array("strings", ["a", "b"]), writer.add_array("ints", [1, 2, 3])
    writer.add_array("floats", [0.5, 1.5]), writer.add_array("bools", [True, False])
    writer.add_array("nested", [[1, 2], [3]])
    writer.add_tensor("t", np.ones((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (folder / "empty.gguf").write_bytes(struct.pack("<4sIQQ", b"GGUF", 2, 0, 0))


def safetensors_seeds(folder: pathlib.Path) -> None:
    tensors = {np.dtype(t).name: np.arange(6).reshape(2, 3).astype(t)
               for t in (np.float32, np.float16, np.float64, np.int8, np.int16, np.int32, np.int64, np.uint8, np.bool_)}
    tensors["scalar"] = np.array(1.5, np.float32)
    tensors["empty"] = np.zeros((0, 4), np.float32)
    safetensors.numpy.save_file(tensors, folder / "types.safetensors", metadata={"format": "pt"})
    header = json.dumps({"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (folder / "bf16.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0\x80\x3f")
    (folder / "index.json").write_text(json.dumps(
        {"metadata": {"total_size": 8}, "weight_map": {"a": "model-00001-of-00002.safetensors",
                                                       "b": "model-00002-of-00002.safetensors"}}))


def json_seeds(folder: pathlib.Path) -> None:
    for config in sorted((ROOT / "tests" / "data" / "tiny").glob("*/config.json")):
        shutil.copyfile(config, folder / f"{config.parent.name}.json")
    (folder / "kinds.json").write_text(json.dumps(
        {"a": [1, 2.5], "b": [True], "c": ["x", 1], "d": {"e": {"f": None}}, "g": [], "h": 2**64 - 1, "i": -(2**63),
         "j": 1e300, "k": [[1], [2, [3]]], "l": "\u00e9\ud83d\ude00\n"}))


def mask_seeds(folder: pathlib.Path) -> None:
    """A mask in both formats, and the pickle of a published one by itself."""
    with zipfile.ZipFile(ROOT / "tests" / "data" / "leank" / "qwen2.5-7b-insturct.pth") as published:
        pickle = published.read("a/data.pkl")
    (folder / "tensor.pkl").write_bytes(pickle)
    # 28 x 4 x 128 becomes 2 x 1 x 32.
    small = pickle.replace(b"M\0\x38", b"M\x40\0").replace(b"K\x1cK\x04K\x80\x87", b"K\x02K\x01K\x20\x87")
    small = small.replace(b"M\0\x02K\x80K\x01\x87", b"K\x20K\x20K\x01\x87")
    values = np.zeros((2, 1, 32), np.float32)
    values[0, 0, 8:24] = 1
    with zipfile.ZipFile(folder / "small.pth", "w") as archive:
        for name, data in (("a/data.pkl", small), ("a/byteorder", b"little"), ("a/data/0", values.tobytes())):
            archive.writestr(zipfile.ZipInfo(name), data)
    for order in ("half-split", "interleaved"):
        body = {"format": "pare channel mask", "version": 1, "model_hash": "0123456789abcdef", "layers": 2,
                "kv_heads": 1, "head_dim": 32, "rope": "half-split", "channel_order": order, "provenance": "seed",
                "kept": [["00ffff00"], ["00000000"]], "alpha": [["3800" * 16], [""]]}
        text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        body["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        (folder / f"{order}.json").write_text(json.dumps(body))


def ranking_seeds(folder: pathlib.Path) -> None:
    """Small rankings, with and without device classes, and a published one."""
    def write(name: str, layers: list, recommended: int, min_tokens: dict, provenance: dict) -> None:
        body = {"format": "pare layer ranking", "version": 1, "model_hash": "0123456789abcdef",
                "n_layers": len(layers), "ranking": layers, "recommended": recommended, "min_tokens": min_tokens,
                "provenance": provenance}
        text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
        body["checksum"] = hashlib.sha256(text.encode()).hexdigest()
        (folder / name).write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")

    write("one_layer.json", [0], 0, {}, {})
    write("classes.json", [2, 0, 3, 1], 3, {"cpu-avx2": 2048, "cuda-sm90": 0}, {"note": "\u00e9", "seed": 1})
    shutil.copyfile(ROOT / "configs" / "triangle-smollm2-135m-instruct.json", folder / "published.json")


def main() -> None:
    for name, make in (("gguf", gguf_seeds), ("safetensors", safetensors_seeds), ("json_config", json_seeds),
                       ("channel_mask", mask_seeds), ("ranking", ranking_seeds)):
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        make(folder)


if __name__ == "__main__":
    main()
