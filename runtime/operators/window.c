/*
 * window and group_by_key_and_window: the records of the last batches, kept as they came.
 *
 * This is the retained edge of the design: what a key group received in one batch is packed into
 * one chunk, a value in the node's table under (batch time, number). A chunk is written once, by
 * the batch that brought it, and removed when it has left the window, so a checkpoint carries each
 * record once, and nothing in it points into the log. The number is chosen so that the key hashes
 * to its own group: then chunks are dealt, loaded and resharded like any other state.
 *
 *   window                     all records are dealt to one partition, for the order of a window
 *                              is batch by batch, and partition by partition only inside a batch
 *   group_by_key_and_window    records are dealt by key; when due, the chunks are grouped, values
 * in the order of batches and, inside a batch, of arrival
 *
 * A window of length L that is due at t holds the batches with time in (t - L, t].
 */
#include "runtime/operators/window.h"

#include <stdlib.h>

#define CHUNK_KEY 12u /* time, number */

/* ---- chunks ---- */

struct chunk {
    int64_t time_ms;
    struct rt_entry *entry;
    uint64_t hash;
};

static struct levee_slice chunk_key(uint8_t buf[CHUNK_KEY], int64_t time_ms, uint32_t number)
{
    put_le64(buf, (uint64_t)time_ms);
    put_le32(buf + 8, number);
    return slice_of(buf, CHUNK_KEY);
}

static bool put_chunk(struct rt_call *c, struct rt_table *t, uint32_t group,
                      struct levee_slice bytes)
{
    int64_t now = c->out->header->time_ms;
    uint8_t buf[CHUNK_KEY];
    uint32_t number = 0;
    struct levee_slice key;
    uint64_t hash;

    do { /* 128 tries on average */
        key = chunk_key(buf, now, number++);
        hash = hash_key(key.data, key.len);
    } while (rt_group_of(hash) != group);
    /* A removed chunk that no checkpoint has seen yet may still have this place. */
    struct rt_entry *e = rt_table_find(t, hash, key, rt_key_head(key));
    return e ? rt_table_put(t, hash, e, bytes, now)
             : rt_table_add(t, hash, key, bytes, now) != NULL;
}

/* The records of a batch in arrival order. */
static bool pack(const struct rt_groups *g, struct buf *ret)
{
    buf_clear(ret);
    for (size_t i = 0; i < g->item_count; i++) {
        buf_slice(ret, g->items[i]->key);
        buf_slice(ret, g->items[i]->value);
        buf_u64(ret, (uint64_t)g->items[i]->time_ms);
    }
    return !ret->failed;
}

static int by_time(const void *a, const void *b)
{
    const struct chunk *x = a, *y = b;

    return (x->time_ms > y->time_ms) - (x->time_ms < y->time_ms);
}

/* The group's chunks that are in the window, oldest first; those that have left it are removed. */
static int list_chunks(struct rt_call *c, struct rt_table *t, uint32_t group, struct chunk **ret,
                       size_t *ret_n)
{
    const struct rt_state_group *sg = &t->groups[group];
    int64_t from = c->out->header->time_ms - rt_window_of(c->node)->length_ms;
    struct chunk *list = rt_output_alloc(c->out, ((size_t)sg->keys + 1) * sizeof *list);
    size_t n = 0;

    if (!list) {
        return rt_call_nomem(c);
    }
    for (uint32_t i = 0; i < sg->count; i++) {
        struct rt_entry *e = &sg->entries[i];
        if (e->present) {
            struct levee_slice key = rt_entry_key(e);
            list[n++] = (struct chunk){(int64_t)get_le64(key.data), e, hash_key(key.data, key.len)};
        }
    }
    qsort(list, n, sizeof *list, by_time);
    size_t gone = 0;
    while (gone < n && list[gone].time_ms <= from) {
        if (!rt_table_remove(t, list[gone].hash, list[gone].entry)) {
            return rt_call_nomem(c);
        }
        gone++;
    }
    *ret = list + gone;
    *ret_n = n - gone;
    return LEVEE_OK;
}

/* The batch's records into a chunk of their own. */
static int keep_batch(struct rt_call *c, const struct rt_groups *g, struct rt_table *t)
{
    struct buf bytes = {0};
    bool kept =
        g->item_count == 0 || (pack(g, &bytes) && put_chunk(c, t, g->group, buf_view(&bytes)));

    buf_release(&bytes);
    return kept ? LEVEE_OK : rt_call_nomem(c);
}

