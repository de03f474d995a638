/*
 * update_state_by_key: the function is called once per key with all its values of the batch and its
 * state; afterwards the key's state, if there is one, is emitted. With every_key also for keys
 * without values, in an order that does not depend on history (by hash, then key).
 */
#include "runtime/exec.h"

#include <stdlib.h>

struct update_data {
    levee_update_fn fn;
    void *arg;
    bool every_key;
    struct levee_record *initial; /* copies */
    size_t initial_count;
};

static void free_data(void *data)
{
    struct update_data *d = data;

    for (size_t i = 0; i < d->initial_count; i++) {
        mem_free((void *)(uintptr_t)d->initial[i].key.data);
        mem_free((void *)(uintptr_t)d->initial[i].value.data);
    }
    mem_free(d->initial);
    mem_free(d);
}

struct updating {
    const struct update_data *d;
    struct rt_call *call;
    struct levee_slice key, before;
    bool existed;
    size_t n;
};

static int try_update(void *arg)
{
    const struct updating *u = arg;
    struct rt_worker *w = u->call->worker;
    levee_state *st = &w->state;

    st->exists = u->existed;
    st->now = u->before;
    st->changed = st->failed = false;
    int rc = u->d->fn(u->call->out, st, u->key, w->values, u->n, u->d->arg);
    return st->failed ? LEVEE_ENOMEM : rc;
}

/* The call went well: state changes are laid down, the state is emitted. */
static int settle(struct rt_call *c, struct rt_table *t, uint64_t hash, struct levee_slice key)
{
    levee_state *st = &c->worker->state;
    struct rt_entry *e = rt_table_find(t, hash, key);

    if (st->changed && st->exists &&
        !rt_table_set(t, hash, key, st->now, c->out->header->time_ms)) {
        return rt_call_failed(c, LEVEE_ENOMEM);
    }
    if (st->changed && !st->exists && e && !rt_table_remove(t, e)) {
        return rt_call_failed(c, LEVEE_ENOMEM);
    }
    if (!st->exists) {
        return LEVEE_OK;
    }
    e = rt_table_find(t, hash, key);
    struct levee_slice value =
        rt_entry_value(e); /* the next batch may change it while sinks hold this one */
    uint8_t *copy = arena_copy(c->out->arena, value.data, value.len);
    if (!copy || rt_output_add(c->out, key, slice_of(copy, value.len)) != LEVEE_OK) {
        return rt_call_failed(c, LEVEE_ENOMEM);
    }
    return LEVEE_OK;
}

static int update_one(struct rt_call *c, struct rt_table *t, uint64_t hash, struct levee_slice key,
                      size_t n, uint64_t index)
{
    const struct rt_entry *e = rt_table_find(t, hash, key);
    struct updating u = {
        .d = c->node->op_data, .call = c, .key = key, .existed = e != NULL, .n = n};
    struct levee_record input = {key, n ? c->worker->values[0] : slice_of(NULL, 0), 0};
    bool skipped;

    if (e) {
        u.before = rt_entry_value(e);
    }
    int code = rt_call_guarded(c, index, &input, 0, try_update, &u, &skipped);
    return code || skipped ? code : settle(c, t, hash, key);
}

static int gather_values(struct rt_call *c, struct rt_groups *g, const struct rt_key_group_entry *k)
{
    struct rt_worker *w = c->worker;
    size_t n = 0;

    if (!mem_grow((void **)&w->values, &w->values_cap, k->count, sizeof *w->values)) {
        return rt_call_failed(c, LEVEE_ENOMEM);
    }
    for (uint32_t at = k->first; at != UINT32_MAX; at = g->items[at]->next) {
        w->values[n++] = g->items[at]->r.value;
    }
    return LEVEE_OK;
}

/* ---- every key ---- */

struct untouched {
    uint64_t hash;
    struct levee_slice key;
};

static int by_hash(const void *a, const void *b)
{
    const struct untouched *x = a, *y = b;

    return x->hash != y->hash ? (x->hash < y->hash ? -1 : 1) : slice_cmp(x->key, y->key);
}

static bool has_values(const struct rt_groups *g, uint64_t hash, struct levee_slice key)
{
    uint32_t pos = (uint32_t)hash & g->map.mask;
    struct map_slot *s;

    while ((s = map_probe(&g->map, hash, &pos)) != NULL) {
        const struct levee_slice k = g->keys[s->index].key;
        if (k.len == key.len && (k.len == 0 || memcmp(k.data, key.data, k.len) == 0)) {
            return true;
        }
        pos = (pos + 1) & g->map.mask;
    }
    return false;
}

