/*
 * Reducing windows. State per key: a ring with one part, an accumulator, per batch in the window
 * that had values of the key, and a running accumulator. What is due costs what came and what left,
 * never what is in the window, and the ring is changed where it lies in the table.
 *
 *   inverse   `running` is the result: minus what left, plus what came. A key stays, with whatever
 *             the inverse left of it, until a filter drops it; from then on as long as it has
 *             parts. Where there is no running result (a key is new, or its window was
 *             empty) it is made from the ring, so that a slide longer than the window is right.
 *   without   two stacks, as in "General incremental sliding-window aggregation" (Tangwongsan,
 *             Hirzel, Schneider et al., VLDB 2015). Of the oldest `front` parts each holds itself
 *             and all younger ones of them merged; `running` is all behind them merged. The result
 *             is oldest part + running, and to drop parts is to forget them:
 *
 *                 parts     [ a+b+c  b+c  c | d  e  f ]      running = d+e+f      result = a+…+f
 *                             oldest           newest
 *
 *             When the front is used up and more leaves, the rest becomes the front: a *turn*, from
 *             the newest to the oldest. Every part is turned once, so a part costs three merges in
 *             its life, however long the window is. The order of the batches is kept: the reducer
 *             must be associative, which it is anyway, and need not be commutative.
 *
 * A turn costs as much as the key has parts. Keys that came together would all turn in the same
 * batch, once per window, and that batch would be late; so each turns for the first time at an age
 * that its hash chooses, before anything has left, and from then on at a place of its own.
 *
 * Spark computes the first case without looking back and gets both corners wrong; we do not follow.
 *
 * R1  A call changes nothing in the table before it has succeeded: it may fail and be tried again.
 * R2  Parts of the front are older than those behind it, and no part behind it was ever merged into
 *     another: only therefore can it still be turned.
 */
#include "runtime/operators/window_ring.h"

#define AHEAD 24u /* keys: how far what a fold will read is asked for */

/* ---- one key ---- */

struct folding {
    struct rt_call *c;
    const struct rt_window *d;
    struct rt_table *table;
    const struct rt_groups *g;
    bool due;
    uint32_t most;    /* parts that a window can have */
    size_t stride;    /* of accumulators in `turned` */
    void *acc;        /* scratch */
    struct buf bytes; /* the same: a ring that is laid down anew */
    struct buf turned;
    /* the key at hand */
    uint64_t hash;
    struct levee_slice key;
    const struct rt_key *came; /* NULL: nothing */
    struct rt_entry *entry;
    struct rt_ring ring; /* as stored */
    /* … and what the call makes of it */
    uint32_t parts; /* those stored and, if something came, `fresh` as the newest */
    uint32_t gone;  /* of the oldest parts */
    uint32_t front; /* of those that are left */
    bool turns;     /* all that are left, into `turned` */
    bool has_running, shown, changed;
    void *fresh, *running, *result;
};

static int64_t part_time(const struct folding *f, uint32_t i)
{
    if (i == f->ring.count) {
        return f->c->out->header->time_ms; /* of `fresh` */
    }
    return i == 0 ? f->ring.oldest_ms
                  : (int64_t)get_le64(rt_ring_slot(&f->ring, &f->d->reducer, i));
}

/* Accumulators want to be aligned; those in a ring are copied out. */
static const void *part(const struct folding *f, uint32_t i, void *aligned)
{
    const struct levee_reducer *r = &f->d->reducer;

    return memcpy(aligned, i < f->ring.count ? rt_ring_slot(&f->ring, r, i) + 8 : f->fresh,
                  r->size);
}

static uint8_t *turned_part(const struct folding *f, uint32_t i)
{
    return f->turned.data + (i - f->gone) * f->stride;
}

/* The batch's accumulators of the key, merged, become the newest part. */
static int make_part(struct folding *f)
{
    const struct levee_reducer *r = &f->d->reducer;
    int rc = 0;

    if (f->g->summed) {
        memcpy(f->fresh, &f->came->sum, sizeof f->came->sum);
    } else {
        uint32_t at = f->came->items.first;
        memcpy(f->fresh, f->g->items[at]->value.data, r->size);
        for (at = f->g->links[at]; at != UINT32_MAX && rc >= 0; at = f->g->links[at]) {
            rc = r->merge(f->c->out, f->fresh, f->g->items[at]->value.data, r->arg);
        }
    }
    f->parts++;
    f->changed = true;
    return rc;
}

