"""The promises the command makes about memory and INT8 accuracy, checked on a real model.

    real_model.py --program LSAQ --gguf FILE --text FILE

For several budgets between all-INT4 and FP16: the bytes allocated are the bytes planned, the total is within the budget, and the peak resident memory of the whole
process, tokenizer and code included, is at most CONSTANT above the plan's total. One byte less than the smallest plan is refused with exit code 3. With every layer
at INT8 the perplexity is at most 0.5 % above FP16's.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile

CONSTANT = 24 << 20  # code, tokenizer, block buffers; docs/accuracy.md
MIB = 1 << 20


def run(program, *arguments):
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def result(program, *arguments):
    code, out, err = run(program, *arguments)
    if code != 0:
        raise SystemExit(f"FAIL {' '.join(arguments)}: exit {code}: {err.strip()}")
    return json.loads(out)


def check(condition, sentence):
    print(("ok   " if condition else "FAIL ") + sentence)
    return condition


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--text", required=True)
    options = parser.parse_args()
    good = True
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache

        code, _, err = run(options.program, "run", options.gguf, "--memory", "100MiB", "--tokens", "8")
        missing = re.search(r"\((\d+) bytes\) are missing", err)
        good &= check(code == 3 and missing is not None and err.count("\n") == 1, f"100 MiB: exit {code}, {err.strip()}")
        smallest = 100 * MIB + int(missing.group(1)) if missing else 120 * MIB
        code, _, _ = run(options.program, "run", options.gguf, "--memory", str(smallest - 1), "--tokens", "8")
        good &= check(code == 3, f"one byte less than the smallest plan: exit {code}")

        for memory in (smallest, 140 * MIB, 160 * MIB, 200 * MIB, 300 * MIB):
            found = result(options.program, "run", options.gguf, "--memory", str(memory), "--tokens", "24", "--prompt", "Tell me about the sea.", "--json")
            planned, used = found["plan"]["bytes"], found["bytes"]
            parts = ("weights", "embedding", "kv_cache", "activations")
            good &= check(all(planned[p] == used[p] for p in parts), f"{memory} bytes: allocated {[used[p] for p in parts]} as planned")
            good &= check(planned["total"] == sum(planned[p] for p in (*parts, "reserve")) <= memory, f"{memory} bytes: total {planned['total']}")
            over = used["peak_resident"] - planned["total"]
            good &= check(0 < used["peak_resident"] and over <= CONSTANT, f"{memory} bytes: peak resident {over / MIB:.1f} MiB above the total")

    scores = {}
    for bits in (16, 8, 4):
        scores[bits] = result(options.program, "eval", options.gguf, "--bits", str(bits), "--perplexity", options.text, "--windows", "5", "--json")["perplexity"]
    good &= check(scores[8] <= 1.005 * scores[16], f"perplexity: FP16 {scores[16]:.4f}, INT8 {scores[8]:.4f}, INT4 {scores[4]:.4f}")
    good &= check(scores[4] > 1.05 * scores[16], "INT4 is really quantized: its perplexity shows it")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
