/*
 * Reducing windows. State per key: the accumulators of the batches in the window (a ring), and the
 * running result.
 *
 * A batch that brings values for a key appends one accumulator. When the window is due, what has
 * left is dropped and the result brought up to date:
 *
 *   inverse   the running result minus what left, plus what came: O(changed). A key stays, with
 *             whatever the inverse left of it, until a filter drops it. Where there is no running
 *             result (a key is new, or was dropped) it is made from the whole ring, so that a key
 *             that comes back after a filter, or a slide longer than the window, is right.
 *   without   as long as nothing left, the running result plus what came; otherwise the ring is
 *             reduced anew. A key whose ring is empty is gone.
 *
 * Spark computes the first case without looking back and gets both corners wrong; we do not follow.
 */
#include "runtime/operators/window.h"

#include <stdlib.h>

/* ---- a key's state as bytes: flags, upto, running, ring ---- */

#define HAS_RUNNING 1u
#define HEAD_BYTES  9u

struct ring {
    bool has_running;
    int64_t upto_ms; /* batches up to this time are in the running result */
    uint8_t *running;
    uint8_t *parts; /* (time, accumulator)*, oldest first */
    size_t count;
};

static size_t part_bytes(const struct levee_reducer *r)
{
    return 8 + r->size;
}

static int64_t part_time(const struct ring *w, const struct levee_reducer *r, size_t i)
{
    return (int64_t)get_le64(w->parts + i * part_bytes(r));
}

/* Accumulators want to be aligned; those in a ring are copied out. */
static const void *part(const struct ring *w, const struct levee_reducer *r, size_t i,
                        void *aligned)
{
    return memcpy(aligned, w->parts + i * part_bytes(r) + 8, r->size);
}

/* Room for one part more. false: no memory. */
static bool ring_open(struct rt_call *c, const struct levee_reducer *r, struct levee_slice stored,
                      struct ring *ret)
{
    size_t ring = stored.len > HEAD_BYTES + r->size ? stored.len - HEAD_BYTES - r->size : 0;

    ret->running = rt_output_alloc(c->out, r->size);
    ret->parts = rt_output_alloc(c->out, ring + part_bytes(r));
    ret->count = ring / part_bytes(r); /* NOLINT(clang-analyzer-core.DivideZero): at least 8 */
    ret->has_running = stored.len && (stored.data[0] & HAS_RUNNING);
    ret->upto_ms = stored.len ? (int64_t)get_le64(stored.data + 1) : INT64_MIN;
    if (!ret->running || !ret->parts) {
        return false;
    }
    if (stored.len) {
        memcpy(ret->running, stored.data + HEAD_BYTES, r->size);
    }
    if (ring) {
        memcpy(ret->parts, stored.data + HEAD_BYTES + r->size, ring);
    }
    return true;
}

static struct levee_slice ring_bytes(struct rt_call *c, const struct levee_reducer *r,
                                     const struct ring *w)
{
    size_t n = HEAD_BYTES + r->size + w->count * part_bytes(r);
    uint8_t *bytes = rt_output_alloc(c->out, n);

    if (bytes) {
        bytes[0] = w->has_running ? HAS_RUNNING : 0;
        put_le64(bytes + 1, (uint64_t)w->upto_ms);
        memcpy(bytes + HEAD_BYTES, w->running, r->size);
        memcpy(bytes + HEAD_BYTES + r->size, w->parts, w->count * part_bytes(r));
    }
    return slice_of(bytes, bytes ? n : 0);
}

/* ---- one key ---- */

struct folding {
    struct rt_call *c;
    const struct rt_window *d;
    struct rt_table *table;
    const struct rt_groups *g;
    bool due;
    void *acc; /* scratch */
    /* the key at hand */
    uint64_t hash, head;
    struct levee_slice key;
    const struct rt_key *came; /* NULL: nothing */
    struct rt_entry *entry;
    struct ring ring;
    bool emits;
};

/* The batch's accumulators of the key, merged, become the newest part. */
static int append_part(struct folding *f)
{
    const struct levee_reducer *r = &f->d->reducer;
    levee_output *out = f->c->out;
    uint8_t *to = f->ring.parts + f->ring.count * part_bytes(r);
    int rc = 0;

    put_le64(to, (uint64_t)out->header->time_ms);
    if (f->g->summed) {
        memcpy(f->acc, &f->came->sum, sizeof f->came->sum);
    } else {
        uint32_t at = f->came->items.first;
        memcpy(f->acc, f->g->items[at]->value.data, r->size);
        for (at = f->g->links[at]; at != UINT32_MAX && rc >= 0; at = f->g->links[at]) {
            rc = r->merge(out, f->acc, f->g->items[at]->value.data, r->arg);
        }
    }
    memcpy(to + 8, f->acc, r->size);
    f->ring.count++;
    return rc;
}

/* Merges part i into the running result, or begins it. */
static int take_in(struct folding *f, size_t i)
{
    const struct levee_reducer *r = &f->d->reducer;

    if (!f->ring.has_running) {
        memcpy(f->ring.running, part(&f->ring, r, i, f->acc), r->size);
        f->ring.has_running = true;
        return 0;
    }
    return r->merge(f->c->out, f->ring.running, part(&f->ring, r, i, f->acc), r->arg);
}

