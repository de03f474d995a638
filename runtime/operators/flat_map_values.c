/* flat_map_values: any number of values for each one, all under the key of the record that the
 * function was given. */
#include "runtime/operator.h"

static int call(levee_output *out, const struct levee_record *in, void *arg)
{
    const struct rt_fn_data *d = arg;
    size_t mark = out->count;
    int rc = d->fn(out, in, d->arg);

    for (size_t i = mark; i < out->count; i++) {
        out->items[i].key = in->key;
        out->items[i].time_ms = in->time_ms;
    }
    return rc;
}

static int run(struct rt_call *c, const struct levee_record *in, size_t n, uint64_t index)
{
    return rt_call_each(c, in, n, index, call, c->node->op_data);
}

static const struct rt_operator flat_map_values_operator = {
    .name = "flat_map_values", .narrow = run, .free_data = rt_free_data};

levee_stream *levee_flat_map_values_at(levee_stream *s, levee_record_fn fn, void *arg,
                                       const char *file, int line)
{
    return rt_lower_fn(s, &flat_map_values_operator, &(struct rt_fn_data){.fn = fn, .arg = arg},
                       file, line);
}
