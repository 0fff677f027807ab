"""Peer: llama.cpp through llama-cpp-python, on a checkpoint's decoder written as GGUF.

The file in BF16 is written here; Q8_0 and Q4_0 are made of it by llama.cpp's own quantization, with its defaults. There
is no vocabulary in it: prompts are token numbers.
"""

import ctypes
import os

import gguf
import llama_cpp
import numpy as np

FILE_TYPES = {"BF16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16, "Q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "Q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}
CONTEXT = 1024
TENSORS = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    """The name that llama.cpp has for a decoder's tensor; None for others."""
    whole = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", "lm_head.weight": "output.weight"}
    if not name.startswith("model.layers."):
        return whole.get(name)
    _, _, layer, *middle, leaf = name.split(".")
    return f"blk.{layer}.{TENSORS['.'.join(middle)]}.{leaf}"


def write(checkpoint, path):
    config = checkpoint.config
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_context_length(config.get("max_position_embeddings", 32768))
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    for name in checkpoint.places:
        if target := gguf_name(name):
            values = checkpoint.tensor(name)
            if values.ndim > 1:
                packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.BF16)
                writer.add_tensor(target, packed, raw_dtype=gguf.GGMLQuantizationType.BF16)
            else:
                writer.add_tensor(target, values.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def model_file(checkpoint, kind, cache):
    path = cache / f"{checkpoint.key}-{kind}.gguf"
    part = path.with_suffix(".part")
    if not path.exists():
        if kind == "BF16":
            write(checkpoint, part)
        else:
            settings = llama_cpp.llama_model_quantize_default_params()
            settings.ftype = FILE_TYPES[kind]
            source = model_file(checkpoint, "BF16", cache)
            if llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(part), ctypes.byref(settings)):
                raise RuntimeError(f"llama.cpp cannot quantize {source} to {kind}")
        part.rename(path)
    return path


class Peer:
    version = llama_cpp.__version__

    def __init__(self, checkpoint, threads, kind, cache):
        path = model_file(checkpoint, kind, cache)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(os.fsencode(path), llama_cpp.llama_model_default_params())
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = CONTEXT, CONTEXT, 512
        settings.n_threads = settings.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        if not self.context:
            raise RuntimeError(f"llama.cpp cannot open {path}")
        self.batch = llama_cpp.llama_batch_init(CONTEXT, 0, 1)
        self.past = 0

    def eval(self, tokens):
        """Run `tokens` at the end of what was run; logits of the last one."""
        batch = self.batch
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i] = token, self.past + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = i + 1 == len(tokens)
        if llama_cpp.llama_decode(self.context, batch):
            raise RuntimeError("llama_decode failed")
        self.past += len(tokens)
        return llama_cpp.llama_get_logits_ith(self.context, -1)

    def prefill(self, tokens):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        self.past = 0
        self.eval(range(1, tokens + 1))

    def decode(self, tokens):
        for i in range(tokens):
            self.eval([i + 1])
