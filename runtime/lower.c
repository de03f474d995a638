/* What the builders under operators/ share: adding a node with its operator, nodes with one user
 * function, nodes with a reducer, and the keys that a batch left alone. */
#include "runtime/operator.h"

#include <stdlib.h>

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

levee_stream *rt_lower_reducer(levee_stream *s, const struct rt_operator *op,
                               const struct levee_reducer *r, uint32_t partitions, const char *file,
                               int line)
{
    if (!s) {
        return NULL;
    }
    if (!r || r->version != 1 || !r->create || !r->add || !r->merge || !r->finish || r->size == 0) {
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

/* ---- keys that a batch brought nothing for ---- */

static int by_hash(const void *a, const void *b)
{
    const struct rt_untouched *x = a, *y = b;

    return x->hash != y->hash ? (x->hash < y->hash ? -1 : 1) : slice_cmp(x->key, y->key);
}

const struct rt_untouched *rt_list_untouched(struct rt_call *c, const struct rt_groups *g,
                                             const struct rt_state_group *sg, size_t *ret_n)
{
    struct rt_untouched *list = rt_output_alloc(c->out, ((size_t)sg->keys + 1) * sizeof *list);

    *ret_n = 0;
    for (uint32_t i = 0; i < sg->count && list; i++) {
        const struct rt_entry *e = &sg->entries[i];
        struct levee_slice key = rt_entry_key(e);
        uint64_t hash = hash_key(key.data, key.len);
        if (!e->present || rt_keys_find(&g->keys, hash, key, rt_key_head(key))) {
            continue;
        }
        uint8_t *copy = rt_output_alloc(c->out, key.len);
        if (!copy) {
            return NULL;
        }
        if (key.len) {
            memcpy(copy, key.data, key.len);
        }
        list[(*ret_n)++] = (struct rt_untouched){hash, slice_of(copy, key.len)};
    }
    if (list && *ret_n) {
        qsort(list, *ret_n, sizeof *list, by_hash);
    }
    return list;
}
