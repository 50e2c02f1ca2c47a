"""Products of weights and tokens against ggml and torch, interleaved in one run, on the same shapes, tokens and threads.

    matmul.py BENCH [--ggml BUILD --ggml-source SOURCE] [--rounds 7] [--isa avx512] [--shapes ...] [--tokens ...] [--threads ...]

BENCH: build/bench/lsaq_bench_matmul. ggml: BUILD is a build folder of llama.cpp or ggml (-DGGML_NATIVE=ON, Release), SOURCE the folder with ggml/ or include/;
ggml_matmul.cpp beside this script is compiled against it and measures F16, Q8_0, Q4_0 and Q4_K, plain and repacked as llama.cpp would. torch: the integer
products it has; activations are BF16 for the weight-only ones, FP32 and quantized on the way for the dynamic ones, as ours and ggml's are FP32. Whatever is not
there is named and left out.

Everybody takes the next of many copies of the weights for each product, more than twice the last-level cache and 256 MB of them, in huge pages. Each round runs our program and every peer once,
each for a few batches, whose median counts; the tables give median and minimum over the rounds of the time ratios peer / ours: 8-bit peers against INT8, 4-bit
against INT4, F16 against F16, by channel and by groups of 32.
"""

import argparse
import glob
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

if "GLIBC_TUNABLES" not in os.environ:  # peers allocate their weights by malloc: huge pages for them too, from the start of the process
    os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", "CUDA_VISIBLE_DEVICES": ""})

SHAPES = ("4096x4096", "11008x4096", "4096x11008", "576x576", "1536x576", "576x1536")
OURS = {16: ("f16",), 8: ("int8/channel", "int8/group:32"), 4: ("int4/channel", "int4/group:32")}
GGML_TYPES = {"f16": 16, "q8_0": 8, "q4_0": 4, "q4_K": 4}
BATCHES = 5


def beyond_caches():
    """As bench/huge_block.hpp has it."""
    cache = subprocess.run(["getconf", "LEVEL3_CACHE_SIZE"], capture_output=True, text=True).stdout.strip()
    return max(256 << 20, 2 * int(cache or 0))


def isas(program):
    listed = subprocess.run([program, "--benchmark_list_tests"], capture_output=True, text=True, check=True).stdout.split()
    return list(dict.fromkeys(name.split("/")[1] for name in listed))


def ours(program, isa, shape, tokens, threads):
    """Seconds of a product and the shares of the limits, by type of weights."""
    wanted = "|".join(name for names in OURS.values() for name in names)
    pattern = f"^matmul/{isa}/({wanted})/{shape}/tokens:{tokens}/threads:{threads}/"
    done = subprocess.run([program, f"--benchmark_filter={pattern}", "--benchmark_format=json", "--benchmark_min_time=0.05"], capture_output=True, text=True, check=True)
    found = {}
    for row in json.loads(done.stdout)["benchmarks"]:
        limits = {key: row[key] for key in ("of_read", "of_fma", "of_integer") if key in row}
        found[row["name"].split("/", 2)[2].split(f"/{shape}/")[0]] = (row["us"] / 1e6, limits)
    return found


def build_ggml(build, source):
    """Compiles ggml_matmul.cpp against a build of ggml, static or shared."""
    program = pathlib.Path(tempfile.mkdtemp()) / "ggml_matmul"
    includes = [folder for folder in (f"{source}/ggml/include", f"{source}/include") if os.path.exists(f"{folder}/ggml.h")]
    libraries = [path for name in ("ggml", "ggml-cpu", "ggml-base") for path in sorted(glob.glob(f"{build}/**/lib{name}.*", recursive=True))[:1]]
    if not includes or len(libraries) != 3:
        sys.exit(f"no ggml.h under {source}, or no libggml, libggml-cpu, libggml-base under {build}")
    paths = [f"-Wl,-rpath,{os.path.dirname(os.path.abspath(library))}" for library in libraries]
    subprocess.run(["c++", "-O2", "-std=c++20", f"-I{includes[0]}", pathlib.Path(__file__).with_name("ggml_matmul.cpp"), "-o", program, *libraries, *paths,
                    "-fopenmp", "-lpthread", "-ldl"], check=True)
    return program


