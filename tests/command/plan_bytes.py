#!/usr/bin/env python3
"""Bytes and choices of `lsaq plan` against an independent calculation: three shapes, three formats, two caches, many budgets. Standard library only."""
import json
import subprocess
import sys

SHAPES = {  # layers, hidden, ffn, heads, kv heads, vocabulary; all untied
    "llama-2-7b": (32, 4096, 11008, 32, 32, 32000),
    "llama-2-13b": (40, 5120, 13824, 40, 40, 32000),
    "llama-3-8b": (32, 4096, 14336, 32, 8, 128256),
}
GIB = 1 << 30


def linears(shape):
    """(rows, columns) of the seven linears of a layer."""
    _, hidden, ffn, heads, kv_heads, _ = shape
    kv = kv_heads * (hidden // heads)
    return [(hidden, hidden), (kv, hidden), (kv, hidden), (hidden, hidden), (ffn, hidden), (ffn, hidden), (hidden, ffn)]


def linear_bytes(rows, columns, bits, fmt):
    if fmt == "gguf":
        per_block = {16: 64, 8: 2 + 32, 4: 2 + 16}[bits]  # of 32 weights
        return (rows * columns // 32 * per_block + 31) & ~31
    if bits == 16:
        return rows * columns * 2
    words = -(-columns * bits // 32)
    return rows * words * 4 + rows * 2 + (16 if fmt == "compressed-tensors" else 0)


def layer_bytes(shape, bits, fmt):
    norm = shape[1] * (4 if fmt == "gguf" else 2)
    return sum(linear_bytes(r, c, bits, fmt) for r, c in linears(shape)) + 2 * norm


def fixed_bytes(shape, fmt):
    return shape[1] * (4 if fmt == "gguf" else 2)


def embedding_bytes(shape):
    return 2 * shape[5] * shape[1] * 2


def fp16_bytes(shape):
    return shape[0] * layer_bytes(shape, 16, "packed") + fixed_bytes(shape, "packed") + embedding_bytes(shape)


def kv_bytes(shape, context, cache):
    layers, hidden, _, heads, kv_heads, _ = shape
    head = hidden // heads
    row = head * 2 if cache == "f16" else head // 32 * 34
    return layers * 2 * kv_heads * context * row


def papers_rule(shape, available, fmt):
    """Bits by layer, layers lowered in their order; None if nothing fits."""
    layers = shape[0]
    cost = {bits: layer_bytes(shape, bits, fmt) for bits in (16, 8, 4)}
    room = available - fixed_bytes(shape, fmt)
    for bits in (16, 8):
        if layers * cost[bits] <= room:
            return [bits] * layers
    for low in range(1, layers + 1):
        if low * cost[4] + (layers - low) * cost[8] <= room:
            return [4] * low + [8] * (layers - low)
    return None


def run(program, arguments):
    done = subprocess.run([program, "plan", *arguments, "--json"], capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else done.stderr


def check(program, name, shape, fmt, cache, context, memory):
    arguments = ["--shape", name, "--memory", str(memory), "--format", fmt, "--kv-cache", cache] + (["--context", str(context)] if context else [])
    code, plan = run(program, arguments)
    where = " ".join(arguments)
    reserve = int(fp16_bytes(shape) * 3.0 / 100.0)
    beside = embedding_bytes(shape) + reserve + (kv_bytes(shape, context, cache) if context else 0)
    activations = plan["bytes"]["activations"] if code == 0 else None
    if code == 0:
        beside += activations
        assert (activations > 0) == (context > 0), where
        bits = papers_rule(shape, memory - beside, fmt)
        expected = {
            "weights": sum(layer_bytes(shape, b, fmt) for b in plan["bits"]) + fixed_bytes(shape, fmt),
            "embedding": embedding_bytes(shape),
            "kv_cache": kv_bytes(shape, context, cache) if context else 0,
            "activations": activations,
            "reserve": reserve,
            "memory": memory,
        }
        expected["total"] = sum(expected[part] for part in ("weights", "embedding", "kv_cache", "activations", "reserve"))
        assert plan["bytes"] == expected, f"{where}: {plan['bytes']} instead of {expected}"
        assert plan["bits"] == bits, f"{where}: {plan['bits']} instead of {bits}"
        assert expected["total"] <= memory, where
        weights = sum(r * c for r, c in linears(shape))
        assert abs(plan["average_bits"] - sum(b * weights for b in bits) / (weights * shape[0])) < 1e-9, where
        code, best = run(program, arguments + ["--planner", "optimal", "--widths", "4,8,16"])
        error = {16: 0.0, 8: (7 / 127) ** 2, 4: 1.0}
        assert code == 0 and best["bytes"]["total"] <= memory, where
        assert sum(error[b] for b in best["bits"]) <= sum(error[b] for b in bits) + 1e-9, where
    else:
        assert code == 3 and papers_rule(shape, memory - beside, fmt) is None or context, f"{where}: exit {code}: {plan}"


def main():
    program = sys.argv[1]
    checked = 0
    for name, shape in SHAPES.items():
        full = fp16_bytes(shape)
        for fmt in ("packed", "gguf", "compressed-tensors"):
            for cache, context in (("f16", 0), ("f16", 2048), ("q8_0", 4096)):
                for share in (0.2, 0.31, 0.4, 0.55, 0.7, 1.3):
                    check(program, name, shape, fmt, cache, context, int(full * share))
                    checked += 1
    for memory, row in ((16, (32, 0, 0)), (12, (0, 32, 0)), (8, (0, 32, 0)), (6, (0, 22, 10)), (4, (0, 1, 31))):  # Table IV
        code, plan = run(program, ["--shape", "llama-2-7b", "--memory", str(memory * GIB)])
        assert code == 0 and tuple(plan["bits"].count(b) for b in (16, 8, 4)) == row, (memory, plan)
    print(f"{checked} plans agree")


if __name__ == "__main__":
    main()
