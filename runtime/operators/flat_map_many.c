/* flat_map over many records in one call, for hot paths. A call that fails is undone and repeated
 * record by record, so that only the record at fault is retried or becomes a dead letter. */
#include "runtime/operator.h"

static int call_one(levee_output *out, const struct levee_record *in, void *arg)
{
    const struct rt_fn_data *d = arg;

    return d->many(out, in, 1, d->arg);
}

static int run(struct rt_call *c, const struct levee_record *in, size_t n, uint64_t index)
{
    struct rt_fn_data *d = c->node->op_data;
    size_t mark = c->out->count;

    c->out->time_ms = in[0].time_ms;
    if (!c->may_decide && d->many(c->out, in, n, d->arg) >= 0) {
        return LEVEE_OK;
    }
    c->out->count = mark;
    return c->out->failed ? rt_call_nomem(c) : rt_call_each(c, in, n, index, call_one, d);
}

static const struct rt_operator flat_map_many_operator = {
    .name = "flat_map_many", .narrow = run, .free_data = rt_free_data};

levee_stream *levee_flat_map_many_at(levee_stream *s, levee_records_fn fn, void *arg,
                                     const char *file, int line)
{
    return rt_lower_fn(s, &flat_map_many_operator, &(struct rt_fn_data){.many = fn, .arg = arg},
                       file, line);
}
