#!/usr/bin/env python3
"""Random graphs of random operators over random input, and what they must put out.

    graphs.py make SEED [--without OP,OP] [--only OP,OP]   a graph, its input and its outputs
    graphs.py make SEED --count N --into FOLDER            N of them, from SEED on, as SEED.json …
    graphs.py expect FILE                                  the graph, its outputs computed anew
    graphs.py shrink FILE [--out FILE] -- COMMAND ARG...   the smallest one that COMMAND fails on so

COMMAND is called with the path of a graph behind its arguments, or in the place of {}; it fails
when its exit status is not 0, and it fails *so* when the status is the one it has for FILE.
README.md beside this file describes the format. Meanings are those of operations.py, as for cases.
"""
import argparse
import json
import pathlib
import sys

import kinds
import shrinking
from dice import Dice
from functions import UPDATE, FunctionFailed, text_of
from operations import JOINS, OPERATIONS, GraphRefused, map_with_state, queue, source

# A graph that grows beyond these is cut back where it does: cJSON keeps integers up to 2^53.
MOST_RECORDS, MOST_BYTES, MOST_NUMBER = 400, 20000, 2**40


# ---- what a graph puts out ----


def history(node, graph, streams, snapshots, last):
    op, p = node["op"], dict(node.get("params", {}), batch_ms=graph["batch_ms"])
    if op == "source":
        return source(node["input"], last, p["partitions_in"])
    if op == "queueStream":
        return queue(node["input"], last, p["partitions_in"], p["one_at_a_time"])
    if op == "stateSnapshots":
        return snapshots[node["parents"][0]]
    parents = [streams[name] for name in node["parents"]]
    if op == "mapWithState":
        emitted, snapshots[node["id"]] = map_with_state(p, parents[0])
        return emitted
    return OPERATIONS[op](p, *parents)


def run(graph, last):
    """Streams by node. FunctionFailed comes through with the batch and the node."""
    streams, snapshots = {}, {}
    for node in graph["nodes"]:
        try:
            streams[node["id"]] = history(node, graph, streams, snapshots, last)
        except FunctionFailed as failure:
            failure.node = node["id"]
            raise
    return streams


def expect(graph):
    """Sets the sinks' outputs, and expected_error if the graph is refused or a function fails."""
    graph.pop("expected_error", None)
    last, streams = graph["num_batches"], None
    try:
        of_node = kinds.kinds_of(graph["nodes"])
    except GraphRefused as refusal:
        graph["expected_error"] = {"when": "build", "node": str(refusal)}
        last = 0
    while last > 0 and streams is None:
        try:
            streams = run(graph, last)
        except FunctionFailed as failure:
            graph["expected_error"] = {"at_batch": failure.batch, "node": failure.node}
            last = failure.batch - 1
    for sink in graph["sinks"]:
        stream = streams and streams[sink["node"]]
        sink["ordered"] = bool(stream) and of_node[sink["node"]].ordered
        at = stream.at if stream else {}
        sink["outputs"] = [{"batch": k, "records": stream.records(k)} for k in at]
    return graph


# ---- making one ----

WORDS = ["a", "ab", "b", "ba", "c", "dd"]
ODD = [None, 0, "0", "", [1], "[1]", [None, 1], -1, "ключ", "null"]
COMMANDS = ["get-state", "update-state", "update-state", "remove-state"]

SOURCES = ["int", "text", "line", "digits", ("pair", "text", "int"), ("pair", "text", "int"),
           ("pair", "text", "int"), ("pair", "int", "int"), ("pair", "odd", "int"),
           ("pair", "text", "command"), ("pair", "text", "text")]


def value(dice, t):
    if t[0] == "pair":
        return [value(dice, t[1]), value(dice, t[2])]
    return {
        "int": lambda: dice.between(-3, 6),
        "text": lambda: dice.pick(WORDS),
        "line": lambda: " ".join(dice.pick(WORDS) for _ in range(dice.between(1, 4))),
        "digits": lambda: str(dice.between(-3, 20)),
        "command": lambda: dice.pick(COMMANDS),
        "odd": lambda: dice.pick(ODD),
    }[t]()


def data_set(dice, t):
    return [value(dice, t) for _ in range(dice.between(1, 6))]


def sourced(dice, graph):
    t, batches = dice.pick(SOURCES), []
    queued = dice.one_in(6)
    for _ in range(graph["num_batches"] - dice.below(3)):
        quiet = dice.one_in(4)
        if queued:
            batches.append([] if quiet else [data_set(dice, t) for _ in range(dice.between(1, 2))])
        else:
            batches.append(dice.pick([None, []]) if quiet else data_set(dice, t))
    p = {"partitions_in": dice.between(1, 4)}
    if queued:
        p["one_at_a_time"] = not dice.one_in(3)
    return {"op": "queueStream" if queued else "source", "type": t, "params": p, "input": batches}


