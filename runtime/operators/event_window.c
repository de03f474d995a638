/*
 * event_window: tumbling, sliding and session windows of event time over a reducer, by key.
 *
 * In every batch a key group does three things, in this order:
 *
 *   1 what the watermark has completed fires, on time, in the order of (end, key). It has risen by
 *     what earlier batches brought, so this comes before the records of this one. Windows fire
 * once: those that end in (watermark before, watermark]. No flag says so, and none has to be
 * stored. 2 records are added to their panes. One whose last window, with the allowed lateness,
 * ends at or below the watermark is late. If a window that has fired gets a record, it fires again,
 * late, at once, with everything that it holds. 3 every early_ms of batch time windows that are
 * open and have changed fire early.
 *
 * A pane goes when its last window and the allowed lateness are below the watermark. When a key is
 * due next, by either time, is kept with its entry (struct rt_timers): a batch costs what is due in
 * it and what came, not what there is.
 */
#include "runtime/operators/event_window.h"

#define AHEAD       8u                  /* keys whose entries are on their way */
#define LENGTH_MAX  ((uint64_t)1 << 40) /* ms: 34 years, so that sums with times fit */
#define WINDOWS_MAX 4096u               /* that one record may lie in: each fires */
#define BOUNDS      17u                 /* start, end, firing: before the value of a window */

struct windowing {
    struct rt_call *c;
    const struct rt_event_window *d;
    struct rt_table *table;
    uint8_t *acc;                   /* scratch: what is made of a pane */
    int64_t now, before, watermark; /* batch time, the watermarks of the batch before and of this */
    /* the key at hand */
    uint64_t hash;
    struct levee_slice key;
    struct rt_entry *entry; /* NULL: none */
    struct rt_panes panes;
};

/* ---- one key: opened, changed, and laid down again ---- */

static bool open_key(struct windowing *w, uint64_t hash, struct levee_slice key)
{
    w->hash = hash;
    w->key = slice_of(key.len ? key.data : NULL, key.len); /* an empty key is an absent one */
    w->entry = rt_table_find(w->table, hash, key, rt_key_head(key));
    return rt_panes_read(
        w->c->out->arena, w->d,
        w->entry && w->entry->present ? rt_entry_value(w->entry) : slice_of(NULL, 0), &w->panes);
}

/* When anything is next to be done about it, all up to `done` having been. */
static void next_timers(const struct windowing *w, int64_t done, int64_t ret[RT_TIMER_KINDS])
{
    const struct rt_event_window *d = w->d;

    ret[RT_EVENT_TIMER] = ret[RT_BATCH_TIMER] = RT_NEVER;
    for (size_t i = 0; i < w->panes.count; i++) {
        const struct rt_pane *p = &w->panes.items[i];
        int64_t over = rt_pane_over(d, p), end = rt_pane_next_end(d, p, done);
        int64_t first = end < over ? end : over;
        if (first < ret[RT_EVENT_TIMER]) {
            ret[RT_EVENT_TIMER] = first;
        }
        if (d->early_ms && p->changed && end != RT_NEVER && ret[RT_BATCH_TIMER] == RT_NEVER) {
            bool set = w->entry && w->entry->present;
            int64_t at = set ? rt_entry_timer(w->entry, RT_BATCH_TIMER) : RT_NEVER;
            int64_t next = rt_floor_to(w->now + d->early_ms - 1, d->early_ms);
            ret[RT_BATCH_TIMER] = at < next ? at : next;
        }
    }
}

static int close_key(struct windowing *w, int64_t done)
{
    int64_t timers[RT_TIMER_KINDS];
    bool ok, there = w->entry && w->entry->present;

    if (w->panes.count == 0) {
        ok = !there || rt_table_remove(w->table, w->hash, w->entry);
    } else {
        struct levee_slice bytes = rt_panes_write(w->c->out->arena, w->d, &w->panes);
        next_timers(w, done, timers);
        ok = bytes.data && rt_table_lay_timed(w->table, w->hash, w->key, bytes, timers, &w->entry);
    }
    return ok ? rt_call_emitted(w->c) : rt_call_nomem(w->c);
}

/* ---- firing ---- */

struct finishing {
    struct windowing *w;
    struct levee_event_window_info info;
    size_t from, to; /* its panes */
    uint8_t *acc;    /* a result may be a view into it */
};

/* A window's value with its bounds before it. */
static bool wrap(levee_output *out, const struct levee_event_window_info *info)
{
    struct levee_record *r = &out->items[out->count - 1];
    uint8_t *to = rt_output_alloc(out, BOUNDS + rt_sequence_size(r->value));

    if (!to) {
        return false;
    }
    put_le64(to, (uint64_t)info->start_ms);
    put_le64(to + 8, (uint64_t)info->end_ms);
    to[16] = (uint8_t)info->firing;
    const uint8_t *end = rt_sequence_put(to + BOUNDS, r->value);
    r->value = slice_of(to, (size_t)(end - to));
    return true;
}

