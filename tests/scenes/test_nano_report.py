"""tools/nano_report.py, with a program in front of the real one whose answers are known: the first one of each type or
page is right, the others are not."""
import os
import pathlib
import re
import subprocess
import sys

import pytest

BUILD = pathlib.Path(os.environ["FVLM_BUILD"])
ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = f"""#!{sys.executable}
import json, os, sys
if sys.argv[1] != "eval":
    os.execv({str(BUILD / "fastvlm")!r}, sys.argv)
options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
seen = set()
with open(options["--predictions"], "w") as out:
    for line in open(options["--data"]):
        sample = json.loads(line)
        kind = sample.get("type", "")
        question, answer = (turn["value"] for turn in sample["conversations"])
        right = kind not in seen and os.path.exists(sample["image"])
        seen.add(kind)
        print(json.dumps({{"kind": kind, "question": question, "reference": answer, "correct": right,
                          "answer": answer if right else "a | b"}}), file=out)
"""


@pytest.fixture
def report(tmp_path):
    if os.environ.get("FVLM_WRAPPER"):
        pytest.skip("the program runs in an emulator")
    build = tmp_path / "build"
    (build / "tools").mkdir(parents=True)
    (build / "tools" / "scenes").symlink_to(BUILD / "tools" / "scenes")
    (build / "fastvlm").write_text(PROGRAM)
    (build / "fastvlm").chmod(0o755)

    def run(page, *options):
        command = [sys.executable, "-B", ROOT / "tools" / "nano_report.py", page, "--build", build, "--pages", tmp_path,
                   "--model", ROOT / "tests" / "golden" / "hf", *options]
        subprocess.run(list(map(str, command)), check=True, timeout=250)

    return run


def test_examples(report, tmp_path):
    report("examples")
    page = (tmp_path / "examples.md").read_text()
    pictures = re.findall(r"!\[\w+\]\((examples/.*)\)", page)
    assert len(pictures) == len(set(pictures)) == 14
    assert all((tmp_path / name).read_bytes()[:2] == b"\xff\xd8" for name in pictures)
    rows = re.findall(r"^\| .*\|$", page, re.M)
    answers = [row for row in rows if not row.startswith("| question")]
    assert len(answers) > 30 and all(re.match(r"\| .* \| .* \| (right|\*\*wrong\*\*: .+) \|$", row) for row in answers)
    assert sum(row.endswith("| right |") for row in answers) == 1
    assert f"1 of {len(answers)} are right" in page and r"a \| b" in page
    assert page.count("\n## ") == 7


def test_scores(report, tmp_path):
    model = ROOT / "tests" / "golden" / "llava"
    card = (ROOT / "models" / "nano" / "README.md").read_text()
    (tmp_path / "README.md").write_text(card)
    options = ["--count", 4, "--batch", 40, "--rounds", 2, "--checkpoint", model]
    report("scores", *options)
    page = (tmp_path / "README.md").read_text()
    assert page.split("<!-- shape -->")[0] == card.split("<!-- shape -->")[0]
    assert page.rsplit("<!-- end -->", 1)[1] == card.rsplit("<!-- end -->", 1)[1]
    assert "| parameters | 0.2 million |" in page
    head, *rows = [[cell.strip() for cell in line.strip("|").split("|")]
                   for line in page.split("<!-- scores -->\n")[1].split("\n<!-- end")[0].splitlines() if "--:" not in line]
    assert head == ["type", "questions", "goal", "as it ships", "camera", "bf16", "int8", "unrounded", "4 bits",
                    "4 bits, int8"]
    table = {row[0]: row[1:] for row in rows}
    assert len(table) > 12 and {"colour", "count", "word", "clock", "all"} <= set(table)
    for kind, (questions, _, *percentages) in table.items():
        assert kind == "all" or int(questions) <= 4
        for i in (0, 2, 3, 4, 5, 6): # the camera's pictures may be more or fewer of a type
            right = len(table) - 1 if kind == "all" else 1
            assert percentages[i] == f"{100 * right / int(questions):.1f}", kind
    assert int(table["all"][0]) == sum(int(row[0]) for kind, row in table.items() if kind != "all")
    assert table["colour"][:3] == ["4", "98", "25.0"]
    report("scores", *options) # a second time: what was drawn is used again, and the tables are replaced
    assert (tmp_path / "README.md").read_text().count("| colour |") == 1
