/* combine_by_key: reduce_by_key under the name that DStreams have for a result of another type than
 * the values. A reducer is both: create makes the first accumulator, add takes a value, merge joins
 * two accumulators, finish makes the result. */
#include "runtime/operator.h"

static const struct rt_operator combine_by_key_operator = {.name = "combine_by_key",
                                                           .combine = rt_reducer_of,
                                                           .fold = rt_fold_reducer,
                                                           .free_data = rt_free_data};

levee_stream *levee_combine_by_key_at(levee_stream *s, const struct levee_reducer *r,
                                      const char *file, int line)
{
    return rt_lower_reducer(s, &combine_by_key_operator, r, s ? s->graph->default_partitions : 0,
                            file, line);
}
