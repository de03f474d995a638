/* What the windows share: their options, and lowering with the checks on lengths (lower_window.c).
 */
#ifndef LEVEE_RT_WINDOW_H
#define LEVEE_RT_WINDOW_H

#include "runtime/operator.h"

struct rt_window { /* op_data of every window */
    int64_t length_ms;
    bool inverse;
    levee_record_fn filter;
    void *filter_arg;
    struct levee_reducer reducer;
};
static inline const struct rt_window *rt_window_of(const levee_stream *node)
{
    return node->op_data;
}
bool rt_window_every_batch(const levee_stream *node);
/* Refuses lengths that do not fit the batch interval and the parent's slide. r may be NULL. */
levee_stream *rt_lower_window(levee_stream *s, const struct rt_operator *op, const char *uid,
                              const struct levee_window *window, const struct levee_reducer *r,
                              const char *file, int line);

/* Packs (time, chunk) of the batches in [from, to], both rounded down to the slide, for a table of
 * remember; a chunk is (key, value, time)*. Errors: NOTFOUND, NOMEM. */
int rt_window_read(const struct rt_table *t, int64_t from_ms, int64_t to_ms, struct buf *ret);

#endif
