/* Blocks and the runtime's own frames: what is encoded is what is read back, and damage is never
 * read past the end. */
#include "runtime/context.h"
#include "tests/support/suite.h"

struct sample {
    struct levee_record r;
    uint64_t seq;
};

static struct rt_block *filled(uint8_t flags, const struct sample *s, size_t n)
{
    struct rt_block *b = rt_block_new(3, 7, flags, slice_str("topic/1"), 16);

    ck_assert_ptr_nonnull(b);
    for (size_t i = 0; i < n; i++) {
        ck_assert(rt_block_add(b, &s[i].r, s[i].seq));
    }
    rt_block_seal(b);
    return b;
}

static void check_back(const struct rt_block *b, uint8_t flags, const struct sample *s, size_t n)
{
    struct rt_block_cursor c;
    struct levee_record r;
    size_t i = 0;

    rt_block_cursor_init(&c, b);
    for (; rt_block_next(&c, &r); i++) {
        ck_assert_uint_lt(i, n);
        ck_assert(slice_eq(r.value, s[i].r.value));
        if (flags & RT_BLOCK_KEYS) {
            ck_assert(slice_eq(r.key, s[i].r.key));
        } else {
            ck_assert_ptr_null(r.key.data);
        }
        ck_assert_int_eq(r.time_ms, flags & RT_BLOCK_TIMES ? s[i].r.time_ms : 0);
        ck_assert_uint_eq(c.seq, flags & RT_BLOCK_HOLES ? s[i].seq : s[0].seq + i);
    }
    ck_assert_uint_eq(i, n);
}

static const uint8_t binary[] = {0, 10, 255, 0, 9};
static const struct sample samples[] = {
    {{{NULL, 0}, {(const uint8_t *)"one line", 8}, 1700000000123}, 5},
    {{{(const uint8_t *)"k", 1}, {NULL, 0}, 1700000000100}, 9},
    {{{(const uint8_t *)"", 0}, {(const uint8_t *)"", 0}, -5}, 10},
    {{{binary, sizeof binary}, {binary, sizeof binary}, INT64_MAX / 2}, UINT64_MAX - 1},
};

START_TEST(every_combination_of_flags_reads_back)
{
    for (uint8_t flags = 0; flags < 16; flags++) {
        struct rt_block *b = filled(flags, samples, ARRAY_LEN(samples));
        struct rt_block copy = {.payload = b->payload};
        check_back(b, flags, samples, ARRAY_LEN(samples));
        ck_assert_int_eq(rt_block_parse(&copy, NULL), LEVEE_OK);
        ck_assert_uint_eq(copy.count, ARRAY_LEN(samples));
        ck_assert_uint_eq(copy.partition, 7);
        ck_assert_uint_eq(copy.first_seq, samples[0].seq);
        ck_assert_uint_eq(copy.last_seq, samples[3].seq);
        ck_assert(slice_eq(copy.producer, slice_str("topic/1")));
        check_back(&copy, flags, samples, ARRAY_LEN(samples));
        rt_block_free(b);
    }
}
END_TEST

START_TEST(any_two_times_may_follow_each_other)
{
    static const int64_t times[] = {0, INT64_MIN, INT64_MAX, -1, INT64_MAX, INT64_MIN, 1};
    struct sample s[ARRAY_LEN(times)];

    for (size_t i = 0; i < ARRAY_LEN(times); i++) {
        s[i] = (struct sample){{{NULL, 0}, slice_str("v"), times[i]}, i + 1};
    }
    struct rt_block *b = filled(RT_BLOCK_TIMES, s, ARRAY_LEN(s));
    check_back(b, RT_BLOCK_TIMES, s, ARRAY_LEN(s));
    rt_block_free(b);
}
END_TEST

START_TEST(large_records_survive_and_grow_the_block)
{
    size_t n = 900u * 1024u;
    uint8_t *big = mem_alloc(n);

    for (size_t i = 0; i < n; i++) {
        big[i] = (uint8_t)(i * 31);
    }
    struct sample s = {{{NULL, 0}, {big, n}, 0}, 1};
    struct rt_block *b = filled(RT_BLOCK_NUMBERED, &s, 1);
    check_back(b, RT_BLOCK_NUMBERED, &s, 1);
    rt_block_free(b);
    mem_free(big);
}
END_TEST

/* Every truncation, and every byte set to 0xff: an error or an early end, never a read past the end
 * (ASan sees to it). */
