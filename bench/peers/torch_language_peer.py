"""Peers: language models in PyTorch through transformers, with random weights of the real shapes.

Language: a checkpoint's own decoder. OneVision: LLaVA-OneVision-0.5B, which sees a picture as CROPS views of 384 px
through SigLIP-SO400M and hands all their tokens to Qwen2-0.5B.
"""

import torch
import transformers
from torch import nn

CROPS, QUESTION = 10, 30  # 10 views of 729 tokens and the words around them: 7320 tokens
SIGLIP_SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 26,  # the published model takes the last layer but one of 27
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "vision_use_head": False,
}
QWEN2_05B = {
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "rope_theta": 1e6,
}


def build(kind, config, dtype):
    """A model of random weights, without the time that careful initialisation takes."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device("meta"):
            model = kind._from_config(config, attn_implementation="sdpa")
    finally:
        torch.set_default_dtype(before)
    model = model.to_empty(device="cpu").eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    for module in model.modules():  # buffers are computed, not stored
        if hasattr(module, "inv_freq"):
            module.inv_freq = type(module)(config=config).inv_freq
        if hasattr(module, "position_ids"):
            module.position_ids = torch.arange(module.position_ids.shape[-1])[None]
    model.tie_weights()
    return model


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


class Language:
    version = torch.__version__

    def __init__(self, config, threads, precision):
        torch.set_num_threads(threads)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        fields = {key: config[key] for key in QWEN2_05B if key in config}
        self.config = transformers.Qwen2Config(**fields, max_position_embeddings=32768)
        self.model = build(transformers.Qwen2ForCausalLM, self.config, dtype)
        self.cache, self.token = None, torch.tensor([[1]])

    @torch.inference_mode()
    def prefill(self, tokens):
        ids = torch.arange(tokens)[None] % self.config.vocab_size
        answer = self.model(input_ids=ids, use_cache=True, logits_to_keep=1)
        self.cache, self.token = answer.past_key_values, answer.logits.argmax(-1)

    @torch.inference_mode()
    def decode(self, tokens):
        for _ in range(tokens):
            answer = self.model(input_ids=self.token, past_key_values=self.cache, use_cache=True)
            self.cache, self.token = answer.past_key_values, answer.logits.argmax(-1)


class OneVision:
    version = torch.__version__

    def __init__(self, threads, precision):
        self.language = Language(QWEN2_05B, threads, precision)
        dtype = self.language.model.dtype
        vision = transformers.SiglipVisionConfig(**SIGLIP_SO400M)
        self.vision = build(transformers.SiglipVisionModel, vision, dtype)
        wide, hidden = vision.hidden_size, self.language.config.hidden_size
        self.projector = nn.Sequential(nn.Linear(wide, hidden), nn.GELU(), nn.Linear(hidden, hidden)).to(dtype).eval()
        self.pixels = torch.randn(CROPS, 3, vision.image_size, vision.image_size, dtype=dtype)
        self.vision_parameters = parameters(self.vision)

    @torch.inference_mode()
    def encode(self):
        """The picture's tokens [1, CROPS * 729, hidden]."""
        return self.projector(self.vision(pixel_values=self.pixels).last_hidden_state).flatten(0, 1)[None]

    @torch.inference_mode()
    def first_token(self):
        words = self.language.model.get_input_embeddings()(torch.arange(QUESTION)[None])
        prompt = torch.cat([words[:, : QUESTION // 2], self.encode(), words[:, QUESTION // 2 :]], 1)
        return self.language.model(inputs_embeds=prompt, use_cache=True, logits_to_keep=1).logits.argmax(-1)
