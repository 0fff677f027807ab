"""The set's vision tower in bf16 and int8 against the published code in float32."""

import os

import pytest

from golden_set import chosen_set, feature_errors, trace

RELATIVE_BARS = {"bf16": 0.01, "int8": 0.06}
COSINE_BARS = {"bf16": 0.9999, "int8": 0.997}

GOLDEN = chosen_set()


@pytest.mark.parametrize("precision", RELATIVE_BARS)
def test_features(precision, tmp_path):
    name = GOLDEN.staged()
    case = next(case for case in GOLDEN.cases if case["images"] == [name])
    out = tmp_path / "trace.safetensors"
    got = trace(GOLDEN.folder / "llava", GOLDEN.paths([name]), case["question"], out, "--precision", precision)
    relative, cosine = feature_errors(got["features"], GOLDEN.tensors[f"features.{name}"])
    level = os.environ.get("FVLM_CPU_MASK", "all")
    print(f"{precision} at {level}: relative L2 {relative:.2e}, least cosine {cosine:.6f}")
    assert relative > 1e-4, "this is float32"
    assert relative <= RELATIVE_BARS[precision] and cosine >= COSINE_BARS[precision]
