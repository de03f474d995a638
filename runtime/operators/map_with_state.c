/*
 * map_with_state: the function is called once per record with its key's state, and once for every
 * key that times out. Unlike update_state_by_key it emits whatever it likes and costs nothing for
 * keys without records: who times out stands at the front of the table's list.
 *
 * A call that became a dead letter has not touched its key. A key that times out goes all the same,
 * or it would come again in every batch; its dead letter holds its state.
 */
#include "runtime/operator.h"

#include <stdlib.h>

#define AHEAD 8u /* keys whose entries are on their way; their slots twice as far ahead */

struct map_data {
    levee_map_state_fn fn;
    void *arg;
    int64_t timeout_ms;
    struct rt_initial initial;
};

static void free_data(void *data)
{
    struct map_data *d = data;

    rt_initial_release(&d->initial);
    mem_free(d);
}

/* ---- one call ---- */

struct mapping {
    const struct map_data *d;
    struct rt_table *table;
    levee_state *state;
    levee_output *out;
    int64_t now;
    /* The key at hand. */
    struct rt_entry *entry; /* NULL: none */
    uint64_t hash;
    struct levee_slice key;
    const struct levee_slice *value; /* NULL: it times out */
};

static int try_map(void *arg)
{
    const struct mapping *m = arg;
    levee_state *st = m->state;

    st->exists = m->entry && m->entry->present;
    st->now = st->exists ? rt_entry_value(m->entry) : slice_of(NULL, 0);
    st->changed = st->failed = false;
    st->timing_out = m->value == NULL;
    int rc = m->d->fn(m->out, st, m->key, m->value, m->d->arg);
    m->out->failed = m->out->failed || st->failed;
    return rc;
}

/* Lays down what the call changed; a record touches its key in any case. */
static bool settle(struct mapping *m)
{
    const levee_state *st = m->state;

    if (st->changed) {
        return rt_state_lay(m->table, m->hash, m->key, st->exists, st->now, m->now, &m->entry);
    }
    return !st->exists || m->d->timeout_ms == 0 ||
           rt_table_touch(m->table, m->hash, m->entry, m->now);
}

/* ---- records ---- */

static int map_key(struct rt_call *c, const struct rt_groups *g, const struct rt_key *k,
                   struct mapping *m)
{
    int code = LEVEE_OK;

    m->hash = k->hash;
    m->key = k->key;
    m->entry = rt_table_find(m->table, k->hash, k->key, k->head);
    for (uint32_t at = k->items.first; at != UINT32_MAX && code == LEVEE_OK; at = g->links[at]) {
        const struct rt_item *item = g->items[at];
        struct levee_record input = {item->key, item->value, item->time_ms};
        bool skipped;
        m->value = &item->value;
        m->out->time_ms = item->time_ms;
        code = rt_call_guarded(c, c->index++, &input, try_map, m, &skipped);
        if (code == LEVEE_OK && !skipped && !settle(m)) {
            code = rt_call_nomem(c);
        }
        code = code ? code : rt_call_emitted(c);
    }
    return code;
}

/* ---- time-outs ---- */

struct expired {
    struct levee_slice key;
    struct rt_entry *entry;
};

static int by_touch_and_key(const void *a, const void *b)
{
    const struct expired *x = a, *y = b;

    return x->entry->touch_ms != y->entry->touch_ms
               ? (x->entry->touch_ms < y->entry->touch_ms ? -1 : 1)
               : slice_cmp(x->key, y->key);
}

/* No batch has touched them yet: their time begins now. */
static bool touch_initial(struct mapping *m, uint32_t group)
{
    struct rt_state_group *g = &m->table->groups[group];
    uint32_t first;

    while ((first = rt_idle_first(&g->idle)) != RT_IDLE_NONE && g->entries[first].touch_ms == 0) {
        struct rt_entry *e = &g->entries[first];
        struct levee_slice key = rt_entry_key(e);
        if (!rt_table_touch(m->table, hash_key(key.data, key.len), e, m->now)) {
            return false;
        }
    }
    return true;
}

/* Those at the front of the list, in an order that does not depend on how the table came about.
 * Keys are copies: what is emitted may refer to them. */
