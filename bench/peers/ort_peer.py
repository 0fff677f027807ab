"""Peer: ONNX Runtime, float32 on the CPU, over the graph that onnx_graph.py writes.

It chooses its kernels by the processor and has no switch for that. To hold it to AVX2, a copy of the package is used in
whose library the instruction that asks which registers the system keeps (XGETBV) answers without those of AVX-512.
"""

import importlib.util
import pathlib
import shutil
import sys

import onnx_graph

XGETBV = b"\x31\xc9\x0f\x01\xd0"  # xor ecx, ecx; xgetbv
ONLY_AVX = b"\x31\xc9\xb0\x07\x90"  # xor ecx, ecx; mov al, 7; nop: x87, SSE and AVX


def hold_to_avx2(cache):
    """Make the copy in `cache` the onnxruntime that is imported next."""
    package = pathlib.Path(importlib.util.find_spec("onnxruntime").submodule_search_locations[0])
    folder = cache / "onnxruntime-avx2"
    copy = folder / "onnxruntime"
    if not copy.exists():
        part = folder / "part"
        shutil.copytree(package, part, dirs_exist_ok=True)
        (library,) = (part / "capi").glob("onnxruntime_pybind11_state*.so")
        code = library.read_bytes()
        if XGETBV not in code:
            raise RuntimeError("this onnxruntime cannot be held to AVX2: it asks for registers in another way")
        library.write_bytes(code.replace(XGETBV, ONLY_AVX))
        part.rename(copy)
    sys.path.insert(0, str(folder))


class Peer:
    def __init__(self, checkpoint, side, threads, avx2, cache):
        if avx2:
            hold_to_avx2(cache)
        import onnxruntime

        self.version = onnxruntime.__version__
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        graph = onnx_graph.build(checkpoint, side)
        self.session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def encode(self, pixels):
        """pixels float32 [1, 3, S, S] in 0..1 -> {"features": [1, T, C], "projected": [1, T, hidden]}"""
        features, projected = self.session.run(["features", "projected"], {"pixels": pixels})
        return {"features": features, "projected": projected}
