"""Checkpoints whose linears other programs have rounded, dequantized again: for lsaq_bench_other_weights, beside lsaq compare.

    rounded_models.py ggml MODEL OUT --library LIBRARY [--types Q8_0,Q4_0,Q4_K]
    rounded_models.py gptq MODEL OUT --ids CALIBRATION_IDS [--group 32]

MODEL is a Hugging Face folder; OUT becomes a folder with one checkpoint for each type. ggml: ggml_quantize_chunk and its own dequantizers, from LIBRARY
(libggml-base.so, as llama-cpp-python builds it); where a row is no multiple of 256 weights, Q4_K becomes Q5_0 as llama.cpp's quantizer does it. gptq: llm-compressor's
GPTQModifier, INT4 by channel or group, symmetric, on the windows of CALIBRATION_IDS (llmcompressor 0.5.1 with transformers 4.51.3; it cannot trace those of 4.57).
The bits of a weight, scales included, are printed: those of the linears alone, all else stays as it is.
"""

import argparse
import ctypes
import json
import pathlib
import shutil
import warnings

import torch
from safetensors.torch import load_file, save_file

TYPES = {"Q4_0": (2, 32, 18, "q4_0"), "Q5_0": (6, 32, 22, "q5_0"), "Q8_0": (8, 32, 34, "q8_0"), "Q4_K": (12, 256, 144, "q4_K")}


def load(folder):
    weights = {}
    for path in sorted(pathlib.Path(folder).glob("*.safetensors")):
        weights.update(load_file(path))
    return weights


def save(weights, folder, out):
    out.mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (pathlib.Path(folder) / name).exists():
            shutil.copy(pathlib.Path(folder) / name, out)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, out / "model.safetensors", metadata={"format": "pt"})


def is_linear(name):
    return name.startswith("model.layers.") and name.endswith("_proj.weight")


def by_ggml(options):
    library = ctypes.CDLL(options.library)

    class Parameters(ctypes.Structure):
        _fields_ = [("mem_size", ctypes.c_size_t), ("mem_buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool)]

    library.ggml_init.argtypes, library.ggml_init.restype = [Parameters], ctypes.c_void_p
    library.ggml_init(Parameters(1 << 20, None, False))  # fills the table that FP16 scales are looked up in
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    library.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [ctypes.c_void_p]
    original = load(options.model)
    for kind in options.types.split(","):
        weights, bits, count = dict(original), 0, 0
        for name, tensor in original.items():
            if not is_linear(name):
                continue
            number, block, block_bytes, function = TYPES[kind if tensor.shape[1] % TYPES[kind][1] == 0 else "Q5_0"]
            values = tensor.float().contiguous()
            packed = torch.zeros(values.numel() // block * block_bytes, dtype=torch.uint8)
            written = library.ggml_quantize_chunk(number, values.data_ptr(), packed.data_ptr(), 0, values.shape[0], values.shape[1], None)
            assert written == packed.numel()
            dequantize = getattr(library, f"dequantize_row_{function}")
            dequantize.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
            restored = torch.empty_like(values)
            dequantize(packed.data_ptr(), restored.data_ptr(), values.numel())
            error = ((restored - values).norm() / values.norm()).item()
            assert error < 0.2, f"{name} as {kind} is {error} away from itself"
            weights[name] = restored
            bits, count = bits + 8 * packed.numel(), count + values.numel()
        save(weights, options.model, options.out / kind)
        print(f"{options.out / kind}: {bits / count:.3f} bits a weight")


def by_gptq(options):
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.quantization import GPTQModifier
    from transformers import AutoModelForCausalLM

    # Where it cannot trace a model, llm-compressor goes on with another pipeline, on layers it has rounded already: those are rounded twice.
    warnings.filterwarnings("error", message="Falling back")
    windows = json.loads(pathlib.Path(options.ids).read_text())
    data = Dataset.from_dict({"input_ids": windows, "attention_mask": [[1] * len(window) for window in windows]})
    for group in (None, options.group):
        scheme = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group" if group else "channel", "group_size": group}
        recipe = GPTQModifier(config_groups={"group_0": {"targets": ["Linear"], "weights": scheme}}, ignore=["lm_head"])
        model = AutoModelForCausalLM.from_pretrained(options.model, torch_dtype=torch.float32)
        oneshot(model=model, dataset=data, recipe=recipe, max_seq_length=len(windows[0]), num_calibration_samples=len(windows))
        original, weights, bits, count = load(options.model), {}, 0, 0
        rounded = model.state_dict()
        for name, tensor in original.items():
            weights[name] = rounded[name].float() if is_linear(name) else tensor
            if is_linear(name):
                distinct = torch.unique(rounded[name][0]).numel()
                assert distinct <= 16 * (1 if group is None else tensor.shape[1] // group), f"{name} is not rounded: {distinct} values in a row"
                bits, count = bits + 4 * tensor.numel() + 16 * tensor.numel() // (group or tensor.shape[1]), count + tensor.numel()
        out = options.out / f"gptq-{f'group-{group}' if group else 'channel'}"
        save(weights, options.model, out)
        print(f"{out}: {bits / count:.3f} bits a weight")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", choices=("ggml", "gptq"))
    parser.add_argument("model")
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--library")
    parser.add_argument("--types", default="Q8_0,Q4_0,Q4_K")
    parser.add_argument("--ids")
    parser.add_argument("--group", type=int, default=32)
    options = parser.parse_args()
    by_ggml(options) if options.program == "ggml" else by_gptq(options)


if __name__ == "__main__":
    main()
