#!/usr/bin/env python3
"""Other runtimes and this project side by side: the same shapes, pixels and number of threads, in turns.

    bench/peers/setup.sh
    build/bench-venv/bin/python bench/peers/run.py [CASE...]

A case (cases.py) that is in the results file already is left out, so a broken run goes on where it stopped; --again
measures it anew. Each round runs every side once, so that what else the machine does falls on all of them; what is
quoted is the ratio of medians. A table of the results is printed at the end; draw.py draws them.
"""

import argparse
import datetime
import fnmatch
import json
import pathlib
import shutil
import statistics
import struct
import subprocess
import sys

import numpy as np

import cases
import table

HERE = pathlib.Path(__file__).resolve().parent
BUILD = HERE.parents[1] / "build"
MADE = BUILD / "peers" / "full_0.5b"  # a checkpoint with made-up weights
CUSTOM = BUILD / "peers" / "custom_0.15b"
DECODED = 64  # tokens
STEPS = 3  # of training; the first one also allocates
SAMPLE = {
    "conversations": [
        {"from": "human", "value": "<image>\nWhat is in the picture? Describe it."},
        {"from": "gpt", "value": "A red boat lies on the calm water of a lake in front of green hills under a sky."},
    ]
}
AGREE = {"fp32": 1e-4, "bf16": 0.05, "int8": 0.2}  # relative L2 of features from ours in fp32: the same tower?


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


class Fastvlm:
    """This project's side, through its command line."""

    def __init__(self, options):
        self.options = options
        self.log = open(options.cache / "peers.log", "a")
        self.models = {"full": options.model}
        if not (options.model / "config.json").exists():
            if options.model != MADE:
                sys.exit(f"{options.model} has no config.json: --model takes the folder of a checkpoint")
            subprocess.run([BUILD / "tools" / "make_demo_model", MADE, "0.5b"], check=True)

    def training(self, name):
        """The files of a training case, made where they are missing: the model as transformers loads it, the sample,
        and its tokens and labels."""
        model, cache = self.model(name), self.options.cache
        folder = cache / f"{model.resolve().name}-hf"
        if not folder.exists():
            self.run("export", "hf", "--model", model, "--output", folder)
        data, labels = cache / "train.json", cache / f"{model.resolve().name}-labels.jsonl"
        data.write_text(json.dumps([{**SAMPLE, "image": self.options.image.name}]))
        arguments = ["--model", model, "--data", data, "--image-folder", self.options.image.parent]
        self.run("train", *arguments, "--dump-labels", labels)
        return arguments, {"hf": str(folder), "labels": str(labels)}

    def step(self, side):
        """The time of a training step, once memory is there."""
        arguments, _ = self.training(side.model)
        output = self.options.cache / "trained"
        shutil.rmtree(output, ignore_errors=True)
        common = ["--threads", self.options.threads, "--max-steps", STEPS, "--save-steps", 0, "--lr", 1e-5]
        self.run("train", *arguments, *common, "--output", output, "--quiet", *side.arguments)
        steps = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
        shutil.rmtree(output)
        return {"step_ms": 1e3 * statistics.median(step["seconds"] for step in steps[1:]), "loss": steps[0]["loss"]}

    def run(self, command, *arguments):
        line = [self.options.fastvlm, command, *map(str, arguments)]
        return subprocess.run(line, check=True, stdout=subprocess.PIPE, stderr=self.log).stdout

    def model(self, name):
        """The checkpoint, or its copy with the language model's weights in another type."""
        if name not in self.models:
            if name == "0.15b":
                if not (CUSTOM / "config.json").exists():
                    subprocess.run([BUILD / "tools" / "make_demo_model", CUSTOM, name], check=True)
                return CUSTOM
            source = self.options.model_7b if name.startswith("7b-") else self.options.model
            if source is None:
                sys.exit("this case needs --model-7b")
            path = self.options.cache / f"{source.resolve().name}-{name}.gguf"
            if not path.exists():
                kind = name.removeprefix("7b-")
                part = path.with_suffix(".part.gguf")
                keep = "vision=bf16,projector=bf16,embed=q8_0"  # as llama.cpp keeps a tied embedding
                self.run("convert", "--model", source, "--output", part, "--type", kind, "--keep", keep)
                part.rename(path)
            self.models[name] = path
        return self.models[name]

    def bench(self, side):
        """The JSON that bench prints, with the time of a decoded token where that is measured; or a training step's."""
        if side.measure == "step_ms":
            return self.step(side)
        common = ["--threads", self.options.threads, "--image", self.options.image, "--prompt", self.options.prompt]
        counts = ["--runs", self.options.runs, "--tokens", DECODED if side.measure == "decode_ms" else 1]
        model = self.model(side.model)
        result = json.loads(self.run("bench", "--json", "--model", model, *common, *counts, *side.arguments))
        if side.measure == "decode_ms":
            result["decode_ms"] = 1e3 / result["decode_tokens_per_s"]
        return result

    def roofline(self):
        return json.loads(self.run("bench", "--roofline", "--json", "--threads", self.options.threads))

    def trace(self):
        """The pixels [1, 3, S, S] that the tower gets, and the features [1, T, C] that it makes of them in fp32."""
        path = self.options.cache / "trace.safetensors"
        arguments = ["--image", self.options.image, "--prompt", self.options.prompt, "--precision", "fp32"]
        self.run("trace", "--model", self.options.model, "--out", path, *arguments)
        data = path.read_bytes()
        path.unlink()
        (length,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + length])

        def tensor(name, dtype):
            begin, end = (8 + length + offset for offset in header[name]["data_offsets"])
            return np.frombuffer(data[begin:end], dtype).reshape(header[name]["shape"])

        pixels = tensor("pixels", np.uint8)
        assert pixels.ndim == 3, "side by side is for one tile: a checkpoint with image_aspect_ratio `pad`"
        pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1)[None]).astype(np.float32) / np.float32(255)
        return pixels, tensor("features", np.float32)


