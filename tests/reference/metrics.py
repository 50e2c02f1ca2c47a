#!/usr/bin/env python3
"""Every layer-importance metric computed with torch, and `lsaq importance` held against it. Needs the environment of make_environment.sh.

    metrics.py --program LSAQ --gguf FILE --text FILE [--only jaccard,cosine,...] [--sets prompts,windows]

Two sets of token ids: 8 prompts of 5 to 67 tokens, and 32 windows of 128 tokens spread over the text. The program reads the very ids (--token-ids), so that
only arithmetic can differ. Conventions: weights as models.py loads them (dequantized, matrices rounded to FP16), all arithmetic FP32, means in FP64; boundary b
is the residual stream that enters layer b, the last boundary what leaves the last layer. Prints one line for each comparison; exit 1 if a bound is exceeded.
"""

import argparse
import copy
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np
import torch

import models
import tokenizer

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a land far away, there lived",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "In 1969, two people walked on the Moon for the first time; the third stayed in orbit, 100 kilometres above them.",
    "To bake bread you need flour, water, salt and yeast. First mix the flour with the water, then",
    "SELECT name, COUNT(*) FROM orders WHERE price > 10 GROUP BY name",
    "\"I don't think we should go,\" she whispered, looking at the dark windows of the house across the street, where somebody had just drawn the curtains.",
    "The derivative of x^2 is 2x, and the integral of 2x is x^2 + C. More generally, the power rule says that the derivative of x^n is n x^(n-1) for every "
    "real n, which follows from the binomial theorem when n is a whole number.",
]
WINDOWS, WINDOW_LENGTH = 32, 128
TOP_K = [5, 10, 50, 100, 200]

SCORE_BOUND = 1e-4       # absolute, on scores and their spread
EXACT_BOUND = 1e-9       # Jaccard where no set is open: a mean of the same fractions
GAP = 1e-5               # a top-k set is open if the k-th and the next value are closer than this, relative to the largest absolute value
RELATIVE_BOUND = 1e-3    # of the score, where that is more: KL and the rise of the negative log-likelihood


def token_sets(model_path, text):
    """The two sets: {name: list of windows of token ids}."""
    encoder = tokenizer.from_gguf(model_path)
    ids = encoder.encode(tokenizer.read_text(text), add_special_tokens=False).ids
    starts = np.linspace(0, len(ids) - WINDOW_LENGTH, WINDOWS).astype(int)
    return {"prompts": [encoder.encode(prompt, add_special_tokens=False).ids for prompt in PROMPTS],
            "windows": [ids[start:start + WINDOW_LENGTH] for start in starts]}


def nearest(weight, bits=4):
    """The paper's quantization, dequantized again: symmetric, a scale for each row, stored as FP16, codes to the nearest, half to even.

    A scale that FP16 would store as a subnormal is rounded up.
    """
    largest_code = 2 ** (bits - 1) - 1
    exact = weight.abs().amax(dim=1, keepdim=True) / largest_code
    scale = exact.half().float()
    smallest_normal = 2.0 ** -14
    up = torch.ceil(exact * 2.0 ** 24) / 2.0 ** 24
    scale = torch.where(exact < smallest_normal, up, scale)
    codes = torch.where(scale > 0, torch.round(weight / scale.clamp(min=2.0 ** -24)), torch.zeros_like(weight))
    return codes.clamp(-largest_code, largest_code) * scale


def linears(layer):
    """The seven matrices of a decoder layer."""
    return [module.weight for module in layer.modules() if isinstance(module, torch.nn.Linear)]


def at_int4(layer):
    """A copy of the layer with all seven linears at INT4."""
    quantized = copy.deepcopy(layer)
    with torch.no_grad():
        for weight in linears(quantized):
            weight.copy_(nearest(weight))
    return quantized


def batches(windows, most=8):
    """The windows in their order, as tensors [windows, positions] of neighbours of equal length."""
    begin = 0
    while begin < len(windows):
        end = begin + 1
        while end < len(windows) and end - begin < most and len(windows[end]) == len(windows[begin]):
            end += 1
        yield torch.tensor(windows[begin:end])
        begin = end


