/* reduce_by_key: combined where the records are, merged per key after the exchange, in partition
 * order. */
#include "runtime/operator.h"
#include "runtime/sets.h"

static const struct rt_operator reduce_by_key_operator = {.name = "reduce_by_key",
                                                          .combine = rt_reducer_of,
                                                          .fold = rt_fold_reducer,
                                                          .free_data = rt_free_data};

levee_stream *levee_reduce_by_key_at(levee_stream *s, const struct levee_reducer *r,
                                     const char *file, int line)
{
    return rt_lower_reducer(s, &reduce_by_key_operator, r, s ? s->graph->default_partitions : 0,
                            file, line);
}

const levee_batch *levee_batch_reduce_by_key(const levee_batch *b, const struct levee_reducer *r)
{
    return rt_set_run_reducer(b, &reduce_by_key_operator, r);
}
