"""One peer in a process of its own, for run.py: worker.py '{"peer": ..., ...}'.

Prints {"version", "parameters"?} when the peer is ready. Then for each line {"run": OPERATION, "arguments": [...],
"save"?: FILE} it runs that method of the peer and prints {"ms"}, the time it took. A file to save to gets what the
operation returned, arrays by name. A picture is the name of an .npy file of pixels.
"""

import json
import pathlib
import sys
import time

import numpy as np

from checkpoint import Checkpoint


def open_peer(spec):
    """Imports only the runtime that is asked for: each brings threads and libraries of its own."""
    name, threads = spec["peer"], spec["threads"]
    if name == "onevision":
        import torch_language_peer

        return torch_language_peer.OneVision(threads, spec["precision"])
    if name == "pytorch-training":
        import torch_training_peer

        return torch_training_peer.Peer(spec["hf"], spec["labels"], threads, spec["mode"])
    checkpoint, cache = Checkpoint(spec["model"]), pathlib.Path(spec["cache"])
    if name == "pytorch-language":
        import torch_language_peer

        return torch_language_peer.Language(checkpoint.config, threads, spec["precision"])
    if name == "llama.cpp":
        import llama_peer

        return llama_peer.Peer(checkpoint, threads, spec["precision"], cache)
    side = spec["side"]
    if name == "onnxruntime":
        import ort_peer

        return ort_peer.Peer(checkpoint, side, threads, spec.get("avx2", False), cache)
    if name == "openvino":
        import openvino_peer

        return openvino_peer.Peer(checkpoint, side, threads, spec["precision"], cache)
    if name == "pytorch":
        import torch_tower_peer

        return torch_tower_peer.Peer(checkpoint, side, threads, spec["precision"])
    raise ValueError(f"no peer is called {name}")


def memory():
    """This process's peak of memory, bytes."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def main():
    replies = sys.stdout
    sys.stdout = sys.stderr  # what libraries say is not for run.py

    def reply(message):
        print(json.dumps(message), file=replies, flush=True)

    peer = open_peer(json.loads(sys.argv[1]))
    reply({"version": peer.version, "vision_parameters": getattr(peer, "vision_parameters", None)})
    for line in sys.stdin:
        request = json.loads(line)
        arguments = [np.load(a) if isinstance(a, str) else a for a in request["arguments"]]
        start = time.perf_counter()
        result = getattr(peer, request["run"])(*arguments)
        elapsed = (time.perf_counter() - start) * 1e3
        if request.get("save"):
            np.savez(request["save"], **result)
        reply({"ms": elapsed, "memory": memory()})


if __name__ == "__main__":
    main()
