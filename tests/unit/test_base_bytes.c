/*
 * base/bytes.c: what was written is read back, and nothing else is ever read.
 *
 * Short inputs are copied into blocks of exactly their size, so that ASan sees a read behind the
 * end.
 */
#include "base/base.h"
#include "tests/support/suite.h"

#include <stdlib.h>

/* One value of each kind, in the order of `encode` and `decode`. */
struct sample {
    uint8_t u8;
    uint16_t u16;
    uint32_t u32;
    uint64_t u64, varint;
    struct levee_slice text, empty, absent;
};

static void encode(struct buf *b, const struct sample *s)
{
    buf_u8(b, s->u8);
    buf_u16(b, s->u16);
    buf_u32(b, s->u32);
    buf_u64(b, s->u64);
    buf_varint(b, s->varint);
    buf_slice(b, s->text);
    buf_slice(b, s->empty);
    buf_slice(b, s->absent);
    buf_u8(b, 0x7e); /* so that no truncation is a whole message */
}

static struct sample decode(struct cursor *c)
{
    struct sample s = {0};

    s.u8 = cur_u8(c);
    s.u16 = cur_u16(c);
    s.u32 = cur_u32(c);
    s.u64 = cur_u64(c);
    s.varint = cur_varint(c);
    s.text = cur_slice(c);
    s.empty = cur_slice(c);
    s.absent = cur_slice(c);
    c->bad = c->bad || cur_u8(c) != 0x7e;
    return s;
}

static struct sample sample_of(uint64_t *rng)
{
    static uint8_t bytes[300];

    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)rng_next(rng);
    }
    return (struct sample){
        .u8 = (uint8_t)rng_next(rng),
        .u16 = (uint16_t)rng_next(rng),
        .u32 = (uint32_t)rng_next(rng),
        .u64 = rng_next(rng),
        .varint = rng_next(rng) >> rng_next(rng) % 64,
        .text = slice_of(bytes, rng_next(rng) % sizeof bytes),
        .empty = slice_of("", 0),
        .absent = slice_of(NULL, 0),
    };
}

START_TEST(what_was_written_is_read_back)
{
    uint64_t rng = 11;
    struct buf b = {0};

    for (int i = 0; i < 500; i++) {
        struct sample in = sample_of(&rng);

        buf_clear(&b);
        encode(&b, &in);
        ck_assert(!b.failed);
        struct cursor c = cursor_of(buf_view(&b));
        struct sample out = decode(&c);
        ck_assert(!c.bad);
        ck_assert_uint_eq(cur_left(&c), 0);
        ck_assert_uint_eq(out.u8, in.u8);
        ck_assert_uint_eq(out.u16, in.u16);
        ck_assert_uint_eq(out.u32, in.u32);
        ck_assert_uint_eq(out.u64, in.u64);
        ck_assert_uint_eq(out.varint, in.varint);
        ck_assert(slice_eq(out.text, in.text));
        ck_assert_ptr_nonnull(out.empty.data);
        ck_assert_uint_eq(out.empty.len, 0);
        ck_assert_ptr_null(out.absent.data);
    }
    buf_release(&b);
}
END_TEST

START_TEST(every_truncation_is_bad_and_reads_nothing_behind_it)
{
    uint64_t rng = 12;
    struct sample in = sample_of(&rng);
    struct buf b = {0};

    in.text.len = 200;
    in.varint = UINT64_MAX;
    encode(&b, &in);
    for (size_t len = 0; len < b.len; len++) {
        uint8_t *cut = malloc(len ? len : 1);

        ck_assert_ptr_nonnull(cut);
        memcpy(cut, b.data, len);
        struct cursor c = cursor_of(slice_of(cut, len));
        (void)decode(&c);
        ck_assert_msg(c.bad, "cut to %zu of %zu bytes", len, b.len);
        ck_assert_uint_eq(cur_left(&c), 0);
        free(cut);
    }
    buf_release(&b);
}
END_TEST

START_TEST(bad_is_final_and_gives_zeros)
{
    static const uint8_t bytes[] = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    struct cursor c = cursor_of(slice_of(bytes, sizeof bytes));

    (void)cur_bytes(&c, 10);
    ck_assert(c.bad);
    ck_assert_uint_eq(cur_u8(&c), 0);
    ck_assert_uint_eq(cur_u16(&c), 0);
    ck_assert_uint_eq(cur_u32(&c), 0);
    ck_assert_uint_eq(cur_u64(&c), 0);
    ck_assert_uint_eq(cur_varint(&c), 0);
    ck_assert_ptr_null(cur_slice(&c).data);
    ck_assert_ptr_null(cur_bytes(&c, 0).data);
    ck_assert(c.bad);
}
END_TEST

