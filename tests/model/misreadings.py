#!/usr/bin/env python3
"""Reads each meaning wrong, on purpose, and counts the cases that notice.

A case file is worth what it can catch. Each entry of MISREADINGS changes one place of the model,
the way a person might take it who knows Spark by hearsay; each must fail at least two cases, or
this exits 1. What only a restart can get wrong is not here: the model has nothing to restart.
"""
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent

# (what is taken wrongly, file, what it says, what the misreader makes of it)
MISREADINGS = [
    ("an empty batch has no partitions", "operations.py",
     "{k: cut(batch[k], partitions) for k in batch}",
     "{k: cut(batch[k], partitions) if batch[k] else [] for k in batch}"),
    ("the first partitions are the larger ones", "operations.py",
     "[i * len(records) // n:(i + 1) * len(records) // n]",
     "[-(-i * len(records) // n):-(-(i + 1) * len(records) // n)]"),
    ("empty partitions are not worth a call", "operations.py",
     "narrow(parent, MAP_PARTITIONS[p[\"f\"]])",
     "narrow(parent, lambda r: MAP_PARTITIONS[p[\"f\"]](r) if r else [])"),
    ("an empty batch has no count", "operations.py",
     "[[len(parent.records(k))]]",
     "[[len(parent.records(k))] if parent.records(k) else []]"),
    ("the sum of nothing is 0", "operations.py",
     "if parent.records(k) else []]",
     "if parent.records(k) else [0]]"),
    ("1 and \"1\" are one key", "functions.py",
     "    return json.dumps(value, separators",
     "    return json.dumps(int(value) if isinstance(value, str) and value.isdigit() else "
     "value, separators"),
    ("null is no key", "operations.py",
     "    for key, value in records:\n",
     "    for key, value in [r for r in records if r[0] is not None]:\n"),
    ("the values of a group are sorted", "operations.py",
     "pairs(groups(records))",
     "[[k, sorted(v, key=text_of)] for k, v in pairs(groups(records))]"),
    ("the last value of a group comes first", "operations.py",
     "setdefault(text_of(key), []).append(value)",
     "setdefault(text_of(key), []).insert(0, value)"),
    ("a union is sorted by nothing", "operations.py",
     "for parent in parents for part",
     "for parent in parents[::-1] for part"),
    ("equal keys need no order", "functions.py",
     "sorted(records, key=lambda x: x[0])",
     "sorted(records, key=text_of)"),
    ("keys sort by their spelling", "functions.py",
     "sorted(records, key=lambda x: x[0])",
     "sorted(records, key=lambda x: str(x[0]))"),
    ("-3 is even, or 3 is", "functions.py",
     "\"is_even\": lambda x: x % 2 == 0",
     "\"is_even\": lambda x: x % 2 != 1 or x < 0"),
    ("a join gives each key once", "operations.py",
     "for b in right.get(text, [None] if null_right else []):",
     "for b in right.get(text, [None] if null_right else [])[:1]:"),
    ("left and right are one another", "operations.py",
     "\"left\": (False, True)",
     "\"left\": (True, False)"),
    ("a full outer join is a left one", "operations.py",
     "\"full\": (True, True)",
     "\"full\": (False, True)"),
    ("cogroup needs both sides", "operations.py",
     "dict.fromkeys([*a, *b])}\n",
     "dict.fromkeys(t for t in a if t in b)}\n"),
    ("update sees only keys with values", "operations.py",
     "for t in {**state, **values}}\n",
     "for t in values}\n"),
    ("update is called once per value", "functions.py",
     "(time if values else 0)",
     "time * len(values)"),
    ("values that add up to nothing are no values", "functions.py",
     "if values else (count, idle + 1)",
     "if sum(values) else (count, idle + 1)"),
    ("a removed key keeps its count", "functions.py",
     "return None if idle == 2 else",
     "return [count, 2] if idle == 2 else"),
    ("batch times begin at 0", "operations.py",
     "k * p[\"batch_ms\"], groups",
     "(k - 1) * p[\"batch_ms\"], groups"),
    ("initial state waits for its key", "operations.py",
     "new = {t: f(time",
     "state = {t: v for t, v in state.items() if k > 1 or t in values}\n        new = {t: "
     "f(time"),
    ("timed out after n batches, not after more than n", "operations.py",
     "k - touched[t] > timeout",
     "k - touched[t] >= timeout"),
    ("initial state was touched before the first batch", "operations.py",
     "dict.fromkeys(state, parent.slide)",
     "dict.fromkeys(state, 0)"),
    ("initial state does not time out", "operations.py",
     "dict.fromkeys(state, parent.slide)",
     "dict.fromkeys(state, 10**9)"),
    ("reading does not refresh", "operations.py",
     "touched[text_of(key)] = k",
     "touched[text_of(key)] = k if value not in (\"get-state\", \"noop\", 7) else "
     "touched.get(text_of(key), k)"),
    ("the time-out wins over data", "operations.py",
     "        for key, value in parent.records(k):\n            call",
     "        for text in [t for t in state if timeout is not None and k - touched[t] > "
     "timeout]:\n            call(text, None)\n            state.pop(text, None)\n        "
     "for key, value in parent.records(k):\n            call"),
    ("a timed-out key is told again and again", "operations.py",
     "            call(text, None)\n            state.pop(text, None)",
     "            call(text, None)"),
    ("time-outs come only in batches with data", "operations.py",
     "for t in state if timeout is not None and",
     "for t in state if timeout is not None and parent.records(k) and"),
    ("a removal waits for the end of the batch", "operations.py",
     "cell = State(state.pop(text, None))",
     "cell = State(state.get(text))"),
    ("a snapshot needs data", "operations.py",
     "emitted[k], snapshots[k] = [out], [pairs(state)]",
     "emitted[k], snapshots[k] = [out], [pairs(state) if parent.records(k) else []]"),
    ("the window has one batch more", "operations.py",
     "if i > k - window]",
     "if i >= k - window]"),
    ("windows wait until they are full", "operations.py",
     "if i > k - window]",
     "if i > k - window and k >= window]"),
    ("an inverse window forgets keys at rest", "operations.py",
     "for text, carried in previous.items():",
     "for text, carried in [x for x in previous.items() if x[0] in value]:"),
    ("a filter is put behind and forgets nothing", "operations.py",
     "previous, before = value, now",
     "previous, before = dict(previous, **value), now"),
    ("a key without a previous value is what came (Spark)", "operations.py",
     "            for text, carried in previous.items():",
     "            value = dict(came)\n            for text, carried in previous.items():"),
    ("what came between two windows counts (Spark)", "operations.py",
     "came = reduced([i for i in now if i not in before])",
     "came = reduced([i for i in range(max(before, default=0) + 1, k + 1)])\n            "
     "left = reduced([i for i in range(min(before, default=1), min(now)) ])\n            "
     "value = {**came, **{t: v for t, v in value.items() if t in came}}"),
    ("an empty window has no count", "operations.py",
     "return reduce_by_window(dict(p, reduce=\"sum\", inverse=\"difference\"), ones)",
     "return reduce_by_window(dict(p, reduce=\"sum\"), ones)"),
    ("counting begins at 0", "operations.py",
     "    return reduce_by_window(dict(p, reduce=\"sum\", inverse=\"difference\"), ones)",
     "    s = reduce_by_window(dict(p, reduce=\"sum\", inverse=\"difference\"), "
     "ones)\n    return s.each(lambda k: [s.records(k) or [0]])"),
    ("values that left are counted 0", "operations.py",
     "return count_by_value_(p, window_(p, parent))",
     "return reduce_by_key_and_window(dict(p, reduce=\"sum\", inverse=\"difference\"), "
     "narrow(parent, lambda r: [[x, 1] for x in r]))"),
    ("a fraction of a batch is rounded", "operations.py",
     "window, slide = p[\"window\"], p.get(\"slide\", parent.slide)",
     "window, slide = int(p[\"window\"]), int(p.get(\"slide\", parent.slide))"),
    ("a length of nothing is a length of one", "operations.py",
     "window, slide = p[\"window\"], p.get(\"slide\", parent.slide)",
     "window, slide = max(1, p[\"window\"]), max(1, p.get(\"slide\", parent.slide))"),
    ("a slice ends before its end", "reference.py",
     "end // slide_ms * stream.slide + 1)",
     "end // slide_ms * stream.slide)"),
    ("a slice rounds its beginning up", "reference.py",
     "range(begin // slide_ms",
     "range(-(-begin // slide_ms)"),
    ("slices are answered before the start", "reference.py",
     "if p.get(\"query_at\") == \"before_start\":\n        raise",
     "if False:\n        raise"),
    ("the queue is emptied every time", "operations.py",
     "take = 1 if one_at_a_time else",
     "take = len(waiting) if one_at_a_time else"),
    ("empty data sets are skipped", "operations.py",
     "waiting += (batches[k - 1] if k <= len(batches) else None) or []",
     "waiting += [s for s in (batches[k - 1] if k <= len(batches) else None) or [] if s]"),
    ("what fails is skipped", "functions.py",
     "raise FunctionFailed(None, f\"to_int: {text!r} is no number\")",
     "return 0"),
]


def failures(changed, old, new):
    """How many cases fail when `old` is taken for `new`."""
    with tempfile.TemporaryDirectory() as folder:
        for file in HERE.glob("*.py"):
            shutil.copy(file, folder)
        place = pathlib.Path(folder) / changed
        text = place.read_text(encoding="utf-8")
        if text.count(old) != 1:
            sys.exit(f"{changed}: {text.count(old)} places say {old!r}")
        place.write_text(text.replace(old, new), encoding="utf-8")
        cases = sorted((HERE.parent / "cases").glob("*.json"))
        check = [sys.executable, pathlib.Path(folder) / "reference.py", "check", *cases]
        ran = subprocess.run(check, capture_output=True, text=True, check=False)
        last = ran.stdout.splitlines()[-1].split() if ran.stdout else []
        if last[1:2] != ["passed,"]:
            sys.exit(f"{new!r} is no model: {ran.stderr.splitlines()[-1]}")
        return int(last[2])


def main():
    missed = 0
    for what, changed, old, new in MISREADINGS:
        n = failures(changed, old, new)
        missed += n < 2
        print(f"{n:>4} cases notice: {what}")
    print(f"{len(MISREADINGS)} misreadings, {missed} noticed by fewer than two cases")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
