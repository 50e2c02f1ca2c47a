"""Projection and top-k against torch, interleaved in one run, one thread each.

    projection.py BENCH [--rounds 7]        BENCH: build/bench/lsaq_bench_projection

Each round runs our program once and torch.matmul + torch.topk once on the same shape; the table gives minimum and median of the time ratios torch / ours.
"""

import argparse
import json
import os
import statistics
import subprocess
import time

os.environ["OMP_NUM_THREADS"] = "1"
import torch  # noqa: E402: after the number of threads is set

SHAPES = {"llama-2-7b, 64 states": (64, 4096, 32000), "smollm2-135m, 31 states": (31, 576, 49152)}
TYPES = {"F32": torch.float32, "BF16": torch.bfloat16}


def ours(program, shape, isa):
    pattern = f"{shape}/{isa}/"
    done = subprocess.run([program, f"--benchmark_filter=^{pattern}", "--benchmark_format=json", "--benchmark_min_time=0.3"], capture_output=True, text=True, check=True)
    rows = json.loads(done.stdout)["benchmarks"]
    return {row["name"].split("/")[2]: (row["real_time"] / 1e3, row.get("of_peak", 0)) for row in rows}


def torch_seconds(states, embedding):
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        torch.topk(states @ embedding.T, 50)
        best = min(best, time.perf_counter() - start)
    return best


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--isa", default="avx512")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {options.rounds} rounds; ours: {options.isa}")
    for shape, (count, hidden, vocabulary) in SHAPES.items():
        states, embedding = torch.randn(count, hidden), torch.randn(vocabulary, hidden)
        ratios, peak = {name: [] for name in TYPES}, []
        extra = {name: [] for name in ("F16", "BF16", "Q8_0")}
        for _ in range(options.rounds):
            mine = ours(options.program, shape, options.isa)
            peak.append(mine["F32"][1])
            for name in extra:
                extra[name].append(mine[name][0] / mine["F32"][0])
            for name, dtype in TYPES.items():
                if dtype == torch.bfloat16 and len(ratios[name]) >= 2:
                    continue  # seconds each: two rounds are enough to see it
                ratios[name].append(torch_seconds(states.to(dtype), embedding.to(dtype)) / mine[name][0])
        print(f"{shape}: of the FMA peak {min(peak):.2f} to {max(peak):.2f}, median {statistics.median(peak):.2f}")
        for name, values in ratios.items():
            print(f"  torch {name} / ours {name}: min {min(values):.2f}, median {statistics.median(values):.2f}")
        for name, values in extra.items():
            print(f"  ours {name} / ours F32: median {statistics.median(values):.3f}, max {max(values):.3f}")


if __name__ == "__main__":
    main()