class Worker:
    """A peer's process."""

    def __init__(self, peer, options, prompt_tokens, files=None):
        self.peer, self.prompt_tokens = peer, prompt_tokens
        names = {"PIXELS": str(options.cache / "pixels.npy"), "PROMPT_TOKENS": prompt_tokens, "DECODED": DECODED}
        self.request = {"run": peer.run, "arguments": [names.get(a, a) for a in peer.arguments]}
        spec = {**peer.spec, "threads": options.threads, "model": str(options.model), "cache": str(options.cache)}
        spec["side"] = options.side
        if files:
            spec.update(files)
        line = [sys.executable, HERE / "worker.py", json.dumps(spec)]
        log = open(options.cache / "peers.log", "a")
        self.process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)
        self.about = self.reply()

    def reply(self):
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{self.peer.label} ended: see peers.log in the folder of --cache")
        return json.loads(line)

    def ask(self, request):
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self.reply()

    def measure(self):
        if self.peer.run != "decode":
            return self.ask(self.request)
        self.ask({"run": "prefill", "arguments": [self.prompt_tokens]})  # from the same place each time
        reply = self.ask(self.request)
        return {**reply, "ms": reply["ms"] / DECODED}

    def warm_up(self, options, features):
        """Run everything once before it counts; a tower's features have to be those of ours. Returns how far off."""
        if "PIXELS" not in self.peer.arguments:
            if self.peer.rounds is None:
                self.measure()
            return None
        path = options.cache / "features.npz"
        self.ask({**self.request, "save": str(path)})
        got = np.load(path)["features"]
        path.unlink()
        off = float(np.linalg.norm(got - features) / np.linalg.norm(features))
        if not off < AGREE[self.peer.spec["precision"]]:
            sys.exit(f"{self.peer.label} computes something else: relative L2 {off:.1e}")
        return off

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def measure_round(number, case, ours, workers, sides):
    """One turn of every side; appends to sides[label]."""
    for side in case.ours:
        result = ours.bench(side)
        sides[side.label]["ms"].append(result[side.measure])
        sides[side.label]["bench"].append(result)
    for worker in workers:
        if worker.peer.rounds is None or number < worker.peer.rounds:
            reply = worker.measure()
            sides[worker.peer.label]["ms"].append(reply["ms"])
            sides[worker.peer.label]["memory"] = reply["memory"]


