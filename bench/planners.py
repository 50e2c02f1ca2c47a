#!/usr/bin/env python3
"""Planners against each other at equal bytes: the paper's rule (Jaccard importance), and the plans of least cost by several tables of costs, with the same
rounding, over the same windows, with paired standard errors.

    bench/planners.py build/release/lsaq MODEL wiki.test.txt --windows 40 --out planners [--rounding gptq --rotate ...]

Measures importance and costs once (kept in --out), makes a plan of each kind within the bytes that the paper's rule takes at 7, 6 and 5 average bits, evaluates
each (kept too: an interrupted run goes on), and prints a row for each as it comes, the most telling first: the paper's rule beside the first table with all
widths, then that with 4 and 8 bits alone, then the rest. Everything after the known options goes to `lsaq costs` and `lsaq eval`. Standard library only."""
import argparse
import json
import math
import os
import subprocess

TABLES = {"layers": [], "layers, all else at 4 bits": ["--around", "int4"], "linears": ["--by-linear"],
          "linears, all else at 4 bits": ["--by-linear", "--around", "int4"]}
AVERAGES = (7, 6, 5)
PAPER = "the paper's rule"


def lsaq(program, *arguments):
    print("+ lsaq", *arguments, flush=True)
    done = subprocess.run([program, *arguments, "--json"], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def kept(path, make):
    """The JSON at `path`; made and written, whole or not at all, if it is not there."""
    if not os.path.exists(path):
        made = make()
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump(made, file)
        os.rename(path + ".new", path)
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def mean_and_error(values, tokens):
    """Ratio estimator over windows, as lsaq eval has it."""
    count, units = sum(tokens), len(tokens)
    mean = sum(values) / count
    squares = sum((v - mean * t) ** 2 for v, t in zip(values, tokens))
    return mean, math.sqrt(squares * units / (units - 1)) / count if units > 1 else math.nan


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--windows", type=int, default=40)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--cost-windows", type=int, default=16)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES), help="of costs")
    parser.add_argument("--out", default="planners")
    arguments, rounding = parser.parse_known_args()
    program, model, folder = arguments.program, arguments.model, arguments.out
    os.makedirs(folder, exist_ok=True)

    importance = f"{folder}/importance.json"
    kept(importance, lambda: lsaq(program, "importance", model))
    tables = {}
    for name in arguments.tables:
        tables[name] = f"{folder}/costs-{name.replace(', ', '-').replace(' ', '-')}.json"
        kept(tables[name], lambda name=name: lsaq(program, "costs", model, "--windows", str(arguments.cost_windows), *TABLES[name], *rounding))

    inspected = lsaq(program, "inspect", model)
    layers, int8, int4 = inspected["layers"], inspected["bytes"]["int8"], inspected["bytes"]["int4"]
    rules = {PAPER: ["--importance", importance]}
    for name, table in tables.items():
        rules[f"least cost, {name}"] = ["--planner", "optimal", "--costs", table]
        rules[f"least cost, {name}, 4 and 8 bits"] = ["--planner", "optimal", "--costs", table, "--widths", "4,8"]
    rules["least cost by importance"] = ["--planner", "optimal", "--importance", importance]
    names = list(rules)

    references = {}
    print(f"\n{'bits':>4}  {'plan':<52} {'bytes':>11} {'stored':>6} {'perplexity':>10} {'KL':>16} {'nats less than the paper':>26} {'KL less':>18}")
    for average, name in [(a, n) for some in (names[:2], names[2:3], names[3:]) for a in AVERAGES for n in some]:
        lowered = round(layers * (8 - average) / 4)
        memory = int8 - (int8 - int4) // layers * lowered  # of equal layers, so many at 4 bits
        stem = f"{folder}/{average}-{name.replace(' ', '-').replace(',', '')}"
        plan = kept(f"{stem}.plan.json", lambda: lsaq(program, "plan", model, "--memory", str(memory), "--reserve", "0", *rules[name]))
        call = ["eval", model, "--plan", f"{stem}.plan.json", "--perplexity", arguments.text, "--context", str(arguments.context)]
        call += ["--windows", str(arguments.windows), "--divergence", *rounding]
        result = kept(f"{stem}.eval.json", lambda: lsaq(program, *call))
        sums = result["window_sums"]
        tokens = [w["tokens"] for w in sums]
        reference = references.setdefault(average, sums)  # the paper's comes first
        better = [mean_and_error([a[key] - b[key] for a, b in zip(reference, sums)], tokens) for key in ("nll", "kl")]
        total = plan["bytes"]["weights"] + plan["bytes"]["embedding"]
        print(f"{average:4}  {name:<52} {total:11} {result['average_bits']:6.3f} {result['perplexity']:10.4f} {result['kl']:8.4f}+-{result['kl_se']:.4f}"
              f" {better[0][0]:+16.4f}+-{better[0][1]:.4f} {better[1][0]:+11.4f}+-{better[1][1]:.4f}", flush=True)


if __name__ == "__main__":
    main()