/* Merges part i into the running accumulator, or begins it. */
static int take_in(struct folding *f, uint32_t i)
{
    const struct levee_reducer *r = &f->d->reducer;

    f->changed = true;
    if (!f->has_running) {
        (void)part(f, i, f->running);
        f->has_running = true;
        return 0;
    }
    return r->merge(f->c->out, f->running, part(f, i, f->acc), r->arg);
}

/* Where the parts begin that running has not seen: found from the newest back, for the others may
 * be many. */
static uint32_t first_new(const struct folding *f, uint32_t from)
{
    uint32_t i = f->parts;

    if (!f->ring.has_new) {
        return f->ring.count;
    }
    while (i > from && part_time(f, i - 1) > f->ring.upto_ms) {
        i--;
    }
    return i;
}

static int take_in_from(struct folding *f, uint32_t i)
{
    int rc = 0;

    for (; i < f->parts && rc >= 0; i++) {
        rc = take_in(f, i);
    }
    return rc;
}

/* With inverse: what left, out of the running result; what came, into it. */
static int slide_inverse(struct folding *f)
{
    const struct levee_reducer *r = &f->d->reducer;
    bool had = f->has_running;
    int rc = 0;

    for (uint32_t i = 0; i < f->gone && rc >= 0 && had; i++) {
        if (part_time(f, i) <= f->ring.upto_ms) { /* the others came and left between two slides */
            rc = r->remove(f->c->out, f->running, part(f, i, f->acc), r->arg);
        }
    }
    if (rc >= 0) {
        rc = take_in_from(f, had ? first_new(f, f->gone) : f->gone);
    }
    if (f->parts == f->gone && !f->ring.was_shown) {
        f->has_running = false; /* the filter dropped it, and nothing brought it back */
    }
    return rc;
}

/* All parts become the front: each with all younger ones merged into it. */
static int turn(struct folding *f)
{
    const struct levee_reducer *r = &f->d->reducer;
    int rc = 0;

    buf_clear(&f->turned);
    if (!buf_reserve(&f->turned, (f->parts - f->gone) * f->stride + 1)) {
        f->c->out->failed = true;
        return LEVEE_ENOMEM;
    }
    for (uint32_t i = f->parts; i > f->gone && rc >= 0; i--) {
        void *acc = turned_part(f, i - 1);
        (void)part(f, i - 1, acc);
        rc = i < f->parts ? r->merge(f->c->out, acc, turned_part(f, i), r->arg) : 0;
    }
    f->turns = true;
    f->front = f->parts - f->gone;
    f->has_running = false;
    f->changed = true;
    return rc;
}

/* Is the key, none of whose parts were turned yet, old enough for its first turn? */
static bool turns_early(const struct folding *f)
{
    const levee_stream *node = f->c->node;
    int64_t step = (int64_t)node->parents[0]->slide * node->graph->interval_ms;

    return f->ring.front == 0 && f->gone == 0 && f->parts > 0 &&
           (f->c->out->header->time_ms - part_time(f, 0)) / step >= (int64_t)(f->hash % f->most);
}

static int slide_stacks(struct folding *f)
{
    if (f->gone > f->ring.front || turns_early(f)) {
        return turn(f);
    }
    f->front = f->ring.front - f->gone;
    return take_in_from(f, first_new(f, f->gone + f->front));
}

/* Drops what has left the window and brings the rest up to date. */
static int slide(struct folding *f)
{
    int64_t from = f->c->out->header->time_ms - f->d->length_ms;

    while (f->gone < f->parts && part_time(f, f->gone) <= from) {
        f->gone++;
        f->changed = true;
    }
    return f->d->inverse ? slide_inverse(f) : slide_stacks(f);
}

/* The window's accumulator, NULL: it is empty. */
static int merge_result(struct folding *f, const void **ret)
{
    const struct levee_reducer *r = &f->d->reducer;

    if (f->front == 0) {
        *ret = f->has_running ? f->running : NULL;
        return 0;
    }
    *ret = f->result;
    if (f->turns) {
        memcpy(f->result, turned_part(f, f->gone), r->size);
    } else {
        (void)part(f, f->gone, f->result);
    }
    return f->has_running ? r->merge(f->c->out, f->result, f->running, r->arg) : 0;
}

