/*
 * operator.h: what an operator is to the planner and the executor. A public builder lowers to one
 * node that carries one struct rt_operator; each lives in one file under runtime/operators/, and
 * nothing else knows of it.
 *
 *   narrow   a vector of records in, any number out, partition by partition; or, where it changes
 *            records and neither adds nor drops any, `rewrite`: the vector is changed in place.
 *            Chains of them are fused: a vector goes through the whole chain while it is in cache.
 *   whole    the same with a partition's records at once: the chain ends there until the partition
 *            is complete, and goes on below it.
 *   keyed    records of all parents are dealt to partitions (by key group, or all to one), grouped
 *            by key and folded, with or without a state table. Several parents are several *sides*
 *            (joins). A reducer that is named folds before the records travel.
 *   placed   records move to the partitions that `place` names, in (source partition, record)
 * order. neither  a union: the parents' partitions lie side by side, and the planner knows the
 * rest.
 *
 * What an operator must keep to: no clock, no randomness, no state of its own between calls, and
 * order: whatever it emits follows from (source partition, record) order alone.
 */
#ifndef LEVEE_RT_OPERATOR_H
#define LEVEE_RT_OPERATOR_H

#include "runtime/accumulate.h"
#include "runtime/clock.h"
#include "runtime/keys.h"
#include "runtime/state.h"

#define RT_VECTOR         256u       /* records that travel together between narrow nodes */
#define RT_PARTITIONS_MAX 65536u     /* of one node; a union of unions could ask for any number */
#define RT_NOWHERE        UINT32_MAX /* no partition */

struct rt_worker;

/* Where a call's emits go. One per step and worker; a failed call's emits are cut off again. */
struct levee_output {
    struct levee_record *items;
    size_t count, cap;
    int64_t time_ms;     /* event time of what is emitted: the input record's */
    struct arena *arena; /* lives as long as the batch */
    const struct rt_header *header;
    struct levee_record *side; /* for those who take what is late: levee_late */
    size_t side_count, side_cap;
    struct rt_version *const *shared; /* broadcasts and data sets as this batch sees them */
    size_t shared_count;
    struct rt_adds *adds; /* to accumulators, by the call that is being made */
    int64_t watermark_ms; /* the node's; RT_NO_TIME: none */
    const struct levee_event_window_info *window; /* while one is finished */
    /* Sticky: memory ran out. Then the batch ends, whatever the function makes of it: a lack of
     * memory must never become a dead letter, for the next try would decide otherwise. */
    bool failed;
};
bool rt_output_grow(struct levee_output *out);
static inline int rt_output_add(struct levee_output *out, struct levee_slice key,
                                struct levee_slice value)
{
    if (UNLIKELY(out->count == out->cap) && !rt_output_grow(out)) {
        return LEVEE_ENOMEM;
    }
    out->items[out->count++] = (struct levee_record){key, value, out->time_ms};
    return LEVEE_OK;
}
/* arena_alloc that remembers a failure. */
static inline void *rt_output_alloc(struct levee_output *out, size_t bytes)
{
    void *p = arena_alloc(out->arena, bytes);

    out->failed = out->failed || !p;
    return p;
}

/* ---- calling user code under the rules of failure (runtime/call.c) ---- */

/* A place where user code is called: which node, for which partition, emitting where. */
struct rt_call {
    struct rt_worker *worker;
    const levee_stream *node;
    uint32_t partition; /* of what is counted by the call's index */
    uint64_t index;     /* of a fold: how many keys of the partition were folded */
    levee_output *out;
    uint32_t step;   /* whose port `out` is; for rt_call_emitted */
    uint32_t half;   /* 1 while a keyed node combines before the exchange, or records are placed.
                        They are counted apart from the keys that are folded */
    bool may_decide; /* decisions of an earlier try exist: every call is looked up first */
    void *unit;      /* of a keyed node: what its folds leave for `end` */
    bool apart; /* over a data set (runtime/sets.c): what is emitted stays in `out`, and a failure
                   is the business of the function that asked for it */
};
/* What is tried; returns the function's code, negative: failed. */
typedef int (*rt_try_fn)(void *arg);
/*
 * Calls fn until it succeeds, at most retries + 1 times; emits of a failed try are undone, the rest
 * (state, accumulators) is fn's own business: it starts over from what it was given. Then dead
 * letter or end of the batch. LEVEE_OK: done, or skipped by a decision (*ret_skipped). `input`
 * names the record that the decision is about.
 */
