"""What is compared with what.

Ours runs `fastvlm bench` with its arguments, on the checkpoint or on what run.py converts it to; `measure` is a member
of the JSON that it prints, or "step_ms": then it is `fastvlm train`, and the time of a step. Peer runs a method in a worker (see worker.py). PIXELS, PROMPT_TOKENS and DECODED among its
arguments are filled in by run.py. Every side is measured in milliseconds; decoding in milliseconds a token.
"""

import dataclasses

PRECISIONS = ("fp32", "bf16", "int8")
SIDES = (256, 512, 768, 1024, 1536, 2048)


@dataclasses.dataclass
class Ours:
    label: str
    arguments: list
    measure: str = "encode_ms"
    model: str = "full"  # or "q8_0", "q4_0": weights of the language model; "7b-q4_0"; "0.15b"


@dataclasses.dataclass
class Peer:
    label: str
    spec: dict
    run: str = "encode"
    arguments: list = dataclasses.field(default_factory=list)
    rounds: int | None = None  # at most so many, and no warming up: for what takes a minute


@dataclasses.dataclass
class Case:
    title: str
    ours: list
    peers: list = dataclasses.field(default_factory=list)


def tower(name, label, precision, **more):
    return Peer(label, {"peer": name, "precision": precision, **more}, arguments=["PIXELS"])


def language(run, kind):
    """llama.cpp's file type, or PyTorch's bf16."""
    pytorch = kind == "bf16"
    spec = {"peer": "pytorch-language" if pytorch else "llama.cpp", "precision": kind}
    argument = "PROMPT_TOKENS" if run == "prefill" else "DECODED"
    return Peer(("PyTorch " if pytorch else "llama.cpp ") + kind, spec, run, [argument])


def precision(name, **more):
    return Ours(f"fastvlm {name}", ["--precision", name], **more)


FOUR_BITS = Ours("fastvlm int8, 4-bit weights", ["--precision", "int8"], model="q4_0")


def measured(ours, measure):
    return dataclasses.replace(ours, measure=measure)


def training(title, mode, arguments, model="full"):
    """A step of training on one picture and its text; PyTorch's weights and AdamW's moments are bf16."""
    ours = Ours(f"fastvlm bf16, {title}", ["--precision", "bf16", *arguments], "step_ms", model)
    peer = Peer("PyTorch bf16, transformers", {"peer": "pytorch-training", "mode": mode}, "step")
    return Case(f"a training step, {title}", [ours], [peer])


def all_cases():
    cases = {}
    runtimes = {
        "fp32": [("openvino", "OpenVINO"), ("onnxruntime", "ONNX Runtime"), ("pytorch", "PyTorch")],
        "bf16": [("openvino", "OpenVINO"), ("pytorch", "PyTorch")],
        "int8": [("openvino", "OpenVINO")],
    }
    for kind, peers in runtimes.items():
        sides = [tower(name, f"{label} {kind}", kind) for name, label in peers]
        cases[f"tower-{kind}"] = Case(f"vision tower, {kind}", [precision(kind)], sides)
    cases["tower-avx2"] = Case(
        "vision tower, AVX2 only",
        [Ours(f"fastvlm {kind}, AVX2", ["--precision", kind, "--cpu-mask", "avx2"]) for kind in ("fp32", "int8")],
        [tower("onnxruntime", "ONNX Runtime fp32, AVX2", "fp32", avx2=True)],
    )
    for run, measure in (("prefill", "prefill_ms"), ("decode", "decode_ms")):
        widths = {
            "16 bits": (precision("bf16"), ["bf16", "BF16"]),
            "8 bits": (Ours("fastvlm int8, 8-bit weights", ["--precision", "int8"], model="q8_0"), ["Q8_0"]),
            "4 bits": (FOUR_BITS, ["Q4_0"]),
        }
        if run == "prefill":
            widths["8 bits"][1].insert(0, "Q4_0")  # what its bar is held to
        else:
            widths["16 bits"][1].reverse()
        for bits, (ours, kinds) in widths.items():
            key = f"{run}-{bits.split()[0]}"
            cases[key] = Case(f"{run}, {bits}", [measured(ours, measure)], [language(run, kind) for kind in kinds])
    onevision = {"peer": "onevision", "precision": "bf16"}
    cases["first-token"] = Case(
        "picture to first token",
        [measured(ours, "ttft_ms") for ours in (FOUR_BITS, precision("int8"), precision("bf16"))],
        [Peer("LLaVA-OneVision-0.5B, PyTorch bf16", onevision, "first_token", rounds=1)],
    )
    cases["encoder"] = Case(
        "vision encoder",
        [dataclasses.replace(precision(kind), label=f"FastViTHD 1024 px, fastvlm {kind}") for kind in ("bf16", "int8")],
        [Peer("SigLIP-SO400M 10 x 384 px, PyTorch bf16", onevision, "encode", rounds=2)],
    )
    cases["load"] = Case("load the model, files in memory", [measured(FOUR_BITS, "load_ms"), precision("bf16", measure="load_ms")])
    cases["7b"] = Case(
        "7B, picture to first token", [dataclasses.replace(FOUR_BITS, model="7b-q4_0", measure="ttft_ms")]
    )
    cases["train-projector"] = training("projector", "projector", ["--tune", "projector"])
    cases["train-lora"] = training("LoRA", "lora", ["--tune", "llm", "--lora", "true"])
    everything = ["--tune", "vision,projector,llm"]
    cases["train-full"] = training("everything of a 0.15B model", "full", everything, "0.15b")
    for threads in (1, 2):
        several = [dataclasses.replace(precision(kind)) for kind in PRECISIONS]
        for ours in several:
            ours.arguments = [*ours.arguments, "--threads", str(threads)]
        cases[f"threads-{threads}"] = Case(f"vision tower, threads: {threads}", several)
    for side in SIDES:
        several = [Ours(f"fastvlm {kind}", ["--precision", kind, "--resolution", str(side)]) for kind in PRECISIONS]
        cases[f"side-{side}"] = Case(f"vision tower, {side} px", several)
    return cases
