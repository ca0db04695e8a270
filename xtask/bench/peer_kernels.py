"""GFLOP/s of PyTorch's products (oneDNN, MKL) and attention on the list of crates/kernels/examples/bench_kernels.rs. Prints
one line of JSON; `cargo xtask bench kernels` reads it.

    peer_kernels.py [--threads 2]

Results have the type of the inputs, as PyTorch makes them. Attention is `scaled_dot_product_attention` as transformers calls
it, with the heads of keys and values repeated for their group of queries outside the clock.
"""

import argparse
import json
import statistics
import time

import torch
import torch.nn.functional as F

PRODUCTS = [(2048, 576, 576), (2048, 1536, 576), (2048, 576, 1536), (512, 1536, 576), (2048, 49152, 576),
            (2048, 4096, 4096)]
ATTENTION = [(4, 512, 9, 3, 64), (1, 2048, 9, 3, 64), (1, 8192, 9, 3, 64), (4, 512, 8, 2, 128), (4, 512, 4, 1, 256)]
TYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
TIME_S = 0.4


def median_seconds(run):
    run()
    start, times = time.perf_counter(), []
    while len(times) < 5 or time.perf_counter() - start < TIME_S:
        one = time.perf_counter()
        run()
        times.append(time.perf_counter() - one)
    return statistics.median(times)


def products(cases):
    for m, n, k in PRODUCTS:
        for name, dtype in TYPES.items():
            x, w, y = (torch.rand(shape, dtype=torch.float32).mul_(2).sub_(1).to(dtype)
                       for shape in [(m, k), (n, k), (m, n)])
            work = {"nt": lambda: F.linear(x, w), "nn": lambda: y @ w, "tn": lambda: y.T @ x}
            for layout, run in work.items():
                cases[f"{layout} {name} {m}×{n}×{k}"] = 2 * m * n * k / median_seconds(run) / 1e9


def attention(cases):
    for batch, tokens, h, hk, d in ATTENTION:
        forward = 4 * d * h * batch * tokens * (tokens + 1) / 2
        label = f"{batch}×{tokens} {h}/{hk} {d}"
        for name, dtype in TYPES.items():
            q, k, v = (torch.randn(batch, heads, tokens, d, dtype=torch.float32).to(dtype) for heads in (h, hk, hk))
            k, v = (x.repeat_interleave(h // hk, dim=1) for x in (k, v))
            dout = torch.randn(batch, h, tokens, d, dtype=torch.float32).to(dtype)
            with torch.no_grad():
                seconds = median_seconds(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True))
            cases[f"attention {name} {label}"] = forward / seconds / 1e9
            inputs = [x.requires_grad_() for x in (q, k, v)]

            def both():
                out = F.scaled_dot_product_attention(*inputs, is_causal=True)
                torch.autograd.grad(out, inputs, dout)

            cases[f"attention and backward {name} {label}"] = 3.5 * forward / median_seconds(both) / 1e9


def main():
    parser = argparse.ArgumentParser(description="PyTorch's kernels, timed")
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    torch.manual_seed(0)
    cases = {}
    with torch.no_grad():
        products(cases)
    attention(cases)
    rounded = {name: round(gflops, 1) for name, gflops in cases.items()}
    print(json.dumps({"versions": {"torch": torch.__version__}, "cases": rounded}))


if __name__ == "__main__":
    main()