START_TEST(an_absent_input_is_short_not_a_crash)
{
    struct cursor c = cursor_of(slice_of(NULL, 0));

    ck_assert_uint_eq(cur_left(&c), 0);
    struct levee_slice empty = cur_bytes(&c, 0);
    ck_assert(!c.bad);
    ck_assert_ptr_nonnull(empty.data);
    ck_assert_uint_eq(cur_u8(&c), 0);
    ck_assert(c.bad);
}
END_TEST

START_TEST(random_bytes_never_lead_outside)
{
    uint64_t rng = 13;

    for (int i = 0; i < 20000; i++) {
        size_t len = rng_next(&rng) % 64;
        uint8_t *bytes = malloc(len ? len : 1);

        ck_assert_ptr_nonnull(bytes);
        for (size_t k = 0; k < len; k++) {
            bytes[k] = (uint8_t)rng_next(&rng);
        }
        struct cursor c = cursor_of(slice_of(bytes, len));
        while (!c.bad && cur_left(&c) > 0) {
            struct levee_slice s = cur_slice(&c);

            MUST(!s.data || (s.data >= bytes && s.data + s.len <= bytes + len));
        }
        free(bytes);
    }
}
END_TEST

START_TEST(a_varint_has_one_encoding)
{
    struct buf b = {0};

    for (unsigned shift = 0; shift < 64; shift++) {
        for (int delta = -1; delta <= 1; delta++) {
            uint64_t v = (UINT64_C(1) << shift) + (uint64_t)(int64_t)delta;
            size_t bytes = 1;

            for (uint64_t rest = v >> 7; rest; rest >>= 7) {
                bytes++;
            }
            buf_clear(&b);
            buf_varint(&b, v);
            ck_assert_uint_eq(b.len, bytes);
            struct cursor c = cursor_of(buf_view(&b));
            ck_assert_uint_eq(cur_varint(&c), v);
            ck_assert(!c.bad);

            /* The same value with a needless zero byte behind it is refused. */
            b.data[b.len - 1] |= 0x80;
            buf_u8(&b, 0);
            c = cursor_of(buf_view(&b));
            ck_assert_uint_eq(cur_varint(&c), 0);
            ck_assert(c.bad);
        }
    }
    buf_release(&b);
}
END_TEST

START_TEST(a_varint_of_more_than_64_bits_is_bad)
{
    uint8_t bytes[11];
    struct cursor c;

    memset(bytes, 0xff, sizeof bytes);
    bytes[9] = 0x01; /* 2^64 - 1 */
    c = cursor_of(slice_of(bytes, 10));
    ck_assert_uint_eq(cur_varint(&c), UINT64_MAX);
    ck_assert(!c.bad);
    for (unsigned last = 2; last < 256; last++) {
        bytes[9] = (uint8_t)last;
        c = cursor_of(slice_of(bytes, sizeof bytes));
        ck_assert_uint_eq(cur_varint(&c), 0);
        ck_assert(c.bad);
    }
}
END_TEST

START_TEST(a_slice_longer_than_the_input_is_bad)
{
    const uint64_t lengths[] = {3, 100, UINT32_MAX, UINT64_MAX - 1, UINT64_MAX};
    struct buf b = {0};

    for (size_t i = 0; i < ARRAY_LEN(lengths); i++) {
        buf_clear(&b);
        buf_varint(&b, lengths[i] + 1 ? lengths[i] + 1 : UINT64_MAX);
        buf_put(&b, "ab", 2);
        struct cursor c = cursor_of(buf_view(&b));
        ck_assert_ptr_null(cur_slice(&c).data);
        ck_assert(c.bad);
    }
    buf_release(&b);
}
END_TEST

START_TEST(the_byte_order_is_little_endian)
{
    static const uint8_t expected[] = {0x01, 0x03, 0x02, 0x07, 0x06, 0x05, 0x04, 0x0f,
                                       0x0e, 0x0d, 0x0c, 0x0b, 0x0a, 0x09, 0x08, 0xac,
                                       0x02, 0x03, 'h',  'i',  0x01, 0x00};
    struct buf b = {0};
    uint8_t be[8];

    buf_u8(&b, 0x01);
    buf_u16(&b, 0x0203);
    buf_u32(&b, 0x04050607);
    buf_u64(&b, 0x08090a0b0c0d0e0fU);
    buf_varint(&b, 300);
    buf_slice(&b, slice_str("hi"));
    buf_slice(&b, slice_str(""));
    buf_slice(&b, slice_of(NULL, 0));
    ck_assert_uint_eq(b.len, sizeof expected);
    ck_assert_mem_eq(b.data, expected, sizeof expected);
    buf_release(&b);

    put_be64(be, 0x0102030405060708U);
    for (size_t i = 0; i < 8; i++) {
        ck_assert_uint_eq(be[i], i + 1);
    }
    ck_assert_uint_eq(get_be64(be), 0x0102030405060708U);
}
END_TEST

