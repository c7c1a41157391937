#!/usr/bin/env python3
"""Records what the `gguf` package makes of random blocks, for tests/unit/quant.

    python3 -m venv venv && venv/bin/pip install gguf==0.19.0 numpy
    venv/bin/python tools/record_dequant_golden.py tests/data/quant

Files, little-endian, one per format and direction:
    decode/NAME.bin   block bytes, then the fp32 values that the package decodes
    encode/NAME.bin   fp32 values, then the block bytes that the package encodes
MANIFEST.json gives element counts, SHA-256 and the package version. The seed is fixed: a second run writes
the same bytes.
"""
import hashlib
import importlib.metadata
import json
import pathlib
import sys

import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as Type

DECODED = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
           "IQ4_NL", "IQ4_XS"]
ENCODED = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
# Byte offsets of the fp16 fields of a block, which must be finite.
HALVES = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
          "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0]}
ELEMENTS = 2048


def random_blocks(name: str, rng: np.random.Generator) -> np.ndarray:
    items, size = GGML_QUANT_SIZES[Type[name]]
    blocks = rng.integers(0, 256, size=(ELEMENTS // items, size), dtype=np.uint8)
    if name in ("F16", "BF16"):
        bits = rng.integers(0, 1 << 16, size=ELEMENTS, dtype=np.uint16)
        exponent = 0x7C00 if name == "F16" else 0x7F80
        bits[(bits & exponent) == exponent] = exponent  # infinities stay, NaN payloads go
        return bits.view(np.uint8).reshape(-1, 2)
    for at in HALVES[name]:
        # Signs, subnormals and the largest finite value included.
        half = rng.integers(0, 1 << 16, size=len(blocks), dtype=np.uint16)
        half[(half & 0x7C00) == 0x7C00] = 0x7BFF
        blocks[:, at:at + 2] = half.view(np.uint8).reshape(-1, 2)
    return blocks


def random_values(rng: np.random.Generator) -> np.ndarray:
    """Blocks of 32 at scales from 1e-6 to 1e3, some constant, some zero, some with ties."""
    values = rng.standard_normal((ELEMENTS // 32, 32)) * 10.0 ** rng.uniform(-6, 3, size=(ELEMENTS // 32, 1))
    values[0] = 0.0
    values[1] = 1.5
    values[2] = np.arange(32) - 16
    values[3] = (np.arange(32) - 16) / 2
    values[4] = -0.25
    values[5, 1:] = 0.0
    return values.astype(np.float32)


def main() -> None:
    out = pathlib.Path(sys.argv[1])
    manifest = {"gguf": importlib.metadata.version("gguf"), "files": {}}

    def write(name: str, data: bytes) -> None:
        path = out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        manifest["files"][name] = {"elements": ELEMENTS, "sha256": hashlib.sha256(data).hexdigest()}

    for name in DECODED:
        blocks = random_blocks(name, np.random.default_rng(abs(Type[name].value) + 1))
        decoded = quants.dequantize(blocks.reshape(1, -1), Type[name]).astype(np.float32)
        assert decoded.size == ELEMENTS
        write(f"decode/{name}.bin", blocks.tobytes() + decoded.tobytes())
    for name in ENCODED:
        values = random_values(np.random.default_rng(1000 + Type[name].value))
        encoded = quants.quantize(values.reshape(1, -1), Type[name])
        write(f"encode/{name}.bin", values.tobytes() + encoded.tobytes())
    (out / "MANIFEST.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