int rt_call_guarded(struct rt_call *c, uint64_t index, const struct levee_record *input,
                    rt_try_fn fn, void *arg, bool *ret_skipped);
/* The same for a call that is given n records at once: they fail together, each as a dead letter of
 * its own with its place among them as index. Without records an absent one stands for them. */
int rt_call_together(struct rt_call *c, const struct levee_record *in, size_t n, rt_try_fn fn,
                     void *arg, bool *ret_skipped);
/* The record becomes a dead letter without a call: `code` says why. A replay, which is given the
 * same watermarks, decides the same. */
int rt_call_reject(struct rt_call *c, uint64_t index, const struct levee_record *input, int code);
/* The watermark of the batch before; that of this batch is c->out->watermark_ms. */
int64_t rt_call_watermark_before(const struct rt_call *c);
/* What the node's unit notes for its clock. */
struct rt_mark *rt_call_mark(const struct rt_call *c);
/* A record that is late goes where the node's policy says. Errors: NOMEM. */
int rt_call_late(struct rt_call *c, enum levee_late policy, uint64_t index,
                 const struct levee_record *in);
/*
 * Timers of a key group that are due: calls fire for each at or before upto_ms, in the order of
 * (time, key). fire lays the key down again, with its next timer, or removes it. A timer that it
 * sets to a time that has passed already is left for the next batch. (runtime/due.c)
 */
struct rt_due {
    uint64_t hash;
    struct levee_slice key; /* a copy that lives as long as the batch; absent if empty */
    int64_t at_ms;
};
typedef int (*rt_fire_fn)(void *arg, const struct rt_due *due);
int rt_fire_due(struct rt_call *c, struct rt_table *t, uint32_t group, enum rt_timer_kind kind,
                int64_t upto_ms, rt_fire_fn fire, void *arg);
/* One more record of the call that has just been skipped. */
int rt_call_skip_too(struct rt_call *c, uint64_t index, const struct levee_record *input);
/* One record function over a vector, under these rules. */
typedef int (*rt_record_fn)(levee_output *out, const struct levee_record *in, void *arg);
int rt_call_each(struct rt_call *c, const struct levee_record *in, size_t n, uint64_t index,
                 rt_record_fn fn, void *arg);
/* Hands on what a keyed node has emitted so far, once it makes a vector: after every key. */
int rt_call_emitted(struct rt_call *c);
/* The batch ends: no memory. Returns the code. */
int rt_call_nomem(struct rt_call *c);
/* A staging area of n slices, or an error's code. One at a time, until the next request. */
int rt_call_values(struct rt_call *c, size_t n, struct levee_slice **ret);
levee_state *rt_call_state(struct rt_call *c);

/* ---- what a keyed node folds ---- */

/* A record on its way to a keyed node, or what a combine made of several. */
struct rt_item {
    uint64_t hash;
    struct levee_slice key;
    union {
        struct { /* a record; or, after a combine, the accumulator at value.data */
            struct levee_slice value;
            int64_t time_ms;
        };
        struct { /* a sum: all in here, so that nothing else is read when it is added up */
            uint64_t head; /* rt_key_head(key) */
            int64_t sum;
        };
    };
};
/*
 * The keys of one key group in one batch, in first arrival: the order of folding and emitting,
 * after that of the groups. Unless `summed`, the items of a key hang in arrival order from
 * key.items.first by links[] (UINT32_MAX: last), and those of side s have indices in
 * [side_starts[s], side_starts[s + 1]).
 */
struct rt_groups {
    struct rt_keys keys;
    const struct rt_item **items;
    uint32_t *links;
    size_t item_count, item_cap, link_cap;
    size_t *side_starts;
    uint32_t group;
    bool summed; /* the items were added up at once: key.sum is all there is */
    bool to_one; /* all items have one key, the absent one */
};