/* A copy of a chunk that lives as long as the batch: the chunk itself may leave with the next. */
static struct cursor open_chunk(struct rt_call *c, const struct chunk *chunk)
{
    struct levee_slice bytes = rt_entry_value(chunk->entry);
    uint8_t *copy = rt_output_alloc(c->out, bytes.len);

    if (copy && bytes.len) {
        memcpy(copy, bytes.data, bytes.len);
    }
    return cursor_of(slice_of(copy, copy ? bytes.len : 0));
}

static struct levee_record next_record(struct cursor *c)
{
    struct levee_record r;

    r.key = cur_slice(c);
    r.value = cur_slice(c);
    r.time_ms = (int64_t)cur_u64(c);
    ASSERT(!c->bad); /* a checkpoint is verified before it is loaded */
    return r;
}

/* ---- window ---- */

static int fold_window(struct rt_call *c, const struct rt_groups *g, struct rt_table *t)
{
    struct chunk *chunks = NULL;
    size_t n = 0;
    int code = keep_batch(c, g, t);

    if (code || !rt_due(c)) {
        return code;
    }
    code = list_chunks(c, t, g->group, &chunks, &n);
    for (size_t i = 0; i < n && code == LEVEE_OK; i++) {
        struct cursor cur = open_chunk(c, &chunks[i]);
        while (cur_left(&cur) && code == LEVEE_OK) {
            struct levee_record r = next_record(&cur);
            c->out->time_ms = r.time_ms;
            (void)rt_output_add(c->out, r.key, r.value); /* the output remembers a failure */
            code = rt_call_emitted(c);
        }
    }
    return code;
}

static const struct rt_operator window_operator = {.name = "window",
                                                   .to_one = true,
                                                   .keeps_time = true,
                                                   .fold = fold_window,
                                                   .keeps = true,
                                                   .every_batch = rt_window_every_batch,
                                                   .free_data = rt_free_data,
                                                   .stateful = true};

levee_stream *levee_window_at(levee_stream *s, const char *uid, uint32_t length_ms,
                              uint32_t slide_ms, const char *file, int line)
{
    struct levee_window w = {.length_ms = length_ms, .slide_ms = slide_ms};

    return rt_lower_window(s, &window_operator, uid, &w, NULL, file, line);
}

/* ---- remember: kept, and never emitted ---- */

static int fold_remember(struct rt_call *c, const struct rt_groups *g, struct rt_table *t)
{
    struct chunk *chunks = NULL;
    size_t n = 0;
    int code = keep_batch(c, g, t);

    return code ? code : list_chunks(c, t, g->group, &chunks, &n); /* drops what is too old */
}

static const struct rt_operator remember_operator = {.name = "remember",
                                                     .to_one = true,
                                                     .fold = fold_remember,
                                                     .every_batch = rt_window_every_batch,
                                                     .free_data = rt_free_data,
                                                     .stateful = true};

static bool pack_chunks(struct chunk *list, size_t n, struct buf *ret)
{
    qsort(list, n, sizeof *list, by_time);
    for (size_t i = 0; i < n; i++) {
        buf_u64(ret, (uint64_t)list[i].time_ms);
        buf_slice(ret, rt_entry_value(list[i].entry));
    }
    return !ret->failed;
}

int rt_window_read(const struct rt_table *t, int64_t from_ms, int64_t to_ms, struct buf *ret)
{
    const struct levee_stream *node = t->node;
    int64_t slide = (int64_t)node->slide * node->graph->interval_ms;
    const struct rt_state_group *g = &t->groups[0];

    if (node->op != &remember_operator) {
        return LEVEE_ENOTFOUND;
    }
    struct chunk *list = mem_alloc(((size_t)g->count + 1) * sizeof *list);
    size_t n = 0;
    for (uint32_t i = 0; list && i < g->count; i++) {
        struct rt_entry *e = &g->entries[i];
        int64_t time = e->present ? (int64_t)get_le64(rt_entry_key(e).data) : INT64_MIN;
        if (e->present && time >= from_ms - from_ms % slide && time <= to_ms - to_ms % slide) {
            list[n++] = (struct chunk){time, e, 0};
        }
    }
    bool packed = list && pack_chunks(list, n, ret);
    mem_free(list);
    return packed ? LEVEE_OK : LEVEE_ENOMEM;
}

