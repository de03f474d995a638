"""The process is ended after one batch, both by a kill and by an orderly stop, and goes on: the outputs
are those of a run that was never ended. The places are those where something is half done."""
from . import WORDS, case, step

SUM = {"reduce": "sum"}
INVERSE = {"reduce": "sum", "inverse": "difference"}
KEYED = [[["a", 1]], [["b", 2]], [["a", 4]], [], [["b", 8], ["c", 1]], []]
ONE = "set_one_emit_key_on_timeout"


def window(name, operation, parameters, batches, expected, restart_at, **more):
    return case(name, operation, parameters, batches, expected, restart_at=restart_at, **more)


SUMS = [[["a", 1]], [["a", 1], ["b", 2]], [["a", 5], ["b", 2]], [["a", 4], ["b", 2]], [["a", 4], ["b", 8], ["c", 1]],
        [["b", 8], ["c", 1]]]
INVERSES = [*SUMS[:5], [["a", 0], ["b", 8], ["c", 1]], [["a", 0], ["b", 8], ["c", 1]], [["a", 0], ["b", 0], ["c", 0]]]
TOTALS = [[["a", 1]], [["a", 1], ["b", 2]], *[[["a", 5], ["b", 2]]] * 2, *[[["a", 5], ["b", 10], ["c", 1]]] * 2]

