/*
 * The ready reducers: each against a plain loop, for one run of adds and for the same values cut
 * into pieces that are merged. Then the emitting helpers that only functions see.
 */
#include <math.h>

#include "tests/unit/test_rt_functions.h"

struct all {
    int64_t count, sum, min, max;
    double dsum, dmin, dmax;
    char text[4096];
    size_t len;
};

static levee_output out;
static struct arena arena;
static const struct rt_header header = {.id = 3, .time_ms = 12000, .ticks = 2, .seed = 0xabcdef};

static void setup(void)
{
    arena = (struct arena){0};
    out = (levee_output){.arena = &arena, .header = &header};
}

static void teardown(void)
{
    mem_free(out.items);
    arena_release(&arena);
}

static struct levee_slice i64_bytes(int64_t v)
{
    uint8_t *p = arena_alloc(&arena, 8);

    MUST(p != NULL);
    put_le64(p, (uint64_t)v);
    return slice_of(p, 8);
}

static struct levee_slice f64_bytes(double d)
{
    uint64_t bits;

    memcpy(&bits, &d, 8);
    return i64_bytes((int64_t)bits);
}

/* Folds values in `pieces` runs that are then merged in order; the one record that finish emits. */
static struct levee_slice fold(const struct levee_reducer *r, const struct levee_slice *v, size_t n,
                               size_t pieces)
{
    uint64_t *whole = NULL;

    for (size_t p = 0; p < pieces; p++) {
        size_t from = n * p / pieces, to = n * (p + 1) / pieces;
        uint64_t *acc = arena_alloc(&arena, r->size);
        MUST(acc != NULL);
        memset(acc, 0, r->size);
        for (size_t i = from; i < to; i++) {
            MUST((i == from ? r->create : r->add)(&out, acc, v[i], r->arg) == 0);
        }
        if (from < to) {
            MUST(!whole || r->merge(&out, whole, acc, r->arg) == 0);
            whole = whole ? whole : acc;
        }
    }
    out.count = 0;
    MUST(r->finish(&out, slice_str("k"), whole, r->arg) == 0);
    MUST(out.count == 1 && slice_eq(out.items[0].key, slice_str("k")));
    return out.items[0].value;
}

static int64_t wrapped(int64_t a, int64_t b)
{
    return (int64_t)((uint64_t)a + (uint64_t)b);
}

START_TEST(integers)
{
    uint64_t rng = (uint64_t)_i;
    struct levee_slice v[40];
    int64_t x[40];
    size_t n = 1 + rng_next(&rng) % 40;
    struct all a = {.min = INT64_MAX, .max = INT64_MIN};

    for (size_t i = 0; i < n; i++) {
        uint64_t kind = rng_next(&rng) % 4;
        x[i] = kind == 0 ? INT64_MIN : kind == 1 ? INT64_MAX : (int64_t)(rng_next(&rng) % 100) - 50;
        v[i] = i64_bytes(x[i]);
        a.count++;
        a.sum = wrapped(a.sum, x[i]);
        a.min = x[i] < a.min ? x[i] : a.min;
        a.max = x[i] > a.max ? x[i] : a.max;
        a.dsum += (double)x[i];
    }
    for (size_t pieces = 1; pieces < 6; pieces++) {
        MUST(levee_i64(fold(&levee_count_values, v, n, pieces)) == a.count);
        MUST(levee_i64(fold(&levee_sum_i64, v, n, pieces)) == a.sum);
        MUST(levee_i64(fold(&levee_min_i64, v, n, pieces)) == a.min);
        MUST(levee_i64(fold(&levee_max_i64, v, n, pieces)) == a.max);
        double avg = levee_f64(fold(&levee_avg_i64, v, n, pieces));
        double want = a.dsum / (double)n, slack = 1e-9 * 1e19;
        MUST(avg - want < slack && want - avg < slack);
    }
}
END_TEST

START_TEST(doubles)
{
    uint64_t rng = (uint64_t)_i + 500;
    struct levee_slice v[40];
    size_t n = 1 + rng_next(&rng) % 40;
    struct all a = {.dmin = (double)INFINITY, .dmax = -(double)INFINITY};

    for (size_t i = 0; i < n; i++) {
        double d = (double)(int64_t)(rng_next(&rng) % 2001) / 8 - 125; /* sums of these are exact */
        v[i] = f64_bytes(d);
        a.dsum += d;
        a.dmin = d < a.dmin ? d : a.dmin;
        a.dmax = d > a.dmax ? d : a.dmax;
    }
    for (size_t pieces = 1; pieces < 6; pieces++) {
        const double got[4] = {levee_f64(fold(&levee_sum_f64, v, n, pieces)),
                               levee_f64(fold(&levee_min_f64, v, n, pieces)),
                               levee_f64(fold(&levee_max_f64, v, n, pieces)),
                               levee_f64(fold(&levee_avg_f64, v, n, pieces))};
        const double want[4] = {a.dsum, a.dmin, a.dmax, a.dsum / (double)n};
        for (size_t k = 0; k < 4; k++) {
            ck_assert(levee_f64(f64_bytes(got[k])) - want[k] <= 0 && want[k] - got[k] <= 0);
        }
    }
}
END_TEST

