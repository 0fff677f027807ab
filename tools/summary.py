"""Sum up what meson ran: tools/summary.py --broken N --left-out NAMES TESTLOG.json...

Counts single cases where a test program says how many it had (cmocka, pytest), else one for the program; names what
failed and what was skipped with its reason; ends in the line "N passed, N failed, N skipped". N builds that broke count as
failures, and runs that were left out for lack of time as skipped. Exit status 1 when anything failed or nothing passed.
"""
import argparse
import json
import re
import sys

PYTEST_TOTAL = re.compile(r"^=+ (.*) in [0-9.]+s.*=+$", re.M)
CMOCKA = re.compile(r"^\[  (PASSED|FAILED|SKIPPED)\s*\] (\d+) test\(s\)", re.M)


def cases(output):
    """(passed, failed, skipped) that a test program printed, or None."""
    total = PYTEST_TOTAL.findall(output)
    if total:
        count = {word: int(n) for n, word in re.findall(r"(\d+) ([a-z]+)", total[-1])}
        return (count.get("passed", 0), count.get("failed", 0) + count.get("error", 0) + count.get("errors", 0),
                count.get("skipped", 0))
    groups = CMOCKA.findall(output)
    if groups:
        count = {"PASSED": 0, "FAILED": 0, "SKIPPED": 0}
        for word, n in groups:
            count[word] += int(n)
        return count["PASSED"], count["FAILED"], count["SKIPPED"]
    return None


def reason(output):
    """The last line a skipped test printed: why it did not run."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--broken", type=int, default=0)
    parser.add_argument("--left-out", type=str.split, default=[])
    parser.add_argument("logs", nargs="*")
    options = parser.parse_args()
    passed, failed, skipped = 0, options.broken, len(options.left_out)
    failures, golden = [], set()
    skips = [f"{run}: no time was left (FVLM_MINUTES)" for run in options.left_out]
    for log in options.logs:
        with open(log, encoding="utf-8") as lines:
            tests = [json.loads(line) for line in lines if line.strip()]
        for test in tests:
            name, result = f"{log.split('/')[0]}: {test['name']}", test["result"]
            output = test.get("stdout", "") + "\n" + test.get("stderr", "")
            count = cases(output)
            golden.update(re.findall(r"^golden set: (.+)$", output, re.M))
            skips += [f"{name}: {line}" for line in re.findall(r"^SKIPPED (?:\[\d+\] )?(.+)$", output, re.M)]
            if result == "SKIP":
                skipped += 1
                skips.append(f"{name}: {reason(output)}")
            elif result in ("OK", "EXPECTEDFAIL"):
                good, bad, left_out = count or (1, 0, 0)
                passed, skipped = passed + good, skipped + left_out
                if bad:
                    failed += bad
                    failures.append(f"{name}: printed failures but exited with 0")
            else:
                good, bad, left_out = count or (0, 1, 0)
                passed, failed, skipped = passed + good, failed + max(bad, 1), skipped + left_out
                failures.append(f"{name}: {result.lower()}, exit status {test.get('returncode')}")
    for title, lines in (("skipped", skips), ("failed", failures)):
        for line in lines:
            print(f"{title}: {line}")
    for line in sorted(golden):
        print(f"golden set: {line}")
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
