"""Peer: OpenVINO on the CPU over the graph that onnx_graph.py writes; fp32, bf16, or int8 by NNCF.

int8 is NNCF's post-training quantization with its defaults over CALIBRATION pictures; what it leaves in floating point
runs in bf16 where the processor has it.
"""

import nncf
import numpy as np
import openvino
import openvino.properties.hint as hint

import onnx_graph

CALIBRATION = 4  # pictures; more change the scales, not the time


class Peer:
    version = openvino.__version__

    def __init__(self, checkpoint, side, threads, precision, cache):
        core = openvino.Core()
        if precision == "int8":
            model = self.quantized(core, checkpoint, side, cache / f"openvino-int8-{checkpoint.key}-{side}.xml")
        else:
            model = core.read_model(onnx_graph.build(checkpoint, side))
        settings = {
            hint.inference_precision: "f32" if precision == "fp32" else "bf16",
            hint.performance_mode: hint.PerformanceMode.LATENCY,
            "INFERENCE_NUM_THREADS": threads,
        }
        self.request = core.compile_model(model, "CPU", settings).create_infer_request()

    @staticmethod
    def quantized(core, checkpoint, side, path):
        if not path.exists():
            random = np.random.default_rng(1)
            model = core.read_model(onnx_graph.build(checkpoint, side))
            pictures = [picture(random, side) for _ in range(CALIBRATION)]
            model = nncf.quantize(model, nncf.Dataset(pictures), subset_size=CALIBRATION)
            openvino.save_model(model, path, compress_to_fp16=False)
        return core.read_model(path)

    def encode(self, pixels):
        """pixels float32 [1, 3, S, S] in 0..1 -> {"features": [1, T, C], "projected": [1, T, hidden]}"""
        features, projected = self.request.infer([pixels], share_inputs=True).values()
        return {"features": features, "projected": projected}


def picture(random, side):
    """Smooth areas with edges and texture [1, 3, side, side] in 0..1."""
    coarse = random.random((1, 3, side // 64, side // 64), np.float32).repeat(64, 2).repeat(64, 3)
    return np.clip(coarse + 0.1 * random.standard_normal((1, 3, side, side), np.float32), 0, 1)