START_TEST(concatenation)
{
    uint64_t rng = (uint64_t)_i + 900;
    struct levee_slice v[300];
    size_t n = 1 + rng_next(&rng) % 300, len = 0;
    char text[300 * 9];

    for (size_t i = 0; i < n; i++) {
        size_t more = rng_next(&rng) % 9;
        memset(text + len, 'a' + (int)(i % 26), more);
        v[i] = more || i % 2 ? slice_of(text + len, more) : slice_of(NULL, 0);
        len += more;
    }
    for (size_t pieces = 1; pieces < 6; pieces++) {
        struct levee_slice all = fold(&levee_concat, v, n, pieces);
        MUST(all.data != NULL && all.len == len && memcmp(all.data, text, len) == 0);
    }
    ck_assert_uint_lt(arena.total, 2u << 20); /* not n copies of everything */
}
END_TEST

START_TEST(what_is_added_can_be_removed)
{
    struct levee_slice v[] = {i64_bytes(5), i64_bytes(INT64_MAX), i64_bytes(-7)};
    const struct levee_reducer *const with[] = {&levee_sum_i64, &levee_count_values};
    const int64_t want[] = {wrapped(5, -7), 2};

    for (size_t i = 0; i < 2; i++) {
        int64_t acc = 0, one = 0;
        for (size_t k = 0; k < 3; k++) {
            MUST((k ? with[i]->add : with[i]->create)(&out, &acc, v[k], NULL) == 0);
        }
        MUST(with[i]->create(&out, &one, v[1], NULL) == 0);
        MUST(with[i]->remove(&out, &acc, &one, NULL) == 0);
        MUST(with[i]->finish(&out, slice_str("k"), &acc, NULL) == 0);
        ck_assert_int_eq(levee_i64(out.items[out.count - 1].value), want[i]);
    }
    ck_assert(!levee_min_i64.remove); /* no inverse */
    ck_assert(!levee_sum_f64.remove); /* none that is exact */
}
END_TEST

START_TEST(emitted_copies_do_not_depend_on_their_source)
{
    char key[] = "key", value[] = "value";
    struct levee_slice none = {NULL, 0};
    struct levee_record r = {slice_str("r"), slice_str("s"), 77};

    out.time_ms = 5;
    ck_assert_int_eq(levee_emit_copy(&out, slice_str(key), slice_str(value)), LEVEE_OK);
    memset(key, '!', 3);
    memset(value, '!', 5);
    ck_assert(slice_eq(out.items[0].key, slice_str("key")));
    ck_assert(slice_eq(out.items[0].value, slice_str("value")));
    ck_assert_int_eq(out.items[0].time_ms, 5);
    ck_assert_int_eq(levee_emit_copy(&out, none, slice_of("", 0)), LEVEE_OK);
    ck_assert(!out.items[1].key.data && out.items[1].value.data);
    ck_assert_int_eq(levee_emit_f64(&out, none, -2.5), LEVEE_OK);
    ck_assert_double_eq_tol(levee_f64(out.items[2].value), -2.5, 1e-300);
    ck_assert_int_eq(levee_emit_i64(&out, none, INT64_MIN), LEVEE_OK);
    ck_assert(levee_i64(out.items[3].value) == INT64_MIN);
    ck_assert_int_eq(levee_emit_record(&out, &r), LEVEE_OK);
    ck_assert_int_eq(out.items[4].time_ms, 77);
    ck_assert_int_eq(levee_i64(slice_of("1234567", 7)), 0);
    ck_assert_double_eq_tol(levee_f64(none), 0, 1e-300);
    ck_assert_int_eq(levee_batch_time(&out), 12000);
    ck_assert_uint_eq(levee_batch_id(&out), 3);
    ck_assert_uint_eq(levee_batch_seed(&out), 0xabcdef);
    ck_assert(!out.failed);
}
END_TEST

/* Each way to emit, with no memory: NOMEM, and the output remembers it for the engine. */
START_TEST(emitting_without_memory_is_remembered)
{
    struct levee_slice k = slice_str("key"), none = {NULL, 0};

    for (int way = 0; way < 6; way++) {
        levee_output fresh = {.arena = &arena, .header = &header};
        int rc = 0;
        arena_release(&arena);
        arena = (struct arena){0};
        mem_fail_at(1);
        switch (way) {
        case 0:
            rc = levee_emit(&fresh, k, none);
            break;
        case 1:
            rc = levee_emit_copy(&fresh, k, none);
            break;
        case 2:
            rc = levee_emit_i64(&fresh, none, 1);
            break;
        case 3:
            rc = levee_emit_f64(&fresh, none, 1);
            break;
        case 4:
            rc = levee_emit_words(&fresh, k);
            break;
        default:
            rc = levee_alloc(&fresh, 100) ? 0 : LEVEE_ENOMEM;
        }
        mem_fail_at(0);
        ck_assert_int_eq(rc, LEVEE_ENOMEM);
        ck_assert(fresh.failed);
        mem_free(fresh.items);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rt_reducers");
    TCase *t = tcase_create("reducers");

    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_loop_test(t, integers, 0, 50);
    tcase_add_loop_test(t, doubles, 0, 50);
    tcase_add_loop_test(t, concatenation, 0, 20);
    tcase_add_test(t, what_is_added_can_be_removed);
    tcase_add_test(t, emitted_copies_do_not_depend_on_their_source);
    tcase_add_test(t, emitting_without_memory_is_remembered);
    suite_add_tcase(s, t);
    return suite_main(s);
}
