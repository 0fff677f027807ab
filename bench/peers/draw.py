#!/usr/bin/env python3
"""Draws the results of run.py into docs/performance-*.svg and puts the table into docs/performance.md:
draw.py [--results FILE] [--out FOLDER]"""

import argparse
import json
import pathlib
import statistics
import sys

import table
import work
from cases import PRECISIONS, SIDES
from svg import COLOURS, FAINT, STAGES, Axes, Canvas, bars, legend

HERE = pathlib.Path(__file__).resolve().parent


def middle(side, key):
    """The median of a member of bench's JSON."""
    return statistics.median(run[key] for run in side["bench"])


def sides_of(cases):
    return [side for side in SIDES if f"side-{side}" in cases]


def draw_peers(results, out):
    """Every case that has a peer, a group of bars each."""
    groups = [
        (name, case)
        for name, case in results["cases"].items()
        if any(not side["ours"] for side in case["sides"].values()) and name not in ("first-token", "encoder")
    ]
    count = sum(len(case["sides"]) for _, case in groups)
    canvas = Canvas(860, 66 + 24 * count + 34 * len(groups), f"Beside other runtimes, {results['processor']}")
    legend(canvas, 20, 50, [("this project", COLOURS["ours"]), ("peer", COLOURS["peer"])])
    y = 84
    for name, case in groups:
        decoding = name.startswith("decode")
        canvas.text(20, y, case["title"] + (" (longer is better)" if decoding else " (shorter is better)"), weight="bold")
        rows = []
        for label, side in case["sides"].items():
            amount = 1e3 / table.median(side) if decoding else table.median(side)
            rows.append((label, [amount], [COLOURS["ours" if side["ours"] else "peer"]]))
        y = bars(canvas, y + 8, rows, unit="tokens/s" if decoding else "ms") + 26
    canvas.save(out / "performance-peers.svg")


def draw_stages(results, out):
    """Picture to first token by stage, and the encoder beside LLaVA-OneVision's."""
    first, encoder = results["cases"]["first-token"]["sides"], results["cases"]["encoder"]["sides"]
    canvas = Canvas(860, 425, f"Picture of 1024 px to first token, {results['processor']}")
    names = ("decode picture", "vision encoder", "prefill and first token")
    legend(canvas, 20, 52, list(zip(names, STAGES)))
    rows = []
    for label, side in first.items():
        if side["ours"]:
            stages = [middle(side, "picture_ms"), middle(side, "encode_ms")]
            rows.append((label, [*stages, middle(side, "ttft_ms") - sum(stages)], STAGES))
    y = bars(canvas, 66, rows) + 26
    (label, peer), *_ = [(label, side) for label, side in first.items() if not side["ours"]]
    siglip = next(side for side in encoder.values() if not side["ours"])
    seen, whole = table.median(siglip), table.median(peer)
    ours = min(side["ms"] and table.median(side) for side in first.values() if side["ours"])
    canvas.text(20, y, f"The same in seconds, beside LLaVA-OneVision-0.5B: {whole / ours:.0f} times sooner", weight="bold")
    rows = [("fastvlm, the fastest", [ours / 1e3], [STAGES[1]]), (label, [seen / 1e3, (whole - seen) / 1e3], STAGES[1:])]
    y = bars(canvas, y + 10, rows, unit="s") + 28
    fastvithd = work.Tower(1024)
    canvas.text(20, y, "The two vision encoders: parameters", weight="bold")
    millions = [("FastViTHD, 256 tokens", fastvithd.parameters / 1e6, "ours")]
    millions.append(("SigLIP-SO400M, 10 views of 729 tokens", siglip["vision_parameters"] / 1e6, "peer"))
    y = bars(canvas, y + 10, [(n, [v], [COLOURS[c]]) for n, v, c in millions], unit="million") + 28
    canvas.text(20, y, "and time", weight="bold")
    rows = [(n, [table.median(s) / 1e3], [COLOURS["ours" if s["ours"] else "peer"]]) for n, s in encoder.items()]
    bars(canvas, y + 10, rows, unit="s")
    canvas.save(out / "performance-stages.svg")


