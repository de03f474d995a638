/*
 * event_time and late. event_time calls the user's function for every record, notes the highest
 * time for its clock (runtime/clock.h), and judges the record by the watermark that the batch was
 * opened with: whatever else is in the batch, in whatever partition, a record's fate is the same.
 *
 * late is no operator of its own: it is given what its parent sets aside (levee_output.side).
 */
#include "runtime/operator.h"

#define LATENESS_MAX ((uint64_t)1 << 40) /* ms: 34 years, so that sums with times fit */

struct event_time {
    levee_time_fn fn; /* NULL: the record's own */
    void *arg;
    enum levee_late late;
    struct rt_time_rule rule;
};

static const struct rt_time_rule *times(const levee_stream *node)
{
    return &((const struct event_time *)node->op_data)->rule;
}

struct timing {
    const struct event_time *d;
    const struct levee_record *in;
    int64_t time_ms;
};

static int try_time(void *arg)
{
    struct timing *t = arg;
    int rc = 0;

    t->time_ms = t->in->time_ms;
    if (t->d->fn) {
        rc = t->d->fn(t->in, &t->time_ms, t->d->arg);
    }
    bool fits = t->time_ms >= -RT_TIME_MAX && t->time_ms <= RT_TIME_MAX;
    return rc >= 0 && !fits ? LEVEE_EINVALID : rc;
}

static int run(struct rt_call *c, const struct levee_record *in, size_t n, uint64_t index)
{
    struct timing t = {.d = c->node->op_data};
    struct rt_mark *mark = rt_call_mark(c);
    int64_t watermark = c->out->watermark_ms;
    int code = LEVEE_OK;

    for (size_t i = 0; i < n && code == LEVEE_OK; i++) {
        bool skipped;
        t.in = &in[i];
        code = rt_call_guarded(c, index + i, &in[i], try_time, &t, &skipped);
        if (code || skipped) {
            continue;
        }
        struct levee_record r = {in[i].key, in[i].value, t.time_ms};
        mark->records++;
        mark->max_ms = r.time_ms > mark->max_ms ? r.time_ms : mark->max_ms;
        if (r.time_ms < watermark && t.d->late != LEVEE_LATE_DEFAULT) {
            code = rt_call_late(c, t.d->late, index + i, &r);
        } else {
            c->out->time_ms = r.time_ms;
            (void)rt_output_add(c->out, r.key, r.value); /* the output remembers a failure */
        }
    }
    return code;
}

static const struct rt_operator event_time_operator = {.name = "event_time",
                                                       .narrow = run,
                                                       .times = times,
                                                       .free_data = rt_free_data,
                                                       .stateful = true};

levee_stream *levee_event_time_at(levee_stream *s, const char *uid, levee_time_fn fn,
                                  const struct levee_event_time_options *options, void *arg,
                                  const char *file, int line)
{
    static const struct levee_event_time_options none;
    const struct levee_event_time_options *o = options ? options : &none;

    if (!s) {
        return NULL;
    }
    if (o->lateness_ms > LATENESS_MAX || o->idle_ms > LATENESS_MAX ||
        o->late > LEVEE_LATE_DEAD_LETTER || (o->idle_clock && !o->idle_ms)) {
        return rt_graph_fail(
            s->graph, file, line, LEVEE_EINVALID,
            "event_time %s: lateness and idle time are at most 2^40 ms, idle_clock needs idle_ms",
            uid ? uid : "");
    }
    struct event_time *d = mem_zalloc(sizeof *d);
    if (!d) {
        return rt_graph_fail(s->graph, file, line, LEVEE_ENOMEM, "event_time");
    }
    *d = (struct event_time){fn,
                             arg,
                             o->late,
                             {.lateness_ms = (int64_t)o->lateness_ms,
                              .idle_ms = (int64_t)o->idle_ms,
                              .idle_clock = o->idle_clock}};
    levee_stream *n = rt_lower(s, RT_NARROW, &event_time_operator, uid, d, 0, file, line);
    if (n) {
        n->sets_aside = o->late == LEVEE_LATE_SIDE;
    }
    return n;
}

/* ---- late ---- */

static const struct rt_operator late_operator = {.name = "late", .takes_side = true};

levee_stream *levee_late_at(levee_stream *s, const char *file, int line)
{
    if (s && !s->sets_aside) {
        return rt_graph_fail(s->graph, file, line, LEVEE_EGRAPH,
                             "late: %s, built at %s:%d, sets no records aside: it needs .late = "
                             "LEVEE_LATE_SIDE",
                             s->name, s->file, s->line);
    }
    return s ? rt_lower(s, RT_NARROW, &late_operator, NULL, NULL, 0, file, line) : NULL;
}

int64_t levee_watermark(const levee_output *out)
{
    return out->watermark_ms;
}
