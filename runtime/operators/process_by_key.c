/*
 * process_by_key: state and timers by key for user code. Timers first, then records: see streams.h.
 *
 * Stored per key: a byte (has it state?), the number of timers of each kind, the timers, the state.
 * When the earliest of each kind is due is kept with the entry besides, so that a batch looks only
 * at keys that are due in it (rt_fire_due). A key with neither state nor timers is gone.
 */
#include "runtime/operator.h"

#define AHEAD 8u /* keys whose entries are on their way */
#define HEAD  9u /* has state, event timers, batch timers */

struct process {
    levee_process_fn fn;
    levee_timer_fn on_timer;
    void *arg;
    bool timed; /* its records have event time */
    struct rt_initial initial;
};

static void free_data(void *data)
{
    struct process *d = data;

    rt_initial_release(&d->initial);
    mem_free(d);
}

/* ---- what is stored ---- */

static size_t timers_of(struct levee_slice stored, enum rt_timer_kind kind)
{
    return get_le32(stored.data + (kind == RT_EVENT_TIMER ? 1 : 5));
}

static struct levee_slice state_of(struct levee_slice stored)
{
    size_t at = HEAD + 8 * (timers_of(stored, RT_EVENT_TIMER) + timers_of(stored, RT_BATCH_TIMER));

    return stored.data[0] ? slice_of(stored.data + at, stored.len - at) : slice_of(NULL, 0);
}

/* The key's state and timers as a call begins with them. false: no memory. */
static bool begin_state(levee_state *st, const struct rt_entry *e)
{
    struct levee_slice stored = e && e->present ? rt_entry_value(e) : slice_of(NULL, 0);
    size_t at = HEAD;

    st->now = stored.data ? state_of(stored) : slice_of(NULL, 0);
    st->exists = st->now.data != NULL;
    st->changed = st->failed = st->timing_out = false;
    for (int kind = 0; kind < RT_TIMER_KINDS; kind++) {
        size_t n = stored.data ? timers_of(stored, (enum rt_timer_kind)kind) : 0;
        st->timer_count[kind] = 0;
        for (size_t i = 0; i < n; i++, at += 8) {
            int64_t t = (int64_t)get_le64(stored.data + at);
            if (!rt_state_timer_add(st, (enum rt_timer_kind)kind, t)) {
                return false;
            }
        }
    }
    return true;
}

static struct levee_slice stored_bytes(levee_output *out, const levee_state *st)
{
    size_t events = st->timer_count[RT_EVENT_TIMER], batches = st->timer_count[RT_BATCH_TIMER];
    size_t value = st->exists ? st->now.len : 0, n = HEAD + 8 * (events + batches) + value;
    uint8_t *bytes = rt_output_alloc(out, n), *to = bytes;

    if (!bytes) {
        return slice_of(NULL, 0);
    }
    to[0] = st->exists;
    put_le32(to + 1, (uint32_t)events);
    put_le32(to + 5, (uint32_t)batches);
    to += HEAD;
    for (int kind = 0; kind < RT_TIMER_KINDS; kind++) {
        for (size_t i = 0; i < st->timer_count[kind]; i++, to += 8) {
            put_le64(to, (uint64_t)st->timers[kind][i]);
        }
    }
    if (value) {
        memcpy(to, st->now.data, value);
    }
    return slice_of(bytes, n);
}

/* ---- one call ---- */

struct processing {
    const struct process *d;
    struct rt_call *c;
    struct rt_table *table;
    levee_state *state;
    /* the key at hand */
    struct rt_entry *entry; /* NULL: none */
    uint64_t hash;
    struct levee_slice key;
    struct levee_record input; /* what the call is about: a record, or key and state of … */
    bool timing;               /* … a timer */
    struct levee_timer timer;
    int64_t upto; /* of timers of its kind: what is due in this batch */
};

static enum rt_timer_kind kind_of(const struct levee_timer *t)
{
    return t->processing ? RT_BATCH_TIMER : RT_EVENT_TIMER;
}

