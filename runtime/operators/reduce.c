/* reduce: the whole batch to one record without key; nothing for an empty batch. */
#include "runtime/operator.h"

static const struct rt_operator reduce_operator = {.name = "reduce",
                                                   .to_one = true,
                                                   .combine = rt_reducer_of,
                                                   .fold = rt_fold_reducer,
                                                   .free_data = rt_free_data};

levee_stream *levee_reduce_at(levee_stream *s, const struct levee_reducer *r, const char *file,
                              int line)
{
    return rt_lower_reducer(s, &reduce_operator, r, 1, file, line);
}
