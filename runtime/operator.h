/*
 * operator.h: what an operator is to the planner and the executor. A public builder fills one of
 * these two and nothing else, in one file under runtime/operators/.
 *
 *   narrow   a vector of records in, records out, partition by partition; fused with its neighbours
 *   keyed    records are dealt by key group (or all to one partition), grouped, and folded, with or
 * without state
 *
 * Union needs no code: its parents' partitions lie side by side.
 */
#ifndef LEVEE_RT_OPERATOR_H
#define LEVEE_RT_OPERATOR_H

#include "runtime/engine.h"
#include "runtime/state.h"

struct rt_worker;

/* Where a call's emits go: one per step and worker. Emits of a failed call are undone by cutting
 * back to `mark`. */
struct levee_output {
    struct levee_record *items;
    size_t count, cap;
    int64_t time_ms;     /* event time of what is emitted: the input record's */
    struct arena *arena; /* lives as long as the batch */
    const struct rt_header *header;
    bool failed; /* no memory; sticky until the vector ends */
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

/* A user function under the rules of failure: retried, then stop or dead letter (runtime/call.c).
 */
struct rt_call {
    struct rt_worker *worker;
    const levee_stream *node;
    uint32_t partition;
    levee_output *out;
};
/* What the caller tries; returns the function's code (negative: failed). Undoing emits is the
 * framework's. */
typedef int (*rt_try_fn)(void *arg);
/* LEVEE_OK: done, or skipped by a decision (then *ret_skipped); else the batch ends with the
 * worker's error. `earlier`: what a first attempt returned (negative), 0: there was none. */
int rt_call_guarded(struct rt_call *c, uint64_t index, const struct levee_record *input,
                    int earlier, rt_try_fn fn, void *arg, bool *ret_skipped);

/* A decision of an earlier try may concern this batch: calls go one by one. */
bool rt_call_decided(const struct rt_call *c);
/* Ends the batch with a function's code (NOMEM or FUNCTION), naming the node's line. Returns the
 * code. */
int rt_call_failed(struct rt_call *c, int rc);

/* A keyed node's group: one key with its items in arrival order. */
struct rt_item {
    uint64_t hash;
    struct levee_record r; /* value: the record's, or an accumulator after a map-side combine */
    uint32_t next;         /* next item of the same key, UINT32_MAX: last */
};
struct rt_key_group_entry { /* one distinct key of a unit */
    uint64_t hash;
    struct levee_slice key;
    uint32_t group, first, last, count;
};
struct rt_groups {
    struct rt_item **items; /* by index */
    size_t item_count, item_cap;
    struct rt_key_group_entry *keys; /* first arrival; `order` sorts them by key group */
    size_t key_count, key_cap;
    uint32_t *order;
    size_t order_cap;
    struct map map;
};

struct rt_operator {
    const char *name;
    /* narrow: n records of one partition; index of the first in the node's input of that partition.
     */
    int (*narrow)(struct rt_call *c, const struct levee_record *in, size_t n, uint64_t index);
    /* keyed: */
    bool to_one; /* one partition, one group, keys ignored */
    const struct levee_reducer *(*combine)(
        const levee_stream *node); /* map-side; NULL: items travel as they are */
    int (*fold)(struct rt_call *c, struct rt_groups *g, struct rt_table *table);
    bool (*every_batch)(const levee_stream *node); /* runs although there is no input; NULL: no */
    /* State laid in place for keys never seen; NULL: none. */
    int (*initial)(const levee_stream *node, struct rt_table *table, struct levee_error *err);
    void (*free_data)(void *data);
    bool stateful;
};

/* Builders: a narrow node with one user function. */
struct rt_fn_data {
    levee_record_fn fn;
    levee_records_fn many;
    void *arg;
};
levee_stream *rt_build_fn(levee_stream *s, const char *name, const struct rt_operator *op,
                          const struct rt_fn_data *data, const char *file, int line);
levee_stream *rt_build(levee_stream *s, enum rt_kind kind, const struct rt_operator *op,
                       const char *uid, void *data, uint32_t partitions, const char *file,
                       int line);
/* One record function over a vector, under the rules of failure; `after` sees each call's result
 * (filter, map_values). */
int rt_each_record(struct rt_call *c, const struct levee_record *in, size_t n, uint64_t index,
                   int (*one)(levee_output *out, const struct levee_record *in, void *arg),
                   void *arg);

extern const struct rt_operator rt_union_operator;

#endif
