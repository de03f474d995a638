/* reduce, reduce_by_key, count: combined before the shuffle, merged in partition order. */
#include "runtime/operator.h"

static void free_data(void *data)
{
    mem_free(data);
}

static const struct levee_reducer *reducer_of(const levee_stream *node)
{
    return node->op_data;
}

struct finishing {
    const struct levee_reducer *r;
    levee_output *out;
    struct levee_slice key;
    const void *acc;
};

static int try_finish(void *arg)
{
    const struct finishing *f = arg;
    size_t mark = f->out->count;
    int rc = f->r->finish(f->out, f->key, f->acc, f->r->arg);

    return rc >= 0 && f->out->count != mark + 1 ? LEVEE_EINVALID : rc;
}

/* One key: the later accumulators into the first. */
static int fold_key(struct rt_call *c, struct rt_groups *g, const struct rt_key_group_entry *k,
                    uint64_t index)
{
    const struct levee_reducer *r = c->node->op_data;
    struct levee_slice first = g->items[k->first]->r.value;
    /* The accumulator was made by this batch's combine, in its arena: it is ours to change. */
    void *acc = (void *)(uintptr_t)first.data;
    bool skipped;

    for (uint32_t i = g->items[k->first]->next; i != UINT32_MAX; i = g->items[i]->next) {
        int rc = r->merge(c->out, acc, g->items[i]->r.value.data, r->arg);
        if (rc < 0) {
            return rt_call_failed(c, rc);
        }
    }
    struct finishing f = {r, c->out, k->key, acc};
    return rt_call_guarded(c, index, &g->items[k->first]->r, 0, try_finish, &f, &skipped);
}

static int fold(struct rt_call *c, struct rt_groups *g, struct rt_table *table)
{
    int code = LEVEE_OK;

    (void)table;
    for (size_t i = 0; i < g->key_count && code == LEVEE_OK; i++) {
        code = fold_key(c, g, &g->keys[g->order[i]], i);
    }
    return code;
}

static int fold_count(struct rt_call *c, struct rt_groups *g, struct rt_table *table)
{
    if (g->key_count == 0) {
        return levee_emit_i64(c->out, slice_of(NULL, 0), 0) == LEVEE_OK
                   ? LEVEE_OK
                   : rt_call_failed(c, LEVEE_ENOMEM);
    }
    return fold(c, g, table);
}

static const struct rt_operator reduce_by_key_operator = {
    .name = "reduce_by_key", .combine = reducer_of, .fold = fold, .free_data = free_data};
static const struct rt_operator reduce_operator = {
    .name = "reduce", .to_one = true, .combine = reducer_of, .fold = fold, .free_data = free_data};
static const struct rt_operator count_operator = {.name = "count",
                                                  .to_one = true,
                                                  .combine = reducer_of,
                                                  .fold = fold_count,
                                                  .free_data = free_data};

static levee_stream *build(levee_stream *s, const struct rt_operator *op,
                           const struct levee_reducer *r, uint32_t partitions, const char *file,
                           int line)
{
    if (!s) {
        return NULL;
    }
    if (!r || r->version != 1 || !r->create || !r->add || !r->merge || !r->finish) {
        return rt_graph_fail(s->graph, file, line, LEVEE_EINVALID,
                             "%s: the reducer needs version 1, create, add, merge and finish",
                             op->name);
    }
    struct levee_reducer *copy = mem_alloc(sizeof *copy);
    if (!copy) {
        return rt_graph_fail(s->graph, file, line, LEVEE_ENOMEM, "%s", op->name);
    }
    *copy = *r;
    return rt_build(s, RT_KEYED, op, NULL, copy, partitions, file, line);
}

levee_stream *levee_reduce_by_key_at(levee_stream *s, const struct levee_reducer *r,
                                     const char *file, int line)
{
    return build(s, &reduce_by_key_operator, r, s ? s->graph->default_partitions : 0, file, line);
}

levee_stream *levee_reduce_at(levee_stream *s, const struct levee_reducer *r, const char *file,
                              int line)
{
    return build(s, &reduce_operator, r, 1, file, line);
}

levee_stream *levee_count_at(levee_stream *s, const char *file, int line)
{
    return build(s, &count_operator, &levee_count_values, 1, file, line);
}