static int try_call(void *arg)
{
    const struct processing *p = arg;
    levee_state *st = p->state;
    levee_output *out = p->c->out;
    int rc;

    if (!begin_state(st, p->entry)) {
        out->failed = true;
        return LEVEE_ENOMEM;
    }
    if (!p->timing) {
        rc = p->d->fn(out, st, &p->input, p->d->arg);
    } else {
        rt_state_timer_remove(st, kind_of(&p->timer), p->timer.time_ms);
        /* A timer of an earlier program that had a function for it lapses. */
        rc = p->d->on_timer ? p->d->on_timer(out, st, p->key, &p->timer, p->d->arg) : 0;
    }
    out->failed = out->failed || st->failed;
    return rc;
}

/* When the key is due next. While its timers fire, first what is due in this batch above the one
 * that has fired: what lies below was set to a time that is over, and waits for the next batch. */
static int64_t next_timer(const struct processing *p, enum rt_timer_kind kind)
{
    const int64_t *all = p->state->timers[kind];
    size_t n = p->state->timer_count[kind];

    for (size_t i = 0; i < n && p->timing && kind == kind_of(&p->timer); i++) {
        if (all[i] > p->timer.time_ms && all[i] <= p->upto) {
            return all[i];
        }
    }
    return n ? all[0] : RT_NEVER;
}

static bool lay_down(struct processing *p)
{
    const levee_state *st = p->state;
    int64_t at[RT_TIMER_KINDS];
    bool timed = false;

    for (int kind = 0; kind < RT_TIMER_KINDS; kind++) {
        at[kind] = next_timer(p, (enum rt_timer_kind)kind);
        timed = timed || st->timer_count[kind];
    }
    if (!st->exists && !timed) {
        return !p->entry || !p->entry->present || rt_table_remove(p->table, p->hash, p->entry);
    }
    struct levee_slice bytes = stored_bytes(p->c->out, st);
    return bytes.data && rt_table_lay_timed(p->table, p->hash, p->key, bytes, at, &p->entry);
}

static int process_record(struct processing *p, const struct rt_item *item)
{
    struct rt_call *c = p->c;
    bool skipped;

    p->input = (struct levee_record){item->key, item->value, item->time_ms};
    p->timing = false;
    c->out->time_ms = item->time_ms;
    int code = rt_call_guarded(c, c->index++, &p->input, try_call, p, &skipped);
    if (code == LEVEE_OK && !skipped && p->state->changed && !lay_down(p)) {
        code = rt_call_nomem(c);
    }
    return code ? code : rt_call_emitted(c);
}

/* What a timer emits has the time of the timer; of processing time, the lowest that is not late. */
static int fire(struct processing *p, const struct rt_due *due, bool processing)
{
    struct rt_call *c = p->c;
    bool skipped;

    p->hash = due->hash;
    p->key = due->key;
    p->entry = rt_table_find(p->table, due->hash, due->key, rt_key_head(due->key));
    p->timing = true;
    p->timer = (struct levee_timer){due->at_ms, processing};
    p->upto = processing ? c->out->header->time_ms : c->out->watermark_ms;
    ASSERT(p->entry != NULL);
    struct levee_slice state = state_of(rt_entry_value(p->entry));
    p->input = (struct levee_record){.key = p->key, .time_ms = due->at_ms};
    if (state.data) { /* a dead letter outlives the entry */
        p->input.value = slice_of(arena_copy(c->out->arena, state.data, state.len), state.len);
        if (!p->input.value.data) {
            return rt_call_nomem(c);
        }
    }
    int64_t watermark = c->out->watermark_ms;
    c->out->time_ms = !processing ? due->at_ms : watermark != RT_NO_TIME ? watermark : 0;
    int code = rt_call_guarded(c, c->index++, &p->input, try_call, p, &skipped);
    if (code == LEVEE_OK && skipped) { /* over all the same, or it would come again for ever */
        if (!begin_state(p->state, p->entry)) {
            return rt_call_nomem(c);
        }
        rt_state_timer_remove(p->state, kind_of(&p->timer), due->at_ms);
    }
    if (code == LEVEE_OK && !lay_down(p)) {
        code = rt_call_nomem(c);
    }
    return code ? code : rt_call_emitted(c);
}

static int fire_event(void *arg, const struct rt_due *due)
{
    return fire(arg, due, false);
}

static int fire_processing(void *arg, const struct rt_due *due)
{
    return fire(arg, due, true);
}

/* ---- the node ---- */

