"""Peer: ONNX Runtime, float32 on the CPU, over the graph that onnx_graph.py writes."""

import onnxruntime

import onnx_graph


class Peer:
    name = "onnxruntime"
    version = onnxruntime.__version__

    def __init__(self, checkpoint, side, threads):
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
