"""Reads a model artifact by its documented format, gives its trees to LightGBM, and times both on the same inputs."""

import struct
import subprocess
import sys
import time
from pathlib import Path

import lightgbm
import numpy

DEPTH, LEAVES = 6, 64
VITALS = 6
READINGS = 20_000


def forests(path):
    """Head and row forest of an artifact: (base, [(inputs, thresholds, leaves)])."""
    data = Path(path).read_bytes()
    assert data[:8] == b"VITALSMD"
    version, card, numbers = struct.unpack_from("<III", data, 8)
    assert version == 2, version
    at = 20 + card + (2 + 6 * VITALS) * 8
    found = []
    for _ in range(2):
        base, count = struct.unpack_from("<fI", data, at)
        at += 8
        trees = []
        for _ in range(count):
            questions = [struct.unpack_from("<Hf", data, at + 6 * d) for d in range(DEPTH)]
            leaves = struct.unpack_from(f"<{LEAVES}f", data, at + 6 * DEPTH)
            at += 6 * DEPTH + 4 * LEAVES
            trees.append(([q[0] for q in questions], [q[1] for q in questions], leaves))
        found.append((base, trees))
    return found


def booster(base, trees, inputs):
    """The same trees in LightGBM's text format. A node's left child answers no."""
    nodes = LEAVES - 1
    # Places of our leaves in the order of a heap's: the first question is the lowest bit of a place.
    places = [sum((path >> (DEPTH - 1 - d) & 1) << d for d in range(DEPTH)) for path in range(LEAVES)]
    level = [(node + 1).bit_length() - 1 for node in range(nodes)]
    child = lambda node: node if node < nodes else ~(node - nodes)
    blocks = []
    for number, (questions, thresholds, leaves) in enumerate(trees):
        limit = [min(t, 1e300) for t in thresholds]
        row = lambda values: " ".join(str(value) for value in values)
        # Decision type 10: numerical, NaN is missing and goes left.
        blocks.append(
            f"Tree={number}\nnum_leaves={LEAVES}\nnum_cat=0\n"
            f"split_feature={row(questions[level[n]] for n in range(nodes))}\n"
            f"split_gain={row([1] * nodes)}\n"
            f"threshold={row(repr(limit[level[n]]) for n in range(nodes))}\n"
            f"decision_type={row([10] * nodes)}\n"
            f"left_child={row(child(2 * n + 1) for n in range(nodes))}\n"
            f"right_child={row(child(2 * n + 2) for n in range(nodes))}\n"
            f"leaf_value={row(repr(float(leaves[place])) for place in places)}\n"
            f"leaf_weight={row([1] * LEAVES)}\nleaf_count={row([1] * LEAVES)}\n"
            f"internal_value={row([0] * nodes)}\ninternal_weight={row([0] * nodes)}\n"
            f"internal_count={row([1] * nodes)}\nis_linear=0\nshrinkage=1\n\n\n"
        )
    names = " ".join(f"x{i}" for i in range(inputs))
    infos = " ".join(["[-1e300:1e300]"] * inputs)
    head = (
        "tree\nversion=v4\nnum_class=1\nnum_tree_per_iteration=1\nlabel_index=0\n"
        f"max_feature_idx={inputs - 1}\nobjective=regression\nfeature_names={names}\nfeature_infos={infos}\n"
        f"tree_sizes={' '.join(str(len(block)) for block in blocks)}\n\n"
    )
    text = head + "".join(blocks) + "end of trees\n\nfeature_importances:\n\nparameters:\nend of parameters\n"
    model = lightgbm.Booster(model_str=text)
    return lambda rows, threads: model.predict(rows, raw_score=True, num_threads=threads) + base


def best_of(work, times=5):
    seconds = []
    for _ in range(times):
        begun = time.perf_counter()
        result = work()
        seconds.append(time.perf_counter() - begun)
    return min(seconds), result


def main(artifact, program, folder):
    head, row = forests(artifact)
    widths = [int(n) for n in subprocess.check_output([program], text=True).split()]
    random = numpy.random.default_rng(1)
    draw = lambda rows, width: random.normal(0, 2, (rows, width)).astype(numpy.float32)
    cells, rows = draw(READINGS * VITALS, widths[0]), draw(READINGS, widths[1])
    for values in (cells, rows):
        values[random.random(values.shape) < 0.1] = numpy.nan
    inputs = Path(folder) / "inputs.bin"
    inputs.write_bytes(struct.pack("<I", READINGS) + cells.tobytes() + rows.tobytes())

    predict_head, predict_row = booster(*head, widths[0]), booster(*row, widths[1])
    cells64, rows64 = cells.astype(numpy.float64), rows.astype(numpy.float64)
    theirs = {}
    for threads in (1, 2):
        seconds, sums = best_of(lambda: (predict_head(cells64, threads), predict_row(rows64, threads)))
        theirs[threads] = READINGS / seconds
    answer = subprocess.check_output([program, str(inputs), str(Path(folder) / "sums.bin")], text=True)
    ours = float(answer.split()[0])
    own = numpy.fromfile(Path(folder) / "sums.bin", dtype=numpy.float32)
    difference = numpy.abs(own - numpy.concatenate(sums)).max()
    assert difference < 1e-3, f"the sums differ by {difference}"
    print(f"both forests on {READINGS} readings of {VITALS} vitals; largest difference of a sum {difference:.1e}")
    print(f"vitals, one thread     {ours:10,.0f} readings/s")
    for threads, rate in theirs.items():
        print(f"LightGBM, {threads} thread{'s' if threads > 1 else ' '}    {rate:10,.0f} readings/s, {ours / rate:.1f} times slower")


main(*sys.argv[1:])
