#!/usr/bin/env python3
"""An executable reference of the DStream model: what each operation means, and nothing about how.

    reference.py check FILE...   recompute what every case of the files expects, and compare
    reference.py show FILE ID    print what the reference computes for one case

A stream is its whole history: `at[k]` is the data set of batch k. An operation is a pure function
from histories to a history, so windows look back by indexing, state is a loop over the batches, and
there is nothing here to restart: a case with kills expects what the same case expects without.
README.md beside this file lists the meanings that had to be chosen, and where Spark differs.
"""
import argparse
import json
import sys
from collections import namedtuple
from functools import reduce

from functions import (FILTER, FLAT_MAP, MAP, MAP_PARTITIONS, MAP_WITH_STATE, REDUCE, TRANSFORM,
                       UPDATE, FunctionFailed, State, count_by_value, text_of)


class GraphRefused(Exception):
    """The graph is wrong, whatever the input: a typed error before the first batch."""


class Stream:
    """A history. `slide`: the stream has a data set at batches slide, 2 slide, … up to `last`.
    A data set is a list of partitions, a partition a list of records."""

    def __init__(self, slide, last, at):
        self.slide, self.last, self.at = slide, last, at

    def records(self, k):
        return [x for partition in self.at[k] for x in partition]

    def each(self, function):
        """The stream whose data set at k is function(k)."""
        return Stream(self.slide, self.last, {k: function(k) for k in due(self.slide, self.last)})


def due(slide, last):
    return range(slide, last + 1, slide)


