/*
 * update_state_by_key: the function is called once per key with all its values of the batch and its
 * state; afterwards the key's state, if there is one, is emitted. With every_key also for keys
 * without values: after the others of their key group, by hash and then key, an order that does not
 * depend on how the table came about.
 *
 * The ready function levee_update_sum_i64 is a sum, so its values are summed before they travel.
 */
#include "runtime/operator.h"

#define AHEAD 8u /* keys whose entries are on their way; their slots twice as far ahead */

struct update_data {
    levee_update_fn fn;
    void *arg;
    bool every_key;
    struct rt_initial initial;
};

static void free_data(void *data)
{
    struct update_data *d = data;

    rt_initial_release(&d->initial);
    mem_free(d);
}

/* ---- one key ---- */

struct updating {
    const struct update_data *d;
    struct rt_table *table;
    levee_state *state;
    levee_output *out;
    /* The key at hand. */
    struct rt_entry *entry; /* NULL: none */
    uint64_t hash, head;
    struct levee_slice key;
    const struct levee_slice *values;
    size_t n;
};

static int try_update(void *arg)
{
    const struct updating *u = arg;
    levee_state *st = u->state;

    st->exists = u->entry && u->entry->present;
    st->now = st->exists ? rt_entry_value(u->entry) : slice_of(NULL, 0);
    st->changed = st->failed = st->timing_out = false;
    int rc = u->d->fn(u->out, st, u->key, u->values, u->n, u->d->arg);
    u->out->failed = u->out->failed || st->failed;
    return rc;
}

/* Lays down what the call changed, and emits the key's state if there is one. */
static bool settle(struct updating *u)
{
    const levee_state *st = u->state;
    int64_t now = u->out->header->time_ms;

    return (!st->changed ||
            rt_state_lay(u->table, u->hash, u->key, st->exists, st->now, now, &u->entry)) &&
           (!st->exists || rt_state_emit(u->out, u->key, u->entry));
}

static int update(struct rt_call *c, struct updating *u)
{
    struct levee_record input = {.key = u->key, .value = u->n ? u->values[0] : slice_of(NULL, 0)};
    bool skipped;

    u->entry = rt_table_find(u->table, u->hash, u->key, u->head);
    int code = rt_call_guarded(c, c->index++, &input, try_update, u, &skipped);
    if (code == LEVEE_OK && !skipped && !settle(u)) {
        code = rt_call_nomem(c);
    }
    return code ? code : rt_call_emitted(c);
}

/* ---- keys with values ---- */

static int list_values(struct rt_call *c, const struct rt_groups *g, const struct rt_key *k,
                       struct levee_slice **ret)
{
    size_t n = 0;
    int code = rt_call_values(c, k->count, ret);

    for (uint32_t at = k->items.first; code == LEVEE_OK && at != UINT32_MAX; at = g->links[at]) {
        (*ret)[n++] = g->items[at]->value;
    }
    return code;
}

static int update_touched(struct rt_call *c, const struct rt_groups *g, const struct rt_key *k,
                          struct updating *u)
{
    uint8_t sum[8];
    struct levee_slice one = slice_of(sum, sizeof sum), *values = &one;
    int code = LEVEE_OK;

    u->hash = k->hash;
    u->head = k->head;
    u->key = k->key;
    u->n = 1;
    if (g->summed) {
        put_le64(sum, (uint64_t)k->sum);
    } else {
        u->n = k->count;
        code = list_values(c, g, k, &values);
    }
    u->values = values;
    return code ? code : update(c, u);
}

/* ---- every key ---- */

static int update_untouched(struct rt_call *c, const struct rt_groups *g, struct updating *u)
{
    size_t n;
    const struct rt_listed *list = rt_table_list(c->out->arena, u->table, g->group, &g->keys, &n);
    int code = LEVEE_OK;

    if (!list) {
        return rt_call_nomem(c);
    }
    u->values = NULL;
    u->n = 0;
    for (size_t i = 0; i < n && code == LEVEE_OK; i++) {
        u->hash = list[i].hash;
        u->key = list[i].key;
        u->head = rt_key_head(u->key);
        code = update(c, u);
    }
    return code;
}

/* ---- the node ---- */

static int fold(struct rt_call *c, const struct rt_groups *g, struct rt_table *t)
{
    struct updating u = {
        .d = c->node->op_data, .table = t, .state = rt_call_state(c), .out = c->out};
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
        code = update_touched(c, g, &keys[i], &u);
    }
    return code == LEVEE_OK && u.d->every_key && rt_due(c) ? update_untouched(c, g, &u) : code;
}

static const struct levee_reducer *combine(const levee_stream *node)
{
    const struct update_data *d = node->op_data;

    return d->fn == levee_update_sum_i64 ? &levee_sum_i64 : NULL;
}

static bool every_batch(const levee_stream *node)
{
    return ((const struct update_data *)node->op_data)->every_key;
}

static int initial(const levee_stream *node, struct rt_table *t, struct levee_error *err)
{
    return rt_initial_lay(&((const struct update_data *)node->op_data)->initial, t, err);
}

static const struct rt_operator update_operator = {
    .name = "update_state_by_key",
    .combine = combine,
    .fold = fold,
    .every_batch = every_batch,
    .initial = initial,
    .free_data = free_data,
    .stateful = true,
};

/* ---- building ---- */

levee_stream *levee_update_state_by_key_at(levee_stream *s, const char *uid,
                                           const struct levee_state_options *options,
                                           levee_update_fn fn, void *arg, const char *file,
                                           int line)
{
    static const struct levee_state_options defaults = {.version = 1};
    const struct levee_state_options *o = options ? options : &defaults;

    if (!s) {
        return NULL;
    }
    if (!fn || (o->initial_count && !o->initial)) {
        return rt_graph_fail(s->graph, file, line, LEVEE_EINVALID, "update_state_by_key %s: no %s",
                             uid ? uid : "", fn ? "initial state" : "function");
    }
    struct update_data *d = mem_zalloc(sizeof *d);
    if (!d || !rt_initial_copy(&d->initial, o->initial, o->initial_count)) {
        if (d) {
            free_data(d);
        }
        return rt_graph_fail(s->graph, file, line, LEVEE_ENOMEM, "update_state_by_key");
    }
    d->fn = fn;
    d->arg = arg;
    d->every_key = o->every_key;
    levee_stream *n =
        rt_lower(s, RT_KEYED, &update_operator, uid, d, s->graph->default_partitions, file, line);
    if (n) {
        n->state_version = o->version ? o->version : 1;
    }
    return n;
}

int levee_update_sum_i64(levee_output *out, levee_state *state, struct levee_slice key,
                         const struct levee_slice *values, size_t n, void *arg)
{
    struct levee_slice old;
    uint64_t sum = levee_state_get(state, &old) ? (uint64_t)levee_i64(old) : 0;

    (void)out;
    (void)key;
    (void)arg;
    for (size_t i = 0; i < n; i++) {
        sum += (uint64_t)levee_i64(values[i]);
    }
    return levee_state_set_i64(state, (int64_t)sum);
}
