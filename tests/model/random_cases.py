"""Cases that nobody thought of: random parameters over random input, from a seed."""
from corners import ORDERED, step
from dice import Dice

# Keys that are easily taken for one another, and ordinary ones.
ODD_KEYS = [None, 0, "0", "", "null", [1], "[1]", [1, "x"], ["a", None], -1, "ключ"]
WORDS = ["a", "ab", "b", "ba", "c", "dd", "xyz", "aaa"]


class Random:
    """Input of one case. Few keys and small numbers, so that they meet and cancel out."""

    def __init__(self, seed):
        self.dice = Dice(seed)
        words = [WORDS[(self.dice.below(8) + i) % 8] for i in range(self.dice.between(1, 4))]
        self.keys = words + [self.dice.pick(ODD_KEYS)] if self.dice.one_in(3) else words

    def number(self):
        return self.dice.between(-4, 9)

    def word(self):
        return self.dice.pick(WORDS)

    def pair(self):
        return [self.dice.pick(self.keys), self.number()]

    def word_pair(self):
        return [self.word(), self.number()]

    def line(self):
        return " ".join(self.word() for _ in range(self.dice.between(1, 5)))

    def batches(self, record, n):
        """Every fourth batch is empty or null, and the input may end early."""
        made = []
        for _ in range(max(0, n - self.dice.below(3))):
            kind = self.dice.below(8)
            many = self.dice.between(1, 7)
            made.append(None if kind == 0 else [] if kind == 1 else [record() for _ in range(many)])
        return made

    def parameters(self, given):
        return dict(given, partitions_in=self.dice.between(1, 5))


def new_case(r, operation, parameters, record, n=None, **more):
    n = n or r.dice.between(3, 9)
    made = {"operation": operation, "parameters": r.parameters(parameters)}
    made["input"] = r.batches(record, n)
    made.update(more, num_batches=n, ordered=operation in ORDERED)
    return made


def maybe_restart(r, made):
    """Most runners end the process after every batch anyway; here the case itself says where."""
    if r.dice.one_in(3):
        made["restart_at"] = r.dice.between(1, made["num_batches"] - 1)
    if r.dice.one_in(4):
        made["checkpoint_interval"] = r.dice.between(1, 4)
    return made


def number_step(r):
    return r.dice.pick([step("map", "add", r.number()), step("filter", "is_even"),
                        step("flatMap", "x_and_double"), step("flatMap", "v_and_plus", r.number())])


def word_step(r):
    return r.dice.pick([step("map", "upper"), step("filter", "contains_a"),
                        step("flatMap", "append_1_and_2"), step("flatMap", "letters")])


def pair_step(r):
    return r.dice.pick([step("mapValues", "add", r.number()), step("filter", "value_not_zero"),
                        step("flatMapValues", "x_and_double"),
                        step("flatMapValues", "v_and_plus", r.number())])


def steps(r, make, most=2):
    return [make(r) for _ in range(r.dice.below(most + 1))]


