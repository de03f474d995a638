"""The user functions that cases and graphs call by name, as plain Python.

A pair is a list of two, [key, value]. A text is a sequence of code points; the functions that look
into one (length, letters, upper) are only ever given ASCII, so bytes and code points agree.
"""
import json
import re


class FunctionFailed(Exception):
    """A user function was given a record it refuses: the batch fails, and the run with it."""

    def __init__(self, batch, why):
        super().__init__(f"batch {batch}: {why}")
        self.batch = batch
        self.why = why


def text_of(value):
    """The one spelling of a value: equal JSON values, and no others, have equal spellings. So the
    number 1 and the text "1" are different keys, and null and lists are keys like any other."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def to_int(text):
    if isinstance(text, str) and not re.fullmatch(r"-?[0-9]+", text):
        raise FunctionFailed(None, f"to_int: {text!r} is no number")
    return int(text)


def to_string(x):
    return x if isinstance(x, str) else text_of(x)


# (record, arg) -> record; mapValues calls them with the value of a pair.
MAP = {
    "to_string": lambda x, arg: to_string(x),
    "to_int": lambda x, arg: to_int(x),
    "add": lambda x, arg: x + arg,
    "pair_with": lambda x, arg: [x, arg],
    "pair_with_length": lambda x, arg: [x, len(x)],
    "length": lambda x, arg: len(x),
    "swap": lambda x, arg: [x[1], x[0]],
    "value": lambda x, arg: x[1],
    "first": lambda x, arg: x[0],
    "upper": lambda x, arg: x.upper(),
}

# (record, arg) -> records; flatMapValues calls them with the value of a pair.
FLAT_MAP = {
    "x_and_double": lambda x, arg: [x, 2 * x],
    "v_and_plus": lambda x, arg: [x, x + arg],
    "letters": lambda x, arg: list(x),
    "length_letter_pairs": lambda x, arg: [[len(x), c] for c in x],
    "value_letter_pairs": lambda x, arg: [[x[1], c] for c in x[0]],
    "split_on_space": lambda x, arg: x.split(" "),
    "append_1_and_2": lambda x, arg: [x + "1", x + "2"],
}

FILTER = {
    "is_even": lambda x: x % 2 == 0,
    "contains_a": lambda x: "a" in x,
    "key_contains_a": lambda x: "a" in x[0],
    "value_not_zero": lambda x: x[1] != 0,
}

# records of one partition -> records. An empty partition is still a partition: it sums to 0 and
# concatenates to "".
MAP_PARTITIONS = {
    "sum_of_partition": lambda records: [sum(records)],
    "upper_concat": lambda records: ["".join(records).upper()],
    "swap_all": lambda records: [[x[1], x[0]] for x in records],
}

REDUCE = {
    "sum": lambda a, b: a + b,
    "difference": lambda a, b: a - b,
}


def count_by_value(records):
    counts = {}
    for x in records:
        counts[text_of(x)] = counts.get(text_of(x), 0) + 1
    return [[json.loads(text), n] for text, n in counts.items()]


def distinct(records):
    return [json.loads(text) for text in dict.fromkeys(text_of(x) for x in records)]


# (all records of the batch, arg) -> records. Sorting keeps the arrival order of equal keys.
# `distinct` and `take` are only in graphs: cases do not name them.
TRANSFORM = {
    "map_to_string": lambda records, arg: [to_string(x) for x in records],
    "map_add": lambda records, arg: [x + arg for x in records],
    "sort_by_key": lambda records, arg: sorted(records, key=lambda x: x[0]),
    "keys": lambda records, arg: [x[0] for x in records],
    "pair_reduce_and_save": lambda records, arg: count_by_value(records),
    "distinct": lambda records, arg: distinct(records),
    "take": lambda records, arg: records[:arg],
}


# updateStateByKey: (batch time in ms, values of this batch in arrival order, old state or None) ->
# new state, or None to remove the key.
def running_sum(time, values, old):
    return (old or 0) + sum(values)


def add_batch_time_if_any(time, values, old):
    return (old or 0) + (time if values else 0)


def count_and_drop_after_2_idle(time, values, old):
    count, idle = old or [0, 0]
    count, idle = (count + sum(values), 0) if values else (count, idle + 1)
    return None if idle == 2 else [count, idle]


UPDATE = {f.__name__: f for f in (running_sum, add_batch_time_if_any, count_and_drop_after_2_idle)}


# mapWithState: (key, value or None when the key is timing out, State) -> records to emit. A
# time-out emits only where the function's description says so.
class State:
    """One key's state, as the function sees it."""

    def __init__(self, value=None):
        self.value = value

    def exists(self):
        return self.value is not None


def counting(emit):
    def count(key, value, state):
        if value is None:
            return []
        state.value = (state.value or 0) + value
        return emit(key, state.value)

    return count


def toggle_remove_emit_key(key, value, state):
    if value is None:
        return []
    if state.exists():
        state.value = None
        return [key]
    state.value = value
    return []


def set_one_emit_key_on_timeout(key, value, state):
    if value is None:
        return [key]
    state.value = 1
    return []


def text_commands(key, value, state):
    if value == "get-state":
        return [state.value if state.exists() else -1]
    if value == "update-state":
        state.value = state.value + 1 if state.exists() else 0
    if value == "remove-state":
        state.value = None
    return []


def number_commands(key, value, state):
    if value == 1:
        state.value = state.value + 1 if state.exists() else 0
    if value == 2:
        state.value = None
    return []


MAP_WITH_STATE = {
    "count_emit_sum": counting(lambda key, total: [total]),
    "count_emit_pair": counting(lambda key, total: [[key, total]]),
    "count_emit_nothing": counting(lambda key, total: []),
    "count_emit_key_twice": counting(lambda key, total: [key, key]),
    "toggle_remove_emit_key": toggle_remove_emit_key,
    "set_one_emit_key_on_timeout": set_one_emit_key_on_timeout,
    "text_commands": text_commands,
    "number_commands": number_commands,
}
