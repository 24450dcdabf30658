#!/usr/bin/env python3
"""Times the layers of `bellows bench` in PyTorch on CUDA: router and SwiGLU experts through
torch's grouped matrix multiply, as transformers calls it. Prints one JSON line a layer.

    python3 xtask/peers/moe_layer.py [LAYER ...]
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

LAYERS = {
    "coe-paper": (32768, 1024, 704, 64, 8),
    "coe-half": (32768, 1024, 704, 64, 4),
    "olmoe": (16384, 2048, 1024, 64, 8),
    "mixtral-ish": (16384, 2048, 7168, 8, 2),
    "tiny": (8192, 512, 352, 32, 4),
}


def grouped(rows, weights, offsets):
    """rows [n, in] sorted by group, weights [groups, in, out]."""
    if rows.dtype == torch.bfloat16:
        return torch._grouped_mm(rows, weights, offs=offsets)
    parts, start = [], 0
    for group, end in enumerate(offsets.tolist()):
        parts.append(rows[start:end] @ weights[group])
        start = end
    return torch.cat(parts)


def layer(x, router, gate_up, down, top_k):
    logits = x @ router
    weights, chosen = torch.topk(F.softmax(logits.float(), -1), top_k)
    weights = (weights / weights.sum(-1, keepdim=True)).to(x.dtype)
    flat = chosen.flatten()
    order = torch.argsort(flat, stable=True)
    counts = torch.bincount(flat, minlength=gate_up.shape[0])
    offsets = torch.cumsum(counts, 0).to(torch.int32)
    rows = x[order // top_k]
    gate, up = grouped(rows, gate_up, offsets).chunk(2, -1)
    out = grouped(F.silu(gate) * up, down, offsets)
    out = out * weights.flatten()[order].unsqueeze(-1)
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.numel(), device=order.device)
    return out[inverse].view(x.shape[0], top_k, -1).sum(1)


def measure(name, dtype):
    tokens, hidden, inner, experts, top_k = LAYERS[name]
    torch.manual_seed(0)
    make = lambda *shape, std: (torch.randn(*shape, device="cuda") * std).to(dtype)
    x = make(tokens, hidden, std=1.0).requires_grad_()
    router = make(hidden, experts, std=0.02).requires_grad_()
    gate_up = make(experts, hidden, 2 * inner, std=0.02).requires_grad_()
    down = make(experts, inner, hidden, std=0.02).requires_grad_()
    upstream = make(tokens, hidden, std=0.02)
    leaves = [x, router, gate_up, down]

    def clear():
        for leaf in leaves:
            leaf.grad = None

    def forward():
        with torch.no_grad():
            layer(*leaves, top_k)

    def both():
        clear()
        layer(*leaves, top_k).backward(upstream)

    def median(work):
        start = time.time()
        while time.time() - start < 0.5:
            work()
            torch.cuda.synchronize()
        seconds = []
        for _ in range(20):
            torch.cuda.synchronize()
            start = time.time()
            work()
            torch.cuda.synchronize()
            seconds.append(time.time() - start)
        return sorted(seconds)[10]

    forward_seconds = median(forward)
    seconds = median(both)
    clear()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    both()
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before
    operations = 18.0 * tokens * top_k * hidden * inner
    print(
        json.dumps(
            {
                "name": name,
                "precision": str(dtype).removeprefix("torch."),
                "forward_ms": forward_seconds * 1e3,
                "forward_backward_ms": seconds * 1e3,
                "tflops": operations / seconds / 1e12,
                "extra_mib": extra / 2**20,
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    torch.backends.cuda.matmul.allow_tf32 = False
    for wanted in sys.argv[1:] or list(LAYERS):
        measure(wanted, torch.bfloat16)
        if wanted == "tiny":
            measure(wanted, torch.float32)