static int update_untouched(struct rt_call *c, struct rt_groups *g, struct rt_table *t,
                            uint32_t group, uint64_t *index)
{
    const struct rt_state_group *sg = &t->groups[group];
    struct untouched *list = arena_alloc(c->out->arena, (sg->count + 1u) * sizeof *list);
    size_t n = 0;
    int code = list ? LEVEE_OK : rt_call_failed(c, LEVEE_ENOMEM);

    for (uint32_t i = 0; i < sg->count && code == LEVEE_OK; i++) {
        const struct rt_entry *e = &sg->entries[i];
        if (e->present && !has_values(g, e->hash, slice_of(e->key, e->key_len))) {
            uint8_t *copy = arena_copy(c->out->arena, e->key, e->key_len);
            if (!copy) {
                return rt_call_failed(c, LEVEE_ENOMEM);
            }
            list[n++] = (struct untouched){e->hash, slice_of(copy, e->key_len)};
        }
    }
    if (n) {
        qsort(list, n, sizeof *list, by_hash);
    }
    for (size_t i = 0; i < n && code == LEVEE_OK; i++) {
        code = update_one(c, t, list[i].hash, list[i].key, 0, (*index)++);
    }
    return code;
}

static int fold(struct rt_call *c, struct rt_groups *g, struct rt_table *t)
{
    const struct update_data *d = c->node->op_data;
    uint32_t partitions = c->node->partitions;
    uint64_t index = 0;
    size_t at = 0;
    int code = LEVEE_OK;

    for (uint32_t group = 0; group < RT_KEY_GROUPS && code == LEVEE_OK; group++) {
        if (rt_partition_of(group, partitions) != c->partition) {
            continue;
        }
        while (at < g->key_count && g->keys[g->order[at]].group == group && code == LEVEE_OK) {
            const struct rt_key_group_entry *k = &g->keys[g->order[at++]];
            code = gather_values(c, g, k);
            if (code == LEVEE_OK) {
                code = update_one(c, t, k->hash, k->key, k->count, index++);
            }
        }
        if (d->every_key && code == LEVEE_OK) {
            code = update_untouched(c, g, t, group, &index);
        }
    }
    return code;
}

static bool every_batch(const levee_stream *node)
{
    return ((const struct update_data *)node->op_data)->every_key;
}

static int initial(const levee_stream *node, struct rt_table *t, struct levee_error *err)
{
    const struct update_data *d = node->op_data;

    for (size_t i = 0; i < d->initial_count; i++) {
        struct levee_slice key = d->initial[i].key;
        if (!rt_table_set(t, hash_key(key.data, key.len), key, d->initial[i].value, 0)) {
            return err_nomem(err, key.len + d->initial[i].value.len);
        }
    }
    return LEVEE_OK;
}

static const struct rt_operator update_operator = {
    .name = "update_state_by_key",
    .fold = fold,
    .every_batch = every_batch,
    .initial = initial,
    .free_data = free_data,
    .stateful = true,
};

static bool copy_slice(struct levee_slice from, struct levee_slice *to)
{
    uint8_t *p = mem_alloc(from.len ? from.len : 1);

    if (p && from.len) {
        memcpy(p, from.data, from.len);
    }
    *to = slice_of(p, p ? from.len : 0);
    return p != NULL;
}

static struct update_data *data_new(const struct levee_state_options *o, levee_update_fn fn,
                                    void *arg)
{
    struct update_data *d = mem_zalloc(sizeof *d);

    if (!d) {
        return NULL;
    }
    d->fn = fn;
    d->arg = arg;
    if (o) {
        d->every_key = o->every_key;
        d->initial = o->initial_count ? mem_zalloc(o->initial_count * sizeof *d->initial) : NULL;
        for (size_t i = 0; d->initial && i < o->initial_count; i++) {
            d->initial_count++;
            if (!copy_slice(o->initial[i].key, &d->initial[i].key) ||
                !copy_slice(o->initial[i].value, &d->initial[i].value)) {
                free_data(d);
                return NULL;
            }
        }
        if (d->initial_count != o->initial_count) {
            free_data(d);
            return NULL;
        }
    }
    return d;
}

levee_stream *levee_update_state_by_key_at(levee_stream *s, const char *uid,
                                           const struct levee_state_options *options,
                                           levee_update_fn fn, void *arg, const char *file,
                                           int line)
{
    if (!s) {
        return NULL;
    }
    if (!fn) {
        return rt_graph_fail(s->graph, file, line, LEVEE_EINVALID,
                             "update_state_by_key %s: no function", uid ? uid : "");
    }
    struct update_data *d = data_new(options, fn, arg);
    if (!d) {
        return rt_graph_fail(s->graph, file, line, LEVEE_ENOMEM, "update_state_by_key");
    }
    levee_stream *n =
        rt_build(s, RT_KEYED, &update_operator, uid, d, s->graph->default_partitions, file, line);
    if (n) {
        n->state_version = options && options->version ? options->version : 1;
    }
    return n;
}

int levee_update_sum_i64(levee_output *out, levee_state *state, struct levee_slice key,
                         const struct levee_slice *values, size_t n, void *arg)
{
    struct levee_slice old;
    int64_t sum = levee_state_get(state, &old) ? levee_i64(old) : 0;

    (void)out;
    (void)key;
    (void)arg;
    for (size_t i = 0; i < n; i++) {
        sum = (int64_t)((uint64_t)sum + (uint64_t)levee_i64(values[i]));
    }
    return levee_state_set_i64(state, sum);
}
