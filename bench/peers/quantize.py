"""Quantizing and packing a 16384 x 4096 matrix against torch's operations and ggml, interleaved in one run, one thread each.

    quantize.py BENCH [--rounds 7] [--isa avx512] [--ggml LIBRARY]        BENCH: build/bench/lsaq_bench_quantize

torch: FP16 weights, one scale a row: |W| max / Q in FP32, rounded to FP16, division, rounding, clamping; INT4 also packs two codes a byte. ggml: the C function
ggml_quantize_chunk of LIBRARY (libggml-base.so, as llama-cpp-python builds it), FP32 weights to Q8_0 and Q4_0, i.e. groups of 32. torchao and optimum-quanto take
part where they can be imported; they need a torch newer than Debian's. Each round runs our program and every peer once; the table gives minimum and median of the
time ratios peer / ours.
"""

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import time

os.environ["OMP_NUM_THREADS"] = "1"
import torch  # noqa: E402: after the number of threads is set

ROWS, COLUMNS = 16384, 4096


def ours(program, case):
    """Seconds of one case, and its speed relative to a copy of the source."""
    done = subprocess.run([program, f"--benchmark_filter=^{case}/", "--benchmark_format=json", "--benchmark_min_time=0.1"], capture_output=True, text=True, check=True)
    (row,) = json.loads(done.stdout)["benchmarks"]
    return row["real_time"] / 1e3, row["of_copy"]


def seconds(run):
    best = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best


def by_torch(weights, bits):
    limit = 2 ** (bits - 1) - 1
    wide = weights.float()
    scale = (wide.abs().amax(1, keepdim=True) / limit).half()
    codes = (wide / scale.float()).round_().clamp_(-limit, limit)
    if bits == 8:
        return codes.to(torch.int8), scale
    codes = (codes + 8).to(torch.uint8)
    return codes[:, 0::2] | codes[:, 1::2] << 4, scale


def ggml_quantizer(path):
    """quantize(type number) of all FP32 weights by ggml."""
    library = ctypes.CDLL(path)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    out = torch.zeros(ROWS * COLUMNS // 32 * 34, dtype=torch.uint8)

    def quantize(weights, kind):
        written = library.ggml_quantize_chunk(kind, weights.data_ptr(), out.data_ptr(), 0, ROWS, COLUMNS, None)
        assert written == ROWS * COLUMNS // 32 * {8: 34, 2: 18}[kind]

    return quantize


def other_peers():
    """torchao's and optimum-quanto's quantizers of a matrix to int8, one scale a row, where they run."""
    peers = {}
    try:
        from torchao.quantization.quant_primitives import MappingType, choose_qparams_affine, quantize_affine

        def by_torchao(weights):
            scale, zero = choose_qparams_affine(weights, MappingType.SYMMETRIC, (1, COLUMNS), torch.int8)
            return quantize_affine(weights, (1, COLUMNS), scale, zero, torch.int8)

        peers["torchao"] = by_torchao
    except Exception as error:  # noqa: BLE001: whatever an import of a package for another torch raises
        print(f"torchao does not take part: {type(error).__name__}: {error}")
    try:
        from optimum.quanto import AbsmaxOptimizer, qint8, quantize_weight

        def by_quanto(weights):
            return quantize_weight(weights, qtype=qint8, axis=0, scale=AbsmaxOptimizer()(weights, qtype=qint8, axis=0))

        peers["quanto"] = by_quanto
    except Exception as error:  # noqa: BLE001
        print(f"optimum-quanto does not take part: {type(error).__name__}: {error}")
    return peers


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--isa", default="avx512")
    parser.add_argument("--ggml")
    options = parser.parse_args()
    torch.set_num_threads(1)
    weights = torch.randn(ROWS, COLUMNS) * 0.02
    halves = weights.half()
    cases = {  # our case, peer
        "torch INT8": ("F16/int8/channel", lambda: by_torch(halves, 8)),
        "torch INT4": ("F16/int4/channel", lambda: by_torch(halves, 4)),
    }
    for name, run in other_peers().items():
        cases[f"{name} INT8"] = ("F16/int8/channel", lambda run=run: run(halves))
    if options.ggml:
        ggml = ggml_quantizer(options.ggml)
        cases["ggml Q8_0"] = ("F32/int8/group:32", lambda: ggml(weights, 8))
        cases["ggml Q4_0"] = ("F32/int4/group:32", lambda: ggml(weights, 2))
    print(f"torch {torch.__version__}, {options.rounds} rounds; ours: {options.isa}")
    ratios, of_copy, mine = {name: [] for name in cases}, {name: [] for name in cases}, {name: [] for name in cases}
    for _ in range(options.rounds):
        for name, (case, run) in cases.items():
            own, copy = ours(options.program, f"{options.isa}/{case}")
            mine[name].append(own)
            of_copy[name].append(copy)
            ratios[name].append(seconds(run) / own)
    for name, (case, _) in cases.items():
        print(f"{name} / ours {case}: min {min(ratios[name]):.1f}, median {statistics.median(ratios[name]):.1f}; "
              f"ours {statistics.median(mine[name]) * 1e3:.1f} ms, of a copy's speed min {min(of_copy[name]):.2f}, median {statistics.median(of_copy[name]):.2f}")


if __name__ == "__main__":
    main()
