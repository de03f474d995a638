/* Emitting, the typed helpers, and what a function may know of its batch. */
#include "runtime/operator.h"

bool rt_output_grow(struct levee_output *out)
{
    void *items = out->items;

    if (!mem_grow(&items, &out->cap, out->count + RT_VECTOR, sizeof *out->items)) {
        out->failed = true;
        return false;
    }
    out->items = items;
    return true;
}

int levee_emit(levee_output *out, struct levee_slice key, struct levee_slice value)
{
    return rt_output_add(out, key, value);
}

/* A copy that lives as long as the batch; what is absent stays absent. */
static struct levee_slice copied(levee_output *out, struct levee_slice s)
{
    uint8_t *copy = s.data ? rt_output_alloc(out, s.len) : NULL;

    if (copy && s.len) {
        memcpy(copy, s.data, s.len);
    }
    return slice_of(copy, copy ? s.len : 0);
}

int levee_emit_copy(levee_output *out, struct levee_slice key, struct levee_slice value)
{
    struct levee_slice k = copied(out, key), v = copied(out, value);

    return out->failed ? LEVEE_ENOMEM : rt_output_add(out, k, v);
}

int levee_emit_i64(levee_output *out, struct levee_slice key, int64_t value)
{
    uint8_t *p = rt_output_alloc(out, 8);

    if (!p) {
        return LEVEE_ENOMEM;
    }
    put_le64(p, (uint64_t)value);
    return rt_output_add(out, key, slice_of(p, 8));
}

int levee_emit_f64(levee_output *out, struct levee_slice key, double value)
{
    uint64_t bits;

    memcpy(&bits, &value, sizeof bits);
    return levee_emit_i64(out, key, (int64_t)bits);
}

int levee_emit_record(levee_output *out, const struct levee_record *record)
{
    int code = rt_output_add(out, record->key, record->value);

    if (code == LEVEE_OK) {
        out->items[out->count - 1].time_ms = record->time_ms;
    }
    return code;
}

/* The white space of isspace in the C locale. */
static inline bool is_space(uint8_t c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

int levee_emit_words(levee_output *out, struct levee_slice text)
{
    const struct levee_slice none = {NULL, 0};
    size_t at = 0;

    while (at < text.len) {
        while (at < text.len && is_space(text.data[at])) {
            at++;
        }
        size_t start = at;
        while (at < text.len && !is_space(text.data[at])) {
            at++;
        }
        if (at > start &&
            rt_output_add(out, slice_of(text.data + start, at - start), none) != LEVEE_OK) {
            return LEVEE_ENOMEM;
        }
    }
    return LEVEE_OK;
}

void *levee_alloc(levee_output *out, size_t bytes)
{
    return rt_output_alloc(out, bytes);
}

int64_t levee_batch_time(const levee_output *out)
{
    return out->header->time_ms;
}

uint64_t levee_batch_id(const levee_output *out)
{
    return out->header->id;
}

uint64_t levee_batch_seed(const levee_output *out)
{
    return out->header->seed;
}

int64_t levee_i64(struct levee_slice s)
{
    return s.len == 8 ? (int64_t)get_le64(s.data) : 0;
}

double levee_f64(struct levee_slice s)
{
    uint64_t bits = (uint64_t)levee_i64(s);
    double v;

    memcpy(&v, &bits, sizeof v);
    return v;
}

bool levee_group_next(struct levee_slice *group, struct levee_slice *ret_value)
{
    struct cursor c = cursor_of(*group);

    if (group->len == 0) {
        return false;
    }
    struct levee_slice v = cur_slice(&c);
    if (c.bad) {
        return false;
    }
    *ret_value = v;
    *group = slice_of(c.p, cur_left(&c));
    return true;
}
