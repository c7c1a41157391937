#!/usr/bin/env python3
"""Makes the seed files of fuzz/corpus/{gguf,safetensors,json_config}.

    venv/bin/pip install gguf==0.19.0 safetensors numpy
    venv/bin/python tools/make_fuzz_seeds.py

Seeds are small: a few tensors of each kind, every metadata type, and the configurations of the tiny models.
"""
import json
import pathlib
import shutil
import struct

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


def main() -> None:
    for name, make in (("gguf", gguf_seeds), ("safetensors", safetensors_seeds), ("json_config", json_seeds)):
        folder = CORPUS / name
        folder.mkdir(parents=True, exist_ok=True)
        make(folder)


if __name__ == "__main__":
    main()
