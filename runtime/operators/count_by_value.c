/* count_by_value: (value, how often) for every distinct value of the batch. The value becomes the
 * key where it lies, then keys are counted like any others. */
#include "runtime/operator.h"

static void rewrite(const levee_stream *node, struct levee_record *io, size_t n)
{
    (void)node;
    for (size_t i = 0; i < n; i++) {
        io[i].key = io[i].value;
    }
}

static const struct rt_operator values_operator = {.name = "values_as_keys", .rewrite = rewrite};

static const struct rt_operator count_by_value_operator = {.name = "count_by_value",
                                                           .combine = rt_reducer_of,
                                                           .fold = rt_fold_reducer,
                                                           .free_data = rt_free_data};

levee_stream *rt_lower_values_as_keys(levee_stream *s, const char *file, int line)
{
    return rt_lower(s, RT_NARROW, &values_operator, NULL, NULL, 0, file, line);
}

levee_stream *levee_count_by_value_at(levee_stream *s, const char *file, int line)
{
    levee_stream *keys = rt_lower_values_as_keys(s, file, line);

    return rt_lower_reducer(keys, &count_by_value_operator, &levee_count_values,
                            s ? s->graph->default_partitions : 0, file, line);
}
