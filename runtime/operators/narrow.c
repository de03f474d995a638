/* map, flat_map, filter, map_values, map_to_i64: one record at a time, partition by partition. */
#include "runtime/operator.h"

static void free_data(void *data)
{
    mem_free(data);
}

static int call_fn(levee_output *out, const struct levee_record *in, void *arg)
{
    const struct rt_fn_data *d = arg;

    return d->fn(out, in, d->arg);
}

static int run_fn(struct rt_call *c, const struct levee_record *in, size_t n, uint64_t index)
{
    return rt_each_record(c, in, n, index, call_fn, c->node->op_data);
}

static const struct rt_operator map_operator = {
    .name = "map", .narrow = run_fn, .free_data = free_data};
static const struct rt_operator flat_map_operator = {
    .name = "flat_map", .narrow = run_fn, .free_data = free_data};

levee_stream *levee_map_at(levee_stream *s, levee_record_fn fn, void *arg, const char *file,
                           int line)
{
    return rt_build_fn(s, "map", &map_operator, &(struct rt_fn_data){.fn = fn, .arg = arg}, file,
                       line);
}

levee_stream *levee_flat_map_at(levee_stream *s, levee_record_fn fn, void *arg, const char *file,
                                int line)
{
    return rt_build_fn(s, "flat_map", &flat_map_operator,
                       &(struct rt_fn_data){.fn = fn, .arg = arg}, file, line);
}

/* ---- many at a time: a failed call is repeated record by record ---- */

static int call_many(levee_output *out, const struct levee_record *in, void *arg)
{
    const struct rt_fn_data *d = arg;

    return d->many(out, in, 1, d->arg);
}

static int run_many(struct rt_call *c, const struct levee_record *in, size_t n, uint64_t index)
{
    struct rt_fn_data *d = c->node->op_data;
    size_t mark = c->out->count;

    c->out->time_ms = in[0].time_ms;
    if (!rt_call_decided(c) && d->many(c->out, in, n, d->arg) >= 0) {
        return LEVEE_OK;
    }
    c->out->count = mark;
    return rt_each_record(c, in, n, index, call_many, d);
}

static const struct rt_operator flat_map_many_operator = {
    .name = "flat_map_many", .narrow = run_many, .free_data = free_data};

levee_stream *levee_flat_map_many_at(levee_stream *s, levee_records_fn fn, void *arg,
                                     const char *file, int line)
{
    return rt_build_fn(s, "flat_map_many", &flat_map_many_operator,
                       &(struct rt_fn_data){.many = fn, .arg = arg}, file, line);
}

/* ---- filter ---- */

static int call_filter(levee_output *out, const struct levee_record *in, void *arg)
{
    const struct rt_fn_data *d = arg;
    size_t mark = out->count;
    int rc = d->fn(out, in, d->arg);

    out->count = mark; /* a filter emits nothing of its own */
    return rc > 0 ? rt_output_add(out, in->key, in->value) : rc;
}

static int run_filter(struct rt_call *c, const struct levee_record *in, size_t n, uint64_t index)
{
    return rt_each_record(c, in, n, index, call_filter, c->node->op_data);
}

static const struct rt_operator filter_operator = {
    .name = "filter", .narrow = run_filter, .free_data = free_data};

levee_stream *levee_filter_at(levee_stream *s, levee_record_fn fn, void *arg, const char *file,
                              int line)
{
    return rt_build_fn(s, "filter", &filter_operator, &(struct rt_fn_data){.fn = fn, .arg = arg},
                       file, line);
}

/* ---- map_values ---- */

static int call_values(levee_output *out, const struct levee_record *in, void *arg)
{
    const struct rt_fn_data *d = arg;
    size_t mark = out->count;
    int rc = d->fn(out, in, d->arg);

    if (rc >= 0 && out->count != mark + 1) {
        return LEVEE_EINVALID; /* exactly one record */
    }
    if (rc >= 0) {
        out->items[mark].key = in->key;
    }
    return rc;
}

static int run_values(struct rt_call *c, const struct levee_record *in, size_t n, uint64_t index)
{
    return rt_each_record(c, in, n, index, call_values, c->node->op_data);
}

static const struct rt_operator map_values_operator = {
    .name = "map_values", .narrow = run_values, .free_data = free_data};

levee_stream *levee_map_values_at(levee_stream *s, levee_record_fn fn, void *arg, const char *file,
                                  int line)
{
    return rt_build_fn(s, "map_values", &map_values_operator,
                       &(struct rt_fn_data){.fn = fn, .arg = arg}, file, line);
}

/* ---- map_to_i64: no call at all ---- */

static int run_constant(struct rt_call *c, const struct levee_record *in, size_t n, uint64_t index)
{
    struct levee_slice value = slice_of(c->node->op_data, 8);

    (void)index;
    for (size_t i = 0; i < n; i++) {
        c->out->time_ms = in[i].time_ms;
        if (rt_output_add(c->out, in[i].key, value) != LEVEE_OK) {
            return LEVEE_OK; /* the port remembers that there was no memory */
        }
    }
    return LEVEE_OK;
}

static const struct rt_operator constant_operator = {
    .name = "map_to_i64", .narrow = run_constant, .free_data = free_data};

levee_stream *levee_map_to_i64_at(levee_stream *s, int64_t value, const char *file, int line)
{
    uint8_t *le = s ? mem_alloc(8) : NULL;

    if (!le) {
        return s ? rt_graph_fail(s->graph, file, line, LEVEE_ENOMEM, "map_to_i64") : NULL;
    }
    put_le64(le, (uint64_t)value);
    return rt_build(s, RT_NARROW, &constant_operator, NULL, le, 0, file, line);
}
