/* count: the number of records, one record per batch; 0 for an empty one. */
#include "runtime/operator.h"

static int fold(struct rt_call *c, const struct rt_groups *g, struct rt_table *table)
{
    if (g->keys.count == 0) {
        (void)levee_emit_i64(c->out, slice_of(NULL, 0), 0); /* the output remembers a failure */
        return LEVEE_OK;
    }
    return rt_fold_reducer(c, g, table);
}

static bool every_batch(const levee_stream *node)
{
    (void)node;
    return true;
}

static const struct rt_operator count_operator = {.name = "count",
                                                  .to_one = true,
                                                  .combine = rt_reducer_of,
                                                  .fold = fold,
                                                  .every_batch = every_batch,
                                                  .free_data = rt_free_data};

levee_stream *levee_count_at(levee_stream *s, const char *file, int line)
{
    return rt_lower_reducer(s, &count_operator, &levee_count_values, 1, file, line);
}
