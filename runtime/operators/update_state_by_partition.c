/*
 * update_state_by_partition: update_state_by_key with one call per partition. Folds only collect
 * the keys of their key groups; the call comes when the partition is complete. What it does to
 * states is noted beside the keys and laid down once it has succeeded, so a failed call has had no
 * effect.
 */
#include "runtime/operator.h"

struct update_data {
    levee_update_partition_fn fn;
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

struct collected { /* a key of the partition */
    struct collected *next;
    uint64_t hash, head;
    struct levee_slice key;
    struct levee_slice *values;
    size_t n;
    /* What the function made of its state. */
    bool changed, exists;
    struct levee_slice value;
};
struct levee_updates {
    struct collected *first, **last;
    /* During a call. */
    struct collected *at; /* the key that the function has; NULL: none yet */
    bool begun;
    struct rt_table *table;
    levee_state *state;
    levee_output *out;
};

/* ---- collecting ---- */

static levee_updates *updates_of(struct rt_call *c)
{
    levee_updates *u = c->unit;

    if (!u) {
        c->unit = u = rt_output_alloc(c->out, sizeof *u);
        if (u) {
            *u = (levee_updates){0};
            u->last = &u->first;
        }
    }
    return u;
}

static bool collect(levee_updates *u, levee_output *out, const struct collected *key)
{
    struct collected *k = rt_output_alloc(out, sizeof *k);

    if (!k) {
        return false;
    }
    *k = *key;
    *u->last = k;
    u->last = &k->next;
    return true;
}

static bool collect_touched(levee_updates *u, levee_output *out, const struct rt_groups *g,
                            const struct rt_key *k)
{
    struct collected key = {.hash = k->hash, .head = k->head, .key = k->key};

    key.values = rt_output_alloc(out, k->count * sizeof *key.values);
    if (!key.values) {
        return false;
    }
    for (uint32_t at = k->items.first; at != UINT32_MAX; at = g->links[at]) {
        key.values[key.n++] = g->items[at]->value;
    }
    return collect(u, out, &key);
}

static bool collect_untouched(levee_updates *u, levee_output *out, const struct rt_groups *g,
                              const struct rt_table *t)
{
    size_t n = 0;
    const struct rt_listed *list = rt_table_list(out->arena, t, g->group, &g->keys, &n);
    bool ok = list != NULL;

    for (size_t i = 0; i < n && ok; i++) {
        struct collected key = {
            .hash = list[i].hash, .head = rt_key_head(list[i].key), .key = list[i].key};
        ok = collect(u, out, &key);
    }
    return ok;
}

static int fold(struct rt_call *c, const struct rt_groups *g, struct rt_table *t)
{
    const struct update_data *d = c->node->op_data;
    levee_updates *u = updates_of(c);
    bool ok = u != NULL;

    for (size_t i = 0; i < g->keys.count && ok; i++) {
        ok = collect_touched(u, c->out, g, &g->keys.items[i]);
    }
    if (ok && d->every_key) {
        ok = collect_untouched(u, c->out, g, t);
    }
    return ok ? LEVEE_OK : rt_call_nomem(c);
}

/* ---- the call ---- */

/* Notes what was made of the state of the key that the function had. false: no memory. */
static bool note(levee_updates *u)
{
    const levee_state *st = u->state;

    if (!u->at || !st->changed) {
        return !st->failed;
    }
    u->at->changed = true;
    u->at->exists = st->exists;
    if (st->exists) {
        uint8_t *copy = rt_output_alloc(u->out, st->now.len);
        if (!copy) {
            return false;
        }
        if (st->now.len) {
            memcpy(copy, st->now.data, st->now.len);
        }
        u->at->value = slice_of(copy, st->now.len);
    }
    return !st->failed;
}

bool levee_update_next(levee_updates *u, struct levee_update *ret)
{
    levee_state *st = u->state;

    if (!note(u)) {
        u->out->failed = true;
        return false;
    }
    u->at = u->begun ? (u->at ? u->at->next : NULL) : u->first;
    u->begun = true;
    st->changed = false;
    if (!u->at) {
        return false;
    }
    const struct rt_entry *e = rt_table_find(u->table, u->at->hash, u->at->key, u->at->head);
    st->exists = e && e->present;
    st->now = st->exists ? rt_entry_value(e) : slice_of(NULL, 0);
    *ret = (struct levee_update){
        .key = u->at->key, .values = u->at->values, .n = u->at->n, .state = st};
    return true;
}

struct calling {
    const struct update_data *d;
    levee_updates *updates;
};

static int try_update(void *arg)
{
    const struct calling *c = arg;
    levee_updates *u = c->updates;

    for (struct collected *k = u->first; k; k = k->next) {
        k->changed = false;
    }
    u->at = NULL;
    u->begun = false;
    u->state->changed = u->state->failed = u->state->timing_out = false;
    int rc = c->d->fn(u->out, u, c->d->arg);
    if (!note(u)) {
        u->out->failed = true;
    }
    return rc;
}

/* Every value of every key becomes a dead letter; the first has. */
static int skip_others(struct rt_call *c, const levee_updates *u)
{
    uint64_t index = 0;
    int code = LEVEE_OK;

    for (const struct collected *k = u->first; k; k = k->next) {
        for (size_t i = 0; i < k->n && code == LEVEE_OK; i++, index++) {
            const struct levee_record r = {.key = k->key, .value = k->values[i]};
            code = index ? rt_call_skip_too(c, index, &r) : LEVEE_OK;
        }
    }
    return code;
}

static int settle(struct rt_call *c, const levee_updates *u)
{
    int code = LEVEE_OK;

    for (const struct collected *k = u->first; k && code == LEVEE_OK; k = k->next) {
        struct rt_entry *e = rt_table_find(u->table, k->hash, k->key, k->head);
        bool ok = !k->changed || rt_state_lay(u->table, k->hash, k->key, k->exists, k->value,
                                              c->out->header->time_ms, &e);
        if (ok && e && e->present) {
            ok = rt_state_emit(c->out, k->key, e);
        }
        code = ok ? rt_call_emitted(c) : rt_call_nomem(c);
    }
    return code;
}

static struct levee_record first_record(const levee_updates *u)
{
    const struct collected *k = u->first;

