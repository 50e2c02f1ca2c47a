"""Exports of a real model, read by the programs they are for.

    exports.py files        --program LSAQ --model MODEL                            gguf and safetensors packages
    exports.py transformers --program LSAQ --model MODEL --tokenize P --text FILE   compressed-tensors and transformers, on the CPU
    exports.py llama_cpp    --program LSAQ --model MODEL --tokenize P --text FILE --engine llama_cpp_run [--embedded lsaq_in_llama_cpp]

`files`: every linear of the GGUF file and of the compressed-tensors folder, dequantized by the gguf package or by arithmetic on what safetensors reads, is the
code x scale that `lsaq quantize` keeps in its own file, bit for bit, rows of queries and keys where the format has them.
`transformers`: the library's own decompression gives these weights, and the model the likelihoods of `lsaq eval`, within 0.001 nats a token.
`llama_cpp`: llama.cpp gives the likelihoods of `lsaq eval` within 0.02 nats a token (0.001 with all layers at 16 bits: its products of codes round the activations to
int8); with --embedded also the importance of layers that `lsaq importance` finds (Spearman above 0.98).
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

PROJECTIONS = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
               "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def check(condition, sentence):
    print(("ok   " if condition else "FAIL ") + sentence, flush=True)
    return bool(condition)


def output(*words):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"FAIL {' '.join(map(str, words))}: exit {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def result(program, *words):
    return json.loads(output(program, *words, "--json"))


class Exports:
    """The model's exports by one plan, in a folder of their own, and what they must hold."""

    def __init__(self, program, model, folder):
        self.program, self.model, self.folder = program, model, pathlib.Path(folder)
        self.info = result(program, "inspect", model)
        layers = self.info["layers"]
        self.bits = [(8, 4, 4, 8, 16)[layer % 5] for layer in range(layers)]
        self.plan = self.folder / "plan.json"
        self.plan.write_text(json.dumps({"bits": self.bits}))

    def export(self, form, name):
        path = self.folder / name
        if not path.exists():
            output(self.program, "quantize", self.model, "--plan", self.plan, "--format", form, "-o", path)
        return path

    def windows(self, tokenize, text, count=3, length=256):
        ids = json.loads(output(tokenize, self.model, text))
        path = self.folder / "windows.json"
        windows = [ids[i * length:(i + 1) * length] for i in range(min(count, len(ids) // length))]
        path.write_text(json.dumps(windows))
        return path, windows

    def gguf_rows(self, weights, name):
        """Rows of queries and keys as GGUF files have them: the two halves of each head interleaved."""
        heads = {"self_attn.q_proj": self.info["heads"], "self_attn.k_proj": self.info["kv_heads"]}.get(name)
        if heads is None:
            return weights
        return weights.reshape(heads, 2, weights.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weights.shape)

    def expected(self):
        """(layer, linear) -> code x scale in FP32, or the 16-bit weights; rows as Hugging Face has them."""
        from safetensors.numpy import load_file

        stored = load_file(self.export("packed", "layers.safetensors"))
        is_gguf = self.info["file_format"] == "gguf"
        for layer, bits in enumerate(self.bits):
            for name in PROJECTIONS:
                prefix = f"model.layers.{layer}.{name}.weight"
                weights = unpacked(stored, prefix, bits)
                yield layer, name, self.hugging_face_rows(weights, name) if is_gguf else weights

    def hugging_face_rows(self, weights, name):
        heads = {"self_attn.q_proj": self.info["heads"], "self_attn.k_proj": self.info["kv_heads"]}.get(name)
        if heads is None:
            return weights
        return weights.reshape(heads, weights.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(weights.shape)


def unpacked(stored, prefix, bits):
    """The weights of a linear in FP32: 32-bit words of code + 2^(bits-1), lowest bits first, times the row's scale."""
    if bits == 16:
        return stored[prefix].astype(np.float32)
    words = stored[prefix + "_packed"].view(np.uint32)
    rows, columns = stored[prefix + "_shape"]
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    codes = ((words[:, :, None] >> shifts) & np.uint32((1 << bits) - 1)).reshape(words.shape[0], -1)[:, :columns].astype(np.int32) - (1 << (bits - 1))
    assert codes.shape == (rows, columns)
    return codes.astype(np.float32) * stored[prefix + "_scale"].astype(np.float32)


def check_files(exports):
    import gguf
    from safetensors.numpy import load_file

    reader = gguf.GGUFReader(exports.export("gguf", "model.gguf"))
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    folder = exports.export("compressed-tensors", "folder")
    stored = {}
    for file in folder.glob("*.safetensors"):
        stored.update(load_file(file))
    good, kinds, equal_gguf, equal_folder = True, {}, 0, 0
    for layer, name, expected in exports.expected():
        bits = exports.bits[layer]
        tensor = tensors[f"blk.{layer}.{PROJECTIONS[name]}.weight"]
        kinds.setdefault(bits, set()).add(tensor.tensor_type.name)
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        equal_gguf += np.array_equal(found.view(np.uint32), exports.gguf_rows(expected, name).view(np.uint32))
        equal_folder += np.array_equal(unpacked(stored, f"model.layers.{layer}.{name}.weight", bits).view(np.uint32), expected.view(np.uint32))
    total = len(exports.bits) * len(PROJECTIONS)
    good &= check(equal_gguf == total, f"GGUF: {equal_gguf} of {total} linears dequantized by the gguf package are ours bit for bit, types {kinds}")
    good &= check(equal_folder == total, f"compressed-tensors: {equal_folder} of {total} linears are ours bit for bit")
    good &= check(kinds[8] == {"Q8_0"} and kinds[4] == {"Q4_0"} and kinds[16] <= {"F16", "BF16"}, "types of the blocks")
    field = reader.get_field("lsaq.bits")
    good &= check([int(field.parts[i][0]) for i in field.data] == exports.bits, "lsaq.bits")
    embedding = tensors["token_embd.weight"].data.astype(np.float32) if kinds[16] == {"F16"} else None
    if embedding is not None:
        good &= check(np.array_equal(embedding, stored["model.embed_tokens.weight"].astype(np.float32)), "both have the same embedding")
    return good


def check_transformers(exports, tokenize, text):
    os.environ["TQDM_DISABLE"] = "1"
    import torch
    import transformers

    good = True
    path, windows = exports.windows(tokenize, text)
    folder = exports.export("compressed-tensors", "folder")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(pathlib.Path(text).read_text(), add_special_tokens=False)["input_ids"]
    expected_ids = json.loads(output(tokenize, exports.model, text))
    good &= check(ids == expected_ids, f"the tokenizer gives the {len(ids)} ids of the original")
    found = likelihood(model, torch, windows)  # the first run decompresses the weights
    good &= check_likelihood(exports, path, windows, found, 0.001, "transformers")
    state = dict(model.named_parameters())
    equal = 0
    for layer, name, expected in exports.expected():
        equal += np.array_equal(state[f"model.layers.{layer}.{name}.weight"].detach().numpy().view(np.uint32), expected.view(np.uint32))
    total = len(exports.bits) * len(PROJECTIONS)
    good &= check(equal == total, f"{equal} of {total} weights as transformers has them are code x scale bit for bit")
    return good


def likelihood(model, torch, windows):
    sums = []
    with torch.no_grad():
        for window in windows:
            ids = torch.tensor([window])
            scores = torch.log_softmax(model(ids).logits[0, :-1].double(), dim=-1)
            sums.append(-scores.gather(1, ids[0, 1:, None]).sum().item())
    return sums


def check_likelihood(exports, path, windows, sums, tolerance, who, *options):
    tokens = sum(len(window) - 1 for window in windows)
    ours = result(exports.program, "eval", exports.model, *(options or ("--plan", exports.plan)), "--token-ids", path)["nll"]
    found = sum(sums) / tokens
    return check(abs(found - ours) <= tolerance, f"{who}: {found:.6f} nats a token, lsaq eval {ours:.6f}: {found - ours:+.6f}, at most {tolerance}")


def check_llama_cpp(exports, tokenize, text, engine, embedded):
    good = True
    path, windows = exports.windows(tokenize, text)
    sums = json.loads(output(engine, exports.export("gguf", "model.gguf"), "--token-ids", path))
    good &= check_likelihood(exports, path, windows, sums, 0.02, "llama.cpp, mixed")
    plain = exports.folder / "f16.gguf"
    output(exports.program, "quantize", exports.model, "--bits", "16", "--format", "gguf", "-o", plain)
    sums = json.loads(output(engine, plain, "--token-ids", path))
    good &= check_likelihood(exports, path, windows, sums, 0.001, "llama.cpp, F16", "--bits", "16")
    if not embedded:
        return good
    path, _ = exports.windows(tokenize, text, 32, 128)
    made = exports.folder / "embedded.gguf"
    text = output(embedded, plain, path, made, str(round(0.6 * exports.info["bytes"]["fp16"])), "Once upon a time")
    engine_scores = json.loads((exports.folder / "embedded.gguf.importance.json").read_text())["scores"]
    ours = result(exports.program, "importance", plain, "--token-ids", path)["scores"]
    ranks = [np.argsort(np.argsort(scores)) for scores in (engine_scores, ours)]
    correlation = np.corrcoef(*ranks)[0, 1]
    difference = max(abs(a - b) for a, b in zip(engine_scores, ours))
    good &= check(correlation > 0.98, f"importance observed in llama.cpp and by lsaq importance: Spearman {correlation:.4f}, scores differ by at most {difference:.4f}")
    again = output(engine, made, "--prompt", "Once upon a time", "--tokens", "48")
    good &= check(len(text.strip()) > 0 and text.strip() == again.strip(), f"what it generates from its file is what llama.cpp generates: {text.strip()[:60]!r}")
    good &= check(result(exports.program, "inspect", made)["bytes"]["file"] < 0.62 * exports.info["bytes"]["fp16"], "the file fits its budget")
    return good


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["files", "transformers", "llama_cpp"])
    for name in ("program", "model", "tokenize", "text", "engine", "embedded"):
        parser.add_argument("--" + name)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        exports = Exports(options.program, options.model, folder)
        if options.what == "files":
            return 0 if check_files(exports) else 1
        if options.what == "transformers":
            return 0 if check_transformers(exports, options.tokenize, options.text) else 1
        return 0 if check_llama_cpp(exports, options.tokenize, options.text, options.engine, options.embedded) else 1


if __name__ == "__main__":
    sys.exit(main())
