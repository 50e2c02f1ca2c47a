#!/usr/bin/env python3
"""The project's own reference: models, what a program must find for them, and the comparison. Needs the environment of make_environment.sh.

    reference.py make --out DIR [--gguf FILE]            writes models, windows and expected results; with FILE also for that GGUF model
    reference.py compare --dir DIR --program PATH        runs lsaq_reference_dump on each and checks what it wrote; exit 1 if a bound is exceeded
    reference.py compare --golden DIR --gguf FILE --program PATH      the same against arrays that were made elsewhere
    reference.py tokenizer --gguf FILE --program PATH TEXT...         lsaq_tokenize against the tokenizers library; exit 1 at a difference
"""

import argparse
import hashlib
import json
import os
import pathlib
import shutil
import sys

CALIBRATION_TEXT = pathlib.Path(__file__).resolve().parents[2] / "examples" / "lsaq" / "calibration.txt"
# Windows of the GGUF model: (first token, length) within the calibration text, spread over its topics, and four prompts in that model's ids:
# "The capital of France is", the opening of a tale, the opening of a Python function, and two sentences of prose.
CALIBRATION_WINDOWS = [(0, 128), (1000, 96), (2000, 48), (3000, 113), (4000, 64), (5000, 77)]
PROMPTS = [
    [504, 3575, 282, 4649, 314],
    [6403, 1980, 253, 655, 28, 665, 436, 253, 1838, 8180, 617, 4161, 281],
    [1604, 3987, 46477, 24, 94, 727, 472, 585, 304, 10204, 216, 33, 42, 448, 1003],
    [504, 2365, 6354, 16438, 27003, 690, 260, 23790, 2767, 30, 533, 260, 1584, 5738, 28, 260, 13497, 13197, 288, 260, 1955, 284],
]
GGUF_K = 50


def inputs_digest(gguf_path):
    """Changes whenever the made files would: with the scripts, the calibration text and the GGUF file."""
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(__file__).resolve().parent.glob("*.py")) + [CALIBRATION_TEXT]:
        digest.update(path.read_bytes())
    if gguf_path is not None:
        status = os.stat(gguf_path)
        digest.update(f"{pathlib.Path(gguf_path).resolve()} {status.st_size} {status.st_mtime_ns}".encode())
    return digest.hexdigest()


def write_entry(out, name, model_path, model, windows, k):
    """Writes windows and expected results of one model and returns its line of the manifest."""
    import expected

    home = out / name
    home.mkdir(parents=True, exist_ok=True)
    (home / "windows.json").write_text(json.dumps(windows) + "\n")
    expected.save(expected.compute(model, windows, k), home)
    print(f"{name}: {len(windows)} windows, {sum(map(len, windows))} tokens", flush=True)
    return {"name": name, "model": str(model_path)}


def gguf_windows(path):
    """Token ids of the windows for the GGUF model."""
    import tokenizer

    ids = tokenizer.from_gguf(path).encode(tokenizer.read_text(CALIBRATION_TEXT), add_special_tokens=False).ids
    windows = [ids[first:first + length] for first, length in CALIBRATION_WINDOWS]
    if any(len(window) != length for window, (_, length) in zip(windows, CALIBRATION_WINDOWS)):
        raise SystemExit(f"{CALIBRATION_TEXT}: only {len(ids)} tokens, too few for the windows")
    return windows + PROMPTS


def make(arguments):
    out = pathlib.Path(arguments.out)
    digest = inputs_digest(arguments.gguf)
    manifest = out / "manifest.json"
    if manifest.exists() and json.loads(manifest.read_text())["inputs"] == digest:
        print("up to date")
        return True
    manifest.unlink(missing_ok=True)

    import torch

    import models

    torch.set_num_threads(min(2, os.cpu_count() or 1))
    entries = []
    for spec in models.RANDOM_MODELS:
        home = out / spec.name
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        model = models.make_random(spec)
        models.save_hugging_face(model, spec, home / "model")
        windows = models.random_windows(spec)
        entries.append(write_entry(out, spec.name, f"{spec.name}/model", model, windows, spec.k))
        if spec.gguf_types:
            name = f"{spec.name}-gguf"
            shutil.rmtree(out / name, ignore_errors=True)
            (out / name).mkdir()
            models.save_gguf(model, spec, out / name / "model.gguf")
            entries.append(write_entry(out, name, f"{name}/model.gguf", models.load_gguf(out / name / "model.gguf"), windows, spec.k))
    if arguments.gguf:
        model = models.with_fast_products(models.load_gguf(arguments.gguf))
        entries.append(write_entry(out, "gguf", pathlib.Path(arguments.gguf).resolve(), model, gguf_windows(arguments.gguf), GGUF_K))
    manifest.write_text(json.dumps({"inputs": digest, "models": entries}, indent=1) + "\n")
    return True


def compare(arguments):
    import compare as comparison

    if arguments.dir:
        return comparison.compare_made(arguments.dir, arguments.program)
    return comparison.compare_golden(arguments.golden, arguments.gguf, arguments.program)


def compare_tokenizer(arguments):
    import tokenizer

    return tokenizer.compare(arguments.gguf, arguments.program, arguments.texts)


def main():
    parser = argparse.ArgumentParser(description="Makes the reference and compares programs with it.")
    commands = parser.add_subparsers(dest="command", required=True)

    command = commands.add_parser("make", help="write models, windows and expected results")
    command.add_argument("--out", required=True, help="folder to write to")
    command.add_argument("--gguf", help="a Llama GGUF to make the reference of, besides the random models")
    command.set_defaults(run=make)

    command = commands.add_parser("compare", help="check lsaq_reference_dump against the reference")
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--dir", help="a folder that `make` wrote")
    source.add_argument("--golden", help="a folder of golden arrays; needs --gguf")
    command.add_argument("--gguf", help="the model of the golden arrays")
    command.add_argument("--program", required=True, help="path of lsaq_reference_dump")
    command.set_defaults(run=compare)

    command = commands.add_parser("tokenizer", help="check lsaq_tokenize against the tokenizers library")
    command.add_argument("--gguf", required=True)
    command.add_argument("--program", required=True, help="path of lsaq_tokenize")
    command.add_argument("texts", nargs="+", metavar="TEXT")
    command.set_defaults(run=compare_tokenizer)

    arguments = parser.parse_args()
    if arguments.command == "compare" and arguments.golden and not arguments.gguf:
        parser.error("--golden needs --gguf")
    return 0 if arguments.run(arguments) else 1


if __name__ == "__main__":
    sys.exit(main())
