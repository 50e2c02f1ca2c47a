"""The models of the reference: a Llama GGUF read with the gguf package, and small random Llama models.

Everything is computed in FP32 by transformers' LlamaForCausalLM from the very values the files hold, with two rules that the library shares:
matrices of a GGUF are dequantized to FP32 and rounded to FP16 first, and norm gains stay as they are stored.
"""

import copy
import json
import math
import pathlib
from dataclasses import dataclass, field
from typing import Optional

import gguf
import gguf.quants
import numpy as np
import torch
from torch.utils import mkldnn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

# GGUF's name of each tensor of a layer, and transformers'.
LAYER_TENSORS = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def permute_for_gguf(weight, heads):
    """Rows of a Q or K matrix from transformers' order (rotated pairs half a head apart) to GGUF's (pairs side by side)."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def unpermute_from_gguf(weight, heads):
    """The inverse of permute_for_gguf."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def load_gguf(path):
    """A LlamaForCausalLM in FP32 from a GGUF file of architecture llama without RoPE scaling."""
    reader = gguf.GGUFReader(str(path))

    def value(key, default=None):
        return reader.fields[key].contents() if key in reader.fields else default

    if value("general.architecture") != "llama":
        raise SystemExit(f"{path}: architecture is {value('general.architecture')!r}, only 'llama' is known here")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    if "rope_freqs.weight" in tensors or "llama.rope.scaling.type" in reader.fields:
        raise SystemExit(f"{path}: RoPE scaling in a GGUF is not known here")
    heads = value("llama.attention.head_count")
    key_heads = value("llama.attention.head_count_kv", heads)
    config = LlamaConfig(
        vocab_size=int(tensors["token_embd.weight"].shape[1]),
        hidden_size=value("llama.embedding_length"),
        intermediate_size=value("llama.feed_forward_length"),
        num_hidden_layers=value("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=value("llama.context_length"),
        rms_norm_eps=value("llama.attention.layer_norm_rms_epsilon"),
        rope_theta=value("llama.rope.freq_base", 10000.0),
        tie_word_embeddings="output.weight" not in tensors,
    )

    def read(name):
        tensor = tensors[name]
        data = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if data.ndim == 1:
            return torch.from_numpy(data)
        data = data.astype(np.float16).astype(np.float32)
        if name.endswith("attn_q.weight"):
            data = unpermute_from_gguf(data, heads)
        if name.endswith("attn_k.weight"):
            data = unpermute_from_gguf(data, key_heads)
        return torch.from_numpy(np.ascontiguousarray(data))

    state = {"model.embed_tokens.weight": read("token_embd.weight"), "model.norm.weight": read("output_norm.weight")}
    state["lm_head.weight"] = state["model.embed_tokens.weight"] if config.tie_word_embeddings else read("output.weight")
    for layer in range(config.num_hidden_layers):
        for ours, theirs in LAYER_TENSORS.items():
            state[f"model.layers.{layer}.{theirs}.weight"] = read(f"blk.{layer}.{ours}.weight")
    model = LlamaForCausalLM(config)
    model.load_state_dict(state)
    return model.eval()


def with_fast_products(model):
    """The same model with its linear layers computed by oneDNN, in FP32 too: a distribution's torch may sit on the reference BLAS, 20 times slower."""
    return mkldnn.to_mkldnn(model) if torch.backends.mkldnn.is_available() else model


@dataclass
class RandomModel:
    """One small random model: its shape, how it is stored, the k of its token sets and the lengths of its windows."""

    name: str
    seed: int
    hidden: int
    ffn: int
    layers: int
    heads: int
    key_heads: int
    vocabulary: int
    tied: bool
    dtype: torch.dtype
    k: int
    windows: list
    theta: float = 10000.0
    head_dim: Optional[int] = None  # None: hidden / heads
    rope_scaling: Optional[dict] = None
    max_shard_size: str = "1GB"
    gguf_types: Optional[dict] = field(default=None)  # also written as a GGUF: type of the matrices by GGUF name, "" for all others


RANDOM_MODELS = [
    RandomModel("untied-f32", 1, 64, 176, 4, 4, 2, 320, False, torch.float32, 10, [2, 24, 33, 7],
                gguf_types={"": gguf.GGMLQuantizationType.F16}),
    RandomModel("tied-bf16-sharded", 2, 96, 256, 5, 6, 3, 512, True, torch.bfloat16, 20, [40, 17, 64], max_shard_size="100KB",
                gguf_types={"": gguf.GGMLQuantizationType.Q8_0, "ffn_gate": gguf.GGMLQuantizationType.Q4_1,
                            "ffn_up": gguf.GGMLQuantizationType.Q4_1, "ffn_down": gguf.GGMLQuantizationType.Q4_1}),
    RandomModel("llama3-rope", 3, 64, 192, 4, 4, 2, 300, False, torch.bfloat16, 10, [150, 90, 12], theta=500000.0,
                rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                              "original_max_position_embeddings": 64}),
    RandomModel("multi-query-f16", 4, 80, 208, 4, 5, 1, 401, True, torch.float16, 10, [200, 131, 50]),
    RandomModel("wide-heads", 5, 64, 160, 3, 4, 4, 320, False, torch.float32, 10, [30, 45], head_dim=24),
]


