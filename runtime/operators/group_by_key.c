/* group_by_key: one record per key, whose value is the sequence of its values in arrival order (as
 * buf_slice writes them; read with levee_group_next). */
#include "runtime/operator.h"
#include "runtime/sets.h"

static int fold_key(struct rt_call *c, const struct rt_groups *g, const struct rt_key *k)
{
    size_t size = 0;

    for (uint32_t at = k->items.first; at != UINT32_MAX; at = g->links[at]) {
        size += rt_sequence_size(g->items[at]->value);
    }
    uint8_t *bytes = rt_output_alloc(c->out, size), *p = bytes;
    if (!bytes) {
        return rt_call_nomem(c);
    }
    for (uint32_t at = k->items.first; at != UINT32_MAX; at = g->links[at]) {
        p = rt_sequence_put(p, g->items[at]->value);
    }
    ASSERT((size_t)(p - bytes) == size);
    (void)rt_output_add(c->out, k->key, slice_of(bytes, size)); /* remembers a failure */
    c->index++;
    return rt_call_emitted(c);
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

static const struct rt_operator group_by_key_operator = {.name = "group_by_key", .fold = fold};

levee_stream *levee_group_by_key_at(levee_stream *s, const char *file, int line)
{
    return rt_lower(s, RT_KEYED, &group_by_key_operator, NULL, NULL,
                    s ? s->graph->default_partitions : 0, file, line);
}

const levee_batch *levee_batch_group_by_key(const levee_batch *b)
{
    return rt_set_run(&b, 1, &group_by_key_operator, NULL, 0);
}
