/*
 * levee shared values: what functions of a batch share beyond their records.
 *
 * Accumulators are written by functions and read from outside: exactly once, for what a call adds
 * counts when the call succeeded and its batch is done, and a replay after a crash adds nothing
 * twice.
 */
#ifndef LEVEE_SHARED_H
#define LEVEE_SHARED_H

#include "levee/levee.h"

#ifdef __cplusplus
extern "C" {
#endif

struct levee_reducer; /* streams.h */
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

#ifdef __cplusplus
}
#endif
#endif
