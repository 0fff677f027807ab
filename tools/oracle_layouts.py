"""Writes one model in every layout that a user may hold.

A model is a dict of float32 arrays under LLaVA names (model.embed_tokens.weight, model.layers.N...,
model.norm.weight, model.mm_projector.{0,2}..., model.vision_tower.vision_tower.model...), whose values fp16 and bf16
hold exactly (oracle_tower.exact_in_half), so every float layout is the same model. Apple's exports are quantised here
by MLX's affine scheme: quantise() returns what is stored, dequantise() what it means.
"""

import json
import struct

import numpy as np
import torch
from safetensors.torch import save_file

from oracle_tower import PREFIX, timm_names, write_mlpackage

GROUP = 64  # input channels that share a scale and a bias in Apple's exports


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def quantise(weight, bits):
    """MLX's affine quantisation of [rows, columns]: (packed u32, scales fp16, biases fp16).

    In each group the end of larger magnitude becomes the bias, and the scale is adjusted so that zero stays exact."""
    rows, columns = weight.shape
    steps = np.float32((1 << bits) - 1)
    groups = weight.astype(np.float32).reshape(rows, columns // GROUP, GROUP)
    low, high = groups.min(-1), groups.max(-1)
    from_low = np.abs(low) > np.abs(high)
    scale = np.maximum((high - low) / steps, np.float32(1e-7))
    scale = np.where(from_low, scale, -scale)
    edge = np.where(from_low, low, high)
    zero = np.rint(edge / scale)
    scale = np.where(zero != 0, edge / np.where(zero != 0, zero, 1), scale).astype(np.float32)
    bias = np.where(zero != 0, edge, 0).astype(np.float32)
    codes = np.clip(np.rint((groups - bias[..., None]) / scale[..., None]), 0, steps).astype(np.uint32)
    lanes = codes.reshape(rows, -1, 32 // bits)
    packed = (lanes << (np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits))).sum(-1).astype(np.uint32)
    return packed, scale.astype(np.float16), bias.astype(np.float16)


def dequantise(packed, scales, biases, bits):
    """What the three arrays mean, in float32. MLX computes in the type of scales and biases, so the product and the
    sum are each rounded to fp16; leaving that out moves logits by some thousandths."""
    shifts = np.arange(32 // bits, dtype=np.uint32) * np.uint32(bits)
    codes = (packed[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    groups = codes.reshape(packed.shape[0], -1, GROUP).astype(np.float16)
    values = groups * scales[..., None] + biases[..., None]
    assert values.dtype == np.float16
    return values.astype(np.float32).reshape(packed.shape[0], -1)


def llava_config(arch, llm, side, special, **more):
    return {
        "architectures": ["LlavaQwen2ForCausalLM"],
        "model_type": "llava_qwen2",
        **llm,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "use_cache": True,
        "use_sliding_window": False,
        "bos_token_id": special["<|endoftext|>"],
        "eos_token_id": special["<|im_end|>"],
        "mm_vision_tower": f"mobileclip_l_{side}",
        "mm_hidden_size": 2 * arch["embed_dims"][-1],
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "flat",
        "mm_use_im_start_end": False,
        "mm_use_im_patch_token": False,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "image_aspect_ratio": "pad",
        "image_grid_pinpoints": None,
        "tokenizer_model_max_length": 4096,
        "unfreeze_mm_vision_tower": True,
        "mm_vision_arch": arch,
        **more,
    }


def generation_config(special):
    return {
        "bos_token_id": special["<|endoftext|>"],
        "eos_token_id": [special["<|im_end|>"], special["<|endoftext|>"]],
        "pad_token_id": special["<|endoftext|>"],
        "do_sample": True,
        "temperature": 0.7,
        "top_p": 0.8,
        "top_k": 20,
    }


def tensors(model, dtype):
    return {name: torch.from_numpy(np.array(value)).to(dtype) for name, value in model.items()}


def write_llava(folder, model, config, special):
    """Two shards of mixed types: the language model bf16, the tower's convolutions fp16, its small vectors fp32."""
    folder.mkdir()
    language = {name: value for name, value in model.items() if not name.startswith(PREFIX)}
    tower = {name: value for name, value in model.items() if name.startswith(PREFIX)}
    second = tensors({name: value for name, value in tower.items() if value.ndim > 1}, torch.float16)
    second.update(tensors({name: value for name, value in tower.items() if value.ndim == 1}, torch.float32))
    shards = [tensors(language, torch.bfloat16), second]
    places = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        places.update(dict.fromkeys(shard, file))
    total = sum(tensor.nbytes for shard in shards for tensor in shard.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": places})
    write_json(folder / "config.json", {**config, "torch_dtype": "bfloat16"})
    write_json(folder / "generation_config.json", generation_config(special))


def write_llava_bin(folder, model, config, special):
    """torch.save: fp16, the small vectors of the tower fp32, batch counters int64, q, k and v views of one storage."""
    folder.mkdir()
    state = {}
    for name, value in model.items():
        small = name.startswith(PREFIX) and value.ndim == 1
        state[name] = torch.from_numpy(np.array(value)).to(torch.float32 if small else torch.float16)
        if name.endswith("bn.running_var"):
            state[name.replace("running_var", "num_batches_tracked")] = torch.tensor(1000)
    for layer in range(config["num_hidden_layers"]):
        names = [f"model.layers.{layer}.self_attn.{part}_proj.weight" for part in "qkv"]
        fused = torch.cat([state[name] for name in names])
        state.update(zip(names, fused.split([state[name].shape[0] for name in names])))
    torch.save(state, folder / "pytorch_model.bin")
    write_json(folder / "config.json", {**config, "torch_dtype": "float16"})
    write_json(folder / "generation_config.json", generation_config(special))


def hf_state(model, arch):
    """The model under transformers' fast_vlm names. `model.image_newline` has no place there."""
    tower = timm_names(arch, [name[len(PREFIX) :] for name in model if name.startswith(PREFIX)])
    state = {}
    for name, value in model.items():
        if name.startswith(PREFIX):
            new = "model.vision_tower.timm_model." + tower[name[len(PREFIX) :]]
        elif name.startswith("model.mm_projector."):
            new = name.replace("mm_projector.0", "multi_modal_projector.linear_1")
            new = new.replace("mm_projector.2", "multi_modal_projector.linear_2")
        elif name == "model.image_newline":
            continue
        else:
            new = name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name
        state[new] = value
    return state


def write_hf(folder, fast_vlm, side):
    """What transformers itself saves, in bf16."""
    fast_vlm.to(torch.bfloat16).save_pretrained(folder)
    fast_vlm.to(torch.float32)
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": side},
            "do_pad": True,
            "do_center_crop": True,
            "crop_size": {"height": side, "width": side},
            "do_convert_rgb": True,
            "resample": 3,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.0] * 3,
            "image_std": [1.0] * 3,
        },
    )


def mlx_name(name):
    if name.startswith("model.mm_projector."):
        return name.replace("model.mm_projector.", "multi_modal_projector.linear_")
    return "language_model." + name


def save_mlx(path, arrays):
    """A safetensors file as MLX writes it: nothing pads the header, so the data may lie at odd addresses. Here it
    always does: what a reader must cope with should not depend on the length of some names."""
    kinds = {"float16": "F16", "uint32": "U32"}
    header, offset = {"__metadata__": {"format": "mlx"}}, 0
    for name, array in arrays.items():
        end = offset + array.nbytes
        header[name] = {"dtype": kinds[array.dtype.name], "shape": list(array.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (1 - len(text) % 2)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(array.tobytes() for array in arrays.values()))


def write_apple(folder, model, config, bits, tower, side):
    """fp16 language model and projector, quantised to `bits` (16: not) where whole groups fit; the tower as a package.

    Returns the model that the files hold, in float32, without the tower."""
    folder.mkdir()
    stored, meaning = {}, {}
    for name, value in model.items():
        if name.startswith(PREFIX) or name == "model.image_newline":
            continue
        new = mlx_name(name)
        if bits < 16 and value.ndim == 2 and value.shape[1] % GROUP == 0:
            packed, scales, biases = quantise(value, bits)
            base = new[: -len("weight")]
            stored.update({new: packed, base + "scales": scales, base + "biases": biases})
            meaning[name] = dequantise(packed, scales, biases, bits)
        else:
            stored[new] = value.astype(np.float16)
            meaning[name] = value
    save_mlx(folder / "model.safetensors", dict(sorted(stored.items())))
    quantisation = {"quantization": {"group_size": GROUP, "bits": bits}} if bits < 16 else {}
    write_json(folder / "config.json", {**config, "image_token_index": config["vocab_size"] - 1, **quantisation})
    processor = {"processor_class": "LlavaProcessor", "image_token": "<image>", "patch_size": 64}
    write_json(folder / "processor_config.json", {**processor, "num_additional_image_tokens": 0})
    write_mlpackage(tower, side, folder / "fastvithd.mlpackage", half=bits < 16)
    return meaning


def write_tokenizer(folder, tokenizer, special, files):
    """`files`: which of tokenizer.json, vocab.json (with merges.txt and added_tokens.json) the folder gets."""
    definition = json.loads(tokenizer.to_str())
    if "tokenizer.json" in files:
        text = json.dumps(definition, ensure_ascii=False, separators=(",", ":"))
        (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
    if "vocab.json" in files:
        vocabulary = json.dumps(definition["model"]["vocab"], ensure_ascii=False, separators=(",", ":"))
        (folder / "vocab.json").write_text(vocabulary + "\n", encoding="utf-8")
        merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in definition["model"]["merges"]]
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
        write_json(folder / "added_tokens.json", special)
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "added_tokens_decoder": {str(number): {"content": text, **flags} for text, number in special.items()},
            "additional_special_tokens": ["<|im_start|>", "<|im_end|>"],
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
            "clean_up_tokenization_spaces": False,
            "errors": "replace",
            "model_max_length": 4096,
            "split_special_tokens": False,
            "tokenizer_class": "Qwen2Tokenizer",
        },
    )
