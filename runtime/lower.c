/* What the builders under operators/ share: adding a node with its operator, nodes with one user
 * function, nodes with a reducer, and nodes with state. */
#include "runtime/operator.h"

void rt_free_data(void *data)
{
    mem_free(data);
}

/* Streams that yield a batch at different times have no batch in common. */
static bool same_slides(levee_stream *const *parents, size_t n, const char *name, const char *file,
                        int line)
{
    for (size_t i = 1; i < n; i++) {
        if (parents[i] && parents[0] && parents[i]->slide != parents[0]->slide) {
            (void)rt_graph_fail(parents[0]->graph, file, line, LEVEE_EGRAPH,
                                "%s: the streams have different slides: %u and %u batches", name,
                                parents[0]->slide, parents[i]->slide);
            return false;
        }
    }
    return true;
}

levee_stream *rt_lower_many(levee_stream *const *parents, size_t count, enum rt_kind kind,
                            const struct rt_operator *op, const char *uid, void *data,
                            uint32_t partitions, const char *file, int line)
{
    struct rt_graph *g = NULL;
    levee_stream *n = NULL;

    for (size_t i = 0; i < count && !g; i++) {
        g = parents[i] ? parents[i]->graph : NULL; /* of NULL streams no graph is known */
    }
    if (g && same_slides(parents, count, op->name, file, line)) {
        n = rt_graph_add(g, kind, op->name, uid, op->stateful, parents, count, file, line);
    }
    if (!n) {
        if (op->free_data && data) {
            op->free_data(data);
        }
        return NULL;
    }
    n->op = op;
    n->op_data = data;
    n->slide = parents[0]->slide;
    n->partitions = partitions ? partitions : n->partitions;
    return n;
}

levee_stream *rt_lower(levee_stream *s, enum rt_kind kind, const struct rt_operator *op,
                       const char *uid, void *data, uint32_t partitions, const char *file, int line)
{
    return rt_lower_many(&s, 1, kind, op, uid, data, partitions, file, line);
}

levee_stream *rt_lower_fn(levee_stream *s, const struct rt_operator *op,
                          const struct rt_fn_data *data, const char *file, int line)
{
    if (!s) {
        return NULL;
    }
    if (!data->fn && !data->many) {
        return rt_graph_fail(s->graph, file, line, LEVEE_EINVALID, "%s: no function", op->name);
    }
    struct rt_fn_data *copy = mem_alloc(sizeof *copy);
    if (!copy) {
        return rt_graph_fail(s->graph, file, line, LEVEE_ENOMEM, "%s", op->name);
    }
    *copy = *data;
    return rt_lower(s, RT_NARROW, op, NULL, copy, 0, file, line);
}

/* ---- reducers ---- */

const struct levee_reducer *rt_reducer_of(const levee_stream *node)
{
    return node->op_data;
}

bool rt_reducer_valid(const struct levee_reducer *r)
{
    return r && r->version == 1 && r->create && r->add && r->merge && r->finish && r->size;
}

levee_stream *rt_lower_reducer(levee_stream *s, const struct rt_operator *op,
                               const struct levee_reducer *r, uint32_t partitions, const char *file,
                               int line)
{
    if (!s) {
        return NULL;
    }
    if (!rt_reducer_valid(r)) {
        return rt_graph_fail(s->graph, file, line, LEVEE_EINVALID,
                             "%s: a reducer needs version 1, a size, create, add, merge and finish",
                             op->name);
    }
    struct levee_reducer *copy = mem_alloc(sizeof *copy);
    if (!copy) {
        return rt_graph_fail(s->graph, file, line, LEVEE_ENOMEM, "%s", op->name);
    }
    *copy = *r;
    return rt_lower(s, RT_KEYED, op, NULL, copy, partitions, file, line);
}

struct finishing {
    const struct levee_reducer *r;
    levee_output *out;
    const struct rt_groups *g;
    const struct rt_key *k;
    void *acc; /* room for the merged one */
};

/* The later accumulators into a copy of the first, then the result: exactly one record. */
static int try_finish(void *arg)
{
    const struct finishing *f = arg;
    const struct levee_reducer *r = f->r;
    uint32_t at = f->k->items.first;
    size_t mark = f->out->count;
    int rc = 0;

    memcpy(f->acc, f->g->items[at]->value.data, r->size);
    for (at = f->g->links[at]; at != UINT32_MAX && rc >= 0; at = f->g->links[at]) {
        rc = r->merge(f->out, f->acc, f->g->items[at]->value.data, r->arg);
    }
    if (rc < 0) {
        return rc;
    }
    rc = f->out->count == mark ? r->finish(f->out, f->k->key, f->acc, r->arg) : LEVEE_EINVALID;
    return rc >= 0 && f->out->count != mark + 1 ? LEVEE_EINVALID : rc;
}

int rt_fold_reducer(struct rt_call *c, const struct rt_groups *g, struct rt_table *table)
{
    const struct levee_reducer *r = rt_reducer_of(c->node);
    struct finishing f = {.r = r, .out = c->out, .g = g};
    int code = LEVEE_OK;

    (void)table;
    f.acc = rt_output_alloc(c->out, r->size);
    if (!f.acc) {
        return rt_call_nomem(c);
    }
    for (size_t i = 0; i < g->keys.count && code == LEVEE_OK; i++) {
        bool skipped;
        f.k = &g->keys.items[i];
        struct levee_record input = {.key = f.k->key};
        if (g->summed) {
            (void)r->finish(c->out, f.k->key, &f.k->sum, r->arg); /* fails for memory only */
            c->index++;
        } else {
            code = rt_call_guarded(c, c->index++, &input, try_finish, &f, &skipped);
        }
        code = code ? code : rt_call_emitted(c);
    }
    return code;
}

/* ---- state ---- */

static bool copy_slice(struct levee_slice from, struct levee_slice *ret)
{
    uint8_t *p = mem_alloc(from.len);

    if (p && from.len) {
        memcpy(p, from.data, from.len);
    }
    *ret = slice_of(p, p ? from.len : 0);
    return p != NULL;
}

bool rt_initial_copy(struct rt_initial *to, const struct levee_record *items, size_t count)
{
    if (count == 0) {
        return true;
    }
    to->items = mem_zalloc(count * sizeof *to->items);
    if (!to->items) {
        return false;
    }
    to->count = count;
    for (size_t i = 0; i < count; i++) {
        if (!copy_slice(items[i].key, &to->items[i].key) ||
            !copy_slice(items[i].value, &to->items[i].value)) {
            return false;
        }
    }
    return true;
}

int rt_initial_lay(const struct rt_initial *i, struct rt_table *t, struct levee_error *err)
{
    for (size_t k = 0; k < i->count; k++) {
        struct levee_slice key = i->items[k].key, value = i->items[k].value;
        uint64_t hash = hash_key(key.data, key.len);
        struct rt_entry *e = rt_table_find(t, hash, key, rt_key_head(key));
        bool set =
            e ? rt_table_put(t, hash, e, value, 0) : rt_table_add(t, hash, key, value, 0) != NULL;
        if (!set) {
            return err_nomem(err, key.len + value.len);
        }
    }
    return LEVEE_OK;
}

void rt_initial_release(struct rt_initial *i)
{
    for (size_t k = 0; k < i->count; k++) {
        mem_free((void *)(uintptr_t)i->items[k].key.data);
        mem_free((void *)(uintptr_t)i->items[k].value.data);
    }
    mem_free(i->items);
}
