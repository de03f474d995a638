/*
 * levee shared values: what functions of a batch share beyond their records.
 *
 * Broadcasts and data sets are written from outside and read by functions: contents that are
 * swapped between two batches, so that all of a batch sees one version. Which one is part of the
 * batch's record: what a replay sees is what the batch saw, also after a crash and a new build.
 *
 * Accumulators are written by functions and read from outside: exactly once, for what a call adds
 * counts when the call succeeded and its batch is done, and a replay after a crash adds nothing
 * twice.
 */
#ifndef LEVEE_SHARED_H
#define LEVEE_SHARED_H

#include "levee/streams.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct levee_accumulator levee_accumulator;

/* The accumulator of that name (as a uid), made when there is none; kept with the state, and back
 * after a restart with what it had when the last batch was done, whenever in a life it is asked
 * for. Its bytes are stored as they are, at most 4096, so the reducer must point to nothing:
 * &levee_sum_i64, &levee_max_f64 and the like, or one of your own; not levee_concat. The reducer is
 * copied. Owned by the context. Thread: any, from setup on. Errors: INVALID, STATE_VERSION (stored
 * with another size), NOMEM. */
LEVEE_API int levee_accumulator_open(levee_context *ctx, const char *name,
                                     const struct levee_reducer *reducer, levee_accumulator **ret,
                                     struct levee_error *err);
/* From a function of the graph, of any operator that has an output. A failed call has added
 * nothing. The values of a batch are added in (partition, record) order within a stage, whatever
 * the number of workers. Errors: NOMEM. */
LEVEE_API int levee_accumulate(levee_output *out, levee_accumulator *a, struct levee_slice value);
LEVEE_API int levee_accumulate_i64(levee_output *out, levee_accumulator *a, int64_t value);
LEVEE_API int levee_accumulate_f64(levee_output *out, levee_accumulator *a, double value);
/* What the reducer makes of all batches that every sink has, copied into buf (*len_io: capacity in,
 * length out); false: too small, or nothing was added yet. Thread: any. */
LEVEE_API bool levee_accumulator_value(levee_accumulator *a, void *buf, size_t *len_io);
LEVEE_API int64_t levee_accumulator_i64(levee_accumulator *a); /* 0: nothing was added yet */
LEVEE_API double levee_accumulator_f64(levee_accumulator *a);
/* Every accumulator that has a value, in the order of their names, until `each` returns other than
 * 0, which is returned. Not from within `each`. Thread: any. */
LEVEE_API int levee_accumulators_each(levee_context *ctx,
                                      int (*each)(void *arg, const char *name,
                                                  struct levee_slice value),
                                      void *arg);

/* ------------------------------------------------------------------ broadcasts, data sets */

typedef struct levee_shared levee_broadcast, levee_dataset;

/* The broadcast of that uid. initial counts until the first swap ever: after a restart the last
 * version is in force, whatever setup passes. Owned by the context. Thread: any, from setup on;
 * one that is opened after the start must have been swapped in an earlier life or begins with
 * initial. Errors: INVALID, GRAPH_UID, NOMEM; after the start also those of swap. */
LEVEE_API int levee_broadcast_open(levee_context *ctx, const char *uid, struct levee_slice initial,
                                   levee_broadcast **ret, struct levee_error *err);
/* The next batch and all after it see this (copied) value. Durable when it returns: blocks for two
 * syncs, a file of its own in the state directory. Thread: any but the context's own; swaps of one
 * broadcast one after the other. Errors: STATE (not started), NOSPACE, IO, NOMEM. */
LEVEE_API int levee_broadcast_swap(levee_broadcast *b, struct levee_slice value,
                                   struct levee_error *err);
/* From a function of the graph: the value as this batch sees it; a view that lives as long as the
 * batch. */
LEVEE_API struct levee_slice levee_broadcast_value(const levee_output *out,
                                                   const levee_broadcast *b);

/* Records by key to join a stream with; empty until the first swap ever. The rest as a
 * broadcast's. */
LEVEE_API int levee_dataset_open(levee_context *ctx, const char *uid, levee_dataset **ret,
                                 struct levee_error *err);
LEVEE_API int levee_dataset_swap(levee_dataset *d, const struct levee_record *records, size_t n,
                                 struct levee_error *err);
/* levee_join with the data set as the right side. Its index is made once per version. Inner and
 * left: records stay in their partitions and in their order, and keep their event times. Right and
 * full, dealt by key: also, in every batch, what the data set has under keys that the batch has
 * not. */
LEVEE_API levee_stream *levee_join_dataset_at(levee_stream *s, levee_dataset *d,
                                              enum levee_join kind, const char *file, int line);
#define levee_join_dataset(s, d, kind) levee_join_dataset_at(s, d, kind, LEVEE_AT)
/* The number of the version in force: 1 is the first, each swap adds one; 0: not started. Thread:
 * any. */
LEVEE_API uint64_t levee_shared_version(const struct levee_shared *shared);

#ifdef __cplusplus
}
#endif
#endif
