/* The ready reducers. 64-bit integers wrap around, as two's complement does. */
#include "levee/levee.h"
#include "runtime/operator.h"

#define UNUSED (void)out, (void)arg

static int64_t *as_i64(void *acc)
{
    return acc;
}

static int finish_i64(levee_output *out, struct levee_slice key, const void *acc, void *arg)
{
    int64_t v;

    (void)arg;
    memcpy(&v, acc, sizeof v);
    return levee_emit_i64(out, key, v);
}

static int finish_f64(levee_output *out, struct levee_slice key, const void *acc, void *arg)
{
    double v;

    (void)arg;
    memcpy(&v, acc, sizeof v);
    return levee_emit_f64(out, key, v);
}

/* count */
static int count_one(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    UNUSED, (void)value;
    *as_i64(acc) += 1;
    return 0;
}
static int sum_merge(levee_output *out, void *acc, const void *other, void *arg)
{
    UNUSED;
    *as_i64(acc) = (int64_t)((uint64_t)*as_i64(acc) + (uint64_t) * (const int64_t *)other);
    return 0;
}
static int sum_remove(levee_output *out, void *acc, const void *other, void *arg)
{
    UNUSED;
    *as_i64(acc) = (int64_t)((uint64_t)*as_i64(acc) - (uint64_t) * (const int64_t *)other);
    return 0;
}
const struct levee_reducer levee_count_values = {1,         8,          count_one,  count_one,
                                                 sum_merge, sum_remove, finish_i64, NULL};

/* sum */
static int sum_add(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    int64_t v = levee_i64(value);

    return sum_merge(out, acc, &v, arg);
}
const struct levee_reducer levee_sum_i64 = {1,         8,          sum_add,    sum_add,
                                            sum_merge, sum_remove, finish_i64, NULL};

/* min, max */
static int set_i64(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    UNUSED;
    *as_i64(acc) = levee_i64(value);
    return 0;
}
static int min_merge(levee_output *out, void *acc, const void *other, void *arg)
{
    int64_t o = *(const int64_t *)other;

    UNUSED;
    *as_i64(acc) = o < *as_i64(acc) ? o : *as_i64(acc);
    return 0;
}
static int min_add(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    int64_t v = levee_i64(value);

    return min_merge(out, acc, &v, arg);
}
static int max_merge(levee_output *out, void *acc, const void *other, void *arg)
{
    int64_t o = *(const int64_t *)other;

    UNUSED;
    *as_i64(acc) = o > *as_i64(acc) ? o : *as_i64(acc);
    return 0;
}
static int max_add(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    int64_t v = levee_i64(value);

    return max_merge(out, acc, &v, arg);
}
const struct levee_reducer levee_min_i64 = {1,         8,    set_i64,    min_add,
                                            min_merge, NULL, finish_i64, NULL};
const struct levee_reducer levee_max_i64 = {1,         8,    set_i64,    max_add,
                                            max_merge, NULL, finish_i64, NULL};

/* doubles: merged in partition order, so the rounding is the same for any number of workers */
static int f64_sum_merge(levee_output *out, void *acc, const void *other, void *arg)
{
    UNUSED;
    *(double *)acc += *(const double *)other;
    return 0;
}
static int f64_sum_add(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    UNUSED;
    *(double *)acc += levee_f64(value);
    return 0;
}
static int f64_set(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    UNUSED;
    *(double *)acc = levee_f64(value);
    return 0;
}
static int f64_min_merge(levee_output *out, void *acc, const void *other, void *arg)
{
    double o = *(const double *)other;

    UNUSED;
    *(double *)acc = o < *(double *)acc ? o : *(double *)acc;
    return 0;
}
static int f64_min_add(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    double v = levee_f64(value);

    return f64_min_merge(out, acc, &v, arg);
}
static int f64_max_merge(levee_output *out, void *acc, const void *other, void *arg)
{
    double o = *(const double *)other;

    UNUSED;
    *(double *)acc = o > *(double *)acc ? o : *(double *)acc;
    return 0;
}
static int f64_max_add(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    double v = levee_f64(value);

    return f64_max_merge(out, acc, &v, arg);
}
const struct levee_reducer levee_sum_f64 = {1,    8,          f64_set, f64_sum_add, f64_sum_merge,
                                            NULL, finish_f64, NULL};
const struct levee_reducer levee_min_f64 = {1,    8,          f64_set, f64_min_add, f64_min_merge,
                                            NULL, finish_f64, NULL};
const struct levee_reducer levee_max_f64 = {1,    8,          f64_set, f64_max_add, f64_max_merge,
                                            NULL, finish_f64, NULL};

/* averages: sum and count; the result is a double */
struct average {
    double sum;
    int64_t count;
};
static int avg_i64_add(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    struct average *a = acc;

    UNUSED;
    a->sum += (double)levee_i64(value);
    a->count++;
    return 0;
}
static int avg_f64_add(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    struct average *a = acc;

    UNUSED;
    a->sum += levee_f64(value);
    a->count++;
    return 0;
}
static int avg_merge(levee_output *out, void *acc, const void *other, void *arg)
{
    struct average *a = acc;
    const struct average *o = other;

    UNUSED;
    a->sum += o->sum;
    a->count += o->count;
    return 0;
}
static int avg_finish(levee_output *out, struct levee_slice key, const void *acc, void *arg)
{
    const struct average *a = acc;

    (void)arg;
    return levee_emit_f64(out, key, a->sum / (double)a->count);
}
const struct levee_reducer levee_avg_i64 = {
    1, sizeof(struct average), avg_i64_add, avg_i64_add, avg_merge, NULL, avg_finish, NULL};
const struct levee_reducer levee_avg_f64 = {
    1, sizeof(struct average), avg_f64_add, avg_f64_add, avg_merge, NULL, avg_finish, NULL};

/* concat: bytes in batch memory with room to grow, so that n values cost O(n). A retry starts from
 * the accumulator as it was, whose length says how much of the bytes is its own. */
struct concatenation {
    uint8_t *bytes;
    size_t len, cap;
};
static int concat_bytes(levee_output *out, void *acc, const uint8_t *more, size_t len)
{
    struct concatenation *a = acc;

    if (!a->bytes || a->cap - a->len < len) {
        size_t cap = 2 * a->len + len;
        uint8_t *bytes = levee_alloc(out, cap);
        if (!bytes) {
            return LEVEE_ENOMEM;
        }
        if (a->bytes && a->len) {
            memcpy(bytes, a->bytes, a->len);
        }
        a->bytes = bytes;
        a->cap = cap;
    }
    if (len) {
        memcpy(a->bytes + a->len, more, len);
    }
    a->len += len;
    return 0;
}
static int concat_add(levee_output *out, void *acc, struct levee_slice value, void *arg)
{
    (void)arg;
    return concat_bytes(out, acc, value.data, value.len);
}
static int concat_merge(levee_output *out, void *acc, const void *other, void *arg)
{
    const struct concatenation *o = other;

    (void)arg;
    return concat_bytes(out, acc, o->bytes, o->len);
}
static int concat_finish(levee_output *out, struct levee_slice key, const void *acc, void *arg)
{
    const struct concatenation *a = acc;

    (void)arg;
    return levee_emit(out, key, slice_of(a->bytes, a->len));
}
const struct levee_reducer levee_concat = {
    1,   sizeof(struct concatenation), concat_add, concat_add, concat_merge, NULL, concat_finish,
    NULL};