/* Drops what has left the window and brings the running result up to date. */
static int slide(struct folding *f)
{
    const struct levee_reducer *r = &f->d->reducer;
    struct ring *w = &f->ring;
    int64_t now = f->c->out->header->time_ms, from = now - f->d->length_ms;
    size_t gone = 0;
    int rc = 0;

    while (gone < w->count && part_time(w, r, gone) <= from) {
        gone++;
    }
    bool invert = f->d->inverse && w->has_running;
    for (size_t i = 0; i < gone && rc >= 0 && invert; i++) {
        if (part_time(w, r, i) <= w->upto_ms) { /* the others came and left between two slides */
            rc = r->remove(f->c->out, w->running, part(w, r, i, f->acc), r->arg);
        }
    }
    if (!f->d->inverse && gone) {
        w->has_running = false;
    }
    bool whole = !w->has_running;
    for (size_t i = gone; i < w->count && rc >= 0; i++) {
        rc = whole || part_time(w, r, i) > w->upto_ms ? take_in(f, i) : 0;
    }
    memmove(w->parts, w->parts + gone * part_bytes(r), (w->count - gone) * part_bytes(r));
    w->count -= gone;
    w->upto_ms = now;
    return rc;
}

/* The result, unless the filter drops it. */
static int emit_result(struct folding *f)
{
    const struct levee_reducer *r = &f->d->reducer;
    levee_output *out = f->c->out;
    size_t mark = out->count;

    if (!f->ring.has_running) {
        return 0;
    }
    int rc = r->finish(out, f->key, f->ring.running, r->arg);
    if (rc < 0 || out->count != mark + 1) {
        return rc < 0 ? rc : LEVEE_EINVALID;
    }
    if (f->d->filter) {
        struct levee_record result = out->items[mark];
        rc = f->d->filter(out, &result, f->d->filter_arg);
        if (rc < 0 || out->count != mark + 1) {
            return rc < 0 ? rc : LEVEE_EINVALID;
        }
        f->emits = rc > 0;
        f->ring.has_running = rc > 0;
        out->count = mark + f->emits;
        return 0;
    }
    f->emits = true;
    return 0;
}

static int try_key(void *arg)
{
    struct folding *f = arg;
    struct levee_slice stored =
        f->entry && f->entry->present ? rt_entry_value(f->entry) : slice_of(NULL, 0);
    int rc = 0;

    f->emits = false;
    f->c->out->time_ms = 0;
    if (!ring_open(f->c, &f->d->reducer, stored, &f->ring)) {
        return LEVEE_ENOMEM;
    }
    if (f->came) {
        rc = append_part(f);
    }
    if (rc >= 0 && f->due) {
        rc = slide(f);
    }
    return rc >= 0 && f->due ? emit_result(f) : rc;
}

static bool lay_down(struct folding *f)
{
    const struct levee_reducer *r = &f->d->reducer;
    int64_t now = f->c->out->header->time_ms;
    bool there = f->entry && f->entry->present;

    if (f->ring.count == 0 && !f->ring.has_running) {
        return !there || rt_table_remove(f->table, f->hash, f->entry);
    }
    struct levee_slice bytes = ring_bytes(f->c, r, &f->ring);
    if (!bytes.data) {
        return false;
    }
    return f->entry ? rt_table_put(f->table, f->hash, f->entry, bytes, now)
                    : rt_table_add(f->table, f->hash, f->key, bytes, now) != NULL;
}

/* The key of an entry is copied: what is emitted must outlive it. */
static int fold_key(struct folding *f)
{
    struct levee_record input = {.key = f->key};
    bool skipped;

    f->entry = rt_table_find(f->table, f->hash, f->key, f->head);
    int code = rt_call_guarded(f->c, f->c->index++, &input, try_key, f, &skipped);
    if (code == LEVEE_OK && !skipped && !lay_down(f)) {
        code = rt_call_nomem(f->c);
    }
    return code ? code : rt_call_emitted(f->c);
}

/* ---- all keys ---- */

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
        f->head = rt_key_head(f->key);
        code = fold_key(f);
    }
    return code;
}

static int fold(struct rt_call *c, const struct rt_groups *g, struct rt_table *t)
{
    struct folding f = {.c = c, .d = rt_window_of(c->node), .table = t, .g = g, .due = rt_due(c)};
    int code = LEVEE_OK;

    f.acc = rt_output_alloc(c->out, f.d->reducer.size);
    if (!f.acc) {
        return rt_call_nomem(c);
    }
    for (size_t i = 0; i < g->keys.count && code == LEVEE_OK; i++) {
        const struct rt_key *k = &g->keys.items[i];
        f.key = k->key;
        f.head = rt_key_head(k->key);
        f.hash = hash_key(k->key.data, k->key.len); /* k->hash is another one where all go to one */
        f.came = k;
        code = fold_key(&f);
    }
    /* The one key of to_one has another hash among the touched than in the table. */
    bool all_touched = g->to_one && g->keys.count;
    return code == LEVEE_OK && f.due && !all_touched ? fold_untouched(&f) : code;
}

static const struct levee_reducer *combine(const levee_stream *node)
{
    return &rt_window_of(node)->reducer;
}

static const struct rt_operator by_key_operator = {.name = "reduce_by_key_and_window",
                                                   .combine = combine,
                                                   .fold = fold,
                                                   .keeps = true,
                                                   .every_batch = rt_window_every_batch,
                                                   .free_data = rt_free_data,
                                                   .stateful = true};
static const struct rt_operator to_one_operator = {.name = "reduce_by_window",
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
