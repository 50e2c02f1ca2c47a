#!/usr/bin/env python3
"""Writes a small Llama model with random weights as a GGUF file: the demonstration's model where there is no network.

Its form is that of a real model (grouped-query attention, tied embedding, byte-level BPE tokenizer); what it says is noise. The same seed gives the same bytes.
Needs only Python's standard library.

usage: random_llama.py OUTPUT [SEED]
"""

import os
import random
import struct
import sys

LAYERS = 6
HIDDEN = 256
HEADS = 8
KEY_VALUE_HEADS = 4
FEED_FORWARD = 512
CONTEXT = 2048
NORM_EPSILON = 1e-5
ROPE_BASE = 10000.0
DEVIATION = 0.05
QUIET = 0.1  # of that, for tokens no terminal should get from a noise model: they are never the likeliest
ALIGNMENT = 32

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# Left and right part of each merge, in order of preference; "Ġ" stands for the space before a word.
MERGES = """
t h|th e|Ġ t|Ġ the|i n|Ġ a|e r|o n|r e|a n|Ġ an|an d|Ġ and|Ġ o|Ġo f|o r|e n|i s|Ġ is|i t|a l|e s|Ġ c|Ġ w|in g|a t|Ġ s|Ġ f|o u|Ġ b|Ġ p|e d|Ġ m|a r|l l|Ġ in|Ġ h|r o|i c|Ġ d|Ġ T|a s
""".strip().split("|")

GGUF_UINT32, GGUF_INT32, GGUF_FLOAT32, GGUF_BOOL, GGUF_STRING, GGUF_ARRAY = 4, 5, 6, 7, 8, 9
TENSOR_F32, TENSOR_F16 = 0, 1
TOKEN_NORMAL, TOKEN_CONTROL = 1, 3


