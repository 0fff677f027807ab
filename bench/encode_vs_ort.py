#!/usr/bin/env python3
"""Vision encoding side by side with other runtimes, on the same weights, pixels and number of threads.

    bench/peers/setup.sh
    build/bench-venv/bin/python bench/encode_vs_ort.py --model CHECKPOINT --image PICTURE [--peer onnxruntime]...

A peer is a file bench/peers/NAME_peer.py with a class Peer(checkpoint, side, threads), its `name` and `version`, and
encode(pixels) -> {"features", "projected"}. First every side's features are compared with ours; then rounds alternate
between `fastvlm bench` and each peer, so that what else the machine does falls on all of them. Ours is the whole way
from a decoded picture to projected tokens, resize included; a peer's starts at ready pixels.
"""

import argparse
import importlib
import json
import pathlib
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
PEERS = {"onnxruntime": "ort_peer"}
AGREE = 1e-4  # relative L2 of features; float32 sums in another order stay well below

sys.path.insert(0, str(HERE / "peers"))


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


class Fastvlm:
    """This project's side, through its command line."""

    name = "fastvlm"

    def __init__(self, options):
        self.program = str(options.fastvlm)
        self.common = ["--model", options.model, "--image", options.image, "--threads", options.threads]
        self.common += ["--precision", "fp32"]
        if options.resolution:
            self.common += ["--resolution", options.resolution]

    def run(self, command, *arguments):
        line = [self.program, command, *map(str, [*self.common, *arguments])]
        return subprocess.run(line, check=True, stdout=subprocess.PIPE).stdout

    def trace(self):
        """The pixels [1, 3, S, S] that the tower gets, and what it makes of them."""
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "trace.safetensors"
            self.run("trace", "--prompt", "Describe the image.", "--out", path)
            data = np.memmap(path, np.uint8, "r")
            (length,) = struct.unpack("<Q", data[:8].tobytes())
            header = json.loads(data[8 : 8 + length].tobytes())

            def tensor(name, dtype):
                begin, end = (8 + length + offset for offset in header[name]["data_offsets"])
                return np.frombuffer(data[begin:end].tobytes(), dtype).reshape(header[name]["shape"])

            pixels = tensor("pixels", np.uint8)
            assert pixels.ndim == 3, "side by side is for one tile: a checkpoint with image_aspect_ratio `pad`"
            pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]).astype(np.float32) / np.float32(255)
            return pixels, {name: tensor(name, np.float32) for name in ("features", "projected")}

    def milliseconds(self, runs):
        """The median of `runs` encodings in one process."""
        return json.loads(self.run("bench", "--json", "--runs", runs, "--tokens", 1))["encode_ms"]


def milliseconds(peer, pixels, runs):
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        peer.encode(pixels)
        times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def agreement(got, expected):
    return {
        name: float(np.linalg.norm(got[name] - expected[name]) / np.linalg.norm(expected[name])) for name in expected
    }


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="LLaVA checkpoint folder with safetensors")
    parser.add_argument("--image", required=True)
    parser.add_argument("--peer", action="append", choices=PEERS, help="default: all")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--resolution", type=int, help="side of the vision input (default: the checkpoint's)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3, help="encodings of each side in a round; their median counts")
    parser.add_argument("--fastvlm", type=pathlib.Path, default=HERE.parent / "build" / "fastvlm")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    return parser.parse_args()


def main():
    from checkpoint import Checkpoint

    options = parse()
    ours = Fastvlm(options)
    checkpoint = Checkpoint(options.model)
    side = options.resolution or checkpoint.side
    pixels, expected = ours.trace()
    peers, differences = [], {}
    for name in options.peer or PEERS:
        peer = importlib.import_module(PEERS[name]).Peer(checkpoint, side, options.threads)
        differences[name] = agreement(peer.encode(pixels), expected)  # the first run also warms the peer up
        if max(differences[name].values()) > AGREE:
            sys.exit(f"{name} computes something else: relative L2 {differences[name]}")
        peers.append(peer)
    times = {runner.name: [] for runner in [ours, *peers]}
    for _ in range(options.rounds):
        times[ours.name].append(ours.milliseconds(options.runs))
        for peer in peers:
            times[peer.name].append(milliseconds(peer, pixels, options.runs))
    medians = {name: statistics.median(values) for name, values in times.items()}
    report(options, side, peers, differences, times, medians)


def report(options, side, peers, differences, times, medians):
    result = {
        "processor": processor(),
        "threads": options.threads,
        "resolution": side,
        "model": options.model,
        "median_ms": medians,
        "best_ms": {name: min(values) for name, values in times.items()},
        "ratio": {peer.name: medians["fastvlm"] / medians[peer.name] for peer in peers},
        "versions": {peer.name: peer.version for peer in peers},
        "relative_l2": differences,
        "times_ms": times,
    }
    if options.json:
        print(json.dumps(result, indent=1))
        return
    how = f"float32, {side} px, {options.rounds} rounds of {options.runs}"
    print(f"{result['processor']}, {options.threads} threads, {how}")
    for name, values in times.items():
        print(f"  {name:<12} median {medians[name]:8.0f} ms   best {min(values):8.0f} ms")
    for peer in peers:
        print(
            f"  fastvlm / {peer.name} {peer.version}: {result['ratio'][peer.name]:.2f} of its time; "
            f"features differ by {differences[peer.name]['features']:.1e} relative L2"
        )


if __name__ == "__main__":
    main()
