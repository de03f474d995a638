/* glom: each partition becomes one record, whose value holds the partition's records in order: per
 * record key and value, as in a sequence, and 8 bytes of event time. */
#include "runtime/operator.h"

static int run(struct rt_call *c, const struct levee_record *in, size_t n)
{
    size_t size = 0;

    for (size_t i = 0; i < n; i++) {
        size += rt_sequence_size(in[i].key) + rt_sequence_size(in[i].value) + 8;
    }
    uint8_t *bytes = rt_output_alloc(c->out, size), *p = bytes;
    if (!bytes) {
        return rt_call_nomem(c);
    }
    for (size_t i = 0; i < n; i++) {
        p = rt_sequence_put(p, in[i].key);
        p = rt_sequence_put(p, in[i].value);
        put_le64(p, (uint64_t)in[i].time_ms);
        p += 8;
    }
    ASSERT((size_t)(p - bytes) == size);
    c->out->time_ms = 0;
    (void)rt_output_add(c->out, slice_of(NULL, 0), slice_of(bytes, size)); /* remembers a failure */
    return LEVEE_OK;
}

static const struct rt_operator glom_operator = {.name = "glom", .whole = run};

levee_stream *levee_glom_at(levee_stream *s, const char *file, int line)
{
    return rt_lower(s, RT_NARROW, &glom_operator, NULL, NULL, 0, file, line);
}

bool levee_glom_next(struct levee_slice *glom, struct levee_record *ret)
{
    struct cursor c = cursor_of(*glom);

    if (glom->len == 0) {
        return false;
    }
    struct levee_record r;
    r.key = cur_slice(&c);
    r.value = cur_slice(&c);
    r.time_ms = (int64_t)cur_u64(&c);
    if (c.bad) {
        return false;
    }
    *ret = r;
    *glom = slice_of(c.p, cur_left(&c));
    return true;
}
