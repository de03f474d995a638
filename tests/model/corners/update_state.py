"""updateStateByKey: the function sees every key that has state, each batch, values or not."""
from . import WORDS, case, step

SUM = {"update": "running_sum"}
TIME = {"update": "add_batch_time_if_any"}
IDLE = {"update": "count_and_drop_after_2_idle"}


def stateful(name, parameters, batches, expected, note=None, **more):
    """The output is the whole state, so the state after each batch is expected to be the same."""
    return case(name, "updateStateByKey", parameters, batches, expected, note, expected_state=expected, **more)


CASES = [
    stateful("update.sum-untouched-keys-are-put-out", SUM, [[["a", 1], ["b", 2]], [["a", 3]], [], None],
             [[["a", 1], ["b", 2]], [["a", 4], ["b", 2]], [["a", 4], ["b", 2]], [["a", 4], ["b", 2]], [["a", 4], ["b", 2]]],
             "the whole state, each batch, also without data"),
    stateful("update.sum-several-values", dict(SUM, partitions_in=3), [[["a", 1], ["a", 2], ["b", 7], ["a", 3]], [["b", -7]]],
             [[["a", 6], ["b", 7]], [["a", 6], ["b", 0]]], "a state of zero stays"),
    stateful("update.nothing-ever", SUM, [[], None], [[], [], []]),
    stateful("update.first-data-late", SUM, [[], None, [["a", 1]], []], [[], [], [["a", 1]], [["a", 1]]]),
    stateful("update.initial-state-never-seen", SUM, [[["a", 1]], [], [["b", 5]]],
             [[["a", 1], ["q", 10]], [["a", 1], ["q", 10]], [["a", 1], ["b", 5], ["q", 10]]],
             "a key of the initial state is put out from the first batch on", initial_state=[["q", 10]]),
    stateful("update.initial-state-and-no-data", SUM, [], [[["q", 10], ["r", 0]], [["q", 10], ["r", 0]]],
             initial_state=[["q", 10], ["r", 0]]),
    stateful("update.initial-state-is-added-to", SUM, [[["q", 1], ["r", 2], ["q", 3]], [["q", -14]]],
             [[["q", 14], ["r", 2]], [["q", 0], ["r", 2]]], initial_state=[["q", 10]]),
    stateful("update.initial-state-kinds-apart", SUM, [[["1", 1], [None, 1], [[1, "x"], 1]]],
             [[[1, 10], ["1", 21], [None, 31], [[1, "x"], 41]]],
             initial_state=[[1, 10], ["1", 20], [None, 30], [[1, "x"], 40]]),
    stateful("update.per-partition-form", dict(SUM, form="per_partition_iterator"), [[["a", 1]], [], [["b", 2], ["a", 1]]],
             [[["a", 1]], [["a", 1]], [["a", 2], ["b", 2]]], "the form over a whole partition means the same"),
    stateful("update.per-partition-form-initial", dict(SUM, form="per_partition_iterator", partitions_state=3),
             [[["a", 1]], []], [[["a", 3], ["z", 7]], [["a", 3], ["z", 7]]], initial_state=[["a", 2], ["z", 7]]),
    stateful("update.per-partition-form-removes", dict(IDLE, form="per_partition_iterator"), [[["a", 1]], [], [], [["a", 5]]],
             [[["a", [1, 0]]], [["a", [1, 1]]], [], [["a", [5, 0]]]]),
    stateful("update.words", dict(SUM, partitions_state=5), [["x y x"], ["z", "x"], []],
             [[["x", 2], ["y", 1]], [["x", 3], ["y", 1], ["z", 1]], [["x", 3], ["y", 1], ["z", 1]]], before=WORDS),
    stateful("update.batch-time", TIME, [[["a", 1], ["a", 1]], [["b", 1]], [], [["a", 9]]],
             [[["a", 1000]], [["a", 1000], ["b", 2000]], [["a", 1000], ["b", 2000]], [["a", 5000], ["b", 2000]]],
             "once per key and batch, however many values"),
    stateful("update.batch-time-of-250-ms", TIME, [[["a", 0]], [["a", 0]], [["a", 0]]], [[["a", 250]], [["a", 750]], [["a", 1500]]],
             "batch k has time k batch_ms", batch_ms=250),
    stateful("update.batch-time-initial", TIME, [[], [["q", 0]]], [[["q", 7]], [["q", 2007]]], initial_state=[["q", 7]]),
    stateful("update.dropped-after-two-idle", IDLE, [[["a", 1]], [], [], []], [[["a", [1, 0]]], [["a", [1, 1]]], [], []],
             "idle 1 after the second batch, removed in the third"),
    stateful("update.saved-by-data-just-in-time", IDLE, [[["a", 1]], [], [["a", 2]], [], [], []],
             [[["a", [1, 0]]], [["a", [1, 1]]], [["a", [3, 0]]], [["a", [3, 1]]], [], []]),
    stateful("update.dropped-and-back", IDLE, [[["a", 5]], [], [], [["a", 1]], [], [], [["a", 2]]],
             [[["a", [5, 0]]], [["a", [5, 1]]], [], [["a", [1, 0]]], [["a", [1, 1]]], [], [["a", [2, 0]]]],
             "a removed key that comes back begins anew"),
    stateful("update.dropped-one-by-one", IDLE, [[["a", 1], ["b", 1], ["c", 1]], [["b", 1]], [["c", 1]], [], []],
             [[["a", [1, 0]], ["b", [1, 0]], ["c", [1, 0]]], [["a", [1, 1]], ["b", [2, 0]], ["c", [1, 1]]],
              [["b", [2, 1]], ["c", [2, 0]]], [["c", [2, 1]]], []]),
    stateful("update.values-that-sum-to-zero-are-values", IDLE, [[["a", 1]], [["a", 0]], [["a", 3], ["a", -3]], []],
             [[["a", [1, 0]]], [["a", [1, 0]]], [["a", [1, 0]]], [["a", [1, 1]]]],
             "idle means no values, not values that add up to nothing"),
    stateful("update.initial-state-idles-away", IDLE, [[], [], []], [[["q", [5, 1]]], [], []],
             "the first batch already counts for keys never seen", initial_state=[["q", [5, 0]], ["r", [6, 1]]]),
    stateful("update.initial-state-idle-one", IDLE, [[["r", 1]]], [[["r", [7, 0]]], [["r", [7, 1]]], []],
             initial_state=[["r", [6, 1]]]),
    case("update.then-first-of-the-state", "updateStateByKey", IDLE, [[["a", 1]], [["b", 1], ["b", 1]], []],
         [[["a", 1]], [["a", 1], ["b", 2]], [["b", 2]]], after=[step("mapValues", "first")],
         expected_state=[[["a", [1, 0]]], [["a", [1, 1]], ["b", [2, 0]]], [["b", [2, 1]]]]),
    case("update.then-count", "updateStateByKey", IDLE, [[["a", 1]], [], []], [[1], [1], [0]], after=[step("count")]),
    case("update.then-even-counts", "updateStateByKey", dict(SUM, partitions_out=3), [[2, 3], [2]], [[1, 1], [2, 1]],
         before=[step("map", "pair_with", 1)], after=[step("map", "value")], expected_partitions=3,
         expected_state=[[[2, 1], [3, 1]], [[2, 2], [3, 1]]]),
]
