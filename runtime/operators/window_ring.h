/*
 * A key's ring in a reducing window, as the bytes that the table holds: a head, the running
 * accumulator, and a power of two of slots, each the time and the accumulator of a part. What the
 * parts mean is window_reduce.c's.
 *
 * A key to which nothing happens, and that is most of them, is done from its head, but for the
 * oldest part where that is half of the result: in a long window every slot is a miss of the cache.
 * Hence the time of the oldest part, and the flag for parts that are new.
 */
#ifndef LEVEE_RT_WINDOW_RING_H
#define LEVEE_RT_WINDOW_RING_H

#include "runtime/operators/window.h"

#define WINDOW_RING_CODEC 2 /* 1 had no stacks and was not circular */

/* ---- a key's state as bytes: flags, upto, oldest, first, count, front, running, slots ---- */

#define RT_RING_RUNNING 1u
#define RT_RING_SHOWN   2u /* with inverse: the filter kept the last result */
#define RT_RING_NEW     4u /* parts came since the last slide */
#define RT_RING_HEAD    29u

struct rt_ring {
    const uint8_t *slots;       /* (time, accumulator)*, in the table */
    uint32_t cap, first, count; /* of slots, a power of two; the oldest part is in slot `first` */
    uint32_t front;             /* of the oldest parts: they hold what is behind them, too */
    bool has_running, was_shown, has_new;
    int64_t upto_ms;   /* batches up to this time are in running, or in the front */
    int64_t oldest_ms; /* time of the oldest part */
};

static inline size_t rt_ring_slot_bytes(const struct levee_reducer *r)
{
    return 8 + r->size;
}

static inline const uint8_t *rt_ring_slot(const struct rt_ring *w, const struct levee_reducer *r,
                                          uint32_t i)
{
    return w->slots + (size_t)((w->first + i) & (w->cap - 1)) * rt_ring_slot_bytes(r);
}

/* Reads what is stored; `running` is copied, for it must be aligned and is changed by the call. */
static inline struct rt_ring rt_ring_open(const struct levee_reducer *r, struct levee_slice stored,
                                          void *ret_running)
{
    struct rt_ring w = {.upto_ms = INT64_MIN};

    if (stored.len) {
        const uint8_t *p = stored.data;
        w.has_running = p[0] & RT_RING_RUNNING;
        w.was_shown = p[0] & RT_RING_SHOWN;
        w.has_new = p[0] & RT_RING_NEW;
        w.upto_ms = (int64_t)get_le64(p + 1);
        w.oldest_ms = (int64_t)get_le64(p + 9);
        w.first = get_le32(p + 17);
        w.count = get_le32(p + 21);
        w.front = get_le32(p + 25);
        memcpy(ret_running, p + RT_RING_HEAD, r->size);
        w.slots = p + RT_RING_HEAD + r->size;
        w.cap = (uint32_t)((stored.len - RT_RING_HEAD - r->size) / rt_ring_slot_bytes(r));
    }
    return w;
}

static inline void rt_ring_put_head(uint8_t *to, const struct levee_reducer *r,
                                    const struct rt_ring *w, const void *running)
{
    to[0] = (uint8_t)((w->has_running ? RT_RING_RUNNING : 0) | (w->was_shown ? RT_RING_SHOWN : 0) |
                      (w->has_new ? RT_RING_NEW : 0));
    put_le64(to + 1, (uint64_t)w->upto_ms);
    put_le64(to + 9, (uint64_t)w->oldest_ms);
    put_le32(to + 17, w->first);
    put_le32(to + 21, w->count);
    put_le32(to + 25, w->front);
    memcpy(to + RT_RING_HEAD, running, r->size);
}

#endif
