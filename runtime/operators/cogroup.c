/* cogroup: one record per key of either stream; its value has two sides, each the sequence of the
 * key's values there, in arrival order. */
#include "runtime/operator.h"
#include "runtime/sets.h"

/* Bytes of the values in one half of a key's chain; *at_io is left at the first item beyond it. */
static size_t size_until(const struct rt_groups *g, uint32_t *at_io, size_t end)
{
    size_t size = 0;

    for (; *at_io < end; *at_io = g->links[*at_io]) {
        size += rt_sequence_size(g->items[*at_io]->value);
    }
    return size;
}

/* The side as buf_slice would write it: its length, then its values. */
static uint8_t *put_side(uint8_t *p, const struct rt_groups *g, uint32_t *at_io, size_t end,
                         size_t size)
{
    uint64_t v = (uint64_t)size + 1;

    for (; v >= 0x80; v >>= 7) {
        *p++ = (uint8_t)(v | 0x80);
    }
    *p++ = (uint8_t)v;
    for (; *at_io < end; *at_io = g->links[*at_io]) {
        p = rt_sequence_put(p, g->items[*at_io]->value);
    }
    return p;
}

static int fold_key(struct rt_call *c, const struct rt_groups *g, const struct rt_key *k)
{
    /* Items of the left side have indices below `middle`, and come first in every chain. */
    size_t middle = g->side_starts[1], end = g->side_starts[2];
    uint32_t at = k->items.first;
    size_t left = size_until(g, &at, middle), right = size_until(g, &at, end);
    size_t size = rt_sequence_size(slice_of(NULL, left)) + rt_sequence_size(slice_of(NULL, right));
    uint8_t *bytes = rt_output_alloc(c->out, size);

    if (!bytes) {
        return rt_call_nomem(c);
    }
    at = k->items.first;
    uint8_t *p = put_side(bytes, g, &at, middle, left);
    p = put_side(p, g, &at, end, right);
    ASSERT((size_t)(p - bytes) == size);
    (void)rt_output_add(c->out, k->key, slice_of(bytes, size)); /* remembers a failure */
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

static const struct rt_operator cogroup_operator = {.name = "cogroup", .fold = fold};

levee_stream *levee_cogroup_at(levee_stream *a, levee_stream *b, const char *file, int line)
{
    levee_stream *both[2] = {a, b};

    return rt_lower_many(both, 2, RT_KEYED, &cogroup_operator, NULL, NULL,
                         a ? a->graph->default_partitions : 0, file, line);
}

bool levee_sides(struct levee_slice value, struct levee_slice *ret_left,
                 struct levee_slice *ret_right)
{
    struct cursor c = cursor_of(value);
    struct levee_slice left = cur_slice(&c), right = cur_slice(&c);

    if (!value.data || c.bad || cur_left(&c)) {
        return false;
    }
    *ret_left = left;
    *ret_right = right;
    return true;
}

const levee_batch *levee_batch_cogroup(const levee_batch *a, const levee_batch *b)
{
    const levee_batch *both[2] = {a, b};

    return rt_set_run(both, 2, &cogroup_operator, NULL, 0);
}
