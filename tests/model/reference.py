#!/usr/bin/env python3
"""The DStream model, executable: what the cases of a file expect, computed from what they mean.

    reference.py check FILE...   recompute what every case of the files expects, and compare
    reference.py show FILE ID    print what the reference computes for one case

The meanings are in operations.py and functions.py; here a case becomes a graph, and what it expects
is compared. There is nothing to restart: a case with kills expects what it expects without them.
"""
import argparse
import json
import sys
from collections import namedtuple

from functions import FunctionFailed, text_of
from operations import OPERATIONS, GraphRefused, gather, map_with_state, queue, source

Result = namedtuple("Result", "outputs states partitions error")


def chain(stream, steps):
    for step in steps or []:
        stream = OPERATIONS[step["op"]](step, stream)
    return stream


def parents_of(case, p, last):
    """The streams that the operation stands on, behind their `before` chains."""
    n = p.get("partitions_in", 2)
    inputs = {name: source(case.get(name) or [], last, n) for name in ("input", "input2", "input3")}
    if case["operation"] == "queueStream":
        inputs["input"] = queue(case["input"], last, n, p.get("one_at_a_time", True))
    inputs["input"] = chain(inputs["input"], case.get("before"))
    inputs["input2"] = chain(inputs["input2"], case.get("before2"))
    if "streams" in p:
        return [chain(inputs[s["from"]], s.get("steps")) for s in p["streams"]]
    if case["operation"] in ("union", "transformMany"):
        return [inputs[name] for name in inputs if name in case]
    two = ("cogroup", "join", "leftOuterJoin", "rightOuterJoin", "fullOuterJoin", "transformWith")
    return [inputs["input"], inputs["input2"]] if case["operation"] in two else [inputs["input"]]


def slices(p, stream):
    """Both ends rounded down to the slide and inclusive; only batches that ran are in an answer."""
    if p.get("query_at") == "before_start":
        raise GraphRefused("slice of a stream that was not started")
    slide_ms = stream.slide * p["batch_ms"]
    answers = []
    for begin, end in p["queries_ms"]:
        wanted = range(begin // slide_ms * stream.slide, end // slide_ms * stream.slide + 1)
        answers.append(gather(stream, [k for k in stream.at if k in wanted]))
    return answers


def run(case, last=None):
    """What the case's graph gives: the outputs, the state after each batch (None without state),
    the number of partitions of each output, and the error that ends the run, if any."""
    last = case["num_batches"] if last is None else last
    p = dict(case.get("parameters") or {}, batch_ms=case.get("batch_ms", 1000))
    p["initial_state"] = case.get("initial_state")
    try:
        parents = parents_of(case, p, last)
        states = None
        if case["operation"] == "slice":
            return Result(slices(p, parents[0]), None, None, None)
        if case["operation"] == "queueStream":
            stream = parents[0]
        elif case["operation"] == "mapWithState":
            emitted, states = map_with_state(p, parents[0])
            stream = states if p.get("observe") == "snapshots" else emitted
        else:
            stream = OPERATIONS[case["operation"]](p, *parents)
            states = stream if case["operation"] == "updateStateByKey" else None
        stream = chain(stream, case.get("after"))
    except GraphRefused as refusal:
        when = "before_start" if p.get("query_at") == "before_start" else "build"
        return Result([], None, None, {"when": when, "why": str(refusal)})
    except FunctionFailed as failure:
        # A shorter run shows what was put out before, or fails earlier still in another operation.
        before = run(case, failure.batch - 1)
        error = {"at_batch": failure.batch, "why": failure.why}
        return before._replace(error=before.error or error)
    outputs = [stream.records(k) for k in stream.at]
    partitions = [len(stream.at[k]) for k in stream.at]
    return Result(outputs, states and [states.records(k) for k in states.at], partitions, None)


# ---- comparing ----


def sort_group(key, values):
    return [key, sorted(values, key=text_of)]


def sort_sides(key, sides):
    return [key, [sorted(side, key=text_of) for side in sides]]


def normal(records, ordered=False, sort_values=None):
    """Equal for outputs that the case calls equal."""
    if sort_values:
        records = [sort_values(key, value) for key, value in records]
    return records if ordered else sorted(records, key=text_of)


def differences(case):
    """What the file says and the reference does not, one line each."""
    got = run(case)
    sort_values = sort_sides if case["operation"] == "cogroup" else sort_group
    style = case.get("ordered", False), case.get("value_order") == "any" and sort_values

    def compare(what, expected, found, *how):
        if expected is None:
            return
        if len(expected) != len(found):
            yield f"{what}: {len(expected)} expected, {len(found)} found"
        for i, (a, b) in enumerate(zip(expected, found)):
            if normal(a, *how) != normal(b, *how):
                yield f"{what} {i + 1}: expected {text_of(a)} found {text_of(b)}"

    yield from compare("output", case.get("expected"), got.outputs, *style)
    yield from compare("state", case.get("expected_state"), got.states or [])
    partitions = case.get("expected_partitions")
    if partitions and any(n != partitions for n in got.partitions):
        yield f"partitions: expected {partitions} found {got.partitions}"
    overall = case.get("expected_overall") or {}
    if "mapped_total" in overall:
        total = [x for records in got.outputs for x in records]
        yield from compare("mapped_total", [overall["mapped_total"]], [total])
    if "last_snapshot" in overall:
        yield from compare("last_snapshot", [overall["last_snapshot"]], got.states[-1:])
    if "snapshot_seen" in overall:
        if normal(overall["snapshot_seen"]) not in [normal(state) for state in got.states]:
            yield f"snapshot_seen: {text_of(overall['snapshot_seen'])} was the state after no batch"
    expected, found = case.get("expected_error") or {}, got.error or {}
    fields = "at_batch", "when"
    if bool(expected) != bool(found) or any(expected.get(f) != found.get(f) for f in fields):
        yield f"error: expected {expected} found {found}"


def check(files):
    passed = failed = 0
    for name in files:
        with open(name, encoding="utf-8") as file:
            cases = json.load(file)
        for case in cases:
            wrong = list(differences(case))
            print(case["id"], "ok" if not wrong else "FAIL: " + "; ".join(wrong))
            passed, failed = passed + (not wrong), failed + bool(wrong)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


def show(name, case_id):
    with open(name, encoding="utf-8") as file:
        got = run(next(case for case in json.load(file) if case["id"] == case_id))
    for what, value in got._asdict().items():
        print(f"{what}: {text_of(value)}")
    return 0


def main():
    parser = argparse.ArgumentParser(description="the DStream model, executable")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("check").add_argument("files", nargs="+")
    one = verbs.add_parser("show")
    one.add_argument("file")
    one.add_argument("id")
    given = parser.parse_args()
    return check(given.files) if given.verb == "check" else show(given.file, given.id)


if __name__ == "__main__":
    sys.exit(main())
