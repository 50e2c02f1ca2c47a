"""The quantizer's packed bytes against numpy, bit for bit, on a real model's tensors.

    quantizer.py --program lsaq_reference_quantize --gguf FILE [--all]

The rules are written down once more, with numpy and nothing of the library: FP32 arithmetic with true division, half to even, codes from the stored scale, a scale
that would be subnormal in F16 rounded up. 8, 4 and 3 bits, per channel, per tensor and in groups of 32 and 128 columns, F16, BF16 and F32 scales, symmetric and full
range; the first and last layer as F16, as they are deployed, one also as BF16 and F32. --all takes every matrix of the model.
"""

import argparse
import itertools
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np

BITS = (8, 4, 3)
SCALES = ("F16", "BF16", "F32")
GROUPINGS = ("channel", "tensor", "group:32", "group:128")
RANGES = ("symmetric", "full")
FORMATS = list(itertools.product(BITS, SCALES, GROUPINGS, RANGES))


def to_bf16(values):
    """Bits of the nearest bfloat16, ties to even, of FP32 values."""
    bits = values.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits):
    return (bits.astype(np.uint32) << 16).view(np.float32)


def store(scales, kind):
    """FP32 scales as stored: their bytes, and what they are worth in FP32."""
    if kind == "F32":
        return scales.astype("<f4").tobytes(), scales
    if kind == "BF16":
        bits = to_bf16(scales)
        return bits.astype("<u2").tobytes(), from_bf16(bits)
    with np.errstate(over="ignore"):
        halves = scales.astype(np.float16)
    up = np.ceil(scales.astype(np.float64) * 2**24) * 2.0**-24
    halves = np.where(scales < 2.0**-14, up.astype(np.float16), halves)
    return halves.astype("<f2").tobytes(), halves.astype(np.float32)


def scales_of(weights, bits, codes):
    """The smallest FP32 scale of each row that clips none of its weights."""
    top, bottom = np.float32(2 ** (bits - 1) - 1), np.float32(2 ** (bits - 1) - (codes == "symmetric"))
    return np.maximum(np.maximum(weights.max(1), np.float32(0)) / top, np.maximum(-weights.min(1), np.float32(0)) / bottom)


def pack(codes, bits):
    """Unsigned codes of each row bit by bit, the first column lowest, padded with code 0 to whole 32-bit words."""
    rows, columns = codes.shape
    row_bytes = (columns * bits + 31) // 32 * 4
    padded = np.full((rows, row_bytes * 8 // bits + 1), 2 ** (bits - 1), np.uint8)
    padded[:, :columns] = codes
    stream = (padded[:, :, None] >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(stream.reshape(rows, -1)[:, : row_bytes * 8], axis=1, bitorder="little").tobytes()


def quantize(weights, bits, scale, grouping, codes):
    """Packed bytes of an FP32 matrix."""
    rows, columns = weights.shape
    shared = weights.reshape(1, -1) if grouping == "tensor" else weights
    width = int(grouping[6:]) if grouping.startswith("group:") else shared.shape[1]
    parts = [shared[:, first:first + width] for first in range(0, shared.shape[1], width)]
    stored, worth = store(np.stack([scales_of(part, bits, codes) for part in parts], 1), scale)
    if not np.isfinite(worth).all():
        raise SystemExit("a scale overflows: take another tensor")
    limit = 2 ** (bits - 1) - 1
    chosen = []
    for part, divisor in zip(parts, worth.T):
        with np.errstate(divide="ignore", invalid="ignore"):
            quotient = np.where(divisor[:, None] == 0, np.float32(0), part / divisor[:, None])
        chosen.append(np.clip(np.rint(quotient), -limit - (codes == "full"), limit).astype(np.int16))
    unsigned = (np.concatenate(chosen, 1).reshape(rows, columns) + limit + 1).astype(np.uint8)
    return pack(unsigned, bits) + stored


def as_element(weights, element):
    """FP32 weights rounded to a type, as FP32."""
    if element == "F16":
        return weights.astype(np.float16).astype(np.float32)
    return from_bf16(to_bf16(weights)) if element == "BF16" else weights


def difference(wanted, got, columns, bits):
    if len(wanted) != len(got):
        return f"{len(got)} bytes, reference {len(wanted)}"
    at = next(i for i, (a, b) in enumerate(zip(wanted, got)) if a != b)
    row_bytes = (columns * bits + 31) // 32 * 4
    return f"first difference at byte {at} (row {at // row_bytes}, if it is a code): {got[at]}, reference {wanted[at]}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--gguf", required=True)
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    tensors = [tensor for tensor in gguf.GGUFReader(options.gguf).tensors if len(tensor.shape) == 2]
    blocks = sorted({int(tensor.name.split(".")[1]) for tensor in tensors if tensor.name.startswith("blk.")})
    some = {f"blk.{blocks[i]}." for i in (0, -1)}
    good, compared, weights_compared = True, 0, 0
    for tensor in tensors:
        if not options.all and not any(tensor.name.startswith(prefix) for prefix in some):
            continue
        stored = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(int(tensor.shape[1]), int(tensor.shape[0]))
        for element in ("F16", "BF16", "F32") if tensor.name.startswith(f"blk.{blocks[0]}.") else ("F16",):
            weights = as_element(stored, element)
            with tempfile.TemporaryDirectory(prefix="lsaq-quantizer-") as folder:
                names = [",".join(map(str, name)) for name in FORMATS]
                done = subprocess.run([options.program, options.gguf, tensor.name, element, folder, *names], check=False)
                if done.returncode != 0:
                    print(f"FAIL {tensor.name} as {element}: the program exited with {done.returncode}")
                    good = False
                    continue
                wrong = 0
                for i, name in enumerate(FORMATS):
                    wanted, got = quantize(weights, *name), pathlib.Path(folder, f"{i}.bin").read_bytes()
                    if wanted != got:
                        wrong += 1
                        print(f"FAIL {tensor.name} as {element}, {names[i]}: {difference(wanted, got, weights.shape[1], name[0])}")
                good &= wrong == 0
                compared += len(FORMATS)
                weights_compared += weights.size * len(FORMATS)
                print(f"{'ok  ' if wrong == 0 else 'FAIL'} {tensor.name} {weights.shape[0]} x {weights.shape[1]} as {element}", flush=True)
    print(f"{compared} packed matrices, {weights_compared} codes" + (": all bytes the same" if good else ""))
    return 0 if good and compared else 1


if __name__ == "__main__":
    sys.exit(main())
