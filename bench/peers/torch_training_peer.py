"""Peer: a training step in PyTorch, transformers' fast_vlm with PEFT, all in bf16: weights, gradients, AdamW's moments.

That is the fastest way there is here: float32 moments, or autocast over float32 weights, cost the peer more. Its loss
is taken over all tokens' logits, as the model's own `labels` do.
"""

import json

import peft
import torch
import transformers

PICTURE = -200  # in the list of tokens
DECODER = r".*language_model\.layers.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


class Peer:
    version = f"{torch.__version__}, transformers {transformers.__version__}"

    def __init__(self, folder, labels, threads, mode):
        torch.set_num_threads(threads)
        kind = transformers.FastVlmForConditionalGeneration
        model = kind.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation={"text_config": "sdpa"})
        model.model.vision_tower.to(memory_format=torch.channels_last)
        model.requires_grad_(mode == "full")
        if mode == "projector":
            model.model.multi_modal_projector.requires_grad_(True)
        elif mode == "lora":
            config = peft.LoraConfig(r=128, lora_alpha=256, target_modules=DECODER)
            model = peft.get_peft_model(model, config, autocast_adapter_dtype=False).to(torch.bfloat16)
        self.model = model.train()
        self.parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-5, weight_decay=0.0, fused=True)
        with open(labels) as file:
            sample = json.loads(file.readline())
        config = model.config
        side = config.vision_config.image_size if hasattr(config.vision_config, "image_size") else 1024
        self.pixels = torch.rand(1, 3, side, side, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
        tokens, targets = [], []
        for token, label in zip(sample["input_ids"], sample["labels"], strict=True):
            count = config.image_seq_length if token == PICTURE else 1
            tokens += [config.image_token_id if token == PICTURE else token] * count
            targets += [label] * count
        self.tokens, self.labels = torch.tensor([tokens]), torch.tensor([targets])

    def step(self):
        answer = self.model(input_ids=self.tokens, pixel_values=self.pixels, labels=self.labels, use_cache=False)
        answer.loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
