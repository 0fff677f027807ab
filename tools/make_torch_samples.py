#!/usr/bin/env python3
"""Write the small PyTorch checkpoints that tests/unit/test_pickle.c reads: tests/data/torch_*.bin.

Needs torch; the files are committed, so that the tests do not. The values are known to the test.
"""
import collections
import pathlib

import torch

DATA = pathlib.Path(__file__).resolve().parents[1] / "tests" / "data"


def state():
    weight = torch.arange(6, dtype=torch.float32).reshape(2, 3) / 4
    tensors = collections.OrderedDict()
    tensors["a.weight"] = weight
    tensors["a.row"] = weight[1]
    tensors["b.half"] = torch.tensor([0.5, -1.0, 65504.0], dtype=torch.float16)
    tensors["c.brain"] = torch.tensor([[1.0, -2.0], [0.25, 3.0]], dtype=torch.bfloat16)
    tensors["d.transposed"] = torch.arange(6, dtype=torch.float32).reshape(2, 3).t()
    tensors["e.count"] = torch.tensor(-7)
    tensors["f.parameter"] = torch.nn.Parameter(torch.ones(2))
    tensors["g.words"] = torch.tensor([1, 65535], dtype=torch.uint16)
    tensors["h.empty"] = torch.zeros(0, 4)
    tensors._metadata = collections.OrderedDict([("", {"version": 1})])
    return tensors


def main():
    DATA.mkdir(exist_ok=True)
    torch.save(state(), DATA / "torch_plain.bin")
    torch.save({"state_dict": state(), "epoch": 3, "loss": 0.5, "history": [1, 2]}, DATA / "torch_nested.bin",
               pickle_protocol=4)
    torch.save(state(), DATA / "torch_legacy.bin", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
