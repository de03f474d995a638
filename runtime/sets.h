/*
 * Data sets as values, for code that sees a whole batch (levee_transform): the operators of
 * streams, applied at once. rt_set_run runs a struct rt_operator over data sets that are complete,
 * with the same hooks and in the same order as the executor runs it over a stream, so a result
 * differs in nothing.
 *
 * All memory is the unit's arena, hence the batch's. Data sets are never changed: those that only
 * choose among partitions share the records of what they came from.
 */
#ifndef LEVEE_RT_SETS_H
#define LEVEE_RT_SETS_H

#include "runtime/dataset.h"
#include "runtime/operator.h"

struct rt_sets { /* of one call of a function that sees a batch */
    struct rt_call *call;
    struct levee_output out; /* what operators emit to */
    struct rt_keys keys;     /* reducers: the accumulators so far */
    uint32_t partitions;     /* of what operators by key give */
    uint32_t samples;        /* taken so far: each has a seed of its own */
    int code;                /* sticky: the first failure; then every operation gives NULL */
};

void rt_sets_init(struct rt_sets *s, struct rt_call *c);
void rt_sets_release(struct rt_sets *s);
/* Forgets a failed try. */
void rt_sets_clear(struct rt_sets *s);
/* Remembers the first failure; returns NULL, so that operations can return it. */
const levee_batch *rt_sets_fail(struct rt_sets *s, int code);
/* A data set of n partitions without records; NULL: no memory. */
struct levee_batch *rt_set_new(struct rt_sets *s, uint32_t partitions);
/* The sets that all of `in` belong to. NULL: one is NULL, or belongs to no function that may make
 * others, or something has failed already. */
struct rt_sets *rt_sets_of(const levee_batch *const *in, size_t n);
/* Memory of the batch that remembers a failure. */
void *rt_sets_alloc(struct rt_sets *s, size_t bytes);

/* The operator with its op_data over data sets. partitions 0: for operators by key the default. */
const levee_batch *rt_set_run(const levee_batch *const *in, size_t n, const struct rt_operator *op,
                              void *data, uint32_t partitions);
/* The same for an operator with one user function, and for a reducing one. */
const levee_batch *rt_set_run_fn(const levee_batch *in, const struct rt_operator *op,
                                 levee_record_fn fn, void *arg);
const levee_batch *rt_set_run_reducer(const levee_batch *in, const struct rt_operator *op,
                                      const struct levee_reducer *r);

#endif
