/* The panes of one key: reading, writing, and where they lie. See event_window.h. */
#include "runtime/operators/event_window.h"

#define PANE_HEAD 17u /* start, end, flags */
#define CHANGED   1u

int64_t rt_pane_first_end(const struct rt_event_window *d, const struct rt_pane *p)
{
    if (d->gap_ms) {
        return p->end_ms;
    }
    return rt_floor_to(p->start_ms - d->length_ms, d->slide_ms) + d->slide_ms + d->length_ms;
}

int64_t rt_pane_last_end(const struct rt_event_window *d, const struct rt_pane *p)
{
    return d->gap_ms ? p->end_ms : rt_floor_to(p->start_ms, d->slide_ms) + d->length_ms;
}

int64_t rt_pane_next_end(const struct rt_event_window *d, const struct rt_pane *p, int64_t after)
{
    int64_t first = rt_pane_first_end(d, p), last = rt_pane_last_end(d, p);

    if (first <= after) {
        first =
            d->gap_ms ? RT_NEVER : first + rt_floor_to(after - first, d->slide_ms) + d->slide_ms;
    }
    return first <= last ? first : RT_NEVER;
}

static size_t stored_size(const struct rt_event_window *d)
{
    return PANE_HEAD + d->reducer.size;
}

static bool grow(struct arena *a, struct rt_panes *panes)
{
    size_t cap = panes->cap ? 2 * panes->cap : 8;
    struct rt_pane *items = arena_alloc(a, cap * sizeof *items);

    if (!items) {
        return false;
    }
    if (panes->count) {
        memcpy(items, panes->items, panes->count * sizeof *items);
    }
    panes->items = items;
    panes->cap = cap;
    return true;
}

bool rt_panes_read(struct arena *a, const struct rt_event_window *d, struct levee_slice stored,
                   struct rt_panes *ret)
{
    size_t size = stored_size(d), n = stored.len / size;

    *ret = (struct rt_panes){.cap = n + 1};
    ret->items = arena_alloc(a, ret->cap * sizeof *ret->items);
    if (!ret->items) {
        return false;
    }
    for (; ret->count < n; ret->count++) {
        const uint8_t *from = stored.data + ret->count * size;
        uint8_t *acc = arena_copy(a, from + PANE_HEAD, d->reducer.size);
        if (!acc) {
            return false;
        }
        ret->items[ret->count] = (struct rt_pane){.start_ms = (int64_t)get_le64(from),
                                                  .end_ms = (int64_t)get_le64(from + 8),
                                                  .acc = acc,
                                                  .changed = from[16] & CHANGED};
    }
    return true;
}

struct levee_slice rt_panes_write(struct arena *a, const struct rt_event_window *d,
                                  const struct rt_panes *panes)
{
    size_t size = stored_size(d);
    uint8_t *bytes = arena_alloc(a, panes->count * size);

    for (size_t i = 0; i < panes->count && bytes; i++) {
        const struct rt_pane *p = &panes->items[i];
        uint8_t *to = bytes + i * size;
        put_le64(to, (uint64_t)p->start_ms);
        put_le64(to + 8, (uint64_t)p->end_ms);
        to[16] = p->changed ? CHANGED : 0;
        memcpy(to + PANE_HEAD, p->acc, d->reducer.size);
    }
    return slice_of(bytes, bytes ? panes->count * size : 0);
}

/* From the end: records mostly come in the order of their times. */
size_t rt_panes_overlap(const struct rt_panes *panes, int64_t start_ms, int64_t end_ms,
                        size_t *ret_from)
{
    size_t to = panes->count;

    while (to > 0 && panes->items[to - 1].start_ms >= end_ms) {
        to--;
    }
    size_t from = to;
    while (from > 0 && panes->items[from - 1].end_ms > start_ms) {
        from--;
    }
    *ret_from = from;
    return to;
}

bool rt_panes_replace(struct arena *a, struct rt_panes *panes, size_t from, size_t to,
                      const struct rt_pane *by)
{
    if (from == to && panes->count == panes->cap && !grow(a, panes)) {
        return false;
    }
    memmove(panes->items + from + 1, panes->items + to, (panes->count - to) * sizeof *panes->items);
    panes->items[from] = *by;
    panes->count = panes->count + 1 - (to - from);
    return true;
}

void rt_panes_drop(const struct rt_event_window *d, struct rt_panes *panes, int64_t watermark_ms)
{
    size_t kept = 0;

    for (size_t i = 0; i < panes->count; i++) {
        if (rt_pane_over(d, &panes->items[i]) > watermark_ms) {
            panes->items[kept++] = panes->items[i];
        }
    }
    panes->count = kept;
}
