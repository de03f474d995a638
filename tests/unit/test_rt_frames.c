/*
 * BATCH_OPEN with its optional fields: what is written is read, frames from before there were any
 * are read, and what this build does not know it refuses.
 */
#include "runtime/context.h"
#include "tests/unit/test_rt_functions.h"

static void bed_clocked(struct bed *b, levee_context *ctx, bool timed)
{
    bed_init(b, 1, 0);
    levee_stream *s = bed_source(b, 1);
    if (timed) {
        s = levee_event_time(s, "one", NULL, NULL, NULL);
        s = levee_event_time(s, "two", NULL, NULL, NULL);
    }
    bed_sink(b, s);
    MUST(bed_open(b) == LEVEE_OK);
    *ctx = (levee_context){.engine = b->engine, .graph = b->graph};
}

static void encode(levee_context *ctx, const int64_t *watermarks, struct buf *ret)
{
    struct rt_source_range range = {
        .table = 7, .first_lsn = 3, .last_lsn = 300, .blocks = 2, .records = 70000};
    struct rt_batch b = {.ctx = ctx,
                         .header = {.id = 9, .time_ms = -1000, .ticks = 3, .seed = 77},
                         .ranges = &range,
                         .range_count = 1};

    b.watermarks = (int64_t *)(uintptr_t)watermarks;
    rt_open_encode(&b, "program", ret);
    MUST(!ret->failed);
}

static int decode(struct levee_slice bytes, struct rt_logged_batch **ret, struct levee_error *err)
{
    *ret = mem_zalloc(sizeof **ret);
    MUST(*ret != NULL);
    return rt_open_decode(bytes, *ret, err);
}

static void expect_header(const struct rt_logged_batch *l)
{
    ck_assert_uint_eq(l->header.id, 9);
    ck_assert_int_eq(l->header.time_ms, -1000);
    ck_assert_uint_eq(l->header.ticks, 3);
    ck_assert_uint_eq(l->header.seed, 77);
    ck_assert_str_eq(l->program, "program");
    ck_assert_uint_eq(l->range_count, 1);
    ck_assert_uint_eq(l->ranges[0].records, 70000);
}

START_TEST(watermarks_are_read_as_they_were_written)
{
    static const int64_t watermarks[] = {INT64_MIN, 1700000000000};
    levee_context *ctx = calloc(1, sizeof *ctx);
    struct bed b;
    struct buf bytes = {0};
    struct rt_logged_batch *l;
    struct levee_error err = {0};

    MUST(ctx != NULL);
    bed_clocked(&b, ctx, true);
    encode(ctx, watermarks, &bytes);
    ck_assert_int_eq(decode(buf_view(&bytes), &l, &err), LEVEE_OK);
    expect_header(l);
    ck_assert_uint_eq(l->watermark_count, 2);
    ck_assert_uint_eq(l->watermarks[0].table, rt_uid_hash("one"));
    ck_assert_int_eq(l->watermarks[0].at_ms, INT64_MIN);
    ck_assert_uint_eq(l->watermarks[1].table, rt_uid_hash("two"));
    ck_assert_int_eq(l->watermarks[1].at_ms, 1700000000000);
    rt_logged_free(l);
    for (size_t n = 0; n < bytes.len; n++) { /* cut anywhere */
        ck_assert_int_eq(decode(slice_of(bytes.data, n), &l, &err), LEVEE_EWAL_CORRUPT);
        rt_logged_free(l);
    }
    buf_release(&bytes);
    bed_release(&b);
    free(ctx);
}
END_TEST

/* A graph without event time writes what it always wrote; the bytes are here as they were then. */
START_TEST(frames_without_fields_are_as_they_were)
{
    static const uint8_t before[] = {
        1,   9,   0,   0, 0,  0, 0, 0, 0, 0x18, 0xfc, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        3,   0,   0,   0, 77, 0, 0, 0, 0, 0,    0,    0,    8,    'p',  'r',  'o',  'g',
        'r', 'a', 'm', 1, 7,  0, 0, 0, 3, 0xac, 2,    2,    0xf0, 0xa2, 4};
    levee_context *ctx = calloc(1, sizeof *ctx);
    struct bed b;
    struct buf bytes = {0};
    struct rt_logged_batch *l;
    struct levee_error err = {0};

    MUST(ctx != NULL);
    bed_clocked(&b, ctx, false);
    encode(ctx, NULL, &bytes);
    ck_assert(slice_eq(buf_view(&bytes), slice_of(before, sizeof before)));
    ck_assert_int_eq(decode(slice_of(before, sizeof before), &l, &err), LEVEE_OK);
    expect_header(l);
    ck_assert_uint_eq(l->watermark_count, 0);
    rt_logged_free(l);
    buf_release(&bytes);
    bed_release(&b);
    free(ctx);
}
END_TEST

START_TEST(fields_that_are_not_known_are_refused)
{
    static const int64_t watermarks[] = {1, 2};
    levee_context *ctx = calloc(1, sizeof *ctx);
    struct bed b;
    struct buf bytes = {0};
    struct rt_logged_batch *l;
    struct levee_error err = {0};
    size_t fields = 49; /* where the count of fields stands: behind the frame without any */

    MUST(ctx != NULL);
    bed_clocked(&b, ctx, true);
    encode(ctx, watermarks, &bytes);
    ck_assert_uint_eq(bytes.data[0], 2);
    ck_assert_uint_eq(bytes.data[fields], 1);
    bytes.data[fields + 1] = 250;
    ck_assert_int_eq(decode(buf_view(&bytes), &l, &err), LEVEE_EDIR_NEWER);
    ck_assert_ptr_nonnull(strstr(err.what, "field 250"));
    rt_logged_free(l);
    bytes.data[fields + 1] = 1;
    bytes.data[fields + 2]--; /* not a multiple of what one takes */
    ck_assert_int_eq(decode(buf_view(&bytes), &l, &err), LEVEE_EWAL_CORRUPT);
    rt_logged_free(l);
    bytes.data[fields + 2]++;
    size_t len = bytes.len;
    bytes.data[fields] = 2; /* the same field twice */
    buf_put(&bytes, bytes.data + fields + 1, len - fields - 1);
    ck_assert_int_eq(decode(buf_view(&bytes), &l, &err), LEVEE_EWAL_CORRUPT);
    rt_logged_free(l);
    bytes.data[0] = 3;
    ck_assert_int_eq(decode(buf_view(&bytes), &l, &err), LEVEE_EWAL_CORRUPT);
    rt_logged_free(l);
    buf_release(&bytes);
    bed_release(&b);
    free(ctx);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rt_frames");
    TCase *t = tcase_create("frames");

    tcase_add_test(t, watermarks_are_read_as_they_were_written);
    tcase_add_test(t, frames_without_fields_are_as_they_were);
    tcase_add_test(t, fields_that_are_not_known_are_refused);
    suite_add_tcase(s, t);
    return suite_main(s);
}
