"""A Llama checkpoint of safetensors as one GGUF file of the same weights, for llama-bench and llama-quantize: the model without its tokenizer.

    checkpoint_to_gguf.py FOLDER OUT

F16, BF16 and F32 tensors stay what they are, norms become F32, as llama.cpp wants them; the rows of Q and K are permuted for its rotations of neighbouring pairs.
Needs only Python's standard library.
"""

import argparse
import json
import pathlib
import struct

ALIGNMENT = 32
TYPES = {"F32": 0, "F16": 1, "BF16": 30}
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


def tensors_of(folder):
    """(name, type, shape, file, offset, bytes) of all tensors."""
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            header = json.loads(file.read(length))
        for name, tensor in header.items():
            if name != "__metadata__":
                first, end = tensor["data_offsets"]
                yield name, tensor["dtype"], tensor["shape"], path, 8 + length + first, end - first


def gguf_name(name):
    name = name.removesuffix(".weight")
    if name.startswith("model.layers."):
        _, _, layer, rest = name.split(".", 3)
        return f"blk.{layer}.{NAMES[rest]}.weight"
    return f"{NAMES[name]}.weight"


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def entry(key, value):
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    return text(key) + (struct.pack("<If", 6, value) if isinstance(value, float) else struct.pack("<II", 4, value))


def widened(data, dtype):
    """F16 or BF16 values as F32."""
    if dtype == "F32":
        return data
    if dtype == "F16":
        return struct.pack(f"<{len(data) // 2}f", *struct.unpack(f"<{len(data) // 2}e", data))
    return b"".join(b"\0\0" + data[i : i + 2] for i in range(0, len(data), 2))


def permuted(data, rows, heads):
    """Rows of each head: the first and the second half, in turns."""
    row, half = len(data) // rows, rows // heads // 2
    return b"".join(data[(head * 2 * half + part * half + i) * row :][:row] for head in range(heads) for i in range(half) for part in (0, 1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("out")
    options = parser.parse_args()
    config = json.loads((pathlib.Path(options.folder) / "config.json").read_text())
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads", heads)
    metadata = {
        "general.architecture": "llama", "llama.block_count": config["num_hidden_layers"], "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"], "llama.feed_forward_length": config["intermediate_size"], "llama.attention.head_count": heads,
        "llama.attention.head_count_kv": kv_heads, "llama.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "llama.rope.freq_base": float(config.get("rope_theta", 10000.0)), "llama.rope.dimension_count": config["hidden_size"] // heads,
        "llama.vocab_size": config["vocab_size"], "tokenizer.ggml.model": "none",
    }
    tensors = list(tensors_of(options.folder))
    header = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata)) + b"".join(entry(key, value) for key, value in metadata.items())
    at = 0
    for name, dtype, shape, _, _, size in tensors:
        kind, size = ("F32", 4 * shape[0]) if len(shape) == 1 else (dtype, size)
        header += text(gguf_name(name)) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape)) + struct.pack("<IQ", TYPES[kind], at)
        at += size + -size % ALIGNMENT
    with open(options.out, "wb") as out:
        out.write(header + b"\0" * (-len(header) % ALIGNMENT))
        for name, dtype, shape, path, offset, size in tensors:
            with open(path, "rb") as file:
                file.seek(offset)
                data = file.read(size)
            if len(shape) == 1:
                data = widened(data, dtype)
            elif ".q_proj." in name or ".k_proj." in name:
                data = permuted(data, shape[0], heads if ".q_proj." in name else kv_heads)
            out.write(data + b"\0" * (-len(data) % ALIGNMENT))


if __name__ == "__main__":
    main()