def byte_tokens():
    """The 256 printable characters that stand for bytes in byte-level BPE (GPT-2's table)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    characters = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return [characters[byte] for byte in range(256)]


def merges():
    """The merges that can be made from bytes and earlier merges, as pairs."""
    known, pairs = set(byte_tokens()), []
    for merge in MERGES:
        left, right = merge.split(" ")
        if left in known and right in known and left + right not in known:
            pairs.append((left, right))
            known.add(left + right)
    return pairs


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def encoded(kind, value):
    if kind == GGUF_STRING:
        return string(value)
    return struct.pack({GGUF_UINT32: "<I", GGUF_INT32: "<i", GGUF_FLOAT32: "<f", GGUF_BOOL: "<?"}[kind], value)


def entry(key, kind, value):
    return string(key) + struct.pack("<I", kind) + encoded(kind, value)


def array(key, kind, values):
    return string(key) + struct.pack("<IIQ", GGUF_ARRAY, kind, len(values)) + b"".join(encoded(kind, value) for value in values)


def metadata():
    pairs = merges()
    tokens = SPECIAL + byte_tokens() + [left + right for left, right in pairs]
    kinds = [TOKEN_CONTROL] * len(SPECIAL) + [TOKEN_NORMAL] * (len(tokens) - len(SPECIAL))
    entries = [
        entry("general.architecture", GGUF_STRING, "llama"),
        entry("general.type", GGUF_STRING, "model"),
        entry("general.name", GGUF_STRING, "Random Llama"),
        entry("general.file_type", GGUF_UINT32, 1),
        entry("llama.block_count", GGUF_UINT32, LAYERS),
        entry("llama.context_length", GGUF_UINT32, CONTEXT),
        entry("llama.embedding_length", GGUF_UINT32, HIDDEN),
        entry("llama.feed_forward_length", GGUF_UINT32, FEED_FORWARD),
        entry("llama.attention.head_count", GGUF_UINT32, HEADS),
        entry("llama.attention.head_count_kv", GGUF_UINT32, KEY_VALUE_HEADS),
        entry("llama.attention.layer_norm_rms_epsilon", GGUF_FLOAT32, NORM_EPSILON),
        entry("llama.rope.dimension_count", GGUF_UINT32, HIDDEN // HEADS),
        entry("llama.rope.freq_base", GGUF_FLOAT32, ROPE_BASE),
        entry("llama.vocab_size", GGUF_UINT32, len(tokens)),
        entry("tokenizer.ggml.model", GGUF_STRING, "gpt2"),
        entry("tokenizer.ggml.pre", GGUF_STRING, "smollm"),
        array("tokenizer.ggml.tokens", GGUF_STRING, tokens),
        array("tokenizer.ggml.token_type", GGUF_INT32, kinds),
        array("tokenizer.ggml.merges", GGUF_STRING, [f"{left} {right}" for left, right in pairs]),
        entry("tokenizer.ggml.bos_token_id", GGUF_UINT32, 1),
        entry("tokenizer.ggml.eos_token_id", GGUF_UINT32, 2),
        entry("tokenizer.ggml.unknown_token_id", GGUF_UINT32, 0),
        entry("tokenizer.ggml.padding_token_id", GGUF_UINT32, 2),
        entry("tokenizer.ggml.add_space_prefix", GGUF_BOOL, False),
        entry("tokenizer.ggml.add_bos_token", GGUF_BOOL, False),
    ]
    return entries, len(tokens)


def shapes(vocabulary):
    """Name, rows and columns of each tensor; rows 0 marks a vector of ones."""
    key_value = HIDDEN // HEADS * KEY_VALUE_HEADS
    tensors = [("token_embd.weight", vocabulary, HIDDEN)]
    for layer in range(LAYERS):
        tensors += [
            (f"blk.{layer}.attn_norm.weight", 0, HIDDEN),
            (f"blk.{layer}.attn_q.weight", HIDDEN, HIDDEN),
            (f"blk.{layer}.attn_k.weight", key_value, HIDDEN),
            (f"blk.{layer}.attn_v.weight", key_value, HIDDEN),
            (f"blk.{layer}.attn_output.weight", HIDDEN, HIDDEN),
            (f"blk.{layer}.ffn_norm.weight", 0, HIDDEN),
            (f"blk.{layer}.ffn_gate.weight", FEED_FORWARD, HIDDEN),
            (f"blk.{layer}.ffn_up.weight", FEED_FORWARD, HIDDEN),
            (f"blk.{layer}.ffn_down.weight", HIDDEN, FEED_FORWARD),
        ]
    return tensors + [("output_norm.weight", 0, HIDDEN)]


def is_quiet(token):
    """True for bytes that are not printable ASCII, and for special tokens."""
    byte = token - len(SPECIAL)
    return byte < 0x20 or 0x7F <= byte < 0x100


def padding(size):
    return bytes(-size % ALIGNMENT)


def write(file, seed):
    entries, vocabulary = metadata()
    tensors = shapes(vocabulary)
    header = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(entries)), *entries]
    offset = 0
    for name, rows, columns in tensors:
        dimensions = (columns, rows) if rows else (columns,)
        header.append(string(name) + struct.pack(f"<I{len(dimensions)}QIQ", len(dimensions), *dimensions, TENSOR_F16 if rows else TENSOR_F32, offset))
        size = 2 * rows * columns if rows else 4 * columns
        offset += size + len(padding(size))
    head = b"".join(header)
    file.write(head + padding(len(head)))
    normal = random.Random(seed).gauss
    for name, rows, columns in tensors:
        if rows:
            embedding = name == "token_embd.weight"
            deviations = [DEVIATION * QUIET if embedding and is_quiet(row) else DEVIATION for row in range(rows)]
            data = b"".join(struct.pack(f"<{columns}e", *(normal(0.0, deviation) for _ in range(columns))) for deviation in deviations)
        else:
            data = struct.pack(f"<{columns}f", *([1.0] * columns))
        file.write(data + padding(len(data)))


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__.strip().splitlines()[-1])
    output = os.path.abspath(sys.argv[1])
    partial = f"{output}.{os.getpid()}.part"
    os.makedirs(os.path.dirname(output), exist_ok=True)
    try:
        with open(partial, "wb") as file:
            write(file, int(sys.argv[2]) if len(sys.argv) == 3 else 1)
        os.replace(partial, output)
    finally:
        if os.path.exists(partial):
            os.remove(partial)


if __name__ == "__main__":
    main()
