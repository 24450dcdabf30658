#!/usr/bin/env python3
"""Times the heads of `bellows bench head` in PyTorch on CUDA: linear projection to full logits and
cross-entropy, as transformers computes a loss. Prints one JSON line a shape.

    python3 xtask/peers/head.py [head|head-32k|head:TOKENSxHIDDENxVOCABULARY ...]
"""

import json
import sys
import time

import torch
import torch.nn.functional as F

HEADS = {
    "head": (8192, 1024, 151936),
    "head-32k": (8192, 1024, 32000),
    "head-small": (512, 128, 4096),
}


def sizes(name):
    if name in HEADS:
        return HEADS[name]
    return tuple(int(size) for size in name.removeprefix("head:").split("x"))


def measure(name, dtype, upcast):
    tokens, hidden, vocabulary = sizes(name)
    torch.manual_seed(0)
    make = lambda *shape, std: (torch.randn(*shape, device="cuda") * std).to(dtype)
    x = make(tokens, hidden, std=1.0).requires_grad_()
    head = make(vocabulary, hidden, std=0.02).requires_grad_()
    labels = torch.randint(0, vocabulary, (tokens,), device="cuda")

    def loss():
        logits = F.linear(x, head)
        return F.cross_entropy(logits.float() if upcast else logits, labels)

    def clear():
        x.grad = head.grad = None

    def forward():
        with torch.no_grad():
            loss()

    def both():
        clear()
        loss().backward()

    def median(work):
        start = time.time()
        while time.time() - start < 0.5:
            work()
            torch.cuda.synchronize()
        seconds = []
        for _ in range(10):
            torch.cuda.synchronize()
            start = time.time()
            work()
            torch.cuda.synchronize()
            seconds.append(time.time() - start)
        return sorted(seconds)[5]

    forward_seconds = median(forward)
    seconds = median(both)
    clear()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    both()
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before
    operations = 6.0 * tokens * hidden * vocabulary
    print(
        json.dumps(
            {
                "name": name,
                "precision": str(dtype).removeprefix("torch."),
                "softmax": "float32" if upcast else str(dtype).removeprefix("torch."),
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
    for wanted in sys.argv[1:] or ["head", "head-32k"]:
        # The softmax in the type of the logits, and in f32 as transformers does it.
        for upcast in (False, True):
            measure(wanted, torch.bfloat16, upcast)
