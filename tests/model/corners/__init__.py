"""The hand-picked cases, one module per group. Their expectations are written by hand, from what
cases.md says; make_cases.py refuses to write a file when the reference disagrees with one."""

# Operations whose output has a defined order; the others are compared as multisets.
ORDERED = {
    "map", "flatMap", "filter", "mapValues", "flatMapValues", "mapPartitions", "glom", "count",
    "reduce", "union", "transform", "transformWith", "transformMany", "window", "reduceByWindow",
    "countByWindow", "slice", "queueStream"
}


def case(name, operation, parameters, batches, expected, note=None, **more):
    """As many batches as outputs unless num_batches says otherwise. Further inputs, states, chains
    and the like come as further fields, spelled as in the format."""
    made = {"id": name, "operation": operation, "parameters": parameters}
    if note:
        made["note"] = note
    made["input"] = batches
    made.update(more)
    if expected is not None:
        made.setdefault("num_batches", len(expected))
        made["expected"] = expected
    made.setdefault("ordered", operation in ORDERED)
    return made


def step(op, f=None, arg=None):
    given = {"op": op, "f": f, "arg": arg}
    return {name: value for name, value in given.items() if value is not None}


WORDS = [step("flatMap", "split_on_space"), step("map", "pair_with", 1)]
