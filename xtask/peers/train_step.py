"""Times a training step of transformers' Qwen3-MoE on the CPU, for comparison with `examples/bench_trainer.rs`.

    python -m venv venv && venv/bin/pip install torch transformers
    venv/bin/python xtask/peers/train_step.py [--threads 2]

The model is the one of examples/gsm8k.toml: the same sizes, batch and sequence length, f32, AdamW.
"""

import argparse
import statistics
import time

import torch
from transformers import Qwen3MoeConfig, Qwen3MoeForCausalLM

parser = argparse.ArgumentParser()
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--steps", type=int, default=12)
arguments = parser.parse_args()
torch.set_num_threads(arguments.threads)
torch.manual_seed(0)

BATCH, TIME, VOCABULARY = 8, 256, 4096
model = Qwen3MoeForCausalLM(
    Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=192,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        num_experts=8,
        num_experts_per_tok=2,
        moe_intermediate_size=128,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        tie_word_embeddings=True,
        max_position_embeddings=1024,
        output_router_logits=True,
    )
)
model.train()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.1)
ids = torch.randint(0, VOCABULARY, (BATCH, TIME))
times = []
for _ in range(arguments.steps):
    start = time.perf_counter()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    times.append(time.perf_counter() - start)
step = statistics.median(times[2:])
print(f"torch {torch.__version__}: {step * 1e3:.0f} ms a step, {BATCH * TIME / step:.0f} tokens/s, {arguments.threads} threads")
