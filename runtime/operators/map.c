/* map: one record out for each one in. */
#include "runtime/operator.h"
#include "runtime/sets.h"

static int call(levee_output *out, const struct levee_record *in, void *arg)
{
    const struct rt_fn_data *d = arg;
    size_t mark = out->count;
    int rc = d->fn(out, in, d->arg);

    return rc >= 0 && out->count != mark + 1 ? LEVEE_EINVALID : rc;
}

static int run(struct rt_call *c, const struct levee_record *in, size_t n, uint64_t index)
{
    return rt_call_each(c, in, n, index, call, c->node->op_data);
}

static const struct rt_operator map_operator = {
    .name = "map", .narrow = run, .free_data = rt_free_data};

levee_stream *levee_map_at(levee_stream *s, levee_record_fn fn, void *arg, const char *file,
                           int line)
{
    return rt_lower_fn(s, &map_operator, &(struct rt_fn_data){.fn = fn, .arg = arg}, file, line);
}

const levee_batch *levee_batch_map(const levee_batch *b, levee_record_fn fn, void *arg)
{
    return rt_set_run_fn(b, &map_operator, fn, arg);
}