def transforms(r):
    numbers, words = steps(r, number_step), steps(r, word_step)
    partitions = r.dice.between(1, 6)
    names = "input", "input2", "input3"
    streams = [{"from": name, "steps": steps(r, number_step)} for name in names]
    of_word = r.dice.pick(["length", "upper", "pair_with_length"])
    of_pair = r.dice.pick(["swap", "first", "value"])
    to_letters = r.dice.pick(["letters", "length_letter_pairs"])
    inputs = {"input2": r.batches(r.number, 6), "input3": r.batches(r.number, 6)}
    return r.dice.pick([
        lambda: new_case(r, "map", {"f": "to_string"}, r.number, before=numbers),
        lambda: new_case(r, "map", {"f": of_word}, r.word, before=words),
        lambda: new_case(r, "map", {"f": of_pair}, r.pair),
        lambda: new_case(r, "flatMap", {"f": to_letters}, r.word, before=words),
        lambda: new_case(r, "flatMap", {"f": "value_letter_pairs"}, r.word_pair),
        lambda: new_case(r, "filter", {"f": "key_contains_a"}, r.word_pair),
        lambda: new_case(r, "filter", {"f": "is_even"}, r.number, after=numbers),
        lambda: new_case(r, "mapPartitions", {"f": "sum_of_partition"}, r.number, before=numbers),
        lambda: new_case(r, "mapPartitions", {"f": "upper_concat"}, r.word, before=words),
        lambda: new_case(r, "glom", {}, r.number, before=numbers),
        lambda: new_case(r, "repartition", {"partitions_out": partitions}, r.pair,
                         expected_partitions=partitions),
        lambda: new_case(r, "union", {"streams": streams[:1 + partitions % 3]}, r.number, **inputs),
        lambda: new_case(r, "transformMany", {"f": "union", "streams": streams}, r.number,
                         **inputs),
        lambda: new_case(r, "transform", {"f": "sort_by_key"}, r.word_pair),
        lambda: new_case(r, "transformWith", {"f": "union"}, r.number, **inputs),
        lambda: new_case(r, "count", {}, r.number, before=numbers),
        lambda: new_case(r, "reduce", {"reduce": "sum"}, r.number, before=numbers),
        lambda: new_case(r, "countByValue", {}, r.pair),
    ])()


def keyed(r):
    partitions = r.dice.between(1, 6)
    operation = r.dice.pick(["groupByKey", "reduceByKey", "combineByKey"])
    parameters = {
        "groupByKey": {},
        "reduceByKey": {"reduce": "sum"},
        "combineByKey": {"create": "identity", "merge": "sum", "merge_combiners": "sum"},
    }[operation]
    parameters["partitions_out"] = partitions
    return new_case(r, operation, parameters, r.pair, before=steps(r, pair_step),
                    expected_partitions=partitions)


def joins(r):
    operation = r.dice.pick(["join", "leftOuterJoin", "rightOuterJoin", "fullOuterJoin", "cogroup"])
    n = r.dice.between(3, 7)
    return new_case(r, operation, {}, r.pair, n, before=steps(r, pair_step),
                    input2=r.batches(r.pair, n), before2=steps(r, pair_step))


def initial(r, value):
    """A few keys, some of which the input never names."""
    keys = [key for key in [*r.keys, "never", -7] if r.dice.one_in(2)]
    return [[key, value()] for key in keys]


def update_state(r):
    update = r.dice.pick(["running_sum", "add_batch_time_if_any", "count_and_drop_after_2_idle"])
    parameters = {"update": update, "partitions_state": r.dice.between(1, 5)}
    if r.dice.one_in(3):
        parameters["form"] = "per_partition_iterator"
    made = new_case(r, "updateStateByKey", parameters, r.pair, r.dice.between(5, 10))
    if r.dice.one_in(2):
        with_idle = lambda: [r.number(), r.dice.below(2)]
        value = with_idle if update == "count_and_drop_after_2_idle" else r.number
        made["initial_state"] = initial(r, value)
    made["expected_state"] = True
    return maybe_restart(r, made)


def map_with_state(r):
    """With time-outs only the functions whose description says what they do at one."""
    timeout = r.dice.between(1, 3) if not r.dice.one_in(3) else None
    silent = ["set_one_emit_key_on_timeout", "text_commands", "number_commands",
              "count_emit_nothing"]
    others = ["count_emit_sum", "count_emit_pair", "count_emit_key_twice", "toggle_remove_emit_key"]
    f = r.dice.pick(silent if timeout else silent + others)
    texts = ["get-state", "update-state", "update-state", "remove-state"]
    commands = {"text_commands": texts, "number_commands": [1, 2]}.get(f)
    value = (lambda: r.dice.pick(commands)) if commands else r.number
    parameters = {"f": f, "partitions_state": r.dice.between(1, 5)}
    if timeout:
        parameters["timeout"] = timeout
    if r.dice.one_in(4):
        parameters["observe"] = "snapshots"
    r.keys.append("d")
    n = r.dice.between(6, 12)
    made = new_case(r, "mapWithState", parameters, lambda: [r.dice.pick(r.keys), value()], n)
    made["input"] = [b and b[:r.dice.between(1, 3)] for b in made["input"]]  # rare records time out
    if r.dice.one_in(2):
        made["initial_state"] = initial(r, lambda: r.dice.between(0, 9))
    made["expected_state"] = True
    return maybe_restart(r, made)


