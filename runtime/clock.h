/*
 * Watermarks. A *clock* belongs to each node that gives records their event time, and to each keyed
 * node that keeps something until event time has come (windows, timers). Its reading in a batch,
 * the watermark, says: what comes below me is late.
 *
 *   sets     levee_event_time: the highest time of the records up to the batch before, less the
 *            lateness. Who has had no record for idle_ms is idle.
 *   follows  the lowest reading of the clocks above it that are not idle; of the highest, if all
 *            are. What it emits in a batch was due by that batch's reading, so it hands on its
 *            reading of the batch before: what it emits is in time below it (a window of windows).
 *
 * A reading never goes back. It is taken once, when a batch is opened, from what was true after the
 * batch before and from the batch's time, and is a field of BATCH_OPEN: a replay is given the one
 * that was logged (4d.9).
 */
#ifndef LEVEE_RT_CLOCK_H
#define LEVEE_RT_CLOCK_H

#include "runtime/engine.h"

#define RT_NO_TIME INT64_MIN /* no watermark yet; no record yet */
#define RT_TIME_MAX                                                                                \
    ((int64_t)1 << 61) /* event times lie in ±this, so that sums with lengths fit                 \
                        */

struct rt_time_rule { /* of a node that sets event time */
    int64_t lateness_ms;
    int64_t idle_ms; /* 0: it is never idle */
    bool idle_clock; /* while idle its reading is the batch's time less the lateness */
};
struct rt_time_shape { /* of a window: what is stored under another one means something else */
    int64_t length_ms, slide_ms, gap_ms;
};
/* What a node's units note of one partition in one batch. */
struct rt_mark {
    int64_t max_ms;
    uint64_t records, late;
};
struct rt_clock {
    const levee_stream *node;
    const struct rt_time_rule *rule; /* NULL: it follows */
    uint32_t *above;                 /* the clocks it follows, by index */
    size_t above_count;
    struct rt_time_shape shape;
    /* as of the last batch */
    int64_t watermark;
    int64_t max_ms;   /* of its records */
    int64_t heard_ms; /* time of the last batch in which it had any, or of its first batch */
    uint64_t late;    /* records that were set aside as late, ever */
};
struct rt_clocks {
    struct rt_clock *items;
    size_t count;
    bool *idle; /* scratch of a reading */
};

/* One for each node whose operator asks for it, in the order of the nodes: parents come first. The
 * node's `clock` becomes its place + 1. */
int rt_clocks_init(struct rt_clocks *c, struct rt_graph *g, struct levee_error *err);
void rt_clocks_release(struct rt_clocks *c);
/* The readings of a batch at time_ms, one per clock; changes nothing. */
void rt_clocks_read(const struct rt_clocks *c, int64_t time_ms, int64_t *ret);
/* A batch is computed: marks[i] holds one mark per partition of clock i's node. */
void rt_clocks_move(struct rt_clocks *c, int64_t time_ms, const int64_t *watermarks,
                    struct rt_mark *const *marks);
/* The item "s/time" of a checkpoint. Clocks that are stored and no longer there are skipped; one
 * whose window has another shape is refused. Errors: CKPT_CORRUPT, STATE_VERSION. */
void rt_clocks_encode(const struct rt_clocks *c, struct buf *ret);
int rt_clocks_decode(struct rt_clocks *c, struct levee_slice bytes, struct levee_error *err);
uint64_t rt_clocks_late(const struct rt_clocks *c);
/* Does every record of the stream have an event time? Otherwise *ret_where is the node that gives
 * it none: a source, or a keyed node that makes records of its own. */
bool rt_stream_timed(const levee_stream *s, const levee_stream **ret_where);

#endif
