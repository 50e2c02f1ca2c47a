"""What a consumer's compiler flags change: the kernels compiled at plain -O2 beside -O3 -march=native, their instructions and their times.

    compiler_flags.py [--compiler g++] [--flags="-O3 -march=native"] [--include DIR ...] [--rounds 7] [--filter REGEX] [--work DIR]

Kernels carry their instruction sets in attributes, so flags decide on little. For every path the table gives how many functions the two objects share, in how
many of them all instructions are the same (operands aside: names of registers and addresses differ with what is around), in how many those that multiply, and all
instructions of both; functions that are inlined in one of the objects count in neither. Then bench/matmul.cpp is built both ways, and runs interleaved: ratios of times per product. Needs Eigen, fmt, Google Benchmark.
"""

import argparse
import collections
import json
import pathlib
import re
import statistics
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
PATHS = ("scalar", "avx2", "avxvnni", "avx512", "avx512vnni", "amx", "neon", "neon_dotprod")


def compiled(options, flags, source, out, *more):
    includes = [f"-I{path}" for path in (ROOT / "include", ROOT / "kernels", *options.include)]
    subprocess.run([options.compiler, "-std=c++20", *flags.split(), "-DFMT_HEADER_ONLY=1", *includes, str(source), "-o", str(out), *more], check=True)
    return out


def functions(path):
    """Mnemonics of each kernel by path and name."""
    text = subprocess.run(["objdump", "-d", "-C", "--no-show-raw-insn", "-w", path], check=True, capture_output=True, text=True).stdout
    found, current = {}, None
    for line in text.splitlines():
        if match := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            name = re.match(r"(?:\S+ )?lsaq::v0::\w+::(\w+)::(.*)", match.group(1))
            current = found.setdefault((name.group(1), re.sub(r"lsaq::v0::\w+::", "", name.group(2))), []) if name and name.group(1) in PATHS else None
        elif current is not None and (match := re.match(r"\s+[0-9a-f]+:\s+(\S+)", line)):
            current.append(match.group(1))
    return found


def multiplying(mnemonics):
    return sorted(one for one in mnemonics if re.match(r"v?(p?madd|pmul|pdpbusd|fn?madd|fmla|[us]dot|smull|mulps|mulss)", one))


def strip_padding(mnemonics):
    return [one for one in mnemonics if not one.startswith(("nop", "data16", "cs", "xchg"))]


def compare(plain, native):
    rows = collections.defaultdict(lambda: [0, 0, 0, 0, 0])
    for key in plain.keys() & native.keys():
        a, b = strip_padding(plain[key]), strip_padding(native[key])
        row = rows[key[0]]
        row[0] += 1
        row[1] += sorted(a) == sorted(b)
        row[2] += multiplying(a) == multiplying(b)
        row[3] += len(a)
        row[4] += len(b)
    return rows


def times(program, pattern):
    output = subprocess.run([program, f"--benchmark_filter={pattern}", "--benchmark_format=json", "--benchmark_min_time=0.2"], check=True, capture_output=True,
                            text=True).stdout
    return {one["name"].removesuffix("/manual_time"): one["us"] for one in json.loads(output)["benchmarks"]}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--flags", default="-O3 -march=native", help="what is compared with -O2")
    parser.add_argument("--include", action="append", default=[], help="further include folders (default: /usr/include/eigen3)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--filter", default=r"4096x4096/tokens:(1|64|512)/threads:1")
    parser.add_argument("--work", help="keep objects and programs here")
    options = parser.parse_args()
    options.include = options.include or ["/usr/include/eigen3"]
    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(options.work or temporary)
        work.mkdir(parents=True, exist_ok=True)
        source = work / "kernels.cpp"
        source.write_text("#define LSAQ_EXTERN_KERNELS 1\n#include <lsaq/kernels/cpu/all_kernels.hpp>\n")
        objects = [functions(compiled(options, flags, source, work / f"{name}.o", "-c")) for name, flags in (("plain", "-O2"), ("native", options.flags))]
        print(f"| path | functions | same instructions | same multiplications | instructions at -O2 | at {options.flags} |\n|---|---|---|---|---|---|")
        for path, (count, same, multiply, plain, native) in sorted(compare(*objects).items()):
            print(f"| {path} | {count} | {same} | {multiply} | {plain} | {native} |")
        if options.rounds == 0:
            return
        programs = [compiled(options, flags, ROOT / "bench/matmul.cpp", work / name, "-lbenchmark", "-lpthread")
                    for name, flags in (("plain", "-O2"), ("native", options.flags))]
        measured = collections.defaultdict(list)
        for number in range(options.rounds):
            pair = [None, None]
            for which in ((0, 1) if number % 2 == 0 else (1, 0)):
                pair[which] = times(programs[which], options.filter)
            for name in pair[0]:
                measured[name].append(pair[0][name] / pair[1][name])
        print(f"\n| product | time at -O2 / at {options.flags}, median | least | most |\n|---|---|---|---|", flush=True)
        for name, ratios in measured.items():
            print(f"| {name.removeprefix('matmul/')} | {statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |")


if __name__ == "__main__":
    main()