def cut(records, n):
    """Contiguous partitions, as even as possible."""
    return [records[i * len(records) // n:(i + 1) * len(records) // n] for i in range(n)]


def source(batches, last, partitions):
    """A batch past the end, or null, is an empty data set, which still has its partitions."""
    batch = {k: (batches[k - 1] if k <= len(batches) else None) or [] for k in due(1, last)}
    return Stream(1, last, {k: cut(batch[k], partitions) for k in batch})


def queue(batches, last, partitions, one_at_a_time):
    """The data sets of input batch k are enqueued just before batch k; what was not taken waits."""
    waiting, at = [], {}
    for k in due(1, last):
        waiting += (batches[k - 1] if k <= len(batches) else None) or []
        take = 1 if one_at_a_time else len(waiting)
        at[k] = [part for data_set in waiting[:take] for part in cut(data_set, partitions)]
        waiting = waiting[take:]
    return Stream(1, last, at)


OPERATIONS = {}


def operation(name):
    def register(function):
        OPERATIONS[name] = function
        return function

    return register


# ---- partition by partition: these keep the partitions of their parent ----


def narrow(parent, function):
    def data_set(k):
        try:
            return [function(partition) for partition in parent.at[k]]
        except FunctionFailed as failure:
            raise FunctionFailed(k, failure.why) from None

    return parent.each(data_set)


@operation("map")
def map_(p, parent):
    f = MAP[p["f"]]
    return narrow(parent, lambda records: [f(x, p.get("arg")) for x in records])


@operation("flatMap")
def flat_map(p, parent):
    f = FLAT_MAP[p["f"]]
    return narrow(parent, lambda records: [y for x in records for y in f(x, p.get("arg"))])


@operation("filter")
def filter_(p, parent):
    f = FILTER[p["f"]]
    return narrow(parent, lambda records: [x for x in records if f(x)])


@operation("mapValues")
def map_values(p, parent):
    f = MAP[p["f"]]
    return narrow(parent, lambda records: [[k, f(v, p.get("arg"))] for k, v in records])


@operation("flatMapValues")
def flat_map_values(p, parent):
    f = FLAT_MAP[p["f"]]
    return narrow(parent, lambda records: [[k, w] for k, v in records for w in f(v, p.get("arg"))])


@operation("mapPartitions")
def map_partitions(p, parent):
    return narrow(parent, MAP_PARTITIONS[p["f"]])


@operation("glom")
def glom(p, parent):
    return narrow(parent, lambda records: [records])


# ---- records change places: how many partitions there are has a meaning, who is where has none ----


def shuffled(p, parent, function):
    """function: all records of a batch -> the records of the output."""
    return parent.each(lambda k: dealt(p, parent, k, function(parent.records(k))))


def dealt(p, parent, k, records):
    return cut(records, p.get("partitions_out") or len(parent.at[k]) or 1)


@operation("repartition")
def repartition(p, parent):
    return shuffled(p, parent, lambda records: records)


@operation("transform")
def transform(p, parent):
    f = TRANSFORM[p["f"]]
    return shuffled(p, parent, lambda records: f(records, p.get("arg")))


@operation("count")
def count(p, parent):
    """One record, also for an empty batch."""
    return parent.each(lambda k: [[len(parent.records(k))]])


@operation("reduce")
def reduce_(p, parent):
    """An empty batch has nothing to reduce and stays empty."""
    f = REDUCE[p["reduce"]]
    return parent.each(lambda k: [[reduce(f, parent.records(k))] if parent.records(k) else []])


@operation("countByValue")
def count_by_value_(p, parent):
    return shuffled(p, parent, count_by_value)


def groups(records):
    """Spelling of the key -> values in arrival order."""
    values = {}
    for key, value in records:
        values.setdefault(text_of(key), []).append(value)
    return values


def pairs(values):
    return [[json.loads(text), value] for text, value in values.items()]


def fold(f, values):
    return {text: reduce(f, v) for text, v in values.items()}


@operation("groupByKey")
def group_by_key(p, parent):
    return shuffled(p, parent, lambda records: pairs(groups(records)))


@operation("reduceByKey")
def reduce_by_key(p, parent):
    return shuffled(p, parent, lambda records: pairs(fold(REDUCE[p["reduce"]], groups(records))))


@operation("combineByKey")
def combine_by_key(p, parent):
    """create: identity; merge and merge_combiners: sum."""
    return reduce_by_key(dict(p, reduce="sum"), parent)


# ---- several parents ----


def same_slide(*parents):
    if len({parent.slide for parent in parents}) > 1:
        raise GraphRefused(f"parents with slides {[parent.slide for parent in parents]}")


@operation("union")
def union(p, *parents):
    """The streams' order, and in it each stream's own order."""
    same_slide(*parents)
    return parents[0].each(lambda k: [part for parent in parents for part in parent.at[k]])


# kind -> (an absent left side gives null, an absent right side gives null)
JOINS = {
    "inner": (False, False),
    "left": (False, True),
    "right": (True, False),
    "full": (True, True),
}


def joined(kind, left_records, right_records):
    null_left, null_right = JOINS[kind]
    left, right = groups(left_records), groups(right_records)
    result = []
    for text in dict.fromkeys([*left, *right]):
        for a in left.get(text, [None] if null_left else []):
            for b in right.get(text, [None] if null_right else []):
                result.append([json.loads(text), [a, b]])
    return result


def join_of(kind):
    def join(p, left, right):
        same_slide(left, right)
        data_set = lambda k: joined(kind, left.records(k), right.records(k))
        return left.each(lambda k: dealt(p, left, k, data_set(k)))

    return join


OPERATIONS["join"] = join_of("inner")
OPERATIONS["leftOuterJoin"] = join_of("left")
OPERATIONS["rightOuterJoin"] = join_of("right")
OPERATIONS["fullOuterJoin"] = join_of("full")


@operation("cogroup")
def cogroup(p, left, right):
    same_slide(left, right)

    def data_set(k):
        a, b = groups(left.records(k)), groups(right.records(k))
        both = {text: [a.get(text, []), b.get(text, [])] for text in dict.fromkeys([*a, *b])}
        return dealt(p, left, k, pairs(both))

    return left.each(data_set)


@operation("joinDataSet")
def join_data_set(p, parent):
    """Graphs only. versions: [{"from_batch", "records"}], each in force from its batch on."""

    def data_set(k):
        newest = [v["records"] for v in p["versions"] if v["from_batch"] <= k]
        return [joined(p["kind"], parent.records(k), newest[-1] if newest else [])]

    return parent.each(data_set)


@operation("transformWith")
def transform_with(p, left, right):
    return {"union": union, "join": OPERATIONS["join"]}[p["f"]](p, left, right)


@operation("transformMany")
def transform_many(p, *parents):
    if p["f"] == "union":
        return union(p, *parents)
    assert p["f"] == "union_first_two_pair_self_join_third"
    both = union(p, parents[0], parents[1])
    twice = narrow(both, lambda records: [[x, x] for x in records])
    return OPERATIONS["join"](p, twice, parents[2])


# ---- state ----


@operation("updateStateByKey")
def update_state_by_key(p, parent):
    """The function is called for every key that has state or values, every batch. The stream's
    output is the whole state, which begins as initial_state, also for keys that no record names."""
    f = UPDATE[p["update"]]
    state = dict([text_of(key), value] for key, value in p.get("initial_state") or [])
    at = {}
    for k in due(parent.slide, parent.last):
        time, values = k * p["batch_ms"], groups(parent.records(k))
        new = {t: f(time, values.get(t, []), state.get(t)) for t in {**state, **values}}
        state = {text: value for text, value in new.items() if value is not None}
        at[k] = dealt(p, parent, k, pairs(state))
    return Stream(parent.slide, parent.last, at)


def map_with_state(p, parent):
    """-> what the function emitted, and the state after each batch.

    The function is called once per record, in arrival order, and then once for each key that times
    out: none but the keys whose last record is more than `timeout` batches ago. So data wins over a
    time-out of the same batch, and any data counts, even if the function did nothing with it.
    Initial state counts as touched at the first batch, as in Spark."""
    f, timeout = MAP_WITH_STATE[p["f"]], p.get("timeout")
    state = dict([text_of(key), value] for key, value in p.get("initial_state") or [])
    touched = dict.fromkeys(state, parent.slide)
    emitted, snapshots = {}, {}

    def call(text, value):
        cell = State(state.pop(text, None))
        out.extend(f(json.loads(text), value, cell))
        if cell.exists():
            state[text] = cell.value

    for k in due(parent.slide, parent.last):
        out = []
        for key, value in parent.records(k):
            call(text_of(key), value)
            touched[text_of(key)] = k
        for text in [t for t in state if timeout is not None and k - touched[t] > timeout]:
            call(text, None)
            state.pop(text, None)
        emitted[k], snapshots[k] = [out], [pairs(state)]
    return Stream(parent.slide, parent.last, emitted), Stream(parent.slide, parent.last, snapshots)


@operation("mapWithState")
def map_with_state_(p, parent):
    return map_with_state(p, parent)[p.get("observe") == "snapshots"]


# ---- windows ----


def window_of(p, parent):
    """Both in batches, and multiples of the parent's slide, or the graph is refused."""
    window, slide = p["window"], p.get("slide", parent.slide)
    for what, length in ("window", window), ("slide", slide):
        if length <= 0 or length % parent.slide != 0:
            raise GraphRefused(f"{what} of {length} batches on a parent with slide {parent.slide}")
    return window, slide


def inside(parent, window, k):
    """The parent's batches in (k - window, k]: fewer when that reaches back before the first."""
    return [i for i in due(parent.slide, k) if i > k - window]


def gather(parent, batches):
    return [x for i in batches for x in parent.records(i)]


@operation("window")
def window_(p, parent):
    window, slide = window_of(p, parent)
    at = {}
    for k in due(slide, parent.last):
        at[k] = [part for i in inside(parent, window, k) for part in parent.at[i]]
    return Stream(slide, parent.last, at)


@operation("groupByKeyAndWindow")
def group_by_key_and_window(p, parent):
    return group_by_key(p, window_(p, parent))


@operation("reduceByKeyAndWindow")
def reduce_by_key_and_window(p, parent):
    """Without an inverse: the window, reduced. With one: a key of the previous output is carried on
    by taking out what left and adding what came, and stays in the output even when nothing of it is
    in the window; only the filter removes it. A key without a previous value is reduced from the
    whole window. (Spark reduces only what came since the previous slide, which is wrong if the
    filter dropped the key while records of it were still inside, and counts the gap between windows
    if the slide is longer than they are.)"""
    window, slide = window_of(p, parent)
    f = REDUCE[p["reduce"]]
    inverse = REDUCE[p["inverse"]] if p.get("inverse") else None
    keep = FILTER[p["filter"]] if p.get("filter") else lambda x: True
    reduced = lambda batches: fold(f, groups(gather(parent, batches)))
    previous, before, at = {}, [], {}  # the last output, and the batches that it stands for
    for k in due(slide, parent.last):
        now = inside(parent, window, k)
        value = reduced(now)
        if inverse:
            left = reduced([i for i in before if i not in now])
            came = reduced([i for i in now if i not in before])
            for text, carried in previous.items():
                carried = inverse(carried, left[text]) if text in left else carried
                value[text] = f(carried, came[text]) if text in came else carried
        value = {text: v for text, v in value.items() if keep([json.loads(text), v])}
        at[k] = dealt(p, parent, k, pairs(value))
        previous, before = value, now
    return Stream(slide, parent.last, at)


@operation("reduceByWindow")
def reduce_by_window(p, parent):
    """One key for all: so with an inverse, an empty window after the first record gives a value (0
    for sum and difference), and without one it gives nothing."""
    one_key = narrow(parent, lambda records: [[None, x] for x in records])
    keyed = reduce_by_key_and_window(p, one_key)
    return narrow(keyed, lambda records: [value for _, value in records])


@operation("countByWindow")
def count_by_window(p, parent):
    """Nothing until a window held a record, then 0 for an empty one."""
    ones = narrow(parent, lambda records: [1 for _ in records])
    return reduce_by_window(dict(p, reduce="sum", inverse="difference"), ones)


@operation("countByValueAndWindow")
def count_by_value_and_window(p, parent):
    """What is in the window, counted; a value that is not in it any more is not listed."""
    return count_by_value_(p, window_(p, parent))


# ---- cases ----

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
    if any(expected.get(field) != found.get(field) for field in ("at_batch", "when")):
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