START_TEST(damage_is_never_read_past_the_end)
{
    struct rt_block *b = filled(15, samples, ARRAY_LEN(samples));

    for (size_t len = 0; len < b->payload.len; len++) {
        struct rt_block cut = {0};
        struct rt_block_cursor c;
        struct levee_record r;
        buf_put(&cut.payload, b->payload.data, len);
        if (rt_block_parse(&cut, NULL) == LEVEE_OK) {
            rt_block_cursor_init(&c, &cut);
            while (rt_block_next(&c, &r)) {
            }
        }
        buf_release(&cut.payload);
    }
    for (size_t i = 0; i < b->payload.len; i++) {
        struct rt_block bad = {0};
        struct rt_block_cursor c;
        struct levee_record r;
        buf_put(&bad.payload, b->payload.data, b->payload.len);
        bad.payload.data[i] = 0xff;
        if (rt_block_parse(&bad, NULL) == LEVEE_OK) {
            rt_block_cursor_init(&c, &bad);
            while (rt_block_next(&c, &r)) {
            }
        }
        buf_release(&bad.payload);
    }
    rt_block_free(b);
}
END_TEST

START_TEST(batch_open_reads_back_and_every_truncation_is_typed)
{
    struct rt_source_range ranges[2] = {{7, 10, 20, 3, 300}, {9, 11, 11, 1, 0}};
    struct rt_batch b = {
        .header = {42, 1700000000000, 3, 0xfeed}, .ranges = ranges, .range_count = 2};
    struct buf bytes = {0};

    rt_open_encode(&b, "program-1", &bytes);
    for (size_t len = 0; len <= bytes.len; len++) {
        struct rt_logged_batch l = {0};
        struct levee_error err = {0};
        int code = rt_open_decode(slice_of(bytes.data, len), &l, &err);
        if (len < bytes.len) {
            ck_assert_int_eq(code, LEVEE_EWAL_CORRUPT);
        } else {
            ck_assert_int_eq(code, LEVEE_OK);
            ck_assert_uint_eq(l.header.id, 42);
            ck_assert_int_eq(l.header.time_ms, 1700000000000);
            ck_assert_uint_eq(l.header.ticks, 3);
            ck_assert_uint_eq(l.header.seed, 0xfeed);
            ck_assert_str_eq(l.program, "program-1");
            ck_assert_uint_eq(l.range_count, 2);
            for (size_t i = 0; i < 2; i++) {
                ck_assert_uint_eq(l.ranges[i].table, ranges[i].table);
                ck_assert_uint_eq(l.ranges[i].first_lsn, ranges[i].first_lsn);
                ck_assert_uint_eq(l.ranges[i].last_lsn, ranges[i].last_lsn);
                ck_assert_uint_eq(l.ranges[i].blocks, ranges[i].blocks);
                ck_assert_uint_eq(l.ranges[i].records, ranges[i].records);
            }
        }
        mem_free(l.ranges);
    }
    buf_release(&bytes);
}
END_TEST

START_TEST(decisions_read_back_and_every_truncation_is_seen)
{
    struct rt_decision d = {.node_uid_hash = 5,
                            .partition = 2,
                            .index = 1u << 20,
                            .code = -77,
                            .attempts = 3,
                            .key = slice_str("k"),
                            .value = {NULL, 0},
                            .uid = "totals"};
    struct buf bytes = {0};

    rt_decision_encode(&d, &bytes);
    for (size_t len = 0; len <= bytes.len; len++) {
        struct cursor c = cursor_of(slice_of(bytes.data, len));
        struct rt_decision back;
        bool ok = rt_decision_decode(&c, &back);
        ck_assert(ok == (len == bytes.len));
        if (ok) {
            ck_assert_int_eq(back.code, -77);
            ck_assert_uint_eq(back.index, 1u << 20);
            ck_assert(slice_eq(back.key, d.key));
            ck_assert_ptr_null(back.value.data);
            ck_assert_str_eq(back.uid, "totals");
        }
    }
    buf_release(&bytes);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rt_block");
    TCase *t = tcase_create("codec");

    tcase_add_test(t, every_combination_of_flags_reads_back);
    tcase_add_test(t, any_two_times_may_follow_each_other);
    tcase_add_test(t, large_records_survive_and_grow_the_block);
    tcase_add_test(t, damage_is_never_read_past_the_end);
    tcase_add_test(t, batch_open_reads_back_and_every_truncation_is_typed);
    tcase_add_test(t, decisions_read_back_and_every_truncation_is_seen);
    suite_add_tcase(s, t);
    return suite_main(s);
}
