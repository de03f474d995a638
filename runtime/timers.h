/*
 * When which entry is due: a binary heap of (time, entry) that knows where each entry stands, so
 * that setting, moving and taking away a timer cost O(log n) and nothing stale is ever in it.
 * Beside the entries of a key group, like the list of idle ones (idle.h). Nothing of it is stored:
 * the time is, with the entry, and a load sets it again.
 */
#ifndef LEVEE_RT_TIMERS_H
#define LEVEE_RT_TIMERS_H

#include "base/base.h"

#define RT_NEVER INT64_MAX

struct rt_timer {
    int64_t at_ms;
    uint32_t entry;
};
struct rt_timers {
    struct rt_timer *heap;
    uint32_t *place; /* by entry: where it stands in the heap + 1; 0: it has no timer */
    size_t count, cap, place_cap;
};

/* Room for entries [0, entries). false: no memory, nothing changed. */
bool rt_timers_reserve(struct rt_timers *t, uint32_t entries);
/* One timer per entry; RT_NEVER: none. There must be room, unless there is none to take away. */
void rt_timers_set(struct rt_timers *t, uint32_t entry, int64_t at_ms);
/* The earliest; RT_NEVER: there is none. */
static inline int64_t rt_timers_first(const struct rt_timers *t)
{
    return t->count ? t->heap[0].at_ms : RT_NEVER;
}
void rt_timers_release(struct rt_timers *t);

#endif
