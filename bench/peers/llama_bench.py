"""Whole models by llama.cpp and by our reference decoder, interleaved in one run: tokens a second of reading a prompt and of writing an answer.

    llama_bench.py BENCH --llama BUILD --model F16_GGUF --work FOLDER [--ours MODEL] [--types F16,Q8_0,Q4_0] [--rounds 7] [--threads 1 2]

BENCH: build/bench/lsaq_bench_decoder. BUILD: a build folder of llama.cpp with the tools llama-bench and llama-quantize. F16_GGUF: the model, also for ours unless MODEL
names another form of it; checkpoint_to_gguf.py makes one of a checkpoint. llama-quantize writes the other types into FOLDER, once. Each round runs every type of
llama.cpp and every format of ours once; the table gives median and minimum of the ratios ours / llama.cpp in tokens a second: Q8_0 against INT8, Q4_0 against INT4.
Embedding and head of ours are 16-bit, llama.cpp's are quantized.
"""

import argparse
import glob
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys

FORMATS = {"F16": ("16",), "Q8_0": ("8", "8/32"), "Q4_0": ("4", "4/32"), "Q4_K_M": ("4", "4/32")}


def tool(build, name):
    found = [path for path in glob.glob(f"{build}/**/{name}", recursive=True) if os.path.isfile(path) and os.access(path, os.X_OK)]
    return found[0] if found else sys.exit(f"there is no {name} under {build}")


def quantized(options, kind):
    """The model as a GGUF file of the type."""
    if kind == "F16":
        return options.model
    out = pathlib.Path(options.work) / f"{pathlib.Path(options.model).stem}-{kind}.gguf"
    if not out.exists():
        subprocess.run([tool(options.llama, "llama-quantize"), "--allow-requantize", options.model, out, kind], check=True, capture_output=True)
    return out


def by_llama(options, model):
    """Tokens a second by (what, threads)."""
    command = [tool(options.llama, "llama-bench"), "-m", model, "-p", str(options.prompt), "-n", str(options.answer), "-t", ",".join(map(str, options.threads)),
               "-ngl", "0", "-r", "1", "-o", "json"]
    rows = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return {("answer" if row["n_gen"] else "prompt", row["n_threads"]): row["avg_ts"] for row in rows}


def by_us(options, form):
    command = [options.program, options.ours or options.model, form, str(options.prompt), str(options.answer), *map(str, options.threads)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {}
    for threads, prompt, answer in re.findall(r"^(\d+) thread.*prompt ([\d.]+) tokens/s, answer ([\d.]+) tokens/s$", lines, re.MULTILINE):
        found["prompt", int(threads)], found["answer", int(threads)] = float(prompt), float(answer)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--llama", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--ours")
    parser.add_argument("--types", default="F16,Q8_0,Q4_0")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", nargs="+", type=int, default=(1, 2))
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--answer", type=int, default=128)
    options = parser.parse_args()
    models = {kind: quantized(options, kind) for kind in options.types.split(",")}
    forms = list(dict.fromkeys(form for kind in models for form in FORMATS[kind]))
    peers, mine = {kind: [] for kind in models}, {form: [] for form in forms}
    for _ in range(options.rounds):
        for kind, model in models.items():
            peers[kind].append(by_llama(options, model))
        for form in forms:
            mine[form].append(by_us(options, form))
    print(f"{options.rounds} rounds, prompt {options.prompt}, answer {options.answer}\n")
    print("| llama.cpp | ours | what | threads | llama.cpp, tokens/s | ours, tokens/s | ours / llama.cpp: median (least) |\n|---|---|---|---|---|---|---|")
    for kind in models:
        for form in FORMATS[kind]:
            for key in peers[kind][0]:
                theirs, own = [now[key] for now in peers[kind]], [now[key] for now in mine[form]]
                ratios = [a / b for a, b in zip(own, theirs)]
                print(f"| {kind} | {form} | {key[0]} | {key[1]} | {statistics.median(theirs):.1f} | {statistics.median(own):.1f} | "
                      f"{statistics.median(ratios):.2f} ({min(ratios):.2f}) |")


if __name__ == "__main__":
    main()
