/* map_values: the value of the one record that the function emits, under the key of the one it was
 * given. */
#include "runtime/operator.h"
#include "runtime/sets.h"

static int call(levee_output *out, const struct levee_record *in, void *arg)
{
    const struct rt_fn_data *d = arg;
    size_t mark = out->count;
    int rc = d->fn(out, in, d->arg);

    if (rc >= 0 && out->count != mark + 1) {
        return LEVEE_EINVALID;
    }
    if (rc >= 0) {
        out->items[mark].key = in->key;
        out->items[mark].time_ms = in->time_ms;
    }
    return rc;
}

static int run(struct rt_call *c, const struct levee_record *in, size_t n, uint64_t index)
{
    return rt_call_each(c, in, n, index, call, c->node->op_data);
}

static const struct rt_operator map_values_operator = {
    .name = "map_values", .narrow = run, .free_data = rt_free_data};

levee_stream *levee_map_values_at(levee_stream *s, levee_record_fn fn, void *arg, const char *file,
                                  int line)
{
    return rt_lower_fn(s, &map_values_operator, &(struct rt_fn_data){.fn = fn, .arg = arg}, file,
                       line);
}

const levee_batch *levee_batch_map_values(const levee_batch *b, levee_record_fn fn, void *arg)
{
    return rt_set_run_fn(b, &map_values_operator, fn, arg);
}