static int process_key(struct processing *p, const struct rt_groups *g, const struct rt_key *k)
{
    int code = LEVEE_OK;

    p->hash = k->hash;
    p->key = k->key;
    p->entry = rt_table_find(p->table, k->hash, k->key, k->head);
    for (uint32_t at = k->items.first; at != UINT32_MAX && code == LEVEE_OK; at = g->links[at]) {
        code = process_record(p, g->items[at]);
    }
    return code;
}

static int fold(struct rt_call *c, const struct rt_groups *g, struct rt_table *t)
{
    struct processing p = {.d = c->node->op_data, .c = c, .table = t, .state = rt_call_state(c)};
    const struct rt_key *keys = g->keys.items;
    size_t n = g->keys.count;

    p.state->may_time[RT_BATCH_TIMER] = p.d->on_timer != NULL;
    p.state->may_time[RT_EVENT_TIMER] = p.d->on_timer && p.d->timed;
    int code = rt_fire_due(c, t, g->group, RT_EVENT_TIMER, c->out->watermark_ms, fire_event, &p);
    code = code ? code
                : rt_fire_due(c, t, g->group, RT_BATCH_TIMER, c->out->header->time_ms,
                              fire_processing, &p);
    for (size_t i = 0; i < n && code == LEVEE_OK; i++) {
        if (i + (size_t)2 * AHEAD < n) {
            rt_table_prefetch(t, keys[i + (size_t)2 * AHEAD].hash);
        }
        if (i + AHEAD < n) {
            rt_table_prefetch_entry(t, keys[i + AHEAD].hash);
        }
        code = process_key(&p, g, &keys[i]);
    }
    p.state->may_time[RT_BATCH_TIMER] = p.state->may_time[RT_EVENT_TIMER] = false;
    return code;
}

static int initial(const levee_stream *node, struct rt_table *t, struct levee_error *err)
{
    const struct rt_initial *all = &((const struct process *)node->op_data)->initial;
    static const int64_t never[RT_TIMER_KINDS] = {RT_NEVER, RT_NEVER};
    struct buf b = {0};
    bool ok = true;

    for (size_t i = 0; i < all->count && ok; i++) {
        struct levee_slice key = all->items[i].key;
        uint64_t hash = hash_key(key.data, key.len);
        struct rt_entry *e = rt_table_find(t, hash, key, rt_key_head(key));
        buf_clear(&b);
        buf_u8(&b, 1);
        buf_u64(&b, 0); /* no timers */
        buf_put(&b, all->items[i].value.data, all->items[i].value.len);
        ok = !b.failed && rt_table_lay_timed(t, hash, key, buf_view(&b), never, &e);
    }
    buf_release(&b);
    return ok ? LEVEE_OK : err_nomem(err, all->count * sizeof *all->items);
}

static const struct rt_operator process_operator = {.name = "process_by_key",
                                                    .fold = fold,
                                                    .initial = initial,
                                                    .holds_time = true,
                                                    .keeps_time = true,
                                                    .state_of = state_of,
                                                    .free_data = free_data,
                                                    .stateful = true};

levee_stream *levee_process_by_key_at(levee_stream *s, const char *uid,
                                      const struct levee_state_options *options,
                                      levee_process_fn fn, levee_timer_fn on_timer, void *arg,
                                      const char *file, int line)
{
    static const struct levee_state_options defaults = {.version = 1};
    const struct levee_state_options *o = options ? options : &defaults;
    const levee_stream *where;

    if (!s) {
        return NULL;
    }
    if (!fn || o->every_key || (o->initial_count && !o->initial)) {
        return rt_graph_fail(s->graph, file, line, LEVEE_EINVALID, "process_by_key %s: %s",
                             uid ? uid : "",
                             !fn            ? "no function"
                             : o->every_key ? "every_key is not for it: timers are"
                                            : "no initial state");
    }
    struct process *d = mem_zalloc(sizeof *d);
    if (!d || !rt_initial_copy(&d->initial, o->initial, o->initial_count)) {
        if (d) {
            free_data(d);
        }
        return rt_graph_fail(s->graph, file, line, LEVEE_ENOMEM, "process_by_key");
    }
    d->fn = fn;
    d->on_timer = on_timer;
    d->arg = arg;
    d->timed = rt_stream_timed(s, &where);
    levee_stream *n =
        rt_lower(s, RT_KEYED, &process_operator, uid, d, s->graph->default_partitions, file, line);
    if (n) {
        n->slide = 1; /* timers go by time */
        n->state_version = o->version ? o->version : 1;
    }
    return n;
}
