"""What each operation of the DStream model means, and nothing about how it is computed.

A stream is its whole history: `at[k]` is the data set of batch k. An operation is a pure function
from histories to a history, so windows look back by indexing and state is a loop over the batches.
Parameters are a dict with the names of the cases' format, plus `batch_ms` and `initial_state`.
README.md beside this file lists the meanings that had to be chosen, and where Spark differs.
"""
import json
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


# ---- records change places: how many partitions there are has a meaning, who is where has none


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
