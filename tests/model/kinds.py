"""What fits on what in a random graph: the kind of records that each node puts out.

The functions by name take integers, texts or pairs, and some results depend on an order that the
model leaves open. A graph is fit when every node gets records that its function takes, and when
what it puts out is determined by the model. make and shrink both build only fit graphs.

A type is "int", "text", "line" (words with single spaces), "digits" (an integer's text), "command"
(a text of mapWithState's), "odd" (anything that is equal only to itself, good as a key), or a tuple
("pair", key, value), ("list", element), ("maybe", type or null).
"""
from collections import namedtuple

import functions
from operations import JOINS, GraphRefused

# ordered: the order inside a data set is defined, and so the order of arrival inside a key.
# cut: the partitions are known: those of a source, as the chain behind it left them.
Kind = namedtuple("Kind", "type slide ordered cut")

TEXTS = ("text", "line", "digits", "command")


class Unfit(Exception):
    """This operation cannot stand there."""


def need(fits):
    if not fits:
        raise Unfit


def pair(key, value):
    return ("pair", key, value)


def key_of(kind_type):
    need(kind_type[0] == "pair")
    return kind_type[1]


def value_of(kind_type):
    need(kind_type[0] == "pair")
    return kind_type[2]


def mapped(f, t):
    """Type of MAP[f] of a t."""
    if f in ("length", "pair_with_length", "upper"):
        need(t in TEXTS)
        return {"length": "int", "pair_with_length": pair(t, "int"), "upper": t}[f]
    if f == "to_string":
        need(t == "int" or t in TEXTS)
        return "digits" if t == "int" else t
    if f in ("add", "to_int"):
        need(t == "int" if f == "add" else t in TEXTS)  # to_int fails on most, in its first batch
        return "int"
    if f == "pair_with":
        return pair(t, "int")
    return {"swap": pair(value_of(t), key_of(t)), "value": value_of(t), "first": key_of(t)}[f]


def flat_mapped(f, t):
    if f in ("x_and_double", "v_and_plus"):
        need(t == "int")
        return "int"
    if f == "value_letter_pairs":
        need(key_of(t) in TEXTS)
        return pair(value_of(t), "text")
    need(t == "line" if f == "split_on_space" else t in TEXTS)
    return pair("int", "text") if f == "length_letter_pairs" else "text"


def need_filter(f, t):
    need({
        "is_even": lambda: t == "int",
        "contains_a": lambda: t in TEXTS,
        "key_contains_a": lambda: key_of(t) in TEXTS,
        "value_not_zero": lambda: value_of(t) == "int",
    }[f]())


def narrow(node, kind):
    op, f, t = node["op"], node["params"].get("f"), kind.type
    if op in ("map", "flatMap"):
        return kind._replace(type=(mapped if op == "map" else flat_mapped)(f, t))
    if op in ("mapValues", "flatMapValues"):
        value = (mapped if op == "mapValues" else flat_mapped)(f, value_of(t))
        return kind._replace(type=pair(key_of(t), value))
    if op == "filter":
        need_filter(f, t)
        return kind
    if op == "mapPartitions" and f == "swap_all":
        return kind._replace(type=pair(value_of(t), key_of(t)))
    need(kind.cut)
    if op == "glom":
        return kind._replace(type=("list", t))
    need(t == "int" if f == "sum_of_partition" else t in TEXTS)
    return kind._replace(type=t if t == "int" else "text")


def transformed(f, kind):
    t, whole = kind.type, kind._replace(cut=False)
    if f == "take":
        need(kind.ordered)
        return whole
    if f == "sort_by_key":
        need(key_of(t) == "int" or key_of(t) in TEXTS)
        return whole
    if f == "distinct":
        return whole._replace(ordered=False)
    if f == "pair_reduce_and_save":
        return whole._replace(type=pair(t, "int"), ordered=False)
    if f == "keys":
        return whole._replace(type=key_of(t))
    return whole._replace(type=mapped("to_string" if f == "map_to_string" else "add", t))


def joined(how, left, right):
    null_left, null_right = JOINS[how]
    need(key_of(left) == key_of(right))
    a, b = value_of(left), value_of(right)
    a, b = ("maybe", a) if null_left else a, ("maybe", b) if null_right else b
    return pair(key_of(left), pair(a, b))


JOIN_OPS = {
    "join": "inner",
    "leftOuterJoin": "left",
    "rightOuterJoin": "right",
    "fullOuterJoin": "full",
}


def several(node, kinds):
    op, f, first = node["op"], node["params"].get("f"), kinds[0]
    need(op in ("union", "transformMany") or len(kinds) == 2)
    together = first._replace(ordered=False, cut=False)
    if op == "union" or f == "union":
        need(len({kind.type for kind in kinds}) == 1)
        return together._replace(ordered=all(kind.ordered for kind in kinds))
    if op == "transformMany":
        need(len(kinds) == 3 and kinds[0].type == kinds[1].type)
        return together._replace(type=joined("inner", pair(first.type, first.type), kinds[2].type))
    if op == "cogroup":
        need(all(kind.ordered for kind in kinds) and key_of(first.type) == key_of(kinds[1].type))
        sides = pair(("list", value_of(first.type)), ("list", value_of(kinds[1].type)))
        return together._replace(type=pair(key_of(first.type), sides))
    return together._replace(type=joined(JOIN_OPS.get(op, "inner"), first.type, kinds[1].type))


