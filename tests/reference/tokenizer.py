"""The reference tokenizer: the Hugging Face tokenizers library, built from the vocabulary and merges that a GGUF file holds."""

import json
import pathlib
import subprocess

import gguf
from tokenizers import Tokenizer, models, pre_tokenizers

# What transformers' tokenizer.json of the model family does before BPE, by the name GGUF gives it.
PRE_TOKENIZERS = {
    "smollm": lambda: pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
}


def from_gguf(path):
    """A Tokenizer that knows no special tokens: all text is running text."""
    reader = gguf.GGUFReader(str(path))

    def value(key):
        if key not in reader.fields:
            raise SystemExit(f"{path}: no {key}")
        return reader.fields[key].contents()

    if value("tokenizer.ggml.model") != "gpt2" or value("tokenizer.ggml.pre") not in PRE_TOKENIZERS:
        raise SystemExit(f"{path}: tokenizer {value('tokenizer.ggml.model')!r} with pre-tokenizer {value('tokenizer.ggml.pre')!r} is not known here")
    vocabulary = {token: index for index, token in enumerate(value("tokenizer.ggml.tokens"))}
    merges = [tuple(merge.split(" ")) for merge in value("tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[value("tokenizer.ggml.pre")]()
    return tokenizer


def read_text(path):
    """The file's text, byte for byte: no newline is translated."""
    return pathlib.Path(path).read_bytes().decode("utf-8")


def compare(model, program, texts):
    """True if `program MODEL FILE` prints exactly the reference's ids for every text file; reports each file."""
    tokenizer = from_gguf(model)
    equal = True
    for text in texts:
        wanted = tokenizer.encode(read_text(text), add_special_tokens=False).ids
        try:
            got = json.loads(subprocess.run([str(program), str(model), str(text)], stdout=subprocess.PIPE, check=True).stdout)
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            print(f"FAIL {text}: {error}")
            equal = False
            continue
        if got == wanted:
            print(f"ok   {text}: {len(wanted)} tokens")
            continue
        equal = False
        at = next((i for i, (a, b) in enumerate(zip(got, wanted)) if a != b), min(len(got), len(wanted)))
        before = tokenizer.decode(wanted[max(0, at - 8):at])
        around = [[(i, tokenizer.id_to_token(i)) for i in ids[at:at + 4]] for ids in (wanted, got)]
        print(f"FAIL {text}: {len(got)} tokens, reference {len(wanted)}; first difference at token {at} after {before!r}: "
              f"reference {around[0]}, program {around[1]}")
    return equal