struct rt_operator {
    const char *name;
    uint8_t codec; /* of its table's entries, where they are not what the user gave; 0: 1 */
    /* Narrow: n <= RT_VECTOR records of one partition, `index` of the first in the node's input of
     * that partition and batch. Emits to c->out. */
    int (*narrow)(struct rt_call *c, const struct levee_record *in, size_t n, uint64_t index);
    /* Narrow: changes n records in place; cannot fail. */
    void (*rewrite)(const levee_stream *node, struct levee_record *io, size_t n);
    /* Narrow, all records of a partition in one call: once per partition and batch, also for those
     * without records. The array lives until it returns, what it points to as long as the batch. */
    int (*whole)(struct rt_call *c, const struct levee_record *in, size_t n);
    /* Keyed. */
    bool to_one; /* all records to one partition and key group, keys are ignored */
    bool keeps;  /* told every batch, also when it is not due: it keeps what comes (windows) */
    const struct levee_reducer *(*combine)(const levee_stream *node); /* NULL: records travel */
    /* One key group; called for those with items or with a key that times out, or for all if
     * every_batch says so. Counts its keys, or its calls if there are several per key, in c->index,
     * and calls rt_call_emitted after each. */
    int (*fold)(struct rt_call *c, const struct rt_groups *g, struct rt_table *table);
    /* After the last key group of a partition, also where there was none to fold. NULL: nothing. */
    int (*end)(struct rt_call *c, struct rt_table *table);
    /* Does it fold groups without items? With state: then a batch is run even without input. NULL:
     * no. */
    bool (*every_batch)(const levee_stream *node);
    /* How long a key's state may go without a touch; 0: for ever. NULL: for ever. */
    int64_t (*idle_ms)(const levee_stream *node);
    /* Keyed: it is given no records, but the table of its parent, once the parent has run. */
    bool reads_parent;
    /* State for keys never seen, laid in place in a table that no checkpoint holds. NULL: none. */
    int (*initial)(const levee_stream *node, struct rt_table *table, struct levee_error *err);
    /* Exchange: writes for each of n <= RT_VECTOR records the partition of c->node that it goes to,
     * RT_NOWHERE for one that became a dead letter. `index` as above. */
    int (*place)(struct rt_call *c, const struct levee_record *in, size_t n, uint64_t index,
                 uint32_t *ret);
    /* Exchange: all records of all parents, as data sets of their partitions, in one call. What it
     * gives goes to the node's only child, the recut operator, partition by partition. */
    int (*gather)(struct rt_call *c, const struct rt_dataset *in, size_t n, struct rt_dataset *ret);
    void (*free_data)(void *data); /* op_data of the node */
    bool stateful;                 /* needs a uid; keyed: owns a table */
    /* Event time (runtime/clock.h): the rule by which a narrow node sets it … */
    const struct rt_time_rule *(*times)(const levee_stream *node);
    bool holds_time; /* … or keyed: waits for it. Its table has timers; fold is called when due */
    bool keeps_time; /* keyed: its records have event time if those of its parents do */
    struct rt_time_shape (*shape)(const levee_stream *node); /* of its windows; NULL: none */
    bool takes_side; /* is given what its parent sets aside, and nothing else */
    /* Of a stored value that part which is the user's; no data: there is none. NULL: all of it. */
    struct levee_slice (*state_of)(struct levee_slice stored);
};
extern const struct rt_operator rt_union_operator; /* the planner asks who it is */
/* Below a node that gathers: it has as many partitions as it likes. A data set of as many keeps
 * them, any other is cut anew, in its order, into parts as even as possible. (runtime/exchange.c)
 */
extern const struct rt_operator rt_recut_operator;

/* ---- lowering: what the builders under operators/ share (runtime/lower.c) ---- */

/* Adds the node; data (may be NULL) is the operator's from here on, also on failure. partitions 0:
 * the parent's. */
levee_stream *rt_lower(levee_stream *s, enum rt_kind kind, const struct rt_operator *op,
                       const char *uid, void *data, uint32_t partitions, const char *file,
                       int line);
/* The same over several streams, which must yield their batches at the same times. */
levee_stream *rt_lower_many(levee_stream *const *parents, size_t count, enum rt_kind kind,
                            const struct rt_operator *op, const char *uid, void *data,
                            uint32_t partitions, const char *file, int line);
struct rt_fn_data { /* op_data of a node with one user function */
    levee_record_fn fn;
    levee_records_fn many;
    void *arg;
};
levee_stream *rt_lower_fn(levee_stream *s, const struct rt_operator *op,
                          const struct rt_fn_data *data, const char *file, int line);
/* Reducing nodes: op_data is a copy of the reducer. */
levee_stream *rt_lower_reducer(levee_stream *s, const struct rt_operator *op,
                               const struct levee_reducer *r, uint32_t partitions, const char *file,
                               int line);