EMIT_KEY = ("count_emit_key_twice", "toggle_remove_emit_key", "set_one_emit_key_on_timeout")
ANY_VALUE = ("toggle_remove_emit_key", "set_one_emit_key_on_timeout", "text_commands")
ANY_ARRIVAL = ("count_emit_nothing", "count_emit_key_twice", "set_one_emit_key_on_timeout")


def with_state(p, kind):
    """What depends on the order of arrival needs one, and null is no value."""
    key, value, f = key_of(kind.type), value_of(kind.type), p["f"]
    need(value != "odd" and value[0] != "maybe")
    need(kind.ordered or f in ANY_ARRIVAL)
    need(f != "text_commands" or value == "command")
    need(value == "int" or f in ANY_VALUE)
    emits = pair(key, "int") if f == "count_emit_pair" else key if f in EMIT_KEY else "int"
    return kind._replace(type=emits, ordered=False, cut=False)


def state_type(p, t):
    """Of the state that mapWithState keeps."""
    return value_of(t) if p["f"] == "toggle_remove_emit_key" else "int"


def windowed(node, kind):
    op, p, t = node["op"], node["params"], kind.type
    if any(p[what] <= 0 or p[what] % kind.slide for what in ("window", "slide")):
        raise GraphRefused
    after = kind._replace(slide=p["slide"], cut=False)
    if op == "window":
        return after
    if op in ("countByWindow", "reduceByWindow"):
        need(op == "countByWindow" or t == "int")
        return after._replace(type="int", ordered=True)
    if op == "groupByKeyAndWindow":
        need(kind.ordered)
        return after._replace(type=pair(key_of(t), ("list", value_of(t))), ordered=False)
    if op == "countByValueAndWindow":
        return after._replace(type=pair(t, "int"), ordered=False)
    need(value_of(t) == "int")
    if p.get("filter"):
        need_filter(p["filter"], t)
    return after._replace(ordered=False)


WINDOWED = ("window", "countByWindow", "reduceByWindow", "reduceByKeyAndWindow",
            "countByValueAndWindow", "groupByKeyAndWindow")
NARROW = ("map", "flatMap", "filter", "mapValues", "flatMapValues", "mapPartitions", "glom")
SEVERAL = ("union", "transformWith", "transformMany", "cogroup", *JOIN_OPS)


def one_parent(node, kind):
    op, p, t = node["op"], node["params"], kind.type
    shuffled = kind._replace(ordered=False, cut=False)
    if op == "repartition":
        return shuffled
    if op == "transform":
        return transformed(p["f"], kind)
    if op in ("count", "reduce"):
        need(op == "count" or t == "int")
        return shuffled._replace(type="int", ordered=True)
    if op == "countByValue":
        return shuffled._replace(type=pair(t, "int"))
    if op in ("reduceByKey", "combineByKey"):
        need(value_of(t) == "int")
        return shuffled
    if op == "groupByKey":
        need(kind.ordered)
        return shuffled._replace(type=pair(key_of(t), ("list", value_of(t))))
    if op == "joinDataSet":
        return shuffled._replace(type=joined(p["kind"], t, pair(key_of(t), "int")))
    if op == "updateStateByKey":
        need(value_of(t) == "int" or p["update"] == "add_batch_time_if_any")
        idle = p["update"] == "count_and_drop_after_2_idle"
        return shuffled._replace(type=pair(key_of(t), pair("int", "int") if idle else "int"))
    assert op == "mapWithState", op
    return with_state(p, kind)


def kind_of(node, nodes, kinds):
    """The kind of what a node puts out. nodes, kinds: of the nodes before it, by id. Raises Unfit,
    or GraphRefused if levee must refuse the graph for this node."""
    op = node["op"]
    if op in ("source", "queueStream"):
        return Kind(as_type(node["type"]), 1, True, op == "source")
    parents = [kinds[name] for name in node["parents"]]
    if op in SEVERAL:
        fit = several(node, parents)
        if len({parent.slide for parent in parents}) > 1:
            raise GraphRefused
        return fit
    need(len(parents) == 1)
    if op in NARROW:
        return narrow(node, parents[0])
    if op in WINDOWED:
        return windowed(node, parents[0])
    if op == "stateSnapshots":
        stateful = nodes[node["parents"][0]]
        need(stateful["op"] == "mapWithState")
        t = kinds[stateful["parents"][0]].type
        kept = pair(key_of(t), state_type(stateful["params"], t))
        return Kind(kept, parents[0].slide, False, False)
    return one_parent(node, parents[0])


def as_type(spelled):
    """From JSON, where a tuple is a list."""
    return tuple(as_type(part) for part in spelled) if isinstance(spelled, list) else spelled


def kinds_of(nodes):
    """Kinds by id, of a whole graph. An error of GraphRefused names the node."""
    by_id, kinds = {node["id"]: node for node in nodes}, {}
    for node in nodes:
        try:
            kinds[node["id"]] = kind_of(node, by_id, kinds)
        except GraphRefused:
            raise GraphRefused(node["id"]) from None
        except KeyError:
            raise Unfit from None
    return kinds


# Named by cases.md, or by README.md for what only graphs have.
FUNCTIONS = {
    "map": functions.MAP,
    "mapValues": functions.MAP,
    "flatMap": functions.FLAT_MAP,
    "flatMapValues": functions.FLAT_MAP,
    "filter": functions.FILTER,
    "mapPartitions": functions.MAP_PARTITIONS,
    "transform": functions.TRANSFORM,
    "transformWith": ["union", "join"],
    "transformMany": ["union", "union_first_two_pair_self_join_third"],
    "mapWithState": functions.MAP_WITH_STATE,
}
