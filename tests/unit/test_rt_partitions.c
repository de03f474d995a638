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

START_TEST(records_go_to_partitions_in_turns)
{
    struct bed b;
    struct levee_record r[5];

    bed_init(&b, 2, 0);
    levee_stream *s = bed_source(&b, 2);
    size_t more = bed_sink(&b, levee_repartition(s, 3)),
           one = bed_sink(&b, levee_repartition(s, 1));
    MUST(bed_open(&b) == LEVEE_OK);
    for (size_t i = 0; i < 5; i++) {
        r[i] = (struct levee_record){slice_of(NULL, 0), slice_of(&"abcde"[i], 1), 0};
    }
    bed_feed(&b, 0, 0, r, 2);
    bed_feed(&b, 0, 1, r + 3, 2);
    bed_feed(&b, 0, 0, r + 2, 1);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show(&b, more, shown, sizeof shown), "=a|=b =d|=c =e");
    ck_assert_str_eq(bed_show(&b, one, shown, sizeof shown), "=a =b =c =d =e");
    bed_end_batch(&b);
    MUST(bed_run(&b) == LEVEE_OK);
    ck_assert_str_eq(bed_show(&b, more, shown, sizeof shown), "||");
    bed_release(&b);
}
END_TEST

/* The digit of a value; letters fail, '4' is just out of range. */
static int place_by_digit(const struct levee_record *in, uint32_t partitions, void *arg)
{
    MUST(partitions == 4);
    (*(_Atomic int *)arg)++;
    return in->value.data[0] <= '9' ? in->value.data[0] - '0' : -9;
}

START_TEST(a_partitioner_places_or_fails)
{
    static const char *const values[] = {"3", "0", "x", "3", "4", "1"};
    _Atomic int calls = 0;
    struct bed b;
    struct rt_decision decided[2];

    bed_init(&b, 2, 0);
    levee_stream *s = levee_repartition_by(bed_source(&b, 1), 4, place_by_digit, &calls);
    size_t out = bed_sink(&b, s);
    b.opt.on_failure = LEVEE_DEAD_LETTER;
    b.opt.retries = 1;
    MUST(bed_open(&b) == LEVEE_OK);
    for (int replay = 0; replay < 2; replay++) {
        calls = 0;
        bed_feed_text(&b, values, ARRAY_LEN(values));
        b.compute.apply = replay ? decided : NULL;
        b.compute.apply_count = replay ? 2 : 0;
        b.compute.apply_only = replay;
        MUST(bed_run(&b) == LEVEE_OK);
        ck_assert_str_eq(bed_show(&b, out, shown, sizeof shown), "=0|=1||=3 =3");
        ck_assert_int_eq(calls, replay ? 4 : 8);
        ck_assert_uint_eq(b.compute.decision_count, 2);
        for (size_t i = 0; i < 2; i++) {
            decided[i] = b.compute.decisions[i];
            ck_assert_str_eq(decided[i].uid, "#1:repartition");
            ck_assert_uint_eq(decided[i].index, i ? 4 : 2);
            ck_assert_int_eq(decided[i].code, i ? LEVEE_EINVALID : -9);
        }
        bed_end_batch(&b);
    }
    bed_release(&b);
}
END_TEST

/* State of a uid after three batches, whatever the number of partitions. */
static uint64_t state_with(uint32_t partitions, uint64_t *ret_output)
{
    struct bed b;
    uint64_t digest;

    bed_init(&b, 2, 0);
    levee_stream *s =
        levee_update_state_by_key(bed_source(&b, 2), "s", NULL, levee_update_sum_i64, NULL);
    size_t out = bed_sink(&b, levee_repartition(levee_partitions(s, partitions), 1));
    MUST(s->partitions == partitions);
    MUST(bed_open(&b) == LEVEE_OK);
    for (int batch = 0; batch < 3; batch++) {
        for (uint8_t i = 0; i < 200; i++) {
            uint8_t key[2] = {i, (uint8_t)(batch % 2)}, one[8] = {1};
            struct levee_record r = {slice_of(key, 2), slice_of(one, 8), 0};
            bed_feed(&b, 0, i % 2, &r, 1);
        }
        MUST(bed_run(&b) == LEVEE_OK);
        *ret_output = b.compute.output_records[out];
        bed_end_batch(&b);
    }
    struct ckpt_slices *slices;
    size_t n;
    MUST(rt_engine_gather(b.engine, &slices, &n, &b.err) == LEVEE_OK);
    MUST(n == 1);
    digest = hash64(slices->bytes.data, slices->bytes.len, rt_engine_state_digest(b.engine));
    rt_engine_free_slices(slices, n);
    bed_release(&b);
    return digest;
}

START_TEST(state_knows_nothing_of_partitions)
{
    static const uint32_t counts[] = {1, 3, 128, 129, 1000};
    uint64_t output, digest = state_with(8, &output);

    ck_assert_uint_eq(output, 200);
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        ck_assert_uint_eq(state_with(counts[i], &output), digest);
        ck_assert_uint_eq(output, 200);
    }
}
END_TEST

/* Each of these is the builder's mistake, and none has an effect. */
START_TEST(partition_counts_are_checked)
{
    static const char *const texts[] = {"from 2 partitions to 0",  "to 65537",
                                        "at most 4194304 pairs",   "no function",
                                        "levee_repartition moves", "levee_repartition moves",
                                        "not a number of 1-65536", "in use already"};
    struct bed b;

    bed_init(&b, 1, 0);
    levee_stream *s = bed_source(&b, 2), *r = NULL, *many = levee_repartition(s, 65536);
    levee_stream *grouped = levee_group_by_key(s);
    MUST(many != NULL && levee_repartition(NULL, 1) == NULL && levee_partitions(NULL, 1) == NULL);
    switch (_i) {
    case 0:
        r = levee_repartition(s, 0);
        break;
    case 1:
        r = levee_repartition(s, 65537);
        break;
    case 2:
        r = levee_repartition(many, 65);
        break;
    case 3:
        r = levee_repartition_by(s, 2, NULL, NULL);
        break;
    case 4:
        r = levee_partitions(many, 2);
        break;
    case 5:
        r = levee_partitions(levee_count(s), 2);
        break;
    case 6:
        r = levee_partitions(grouped, 0);
        break;
    default:
        bed_sink(&b, grouped);
        r = levee_partitions(grouped, 2);
    }
    ck_assert_ptr_null(r);
    ck_assert_int_eq(b.graph->error.code, _i == 3 ? LEVEE_EINVALID : LEVEE_EGRAPH);
    if (!strstr(b.graph->error.what, texts[_i])) {
        ck_abort_msg("%s", b.graph->error.what);
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
    tcase_add_test(t, records_go_to_partitions_in_turns);
    tcase_add_test(t, a_partitioner_places_or_fails);
    tcase_add_test(t, state_knows_nothing_of_partitions);
    tcase_add_loop_test(t, partition_counts_are_checked, 0, 8);
    suite_add_tcase(s, t);
    return suite_main(s);
}