CASES = [
    case("restart.map", "map", {"f": "add", "arg": 1}, [[1], [2], [], [4]], [[2], [3], [], [5]], restart_at=2),
    case("restart.count-of-empty-batches", "count", {}, [[1], [], [], [2]], [[1], [0], [0], [1]], restart_at=2),
    case("restart.repartition", "repartition", {"partitions_in": 2, "partitions_out": 4}, [[1, 2, 3], [4], [], [5, 5]],
         [[1, 2, 3], [4], [], [5, 5]], "the number of partitions is the graph's, before and after", restart_at=2, expected_partitions=4),
    case("restart.repartition-to-one", "repartition", {"partitions_in": 5, "partitions_out": 1}, [["a"], ["b", "c"], ["d"]],
         [["a"], ["b", "c"], ["d"]], restart_at=1, expected_partitions=1),
    case("restart.repartition-around-state", "updateStateByKey", {"update": "running_sum", "partitions_in": 4, "partitions_out": 3, "partitions_state": 2},
         KEYED, TOTALS, restart_at=3, expected_partitions=3, expected_state=TOTALS),
    # In the middle of a window
    window("restart.window", "window", {"window": 3, "slide": 1}, [[1], [2], [3], [4], [5]], [[1], [1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5]], 3),
    window("restart.window-not-yet-full", "window", {"window": 4, "slide": 1}, [[1], [2], [3], [4], [5]], [[1], [1, 2], [1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]], 1),
    window("restart.window-between-slides", "window", {"window": 4, "slide": 3}, [[1], [2], [3], [4], [5], [6]], [[1, 2, 3], [3, 4, 5, 6]], 4, num_batches=6),
    window("restart.window-in-a-gap", "window", {"window": 1, "slide": 3}, [[1], [2], [3], [4], [5], [6]], [[3], [6]], 4, num_batches=6),
    window("restart.window-at-its-slide", "window", {"window": 2, "slide": 2}, [[1], [2], [3], [4]], [[1, 2], [3, 4]], 2, num_batches=4),
    window("restart.reduceByWindow", "reduceByWindow", dict(SUM, window=3, slide=2), [[1], [2], [3], [4], [], []], [[3], [9], [4]], 3, num_batches=6),
    window("restart.reduceByWindow-inverse", "reduceByWindow", dict(INVERSE, window=2, slide=1), [[1], [2], [], [], []], [[1], [3], [2], [0], [0]], 4),
    window("restart.reduceByKeyAndWindow", "reduceByKeyAndWindow", dict(SUM, window=3, slide=1), KEYED, SUMS, 2),
    window("restart.reduceByKeyAndWindow-inverse", "reduceByKeyAndWindow", dict(INVERSE, window=3, slide=1), KEYED, INVERSES, 4),
    window("restart.inverse-with-all-keys-at-zero", "reduceByKeyAndWindow", dict(INVERSE, window=1, slide=1), [[["a", 1]], [], [], [["b", 2]]],
           [[["a", 1]], [["a", 0]], [["a", 0]], [["a", 0], ["b", 2]]], 2, note="a key that is listed only because it once was"),
    window("restart.inverse-filter-dropped-what-is-inside", "reduceByKeyAndWindow", dict(INVERSE, window=2, slide=1, filter="value_not_zero"),
           [[["k", 3]], [["k", -3]], [], []], [[["k", 3]], [], [["k", -3]], []], 2,
           note="nothing was put out, and yet the window must come back"),
    window("restart.inverse-slide-larger", "reduceByKeyAndWindow", dict(INVERSE, window=2, slide=3), [[["a", 1]], [["a", 2]], [["a", 4]], [["a", 8]], [["a", 16]], []],
           [[["a", 6]], [["a", 16]]], 4, num_batches=6),
    window("restart.inverse-slide-larger-in-the-window", "reduceByKeyAndWindow", dict(INVERSE, window=2, slide=3), [[["a", 1]], [["a", 2]], [["a", 4]], [["a", 8]], [["a", 16]], []],
           [[["a", 6]], [["a", 16]]], 5, num_batches=6, checkpoint_interval=1),
    window("restart.countByWindow-never-seen", "countByWindow", {"window": 2, "slide": 1}, [[], [], ["x"], [], []], [[], [], [1], [1], [0]], 2),
    window("restart.countByWindow-at-zero", "countByWindow", {"window": 1, "slide": 1}, [["x"], [], [], ["y"]], [[1], [0], [0], [1]], 2,
           note="0, not nothing: that a record was seen is not forgotten"),
    window("restart.countByValueAndWindow", "countByValueAndWindow", {"window": 3, "slide": 1}, [["x", "y"], ["x"], [], ["z"]],
           [[["x", 1], ["y", 1]], [["x", 2], ["y", 1]], [["x", 2], ["y", 1]], [["x", 1], ["z", 1]], [["z", 1]]], 2),
    window("restart.groupByKeyAndWindow", "groupByKeyAndWindow", {"window": 3, "slide": 2}, [[["a", 1]], [["a", 2], ["b", 3]], [["a", 0]], [["b", 4]]],
           [[["a", [1, 2]], ["b", [3]]], [["a", [2, 0]], ["b", [3, 4]]]], 3, num_batches=4),
    # State
    case("restart.update-sum", "updateStateByKey", {"update": "running_sum"}, KEYED, TOTALS, restart_at=4, expected_state=TOTALS),
    case("restart.update-before-any-data", "updateStateByKey", {"update": "running_sum"}, [[], [], [["a", 1]]], [[], [], [["a", 1]]], restart_at=1),
    case("restart.update-words", "updateStateByKey", {"update": "running_sum"}, [["to be"], ["or not"], ["to be"]],
         [[["to", 1], ["be", 1]], [["to", 1], ["be", 1], ["or", 1], ["not", 1]], [["to", 2], ["be", 2], ["or", 1], ["not", 1]]],
         before=WORDS, restart_at=1, checkpoint_interval=10),
    case("restart.update-initial", "updateStateByKey", {"update": "running_sum"}, [[["q", 1]], [], [["q", 1]]],
         [[["q", 11], ["r", 5]], [["q", 11], ["r", 5]], [["q", 12], ["r", 5]]], "initial state is given once, not at every start",
         initial_state=[["q", 10], ["r", 5]], restart_at=2),
    case("restart.update-initial-was-removed", "updateStateByKey", {"update": "count_and_drop_after_2_idle"}, [[], [], [], [["q", 1]]],
         [[["q", [5, 1]]], [], [], [["q", [1, 0]]]], "what was removed does not come back with the setup",
         initial_state=[["q", [5, 0]]], restart_at=2),
    case("restart.update-idle-in-the-middle", "updateStateByKey", {"update": "count_and_drop_after_2_idle"}, [[["a", 1], ["b", 1]], [["b", 1]], [], []],
         [[["a", [1, 0]], ["b", [1, 0]]], [["a", [1, 1]], ["b", [2, 0]]], [["b", [2, 1]]], []], restart_at=2),
    case("restart.update-batch-time", "updateStateByKey", {"update": "add_batch_time_if_any"}, [[["a", 1]], [["a", 1]], [["a", 1]], []],
         [[["a", 1000]], [["a", 3000]], [["a", 6000]], [["a", 6000]]], "a batch has the same time after a restart", restart_at=1),
    case("restart.update-per-partition", "updateStateByKey", {"update": "running_sum", "form": "per_partition_iterator"}, KEYED, TOTALS, restart_at=5),
    case("restart.with-state-sums", "mapWithState", {"f": "count_emit_pair"}, [[["a", 1]], [["a", 2]], [], [["a", 3]]],
         [[["a", 1]], [["a", 3]], [], [["a", 6]]], restart_at=3, expected_state=[[["a", 1]], [["a", 3]], [["a", 3]], [["a", 6]]]),
    case("restart.with-state-initial-was-removed", "mapWithState", {"f": "toggle_remove_emit_key"}, [[["q", 1]], [], [["q", 2]], [["q", 3]]],
         [["q"], [], [], ["q"]], initial_state=[["q", 9]], restart_at=2),
    case("restart.with-state-timeout-across", "mapWithState", {"f": ONE, "timeout": 2}, [[["a", 1]], [["b", 1]], [], [], [], []],
         [[], [], [], ["a"], ["b"], []], "the time-out goes by batch time, not by the process's life", restart_at=3),
    case("restart.with-state-timeout-at-the-restart", "mapWithState", {"f": ONE, "timeout": 1}, [[["a", 1]], [], [], []], [[], [], ["a"], []],
         "timed out just before the end of the process: not again", restart_at=3),
    case("restart.with-state-timeout-just-after", "mapWithState", {"f": ONE, "timeout": 1}, [[["a", 1]], [], [], []], [[], [], ["a"], []], restart_at=2,
         checkpoint_interval=1),
    case("restart.with-state-data-wins-after", "mapWithState", {"f": ONE, "timeout": 1}, [[["a", 1]], [], [["a", 1]], [], []], [[], [], [], [], ["a"]],
         restart_at=2, checkpoint_interval=5),
    case("restart.with-state-snapshots", "mapWithState", {"f": "count_emit_sum", "observe": "snapshots"}, [[["a", 1]], [], [["b", 1]]],
         [[["a", 1]], [["a", 1]], [["a", 1], ["b", 1]]], restart_at=2),
    case("restart.with-state-overall", "mapWithState", {"f": "count_emit_sum"}, [[["a", 1]], [["a", 2]], [["a", 3]], [["b", 4]]], [[1], [3], [6], [4]],
         restart_at=2, expected_overall={"mapped_total": [1, 3, 6, 4], "snapshot_seen": [["a", 3]], "last_snapshot": [["a", 6], ["b", 4]]}),
    # Everything else, and killed again and again
    case("restart.join", "join", {}, [[["a", 1]], [["b", 2]], [["c", 3]]], [[["a", [1, 4]]], [], [["c", [3, 6]]]], input2=[[["a", 4]], [["a", 5]], [["c", 6]]],
         restart_at=1),
    case("restart.save-as-files", "transform", {"f": "pair_reduce_and_save"}, [["a", "a"], ["b"], [], ["a"]], [[["a", 2]], [["b", 1]], [], [["a", 1]]],
         "writing the same batch again does not fail", ordered=False, also="save_as_files", restart_at=2),
    case("restart.queue-with-a-backlog", "queueStream", {"one_at_a_time": True}, [[[1], [2], [3]], [], [[4]]], [[1], [2], [3], [4]],
         "what was enqueued and not yet taken is not lost", restart_at=1),
    case("restart.slice", "slice", {"queries_ms": [[1000, 4000], [2000, 3000], [3000, 3000]]}, [[1], [2], [3], [4]], [[1, 2, 3, 4], [2, 3], [3]],
         "also of batches before the restart", num_batches=4, restart_at=2),
    case("restart.killed-often-window", "reduceByKeyAndWindow", dict(INVERSE, window=3, slide=1), KEYED, INVERSES, kills="repeated-random"),
    case("restart.killed-often-update", "updateStateByKey", {"update": "running_sum"}, KEYED, TOTALS, kills="repeated-random"),
    case("restart.killed-often-timeouts", "mapWithState", {"f": ONE, "timeout": 1}, [[["a", 1]], [["b", 1]], [], [["a", 1]], [], []],
         [[], [], ["a"], ["b"], [], ["a"]], kills="repeated-random"),
    case("restart.killed-often-files", "transform", {"f": "pair_reduce_and_save"}, [["a"], ["b", "b"], []], [[["a", 1]], [["b", 2]], []], ordered=False,
         also="save_as_files", kills="repeated-random"),
    case("restart.killed-often-words", "updateStateByKey", {"update": "running_sum", "partitions_in": 3}, [["x y", "y"], [], ["x"], ["z"]],
         [[["x", 1], ["y", 2]], [["x", 1], ["y", 2]], [["x", 2], ["y", 2]], [["x", 2], ["y", 2], ["z", 1]]], before=WORDS, kills="repeated-random",
         checkpoint_interval=2),
]
