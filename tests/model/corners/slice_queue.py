"""slice: recent batches by time. queueStream: data sets pushed by the program itself."""
from . import case, step


def sliced(name, queries, batches, expected, note=None, num_batches=None, **more):
    return case(name, "slice", {"queries_ms": queries}, batches, expected, note,
                num_batches=num_batches or len(batches), **more)


FIVE = [[1], [2, 3], [], [4], [5]]

CASES = [
    sliced("slice.both-ends-inclusive", [[1000, 2000], [2000, 2000], [4000, 5000]], FIVE,
           [[1, 2, 3], [2, 3], [4, 5]]),
    sliced("slice.rounded-down", [[1999, 2999], [1000, 1999], [1001, 1002], [2999, 3000]], FIVE,
           [[1, 2, 3], [1], [1], [2, 3]],
           "both ends, the beginning too: 1999 is in the slide of batch 1"),
    sliced("slice.before-the-first-batch", [[0, 999], [0, 0], [0, 1000], [1, 1000]], FIVE,
           [[], [], [1], [1]], "time 0 holds no batch"),
    sliced("slice.negative-times", [[-5000, -1000], [-1, 1000], [-999, 999]], FIVE, [[], [1], []]),
    sliced("slice.backwards", [[3000, 1000], [2000, 1000], [2001, 2000]], FIVE, [[], [], [2, 3]],
           "from after to is nothing, unless both round to one batch"),
    sliced("slice.past-the-last-batch", [[5000, 9000], [6000, 9000], [0, 100000]], FIVE,
           [[5], [], [1, 2, 3, 4, 5]], "batches that did not run yet are not in the answer"),
    sliced("slice.empty-batches", [[3000, 3000], [2000, 4000], [6000, 7000]], FIVE,
           [[], [2, 3, 4], []], num_batches=7),
    sliced("slice.of-250-ms", [[250, 500], [499, 750], [1000, 1249]], FIVE,
           [[1, 2, 3], [1, 2, 3], [4]], batch_ms=250),
    sliced("slice.same-query-twice", [[1000, 5000], [1000, 5000]], FIVE, [[1, 2, 3, 4, 5]] * 2),
    sliced("slice.behind-a-chain", [[1000, 2000], [3000, 3000]], FIVE, [[2, 2, 4, 6], []],
           before=[step("flatMap", "x_and_double"), step("filter", "is_even")]),
    sliced("slice.of-counts", [[1000, 5000], [3000, 3000]], FIVE, [[1, 2, 0, 1, 1], [0]],
           "a batch without records has a count", before=[step("count")]),
    sliced("slice.pairs-and-order", [[1000, 2000]], [[["b", 1], ["a", 2]], [["a", 1]]],
           [[["b", 1], ["a", 2], ["a", 1]]]),
    # queueStream
    case("queue.one-at-a-time", "queueStream", {"one_at_a_time": True},
         [[[1, 2], [3]], [], [[4]], []], [[1, 2], [3], [4], []],
         "what was not taken waits for the next batch"),
    case("queue.all-at-once", "queueStream", {"one_at_a_time": False},
         [[[1, 2], [3]], [], [[4], [], [5, 4]], None], [[1, 2, 3], [], [4, 5, 4], []],
         "all data sets that wait, in their order"),
    case("queue.an-empty-data-set-takes-its-turn", "queueStream", {"one_at_a_time": True},
         [[[1], [], [2]]], [[1], [], [2], []]),
    case("queue.backlog-overtaken-by-nothing", "queueStream", {"one_at_a_time": True},
         [[["a"], ["b"]], [["c"]], [["d"]]], [["a"], ["b"], ["c"], ["d"], []],
         "first in, first out"),
    case("queue.backlog-left-at-the-end", "queueStream", {"one_at_a_time": True}, [[[1], [2], [3]]],
         [[1], [2]], num_batches=2),
    case("queue.nothing-ever", "queueStream", {"one_at_a_time": True}, [[], None], [[], [], []]),
    case("queue.late", "queueStream", {"one_at_a_time": False, "partitions_in": 3},
         [None, [], [[["a", 1]], [["b", 2], ["a", 3]]]], [[], [], [["a", 1], ["b", 2], ["a", 3]]]),
    case("queue.chains", "queueStream", {"one_at_a_time": True}, [[[1, 2], [3, 4]]],
         [["2", "2", "4"], ["6", "4", "8"], []], before=[step("flatMap", "x_and_double")],
         after=[step("filter", "is_even"), step("map", "to_string")]),
    case("queue.then-count", "queueStream", {"one_at_a_time": True}, [[[1, 2], []], [[3]]],
         [[2], [0], [1], [0]], after=[step("count")]),
]
