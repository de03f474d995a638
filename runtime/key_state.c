/*
 * One key's state during one call, as user functions see it. Whatever they change is staged in
 * struct levee_state and laid down by the operator once the call has succeeded; a failed call has
 * had no effect (4d.7).
 */
#include "runtime/clock.h"
#include "runtime/state.h"

bool levee_state_get(const levee_state *s, struct levee_slice *ret_value)
{
    if (s->exists) {
        *ret_value = s->now;
    }
    return s->exists;
}

bool levee_state_timing_out(const levee_state *s)
{
    return s->timing_out;
}

int levee_state_set(levee_state *s, struct levee_slice value)
{
    struct buf *large = &s->large;

    if (s->timing_out) {
        return LEVEE_ESTATE;
    }
    /* The value may be a view of what was staged before, which is about to be overwritten. */
    if (value.len <= RT_INLINE) {
        if (value.len) {
            memmove(s->small, value.data, value.len);
        }
        s->now = slice_of(s->small, value.len);
    } else if (value.len > RT_VALUE_MAX) {
        return LEVEE_ELIMIT;
    } else if (value.data >= large->data && value.data < large->data + large->len) {
        memmove(large->data, value.data, value.len);
        large->len = value.len;
        s->now = buf_view(large);
    } else {
        buf_clear(large);
        buf_put(large, value.data, value.len);
        if (large->failed) {
            s->failed = true;
            return LEVEE_ENOMEM;
        }
        s->now = buf_view(large);
    }
    s->exists = s->changed = true;
    return LEVEE_OK;
}

int levee_state_set_i64(levee_state *s, int64_t value)
{
    if (s->timing_out) {
        return LEVEE_ESTATE;
    }
    put_le64(s->small, (uint64_t)value);
    s->now = slice_of(s->small, 8);
    s->exists = s->changed = true;
    return LEVEE_OK;
}

void levee_state_remove(levee_state *s)
{
    s->exists = false;
    s->changed = true;
}

/* ---- timers ---- */

/* Where it stands, or would. */
static size_t timer_place(const struct levee_state *s, enum rt_timer_kind kind, int64_t at_ms)
{
    size_t lo = 0, hi = s->timer_count[kind];

    while (lo < hi) {
        size_t mid = lo + (hi - lo) / 2;
        if (s->timers[kind][mid] < at_ms) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }
    return lo;
}

static bool timer_there(const struct levee_state *s, enum rt_timer_kind kind, size_t place,
                        int64_t at_ms)
{
    return place < s->timer_count[kind] && s->timers[kind][place] == at_ms;
}

bool rt_state_timer_add(struct levee_state *s, enum rt_timer_kind kind, int64_t at_ms)
{
    size_t place = timer_place(s, kind, at_ms), n = s->timer_count[kind];
    void *all = s->timers[kind];

    if (timer_there(s, kind, place, at_ms)) {
        return true;
    }
    if (!mem_grow(&all, &s->timer_cap[kind], n + 1, sizeof(int64_t))) {
        return false;
    }
    s->timers[kind] = all;
    memmove(s->timers[kind] + place + 1, s->timers[kind] + place, (n - place) * sizeof(int64_t));
    s->timers[kind][place] = at_ms;
    s->timer_count[kind]++;
    return true;
}

void rt_state_timer_remove(struct levee_state *s, enum rt_timer_kind kind, int64_t at_ms)
{
    size_t place = timer_place(s, kind, at_ms);

    if (timer_there(s, kind, place, at_ms)) {
        s->timer_count[kind]--;
        memmove(s->timers[kind] + place, s->timers[kind] + place + 1,
                (s->timer_count[kind] - place) * sizeof(int64_t));
        s->changed = true;
    }
}

static int set_timer(struct levee_state *s, enum rt_timer_kind kind, int64_t at_ms)
{
    if (!s->may_time[kind]) {
        return LEVEE_ESTATE;
    }
    if (at_ms < -RT_TIME_MAX || at_ms > RT_TIME_MAX) {
        return LEVEE_EINVALID;
    }
    if (s->timer_count[kind] >= RT_TIMERS_MAX &&
        !timer_there(s, kind, timer_place(s, kind, at_ms), at_ms)) {
        return LEVEE_ELIMIT;
    }
    if (!rt_state_timer_add(s, kind, at_ms)) {
        s->failed = true;
        return LEVEE_ENOMEM;
    }
    s->changed = true;
    return LEVEE_OK;
}

int levee_timer_event(levee_state *s, int64_t time_ms)
{
    return set_timer(s, RT_EVENT_TIMER, time_ms);
}

int levee_timer_processing(levee_state *s, int64_t time_ms)
{
    return set_timer(s, RT_BATCH_TIMER, time_ms);
}

void levee_timer_cancel_event(levee_state *s, int64_t time_ms)
{
    rt_state_timer_remove(s, RT_EVENT_TIMER, time_ms);
}

void levee_timer_cancel_processing(levee_state *s, int64_t time_ms)
{
    rt_state_timer_remove(s, RT_BATCH_TIMER, time_ms);
}

void rt_state_release(struct levee_state *s)
{
    buf_release(&s->large);
    mem_free(s->timers[RT_EVENT_TIMER]);
    mem_free(s->timers[RT_BATCH_TIMER]);
}
