"""Settings of config.json, and options, that change what the model sees: image modes, merge types, another resolution,
a head of its own. On the project's own set; the shared fixtures have no expected values for them."""

import pytest
from golden_set import VISION_BAR, check_answer, chosen_set, compare, compare_logits, predict, trace

GOLDEN = chosen_set()
SETTINGS = {variant["name"]: variant for variant in GOLDEN.variants}
LONGEST = GOLDEN.longest()


def test_every_mode_is_there():
    modes = {(v["config"].get("image_aspect_ratio"), v["config"].get("mm_patch_merge_type")) for v in GOLDEN.variants}
    assert {("anyres", None), ("anyres", "spatial"), ("anyres", "spatial_unpad"), ("square", None)} <= modes


@pytest.mark.parametrize("name", SETTINGS)
def test_settings(name, tmp_path):
    variant = SETTINGS[name]
    model = GOLDEN.reconfigured(variant["layout"], variant["config"], tmp_path / "model")
    images = GOLDEN.paths(variant["images"])
    options = ("--resolution", variant["resolution"]) if "resolution" in variant else ()
    got = trace(model, images, variant["question"], tmp_path / "t.safetensors", *options)
    for place in range(len(images)):
        key = "projected" + (f".{place}" if place else "")
        compare(f"{name} {key}", got[key], GOLDEN.tensors[f"{name}.{key}"], VISION_BAR)
    compare_logits(f"{name} logits", got["logits"], GOLDEN.tensors[f"{name}.logits"], variant["positions"])
    answer = predict(model, images, variant["question"], LONGEST, *options)
    assert answer["image_tokens"] == variant["image_tokens"]
    check_answer(f"{name} greedy", answer, variant, LONGEST)
