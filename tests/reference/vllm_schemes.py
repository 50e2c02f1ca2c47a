"""What vLLM makes of a compressed-tensors folder, without a GPU: vllm_schemes.py FOLDER...

Reads config.json by vLLM's own configuration, lets it choose the scheme of every linear as its Llama model names them (qkv_proj, gate_up_proj), and creates the
parameters it would load into; nothing is computed. Checked: each linear has the bits of lsaq_plan.json, the parameters have the shapes, names and types of the
folder's tensors, the head is not quantized. Kernels are chosen as on a CUDA device of capability 8.0: which is printed, and why where there is none.

Needs vllm 0.19.1 and compressed-tensors 0.15 in an environment like that of make_export_environment.sh (torch 2.10).
"""

import collections
import json
import pathlib
import sys

import torch
from safetensors import safe_open
from vllm import platforms
from vllm.model_executor import parameter
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors import CompressedTensorsConfig

FUSED = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}  # LlamaForCausalLM.packed_modules_mapping
DTYPES = {"float16": (torch.float16, "F16"), "bfloat16": (torch.bfloat16, "BF16"), "float32": (torch.float32, "F32")}


class Device:
    """A CUDA device of capability 8.0, as far as choosing asks for one."""

    _enum = platforms.PlatformEnum.CUDA

    def __getattr__(self, name):
        if name.startswith("is_"):
            return lambda *_: name in ("is_cuda", "is_cuda_alike")
        return getattr(platforms.current_platform, name)

    def get_device_capability(self, *_):
        return platforms.interface.DeviceCapability(8, 0)

    def has_device_capability(self, capability, *_):
        return capability <= (80 if isinstance(capability, int) else (8, 0))


class Linear(LinearBase):
    def __init__(self):
        torch.nn.Module.__init__(self)


def linears(config):
    """Name as vLLM has it -> columns, rows of each part."""
    hidden, ffn, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    head = config.get("head_dim") or hidden // heads
    kv = config["num_key_value_heads"] * head
    return {"self_attn.qkv_proj": (hidden, [heads * head, kv, kv]), "self_attn.o_proj": (heads * head, [hidden]),
            "mlp.gate_up_proj": (hidden, [ffn, ffn]), "mlp.down_proj": (ffn, [hidden])}


def check(folder):
    config = json.loads((folder / "config.json").read_text())
    stored = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():
                one = tensors.get_slice(name)
                stored[name] = (tuple(one.get_shape()), one.get_dtype())
    quantization = CompressedTensorsConfig.from_config(config["quantization_config"])
    quantization.packed_modules_mapping = FUSED
    dtype, scale_type = DTYPES[config["torch_dtype"]]
    wrong, kernels, refused = [], collections.Counter(), collections.Counter()
    for layer, bits in enumerate(json.loads((folder / "lsaq_plan.json").read_text())["bits"]):
        for name, (columns, rows) in linears(config).items():
            full, module = f"model.layers.{layer}.{name}", Linear()
            method = quantization.get_quant_method(module, full)
            found = 16 if isinstance(method, UnquantizedLinearMethod) else 32 // module.scheme.pack_factor
            if found != bits:
                wrong.append(f"{full}: {found} bits, planned {bits}")
            if found == 16:
                continue
            try:
                module.scheme.create_weights(layer=module, output_size=sum(rows), input_size=columns, output_partition_sizes=rows,
                                             input_size_per_partition=columns, params_dtype=dtype, weight_loader=lambda *_: None)
            except ValueError as error:
                refused[str(error).split("MarlinLinearKernel cannot implement due to: ")[-1].splitlines()[0]] += 1
                continue
            kernels[type(module.scheme.kernel).__name__] += 1
            group, _, last = full.rpartition(".")
            for part, part_rows in zip(FUSED.get(last, [last]), rows):
                tensors = {key.rpartition(".")[2]: value for key, value in stored.items() if key.startswith(f"{group}.{part}.")}
                wanted = {"weight_shape": ((2,), "I64")}
                for key, kind in (("weight_packed", "I32"), ("weight_scale", scale_type)):
                    wanted[key] = ((part_rows, getattr(module, key).shape[1]), kind)
                if tensors != wanted or {key for key, _ in module.named_parameters()} != set(wanted):
                    wrong.append(f"{group}.{part}: {tensors}, vLLM loads {wanted}")
    if not isinstance(quantization.get_quant_method(Linear(), "lm_head"), UnquantizedLinearMethod):
        wrong.append("lm_head is quantized")
    for sentence in wrong:
        print("FAIL " + sentence)
    print(f"{'FAIL' if wrong else 'ok  '} {folder}: {len(wrong)} differences; kernels {dict(kernels)}")
    for reason, count in refused.items():
        print(f"     no kernel for {count}: {reason}")
    return not wrong


def main():
    device = Device()
    for name, module in list(sys.modules.items()):
        if name.startswith("vllm.") and name != "vllm.platforms" and getattr(module, "current_platform", None) is not None:
            module.current_platform = device
    parameter.get_tensor_model_parallel_rank, parameter.get_tensor_model_parallel_world_size = lambda: 0, lambda: 1
    return 0 if all([check(pathlib.Path(folder)) for folder in sys.argv[1:]]) else 1


if __name__ == "__main__":
    sys.exit(main())