def windows(r):
    """Mostly the windows with a history: an inverse, or an inverse and a filter."""
    shape = {"window": r.dice.between(1, 5), "slide": r.dice.between(1, 4)}
    if r.dice.one_in(2):
        shape["slide"] = 1
    operation = r.dice.pick(["window", "reduceByWindow", "countByWindow", "countByValueAndWindow",
                             "groupByKeyAndWindow"] + ["reduceByKeyAndWindow"] * 5)
    if operation.startswith("reduce"):
        shape["reduce"] = "sum"
        if not r.dice.one_in(4):
            shape["inverse"] = "difference"
        if r.dice.one_in(2):
            shape["filter"] = "value_not_zero"
    if operation == "reduceByKeyAndWindow" and r.dice.one_in(2):
        r.number = lambda: r.dice.pick([-1, 1])  # sums are often zero while records are inside
    keyed_operation = operation in ("reduceByKeyAndWindow", "groupByKeyAndWindow")
    record = r.pair if keyed_operation else r.number if operation == "reduceByWindow" else r.word
    made = new_case(r, operation, shape, record, r.dice.between(6, 14))
    return maybe_restart(r, made)


def restart(r):
    made = r.dice.pick([windows, windows, update_state, map_with_state, joins, keyed])(r)
    made["restart_at"] = r.dice.between(1, made["num_batches"] - 1)
    if r.dice.one_in(5):
        del made["restart_at"]
        made["kills"] = "repeated-random"
    return made


def errors(r):
    """A text that is no number, somewhere: the batches before it must stand."""
    made = r.dice.pick([windows, update_state, keyed, joins])(r)
    pairs = any(isinstance(x, list) for batch in made["input"] for x in batch or [])
    spelled = (lambda x: ["k" + str(x[0]), str(x[1])]) if pairs else lambda x: str(len(str(x)))
    made["input"] = [batch and [spelled(x) for x in batch] for batch in made["input"]]
    place = r.dice.below(made["num_batches"])
    made["input"] += [None] * (place + 1 - len(made["input"]))
    made["input"][place] = [*(made["input"][place] or []), ["a", "12x"] if pairs else "x"]
    made["before"] = [step("mapValues" if pairs else "map", "to_int"), *made.get("before", [])]
    for field in ("restart_at", "checkpoint_interval"):
        made.pop(field, None)
    return made


def slice_queue(r):
    n = r.dice.between(3, 8)
    if r.dice.one_in(2):
        ms = r.dice.pick([250, 1000])
        queries = [[r.dice.between(-1, n * 4) * ms // 3 for _ in range(2)] for _ in range(6)]
        queries = [sorted(q) if r.dice.below(6) else q for q in queries]
        made = new_case(r, "slice", {"queries_ms": queries}, r.number, n, batch_ms=ms)
        return maybe_restart(r, made)
    sets = lambda: [r.number() for _ in range(r.dice.below(4))]
    return new_case(r, "queueStream", {"one_at_a_time": not r.dice.one_in(3)}, sets, n)


GROUPS = {
    "transforms": (transforms, 36),
    "keyed": (keyed, 15),
    "joins": (joins, 20),
    "update_state": (update_state, 25),
    "map_with_state": (map_with_state, 40),
    "windows": (windows, 60),
    "restart": (restart, 40),
    "errors": (errors, 15),
    "slice_queue": (slice_queue, 20),
}
