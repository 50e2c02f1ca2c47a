#!/usr/bin/env python3
"""Memory that is taken from a running `lsaq run --watch` and given back, seen from outside: by a file that LSAQ_MEMORY names, or by another process in a
control group of both (version 1 or 2, as root).

    bench/watched_memory.py build/release/lsaq MODEL [--group] [--changes 10] [--every 8]

A row for each change: what there is for the model, and what it holds, at the end of `every` seconds; then what the program says it did. Exit code 1 if it ended
otherwise than well, held more than was there and 24 MiB at the end of a change, or was never seen to follow. Standard library only."""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time

from resident_memory import MIB, Group, resident

HOG = """
import sys, time
step = 8 << 20
held = []
for line in sys.stdin:
    wanted = int(line)
    while len(held) * step < wanted:
        held.append(bytearray(b"x" * step))
        time.sleep(float(sys.argv[1]))
    del held[wanted // step:]
"""


class ByFile:
    """Says in a file how much there is."""

    def __init__(self, folder, most):
        self.path, self.most = f"{folder}/memory", most
        self.take(0)
        self.environment = {"LSAQ_MEMORY": "@" + self.path}

    def enter(self):
        pass

    def take(self, amount):
        with open(self.path + ".new", "w", encoding="ascii") as file:
            file.write(f"{self.most - amount}\n")
        os.rename(self.path + ".new", self.path)

    def close(self):
        pass


class ByProcess:
    """Takes it, in the same control group."""

    environment = {}

    def __init__(self, most, pace):
        self.group = Group(most)
        if self.group.path is None:
            sys.exit("no control group with a limit can be made here")
        self.enter = self.group.enter
        self.hog = subprocess.Popen([sys.executable, "-c", HOG, str(pace)], stdin=subprocess.PIPE, text=True, preexec_fn=self.enter)

    def take(self, amount):
        self.hog.stdin.write(f"{amount}\n")
        self.hog.stdin.flush()

    def close(self):
        self.hog.stdin.close()
        self.hog.wait()
        print(f"most the group was charged with: {self.group.peak() / MIB:.1f} MiB")
        self.group.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("model")
    parser.add_argument("--group", action="store_true")
    parser.add_argument("--changes", type=int, default=10)
    parser.add_argument("--every", type=float, default=8, help="seconds")
    parser.add_argument("--pace", type=float, default=1, help="seconds in which the other process takes 8 MiB: faster than layers are made, the kernel kills")
    parser.add_argument("--context", type=int, default=2000)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        inspected = json.loads(subprocess.run([arguments.program, "inspect", arguments.model, "--json"], capture_output=True, check=True, text=True).stdout)
        importance = f"{folder}/importance.json"
        with open(importance, "w", encoding="ascii") as file:
            json.dump({"schema": "lsaq.importance/1", "scores": [1 + (7 * i) % 13 for i in range(inspected["layers"])]}, file)
        command = [arguments.program, "run", arguments.model, "--importance", importance, "--planner", "optimal", "--watch", "--context", str(arguments.context)]
        command += ["--raw", "--prompt", "The history of the world is", "--ignore-eos", "--temperature", "1.5", "--seed", "3", "--json"]
        command += ["--reserve", "24MiB"]  # for the program itself
        plan = [arguments.program, "plan", arguments.model, "--importance", importance, "--memory", "1TiB", "--context", str(arguments.context), "--json"]
        parts = json.loads(subprocess.run(plan, capture_output=True, check=True, text=True).stdout)["bytes"]
        beside = parts["kv_cache"] + parts["activations"] + 40 * MIB
        most, least = inspected["bytes"]["int8"] + beside, inspected["bytes"]["int4"] + beside
        memory = ByProcess(most + 24 * MIB, arguments.pace) if arguments.group else ByFile(folder, most)
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=memory.enter,
                                   env={**os.environ, **memory.environment})
        ended = {}
        reader = threading.Thread(target=lambda: ended.update(zip(("out", "err"), process.communicate())))
        reader.start()
        failed = False
        print(f"{'there is':>9} {'it holds':>9}  MiB")
        for change in range(arguments.changes + 1):
            taken = (most - least) * ((0, 9, 4, 10, 2)[change % 5]) // 10
            memory.take(taken)
            time.sleep(arguments.every)
            held = resident(process.pid)[1]
            if process.poll() is not None:
                print(f"the text ended after {change} changes: ask for a longer --context")
                failed = True
                break
            over = held > most - taken + 24 * MIB
            failed |= over
            print(f"{(most - taken) / MIB:9.1f} {held / MIB:9.1f}" + ("  EXCEEDED" if over else ""), flush=True)
        memory.take(0)
        reader.join()
        memory.close()
    if process.returncode != 0:
        sys.exit(f"exit code {process.returncode}: {ended['err'].strip()}")
    result = json.loads(ended["out"])
    for event in result["replans"]:
        print(f"{event['seconds']:7.2f} s: {event['memory'] / MIB:6.1f} MiB, {event['layers']:2} layers in {event['exchange_seconds']:.2f} s,"
              f" {event['average_bits']:.2f} bits {event.get('problem', '')}")
    print(f"{result['generated_tokens']} tokens, the longest {result['seconds']['longest_token']:.3f} s")
    sys.exit(failed or not result["replans"])


if __name__ == "__main__":
    main()
