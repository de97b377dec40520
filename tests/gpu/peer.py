"""What the machine and a peer reach: copies, a large product, and the 12B decoder in transformers with torch.

usage: peer.py limits | decoder [--small]
Prints lines `name value unit`. Needs torch, and transformers for the decoder; `--small` is for trying it out.
"""

import sys
import time

import torch

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"


def wait():
    if CUDA:
        torch.cuda.synchronize()


def seconds(work, runs=10, warm=3):
    """The median of some runs."""
    for _ in range(warm):
        work()
    times = []
    for _ in range(runs):
        wait()
        begin = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2]


def limits(small):
    numbers, side = (1 << 20, 512) if small else (1 << 31, 8192)
    a = torch.empty(numbers, dtype=torch.uint8, device=DEVICE)
    b = torch.empty_like(a)
    print(f"copy {2 * numbers / seconds(lambda: b.copy_(a)) / 1e9:.0f} GB/s")
    del a, b
    x, w = (torch.randn(side, side, dtype=torch.bfloat16, device=DEVICE) for _ in range(2))
    print(f"product {2 * side**3 / seconds(lambda: x @ w) / 1e12:.0f} TFLOP/s")


def decoder(small):
    from transformers import MistralConfig, MistralForCausalLM

    sizes = dict(
        hidden_size=5120, intermediate_size=14336, num_hidden_layers=40, num_attention_heads=32, num_key_value_heads=8,
        head_dim=128, vocab_size=131072,
    )
    if small:
        sizes |= dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, vocab_size=512)
    config = MistralConfig(**sizes, max_position_embeddings=65536, sliding_window=None, rms_norm_eps=1e-5, attn_implementation="sdpa")
    with torch.device(DEVICE):
        torch.set_default_dtype(torch.bfloat16)
        model = MistralForCausalLM(config).eval()

    def generate(batch, prompt, tokens):
        ids = torch.randint(10, sizes["vocab_size"], (batch, prompt), device=DEVICE)
        options = dict(do_sample=False, min_new_tokens=tokens, max_new_tokens=tokens, pad_token_id=0, cache_implementation="static")
        model.generate(ids, attention_mask=torch.ones_like(ids), **options)

    context, long = (64, 128) if small else (1024, 4096)
    with torch.inference_mode():
        print(f"prefill-{long} {long / seconds(lambda: generate(1, long, 1), runs=3, warm=1):.0f} tokens/s")
        for batch in (1, 8, 32):
            # Static caches compile the step once; what 32 tokens more take is 32 steps.
            few = seconds(lambda: generate(batch, context, 2), runs=3, warm=2)
            many = seconds(lambda: generate(batch, context, 34), runs=3, warm=1)
            print(f"decode-{batch} {32 * batch / (many - few):.1f} tokens/s", flush=True)


if __name__ == "__main__":
    {"limits": limits, "decoder": decoder}[sys.argv[1]](small="--small" in sys.argv)
