#include "runtime/timers.h"

bool rt_timers_reserve(struct rt_timers *t, uint32_t entries)
{
    size_t old = t->place_cap;
    void *place = t->place, *heap = t->heap;
    bool ok = mem_grow(&place, &t->place_cap, entries, sizeof *t->place);

    t->place = place;
    if (ok && t->place_cap > old) {
        memset(t->place + old, 0, (t->place_cap - old) * sizeof *t->place);
    }
    ok = ok && mem_grow(&heap, &t->cap, entries, sizeof *t->heap);
    t->heap = heap;
    return ok;
}

static void put(struct rt_timers *t, size_t at, struct rt_timer timer)
{
    t->heap[at] = timer;
    t->place[timer.entry] = (uint32_t)at + 1u;
}

static void sift_up(struct rt_timers *t, size_t at, struct rt_timer timer)
{
    while (at > 0 && t->heap[(at - 1) / 2].at_ms > timer.at_ms) {
        put(t, at, t->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    put(t, at, timer);
}

static void sift_down(struct rt_timers *t, size_t at, struct rt_timer timer)
{
    for (size_t child; (child = 2 * at + 1) < t->count; at = child) {
        if (child + 1 < t->count && t->heap[child + 1].at_ms < t->heap[child].at_ms) {
            child++;
        }
        if (t->heap[child].at_ms >= timer.at_ms) {
            break;
        }
        put(t, at, t->heap[child]);
    }
    put(t, at, timer);
}

/* Into a hole at `at`, whose neighbours are in order. */
static void fill(struct rt_timers *t, size_t at, struct rt_timer timer)
{
    if (at > 0 && t->heap[(at - 1) / 2].at_ms > timer.at_ms) {
        sift_up(t, at, timer);
    } else {
        sift_down(t, at, timer);
    }
}

void rt_timers_set(struct rt_timers *t, uint32_t entry, int64_t at_ms)
{
    struct rt_timer timer = {at_ms, entry};
    size_t at = entry < t->place_cap ? t->place[entry] : 0;

    if (at_ms != RT_NEVER) {
        ASSERT(entry < t->place_cap);
        if (at) {
            fill(t, at - 1, timer);
        } else {
            ASSERT(t->count < t->cap);
            sift_up(t, t->count++, timer);
        }
    } else if (at) {
        struct rt_timer last = t->heap[--t->count];
        t->place[entry] = 0;
        if (last.entry != entry) {
            fill(t, at - 1, last);
        }
    }
}

void rt_timers_release(struct rt_timers *t)
{
    mem_free(t->heap);
    mem_free(t->place);
    *t = (struct rt_timers){0};
}