static int try_finish(void *arg)
{
    const struct finishing *f = arg;
    const struct rt_event_window *d = f->w->d;
    const struct levee_reducer *r = &d->reducer;
    levee_output *out = f->w->c->out;
    size_t mark = out->count;
    int rc = 0;

    memcpy(f->acc, f->w->panes.items[f->from].acc, r->size);
    for (size_t i = f->from + 1; i < f->to && rc >= 0; i++) {
        rc = r->merge(out, f->acc, f->w->panes.items[i].acc, r->arg);
    }
    if (rc >= 0) {
        out->time_ms = f->info.end_ms - 1;
        out->window = &f->info;
        rc = r->finish(out, f->w->key, f->acc, r->arg);
        out->window = NULL;
    }
    if (rc >= 0 && out->count != mark + 1) {
        return LEVEE_EINVALID;
    }
    if (rc >= 0 && d->bounds && !wrap(out, &f->info)) {
        return LEVEE_ENOMEM;
    }
    return rc;
}

static int fire(struct windowing *w, int64_t end_ms, enum levee_firing firing)
{
    struct rt_call *c = w->c;
    struct finishing f = {.w = w, .info = {.end_ms = end_ms, .firing = firing}};
    bool skipped;

    if (w->d->gap_ms) {
        f.to = rt_panes_overlap(&w->panes, end_ms - 1, end_ms, &f.from);
        f.info.start_ms = f.from < f.to ? w->panes.items[f.from].start_ms : end_ms;
    } else {
        f.info.start_ms = end_ms - w->d->length_ms;
        f.to = rt_panes_overlap(&w->panes, f.info.start_ms, end_ms, &f.from);
    }
    ASSERT(f.from < f.to);
    f.acc = rt_output_alloc(c->out, w->d->reducer.size);
    if (!f.acc) {
        return rt_call_nomem(c);
    }
    struct levee_record input = {.key = w->key, .time_ms = end_ms - 1};
    return rt_call_guarded(c, c->index++, &input, try_finish, &f, &skipped);
}

/* All windows that end in (above, upto] and hold a pane that was touched, or has changed. */
static int fire_all(struct windowing *w, int64_t above, int64_t upto, enum levee_firing firing)
{
    int64_t last = above;
    int code = LEVEE_OK;

    for (size_t i = 0; i < w->panes.count && code == LEVEE_OK; i++) {
        const struct rt_pane *p = &w->panes.items[i];
        if (!(firing == LEVEE_FIRED_EARLY ? p->changed : p->touched)) {
            continue;
        }
        int64_t end = rt_pane_next_end(w->d, p, last);
        while (end <= upto && end != RT_NEVER && code == LEVEE_OK) {
            code = fire(w, end, firing);
            last = end;
            end = rt_pane_next_end(w->d, p, last);
        }
    }
    return code;
}

/* The watermark has passed at_ms: a window ends there, or a pane is over. */
static int fire_on_time(void *arg, const struct rt_due *due)
{
    struct windowing *w = arg;
    int code = open_key(w, due->hash, due->key) ? LEVEE_OK : rt_call_nomem(w->c);
    bool ends = false;

    for (size_t i = 0; i < w->panes.count && !ends && due->at_ms > w->before; i++) {
        ends = rt_pane_next_end(w->d, &w->panes.items[i], due->at_ms - 1) == due->at_ms;
    }
    if (code == LEVEE_OK && ends) {
        code = fire(w, due->at_ms, LEVEE_FIRED_ON_TIME);
    }
    rt_panes_drop(w->d, &w->panes, due->at_ms);
    return code ? code : close_key(w, due->at_ms);
}

static int fire_early(void *arg, const struct rt_due *due)
{
    struct windowing *w = arg;
    int code = open_key(w, due->hash, due->key) ? LEVEE_OK : rt_call_nomem(w->c);

    code = code ? code : fire_all(w, w->watermark, RT_NEVER, LEVEE_FIRED_EARLY);
    for (size_t i = 0; i < w->panes.count; i++) {
        w->panes.items[i].changed = false;
    }
    return code ? code : close_key(w, w->watermark);
}

/* ---- records ---- */

struct adding {
    struct windowing *w;
    struct levee_slice value;
    size_t from, to; /* the panes that it becomes one with */
};

