/* Operators that see or place whole partitions: glom, map_partitions, repartition, partition
 * counts. (tests/unit/test_rt_model.c compares them in graphs with a model.) */
#include "tests/unit/test_rt_functions.h"

static char shown[4096];

START_TEST(a_glom_holds_a_partition_as_it_was)
{
    struct bed b;
    uint8_t longer[300];
    struct levee_record in[] = {{slice_str("k"), slice_str("v"), 7},
                                {slice_of(NULL, 0), slice_of("", 0), -1},
                                {slice_of("", 0), slice_of(NULL, 0), INT64_MIN},
                                {slice_of(longer, sizeof longer), slice_of(longer, 127), 0}};
    struct levee_record r;

    memset(longer, 'x', sizeof longer);
    bed_init(&b, 2, 0);
    size_t out = bed_sink(&b, levee_glom(bed_source(&b, 3)));
    MUST(bed_open(&b) == LEVEE_OK);
    bed_feed(&b, 0, 1, in, 1); /* in two blocks: still one partition */
    bed_feed(&b, 0, 1, in + 1, 3);
    MUST(bed_run(&b) == LEVEE_OK);
    const struct rt_dataset *d = bed_output(&b, out);
    ck_assert_uint_eq(d->partitions, 3);
    for (uint32_t p = 0; p < 3; p++) {
        ck_assert_uint_eq(d->parts[p].count, 1);
        ck_assert_ptr_null(d->parts[p].items[0].key.data);
        struct levee_slice g = d->parts[p].items[0].value;
        ck_assert_ptr_nonnull(g.data);
        for (size_t i = 0; p == 1 && i < 4; i++) {
            ck_assert(levee_glom_next(&g, &r));
            ck_assert(slice_eq(r.key, in[i].key) && slice_eq(r.value, in[i].value));
            ck_assert_int_eq(r.time_ms, in[i].time_ms);
        }
        ck_assert(!levee_glom_next(&g, &r));
    }
    bed_release(&b);
}
END_TEST

START_TEST(a_damaged_glom_ends)
{
    static const uint8_t whole[] = {2, 'k', 0, 1, 2, 3, 4, 5, 6, 7, 8};
    struct levee_record r;

    for (size_t len = 0; len <= sizeof whole; len++) {
        struct levee_slice g = slice_of(whole, len);
        ck_assert_int_eq(levee_glom_next(&g, &r), len == sizeof whole);
    }
}
END_TEST

/* Joins the values of a partition; a '!' among them fails, unless it was tried often enough. */
static _Atomic int tries;
static int join_partition(levee_output *out, const struct levee_record *in, size_t n, void *arg)
{
    uint8_t text[64];
    size_t len = 0;

    for (size_t i = 0; i < n; i++) {
        MUST(len + in[i].value.len <= sizeof text);
        memcpy(text + len, in[i].value.data, in[i].value.len);
        len += in[i].value.len;
    }
    MUST(levee_emit_copy(out, slice_of(NULL, 0), slice_of(text, len)) == 0);
    if (!memchr(text, '!', len)) {
        return 0;
    }
    return ++tries > *(const int *)arg ? 0 : -6;
}

static void feed_three(struct bed *b)
{
    static const char *const values[3][2] = {{"a", "b"}, {"c", "!"}, {"d", "e"}};

    for (uint16_t p = 0; p < 3; p++) {
        for (size_t i = 0; i < 2; i++) {
            struct levee_record r = {slice_str("key"), slice_str(values[p][i]), 0};
            bed_feed(b, 0, p, &r, 1);
        }
    }
}

START_TEST(a_partition_is_retried_as_a_whole)
{
    struct bed b;
    int until = 2;

    tries = 0;
    bed_init(&b, 2, 0);
    size_t out = bed_sink(&b, levee_map_partitions(bed_source(&b, 4), join_partition, &until));
    b.opt.retries = 2;
    MUST(bed_open(&b) == LEVEE_OK);
    feed_three(&b);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show(&b, out, shown, sizeof shown), "=ab|=c!|=de|=");
    ck_assert_int_eq(tries, 3);
    bed_release(&b);
}
END_TEST

START_TEST(a_failed_partition_is_as_many_dead_letters_as_records)
{
    struct bed b;
    int until = 1000;
    struct rt_decision decided[2];
    uint64_t digest = 0;

    tries = 0;
    bed_init(&b, 2, 0);
    size_t out = bed_sink(&b, levee_map_partitions(bed_source(&b, 3), join_partition, &until));
    b.opt.retries = 1;
    b.opt.on_failure = LEVEE_DEAD_LETTER;
    MUST(bed_open(&b) == LEVEE_OK);
    for (int replay = 0; replay < 2; replay++) {
        feed_three(&b);
        if (replay) {
            until = 0; /* it would succeed now, but is not called */
            tries = 0;
            b.compute.apply = decided;
            b.compute.apply_count = 2;
            b.compute.apply_only = true;
        }
        MUST(bed_run(&b) == LEVEE_OK);
        ck_assert_str_eq(bed_show(&b, out, shown, sizeof shown), "=ab||=de");
        ck_assert_int_eq(tries, replay ? 0 : 2);
        ck_assert_uint_eq(b.compute.decision_count, 2);
        ck_assert(!replay || digest == b.compute.digests[out]);
        digest = b.compute.digests[out];
        for (size_t i = 0; i < 2; i++) {
            decided[i] = b.compute.decisions[i];
            ck_assert_uint_eq(decided[i].partition, 1);
            ck_assert_uint_eq(decided[i].index, i);
            ck_assert_int_eq(decided[i].code, -6);
            ck_assert_uint_eq(decided[i].attempts, 2);
            ck_assert(slice_eq(decided[i].key, slice_str("key")));
            ck_assert(slice_eq(decided[i].value, slice_str(i ? "!" : "c")));
        }
        bed_end_batch(&b);
    }
    bed_release(&b);
}
END_TEST

static int always_fails(levee_output *out, const struct levee_record *in, size_t n, void *arg)
{
    (void)out;
    (void)in;
    (void)arg;
    return n ? 0 : -2;
}

START_TEST(a_partition_without_records_may_fail_too)
{
    struct bed b;

    bed_init(&b, 1, 0);
    bed_sink(&b, levee_map_partitions_at(bed_source(&b, 2), always_fails, NULL, "graph.c", 3));
    b.opt.on_failure = _i ? LEVEE_DEAD_LETTER : LEVEE_STOP;
    MUST(bed_open(&b) == LEVEE_OK);
    struct levee_record r = {slice_str("k"), slice_str("v"), 0};
    bed_feed(&b, 0, 0, &r, 1);
    if (_i) {
        MUST(bed_run(&b) == LEVEE_OK);
        ck_assert_uint_eq(b.compute.decision_count, 1);
        ck_assert_uint_eq(b.compute.decisions[0].partition, 1);
        ck_assert_ptr_null(b.compute.decisions[0].value.data);
    } else {
        ck_assert_int_eq(bed_run(&b), LEVEE_EFUNCTION);
        ck_assert_str_eq(b.compute.err.where, "graph.c:3");
    }
    bed_release(&b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rt_partitions");
    TCase *t = tcase_create("partitions");

    tcase_add_test(t, a_glom_holds_a_partition_as_it_was);
    tcase_add_test(t, a_damaged_glom_ends);
    tcase_add_test(t, a_partition_is_retried_as_a_whole);
    tcase_add_test(t, a_failed_partition_is_as_many_dead_letters_as_records);
    tcase_add_loop_test(t, a_partition_without_records_may_fail_too, 0, 2);
    suite_add_tcase(s, t);
    return suite_main(s);
}