/* The result, unless the filter drops it. */
static int emit_result(struct folding *f)
{
    const struct levee_reducer *r = &f->d->reducer;
    levee_output *out = f->c->out;
    size_t mark = out->count;
    const void *result = NULL;
    int rc = merge_result(f, &result);

    if (rc < 0 || !result) {
        return rc;
    }
    rc = r->finish(out, f->key, result, r->arg);
    if (rc < 0 || out->count != mark + 1) {
        return rc < 0 ? rc : LEVEE_EINVALID;
    }
    f->shown = true;
    if (f->d->filter) {
        struct levee_record made = out->items[mark];
        rc = f->d->filter(out, &made, f->d->filter_arg);
        if (rc < 0 || out->count != mark + 1) {
            return rc < 0 ? rc : LEVEE_EINVALID;
        }
        f->shown = rc > 0;
        out->count = mark + f->shown;
    }
    /* A key without parts lives on its last result alone. */
    f->has_running = f->has_running && (f->shown || f->parts > f->gone);
    f->changed = f->changed || f->shown != f->ring.was_shown;
    return 0;
}

static int try_key(void *arg)
{
    struct folding *f = arg;
    struct levee_slice stored =
        f->entry && f->entry->present ? rt_entry_value(f->entry) : slice_of(NULL, 0);
    int rc = 0;

    f->c->out->time_ms = 0;
    f->ring = rt_ring_open(&f->d->reducer, stored, f->running);
    f->parts = f->ring.count;
    f->gone = 0;
    f->front = f->ring.front;
    f->has_running = f->ring.has_running;
    f->shown = f->due ? false : f->ring.was_shown;
    f->turns = f->changed = false;
    if (f->came) {
        rc = make_part(f);
    }
    if (rc >= 0 && f->due) {
        rc = slide(f);
    }
    return rc >= 0 && f->due ? emit_result(f) : rc;
}

/* ---- laying down ---- */

/* The ring as the call leaves it, in slots that begin at `first` of `cap`. */
static struct rt_ring made_ring(const struct folding *f, uint32_t cap, uint32_t first)
{
    return (struct rt_ring){.cap = cap,
                            .first = first,
                            .count = f->parts - f->gone,
                            .front = f->front,
                            .has_running = f->has_running,
                            .was_shown = f->shown,
                            .has_new = !f->due && (f->ring.has_new || f->came),
                            .oldest_ms = f->gone < f->parts ? part_time(f, f->gone) : 0,
                            .upto_ms = f->due ? f->c->out->header->time_ms : f->ring.upto_ms};
}

static void put_part(const struct folding *f, uint32_t i, uint8_t *slot)
{
    put_le64(slot, (uint64_t)part_time(f, i));
    if (f->turns) {
        memcpy(slot + 8, turned_part(f, i), f->d->reducer.size);
    } else {
        (void)part(f, i, slot + 8);
    }
}

/* Where it lies: the newest part into a free slot, or into one that has just become free. */
static bool change(struct folding *f)
{
    const struct levee_reducer *r = &f->d->reducer;

    if (!rt_table_touch(f->table, f->hash, f->entry, f->c->out->header->time_ms)) {
        return false;
    }
    uint8_t *to = rt_entry_bytes(f->entry), *slots = to + RT_RING_HEAD + r->size;
    struct rt_ring now = made_ring(f, f->ring.cap, (f->ring.first + f->gone) & (f->ring.cap - 1));
    for (uint32_t i = f->turns ? f->gone : f->ring.count; i < f->parts; i++) {
        size_t at = (size_t)((f->ring.first + i) & (f->ring.cap - 1)) * rt_ring_slot_bytes(r);
        if (i < f->ring.count) {
            memcpy(slots + at + 8, turned_part(f, i), r->size);
        } else {
            put_part(f, i, slots + at);
        }
    }
    rt_ring_put_head(to, r, &now, f->running);
    return true;
}