static int try_add(void *arg)
{
    const struct adding *a = arg;
    const struct levee_reducer *r = &a->w->d->reducer;
    levee_output *out = a->w->c->out;
    int rc = 0;

    if (a->from == a->to) {
        memset(a->w->acc, 0, r->size);
        return r->create(out, a->w->acc, a->value, r->arg);
    }
    memcpy(a->w->acc, a->w->panes.items[a->from].acc, r->size);
    for (size_t i = a->from + 1; i < a->to && rc >= 0; i++) {
        rc = r->merge(out, a->w->acc, a->w->panes.items[i].acc, r->arg);
    }
    return rc >= 0 ? r->add(out, a->w->acc, a->value, r->arg) : rc;
}

/* What was made in the scratch becomes the pane. */
static bool settle(struct windowing *w, const struct adding *a, const struct rt_pane *alone)
{
    struct rt_pane p = *alone;

    if (a->from < a->to) {
        const struct rt_pane *first = &w->panes.items[a->from], *last = &w->panes.items[a->to - 1];
        p.acc = first->acc;
        p.start_ms = first->start_ms < p.start_ms ? first->start_ms : p.start_ms;
        p.end_ms = last->end_ms > p.end_ms ? last->end_ms : p.end_ms;
    } else {
        p.acc = rt_output_alloc(w->c->out, w->d->reducer.size);
    }
    if (!p.acc) {
        return false;
    }
    memcpy(p.acc, w->acc, w->d->reducer.size);
    p.changed = w->d->early_ms != 0;
    p.touched = true;
    return rt_panes_replace(w->c->out->arena, &w->panes, a->from, a->to, &p);
}

static int add_record(struct windowing *w, const struct rt_item *item)
{
    const struct rt_event_window *d = w->d;
    struct rt_call *c = w->c;
    int64_t t = item->time_ms;
    bool skipped;

    t = t > RT_TIME_MAX ? RT_TIME_MAX : t < -RT_TIME_MAX ? -RT_TIME_MAX : t;
    struct rt_pane alone = {.start_ms = t, .end_ms = t + d->gap_ms};
    if (!d->gap_ms) {
        alone.start_ms = rt_floor_to(t, d->pane_ms);
        alone.end_ms = alone.start_ms + d->pane_ms;
    }
    struct levee_record input = {item->key, item->value, item->time_ms};
    struct adding a = {.w = w, .value = item->value};
    uint64_t index = c->index++;
    if (rt_pane_first_end(d, &alone) > rt_pane_last_end(d, &alone)) {
        return LEVEE_OK; /* between two windows */
    }
    a.to = rt_panes_overlap(&w->panes, alone.start_ms, alone.end_ms, &a.from);
    if (a.from == a.to && rt_pane_over(d, &alone) <= w->watermark) {
        return rt_call_late(c, d->late, index, &input);
    }
    c->out->time_ms = item->time_ms;
    int code = rt_call_guarded(c, index, &input, try_add, &a, &skipped);
    if (code == LEVEE_OK && !skipped && !settle(w, &a, &alone)) {
        code = rt_call_nomem(c);
    }
    return code;
}

static int fold_key(struct windowing *w, const struct rt_groups *g, const struct rt_key *k)
{
    int code = open_key(w, k->hash, k->key) ? LEVEE_OK : rt_call_nomem(w->c);

    for (uint32_t at = k->items.first; at != UINT32_MAX && code == LEVEE_OK; at = g->links[at]) {
        code = add_record(w, g->items[at]);
    }
    if (code == LEVEE_OK && w->watermark != RT_NO_TIME) {
        code = fire_all(w, w->watermark - w->d->allowed_ms, w->watermark, LEVEE_FIRED_LATE);
    }
    return code ? code : close_key(w, w->watermark);
}

/* ---- the node ---- */

static int fold(struct rt_call *c, const struct rt_groups *g, struct rt_table *t)
{
    struct windowing w = {.c = c,
                          .d = c->node->op_data,
                          .table = t,
                          .now = c->out->header->time_ms,
                          .before = rt_call_watermark_before(c),
                          .watermark = c->out->watermark_ms};
    const struct rt_key *keys = g->keys.items;
    size_t n = g->keys.count;
    int code = rt_fire_due(c, t, g->group, RT_EVENT_TIMER, w.watermark, fire_on_time, &w);

    w.acc = rt_output_alloc(c->out, w.d->reducer.size);
    if (!w.acc) {
        return rt_call_nomem(c);
    }
    for (size_t i = 0; i < n && code == LEVEE_OK; i++) {
        if (i + (size_t)2 * AHEAD < n) {
            rt_table_prefetch(t, keys[i + (size_t)2 * AHEAD].hash);
        }
        if (i + AHEAD < n) {
            rt_table_prefetch_entry(t, keys[i + AHEAD].hash);
        }
        code = fold_key(&w, g, &keys[i]);
    }
    return code ? code : rt_fire_due(c, t, g->group, RT_BATCH_TIMER, w.now, fire_early, &w);
}

