/*
 * The codec of frames: every field comes back, every damaged bit is noticed, a frame is good in one
 * place of one file only. The expected bytes come from the reference in test_wal.h. No loss: what
 * is tested are functions over bytes.
 */
#include "tests/unit/test_wal.h"

#define SALT   0x0123456789abcdefu
#define OFFSET 8192u
#define CHAIN  0xfedcba9876543210u

static struct wal_header random_header(uint64_t *rng)
{
    struct wal_header h = {
        .type = (uint16_t)rng_next(rng),
        .flags = (uint16_t)rng_next(rng),
        .len = (uint32_t)rng_next(rng),
        .stream = (uint32_t)rng_next(rng),
        .lsn = rng_next(rng),
        .seq = rng_next(rng),
        .durable_lsn = rng_next(rng),
        .payload_hash = rng_next(rng),
    };

    return h;
}

static void same_header(const struct wal_header *a, const struct wal_header *b)
{
    MUST(a->type == b->type && a->flags == b->flags && a->len == b->len && a->stream == b->stream);
    MUST(a->lsn == b->lsn && a->seq == b->seq && a->durable_lsn == b->durable_lsn);
    MUST(a->chain == b->chain && a->payload_hash == b->payload_hash);
}

/* The table of the README, field by field. */
START_TEST(every_field_lies_where_the_readme_says)
{
    struct wal_header h = {
        .type = 0x0102,
        .flags = 0x0304,
        .len = 0x05060708,
        .stream = 0x090a0b0c,
        .lsn = 0x1112131415161718,
        .seq = 0x2122232425262728,
        .durable_lsn = 0x3132333435363738,
        .payload_hash = 0x4142434445464748,
    };
    uint8_t out[WAL_FRAME_HEADER];
    uint64_t chain = wal_header_encode(out, &h, SALT, OFFSET, CHAIN);

    ck_assert_mem_eq(out, "LWF1", 4);
    ck_assert_uint_eq(ref_get(out + 4, 2), h.type);
    ck_assert_uint_eq(ref_get(out + 6, 2), h.flags);
    ck_assert_uint_eq(ref_get(out + 8, 4), h.len);
    ck_assert_uint_eq(ref_get(out + 12, 4), h.stream);
    ck_assert_uint_eq(ref_get(out + 16, 8), h.lsn);
    ck_assert_uint_eq(ref_get(out + 24, 8), h.seq);
    ck_assert_uint_eq(ref_get(out + 32, 8), h.durable_lsn);
    ck_assert_uint_eq(ref_get(out + 40, 8), hash64(out, 40, CHAIN));
    ck_assert_uint_eq(ref_get(out + 40, 8), chain);
    ck_assert_uint_eq(ref_get(out + 48, 8), h.payload_hash);
    ck_assert_uint_eq(ref_get(out + 56, 8), ref_header_hash(out, SALT, OFFSET));
}
END_TEST

START_TEST(random_headers_come_back)
{
    uint64_t rng = 1;

    for (int i = 0; i < 20000; i++) {
        struct wal_header h = random_header(&rng), back;
        uint8_t out[WAL_FRAME_HEADER];
        uint64_t salt = rng_next(&rng), offset = rng_next(&rng) % (1u << 30) * 8;
        h.chain = wal_header_encode(out, &h, salt, offset, rng_next(&rng));
        MUST(wal_header_decode(out, salt, offset, &back) == WAL_FRAME_OK);
        same_header(&h, &back);
    }
}
END_TEST

START_TEST(the_largest_values_of_every_field_come_back)
{
    struct wal_header h, back;
    uint8_t out[WAL_FRAME_HEADER];

    memset(&h, 0xff, sizeof h);
    h.chain = wal_header_encode(out, &h, UINT64_MAX, UINT64_MAX, UINT64_MAX);
    ck_assert_int_eq(wal_header_decode(out, UINT64_MAX, UINT64_MAX, &back), WAL_FRAME_OK);
    same_header(&h, &back);
}
END_TEST

