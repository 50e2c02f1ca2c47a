"""What a program must find for a model and its windows: computed here, saved, and loaded again.

A folder holds expected.json (shapes, importance, negative log-likelihood) and raw little-endian arrays:
hidden_last.f32 [windows][layers + 1][hidden], the residual stream at the last position entering each layer and leaving the last, before the final norm;
logits_last.f32 [windows][vocabulary]; top_ids.i32 and top_values.f32 [windows][layers + 1][candidates], the largest of h @ E^T in descending order,
ties to the lower id, twice as many as k so that near misses can be judged; top_scale.f32 [windows][layers + 1], the largest absolute value of h @ E^T.
"""

import json
import math
import pathlib
from dataclasses import dataclass
from typing import Optional

import numpy as np
import torch

ARRAYS = {"hidden_last": "<f4", "logits_last": "<f4", "top_ids": "<i4", "top_values": "<f4", "top_scale": "<f4"}


@dataclass
class Expected:
    """The reference of one model; nll is None where only the last position is known."""

    k: int
    hidden_last: np.ndarray
    logits_last: np.ndarray
    top_ids: np.ndarray
    top_values: np.ndarray
    top_scale: np.ndarray
    jaccard: np.ndarray
    cosine: np.ndarray
    nll: Optional[float] = None
    tokens: Optional[int] = None


def last_states(model, ids):
    """Runs one window: the states [layers + 1, hidden] at the last position, and the logits [positions, vocabulary]."""
    states = []
    layers = model.model.layers
    hooks = [layers[0].register_forward_pre_hook(lambda module, inputs: states.append(inputs[0][0, -1].clone()))]
    hooks += [layer.register_forward_hook(lambda module, inputs, output: states.append(output[0][0, -1].clone())) for layer in layers]
    try:
        with torch.no_grad():
            logits = model(torch.tensor([ids]), use_cache=False).logits[0]
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(states), logits


def negative_log_likelihood(logits, ids):
    """Sum over the window's tokens but the first, in nats."""
    targets = torch.tensor(ids[1:])
    scores = torch.log_softmax(logits[:-1], dim=-1)[torch.arange(len(targets)), targets]
    return -float(scores.double().sum())


def top_candidates(states, embedding, candidates):
    """Ids and values of the largest entries of each row of states @ embedding^T, ties to the lower id, and the largest absolute value."""
    projected = states @ embedding.T
    values, ids = torch.sort(projected, dim=-1, descending=True, stable=True)
    return ids[:, :candidates].int().numpy(), values[:, :candidates].numpy(), projected.abs().amax(dim=-1).numpy()


def jaccard_importance(top_ids, k):
    """1 - |A n B| / |A u B| of the top-k sets around each layer, for one window: [layers]."""
    sets = [set(row[:k].tolist()) for row in top_ids]
    return np.array([1.0 - len(a & b) / len(a | b) for a, b in zip(sets, sets[1:])])


def cosine_importance(states):
    """1 - cos(input, output) of each layer, for one window's states: [layers]."""
    states = np.asarray(states, dtype=np.float64)
    norms = np.linalg.norm(states, axis=1)
    return 1.0 - (states[:-1] * states[1:]).sum(axis=1) / (norms[:-1] * norms[1:])


def from_states(states, embedding, logits, k):
    """The reference that follows from states [windows][layers + 1][hidden] and logits of the last position."""
    candidates = min(2 * k, embedding.shape[0])
    tops = [top_candidates(torch.from_numpy(window), embedding, candidates) for window in states]
    top_ids = np.stack([top[0] for top in tops])
    return Expected(
        k=k, hidden_last=states, logits_last=logits, top_ids=top_ids, top_values=np.stack([top[1] for top in tops]),
        top_scale=np.stack([top[2] for top in tops]), jaccard=np.mean([jaccard_importance(ids, k) for ids in top_ids], axis=0),
        cosine=np.mean([cosine_importance(window) for window in states], axis=0))


def compute(model, windows, k):
    """The reference of a model over windows of token ids."""
    embedding = model.model.embed_tokens.weight.detach()
    states, logits_last, nll = [], [], 0.0
    for ids in windows:
        window_states, logits = last_states(model, ids)
        states.append(window_states.numpy())
        logits_last.append(logits[-1].numpy())
        nll += negative_log_likelihood(logits, ids)
    found = from_states(np.stack(states), embedding, np.stack(logits_last), k)
    found.nll = nll
    found.tokens = sum(len(ids) - 1 for ids in windows)
    return found


def save(found, folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    shapes = {}
    for name, kind in ARRAYS.items():
        array = getattr(found, name)
        shapes[name] = list(array.shape)
        array.astype(kind).tofile(folder / f"{name}.{'i32' if kind == '<i4' else 'f32'}")
    perplexity = None if found.nll is None else math.exp(found.nll / found.tokens)
    text = {"k": found.k, "shapes": shapes, "jaccard": found.jaccard.tolist(), "cosine": found.cosine.tolist(), "nll": found.nll,
            "tokens": found.tokens, "perplexity": perplexity}
    (folder / "expected.json").write_text(json.dumps(text, indent=1) + "\n")


def load(folder):
    folder = pathlib.Path(folder)
    text = json.loads((folder / "expected.json").read_text())
    arrays = {name: np.fromfile(folder / f"{name}.{'i32' if kind == '<i4' else 'f32'}", dtype=kind).reshape(text["shapes"][name])
              for name, kind in ARRAYS.items()}
    return Expected(k=text["k"], jaccard=np.array(text["jaccard"]), cosine=np.array(text["cosine"]), nll=text["nll"], tokens=text["tokens"], **arrays)
