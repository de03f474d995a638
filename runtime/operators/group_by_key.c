/* group_by_key: one record per key, whose value is the sequence of its values in arrival order (as
 * buf_slice writes them; read with levee_group_next). */
#include "runtime/operator.h"

static size_t varint_size(uint64_t v)
{
    size_t n = 1;

    for (; v >= 0x80; v >>= 7) {
        n++;
    }
    return n;
}

static uint8_t *put_value(uint8_t *p, struct levee_slice value)
{
    uint64_t v = value.data ? (uint64_t)value.len + 1 : 0;

    for (; v >= 0x80; v >>= 7) {
        *p++ = (uint8_t)(v | 0x80);
    }
    *p++ = (uint8_t)v;
    if (value.data && value.len) {
        memcpy(p, value.data, value.len);
    }
    return p + value.len;
}

static int fold_key(struct rt_call *c, const struct rt_groups *g, const struct rt_key *k)
{
    size_t size = 0;

    for (uint32_t at = k->items.first; at != UINT32_MAX; at = g->links[at]) {
        size_t len = g->items[at]->value.len;
        size += varint_size((uint64_t)len + 1) + len;
    }
    uint8_t *bytes = rt_output_alloc(c->out, size), *p = bytes;
    if (!bytes) {
        return rt_call_nomem(c);
    }
    for (uint32_t at = k->items.first; at != UINT32_MAX; at = g->links[at]) {
        p = put_value(p, g->items[at]->value);
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