/* All 512 bits of a header, for many headers: nothing is decoded, and nothing is written to ret. */
START_TEST(every_flipped_bit_of_a_header_is_noticed)
{
    uint64_t rng = 2;

    for (int i = 0; i < 200; i++) {
        struct wal_header h = random_header(&rng), ret = random_header(&rng), untouched = ret;
        uint8_t out[WAL_FRAME_HEADER];
        uint64_t salt = rng_next(&rng);
        wal_header_encode(out, &h, salt, OFFSET, CHAIN);
        for (unsigned bit = 0; bit < WAL_FRAME_HEADER * 8; bit++) {
            out[bit / 8] ^= (uint8_t)(1u << bit % 8);
            enum wal_verdict v = wal_header_decode(out, salt, OFFSET, &ret);
            MUST(v == (bit < 32 ? WAL_FRAME_BAD : WAL_FRAME_STALE));
            out[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        same_header(&ret, &untouched);
    }
}
END_TEST

/* Every bit of payloads of many lengths, and payloads cut short or grown. */
START_TEST(every_flipped_bit_of_a_payload_is_noticed)
{
    uint8_t payload[300];
    uint64_t rng = 3;

    for (size_t len = 1; len < sizeof payload; len += 1 + len / 3) {
        for (size_t i = 0; i < sizeof payload; i++) {
            payload[i] = (uint8_t)rng_next(&rng);
        }
        struct levee_slice p[2] = {slice_of(payload, len), slice_of(NULL, 0)};
        uint64_t good = wal_payload_hash(p, SALT, 77);
        MUST(good == hash64(payload, len, SALT ^ 77));
        for (size_t bit = 0; bit < len * 8; bit++) {
            payload[bit / 8] ^= (uint8_t)(1u << bit % 8);
            MUST(wal_payload_hash(p, SALT, 77) != good);
            payload[bit / 8] ^= (uint8_t)(1u << bit % 8);
        }
        p[0].len--;
        MUST(wal_payload_hash(p, SALT, 77) != good);
        p[0].len += 2;
        MUST(wal_payload_hash(p, SALT, 77) != good);
    }
}
END_TEST

/* Where a payload was cut into its two pieces is not on disk: the hash must not depend on it. */
START_TEST(the_payload_hash_is_that_of_the_bytes_not_of_the_pieces)
{
    static uint8_t payload[2000];
    static const size_t lens[] = {0, 1, 3, 8, 16, 17, 64, 128, 129, 240, 241, 512, 1024, 1999};
    uint64_t rng = 4;

    for (size_t i = 0; i < sizeof payload; i++) {
        payload[i] = (uint8_t)rng_next(&rng);
    }
    for (size_t l = 0; l < ARRAY_LEN(lens); l++) {
        uint64_t whole = hash64(payload, lens[l], SALT ^ 5);
        for (size_t cut = 0; cut <= lens[l]; cut++) {
            struct levee_slice p[2] = {slice_of(payload, cut),
                                       slice_of(payload + cut, lens[l] - cut)};
            MUST(wal_payload_hash(p, SALT, 5) == whole);
        }
    }
}
END_TEST

/* Bound to its place, its file and its LSN: a copy anywhere else does not verify. */
START_TEST(a_frame_is_good_in_one_place_only)
{
    struct wal_header h = {.type = WAL_BLOCK, .len = 5, .lsn = 9}, ret;
    struct levee_slice p[2] = {slice_str("hello"), slice_of(NULL, 0)};
    uint8_t out[WAL_FRAME_HEADER];

    wal_header_encode(out, &h, SALT, OFFSET, CHAIN);
    for (uint64_t offset = 0; offset < 4 * OFFSET; offset += 8) {
        ck_assert_int_eq(wal_header_decode(out, SALT, offset, &ret),
                         offset == OFFSET ? WAL_FRAME_OK : WAL_FRAME_STALE);
    }
    for (int bit = 0; bit < 64; bit++) {
        ck_assert_int_eq(wal_header_decode(out, SALT ^ (uint64_t)1 << bit, OFFSET, &ret),
                         WAL_FRAME_STALE);
    }
    uint64_t good = wal_payload_hash(p, SALT, 9);
    ck_assert_uint_ne(good, wal_payload_hash(p, SALT, 8));
    ck_assert_uint_ne(good, wal_payload_hash(p, SALT + 1, 9));
}
END_TEST

START_TEST(zeros_are_no_frame_and_almost_zeros_are_a_bad_one)
{
    uint8_t in[WAL_FRAME_HEADER] = {0};
    struct wal_header ret;

    ck_assert_int_eq(wal_header_decode(in, SALT, OFFSET, &ret), WAL_FRAME_ZERO);
    for (size_t i = 0; i < sizeof in; i++) {
        in[i] = 1;
        ck_assert_int_eq(wal_header_decode(in, SALT, OFFSET, &ret), WAL_FRAME_BAD);
        in[i] = 0;
    }
    memcpy(in, "LWF1", 4);
    ck_assert_int_eq(wal_header_decode(in, SALT, OFFSET, &ret), WAL_FRAME_STALE);
    memcpy(in, "LWF2", 4); /* a later version of the header */
    ck_assert_int_eq(wal_header_decode(in, SALT, OFFSET, &ret), WAL_FRAME_BAD);
}
END_TEST

/* The chain binds order: the same frame behind another one has another chain value. */
START_TEST(the_chain_depends_on_all_frames_before)
{
    struct wal_header h = {.type = WAL_BLOCK, .lsn = 1};
    uint8_t out[WAL_FRAME_HEADER];
    uint64_t a = CHAIN, b = CHAIN ^ 1;

    for (int i = 0; i < 100; i++) {
        a = wal_header_encode(out, &h, SALT, OFFSET, a);
        uint64_t of_a = ref_get(out + 40, 8);
        b = wal_header_encode(out, &h, SALT, OFFSET, b);
        ck_assert_uint_eq(of_a, a);
        ck_assert_uint_ne(a, b);
        h.lsn++;
    }
}
END_TEST

/* For every group length: the pad ends on a boundary, has room for its header and is minimal. */
START_TEST(pads_fill_up_to_the_boundary)
{
    for (uint64_t end = 0; end <= 3 * BLOCK; end += 8) {
        uint64_t pad = wal_pad_bytes(end), expected = 0;
        while ((end + expected) % BLOCK != 0 || (expected > 0 && expected < WAL_FRAME_HEADER)) {
            expected += 8;
        }
        ck_assert_uint_eq(pad, expected);
    }
    ck_assert_uint_eq(wal_pad_bytes(BLOCK - 56), BLOCK + 56); /* the largest one */
}
END_TEST

START_TEST(frames_are_multiples_of_eight)
{
    for (uint64_t len = 0; len < 100; len++) {
        ck_assert_uint_eq(wal_frame_bytes(len), ref_frame_size(len));
        ck_assert_uint_eq(wal_frame_bytes(len) % 8, 0);
    }
    ck_assert_uint_eq(wal_frame_bytes(UINT32_MAX), 64 + ((uint64_t)1 << 32)); /* no overflow */
}
END_TEST

/* The largest payload fits a segment together with everything that must be beside it. */
START_TEST(the_largest_payload_fits_beside_the_structural_frames)
{
    for (uint64_t size = WAL_SEGMENT_MIN; size <= (1u << 31); size *= 2) {
        uint64_t end = 8192 + 104 + wal_frame_bytes(wal_payload_max(size)) + 96;
        ck_assert_uint_le(end + wal_pad_bytes(end), size);
    }
}
END_TEST

START_TEST(segment_start_comes_back)
{
    struct wal_start s = {1, 0x0203040506070809, 3, UINT64_MAX, 5}, back;
    uint8_t out[WAL_START_BYTES];

    wal_start_encode(out, &s);
    ck_assert_uint_eq(ref_get(out, 8), s.epoch);
    ck_assert_uint_eq(ref_get(out + 8, 8), s.first_lsn);
    ck_assert_uint_eq(ref_get(out + 16, 8), s.predecessor);
    ck_assert_uint_eq(ref_get(out + 24, 8), s.predecessor_end);
    ck_assert_uint_eq(ref_get(out + 32, 8), s.predecessor_last);
    wal_start_decode(out, &back);
    ck_assert_mem_eq(&back, &s, sizeof s);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wal_frame");
    TCase *t = tcase_create("frame");

    tcase_add_test(t, every_field_lies_where_the_readme_says);
    tcase_add_test(t, random_headers_come_back);
    tcase_add_test(t, the_largest_values_of_every_field_come_back);
    tcase_add_test(t, every_flipped_bit_of_a_header_is_noticed);
    tcase_add_test(t, every_flipped_bit_of_a_payload_is_noticed);
    tcase_add_test(t, the_payload_hash_is_that_of_the_bytes_not_of_the_pieces);
    tcase_add_test(t, a_frame_is_good_in_one_place_only);
    tcase_add_test(t, zeros_are_no_frame_and_almost_zeros_are_a_bad_one);
    tcase_add_test(t, the_chain_depends_on_all_frames_before);
    tcase_add_test(t, pads_fill_up_to_the_boundary);
    tcase_add_test(t, frames_are_multiples_of_eight);
    tcase_add_test(t, the_largest_payload_fits_beside_the_structural_frames);
    tcase_add_test(t, segment_start_comes_back);
    suite_add_tcase(suite, t);
    return suite_main(suite);
}