def window_params(dice, op, slide):
    """Of a parent with this slide; the longest windows reach over the whole run."""
    p = {"window": slide * dice.between(1, 5), "slide": slide * dice.pick([1, 1, 1, 2, 2, 3])}
    if op in ("reduceByKeyAndWindow", "reduceByWindow"):
        p["reduce"] = "sum"
        if not dice.one_in(3):
            p["inverse"] = "difference"
        if dice.one_in(3):
            p["filter"] = "value_not_zero"
    return p


def state_of(dice, key_type, value_type):
    """Initial state for a few keys, null if there are none to be had."""
    try:
        keys = {text_of(key): key for key in (value(dice, key_type) for _ in range(3))}
        return [[key, value(dice, value_type)] for key in keys.values()]
    except KeyError:  # no values of a composed type are made up
        return None


def random_params(dice, op, t, slide):
    """For a parent with records of type t. What does not fit is found out by kinds.kind_of."""
    p = {}
    if op in kinds.FUNCTIONS:
        p["f"] = dice.pick(list(kinds.FUNCTIONS[op]))
        if p["f"] in ("add", "pair_with", "v_and_plus", "map_add", "take"):
            p["arg"] = dice.between(0 if p["f"] == "take" else -3, 4)
    if op in kinds.WINDOWED:
        p.update(window_params(dice, op, slide))
    if op in ("reduce", "reduceByKey"):
        p["reduce"] = "sum"
    if op == "repartition" or op in ("reduceByKey", "groupByKey", "join") and dice.one_in(3):
        p["partitions_out"] = dice.between(1, 5)
    if op == "joinDataSet":
        p["kind"] = dice.pick(list(JOINS))
        p["versions"] = [{"from_batch": k, "records": state_of(dice, kinds.key_of(t), "int")}
                         for k in range(dice.between(1, 2), 9, 1 + dice.between(2, 4))]
        kinds.need(all(version["records"] for version in p["versions"]))
    if op == "updateStateByKey":
        p["update"] = dice.pick(list(UPDATE))
        if dice.one_in(3):
            p["form"] = "per_partition_iterator"
    if op in ("updateStateByKey", "mapWithState"):
        idle = p.get("update") == "count_and_drop_after_2_idle"
        kept = ("pair", "int", "int") if idle else "int"
        kept = kinds.state_type(p, t) if op == "mapWithState" else kept
        initial = state_of(dice, kinds.key_of(t), kept) if dice.one_in(3) else None
        if initial:
            p["initial_state"] = [[k, [v[0], abs(v[1]) % 2] if idle else v] for k, v in initial]
    if op == "mapWithState" and p["f"] in TIMEOUTS and not dice.one_in(3):
        p["timeout"] = dice.between(1, 3)
    return p


# Those whose description says what they do at a time-out.
TIMEOUTS = ("set_one_emit_key_on_timeout", "text_commands", "number_commands", "count_emit_nothing")

# How often each is tried.
WEIGHTS = {
    "map": 3, "flatMap": 2, "filter": 2, "mapValues": 2, "flatMapValues": 2, "mapPartitions": 1,
    "glom": 1, "repartition": 1, "transform": 3, "count": 1, "reduce": 1, "countByValue": 1,
    "union": 3, "transformWith": 2, "transformMany": 2, "groupByKey": 2, "reduceByKey": 3,
    "combineByKey": 1, "cogroup": 2, "join": 2, "leftOuterJoin": 1, "rightOuterJoin": 1,
    "fullOuterJoin": 1, "joinDataSet": 1, "updateStateByKey": 4, "mapWithState": 7,
    "stateSnapshots": 4, "window": 3, "countByWindow": 2, "reduceByWindow": 2,
    "reduceByKeyAndWindow": 5, "countByValueAndWindow": 2, "groupByKeyAndWindow": 2,
}


def too_large(stream):
    records = [stream.records(k) for k in stream.at]
    most = max((abs(n) for batch in records for n in numbers(batch)), default=0)
    return (any(len(batch) > MOST_RECORDS for batch in records) or most > MOST_NUMBER
            or len(text_of(records)) > MOST_BYTES)


def numbers(x):
    if isinstance(x, list):
        for part in x:
            yield from numbers(part)
    elif isinstance(x, int):
        yield x


def number_of_parents(dice, op):
    if op in ("union", "transformMany"):
        return 3 if op == "transformMany" else dice.between(1, 3)
    return 2 if op in kinds.SEVERAL else 1


def grown(dice, graph, ops):
    """One more node that fits, or None after many that did not."""
    by_id = {node["id"]: node for node in graph["nodes"]}
    of_node = kinds.kinds_of(graph["nodes"])
    for attempt in range(600):
        op = dice.pick(ops) if attempt % 40 == 0 else op  # an operator is not given up at once
        older = list(by_id)[-3:] if dice.one_in(2) else list(by_id)  # half of them grow in depth
        names = [dice.pick(older) for _ in range(number_of_parents(dice, op))]
        first = of_node[names[0]]
        node = {"id": f"n{len(by_id)}", "op": op, "parents": names}
        try:
            node["params"] = random_params(dice, op, first.type, first.slide)
            kinds.kind_of(node, by_id, of_node)
            wider = dict(graph, nodes=graph["nodes"] + [node])
            if not too_large(run(wider, graph["num_batches"])[node["id"]]):
                return node
        except (kinds.Unfit, GraphRefused, FunctionFailed):
            pass
    return None


