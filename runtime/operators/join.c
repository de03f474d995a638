/*
 * join: one record per pair of values that two streams have under one key; the outer ones also for
 * a value without counterpart, whose other side is then absent. Both streams are dealt by key
 * group, so a key's values meet in one fold, those of the left stream first.
 */
#include "runtime/operator.h"
#include "runtime/sets.h"

struct join_data {
    enum levee_join kind;
};

static int emit_pair(struct rt_call *c, struct levee_slice key, struct levee_slice left,
                     struct levee_slice right)
{
    int code = rt_call_emit_sides(c, key, left, right);

    return code ? code : rt_call_emitted(c);
}

static int fold_key(struct rt_call *c, const struct rt_groups *g, const struct rt_key *k)
{
    const struct join_data *d = c->node->op_data;
    const struct levee_slice none = {NULL, 0};
    size_t middle = g->side_starts[1]; /* indices below it are of the left stream */
    bool keep_left = d->kind == LEVEE_LEFT_OUTER || d->kind == LEVEE_FULL_OUTER;
    bool keep_right = d->kind == LEVEE_RIGHT_OUTER || d->kind == LEVEE_FULL_OUTER;
    uint32_t right = k->items.first, at;
    int code = LEVEE_OK;

    while (right < middle) {
        right = g->links[right];
    }
    for (at = k->items.first; at < middle && code == LEVEE_OK; at = g->links[at]) {
        struct levee_slice value = g->items[at]->value;
        for (uint32_t r = right; r != UINT32_MAX && code == LEVEE_OK; r = g->links[r]) {
            code = emit_pair(c, k->key, value, g->items[r]->value);
        }
        if (right == UINT32_MAX && keep_left) {
            code = emit_pair(c, k->key, value, none);
        }
    }
    if (k->items.first == right && keep_right) {
        for (at = right; at != UINT32_MAX && code == LEVEE_OK; at = g->links[at]) {
            code = emit_pair(c, k->key, none, g->items[at]->value);
        }
    }
    return code;
}

static int fold(struct rt_call *c, const struct rt_groups *g, struct rt_table *table)
{
    int code = LEVEE_OK;

    (void)table;
    for (size_t i = 0; i < g->keys.count && code == LEVEE_OK; i++) {
        code = fold_key(c, g, &g->keys.items[i]);
    }
    return code;
}

static const struct rt_operator join_operator = {
    .name = "join", .fold = fold, .free_data = rt_free_data};

levee_stream *levee_join_at(levee_stream *a, levee_stream *b, enum levee_join kind,
                            const char *file, int line)
{
    levee_stream *both[2] = {a, b};
    struct rt_graph *g = a ? a->graph : NULL;

    if (a && b && (unsigned)kind > LEVEE_FULL_OUTER) {
        return rt_graph_fail(g, file, line, LEVEE_EINVALID, "join: no kind of join: %d", (int)kind);
    }
    struct join_data *data = mem_alloc(sizeof *data);
    if (!data) {
        return rt_graph_fail(g, file, line, LEVEE_ENOMEM, "join");
    }
    data->kind = kind;
    return rt_lower_many(both, 2, RT_KEYED, &join_operator, NULL, data,
                         g ? g->default_partitions : 0, file, line);
}

const levee_batch *levee_batch_join(const levee_batch *a, const levee_batch *b,
                                    enum levee_join kind)
{
    const levee_batch *both[2] = {a, b};
    struct join_data data = {kind};
    struct rt_sets *s = rt_sets_of(both, 2);

    if (s && (unsigned)kind > LEVEE_FULL_OUTER) {
        return rt_sets_fail(s, LEVEE_EINVALID);
    }
    return rt_set_run(both, 2, &join_operator, &data, 0);
}