def roofline_points(results):
    """(name, kind of arithmetic, operations for a byte of weights, operations a second, whether ours)."""
    cases, tower = results["cases"], work.Tower(1024)
    widths = {"fp32": 4, "bf16": 2, "int8": 1}
    for kind in PRECISIONS:
        if f"tower-{kind}" in cases:
            for label, side in cases[f"tower-{kind}"]["sides"].items():
                if side["ours"] or label.startswith("OpenVINO"):
                    seconds = table.median(side) / 1e3
                    intensity = tower.operations / (tower.parameters * widths[kind])
                    yield f"tower, {kind}" if side["ours"] else "", kind, intensity, tower.operations / seconds, side["ours"]
    for bits, weights, kind in ((16, "bf16", "bf16"), (8, "q8_0", "int8"), (4, "q4_0", "int8")):
        layers, read = work.decoder_weights(weights)
        for run in ("prefill", "decode"):
            if f"{run}-{bits}" not in cases:
                continue
            for label, side in cases[f"{run}-{bits}"]["sides"].items():
                if not side["ours"]:
                    continue
                seconds = table.median(side) / 1e3
                tokens = middle(side, "prompt_tokens")
                vocabulary = work.QWEN2_05B["vocabulary"] * work.QWEN2_05B["hidden"]
                done = work.prefill_operations(tokens) if run == "prefill" else 2 * (layers + vocabulary)
                yield f"{run}, {bits}-bit weights", kind, done / read, done / seconds, True


def draw_roofline(results, out):
    roof = results["roofline"]["all_threads"]
    peaks = {"fp32": roof["fp32_gflops"], "bf16": roof["bf16_gflops"], "int8": roof["int8_gops"]}
    memory = roof["read_gb_per_s"]
    canvas = Canvas(860, 520, f"Roofline, {results['threads']} threads of {results['processor']}")
    x, y = (1, 2e4), (10, 2e3)
    axes = Axes(
        canvas,
        (80, 50, 840, 460),
        x,
        y,
        "operations for a byte of weights",
        "GFLOP/s or GOP/s",
        [(10**i, f"{10**i:,}") for i in range(5)],
        [(v, f"{v:,}") for v in (10, 30, 100, 300, 1000)],
    )
    for kind, peak in peaks.items():
        knee = peak / memory
        axes.curve([(knee, peak), (x[1], peak)], COLOURS[kind])
        px, py = axes.at(x[0] * 1.2, peak)
        canvas.text(px, py + 4, f"{kind} {peak:.0f}", size=11, colour=COLOURS[kind])
        axes.curve([(x[0] * 2.6, peak), (knee, peak)], COLOURS[kind], 1, "3 4")
    axes.curve([(x[0], memory * x[0]), (max(peaks.values()) / memory, max(peaks.values()))], FAINT)
    canvas.text(88, 452, f"slope: reading memory, {memory:.0f} GB/s", size=11, colour=FAINT)
    for name, kind, intensity, rate, ours in roofline_points(results):
        axes.mark((intensity, rate / 1e9), COLOURS[kind], name, not ours, left=name.startswith("prefill"))
    canvas.text(836, 452, "hollow: OpenVINO", size=11, anchor="end", colour=FAINT)
    canvas.save(out / "performance-roofline.svg")


