/*
 * Keyed nodes: dealing records to key groups, grouping by key, folding.
 *
 * Order. A cell of an inbox holds what one unit sent to one key group, in its order. A keyed unit
 * folds its key groups one after the other, and reads each from the first row to the last, so items
 * come in (source partition, record) order, those of an earlier parent first. Within a group keys
 * are folded, and their results emitted, in first arrival.
 */
#include "runtime/exec.h"

#define AHEAD 8u /* items whose slots are on their way */

bool rt_items_grow(struct rt_items *i)
{
    void *items = i->items;
    bool grown = mem_grow(&items, &i->cap, i->count + 1, sizeof *i->items);

    i->items = items;
    return grown;
}

int rt_keyed_take(struct rt_worker *w, uint32_t step, const struct levee_record *in, size_t n)
{
    const struct rt_step *s = &w->unit->head->steps[step];
    struct rt_items *row = rt_row_of(w, s);
    bool to_one = s->node->op->to_one;

    for (size_t i = 0; i < n; i++) {
        uint64_t hash = to_one ? 1 : hash_key(in[i].key.data, in[i].key.len);
        struct rt_item *item = rt_items_add(&row[rt_column_of(s->node, hash)]);
        if (!item) {
            return rt_worker_nomem(w);
        }
        *item = (struct rt_item){
            .hash = hash, .key = in[i].key, .value = in[i].value, .time_ms = in[i].time_ms};
    }
    return LEVEE_OK;
}

/* ---- grouping ---- */

static struct rt_key *find_or_add(struct rt_groups *g, uint64_t hash, struct levee_slice key,
                                  uint64_t head)
{
    struct rt_key *k = rt_keys_find(&g->keys, hash, key, head);

    return LIKELY(k != NULL) ? k : rt_keys_add(&g->keys, hash, key, head);
}

static bool sum_item(struct rt_groups *g, const struct rt_item *item)
{
    struct rt_key *k = find_or_add(g, item->hash, item->key, item->head);

    if (!k) {
        return false;
    }
    k->sum = (int64_t)((uint64_t)k->sum + (uint64_t)item->sum);
    k->count++;
    return true;
}

static bool link_item(struct rt_groups *g, const struct rt_item *item)
{
    struct levee_slice key = g->to_one ? slice_of(NULL, 0) : item->key;
    struct rt_key *k = find_or_add(g, item->hash, key, rt_key_head(key));
    uint32_t index = (uint32_t)g->item_count;

    if (!k || g->item_count >= UINT32_MAX) {
        return false;
    }
    g->items[index] = item;
    g->links[index] = UINT32_MAX;
    if (k->count++ == 0) {
        k->items.first = index;
    } else {
        g->links[k->items.last] = index;
    }
    k->items.last = index;
    g->item_count++;
    return true;
}

static bool reserve_items(struct rt_groups *g, size_t more)
{
    void *items = g->items, *links = g->links;
    bool ok = mem_grow(&items, &g->item_cap, g->item_count + more, sizeof(struct rt_item *)) &&
              mem_grow(&links, &g->link_cap, g->item_count + more, sizeof *g->links);

    g->items = items;
    g->links = links;
    return ok;
}

bool rt_groups_take(struct rt_groups *g, const struct rt_items *cell)
{
    if (!g->summed && !reserve_items(g, cell->count)) {
        return false;
    }
    for (size_t i = 0; i < cell->count; i++) {
        const struct rt_item *item = &cell->items[i];
        if (i + AHEAD < cell->count) {
            map_prefetch(&g->keys.map, item[AHEAD].hash);
            if (!g->summed) { /* whose head is read from the key itself */
                __builtin_prefetch(item[AHEAD].key.data);
            }
        }
        if (!(g->summed ? sum_item(g, item) : link_item(g, item))) {
            return false;
        }
    }
    return true;
}

void rt_groups_begin(struct rt_groups *g, uint32_t group)
{
    rt_keys_clear(&g->keys);
    g->item_count = 0;
    g->group = group;
}

/* One key group: the cells of one parent after the other, each from its first partition on. */
static bool group_column(struct rt_worker *w, struct rt_groups *g, uint32_t column)
{
    const levee_stream *node = w->unit->head->node;
    const struct rt_inbox *box = &w->run->inboxes[w->unit->head->inbox];
    uint32_t row = 0;

    rt_groups_begin(g, column);
    for (size_t side = 0; side < node->parent_count; side++) {
        g->side_starts[side] = g->item_count;
        for (uint32_t p = 0; p < node->parents[side]->partitions; p++, row++) {
            if (!rt_groups_take(g, &box->cells[(size_t)row * box->columns + column])) {
                return false;
            }
        }
    }
    g->side_starts[node->parent_count] = g->item_count;
    return true;
}

static bool timer_due(const struct rt_table *t, uint32_t group, const struct rt_call *c)
{
    return t && t->timed &&
           (rt_table_timer_due(t, group, RT_EVENT_TIMER) <= c->out->watermark_ms ||
            rt_table_timer_due(t, group, RT_BATCH_TIMER) <= c->out->header->time_ms);
}

int rt_keyed_run(struct rt_worker *w)
{
    const struct rt_head *h = w->unit->head;
    uint32_t columns = w->run->inboxes[h->inbox].columns;
    struct rt_groups *g = &w->groups;
    struct rt_call call = rt_call_at(w, 0, 0);
    bool due = rt_due(&call);
    int code = LEVEE_OK;

    g->summed = h->fast != RT_FAST_NONE;
    g->to_one = h->node->op->to_one;
    g->side_starts =
        arena_alloc(&w->share->arena, (h->node->parent_count + 1) * sizeof *g->side_starts);
    if (!g->side_starts) {
        return rt_worker_nomem(w);
    }
    for (uint32_t column = 0; column < columns && code == LEVEE_OK; column++) {
        if (rt_partition_of(column, h->partitions) != w->unit->partition) {
            continue;
        }
        if (!group_column(w, g, column)) {
            return rt_worker_nomem(w);
        }
        bool told = due || h->node->op->keeps;
        bool late = h->table && rt_table_due(h->table, column) <= call.out->header->time_ms;
        if (g->keys.count || (told && (h->always || late)) || timer_due(h->table, column, &call)) {
            code = h->node->op->fold(&call, g, h->table);
        }
    }
    if (code == LEVEE_OK && due && h->node->op->end) {
        code = h->node->op->end(&call, h->table);
    }
    return code == LEVEE_OK && call.out->failed ? rt_worker_nomem(w) : code;
}

void rt_groups_release(struct rt_groups *g)
{
    rt_keys_release(&g->keys);
    mem_free(g->items);
    mem_free(g->links);
    *g = (struct rt_groups){0};
}
