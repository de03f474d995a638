/* Lowering of windows: lengths are checked when the graph is built, where they were written. */
#include "runtime/operators/window.h"

bool rt_window_every_batch(const levee_stream *node)
{
    (void)node;
    return true; /* something may leave without anything coming */
}

static bool lengths_fit(levee_stream *s, const char *name, const struct levee_window *w,
                        const char *file, int line)
{
    uint64_t step = (uint64_t)s->graph->interval_ms * s->slide;

    if (w->length_ms && w->slide_ms && w->length_ms % step == 0 && w->slide_ms % step == 0) {
        return true;
    }
    (void)rt_graph_fail(s->graph, file, line, LEVEE_EGRAPH,
                        "%s: length %u ms and slide %u ms must be multiples of %llu ms, the %s",
                        name, w->length_ms, w->slide_ms, (unsigned long long)step,
                        s->slide > 1 ? "slide of its parent" : "batch interval");
    return false;
}

static bool reducer_fits(levee_stream *s, const char *name, const struct levee_window *w,
                         const struct levee_reducer *r, const char *file, int line)
{
    if (r->version != 1 || !r->create || !r->add || !r->merge || !r->finish || r->size == 0 ||
        r->size > RT_WINDOW_ACC_MAX) {
        (void)rt_graph_fail(
            s->graph, file, line, LEVEE_EINVALID,
            "%s: a reducer needs version 1, a size up to %u, create, add, merge and "
            "finish",
            name, RT_WINDOW_ACC_MAX);
        return false;
    }
    if (w->inverse && !r->remove) {
        (void)rt_graph_fail(s->graph, file, line, LEVEE_EINVALID,
                            "%s: with inverse the reducer needs remove", name);
        return false;
    }
    return true;
}

levee_stream *rt_lower_window(levee_stream *s, const struct rt_operator *op, const char *uid,
                              const struct levee_window *window, const struct levee_reducer *r,
                              const char *file, int line)
{
    static const struct levee_window none;
    const struct levee_window *w = window ? window : &none;

    if (!s || !lengths_fit(s, op->name, w, file, line) ||
        (r && !reducer_fits(s, op->name, w, r, file, line))) {
        return NULL;
    }
    struct rt_window *d = mem_zalloc(sizeof *d);
    if (!d) {
        return rt_graph_fail(s->graph, file, line, LEVEE_ENOMEM, "%s", op->name);
    }
    d->length_ms = w->length_ms;
    d->inverse = w->inverse;
    d->filter = w->filter;
    d->filter_arg = w->arg;
    if (r) {
        d->reducer = *r;
    }
    uint32_t partitions = op->to_one      ? 1
                          : w->partitions ? w->partitions
                                          : s->graph->default_partitions;
    levee_stream *n = rt_lower(s, RT_KEYED, op, uid, d, partitions, file, line);
    if (n) {
        n->slide = w->slide_ms / s->graph->interval_ms;
        n->state_version = w->version ? w->version : 1;
    }
    return n;
}
