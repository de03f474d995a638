#!/usr/bin/env python3
"""Writes tests/cases/*.json: the hand-picked cases of corners/, then random ones from fixed seeds.

    make_cases.py           write the files
    make_cases.py --check   compare them with what would be written, and write nothing

The same files, byte for byte, wherever it runs. A hand-picked case whose expectation the reference
does not share stops it, and so does a function or an operation of the format that fewer than two
cases use.
"""
import importlib
import json
import pathlib
import sys
from collections import Counter

import functions
import operations
import random_cases
import reference

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "cases"


def filled_in(name, made):
    """A random case with what the reference expects of it."""
    got = reference.run(made)
    case = {"id": name, **{field: value for field, value in made.items() if value != []}}
    case["input"] = made["input"]
    if case.pop("expected_state", False) and got.states is not None:
        case["expected_state"] = got.states
    case["expected"] = got.outputs
    if got.error:
        case["expected_error"] = {"at_batch": got.error["at_batch"]}
    return case


def group(name):
    picked = importlib.import_module("corners." + name).CASES
    for case in picked:
        wrong = list(reference.differences(case))
        if wrong:
            sys.exit(f"{case['id']}: " + "; ".join(wrong))
    make, n = random_cases.GROUPS[name]
    seed = 1000 * (1 + list(random_cases.GROUPS).index(name))
    drawn = {f"{name}.random-{i}": make(random_cases.Random(seed + i)) for i in range(1, n + 1)}
    return picked + [filled_in(*named) for named in drawn.items()]


def uses(cases):
    """(use, name) -> number of cases, for operations and for functions by name."""
    tables = {"map": "map", "mapValues": "map", "flatMap": "flatMap", "flatMapValues": "flatMap"}
    seen = Counter()
    for case in cases:
        p = case["parameters"]
        chains = [stream.get("steps", []) for stream in p.get("streams", [])]
        chains += [case.get(chain, []) for chain in ("before", "before2", "after")]
        of_case = {("operation", case["operation"])}
        for s in [*sum(chains, []), {"op": case["operation"], "f": p.get("f")}]:
            of_case.add((tables.get(s["op"], s["op"]), s.get("f")))
        of_case |= {(use, p[use]) for use in ("update", "reduce", "inverse", "filter") if use in p}
        seen.update(of_case)
    return seen


def wanted():
    tables = {
        "map": functions.MAP,
        "flatMap": functions.FLAT_MAP,
        "filter": functions.FILTER,
        "mapPartitions": functions.MAP_PARTITIONS,
        "transform": set(functions.TRANSFORM) - {"distinct", "take"},
        "transformWith": ["union", "join"],
        "transformMany": ["union", "union_first_two_pair_self_join_third"],
        "update": functions.UPDATE,
        "mapWithState": functions.MAP_WITH_STATE,
        "reduce": ["sum"],
        "inverse": ["difference"],
    }
    tables["operation"] = {*operations.OPERATIONS, "slice", "queueStream"} - {"joinDataSet"}
    return [(use, name) for use, names in tables.items() for name in names]


def main():
    files = {name + ".json": group(name) for name in random_cases.GROUPS}
    cases = [case for file in files.values() for case in file]
    twice = [name for name, n in Counter(case["id"] for case in cases).items() if n > 1]
    seen = uses(cases)
    rare = [use for use in wanted() if seen[use] < 2]
    if twice or rare:
        sys.exit(f"used twice: {twice}; used by fewer than two cases: {rare}")
    stale = []
    for name, made in files.items():
        lines = [json.dumps(case, ensure_ascii=False) for case in made]
        text = "[\n" + ",\n".join(lines) + "\n]\n"
        if "--check" not in sys.argv:
            (FOLDER / name).write_text(text, encoding="utf-8")
        elif not (FOLDER / name).exists() or (FOLDER / name).read_text(encoding="utf-8") != text:
            stale.append(name)
        print(f"{name:22} {len(made):4} cases")
    print(f"{len(cases)} cases")
    if stale:
        print(f"not what would be written: {', '.join(stale)}")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
