/*
 * transform: arbitrary code on whole batches. The function is called once per batch with the data
 * sets of all streams, on one worker: it belongs to the batch as every other function does, under
 * the same rules of failure, and a replay calls it with the same data. (A thread of its own would
 * cost two hand-overs per batch and win nothing: what follows is cut into partitions again and goes
 * on in parallel, and so does what does not depend on it.)
 *
 * Two nodes: one gathers and calls, the other, which the caller gets, takes the result apart.
 */
#include "runtime/sets.h"

struct transform_data {
    levee_transform_fn fn;
    void *arg;
};

struct transforming {
    const struct transform_data *d;
    struct rt_sets *sets;
    levee_output *out;
    const levee_batch *const *in;
    size_t n;
    const levee_batch *result;
};

static int try_transform(void *arg)
{
    struct transforming *t = arg;
    size_t mark = t->out->count;

    rt_sets_clear(t->sets);
    t->result = NULL;
    int rc = t->d->fn(t->out, t->in, t->n, &t->result, t->d->arg);
    t->out->count = mark; /* its result is all it gives */
    if (rc >= 0 && t->sets->code) {
        rc = t->sets->code; /* an operation has failed: whatever came of it does not count */
    }
    return rc >= 0 && !t->result ? LEVEE_EINVALID : rc;
}

/* The records of all data sets lie side by side (runtime/exchange.c): as one array they are what
 * becomes dead letters. */
static const struct levee_record *all_of(const struct rt_dataset *in, size_t n, size_t *ret_n)
{
    *ret_n = 0;
    for (size_t i = 0; i < n; i++) {
        for (uint32_t p = 0; p < in[i].partitions; p++) {
            *ret_n += in[i].parts[p].count;
        }
    }
    return in[0].parts[0].items;
}

static int gather(struct rt_call *c, const struct rt_dataset *in, size_t n, struct rt_dataset *ret)
{
    struct levee_batch *batches = rt_output_alloc(c->out, n * sizeof *batches);
    const levee_batch **views = rt_output_alloc(c->out, n * sizeof(levee_batch *));
    struct rt_sets sets;
    bool skipped = false;
    size_t records;

    if (!batches || !views) {
        return rt_call_nomem(c);
    }
    rt_sets_init(&sets, c);
    for (size_t i = 0; i < n; i++) {
        batches[i] = (struct levee_batch){&in[i], &sets};
        views[i] = &batches[i];
    }
    struct transforming t = {
        .d = c->node->op_data, .sets = &sets, .out = c->out, .in = views, .n = n};
    const struct levee_record *all = all_of(in, n, &records);
    int code = rt_call_together(c, all, records, try_transform, &t, &skipped);
    if (code == LEVEE_OK && !skipped) {
        *ret = *t.result->data;
    }
    rt_sets_release(&sets);
    return code;
}

static const struct rt_operator transform_operator = {
    .name = "transform", .gather = gather, .free_data = rt_free_data};

levee_stream *levee_transform_at(levee_stream *const *streams, size_t n, levee_transform_fn fn,
                                 void *arg, const char *file, int line)
{
    if (!streams || n == 0 || !streams[0]) {
        return NULL; /* of no stream no graph is known; a NULL one has left its error */
    }
    struct rt_graph *g = streams[0]->graph;
    if (!fn) {
        return rt_graph_fail(g, file, line, LEVEE_EINVALID, "transform: no function");
    }
    struct transform_data *data = mem_alloc(sizeof *data);
    if (!data) {
        return rt_graph_fail(g, file, line, LEVEE_ENOMEM, "transform");
    }
    *data = (struct transform_data){fn, arg};
    levee_stream *whole =
        rt_lower_many(streams, n, RT_EXCHANGE, &transform_operator, NULL, data, 1, file, line);
    return rt_lower(whole, RT_EXCHANGE, &rt_recut_operator, NULL, NULL, streams[0]->partitions,
                    file, line);
}
