/*
 * What the model of the engine and the functions given to both share: byte strings, and user
 * functions that make something of every record.
 */
#ifndef LEVEE_TEST_RT_FUNCTIONS_H
#define LEVEE_TEST_RT_FUNCTIONS_H

#include "tests/unit/test_rt.h"

struct bytes {
    const uint8_t *data; /* NULL: absent */
    size_t len;
};

static inline struct bytes view(struct levee_slice s)
{
    return (struct bytes){s.data, s.len};
}

static inline uint32_t mix(struct bytes b) /* FNV-1a */
{
    uint32_t h = 2166136261u;

    for (size_t i = 0; i < b.len; i++) {
        h = (h ^ b.data[i]) * 16777619u;
    }
    return h;
}

static inline uint32_t group_of(struct bytes key)
{
    return (uint32_t)(hash_key(key.data, key.len) >> 57);
}

/* ---- functions ---- */

static inline int fn_words(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)arg;
    return levee_emit_words(out, in->value);
}
static inline int fn_swap(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)arg;
    return levee_emit(out, in->value, in->key);
}
static inline int fn_odd(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)arg;
    (void)levee_emit_copy(out, in->key, in->key); /* a filter's emits count for nothing */
    return mix(view(in->key)) & 1;
}
static inline int fn_length(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)arg;
    return levee_emit_i64(out, slice_of("ignored", 7), (int64_t)in->value.len);
}
static inline int fn_twice(levee_output *out, const struct levee_record *in, size_t n, void *arg)
{
    (void)arg;
    for (size_t i = 0; i < 2 * n; i++) {
        if (levee_emit_record(out, &in[i / 2])) {
            return -5;
        }
    }
    return 0;
}

/* Every value as often as it is long, modulo 4, under a key that counts for nothing. */
static inline int fn_some_values(levee_output *out, const struct levee_record *in, void *arg)
{
    (void)arg;
    for (size_t i = 0; i < in->value.len % 4; i++) {
        if (levee_emit_i64(out, slice_of("ignored", 7), (int64_t)i)) {
            return -5;
        }
    }
    return 0;
}
/* Of a partition: its first key and how many records there are. */
static inline int fn_census(levee_output *out, const struct levee_record *in, size_t n, void *arg)
{
    (void)arg;
    return levee_emit_i64(out, n ? in[0].key : slice_of(NULL, 0), (int64_t)n);
}
/* Of a partition: its first three records. */
static inline int fn_first_three(levee_output *out, const struct levee_record *in, size_t n,
                                 void *arg)
{
    (void)arg;
    for (size_t i = 0; i < n && i < 3; i++) {
        if (levee_emit_record(out, &in[i])) {
            return -5;
        }
    }
    return 0;
}

static inline int place_by_key(const struct levee_record *in, uint32_t partitions, void *arg)
{
    (void)arg;
    return (int)(mix(view(in->key)) % partitions);
}

struct span {
    struct levee_slice first, last;
};
static inline int span_create(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    struct span *s = acc;

    (void)out;
    (void)arg;
    MUST(s->first.data == NULL && s->last.len == 0); /* zeroed */
    s->first = s->last = value;
    return 0;
}
static inline int span_add(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    (void)out;
    (void)arg;
    ((struct span *)acc)->last = value;
    return 0;
}
static inline int span_merge(levee_output *out, void *acc, const void *other, void *arg)
{
    (void)out;
    (void)arg;
    ((struct span *)acc)->last = ((const struct span *)other)->last;
    return 0;
}
static inline int span_finish(levee_output *out, struct levee_slice key, const void *acc, void *arg)
{
    const struct span *s = acc;
    uint8_t *p = levee_alloc(out, s->first.len + s->last.len);

    (void)arg;
    if (!p) {
        return -1;
    }
    if (s->first.len) {
        memcpy(p, s->first.data, s->first.len);
    }
    if (s->last.len) {
        memcpy(p + s->first.len, s->last.data, s->last.len);
    }
    return levee_emit(out, key, slice_of(p, s->first.len + s->last.len));
}
static const struct levee_reducer span = {
    1, sizeof(struct span), span_create, span_add, span_merge, NULL, span_finish, NULL};