def highest(before, now):
    """Of two measurements of the machine's limits: other work can only lower them."""
    if before is None:
        return now
    sides = ("one_thread", "all_threads")
    return {**now, **{side: {key: max(before[side][key], value) for key, value in now[side].items()} for side in sides}}


def measure(case, ours, options):
    first = ours.bench(case.ours[0])  # warms the files up, too
    prompt_tokens, features, files = first.get("prompt_tokens"), None, None
    if case.ours[0].measure == "step_ms":
        _, files = ours.training(case.ours[0].model)
    if any(peer.arguments == ["PIXELS"] for peer in case.peers):
        pixels, features = ours.trace()
        np.save(options.cache / "pixels.npy", pixels)
        options.side = pixels.shape[-1]
    sides = {side.label: {"ours": True, "ms": [], "bench": []} for side in case.ours}
    workers = []
    try:
        for peer in case.peers:
            worker = Worker(peer, options, prompt_tokens, files)
            workers.append(worker)
            off = worker.warm_up(options, features)
            sides[peer.label] = {"ours": False, "ms": [], **worker.about, "relative_l2": off}
        for number in range(options.rounds):
            measure_round(number, case, ours, workers, sides)
    finally:
        for worker in workers:
            worker.close()
    return {"title": case.title, "date": datetime.date.today().isoformat(), "sides": sides}


def parse(known):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="names or patterns of: " + " ".join(known))
    parser.add_argument("--again", action="store_true", help="measure cases anew that the results have already")
    parser.add_argument("--model", type=pathlib.Path, default=MADE, help="LLaVA checkpoint")
    parser.add_argument("--model-7b", type=pathlib.Path, help="checkpoint for the case 7b")
    parser.add_argument("--image", default=HERE.parents[1] / "docs" / "boat.png", type=pathlib.Path)
    parser.add_argument("--prompt", default="What is in the picture? Describe it.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=1, help="answers of ours in a round; their median counts")
    parser.add_argument("--fastvlm", type=pathlib.Path, default=BUILD / "fastvlm")
    parser.add_argument("--cache", type=pathlib.Path, default=BUILD / "peers", help="folder of converted models")
    parser.add_argument("--results", type=pathlib.Path, default=BUILD / "peers" / "results.json")
    options = parser.parse_args()
    unknown = [p for p in options.cases if not fnmatch.filter(known, p)]
    if unknown:
        parser.error(f"no case is called {unknown[0]}: use {' '.join(known)}")
    return options


def main():
    known = cases.all_cases()
    options = parse(known)
    options.cache.mkdir(parents=True, exist_ok=True)
    options.side = None
    ours = Fastvlm(options)
    results = json.loads(options.results.read_text()) if options.results.exists() else {"cases": {}}
    results["processor"], results["threads"] = processor(), options.threads
    for name, case in known.items():
        wanted = any(fnmatch.fnmatch(name, pattern) for pattern in options.cases) or not options.cases
        if not wanted or (name in results["cases"] and not options.again):
            continue
        if name == "7b" and options.model_7b is None and not options.cases:
            print("7b: left out, as it needs --model-7b", file=sys.stderr)
            continue
        print(f"{name}: {case.title}", file=sys.stderr)
        results["cases"][name] = measure(case, ours, options)
        results["roofline"] = highest(results.get("roofline"), ours.roofline())
        options.results.write_text(json.dumps(results, indent=1))
    print(table.markdown(results))


if __name__ == "__main__":
    main()
