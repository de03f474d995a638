/*
 * map_partitions: the function is called once per partition and batch with all its records, also
 * with none. What it emits has no event time unless it emits whole records: no single input record
 * is the one it came from.
 */
#include "runtime/operator.h"

struct calling {
    const struct rt_fn_data *d;
    levee_output *out;
    const struct levee_record *in;
    size_t n;
};

static int try_partition(void *arg)
{
    const struct calling *c = arg;

    return c->d->many(c->out, c->in, c->n, c->d->arg);
}

static int run(struct rt_call *c, const struct levee_record *in, size_t n)
{
    struct calling call = {c->node->op_data, c->out, in, n};
    bool skipped;

    c->out->time_ms = 0;
    return rt_call_together(c, in, n, try_partition, &call, &skipped);
}

static const struct rt_operator map_partitions_operator = {
    .name = "map_partitions", .whole = run, .free_data = rt_free_data};

levee_stream *levee_map_partitions_at(levee_stream *s, levee_records_fn fn, void *arg,
                                      const char *file, int line)
{
    return rt_lower_fn(s, &map_partitions_operator, &(struct rt_fn_data){.many = fn, .arg = arg},
                       file, line);
}