/* state = 3 × old + values; a multiple of 5 removes it. */
static inline int fn_tally(levee_output *out, levee_state *state, struct levee_slice key,
                           const struct levee_slice *values, size_t n, void *arg)
{
    struct levee_slice old;
    int64_t v = levee_state_get(state, &old) ? levee_i64(old) : 1;

    (void)out;
    (void)key;
    (void)values;
    (void)arg;
    v = (v * 3 + (int64_t)n) % 1000003;
    if (v % 5 == 0) {
        levee_state_remove(state);
        return 0;
    }
    return levee_state_set_i64(state, v);
}

/* The same, key after key of a partition. */
static inline int fn_tally_all(levee_output *out, levee_updates *updates, void *arg)
{
    struct levee_update u;
    int rc = 0;

    while (rc >= 0 && levee_update_next(updates, &u)) {
        rc = fn_tally(out, u.state, u.key, u.values, u.n, arg);
    }
    return rc;
}

/* state = old, the first value, the number of values; removed beyond 60 bytes. */
static inline int fn_log(levee_output *out, levee_state *state, struct levee_slice key,
                         const struct levee_slice *values, size_t n, void *arg)
{
    struct levee_slice old = {NULL, 0};
    uint8_t text[256];
    size_t len = 0;

    (void)key;
    (void)arg;
    (void)levee_state_get(state, &old);
    if (old.len) {
        memcpy(text, old.data, old.len);
        len = old.len;
    }
    size_t more = values[0].len < 40 ? values[0].len : 40;
    if (more) {
        memcpy(text + len, values[0].data, more);
    }
    text[len + more] = (uint8_t)('0' + n % 10);
    len += more + 1;
    if (len > 60) {
        levee_state_remove(state);
        return 0;
    }
    MUST(levee_batch_time(out) == 1000 * (int64_t)levee_batch_id(out));
    return levee_state_set(state, slice_of(text, len));
}

/* transform: of both streams, each record once, sorted by key. */
static inline int fn_sorted(levee_output *out, const levee_batch *const *in, size_t n,
                            const levee_batch **ret, void *arg)
{
    (void)out;
    (void)arg;
    *ret = levee_batch_sort_by_key(levee_batch_distinct(levee_batch_union(in, n)), NULL, NULL);
    return 0;
}

/* map_with_state, of times that are multiples of 1000: state = 3 × old + length of the value,
 * modulo 1009; emitted once, and twice if it is even. Values of 2 modulo 5 bytes leave the state
 * alone, those of 3 remove it. A key that times out emits its state, negated. */
static inline int fn_visit(levee_output *out, levee_state *state, struct levee_slice key,
                           const struct levee_slice *value, void *arg)
{
    struct levee_slice old;
    int64_t v = levee_state_get(state, &old) ? levee_i64(old) : 1;

    (void)arg;
    MUST(levee_state_timing_out(state) == (value == NULL));
    if (!value) {
        MUST(levee_state_set_i64(state, 1) == LEVEE_ESTATE);
        MUST(levee_state_set(state, key) == LEVEE_ESTATE);
        return levee_emit_i64(out, key, -v);
    }
    if (value->len % 5 == 2) {
        return 0;
    }
    v = (3 * v + (int64_t)value->len) % 1009;
    if (value->len % 5 == 3) {
        levee_state_remove(state);
    } else if (levee_state_set_i64(state, v)) {
        return -1;
    }
    return levee_emit_i64(out, key, v) || (v % 2 == 0 && levee_emit_i64(out, key, v + 1)) ? -1 : 0;
}

#endif