/* Anew, with room for twice as much or less: at a cost that what came or left has paid for. */
static bool lay_anew(struct folding *f, uint32_t cap)
{
    const struct levee_reducer *r = &f->d->reducer;
    int64_t time = f->c->out->header->time_ms;
    struct rt_ring now = made_ring(f, cap, 0);
    size_t n = RT_RING_HEAD + r->size + cap * rt_ring_slot_bytes(r);

    buf_clear(&f->bytes);
    if (!buf_reserve(&f->bytes, n)) {
        return false;
    }
    uint8_t *to = f->bytes.data;
    memset(to, 0, n);
    rt_ring_put_head(to, r, &now, f->running);
    for (uint32_t i = f->gone; i < f->parts; i++) {
        put_part(f, i, to + RT_RING_HEAD + r->size + (i - f->gone) * rt_ring_slot_bytes(r));
    }
    struct levee_slice bytes = slice_of(to, n);
    return f->entry ? rt_table_put(f->table, f->hash, f->entry, bytes, time)
                    : rt_table_add(f->table, f->hash, f->key, bytes, time) != NULL;
}

static bool lay_down(struct folding *f)
{
    bool there = f->entry && f->entry->present;
    uint32_t left = f->parts - f->gone, cap = 1;

    if (left == 0 && !f->has_running) {
        return !there || rt_table_remove(f->table, f->hash, f->entry);
    }
    if (!f->changed) {
        return true;
    }
    bool loose = f->ring.cap > 8 && left < f->ring.cap / 4;
    if (there && left <= f->ring.cap && !loose) {
        return change(f);
    }
    while (cap < left) {
        cap *= 2;
    }
    return lay_anew(f, cap);
}

/* The key at hand. It is a copy of its entry's: what is emitted must outlive that. */
static int fold_key(struct folding *f)
{
    struct levee_record input = {.key = f->key};
    bool skipped;
    int code = rt_call_guarded(f->c, f->c->index++, &input, try_key, f, &skipped);
    if (code == LEVEE_OK && !skipped && !lay_down(f)) {
        code = rt_call_nomem(f->c);
    }
    return code ? code : rt_call_emitted(f->c);
}

/* ---- all keys ---- */

/* A key's head and the two ends of its ring are three misses of the cache in a long window. They
 * are asked for while keys before it are folded: first the head, then the ends that it names. */
static void ask_for_head(const struct rt_entry *e)
{
    if (e && e->present) {
        __builtin_prefetch(rt_entry_value(e).data);
    }
}

static void ask_for_ends(const struct folding *f, const struct rt_entry *e, bool newest)
{
    if (!e || !e->present) {
        return;
    }
    struct rt_ring w = rt_ring_open(&f->d->reducer, rt_entry_value(e), f->acc);
    __builtin_prefetch(rt_ring_slot(&w, &f->d->reducer, 0));
    if (newest) {
        __builtin_prefetch(rt_ring_slot(&w, &f->d->reducer, w.count));
    }
}

static const struct rt_entry *entry_ahead(const struct folding *f, size_t i)
{
    if (i >= f->g->keys.count || f->g->to_one) {
        return NULL;
    }
    struct levee_slice key = f->g->keys.items[i].key;
    return rt_table_find(f->table, hash_key(key.data, key.len), key, rt_key_head(key));
}

static int fold_untouched(struct folding *f)
{
    /* Where all go to one, the absent key's state lies in its own group, like any key's. */
    uint32_t group = f->g->to_one ? rt_group_of(hash_key(NULL, 0)) : f->g->group;
    size_t n = 0;
    const struct rt_listed *list =
        rt_table_list(f->c->out->arena, f->table, group, &f->g->keys, &n);
    int code = list ? LEVEE_OK : rt_call_nomem(f->c);

    f->came = NULL;
    for (size_t i = 0; list && i < n && code == LEVEE_OK; i++) {
        f->hash = list[i].hash;
        f->key = f->g->to_one ? slice_of(NULL, 0) : list[i].key;
        f->entry = rt_table_find(f->table, f->hash, f->key, rt_key_head(f->key));
        ask_for_head(i + AHEAD < n ? list[i + AHEAD].entry : NULL);
        if (!f->d->inverse) { /* whose result needs the oldest part */
            ask_for_ends(f, i + AHEAD / 2 < n ? list[i + AHEAD / 2].entry : NULL, false);
        }
        code = fold_key(f);
    }
    return code;
}

static bool scratch(struct folding *f)
{
    size_t size = f->d->reducer.size;

    f->acc = rt_output_alloc(f->c->out, size);
    f->fresh = rt_output_alloc(f->c->out, size);
    f->running = rt_output_alloc(f->c->out, size);
    f->result = rt_output_alloc(f->c->out, size);
    if (f->running) {
        memset(f->running, 0, size);
    }
    return !f->c->out->failed;
}

