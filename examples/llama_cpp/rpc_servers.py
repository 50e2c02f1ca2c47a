#!/usr/bin/env python3
"""One exported model on two of llama.cpp's RPC servers with different memory limits, split by LSAQ's plan for both.

    rpc_servers.py --lsaq LSAQ --llama-cpp DIR --run llama_cpp_run --model MODEL [--devices near=120MiB,far=80MiB]

DIR is a folder that get_llama_cpp has filled. Plans for the devices, writes the GGUF file, starts a server for each device on this machine's loopback with that
much memory for weights and no more (RLIMIT_DATA), and lets llama.cpp generate with the split that `lsaq plan --devices` gives. The text must be that of one process, and each
server's memory what the plan says. Exit code 0 if so.
"""

import argparse
import json
import pathlib
import resource
import socket
import subprocess
import sys
import tempfile
import time

WORKING = 48 << 20  # what a server takes before it has a model, its caches and its working memory
UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def amount(text):
    for unit, factor in UNITS.items():
        if text.endswith(unit):
            return round(float(text[:-len(unit)]) * factor)
    return int(text)


def output(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"FAIL {' '.join(map(str, words))}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """ggml-rpc-server with a limit to its memory."""

    def __init__(self, program, memory):
        self.port = free_port()

        def limit():
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))

        self.process = subprocess.Popen([str(program), "--host", "127.0.0.1", "--port", str(self.port), "--threads", "1"], preexec_fn=limit,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.address = f"127.0.0.1:{self.port}"
        for _ in range(100):
            with socket.socket() as one:
                if one.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise SystemExit(f"FAIL {program}: does not listen on {self.address}")

    def peak(self):
        """Most memory that was resident, in bytes."""
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def close(self):
        self.process.kill()
        self.process.wait()


def main():
    parser = argparse.ArgumentParser()
    for name in ("lsaq", "llama-cpp", "run", "model"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--devices", default="near=120MiB,far=80MiB")
    parser.add_argument("--prompt", default="The capital of France is")
    options = parser.parse_args()
    good = True

    def check(condition, sentence):
        nonlocal good
        good = good and bool(condition)
        print(("ok   " if condition else "FAIL ") + sentence, flush=True)

    with tempfile.TemporaryDirectory() as folder:
        plan_file, model = pathlib.Path(folder, "plan.json"), pathlib.Path(folder, "model.gguf")
        plan = json.loads(output(options.lsaq, "plan", options.model, "--format", "gguf", "--devices", options.devices, "--reserve", "0", "-o", plan_file, "--json"))
        output(options.lsaq, "quantize", options.model, "--plan", plan_file, "-o", model)
        bits = plan["bits"]
        print(f"plan: {bits.count(16)} layers at 16 bits, {bits.count(8)} at 8, {bits.count(4)} at 4; {plan['flags']['llama.cpp']}", flush=True)
        ask = [options.run, model, "--prompt", options.prompt, "--tokens", "32", "--context", "256"]
        alone = output(*ask)
        matrix = plan["bytes"]["embedding"] // 2  # the embedding on the first device, the head on the last
        overhead = WORKING + matrix  # a tensor arrives whole before it is put in its place; the head is the largest
        limits = [amount(one.split("=")[1]) + overhead for one in options.devices.split(",")]
        servers = []
        try:
            servers += [Server(pathlib.Path(options.llama_cpp, "build/bin/ggml-rpc-server"), limit) for limit in limits]
            before = [server.peak() for server in servers]
            text = output(*ask, "--rpc", ",".join(server.address for server in servers), "--tensor-split", plan["flags"]["tensor_split"])
            check(text == alone, f"two servers give the text of one process: {text.strip()!r}")
            for share, server, idle, limit in zip(plan["devices"], servers, before, limits):
                held = server.peak() - idle
                weights = share["bytes"] - (matrix if share["first_layer"] == 0 else 0)  # llama.cpp keeps the embedding where it is called
                check(0.95 * weights <= held <= weights + overhead,
                      f"{share['name']}: layers {share['first_layer']} to {share['first_layer'] + share['layers'] - 1}, {weights} bytes planned, "
                      f"{held} held with caches, working memory and a tensor on its way, {limit} allowed")
        finally:
            for server in servers:
                server.close()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