static struct expired *list_expired(struct rt_call *c, const struct mapping *m, uint32_t group,
                                    size_t *ret_n)
{
    struct rt_state_group *g = &m->table->groups[group];
    size_t n = 0;

    for (uint32_t i = rt_idle_first(&g->idle); i != RT_IDLE_NONE; i = rt_idle_after(&g->idle, i)) {
        if (m->now - g->entries[i].touch_ms <= m->d->timeout_ms) {
            break;
        }
        n++;
    }
    struct expired *list = rt_output_alloc(c->out, n * sizeof *list);
    uint32_t at = rt_idle_first(&g->idle);
    for (size_t i = 0; i < n && list; i++, at = rt_idle_after(&g->idle, at)) {
        struct levee_slice key = rt_entry_key(&g->entries[at]);
        const uint8_t *copy = arena_copy(c->out->arena, key.data, key.len);
        if (!copy) {
            return NULL;
        }
        list[i] = (struct expired){slice_of(copy, key.len), &g->entries[at]};
    }
    if (list && n) {
        qsort(list, n, sizeof *list, by_touch_and_key);
    }
    *ret_n = n;
    return list;
}

static int time_out(struct rt_call *c, uint32_t group, struct mapping *m)
{
    size_t n = 0;
    const struct expired *list = touch_initial(m, group) ? list_expired(c, m, group, &n) : NULL;
    int code = LEVEE_OK;

    if (!list) {
        return rt_call_nomem(c);
    }
    m->value = NULL;
    m->out->time_ms = 0;
    for (size_t i = 0; i < n && code == LEVEE_OK; i++) {
        struct levee_slice state = rt_entry_value(list[i].entry);
        struct levee_record input = {.key = list[i].key};
        bool skipped;
        m->entry = list[i].entry;
        m->key = list[i].key;
        m->hash = hash_key(m->key.data, m->key.len);
        /* A dead letter outlives the entry. */
        input.value = slice_of(arena_copy(c->out->arena, state.data, state.len), state.len);
        code = input.value.data ? rt_call_guarded(c, c->index++, &input, try_map, m, &skipped)
                                : rt_call_nomem(c);
        if (code == LEVEE_OK && !rt_table_remove(m->table, m->hash, m->entry)) {
            code = rt_call_nomem(c);
        }
        code = code ? code : rt_call_emitted(c);
    }
    return code;
}

/* ---- the node ---- */

static int fold(struct rt_call *c, const struct rt_groups *g, struct rt_table *t)
{
    struct mapping m = {.d = c->node->op_data,
                        .table = t,
                        .state = rt_call_state(c),
                        .out = c->out,
                        .now = c->out->header->time_ms};
    const struct rt_key *keys = g->keys.items;
    size_t n = g->keys.count;
    int code = LEVEE_OK;

    for (size_t i = 0; i < n && code == LEVEE_OK; i++) {
        if (i + (size_t)2 * AHEAD < n) {
            rt_table_prefetch(t, keys[i + (size_t)2 * AHEAD].hash);
        }
        if (i + AHEAD < n) {
            rt_table_prefetch_entry(t, keys[i + AHEAD].hash);
        }
        code = map_key(c, g, &keys[i], &m);
    }
    if (code == LEVEE_OK && rt_table_due(t, g->group) <= m.now) {
        code = time_out(c, g->group, &m);
    }
    return code;
}

static int64_t idle_ms(const levee_stream *node)
{
    return ((const struct map_data *)node->op_data)->timeout_ms;
}

static int initial(const levee_stream *node, struct rt_table *t, struct levee_error *err)
{
    return rt_initial_lay(&((const struct map_data *)node->op_data)->initial, t, err);
}

static const struct rt_operator map_with_state_operator = {
    .name = "map_with_state",
    .fold = fold,
    .idle_ms = idle_ms,
    .initial = initial,
    .free_data = free_data,
    .stateful = true,
    .keeps_time = true,
};

levee_stream *levee_map_with_state_at(levee_stream *s, const char *uid,
                                      const struct levee_map_state_options *options,
                                      levee_map_state_fn fn, void *arg, const char *file, int line)
{
    static const struct levee_map_state_options defaults = {.version = 1};
    const struct levee_map_state_options *o = options ? options : &defaults;

    if (!s) {
        return NULL;
    }
    if (!fn || (o->initial_count && !o->initial)) {
        return rt_graph_fail(s->graph, file, line, LEVEE_EINVALID, "map_with_state %s: no %s",
                             uid ? uid : "", fn ? "initial state" : "function");
    }
    struct map_data *d = mem_zalloc(sizeof *d);
    if (!d || !rt_initial_copy(&d->initial, o->initial, o->initial_count)) {
        if (d) {
            free_data(d);
        }
        return rt_graph_fail(s->graph, file, line, LEVEE_ENOMEM, "map_with_state");
    }
    d->fn = fn;
    d->arg = arg;
    d->timeout_ms = o->timeout_ms;
    levee_stream *n = rt_lower(s, RT_KEYED, &map_with_state_operator, uid, d,
                               s->graph->default_partitions, file, line);
    if (n) {
        n->state_version = o->version ? o->version : 1;
    }
    return n;
}