static struct rt_time_shape shape(const levee_stream *node)
{
    const struct rt_event_window *d = node->op_data;

    return (struct rt_time_shape){d->length_ms, d->slide_ms, d->gap_ms};
}

static const struct rt_operator event_window_operator = {.name = "event_window",
                                                         .fold = fold,
                                                         .holds_time = true,
                                                         .keeps_time = true,
                                                         .shape = shape,
                                                         .free_data = rt_free_data,
                                                         .stateful = true};

/* ---- building ---- */

static int64_t common_divisor(int64_t a, int64_t b)
{
    while (b) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static bool lengths_fit(const struct levee_event_window *o)
{
    bool fixed = o->length_ms && !o->gap_ms, session = o->gap_ms && !o->length_ms && !o->slide_ms;

    return (fixed || session) && o->length_ms <= LENGTH_MAX && o->slide_ms <= LENGTH_MAX &&
           o->gap_ms <= LENGTH_MAX && o->allowed_lateness_ms <= LENGTH_MAX &&
           (o->slide_ms == 0 || o->length_ms / o->slide_ms <= WINDOWS_MAX) &&
           o->late <= LEVEE_LATE_DEAD_LETTER;
}

static levee_stream *refuse(levee_stream *s, const char *uid, const struct levee_reducer *r,
                            const struct levee_event_window *o, const char *file, int line)
{
    const levee_stream *where;

    if (!o || !lengths_fit(o)) {
        return rt_graph_fail(
            s->graph, file, line, LEVEE_EGRAPH,
            "event_window %s: it needs either length_ms (with or without slide_ms) "
            "or gap_ms, each at most 2^40; a record lies in 4096 windows at most",
            uid ? uid : "");
    }
    if (!rt_reducer_valid(r) || r->size > RT_WINDOW_ACC_MAX) {
        return rt_graph_fail(s->graph, file, line, LEVEE_EINVALID,
                             "event_window %s: a reducer needs version 1, a size up to %u, create, "
                             "add, merge and finish",
                             uid ? uid : "", RT_WINDOW_ACC_MAX);
    }
    if (!rt_stream_timed(s, &where)) {
        return rt_graph_fail(s->graph, file, line, LEVEE_EGRAPH,
                             "event_window %s: records of %s, built at %s:%d, have no event time: "
                             "levee_event_time gives it",
                             uid ? uid : "", where->uid[0] ? where->uid : where->name, where->file,
                             where->line);
    }
    return s;
}

levee_stream *levee_event_window_at(levee_stream *s, const char *uid, const struct levee_reducer *r,
                                    const struct levee_event_window *o, const char *file, int line)
{
    if (!s || !refuse(s, uid, r, o, file, line)) {
        return NULL;
    }
    struct rt_event_window *d = mem_zalloc(sizeof *d);
    if (!d) {
        return rt_graph_fail(s->graph, file, line, LEVEE_ENOMEM, "event_window");
    }
    *d = (struct rt_event_window){.reducer = *r,
                                  .length_ms = (int64_t)o->length_ms,
                                  .slide_ms = (int64_t)(o->slide_ms ? o->slide_ms : o->length_ms),
                                  .gap_ms = (int64_t)o->gap_ms,
                                  .allowed_ms = (int64_t)o->allowed_lateness_ms,
                                  .early_ms = o->early_ms,
                                  .late = o->late,
                                  .bounds = o->bounds};
    d->pane_ms = common_divisor(d->length_ms, d->slide_ms);
    levee_stream *n =
        rt_lower(s, RT_KEYED, &event_window_operator, uid, d,
                 o->partitions ? o->partitions : s->graph->default_partitions, file, line);
    if (n) {
        n->slide = 1; /* it fires when the watermark says so */
        n->state_version = o->version ? o->version : 1;
        n->sets_aside = o->late == LEVEE_LATE_SIDE;
    }
    return n;
}

bool levee_event_window_now(const levee_output *out, struct levee_event_window_info *ret)
{
    if (out->window) {
        *ret = *out->window;
    }
    return out->window != NULL;
}

bool levee_event_window_of(struct levee_slice value, struct levee_event_window_info *ret)
{
    struct cursor c = cursor_of(value);
    struct levee_event_window_info info = {.start_ms = (int64_t)cur_u64(&c)};

    info.end_ms = (int64_t)cur_u64(&c);
    info.firing = (enum levee_firing)cur_u8(&c);
    info.value = cur_slice(&c);
    if (c.bad || cur_left(&c) || info.firing > LEVEE_FIRED_LATE) {
        return false;
    }
    *ret = info;
    return true;
}
