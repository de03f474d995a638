/* group_by_key: one record per key, its value the sequence of values in arrival order (buf_slice
 * encoding, read with levee_group_next). */
#include "runtime/operator.h"

static int fold(struct rt_call *c, struct rt_groups *g, struct rt_table *table)
{
    struct buf b = {0};
    int code = LEVEE_OK;

    (void)table;
    for (size_t i = 0; i < g->key_count && code == LEVEE_OK; i++) {
        const struct rt_key_group_entry *k = &g->keys[g->order[i]];
        buf_clear(&b);
        for (uint32_t at = k->first; at != UINT32_MAX; at = g->items[at]->next) {
            buf_slice(&b, g->items[at]->r.value);
        }
        uint8_t *copy = b.failed ? NULL : arena_copy(c->out->arena, b.data, b.len);
        if (!copy || rt_output_add(c->out, k->key, slice_of(copy, b.len)) != LEVEE_OK) {
            code = rt_call_failed(c, LEVEE_ENOMEM);
        }
    }
    buf_release(&b);
    return code;
}

static const struct rt_operator group_by_key_operator = {.name = "group_by_key", .fold = fold};

levee_stream *levee_group_by_key_at(levee_stream *s, const char *file, int line)
{
    return rt_build(s, RT_KEYED, &group_by_key_operator, NULL, NULL,
                    s ? s->graph->default_partitions : 0, file, line);
}