def draw_scaling(results, out):
    cases = results["cases"]
    canvas = Canvas(860, 400, f"Vision tower over pixels and threads, {results['processor']}")
    legend(canvas, 20, 52, [(kind, COLOURS[kind]) for kind in PRECISIONS])
    times = {
        kind: [(side, table.median(cases[f"side-{side}"]["sides"][f"fastvlm {kind}"])) for side in sides_of(cases)]
        for kind in PRECISIONS
    }
    most, least = max(t for line in times.values() for _, t in line), min(t for line in times.values() for _, t in line)
    axes = Axes(
        canvas,
        (80, 70, 480, 340),
        (230, 2300),
        (least / 1.3, most * 1.3),
        "side of the picture in pixels; dashed: as the pixels",
        "ms",
        [(side, str(side)) for side in SIDES],
        [(v, f"{v:,}") for v in (30, 100, 300, 1000, 3000, 10000) if least / 1.3 < v < most * 1.3],
    )
    for kind, line in times.items():
        axes.curve(line, COLOURS[kind])
        for point in line:
            axes.mark(point, COLOURS[kind])
        start, base = line[1]
        axes.curve([(side, base * (side / start) ** 2) for side, _ in line[1:]], COLOURS[kind], 1, "3 4")
    canvas.text(540, 82, "1024 px, ms", weight="bold")
    y = 92
    for kind in PRECISIONS:
        rows = [
            (f"{kind}, {n} thread" + "s" * (n > 1), table.median(cases[f"threads-{n}"]["sides"][f"fastvlm {kind}"]))
            for n in (1, 2)
        ]
        for name, amount in rows:
            canvas.text(630, y + 12, name, anchor="end")
            length = 130 * amount / most_of(cases)
            canvas.bar(638, y, length, 15, COLOURS[kind])
            canvas.text(644 + length, y + 12, f"{amount:,.0f}", colour=FAINT)
            y += 22
        canvas.text(638, y + 10, f"{rows[0][1] / rows[1][1]:.2f} times as fast with two", size=11, colour=FAINT)
        y += 28
    canvas.save(out / "performance-scaling.svg")


def most_of(cases):
    return max(table.median(side) for side in cases["threads-1"]["sides"].values())


def draw_memory(results, out):
    """The process's peak over the weights' size as stored."""
    rows, cases = [], results["cases"]
    for side_px in sides_of(cases):
        for label, side in cases[f"side-{side_px}"]["sides"].items():
            peak = middle(side, "peak_memory_bytes") / 1e6
            weights = middle(side, "weight_bytes") / 1e6
            rows.append((f"{label}, {side_px} px", [min(weights, peak), max(peak - weights, 0)], STAGES))
    for name in ("decode-8", "decode-4", "7b"):
        for label, side in cases.get(name, {"sides": {}})["sides"].items():
            if side["ours"]:
                weights, peak = middle(side, "weight_bytes") / 1e6, middle(side, "peak_memory_bytes") / 1e6
                title = f"{label}, 7B" if name == "7b" else label
                rows.append((title, [min(weights, peak), max(peak - weights, 0)], STAGES))
    canvas = Canvas(860, 80 + 24 * len(rows), f"Peak memory of a whole answer, {results['processor']}")
    legend(canvas, 20, 52, [("weights as stored (mapped)", STAGES[0]), ("everything else", STAGES[1])])
    bars(canvas, 66, rows, unit="MB")
    canvas.save(out / "performance-memory.svg")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    build = HERE.parents[1] / "build"
    parser.add_argument("--results", type=pathlib.Path, default=build / "peers" / "results.json")
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parents[1] / "docs")
    options = parser.parse_args()
    results = json.loads(options.results.read_text())
    needed = {
        draw_peers: ["tower-fp32"],
        draw_stages: ["first-token", "encoder"],
        draw_roofline: ["tower-fp32"],
        draw_scaling: ["side-256", "side-512", "threads-1", "threads-2"],
        draw_memory: ["side-1024"],
    }
    for draw, names in needed.items():
        missing = [name for name in names if name not in results["cases"]]
        if missing:
            print(f"{draw.__name__}: left out, as there is no result of {', '.join(missing)}", file=sys.stderr)
        else:
            draw(results, options.out)
    table.put(results, options.out / "performance.md")


if __name__ == "__main__":
    main()
