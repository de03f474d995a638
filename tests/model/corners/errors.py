"""What is refused: graphs that make no sense, before the first batch, and functions that fail."""
from . import WORDS, case, step

WINDOWED = {
    "window": {},
    "reduceByWindow": {"reduce": "sum"},
    "reduceByKeyAndWindow": {"reduce": "sum", "inverse": "difference"},
    "countByWindow": {},
    "countByValueAndWindow": {},
    "groupByKeyAndWindow": {},
}


def refused(name, operation, parameters, note=None, **more):
    return case("error." + name, operation, parameters, [[["a", 1]], [["b", 2]]], [], note,
                num_batches=3, expected_error={"when": "build"}, **more)


def fails(name, operation, parameters, batches, expected, at_batch, note=None, **more):
    return case("error." + name, operation, parameters, batches, expected, note,
                num_batches=len(batches), expected_error={"at_batch": at_batch}, **more)


TO_INT = [step("mapValues", "to_int")]
BAD_THIRD = [[["a", "1"]], [["a", "2"]], [["b", "3"], ["a", "four"]], [["a", "5"]]]

CASES = [
    *[refused(operation + "-window-of-one-and-a-half", operation, dict(more, window=1.5, slide=1))
      for operation, more in WINDOWED.items()],
    *[refused(operation + "-slide-of-one-and-a-half", operation, dict(more, window=3, slide=1.5))
      for operation, more in WINDOWED.items()],
    refused("window-of-a-third", "window", {"window": 0.4, "slide": 1}, "400 ms of 1000"),
    refused("window-of-10-ms", "window", {"window": 2.04, "slide": 2}, "510 ms of 250",
            batch_ms=250),
    refused("window-of-nothing", "window", {"window": 0, "slide": 1}),
    refused("slide-of-nothing", "reduceByKeyAndWindow", {"window": 2, "slide": 0, "reduce": "sum"}),
    refused("negative-window", "countByWindow", {"window": -1, "slide": 1}),
    refused("negative-slide", "groupByKeyAndWindow", {"window": 2, "slide": -2}),
    case("error.slice-before-start", "slice",
         {"queries_ms": [[1000, 2000]], "query_at": "before_start"}, [[1], [2]], [], num_batches=2,
         expected_error={"when": "before_start"}),
    case("error.slice-before-start-of-nothing", "slice",
         {"queries_ms": [[0, 0]], "query_at": "before_start"}, [], [],
         "also when the answer would be empty", num_batches=1,
         expected_error={"when": "before_start"}),
    fails("map-in-the-first-batch", "map", {"f": "to_int"}, [["x"], ["1"]], [], 1),
    fails("map-in-the-second-batch", "map", {"f": "to_int"}, [["1", "2"], ["3", "x"], ["4"]],
          [[1, 2]], 2,
          "what the batches before put out stands; nothing of the failing one is seen"),
    fails("map-after-empty-batches", "map", {"f": "to_int"}, [[], None, ["-"]], [[], []], 3),
    fails("mapValues", "mapValues", {"f": "to_int"}, BAD_THIRD, [[["a", 1]], [["a", 2]]], 3),
    fails("before-a-sum", "reduceByKey", {"reduce": "sum"}, BAD_THIRD, [[["a", 1]], [["a", 2]]], 3,
          before=TO_INT),
    fails("before-state", "updateStateByKey", {"update": "running_sum"}, BAD_THIRD,
          [[["a", 1]], [["a", 3]]], 3, "state of the failing batch is not kept either",
          before=TO_INT, expected_state=[[["a", 1]], [["a", 3]]]),
    fails("before-map-with-state", "mapWithState", {"f": "count_emit_sum"}, BAD_THIRD, [[1], [3]],
          3, before=TO_INT, expected_state=[[["a", 1]], [["a", 3]]]),
    fails("before-a-window-between-slides", "reduceByKeyAndWindow",
          {"window": 2, "slide": 2, "reduce": "sum"}, BAD_THIRD, [[["a", 3]]], 3,
          "the batch fails when it is run, not when its window is due", before=TO_INT),
    fails("before-a-window-when-due", "countByValueAndWindow", {"window": 2, "slide": 2},
          [["1"], ["x"], [], []], [], 2, before=[step("map", "to_int")]),
    fails("behind-the-operation", "groupByKey", {}, [[["1", 1]], [["x", 1]]], [[1]], 2,
          after=[step("map", "first"), step("map", "to_int")]),
    fails("on-the-second-input", "join", {}, [[["a", 1]], [["a", 1]]], [[["a", [1, 2]]]], 2,
          input2=[[["a", "2"]], [["a", "b"]]], before2=TO_INT),
    fails("twice-and-the-first-counts", "union",
          {"streams": [{"from": "input", "steps": [step("map", "to_int")]},
           {"from": "input2", "steps": [step("map", "to_int")]}]}, [["1"], ["2"], ["x"]], [[1, 1]],
          2, input2=[["1"], ["y"], ["3"]]),
    fails("words-that-are-numbers", "countByValue", {}, ["1 2 2".split(), ["1x"]],
          [[[1, 1], [2, 2]]], 2, before=[step("map", "to_int")]),
]
