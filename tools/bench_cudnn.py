#!/usr/bin/env python3
"""Times of cuDNN's attention for the prompts of `pare bench kernels`, as JSON for its --peer-json.

    python3 tools/bench_cudnn.py > cudnn.json
    pare bench kernels --device cuda --only prefill --peer-json cudnn.json

Needs PyTorch with CUDA. Causal, bf16, 32 query and 8 KV heads; medians of CUDA events, caches flushed between calls.
Keys and values are repeated for the query heads where this PyTorch cannot pass grouped heads to cuDNN; that copy is not
timed.
"""
import json
import statistics
import sys

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

HEADS, KV_HEADS, REPEATS = 32, 8, 21
attention = torch.nn.functional.scaled_dot_product_attention


def seconds(call):
    flush = torch.zeros(256 << 20, dtype=torch.int8, device="cuda")
    for _ in range(3):
        call()
    times = []
    for _ in range(REPEATS):
        flush.sum(dtype=torch.int64)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3)
    return statistics.median(times)


def measure(rows, dim):
    q = torch.randn(1, HEADS, rows, dim, dtype=torch.bfloat16, device="cuda")
    k, v = (torch.randn(1, KV_HEADS, rows, dim, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    with torch.inference_mode(), sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        try:
            attention(q, k, v, is_causal=True, enable_gqa=True)
            torch.cuda.synchronize()
            return seconds(lambda: attention(q, k, v, is_causal=True, enable_gqa=True))
        except (RuntimeError, TypeError):
            k, v = (x.repeat_interleave(HEADS // KV_HEADS, dim=1) for x in (k, v))
            return seconds(lambda: attention(q, k, v, is_causal=True))


def main():
    lines = []
    for dim in (128, 64):
        for rows in (8192, 32768, 65536, 131072):
            name = f"dense, {HEADS}/{KV_HEADS} heads of {dim}, {rows // 1024}K tokens"
            lines.append({"name": name, "seconds": measure(rows, dim)})
            print(f"{name}: {lines[-1]['seconds'] * 1e3:.3f} ms", file=sys.stderr)
    print(json.dumps({"card": torch.cuda.get_device_name(), "torch": torch.__version__,
                      "cudnn": torch.backends.cudnn.version(), "lines": lines}))


if __name__ == "__main__":
    main()
