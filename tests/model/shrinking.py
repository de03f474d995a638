"""Makes a failing graph small: greedily, one change at a time, while the command fails the same.

Every candidate is fit (kinds.py) and gets its outputs computed anew, so a small graph is as good a
test as the large one. The command decides; nothing is known about what it runs.
"""
import copy
import os
import subprocess
import sys
import tempfile

import kinds
from operations import GraphRefused


def shrink(graph, command, expect, written):
    """command: arguments; the path of the graph goes in the place of {} or behind them.
    expect and written are those of graphs.py."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "graph.json")
        arguments = [path if a == "{}" else a for a in command]
        arguments += [] if "{}" in command else [path]

        def status(candidate):
            with open(path, "w", encoding="utf-8") as file:
                file.write(written(candidate))
            return subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  check=False).returncode

        wanted, tried, size = status(graph), 0, describe(graph)
        if wanted == 0:
            sys.exit("shrink: the command does not fail on this graph")
        smaller = True
        while smaller:
            smaller = False
            for candidate in candidates(graph):
                try:
                    expect(candidate)
                except (kinds.Unfit, TypeError, AttributeError):
                    continue  # the latter when initial state no longer has its parent's types
                tried += 1
                if status(candidate) == wanted:
                    graph, smaller = candidate, True
                    break
    print(f"from {size} to {describe(graph)}, status {wanted}, {tried} tried", file=sys.stderr)
    return graph


def describe(graph):
    records = sum(records_of(batch) for node in graph["nodes"] for batch in node.get("input", []))
    return f"{len(graph['nodes'])} nodes, {graph['num_batches']} batches, {records} records"


def records_of(batch):
    return len(batch or [])


def changed(graph, change):
    """A copy with the change made, without the nodes that no sink stands on any more."""
    candidate = copy.deepcopy(graph)
    change(candidate)
    by_id = {node["id"]: node for node in candidate["nodes"]}
    needed, waiting = set(), [sink["node"] for sink in candidate["sinks"]]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += by_id[name].get("parents", [])
    candidate["nodes"] = [node for node in candidate["nodes"] if node["id"] in needed]
    return candidate


def candidates(graph):
    """What is smaller by one step, the large steps first."""
    for change in [*fewer_sinks(graph), *fewer_nodes(graph), *fewer_batches(graph),
                   *fewer_records(graph), *simpler_parameters(graph)]:
        candidate = changed(graph, change)
        if candidate["sinks"] and candidate["nodes"]:
            yield candidate


def fewer_sinks(graph):
    sinks = graph["sinks"]
    for i in range(len(sinks)):
        if len(sinks) > 1:
            yield lambda g, i=i: g.update(sinks=[g["sinks"][i]])
    for i in range(len(sinks)):
        if len(sinks) > 2:
            yield lambda g, i=i: g["sinks"].pop(i)


def fewer_nodes(graph):
    """A node is replaced by one of its parents, for its children and for its sink."""
    for node in graph["nodes"][::-1]:
        for parent in dict.fromkeys(node.get("parents", [])):
            yield lambda g, name=node["id"], parent=parent: replace(g, name, parent)
        if len(node.get("parents", [])) > 1 and node["op"] in ("union", "transformMany"):
            for i in range(len(node["parents"])):
                yield lambda g, name=node["id"], i=i: find(g, name)["parents"].pop(i)


def replace(graph, name, parent):
    for node in graph["nodes"]:
        node["parents"] = [parent if p == name else p for p in node.get("parents", [])]
        if not node["parents"]:
            del node["parents"]
    sinks = dict.fromkeys(parent if s["node"] == name else s["node"] for s in graph["sinks"])
    graph["sinks"] = [{"node": sink} for sink in sinks]


def find(graph, name):
    return next(node for node in graph["nodes"] if node["id"] == name)


def fewer_batches(graph):
    last = graph["num_batches"]
    for shorter in sorted({last // 2, last - 1} - {0}):
        yield lambda g, shorter=shorter: cut_off(g, shorter)
    if last > 1:
        for k in range(1, last):
            yield lambda g, k=k: leave_out(g, k)
    for i in range(len(graph.get("restart_at", []))):
        yield lambda g, i=i: g["restart_at"].pop(i)


def cut_off(graph, last):
    graph["num_batches"] = last
    graph["restart_at"] = [k for k in graph.get("restart_at", []) if k < last]
    for node in graph["nodes"]:
        if "input" in node:
            del node["input"][last:]


def leave_out(graph, k):
    """Batch k never was; those after it come one batch earlier."""
    for node in graph["nodes"]:
        if "input" in node:
            del node["input"][k - 1:k]
    earlier = {i - 1 if i > k else i for i in graph.get("restart_at", [])}
    cut_off(graph, graph["num_batches"] - 1)
    graph["restart_at"] = sorted(i for i in earlier if 0 < i < graph["num_batches"])


def fewer_records(graph):
    """A batch, half of a batch, a record; the batches of queueStream are lists of data sets."""
    for node in graph["nodes"]:
        for k, batch in enumerate(node.get("input", [])):
            if batch:
                yield lambda g, n=node["id"], k=k: find(g, n)["input"].__setitem__(k, [])
                for part in parts(len(batch)):
                    yield lambda g, n=node["id"], k=k, s=part: find(g, n)["input"][k].__delitem__(s)
            if node["op"] == "queueStream":
                for i, data_set in enumerate(batch or []):
                    for s in parts(len(data_set)):
                        yield (lambda g, n=node["id"], k=k, i=i, s=s:
                               find(g, n)["input"][k][i].__delitem__(s))


def parts(n):
    if n > 3:
        yield slice(0, n // 2)
        yield slice(n // 2, n)
    for i in range(n):
        yield slice(i, i + 1)


def simpler_parameters(graph):
    slides = {name: kind.slide for name, kind in kinds_or_nothing(graph).items()}
    for node in graph["nodes"]:
        p, name = node["params"], node["id"]
        setting = lambda field, value, name=name: (
            lambda g: find(g, name)["params"].__setitem__(field, value))
        leaving = lambda field, name=name: lambda g: find(g, name)["params"].__delitem__(field)
        for field in ("filter", "inverse", "partitions_out", "form", "timeout", "initial_state"):
            if field in p and not (node["op"] == "repartition" and field == "partitions_out"):
                yield leaving(field)
        for field in ("partitions_in", "partitions_out", "timeout"):
            if p.get(field, 1) > 1:
                yield setting(field, p[field] - 1)
        if p.get("arg"):
            yield setting("arg", 0)
        for i in range(len(p.get("initial_state", []))):
            yield setting("initial_state", p["initial_state"][:i] + p["initial_state"][i + 1:])
        for field in ("window", "slide"):
            step = slides.get((node.get("parents") or [None])[0], 1)
            if p.get(field, 0) > step:
                yield setting(field, p[field] - step)


def kinds_or_nothing(graph):
    """A graph that levee must refuse has no kinds behind the node at fault."""
    try:
        return kinds.kinds_of(graph["nodes"])
    except GraphRefused:
        return {}