def ggml(program, kind, shape, tokens, threads):
    """Seconds of a product, by name of the layout."""
    rows, columns = shape.split("x")
    if kind == "q4_K" and int(columns) % 256 != 0:
        return {}
    done = subprocess.run([program, kind, rows, columns, str(tokens), str(threads), str(BATCHES)], capture_output=True, text=True, check=True)
    return {f"ggml {kind.upper()}, {line.split()[0]}": float(line.split()[1]) for line in done.stdout.splitlines()}


class Torch:
    """Torch's integer products of one shape: for each, copies of the weights in its own form and a function of one of them and the tokens."""

    def __init__(self, torch, rows, columns):
        self.torch, self.columns, self.peers = torch, columns, {}
        weights = torch.randn(rows, columns) * 0.02
        scale = weights.abs().amax(1) / 127
        codes = (weights / scale[:, None]).round().to(torch.int8)
        aten, group = torch.ops.aten, 32
        groups = weights.reshape(rows, columns // group, group)
        group_scale = groups.abs().amax(2) / 7
        unsigned = ((groups / group_scale[..., None]).round() + 8).to(torch.int32).reshape(rows, columns)

        def int8():
            scales = scale.bfloat16()
            return codes.clone, lambda x, copy: aten._weight_int8pack_mm(x, copy, scales)

        def int4():
            packed = aten._convert_weight_to_int4pack_for_cpu(unsigned, 1)
            scales = torch.stack([group_scale.T, torch.zeros_like(group_scale.T)], -1).bfloat16().contiguous()
            return packed.clone, lambda x, copy: aten._weight_int4pack_mm_for_cpu(x, copy, group, scales)

        def dynamic(engine, reduce_range):
            torch.backends.quantized.engine = engine
            quantized = torch.quantize_per_channel(weights, scale.double(), torch.zeros(rows, dtype=torch.int64), 0, torch.qint8)

            def product(x, copy):
                return torch.ops.quantized.linear_dynamic(x, copy, reduce_range)

            return lambda: torch.ops.quantized.linear_prepack(quantized, None), product

        self.add("torch weight-only INT8", 8, weights, torch.bfloat16, int8)
        self.add("torch weight-only INT4, groups of 32", 4, weights, torch.bfloat16, int4)
        for engine in ("x86", "onednn"):
            for reduce_range in (True, False):
                name = f"torch dynamic INT8, {engine}, {7 if reduce_range else 8}-bit activations"
                self.add(name, 8, weights, torch.float32, lambda engine=engine, reduce_range=reduce_range: dynamic(engine, reduce_range))

    def add(self, name, bits, weights, dtype, make):
        try:
            copy, product = make()
            first = copy()
            x = self.torch.randn(2, self.columns)
            right = x @ weights.T
            error = ((product(x.to(dtype), first).float() - right).norm() / right.norm()).item()
        except Exception as problem:  # noqa: BLE001: whatever an operation that this torch or machine lacks raises
            return print(f"{name} does not take part: {type(problem).__name__}: {problem}")
        if not error < (0.03 if bits == 8 else 0.15):
            return print(f"{name} does not take part: its product is off by {error:.0%}")
        count = beyond_caches() // (weights.numel() * bits // 8) + 1
        self.peers[name] = (bits, dtype, [first] + [copy() for _ in range(count - 1)], product)

    def seconds(self, name, tokens, threads):
        _, dtype, copies, product = self.peers[name]
        self.torch.set_num_threads(threads)
        x = self.torch.randn(tokens, self.columns).to(dtype)
        product(x, copies[-1])
        rows = product(x[:1], copies[-1]).shape[1]
        batch = max(1, min(len(copies), int(2e9 / (2 * tokens * rows * self.columns))))
        times, at = [], 0
        for _ in range(BATCHES):
            start = time.perf_counter()
            for _ in range(batch):
                product(x, copies[at % len(copies)])
                at += 1
            times.append((time.perf_counter() - start) / batch)
        return statistics.median(times)


def saturation(torch):
    """Torch's dynamic products where all codes are large: sums of pairs of products do not fit 16 bits."""
    weights, x = torch.full((64, 4096), 0.02), torch.full((1, 4096), 3.77)
    x[0, 0] = -1
    quantized = torch.quantize_per_channel(weights, torch.full((64,), 0.02 / 127).double(), torch.zeros(64, dtype=torch.int64), 0, torch.qint8)
    for engine in ("x86", "onednn"):
        torch.backends.quantized.engine = engine
        packed = torch.ops.quantized.linear_prepack(quantized, None)
        found = [f"{torch.ops.quantized.linear_dynamic(x, packed, reduce_range)[0, 0]:.1f}" for reduce_range in (True, False)]
        print(f"torch dynamic INT8, {engine}: {found[0]} with 7-bit activations, {found[1]} with 8-bit ones, for {(x @ weights.T)[0, 0]:.1f}")


def compare(options, isa, shape, tokens, threads, ggml_program, torch_peers):
    """Runs the rounds of one case and prints its table."""
    mine, limits, peers, bits_of = {}, {}, {}, {}
    for _ in range(options.rounds):
        for name, (seconds, shares) in ours(options.program, isa, shape, tokens, threads).items():
            mine.setdefault(name, []).append(seconds)
            limits.setdefault(name, []).append(shares)
        for kind, bits in GGML_TYPES.items() if ggml_program else ():
            for name, seconds in ggml(ggml_program, kind, shape, tokens, threads).items():
                peers.setdefault(name, []).append(seconds)
                bits_of[name] = bits
        for name in torch_peers.peers if torch_peers else ():
            peers.setdefault(name, []).append(torch_peers.seconds(name, tokens, threads))
            bits_of[name] = torch_peers.peers[name][0]
    print(f"\n{shape}, {tokens} token(s), {threads} thread(s)\n")
    for name, times in mine.items():
        shares = ", ".join(f"{key} {statistics.median(now[key] for now in limits[name]):.2f}" for key in limits[name][0])
        print(f"- ours {name}: {statistics.median(times) * 1e6:.1f} us, {shares}")
    print("\n| peer | us | peer / ours: median (least) |\n|---|---|---|")
    for name, times in peers.items():
        against = []
        for own in OURS[bits_of[name]]:
            ratios = [peer / us for peer, us in zip(times, mine[own])]
            against.append(f"{own} {statistics.median(ratios):.2f} ({min(ratios):.2f})")
        print(f"| {name} | {statistics.median(times) * 1e6:.1f} | {', '.join(against)} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--isa", help="the instruction set of ours; default: the best one of this machine")
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--tokens", nargs="+", type=int, default=(1, 4, 8, 16, 64, 512))
    parser.add_argument("--threads", nargs="+", type=int, default=(1, 2))
    parser.add_argument("--ggml")
    parser.add_argument("--ggml-source")
    options = parser.parse_args()
    isa = options.isa or isas(options.program)[-1]
    ggml_program = build_ggml(options.ggml, options.ggml_source) if options.ggml and options.ggml_source else None
    if ggml_program is None:
        print("ggml does not take part: no --ggml and --ggml-source")
    try:
        import torch
    except ImportError as error:
        torch = None
        print(f"torch does not take part: {error}")
    print(f"{options.rounds} rounds; ours: {isa}" + (f"; torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}" if torch else ""))
    if torch:
        saturation(torch)
    for shape in options.shapes:
        torch_peers = Torch(torch, *map(int, shape.split("x"))) if torch else None
        for tokens in options.tokens:
            for threads in options.threads:
                compare(options, isa, shape, tokens, threads, ggml_program, torch_peers)


if __name__ == "__main__":
    main()
