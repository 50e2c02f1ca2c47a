#!/usr/bin/env python3
"""Budgets kept, seen from outside: `lsaq run` under budgets between all layers at 4 bits and FP16, its resident memory read from smaps_rollup, in a control
group whose limit is just the budget where the machine allows one (version 1 or 2, as root).

    bench/resident_memory.py build/release/lsaq MODEL [--budgets 20] [--planner optimal] [--tokens 40]

A row for each budget: bytes planned and allocated, most resident bytes seen, most the group was charged with, and how the run ended. Exit code 1 if a run failed,
allocated other bytes than planned, or was seen above its budget. Standard library only."""
import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time

MIB = 1 << 20


class Group:
    """A control group with a limit of memory, or nothing where none can be made."""

    def __init__(self, limit):
        self.path = None
        for root, limit_file, peak_file in (
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
            ("/sys/fs/cgroup", "memory.max", "memory.peak"),
        ):
            path = f"{root}/lsaq-resident-{os.getpid()}"
            try:
                os.mkdir(path)
                with open(f"{path}/{limit_file}", "w", encoding="ascii") as file:
                    file.write(str(limit))
                self.path, self.peak_file = path, f"{path}/{peak_file}"
                return
            except OSError:
                if os.path.isdir(path):
                    os.rmdir(path)

    def enter(self):
        if self.path:
            with open(f"{self.path}/cgroup.procs", "w", encoding="ascii") as file:
                file.write(str(os.getpid()))

    def peak(self):
        try:
            with open(self.peak_file, encoding="ascii") as file:
                return int(file.read())
        except (OSError, AttributeError):
            return None

    def close(self):
        for _ in range(50 if self.path else 0):
            try:
                return os.rmdir(self.path)
            except OSError:
                time.sleep(0.1)


def resident(pid):
    """Bytes resident, and those of them that no file backs."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
            text = file.read()
        return tuple(int(re.search(rf"^{key}:\s+(\d+)", text, re.M).group(1)) * 1024 for key in ("Rss", "Anonymous"))
    except (OSError, AttributeError):
        return 0, 0


def run(arguments, budget, options, importance):
    group = Group(budget)
    command = [arguments.program, "run", arguments.model, "--memory", str(budget), "--importance", importance, "--tokens", str(arguments.tokens), "--json"]
    with subprocess.Popen(command + options, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=group.enter) as process:
        most, anonymous = 0, 0
        while process.poll() is None:
            rss, own = resident(process.pid)
            most, anonymous = max(most, rss), max(anonymous, own)
            time.sleep(0.005)
        out, err = process.communicate()
    charged = group.peak()
    group.close()
    return process.returncode, json.loads(out) if process.returncode == 0 else err.strip(), most, anonymous, charged


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--budgets", type=int, default=20)
    parser.add_argument("--planner", default="paper")
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--context", type=int, default=256)
    arguments = parser.parse_args()
    options = ["--planner", arguments.planner, "--context", str(arguments.context)]

    with tempfile.TemporaryDirectory() as folder:
        inspected = json.loads(subprocess.run([arguments.program, "inspect", arguments.model, "--json"], capture_output=True, check=True, text=True).stdout)
        importance = f"{folder}/importance.json"
        with open(importance, "w", encoding="ascii") as file:  # any order will do: bytes are what is looked at
            json.dump({"schema": "lsaq.importance/1", "scores": [1 + (7 * i) % 13 for i in range(inspected["layers"])]}, file)
        command = [arguments.program, "plan", arguments.model, "--importance", importance, "--memory", "1TiB", "--context", str(arguments.context), "--json"]
        parts = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)["bytes"]
        beside = parts["kv_cache"] + parts["activations"] + parts["reserve"]
        process = 16 * MIB  # of the program itself, which is charged to its group too
        low, high = inspected["bytes"]["int4"] + beside + process, inspected["bytes"]["fp16"] + beside + process
        failed = False
        print(f"{'budget':>9} {'planned':>9} {'allocated':>9} {'resident':>9} {'anonymous':>9} {'charged':>9}  MiB")
        for step in range(arguments.budgets):
            budget = low + (high - low) * step // max(1, arguments.budgets - 1)
            code, result, most, anonymous, charged = run(arguments, budget, options, importance)
            if code != 0:
                print(f"{budget / MIB:9.1f} exit {code}: {result}")
                failed = True
                continue
            plan = result["plan"]["bytes"]
            planned = plan["total"] - plan["reserve"]
            kept = planned == result["bytes"]["allocated"] and anonymous <= budget
            failed |= not kept
            row = [budget, planned, result["bytes"]["allocated"], most, anonymous] + ([charged] if charged is not None else [])
            print(" ".join(f"{value / MIB:9.1f}" for value in row) + ("" if kept else "  EXCEEDED"))
    sys.exit(failed)


if __name__ == "__main__":
    main()