class Reference:
    """The metrics of one model. Every method returns a list with one [layers] array of scores for each window, unless it says otherwise.

    States are tensors [windows, positions, hidden].
    """

    def __init__(self, model_path):
        model = models.load_gguf(model_path)
        self.plain_layers = model.model.layers
        self.embedding = model.model.embed_tokens.weight.detach()
        self.count = len(self.plain_layers)
        fast = models.with_fast_products(copy.deepcopy(model))
        self.layers, self.final_norm, self.head = fast.model.layers, fast.model.norm, fast.lm_head
        vocabulary, hidden = self.embedding.shape
        projection = torch.nn.Linear(hidden, vocabulary, bias=False)
        projection.weight = torch.nn.Parameter(self.embedding)
        self.projection = models.with_fast_products(projection)
        self.int4_layers = None

    def quantized(self):
        """All layers at INT4, made when first asked for."""
        if self.int4_layers is None:
            self.int4_layers = [models.with_fast_products(at_int4(layer)) for layer in self.plain_layers]
        return self.int4_layers

    @staticmethod
    def through(layer, states):
        """What leaves a layer that the states enter."""
        windows, positions, _ = states.shape
        mask = torch.full((positions, positions), torch.finfo(torch.float32).min).triu(1).expand(windows, 1, positions, positions)
        return layer(states, attention_mask=mask, position_ids=torch.arange(positions)[None])[0]

    def states(self, batch):
        """The residual stream of a batch of windows at every boundary: layers + 1 states."""
        found = [self.embedding[batch]]
        for layer in self.layers:
            found.append(self.through(layer, found[-1]))
        return found

    def log_probabilities(self, states):
        return torch.log_softmax(self.head(self.final_norm(states)), dim=-1)

    def top_tokens(self, states, k):
        """Of each row of states [rows, hidden] @ W_E^T: the k largest values, their ids, and the largest absolute value."""
        values, ids, largest = [], [], []
        for rows in states.split(512):
            projected = self.projection(rows)
            top = projected.topk(k, dim=-1)
            values.append(top.values)
            ids.append(top.indices)
            largest.append(projected.abs().amax(dim=-1))
        return torch.cat(values).numpy(), torch.cat(ids).numpy(), torch.cat(largest).numpy()

    def jaccard(self, windows, top_k, all_positions, norm):
        """{k: (one [layers] array a window, one [layers] array a window of how much open sets allow it to be off)}."""
        found = {k: ([], []) for k in top_k}
        for batch in batches(windows):
            states = torch.stack(self.states(batch), dim=2)  # [windows, positions, boundaries, hidden]
            states = states if all_positions else states[:, -1:]
            states = self.final_norm(states) if norm == "final" else states
            for window in states:
                values, ids, largest = self.top_tokens(window.flatten(0, 1), max(top_k) + 1)
                for k in top_k:
                    sets = [set(row) for row in ids[:, :k].tolist()]
                    is_open = values[:, k - 1] - values[:, k] < GAP * largest
                    distances, slack = np.zeros(self.count), np.zeros(self.count)
                    for position in range(len(window)):
                        for layer in range(self.count):
                            row = position * (self.count + 1) + layer
                            common = len(sets[row] & sets[row + 1])
                            similarity = common / (2 * k - common)
                            distances[layer] += 1.0 - similarity
                            moved = int(is_open[row]) + int(is_open[row + 1])
                            if moved:  # a token of an open set may be another one, so that up to `moved` more or fewer are common
                                most, least = min(common + moved, k), max(common - moved, 0)
                                slack[layer] += max(most / (2 * k - most) - similarity, similarity - least / (2 * k - least))
                    found[k][0].append(distances / len(window))
                    found[k][1].append(slack / len(window))
        return found

    def ranked(self, windows, k):
        """Last position: 1 - Jaccard of the top-d sets, averaged over d = 1 .. k; and how much open sets allow each score to be off."""
        scores, slack = [], []
        for batch in batches(windows):
            for window in torch.stack([states[:, -1] for states in self.states(batch)], dim=1):
                values, ids, largest = self.top_tokens(window, k + 1)
                distances, open_distances = np.zeros(self.count), np.zeros(self.count)
                for d in range(1, k + 1):
                    sets = [set(row[:d]) for row in ids.tolist()]
                    is_open = values[:, d - 1] - values[:, d] < GAP * largest
                    for layer in range(self.count):
                        common = len(sets[layer] & sets[layer + 1])
                        distances[layer] += 1 - common / (2 * d - common)
                        moved = int(is_open[layer]) + int(is_open[layer + 1])
                        most, least = min(common + moved, d), max(common - moved, 0)
                        open_distances[layer] += most / (2 * d - most) - least / (2 * d - least)
                scores.append(distances / k)
                slack.append(open_distances / k)
        return scores, np.mean(slack, axis=0)

    def cosine(self, windows, all_positions):
        scores = []
        for batch in batches(windows):
            states = torch.stack(self.states(batch), dim=1).double()
            states = states if all_positions else states[:, :, -1:]
            scores += list((1.0 - torch.nn.functional.cosine_similarity(states[:, :-1], states[:, 1:], dim=-1, eps=0.0)).mean(dim=2).numpy())
        return scores

    def outlier(self, sigmas=3.0):
        """[layers]: the share of a layer's weights that are further than `sigmas` standard deviations from the layer's mean."""
        shares = []
        for layer in self.plain_layers:
            weights = torch.cat([weight.detach().flatten() for weight in linears(layer)]).double()
            shares.append(float(((weights - weights.mean()).abs() > sigmas * weights.std(unbiased=False)).double().mean()))
        return np.array(shares)

    def output_error(self, windows):
        """Mean over positions of |y_q - y|^2 / |y|^2, y what leaves the layer on the unquantized stream."""
        scores = []
        for batch in batches(windows):
            states = self.states(batch)
            columns = []
            for layer, quantized in enumerate(self.quantized()):
                exact, approximate = states[layer + 1].double(), self.through(quantized, states[layer]).double()
                columns.append(((approximate - exact).square().sum(dim=-1) / exact.square().sum(dim=-1)).mean(dim=1))
            scores += list(torch.stack(columns, dim=1).numpy())
        return scores

    def error(self, windows):
        """(KL of the model with just one layer at INT4, rise of its negative log-likelihood): both means over the window's targets."""
        divergences, rises = [], []
        for batch in batches(windows):
            states = self.states(batch)
            targets = batch[:, 1:, None]
            exact = self.log_probabilities(states[-1][:, :-1])
            probabilities = exact.exp()
            divergence, rise = [], []
            for layer, quantized in enumerate(self.quantized()):
                stream = self.through(quantized, states[layer])
                for after in self.layers[layer + 1:]:
                    stream = self.through(after, stream)
                approximate = self.log_probabilities(stream[:, :-1])
                rise.append((exact.gather(2, targets) - approximate.gather(2, targets)).double().mean(dim=(1, 2)))
                divergence.append((exact - approximate).mul_(probabilities).sum(dim=-1, dtype=torch.float64).mean(dim=1))
            divergences += list(torch.stack(divergence, dim=1).numpy())
            rises += list(torch.stack(rise, dim=1).numpy())
        return divergences, rises


