#!/usr/bin/env python3
"""Writes a large Llama checkpoint with random F16 weights, as sharded safetensors: to see how much memory measuring one takes, and how fast it runs.

    large_checkpoint.py FOLDER [--shape llama-2-7b] [--layers N]        llama-2-7b: 13.5 GB, 1b: 2.2 GB

There is no tokenizer; give token ids: FOLDER/windows.json holds 32 windows of 128. Weights are pieces of one block of normal numbers, so writing is as fast as the
disk. Needs only Python's standard library.
"""

import argparse
import json
import os
import random
import struct

SHAPES = {"llama-2-7b": (4096, 11008, 32, 32, 32, 32000), "1b": (2048, 8192, 16, 32, 8, 32000)}  # hidden, ffn, layers, heads, kv heads, vocabulary
BLOCK = 1 << 20  # numbers to draw; a prime step through them makes every row different
STEP = 131071


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--shape", choices=SHAPES, default="llama-2-7b")
    parser.add_argument("--layers", type=int)
    options = parser.parse_args()
    hidden, ffn, layers, heads, kv_heads, vocabulary = SHAPES[options.shape]
    layers = options.layers or layers
    kv_rows = hidden // heads * kv_heads
    os.makedirs(options.folder, exist_ok=True)
    generator = random.Random(1)
    numbers = [generator.gauss(0, 0.02) for _ in range(BLOCK)]
    block = struct.pack(f"<{BLOCK}e", *numbers) * 2
    ones = struct.pack("<e", 1.0)

    shapes = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}
    shards = [dict(shapes)]
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        shards.append({
            prefix + "input_layernorm.weight": (hidden,),
            prefix + "post_attention_layernorm.weight": (hidden,),
            **{prefix + f"self_attn.{name}_proj.weight": (kv_rows if name in "kv" else hidden, hidden) for name in "qkvo"},
            prefix + "mlp.gate_proj.weight": (ffn, hidden),
            prefix + "mlp.up_proj.weight": (ffn, hidden),
            prefix + "mlp.down_proj.weight": (hidden, ffn),
        })

    weight_map, total, at = {}, 0, 0
    for number, shard in enumerate(shards):
        name = f"model-{number + 1:05}-of-{len(shards):05}.safetensors"
        header, offset = {}, 0
        for tensor, shape in shard.items():
            size = 2
            for length in shape:
                size *= length
            header[tensor] = {"dtype": "F16", "shape": list(shape), "data_offsets": [offset, offset + size]}
            offset += size
            weight_map[tensor] = name
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with open(os.path.join(options.folder, name), "wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for tensor, shape in shard.items():
                if len(shape) == 1:
                    file.write(ones * shape[0])
                    continue
                for _ in range(shape[0]):
                    file.write(block[2 * at : 2 * (at + shape[1])])
                    at = (at + STEP) % BLOCK
        total += offset
        print(f"\r{number + 1}/{len(shards)}", end="", flush=True)
    print(f"\n{total} bytes")

    with open(os.path.join(options.folder, "model.safetensors.index.json"), "w") as file:
        json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, file)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": layers,
              "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
              "max_position_embeddings": 4096, "tie_word_embeddings": False, "hidden_act": "silu", "torch_dtype": "float16", "bos_token_id": 1, "eos_token_id": 2}
    with open(os.path.join(options.folder, "config.json"), "w") as file:
        json.dump(config, file, indent=1)
    with open(os.path.join(options.folder, "windows.json"), "w") as file:
        json.dump([[generator.randrange(3, vocabulary) for _ in range(128)] for _ in range(32)], file)


if __name__ == "__main__":
    main()
