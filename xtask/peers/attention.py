#!/usr/bin/env python3
"""Times the shapes of `bellows bench attention` in PyTorch on CUDA: scaled_dot_product_attention,
causal, in bf16. Prints the same table; with --json one JSON line a shape.

    python3 xtask/peers/attention.py [--json] [SHAPE ...]
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

# tokens, heads, groups, width, value width
SHAPES = {
    "attention-2k": (2048, 16, 8, 128, 128),
    "attention-8k": (8192, 16, 8, 128, 128),
    "attention-32k": (32768, 16, 8, 128, 128),
    "attention-64": (8192, 16, 16, 64, 64),
    "attention-256": (8192, 8, 8, 256, 256),
    "attention-latent": (8192, 16, 16, 192, 128),
}


def median(work, repeats=20):
    start = time.time()
    while time.time() - start < 0.5:
        work()
        torch.cuda.synchronize()
    seconds = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.time()
        work()
        torch.cuda.synchronize()
        seconds.append(time.time() - start)
    return sorted(seconds)[repeats // 2]


def measure(name, dtype):
    tokens, heads, groups, width, value_width = SHAPES[name]
    torch.manual_seed(0)
    make = lambda count, size: torch.randn(1, count, tokens, size, device="cuda").to(dtype)
    query = make(heads, width).requires_grad_()
    key = make(groups, width).requires_grad_()
    value = make(groups, value_width).requires_grad_()
    upstream = make(heads, value_width)
    leaves = [query, key, value]

    def attend():
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=True, enable_gqa=heads != groups
        )

    def forward():
        with torch.no_grad():
            attend()

    def both():
        for leaf in leaves:
            leaf.grad = None
        attend().backward(upstream)

    forward_seconds, seconds = median(forward), median(both)
    for leaf in leaves:
        leaf.grad = None
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    both()
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before
    pairs = heads * tokens * (tokens + 1) / 2
    operations = 2.0 * pairs * (4 * width + 3 * value_width)
    return {
        "name": name,
        "tokens": tokens,
        "heads": heads,
        "groups": groups,
        "width": f"{width}/{value_width}" if width != value_width else str(width),
        "precision": str(dtype).removeprefix("torch."),
        "forward_ms": forward_seconds * 1e3,
        "forward_backward_ms": seconds * 1e3,
        "tflops": operations / seconds / 1e12,
        "extra_mib": extra / 2**20,
    }


def main(arguments):
    as_json = "--json" in arguments
    wanted = [name for name in arguments if name != "--json"] or list(SHAPES)
    if not as_json:
        print(f"device: {torch.cuda.get_device_name()}, torch {torch.__version__}")
        print(
            f"{'shape':18}{'T':>7}{'heads':>7}{'groups':>8}{'width':>9}  {'type':10}"
            f"{'forward ms':>12}{'fwd+bwd ms':>12}{'TFLOP/s':>9}{'extra memory':>14}"
        )
    for name in wanted:
        try:
            line = measure(name, torch.bfloat16)
        except RuntimeError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        if as_json:
            print(json.dumps(line), flush=True)
            continue
        print(
            f"{line['name']:18}{line['tokens']:>7}{line['heads']:>7}{line['groups']:>8}"
            f"{line['width']:>9}  {line['precision']:10}{line['forward_ms']:>12.3f}"
            f"{line['forward_backward_ms']:>12.3f}{line['tflops']:>9.1f}"
            f"{line['extra_mib']:>10.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
