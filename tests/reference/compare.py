"""Judges what a program dumped for a model against the reference.

The program is called as `PROGRAM MODEL WINDOWS.json OUTDIR K` and writes into OUTDIR:
hidden_last.f32 [windows][layers + 1][hidden], logits_last.f32 [windows][vocabulary], top_k.i32 [windows][layers + 1][k] by value descending,
importance.json {"jaccard": [...], "cosine": [...]} and nll.json {"nll": sum over the scored tokens, "tokens": n}.
"""

import json
import math
import pathlib
import subprocess
import tempfile

import numpy as np

import expected

# The largest values allowed; see judge() for what each is a measure of.
BOUNDS = {
    "hidden": 1e-3,
    "logits": 1e-3,
    "top_k": 1e-4,
    "jaccard": 0.02,
    "cosine": 1e-4,
    "perplexity": 1e-3,
    "own_jaccard": 1e-5,
    "own_cosine": 1e-5,
}


class Unusable(Exception):
    """The program failed or what it wrote cannot be compared."""


def run_program(program, model, windows, k, folder):
    """Runs the program and reads its dump."""
    folder = pathlib.Path(folder)
    run = subprocess.run([str(program), str(model), str(windows), str(folder), str(k)], stdout=subprocess.DEVNULL, check=False)
    if run.returncode != 0:
        raise Unusable(f"{program} exited with {run.returncode}")
    dump = {}
    for name, kind in (("hidden_last.f32", "<f4"), ("logits_last.f32", "<f4"), ("top_k.i32", "<i4")):
        if not (folder / name).exists():
            raise Unusable(f"{program} wrote no {name}")
        dump[name.split(".")[0]] = np.fromfile(folder / name, dtype=kind)
    for name in ("importance.json", "nll.json"):
        if not (folder / name).exists():
            raise Unusable(f"{program} wrote no {name}")
        dump.update(json.loads((folder / name).read_text()))
    return dump


def relative_error(got, wanted):
    """L2 norm of the difference over that of the wanted, worst over all but the last dimension; infinite if anything is not a number."""
    if not np.isfinite(got).all():
        return math.inf
    got, wanted = got.astype(np.float64), wanted.astype(np.float64)
    return float((np.linalg.norm(got - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1)).max())


def top_k_error(got, wanted, window, boundary):
    """How far one top-k list is from a right one, relative to the largest absolute value, and how many ids differ as a set.

    The list is right if its ids are the reference's in its order. Elsewhere an id counts by how far its reference value is from that of its place:
    0 for an exchange of equal values, infinite for an id that is no near miss at all or comes twice.
    """
    ids, values = wanted.top_ids[window, boundary], wanted.top_values[window, boundary]
    k = wanted.k
    value_of = dict(zip(ids.tolist(), values.tolist()))
    if len(set(got.tolist())) != k or any(i not in value_of for i in got.tolist()):
        return math.inf, k
    found = np.array([value_of[i] for i in got.tolist()])
    error = float(np.abs(found - values[:k]).max()) / float(wanted.top_scale[window, boundary])
    return error, len(set(got.tolist()) - set(ids[:k].tolist()))


def judge(dump, wanted):
    """Measures of the dump, each to be held against BOUNDS, and the number of top-k sets that differ from the reference's."""
    windows, boundaries, hidden = wanted.hidden_last.shape
    shapes = {"hidden_last": (windows, boundaries, hidden), "logits_last": wanted.logits_last.shape, "top_k": (windows, boundaries, wanted.k),
              "jaccard": (boundaries - 1,), "cosine": (boundaries - 1,)}
    arrays = {}
    for name, shape in shapes.items():
        array = np.asarray(dump.get(name, []))
        if array.size != math.prod(shape):
            raise Unusable(f"{name} has {array.size} values, wanted {' x '.join(map(str, shape))}")
        arrays[name] = array.reshape(shape)

    worst = {"hidden": relative_error(arrays["hidden_last"], wanted.hidden_last), "logits": relative_error(arrays["logits_last"], wanted.logits_last)}
    tops = [top_k_error(arrays["top_k"][w, b], wanted, w, b) for w in range(windows) for b in range(boundaries)]
    worst["top_k"] = max(error for error, _ in tops)
    worst["jaccard"] = float(np.abs(arrays["jaccard"] - wanted.jaccard).max())
    worst["cosine"] = float(np.abs(arrays["cosine"] - wanted.cosine).max())
    if wanted.nll is not None:
        if dump.get("tokens") != wanted.tokens:
            raise Unusable(f"{dump.get('tokens')} tokens scored, wanted {wanted.tokens}")
        worst["perplexity"] = abs(math.expm1((dump["nll"] - wanted.nll) / wanted.tokens))
    # The program's importance must also be what follows from the sets and states that it wrote itself.
    own_jaccard = np.mean([expected.jaccard_importance(window, wanted.k) for window in arrays["top_k"]], axis=0)
    own_cosine = np.mean([expected.cosine_importance(window) for window in arrays["hidden_last"]], axis=0)
    worst["own_jaccard"] = float(np.abs(arrays["jaccard"] - own_jaccard).max())
    worst["own_cosine"] = float(np.abs(arrays["cosine"] - own_cosine).max())
    return worst, sum(1 for _, differing in tops if differing)