levee_stream *levee_remember_at(levee_stream *s, const char *uid, uint32_t duration_ms,
                                const char *file, int line)
{
    struct levee_window w = {.length_ms = duration_ms};

    w.slide_ms = s ? s->slide * s->graph->interval_ms : 0;
    return rt_lower_window(s, &remember_operator, uid, &w, NULL, file, line);
}

/* ---- group_by_key_and_window ---- */

struct member { /* a value of a key, in a list */
    struct levee_slice value;
    struct member *next;
};

struct regroup {
    struct rt_keys keys;
    struct member **first, **last; /* by key */
    size_t first_cap, last_cap;
};

static bool add_member(struct rt_call *c, struct regroup *r, const struct levee_record *in)
{
    uint64_t hash = hash_key(in->key.data, in->key.len), head = rt_key_head(in->key);
    struct rt_key *k = rt_keys_find(&r->keys, hash, in->key, head);
    struct member *m = rt_output_alloc(c->out, sizeof *m);
    void *first = r->first, *last = r->last;

    if (!m || (!k && !(k = rt_keys_add(&r->keys, hash, in->key, head))) ||
        !mem_grow(&first, &r->first_cap, r->keys.count, sizeof *r->first)) {
        return false;
    }
    r->first = first;
    if (!mem_grow(&last, &r->last_cap, r->keys.count, sizeof *r->last)) {
        return false;
    }
    r->last = last;
    *m = (struct member){in->value, NULL};
    size_t at = (size_t)(k - r->keys.items);
    if (k->count++ == 0) {
        r->first[at] = m;
    } else {
        r->last[at]->next = m;
    }
    r->last[at] = m;
    return true;
}

static bool emit_group(struct rt_call *c, struct levee_slice key, const struct member *first)
{
    size_t size = 0;

    for (const struct member *m = first; m; m = m->next) {
        size += rt_sequence_size(m->value);
    }
    uint8_t *bytes = rt_output_alloc(c->out, size), *to = bytes;
    for (const struct member *m = first; m && bytes; m = m->next) {
        to = rt_sequence_put(to, m->value);
    }
    c->out->time_ms = 0;
    return bytes && rt_output_add(c->out, key, slice_of(bytes, size)) == LEVEE_OK;
}

static int emit_groups(struct rt_call *c, struct regroup *r, const struct chunk *chunks, size_t n)
{
    int code = LEVEE_OK;

    for (size_t i = 0; i < n; i++) {
        struct cursor cur = open_chunk(c, &chunks[i]);
        while (cur_left(&cur)) {
            struct levee_record in = next_record(&cur);
            if (!add_member(c, r, &in)) {
                return rt_call_nomem(c);
            }
        }
    }
    for (size_t i = 0; i < r->keys.count && code == LEVEE_OK; i++) {
        code = emit_group(c, r->keys.items[i].key, r->first[i]) ? rt_call_emitted(c)
                                                                : rt_call_nomem(c);
    }
    return code;
}

static int fold_groups(struct rt_call *c, const struct rt_groups *g, struct rt_table *t)
{
    struct regroup r = {0};
    struct chunk *chunks = NULL;
    size_t n = 0;
    int code = keep_batch(c, g, t);

    if (code == LEVEE_OK && rt_due(c)) {
        code = list_chunks(c, t, g->group, &chunks, &n);
        code = code ? code : emit_groups(c, &r, chunks, n);
    }
    rt_keys_release(&r.keys);
    mem_free(r.first);
    mem_free(r.last);
    return code;
}

static const struct rt_operator group_operator = {.name = "group_by_key_and_window",
                                                  .fold = fold_groups,
                                                  .keeps = true,
                                                  .every_batch = rt_window_every_batch,
                                                  .free_data = rt_free_data,
                                                  .stateful = true};

levee_stream *levee_group_by_key_and_window_at(levee_stream *s, const char *uid,
                                               const struct levee_window *window, const char *file,
                                               int line)
{
    return rt_lower_window(s, &group_operator, uid, window, NULL, file, line);
}