def summary(rows):
    """Mean over windows and its standard error."""
    rows = np.stack(rows)
    mean = rows.mean(axis=0)
    spread = rows.std(axis=0, ddof=1) / np.sqrt(len(rows)) if len(rows) > 1 else np.zeros_like(mean)
    return mean, spread


class Comparison:
    """Runs the program on one set of windows and holds what it says against the reference, a line for each comparison."""

    def __init__(self, program, model, folder):
        self.program, self.model, self.folder = str(program), str(model), pathlib.Path(folder)
        self.good = True

    def ask(self, windows, *options):
        """The results of one call of the program, or None after a line about its failure."""
        ids = self.folder / "ids.json"
        ids.write_text(json.dumps(windows))
        command = [self.program, "importance", self.model, *options, "--token-ids", str(ids), "--json", "--no-cache"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            self.fail(" ".join(options), f"exit {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
            return None
        found = json.loads(done.stdout)
        return found["results"] if "results" in found else [found]

    def fail(self, what, why):
        self.good = False
        print(f"{what:58} FAIL {why}", flush=True)

    def check(self, what, result, scores, spread, bound, slack=None):
        """Scores within `bound` (a number or one a layer) plus `slack` by layer; the spread within twice that or SCORE_BOUND."""
        if result is None:
            return
        got = np.array(result["scores"])
        if got.shape != scores.shape or not np.isfinite(got).all():
            self.fail(what, f"{got.shape} scores, wanted {scores.shape}, all finite")
            return
        off = np.abs(got - scores)
        allowed = bound + (0.0 if slack is None else slack)
        good = bool((off <= allowed).all())
        text = f"{what:58} {'ok  ' if good else 'FAIL'} scores {float(off.max()):.2e}"
        if slack is not None:
            text += f" ({int((off > EXACT_BOUND).sum())} layers differ, {int((slack > 0).sum())} may)"
        if spread is not None:
            spread_off = np.abs(np.array(result["spread"]) - spread)
            spread_good = bool((spread_off <= np.maximum(2 * np.asarray(allowed), SCORE_BOUND)).all())
            text += f", spread {float(spread_off.max()):.2e}{'' if spread_good else ' FAIL'}"
            good = good and spread_good
        if not good:
            worst = int(np.argmax(off - allowed))
            text += f"; layer {worst}: {got[worst]:.8g}, reference {scores[worst]:.8g}"
        self.good = self.good and good
        print(text, flush=True)


def compare_jaccard(reference, comparison, name, windows):
    for positions in ("last", "all"):
        for norm in ("raw", "final"):
            if positions == "all" and norm == "final":
                continue  # the same code as the three others, and the slowest
            wanted = reference.jaccard(windows, TOP_K, positions == "all", norm)
            options = ("--metric", "jaccard", "--top-k", ",".join(map(str, TOP_K)), "--positions", positions, "--norm", norm)
            results = comparison.ask(windows, *options)
            by_k = {result["top_k"]: result for result in results or []}
            for k in TOP_K:
                what = f"{name}: jaccard k={k} {positions} {norm}"
                if results is not None and k not in by_k:
                    comparison.fail(what, f"no result; there is one for top_k {sorted(by_k)}")
                    continue
                scores, spread = summary(wanted[k][0])
                comparison.check(what, by_k.get(k), scores, spread, EXACT_BOUND, np.mean(wanted[k][1], axis=0))


def compare_cosine(reference, comparison, name, windows):
    for positions in ("last", "all"):
        results = comparison.ask(windows, "--metric", "cosine", "--positions", positions)
        comparison.check(f"{name}: cosine {positions}", results and results[0], *summary(reference.cosine(windows, positions == "all")), SCORE_BOUND)


def compare_ranked(reference, comparison, name, windows):
    results = comparison.ask(windows, "--metric", "ranked", "--top-k", "50")
    rows, slack = reference.ranked(windows, 50)
    comparison.check(f"{name}: ranked k=50", results and results[0], *summary(rows), EXACT_BOUND, slack)


def compare_outlier(reference, comparison, name, windows):
    shares = reference.outlier()
    for direction, sign in (("more", 1.0), ("fewer", -1.0)):
        results = comparison.ask(windows, "--metric", "outlier", "--outlier-direction", direction)
        comparison.check(f"{name}: outlier {direction}", results and results[0], sign * shares, None, 1e-6)


def compare_output_error(reference, comparison, name, windows):
    results = comparison.ask(windows, "--metric", "output-error")
    comparison.check(f"{name}: output-error", results and results[0], *summary(reference.output_error(windows)), SCORE_BOUND)


def compare_error(reference, comparison, name, windows):
    divergences, rises = reference.error(windows)
    for metric, rows in (("error", divergences), ("error-nll", rises)):
        results = comparison.ask(windows, "--metric", metric)
        scores, spread = summary(rows)
        bound = np.maximum(SCORE_BOUND, RELATIVE_BOUND * np.abs(scores))
        comparison.check(f"{name}: {metric}", results and results[0], scores, spread, bound)


def compare_joint(reference, comparison, name, windows):
    change = reference.jaccard(windows, [50], False, "raw")[50][0]
    rows = [np.sqrt(a * b) for a, b in zip(change, reference.output_error(windows))]
    results = comparison.ask(windows, "--metric", "joint")
    comparison.check(f"{name}: joint", results and results[0], *summary(rows), SCORE_BOUND)


def check_halves(comparison, windows):
    """The two halves of 32 windows have to order the layers alike, and the confidence reported has to be what random halves show."""
    for metric, options, least in (("jaccard", ("--positions", "sampled:8"), 0.9), ("cosine", ("--positions", "all"), 0.9), ("jaccard", (), 0.8)):
        results = comparison.ask(windows, "--metric", metric, *options)
        if not results:
            return
        scores = np.round(np.array(results[0]["window_scores"]) * 1e9)
        generator = np.random.default_rng(1)
        found = []
        for _ in range(200):
            mixed = generator.permutation(len(scores))
            half = len(scores) // 2
            found.append(spearman(scores[mixed[:half]].sum(axis=0), scores[mixed[half:]].sum(axis=0)))
        mean = float(np.mean(found))
        # Spearman-Brown: what twice as many windows would agree on, if their halves agree on this.
        expected, reported = 2 * mean / (1 + mean), results[0]["confidence"]["agreement"]
        good = mean >= least and abs(expected - reported) < 0.02
        comparison.good = comparison.good and good
        print(f"{'halves: ' + ' '.join((metric, *options)):58} {'ok  ' if good else 'FAIL'} Spearman {mean:.3f} (at least {least}), "
              f"confidence {reported:.3f}, from halves {expected:.3f}", flush=True)


def ranks(values):
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]


def spearman(a, b):
    return np.corrcoef(ranks(a), ranks(b))[0, 1]


COMPARISONS = {"jaccard": compare_jaccard, "ranked": compare_ranked, "cosine": compare_cosine, "outlier": compare_outlier,
               "output-error": compare_output_error, "joint": compare_joint, "error": compare_error}


def main():
    parser = argparse.ArgumentParser(description="Holds `lsaq importance` against torch.")
    parser.add_argument("--program", required=True, help="path of lsaq")
    parser.add_argument("--gguf", required=True, help="a Llama GGUF")
    parser.add_argument("--text", required=True, help="the text of the 32 windows")
    parser.add_argument("--only", default=",".join(COMPARISONS), help="metrics to compare: " + ", ".join(COMPARISONS))
    parser.add_argument("--sets", default="prompts,windows", help="prompts, windows or both")
    options = parser.parse_args()
    unknown = set(options.only.split(",")) - set(COMPARISONS)
    if unknown:
        parser.error(f"--only {sorted(unknown)}: there are {list(COMPARISONS)}")

    torch.set_grad_enabled(False)
    sets = token_sets(options.gguf, options.text)
    reference = Reference(options.gguf)
    with tempfile.TemporaryDirectory(prefix="lsaq-metrics-") as folder:
        comparison = Comparison(options.program, options.gguf, folder)
        for name in options.sets.split(","):
            lengths = sorted({len(ids) for ids in sets[name]})
            print(f"{name}: {len(sets[name])} windows of {lengths[0]} to {lengths[-1]} tokens", flush=True)
            for metric in options.only.split(","):
                COMPARISONS[metric](reference, comparison, name, sets[name])
        if "windows" in options.sets.split(","):
            check_halves(comparison, sets["windows"])
    print("all within bounds" if comparison.good else "FAILED")
    return 0 if comparison.good else 1


if __name__ == "__main__":
    sys.exit(main())