static int fold_keys(struct folding *f)
{
    const struct rt_groups *g = f->g;
    int code = LEVEE_OK;

    for (size_t i = 0; i < g->keys.count && code == LEVEE_OK; i++) {
        const struct rt_key *k = &g->keys.items[i];
        f->key = k->key;
        /* k->hash is another one where all go to one. */
        f->hash = hash_key(k->key.data, k->key.len);
        f->entry = rt_table_find(f->table, f->hash, f->key, rt_key_head(k->key));
        f->came = k;
        ask_for_head(entry_ahead(f, i + AHEAD));
        ask_for_ends(f, entry_ahead(f, i + AHEAD / 2), true);
        code = fold_key(f);
    }
    /* The one key of to_one has another hash among the touched than in the table. */
    bool all_touched = g->to_one && g->keys.count;
    return code == LEVEE_OK && f->due && !all_touched ? fold_untouched(f) : code;
}

static int fold(struct rt_call *c, const struct rt_groups *g, struct rt_table *t)
{
    struct folding f = {.c = c, .d = rt_window_of(c->node), .table = t, .g = g, .due = rt_due(c)};
    int64_t step = (int64_t)c->node->parents[0]->slide * c->node->graph->interval_ms;

    f.most = (uint32_t)(f.d->length_ms / step);
    f.stride = align_up(f.d->reducer.size, 8);
    int code = scratch(&f) ? fold_keys(&f) : rt_call_nomem(c);
    buf_release(&f.bytes);
    buf_release(&f.turned);
    return code;
}

static const struct levee_reducer *combine(const levee_stream *node)
{
    return &rt_window_of(node)->reducer;
}

static const struct rt_operator by_key_operator = {.name = "reduce_by_key_and_window",
                                                   .codec = WINDOW_RING_CODEC,
                                                   .combine = combine,
                                                   .fold = fold,
                                                   .keeps = true,
                                                   .every_batch = rt_window_every_batch,
                                                   .free_data = rt_free_data,
                                                   .stateful = true};
static const struct rt_operator to_one_operator = {.name = "reduce_by_window",
                                                   .codec = WINDOW_RING_CODEC,
                                                   .to_one = true,
                                                   .combine = combine,
                                                   .fold = fold,
                                                   .keeps = true,
                                                   .every_batch = rt_window_every_batch,
                                                   .free_data = rt_free_data,
                                                   .stateful = true};

levee_stream *levee_reduce_by_key_and_window_at(levee_stream *s, const char *uid,
                                                const struct levee_reducer *r,
                                                const struct levee_window *window, const char *file,
                                                int line)
{
    if (s && !r) {
        return rt_graph_fail(s->graph, file, line, LEVEE_EINVALID,
                             "reduce_by_key_and_window: no reducer");
    }
    return rt_lower_window(s, &by_key_operator, uid, window, r, file, line);
}

levee_stream *levee_reduce_by_window_at(levee_stream *s, const char *uid,
                                        const struct levee_reducer *r,
                                        const struct levee_window *window, const char *file,
                                        int line)
{
    if (s && !r) {
        return rt_graph_fail(s->graph, file, line, LEVEE_EINVALID, "reduce_by_window: no reducer");
    }
    return rt_lower_window(s, &to_one_operator, uid, window, r, file, line);
}

levee_stream *levee_count_by_window_at(levee_stream *s, const char *uid, uint32_t length_ms,
                                       uint32_t slide_ms, const char *file, int line)
{
    struct levee_window w = {.length_ms = length_ms, .slide_ms = slide_ms, .inverse = true};

    return levee_reduce_by_window_at(s, uid, &levee_count_values, &w, file, line);
}

static int is_not_zero(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)out;
    (void)arg;
    return levee_i64(in->value) != 0;
}

levee_stream *levee_count_by_value_and_window_at(levee_stream *s, const char *uid,
                                                 const struct levee_window *window,
                                                 const char *file, int line)
{
    struct levee_window w = window ? *window : (struct levee_window){.length_ms = 0};

    w.inverse = true;
    w.filter = is_not_zero;
    return levee_reduce_by_key_and_window_at(rt_lower_values_as_keys(s, file, line), uid,
                                             &levee_count_values, &w, file, line);
}