/* Every record's value becomes its key, where it lies. */
levee_stream *rt_lower_values_as_keys(levee_stream *s, const char *file, int line);
const struct levee_reducer *rt_reducer_of(const levee_stream *node);
bool rt_reducer_valid(const struct levee_reducer *r);
int rt_fold_reducer(struct rt_call *c, const struct rt_groups *g, struct rt_table *table);
/* Lays down what a call made of a key's state: its entry, if there is one now, in *entry_io. false:
 * no memory. */
static inline bool rt_state_lay(struct rt_table *t, uint64_t hash, struct levee_slice key,
                                bool exists, struct levee_slice value, int64_t now,
                                struct rt_entry **entry_io)
{
    struct rt_entry *e = *entry_io;

    if (exists && !e) {
        *entry_io = rt_table_add(t, hash, key, value, now);
        return *entry_io != NULL;
    }
    if (exists) {
        return rt_table_put(t, hash, e, value, now);
    }
    return !e || !e->present || rt_table_remove(t, hash, e);
}
/* Emits (key, state): as copies, for the next batch may change the entry while sinks still hold
 * this one's output. The key's copy, too, lies beside its value in the order of the output, where
 * the digest and the sinks read it; the key that came in lies anywhere in the input. */
static inline bool rt_state_emit(levee_output *out, struct levee_slice key,
                                 const struct rt_entry *e)
{
    struct levee_slice value = rt_entry_value(e), own = rt_entry_key(e);
    uint8_t *copy = rt_output_alloc(out, own.len + value.len);

    if (!copy) {
        return false;
    }
    if (own.len) {
        memcpy(copy, own.data, own.len);
    }
    if (value.len) {
        memcpy(copy + own.len, value.data, value.len);
    }
    return rt_output_add(out, slice_of(key.data ? copy : NULL, own.len),
                         slice_of(copy + own.len, value.len)) == LEVEE_OK;
}
/* Of a present entry that part which is the user's; no data: there is none. */
static inline struct levee_slice rt_table_state_of(const struct rt_table *t,
                                                   const struct rt_entry *e)
{
    struct levee_slice value = rt_entry_value(e);

    return t->node->op->state_of ? t->node->op->state_of(value) : value;
}
/* Initial state as stateful nodes keep it: copies. */
struct rt_initial {
    struct levee_record *items;
    size_t count;
};
/* false: no memory; what was copied is released with the rest. */
bool rt_initial_copy(struct rt_initial *to, const struct levee_record *items, size_t count);
/* Into a table that holds nothing yet; of several values of a key the last one counts. */
int rt_initial_lay(const struct rt_initial *i, struct rt_table *t, struct levee_error *err);
void rt_initial_release(struct rt_initial *i);
/* Does the node have output in this batch: has its slide come round since the batch before? */
static inline bool rt_node_due(const levee_stream *node, const struct rt_header *h)
{
    int64_t interval = node->graph->interval_ms, slide = interval * node->slide;

    return node->slide == 1 ||
           h->time_ms / slide > (h->time_ms - (int64_t)h->ticks * interval) / slide;
}
static inline bool rt_due(const struct rt_call *c)
{
    return rt_node_due(c->node, c->out->header);
}
#define RT_WINDOW_ACC_MAX 4096u /* bytes of an accumulator that a window keeps */
void rt_free_data(void *data);  /* mem_free, as an operator's free_data */

/* Values that hold several: one after the other as buf_slice writes them, so that what is absent
 * stays so; read with levee_group_next. Here their size is known before, for a value of its own. */
static inline size_t rt_sequence_size(struct levee_slice one)
{
    size_t n = 1 + one.len;

    for (uint64_t v = (uint64_t)one.len + 1; UNLIKELY(v >= 0x80); v >>= 7) {
        n++;
    }
    return n;
}
/* Returns the end. */
static inline uint8_t *rt_sequence_put(uint8_t *to, struct levee_slice one)
{
    uint64_t v = one.data ? (uint64_t)one.len + 1 : 0;

    for (; UNLIKELY(v >= 0x80); v >>= 7) {
        *to++ = (uint8_t)(v | 0x80);
    }
    *to++ = (uint8_t)v;
    if (one.data && one.len) {
        memcpy(to, one.data, one.len);
    }
    return to + one.len;
}

/* A value of two sides, as levee_sides takes it apart: what joins give. Errors: NOMEM. */
int rt_call_emit_sides(struct rt_call *c, struct levee_slice key, struct levee_slice left,
                       struct levee_slice right);

#endif