def llama3_frequencies(head_dim, theta, scaling):
    """The rotation per position of each pair after Llama 3.1's rule (Meta's reference code, apply_scaling).

    Pairs that turn at least high_freq_factor times within the original context are kept, those that turn at most low_freq_factor times are slowed by
    factor, and between the two the rate goes linearly in the number of turns.
    """
    frequencies = []
    for pair in range(head_dim // 2):
        frequency = theta ** (-2.0 * pair / head_dim)
        turns = scaling["original_max_position_embeddings"] * frequency / (2.0 * math.pi)
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        kept = min(max((turns - low) / (high - low), 0.0), 1.0)
        frequencies.append(kept * frequency + (1.0 - kept) * frequency / scaling["factor"])
    return torch.tensor(frequencies, dtype=torch.float32)


def adapt_attention(model, spec):
    """What this version of transformers cannot express in its configuration: head sizes of their own and Llama 3.1's RoPE."""
    for layer in model.model.layers:
        attention = layer.self_attn
        if spec.head_dim is not None:
            width = spec.heads * spec.head_dim
            attention.head_dim = spec.head_dim
            attention.hidden_size = width  # here only the width of the concatenated heads
            attention.q_proj = torch.nn.Linear(spec.hidden, width, bias=False)
            attention.k_proj = torch.nn.Linear(spec.hidden, spec.key_heads * spec.head_dim, bias=False)
            attention.v_proj = torch.nn.Linear(spec.hidden, spec.key_heads * spec.head_dim, bias=False)
            attention.o_proj = torch.nn.Linear(width, spec.hidden, bias=False)
            attention.rotary_emb = LlamaRotaryEmbedding(spec.head_dim, base=spec.theta)
        if spec.rope_scaling is not None:
            attention.rotary_emb.inv_freq = llama3_frequencies(attention.head_dim, spec.theta, spec.rope_scaling)


def random_weights(model, spec):
    """Fills the model from the seed, so that every layer changes its input and no two by the same amount, and rounds to the stored type."""
    generator = torch.Generator().manual_seed(spec.seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            if weight.dim() == 1:
                drawn = 1.0 + 0.2 * drawn
            elif name == "model.embed_tokens.weight":
                drawn = 0.3 * drawn
            else:
                drawn = drawn / math.sqrt(weight.shape[1])
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    layer = int(name.split(".")[2])
                    drawn = drawn * (0.2 + 0.3 * ((layer * 7) % 5))
                elif name.endswith(("q_proj.weight", "k_proj.weight")):
                    drawn = drawn * 1.5  # attention that is not nearly uniform
            weight.copy_(drawn.to(spec.dtype))


def make_random(spec):
    """The random model in FP32, its weights exactly as they are stored."""
    config = LlamaConfig(
        vocab_size=spec.vocabulary, hidden_size=spec.hidden, intermediate_size=spec.ffn, num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads, num_key_value_heads=spec.key_heads, max_position_embeddings=512, rms_norm_eps=1e-5,
        rope_theta=spec.theta, tie_word_embeddings=spec.tied, bos_token_id=1, eos_token_id=2)
    model = LlamaForCausalLM(config)
    adapt_attention(model, spec)
    random_weights(model, spec)
    return model.eval()


def save_hugging_face(model, spec, folder):
    """Writes a Hugging Face folder in the spec's type and shards, with the keys this version of transformers does not know added to config.json."""
    stored = copy.deepcopy(model).to(spec.dtype)  # a copy: to() would round the RoPE frequencies of the model for good
    stored.save_pretrained(folder, safe_serialization=True, max_shard_size=spec.max_shard_size)
    path = pathlib.Path(folder) / "config.json"
    config = json.loads(path.read_text())
    config["torch_dtype"] = str(spec.dtype).removeprefix("torch.")
    if spec.head_dim is not None:
        config["head_dim"] = spec.head_dim
    if spec.rope_scaling is not None:
        config["rope_scaling"] = spec.rope_scaling
    path.write_text(json.dumps(config, indent=2) + "\n")


def save_gguf(model, spec, path):
    """Writes the model as a GGUF without a tokenizer, Q and K permuted, matrices in the spec's types, norms F32."""
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name(spec.name)
    writer.add_block_count(spec.layers)
    writer.add_context_length(512)
    writer.add_embedding_length(spec.hidden)
    writer.add_feed_forward_length(spec.ffn)
    writer.add_head_count(spec.heads)
    writer.add_head_count_kv(spec.key_heads)
    writer.add_rope_dimension_count(spec.hidden // spec.heads)
    writer.add_rope_freq_base(spec.theta)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(spec.vocabulary)

    def add(name, weight):
        data = np.ascontiguousarray(weight.detach().numpy())
        if data.ndim == 1:
            writer.add_tensor(name + ".weight", data)
            return
        if name.endswith("attn_q"):
            data = np.ascontiguousarray(permute_for_gguf(data, spec.heads))
        if name.endswith("attn_k"):
            data = np.ascontiguousarray(permute_for_gguf(data, spec.key_heads))
        kind = spec.gguf_types.get(name.split(".")[-1], spec.gguf_types[""])
        writer.add_tensor(name + ".weight", gguf.quants.quantize(data, kind), raw_dtype=kind)

    add("token_embd", model.model.embed_tokens.weight)
    add("output_norm", model.model.norm.weight)
    if not spec.tied:
        add("output", model.lm_head.weight)
    parameters = dict(model.named_parameters())
    for layer in range(spec.layers):
        for ours, theirs in LAYER_TENSORS.items():
            add(f"blk.{layer}.{ours}", parameters[f"model.layers.{layer}.{theirs}.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def random_windows(spec):
    """Token ids of the spec's windows."""
    generator = torch.Generator().manual_seed(1000 + spec.seed)
    return [torch.randint(0, spec.vocabulary, (length,), generator=generator).tolist() for length in spec.windows]
