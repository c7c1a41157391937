#!/usr/bin/env python3
"""Writes pack_golden.inc: random source blocks of every packed block format and the hash of what the independent
`gguf` package de-quantizes them to.  pip install gguf==0.19.0; python make_pack_golden.py > pack_golden.inc"""
import gguf
import numpy as np

SCALES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0]}


def fnv1a(data: bytes) -> int:
    h = 0xCBF29CE484222325
    for byte in data:
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return h


rng = np.random.default_rng(20)
print("// Made by make_pack_golden.py with gguf 0.19.0: {format, source bytes of one row of 512, FNV-1a of the fp32 row}.")
for name, fields in SCALES.items():
    kind = gguf.GGMLQuantizationType[name]
    items, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (512 // items, size), dtype=np.uint8)
    for at in fields:
        scale = (rng.standard_normal(len(blocks)) * 0.1).astype(np.float16)
        blocks[:, at:at + 2] = scale.view(np.uint8).reshape(-1, 2)
    values = gguf.quants.dequantize(blocks.reshape(1, -1), kind).astype(np.float32)
    text = blocks.tobytes().hex()
    print(f"{{DType::{name},")
    for i in range(0, len(text), 100):
        print(f' "{text[i:i + 100]}"')
    print(f" , 0x{fnv1a(values.tobytes()):016x}}},")
