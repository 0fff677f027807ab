"""The results of run.py as a table in Markdown, and its place in docs/performance.md."""

import statistics

import work

DECODING = "decode"
BEGIN, END = "<!-- table: written by bench/peers/table.py -->", "<!-- end of table -->"


def median(side):
    return statistics.median(side["ms"]) if side["ms"] else float("nan")


def amount(name, milliseconds):
    """Tokens a second for decoding, else milliseconds."""
    if name.startswith(DECODING):
        return f"{1e3 / milliseconds:.1f} tokens/s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def parameters(title, peers):
    """Rows as those of rows: how large our encoder is beside each peer's."""
    ours = work.Tower(1024).parameters
    for label, peer in peers.items():
        theirs = peer["vision_parameters"]
        amounts = [f"{count / 1e6:.0f} million" for count in (ours, theirs)]
        yield f"{title}, parameters", "FastViTHD", amounts[0], label.split(",")[0], amounts[1], f"{ours / theirs:.2f} x as many"


def rows(results):
    """(case's title, our label, our amount, peer's label, its amount, ratio of the times as text)."""
    for name, case in results["cases"].items():
        if name.startswith(("side-", "threads-")):
            continue  # pictures of their own
        ours = {label: side for label, side in case["sides"].items() if side["ours"]}
        peers = {label: side for label, side in case["sides"].items() if not side["ours"]}
        if name == "encoder":
            yield from parameters(case["title"], peers)
        for label, side in ours.items():
            for peer_label, peer in (peers or {"": None}).items():
                if peer is None:
                    yield case["title"], label, amount(name, median(side)), "", "", ""
                    continue
                ratio = median(side) / median(peer)
                text = f"{1 / ratio:.1f} x sooner" if ratio < 0.1 else f"{ratio:.2f} x the time"
                if name.startswith(DECODING):
                    text = f"{1 / ratio:.2f} x the speed"
                yield case["title"], label, amount(name, median(side)), peer_label, amount(name, median(peer)), text


def markdown(results):
    lines = [f"{results['processor']}, {results['threads']} threads; medians.", ""]
    lines += ["| what | ours | | peer | | ratio |", "|---|---|---:|---|---:|---|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows(results)]
    return "\n".join(lines)


def put(results, page):
    """Write the table between the marks of `page`, a path."""
    text = page.read_text()
    before, rest = text.split(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{markdown(results)}\n{END}{rest.split(END)[1]}")