START_TEST(the_maximum_holds_to_the_byte)
{
    for (size_t max = 1; max < 300; max++) {
        struct buf b = {.max = max};

        for (size_t i = 0; i < max; i++) {
            buf_u8(&b, (uint8_t)i);
        }
        ck_assert(!b.failed);
        ck_assert_uint_eq(b.len, max);
        ck_assert_uint_le(b.cap, max);
        buf_u8(&b, 0);
        ck_assert(b.failed);
        ck_assert_uint_eq(b.len, max);
        buf_clear(&b);
        ck_assert(!b.failed);
        buf_put(&b, "x", 1);
        ck_assert_uint_eq(b.len, 1);
        buf_release(&b);
        ck_assert_uint_eq(b.max, max);
    }
}
END_TEST

START_TEST(a_failure_is_remembered_and_what_is_there_stays)
{
    struct buf b = {.max = 10};

    buf_str(&b, "12345");
    buf_str(&b, "678901"); /* one too many: none of it is taken */
    ck_assert(b.failed);
    buf_str(&b, "x"); /* would fit, but the content would have a hole */
    ck_assert_uint_eq(b.len, 5);
    ck_assert_mem_eq(b.data, "12345", 5);
    buf_release(&b);
    struct buf huge = {0};
    ck_assert(!buf_reserve(&huge, SIZE_MAX));
    ck_assert(huge.failed);
    buf_release(&huge);
}
END_TEST

START_TEST(without_memory_the_buffer_says_so)
{
    int64_t live = mem_live();

    for (uint64_t k = 1;; k++) {
        struct buf b = {0};
        size_t written = 0;

        mem_fail_at(k);
        for (unsigned i = 0; i < 1000 && !b.failed; i++) {
            buf_u64(&b, i);
            written += b.failed ? 0 : 8;
        }
        mem_fail_at(0);
        ck_assert_uint_eq(b.len, written);
        for (unsigned i = 0; i < written / 8; i++) {
            ck_assert_uint_eq(get_le64(b.data + 8 * (size_t)i), i);
        }
        bool failed = b.failed;
        buf_release(&b);
        ck_assert_int_eq(mem_live(), live);
        if (!failed) {
            ck_assert_uint_gt(k, 5); /* 64 << 7 > 8000: eight steps */
            break;
        }
    }
}
END_TEST

START_TEST(printed_text_is_appended_without_its_end)
{
    struct buf b = {0};
    char digits[301];

    memset(digits, '7', 300);
    digits[300] = '\0';
    buf_printf(&b, "%s", "");
    ck_assert_uint_eq(b.len, 0);
    buf_printf(&b, "%d-%s", 42, "x");
    buf_printf(&b, "%s", digits);
    ck_assert(!b.failed);
    ck_assert_uint_eq(b.len, 304);
    ck_assert_mem_eq(b.data, "42-x", 4);
    ck_assert_mem_eq(b.data + 4, digits, 300);
    buf_release(&b);
    b = (struct buf){.max = 4};
    buf_printf(&b, "%s", "12345");
    ck_assert(b.failed);
    ck_assert_uint_eq(b.len, 0);
    buf_release(&b);
}
END_TEST

START_TEST(slices_have_an_order)
{
    const struct levee_slice ordered[] = {slice_of(NULL, 0),  slice_str(""),   slice_str("a"),
                                          slice_of("a\0", 2), slice_str("ab"), slice_str("b"),
                                          slice_str("\xff")};

    for (size_t i = 0; i < ARRAY_LEN(ordered); i++) {
        for (size_t j = 0; j < ARRAY_LEN(ordered); j++) {
            int order = slice_cmp(ordered[i], ordered[j]);

            ck_assert_int_eq((order > 0) - (order < 0), (i > j) - (i < j));
            ck_assert_int_eq(slice_eq(ordered[i], ordered[j]), i == j);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("base_bytes");
    TCase *tc = tcase_create("bytes");

    tcase_add_test(tc, what_was_written_is_read_back);
    tcase_add_test(tc, every_truncation_is_bad_and_reads_nothing_behind_it);
    tcase_add_test(tc, bad_is_final_and_gives_zeros);
    tcase_add_test(tc, an_absent_input_is_short_not_a_crash);
    tcase_add_test(tc, random_bytes_never_lead_outside);
    tcase_add_test(tc, a_varint_has_one_encoding);
    tcase_add_test(tc, a_varint_of_more_than_64_bits_is_bad);
    tcase_add_test(tc, a_slice_longer_than_the_input_is_bad);
    tcase_add_test(tc, the_byte_order_is_little_endian);
    tcase_add_test(tc, the_maximum_holds_to_the_byte);
    tcase_add_test(tc, a_failure_is_remembered_and_what_is_there_stays);
    tcase_add_test(tc, without_memory_the_buffer_says_so);
    tcase_add_test(tc, printed_text_is_appended_without_its_end);
    tcase_add_test(tc, slices_have_an_order);
    suite_add_tcase(suite, tc);
    return suite_main(suite);
}