def report(results):
    """Prints a table of the worst value of each measure for each model, then a line for each bound exceeded; true if there is none."""
    names = list(BOUNDS)
    width = max([len("model")] + [len(name) for name in results])
    print("  ".join(["model".ljust(width)] + [name.rjust(11) for name in names] + ["sets differing"]))
    print("  ".join(["allowed".ljust(width)] + [f"{BOUNDS[name]:.0e}".rjust(11) for name in names]))
    failures = []
    for model, result in results.items():
        if isinstance(result, Unusable):
            print(model.ljust(width), " unusable")
            failures.append(f"FAIL {model}: {result}")
            continue
        worst, differing = result
        cells = [(f"{worst[name]:.2e}" if name in worst else "-").rjust(11) for name in names]
        print("  ".join([model.ljust(width)] + cells + [f"{differing:14d}"]))
        failures += [f"FAIL {model}: {name} is {value:.3e}, allowed {BOUNDS[name]:.0e}" for name, value in worst.items() if not value <= BOUNDS[name]]
    print("\n".join(failures) if failures else "all within bounds")
    return not failures


def compare_one(program, model, windows, wanted):
    with tempfile.TemporaryDirectory(prefix="lsaq-reference-") as folder:
        try:
            return judge(run_program(program, model, windows, wanted.k, folder), wanted)
        except (Unusable, OSError, ValueError, TypeError, KeyError, OverflowError) as error:
            return error if isinstance(error, Unusable) else Unusable(f"{type(error).__name__}: {error}")


def compare_made(folder, program):
    """Compares the program with everything that `make` put in the folder."""
    folder = pathlib.Path(folder)
    results = {}
    for entry in json.loads((folder / "manifest.json").read_text())["models"]:
        home = folder / entry["name"]
        results[entry["name"]] = compare_one(program, folder / entry["model"], home / "windows.json", expected.load(home))
    return report(results)


def compare_golden(golden, model, program):
    """Compares the program with a folder of arrays made elsewhere: golden.json with prompts, pN_hidden_last.npy, pN_logits_last.npy, pN_topk10/50.npy."""
    import models  # needs torch and transformers' models, which the comparison with made files does not

    golden = pathlib.Path(golden)
    prompts = json.loads((golden / "golden.json").read_text())["prompts"]
    states = np.stack([np.load(golden / f"p{i}_hidden_last.npy") for i in range(len(prompts))])
    logits = np.stack([np.load(golden / f"p{i}_logits_last.npy") for i in range(len(prompts))])
    embedding = models.load_gguf(model).model.embed_tokens.weight.detach()
    results = {}
    with tempfile.TemporaryDirectory(prefix="lsaq-golden-") as folder:
        windows = pathlib.Path(folder) / "windows.json"
        windows.write_text(json.dumps([prompt["ids"] for prompt in prompts]))
        for k in (10, 50):
            wanted = expected.from_states(states, embedding, logits, k)
            stored = np.stack([np.load(golden / f"p{i}_topk{k}.npy") for i in range(len(prompts))])
            moved = sum(set(a) != set(b) for a, b in zip(wanted.top_ids[:, :, :k].reshape(-1, k).tolist(), stored.reshape(-1, k).tolist()))
            if moved:
                print(f"golden: {moved} stored top-{k} sets differ from those that follow from the stored states; the program's are held against the latter")
            wanted.jaccard = np.mean([prompt["importance"][f"jaccard_k{k}"] for prompt in prompts], axis=0)
            wanted.cosine = np.mean([prompt["importance"]["cosine_last"] for prompt in prompts], axis=0)
            results[f"golden, k = {k}"] = compare_one(program, model, windows, wanted)
    return report(results)