    while (k && k->n == 0) {
        k = k->next;
    }
    return k ? (struct levee_record){.key = k->key, .value = k->values[0]}
             : (struct levee_record){.key = {NULL, 0}, .value = {NULL, 0}};
}

static int end(struct rt_call *c, struct rt_table *t)
{
    levee_updates *u = updates_of(c);
    struct calling call = {c->node->op_data, u};
    bool skipped;

    if (!u) {
        return rt_call_nomem(c);
    }
    u->table = t;
    u->state = rt_call_state(c);
    u->out = c->out;
    const struct levee_record first = first_record(u);
    int code = rt_call_guarded(c, 0, &first, try_update, &call, &skipped);
    if (code == LEVEE_OK) {
        code = skipped ? skip_others(c, u) : settle(c, u);
    }
    return code;
}

/* ---- the node ---- */

static bool every_batch(const levee_stream *node)
{
    return ((const struct update_data *)node->op_data)->every_key;
}

static int initial(const levee_stream *node, struct rt_table *t, struct levee_error *err)
{
    return rt_initial_lay(&((const struct update_data *)node->op_data)->initial, t, err);
}

static const struct rt_operator update_operator = {
    .name = "update_state_by_partition",
    .fold = fold,
    .end = end,
    .every_batch = every_batch,
    .initial = initial,
    .free_data = free_data,
    .stateful = true,
};

levee_stream *levee_update_state_by_partition_at(levee_stream *s, const char *uid,
                                                 const struct levee_state_options *options,
                                                 levee_update_partition_fn fn, void *arg,
                                                 const char *file, int line)
{
    static const struct levee_state_options defaults = {.version = 1};
    const struct levee_state_options *o = options ? options : &defaults;

    if (!s) {
        return NULL;
    }
    if (!fn || (o->initial_count && !o->initial)) {
        return rt_graph_fail(s->graph, file, line, LEVEE_EINVALID,
                             "update_state_by_partition %s: no %s", uid ? uid : "",
                             fn ? "initial state" : "function");
    }
    struct update_data *d = mem_zalloc(sizeof *d);
    if (!d || !rt_initial_copy(&d->initial, o->initial, o->initial_count)) {
        if (d) {
            free_data(d);
        }
        return rt_graph_fail(s->graph, file, line, LEVEE_ENOMEM, "update_state_by_partition");
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
