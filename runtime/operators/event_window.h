/*
 * The windows of one key, as panes: what was folded of one stretch of event time. Tumbling and
 * sliding windows are made of panes of equal length, the greatest common divisor of length and
 * slide, so that a record is added once, however many windows it lies in; a session is one pane,
 * which grows and merges. Panes are sorted and do not overlap. (event_panes.c)
 *
 * Stored, per pane: start, end, a byte of flags, the accumulator.
 */
#ifndef LEVEE_RT_EVENT_WINDOW_H
#define LEVEE_RT_EVENT_WINDOW_H

#include "runtime/operator.h"

struct rt_event_window { /* op_data */
    struct levee_reducer reducer;
    int64_t length_ms, slide_ms, pane_ms; /* 0: sessions */
    int64_t gap_ms;                       /* sessions */
    int64_t allowed_ms, early_ms;
    enum levee_late late;
    bool bounds;
};
struct rt_pane {
    int64_t start_ms, end_ms;
    uint8_t *acc; /* a copy, aligned */
    bool changed; /* since the last early firing */
    bool touched; /* by this batch */
};
struct rt_panes {
    struct rt_pane *items;
    size_t count, cap;
};

static inline int64_t rt_floor_to(int64_t t, int64_t step)
{
    int64_t rest = t % step;

    return t - (rest < 0 ? rest + step : rest);
}
/* Ends of the first and the last window that a pane lies in; first > last: in none, as when a slide
 * is longer than the length. */
int64_t rt_pane_first_end(const struct rt_event_window *d, const struct rt_pane *p);
int64_t rt_pane_last_end(const struct rt_event_window *d, const struct rt_pane *p);
/* End of the first window above `after` that it lies in; RT_NEVER: none. */
int64_t rt_pane_next_end(const struct rt_event_window *d, const struct rt_pane *p, int64_t after);
/* The watermark at which nothing needs it any more. */
static inline int64_t rt_pane_over(const struct rt_event_window *d, const struct rt_pane *p)
{
    return rt_pane_last_end(d, p) + d->allowed_ms;
}
/* Memory is the batch's. false, NULL: there is none. */
bool rt_panes_read(struct arena *a, const struct rt_event_window *d, struct levee_slice stored,
                   struct rt_panes *ret);
struct levee_slice rt_panes_write(struct arena *a, const struct rt_event_window *d,
                                  const struct rt_panes *panes);
/* Those that overlap [start, end) are [*ret_from, returned). */
size_t rt_panes_overlap(const struct rt_panes *panes, int64_t start_ms, int64_t end_ms,
                        size_t *ret_from);
/* Puts one in the place of [from, to), which may be empty. false: no memory. */
bool rt_panes_replace(struct arena *a, struct rt_panes *panes, size_t from, size_t to,
                      const struct rt_pane *by);
/* Without those that are over at this watermark. */
void rt_panes_drop(const struct rt_event_window *d, struct rt_panes *panes, int64_t watermark_ms);

#endif