def refused_node(dice, graph):
    """A window that is no multiple of its parent's slide, or parents with different slides."""
    of_node = kinds.kinds_of(graph["nodes"])
    name = dice.pick(list(of_node))
    slide = of_node[name].slide
    node = {"id": f"n{len(of_node)}", "op": "window", "parents": [name]}
    node["params"] = {"window": 2 * slide + 0.5, "slide": slide}
    unequal = [other for other in of_node if of_node[other].slide != slide]
    if unequal and dice.one_in(2):
        # Counted and paired, both have the same type, whatever they were.
        made = []
        for parent in (name, dice.pick(unequal)):
            count, paired = f"n{len(of_node) + len(made)}", f"n{len(of_node) + len(made) + 1}"
            made.append({"id": count, "op": "count", "parents": [parent], "params": {}})
            made.append({"id": paired, "op": "map", "parents": [count]})
            made[-1]["params"] = {"f": "pair_with", "arg": 1}
        op = dice.pick(["union", "join", "cogroup", "fullOuterJoin", "transformWith"])
        node = {"id": f"n{len(of_node) + 4}", "op": op, "parents": [made[1]["id"], made[3]["id"]]}
        node["params"] = {"f": dice.pick(["union", "join"])} if op == "transformWith" else {}
        return [*made, node]
    return [node]


def failing_node(dice, graph):
    """to_int of texts that are no numbers: it fails in the first batch that has one."""
    of_node = kinds.kinds_of(graph["nodes"])
    texts = [name for name in of_node if of_node[name].type == "text"]
    if not texts:
        return []
    parent = dice.pick(texts)
    return [{"id": f"n{len(of_node)}", "op": "map", "parents": [parent], "params": {"f": "to_int"}}]


def make(seed, ops):
    dice = Dice(seed)
    graph = {"format": 1, "seed": seed, "batch_ms": dice.pick([1000, 250])}
    graph["num_batches"] = dice.between(5, 12)
    batches = range(1, graph["num_batches"])
    graph["restart_at"] = [k for k in batches if dice.one_in(len(batches))]
    graph["nodes"] = []
    for i in range(dice.between(1, 3)):
        graph["nodes"].append({"id": f"n{i}", **sourced(dice, graph)})
    for _ in range(dice.between(2, 12)):
        node = grown(dice, graph, ops)
        if node:
            graph["nodes"].append(node)
    if dice.one_in(20):
        graph["nodes"] += refused_node(dice, graph)
    elif dice.one_in(20):
        graph["nodes"] += failing_node(dice, graph)
    used = {name for node in graph["nodes"] for name in node.get("parents", [])}
    seen = [node["id"] for node in graph["nodes"] if node["id"] not in used or dice.one_in(4)]
    graph["sinks"] = [{"node": name} for name in seen]
    return expect(graph)


# ---- the command ----


def written(graph):
    """One node and one sink a line."""
    fields = []
    for name, part in graph.items():
        spelled = json.dumps(part)
        if name in ("nodes", "sinks"):
            lines = [json.dumps(x, ensure_ascii=False) for x in part]
            spelled = "[\n  " + ",\n  ".join(lines) + "\n ]"
        fields.append(f' "{name}": {spelled}')
    return "{\n" + ",\n".join(fields) + "\n}\n"


def read(name):
    with open(name, encoding="utf-8") as file:
        return json.load(file)


def main():
    parser = argparse.ArgumentParser(description="random graphs, and what they must put out")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("make")
    verb.add_argument("seed", type=int)
    verb.add_argument("--without", default="", help="operators to leave out, with commas")
    verb.add_argument("--only", default="", help="operators to choose from, with commas")
    verb.add_argument("--count", type=int, default=1, help="so many graphs, from SEED on")
    verb.add_argument("--into", help="the folder for them")
    verbs.add_parser("expect").add_argument("file")
    verb = verbs.add_parser("shrink")
    verb.add_argument("file")
    verb.add_argument("--out")
    verb.add_argument("command", nargs="+")
    given = parser.parse_args()
    if given.verb == "make":
        wanted = set(given.only.split(",") if given.only else WEIGHTS)
        wanted -= set(given.without.split(",") if given.without else [])
        if wanted - set(WEIGHTS):
            parser.error(f"no operators: {wanted - set(WEIGHTS)}")
        ops = [op for op in WEIGHTS if op in wanted for _ in range(WEIGHTS[op])]
        for seed in range(given.seed, given.seed + given.count):
            text = written(make(seed, ops))
            if given.into:
                path = pathlib.Path(given.into) / f"{seed}.json"
                path.write_text(text, encoding="utf-8")
            else:
                print(text, end="")
    elif given.verb == "expect":
        print(written(expect(read(given.file))), end="")
    else:
        small = shrinking.shrink(read(given.file), given.command, expect, written)
        with open(given.out or given.file + ".small", "w", encoding="utf-8") as file:
            file.write(written(small))
    return 0


if __name__ == "__main__":
    sys.exit(main())
