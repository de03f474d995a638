/*
 * Packed slices: what is added comes back, cut at the right places; what is damaged, moved or
 * written by nobody is refused and never read past its end. No file is involved: neither process
 * death nor power loss.
 */
#include "tests/unit/test_ckpt.h"

#include <signal.h>

static struct levee_error err;

static struct levee_slice slice_at(const struct ckpt_slices *s, size_t i)
{
    return slice_of(s->bytes.data + s->marks[i].offset, s->marks[i].len);
}

/* The example of checkpoint/README.md, byte by byte. */
START_TEST(worked_example_of_the_readme)
{
    static const uint8_t body[] = {1,    0, 0, 0,   3, 0,    0,   0, 3,   0, 0,   0,
                                   5,    0, 0, 0,   8, 0xd0, 15,  1, 'a', 1, '1', 0x10,
                                   0xe8, 7, 1, 'b', 2, '2',  '2', 5, 2,   2, 'c', 'd'};
    const struct ckpt_entry entries[] = {
        {.group = 3, .key = slice_str("a"), .value = slice_str("1"), .touch_ms = 1000},
        {.group = 3,
         .key = slice_str("b"),
         .value = slice_str("22"),
         .touch_ms = 1000,
         .timer_ms = 1500},
        {.group = 5, .key = slice_str("cd"), .touch_ms = 1000}};
    struct ckpt_slices s;

    ckpt_slices_init(&s, 0x11223344);
    for (size_t i = 0; i < ARRAY_LEN(entries); i++) {
        ckpt_slices_add(&s, &entries[i]);
    }
    ck_assert_int_eq(ckpt_slices_finish(&s, &err), LEVEE_OK);
    ck_assert_uint_eq(s.mark_count, 1);
    ck_assert_uint_eq(s.marks[0].len, sizeof body + 8);
    ck_assert_mem_eq(s.bytes.data, body, sizeof body);
    ck_assert_uint_eq(get_le64(s.bytes.data + sizeof body),
                      hash64(body, sizeof body, UINT64_C(0x1122334400000000)));
    /* as printed in the README */
    ck_assert_uint_eq(get_le64(s.bytes.data + sizeof body), UINT64_C(0x803be6bd9189db57));
    ckpt_slices_release(&s);
}
END_TEST

#define RANDOM_ENTRIES 60000

struct plain { /* an entry by numbers, from which its bytes can be made again */
    uint32_t group;
    uint64_t seed;
    int64_t touch_ms, timer_ms;
    uint16_t key_len, value_len;
    bool null_key, removal;
};

static void plain_bytes(uint64_t seed, uint8_t *ret, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        ret[i] = (uint8_t)rng_next(&seed);
    }
}

static void plain_random(struct plain *p, uint64_t *seed, uint32_t group)
{
    static const int64_t times[] = {0, 1, -1, INT64_MAX, INT64_MIN, 1700000000000};
    uint64_t r = rng_next(seed);

    *p = (struct plain){.group = group,
                        .seed = rng_next(seed),
                        .touch_ms = r % 5 == 0 ? times[r / 7 % 6] : 1700000000000,
                        .timer_ms = r % 3 == 0 ? times[r / 11 % 6] : 0,
                        .key_len = (uint16_t)(r % 13 == 0 ? r / 17 % 700 : r / 17 % 12),
                        .value_len = (uint16_t)(r % 19 == 0 ? r / 23 % 5000 : r / 23 % 20),
                        .null_key = r % 29 == 0,
                        .removal = r % 31 == 0};
}

START_TEST(what_is_added_comes_back_in_order)
{
    static struct plain plain[RANDOM_ENTRIES];
    static uint8_t key[700];
    static uint8_t value[5000];
    struct ckpt_slices s;
    struct ckpt_slice_cursor c;
    struct ckpt_entry e;
    uint64_t seed = 11;
    uint32_t group = 0;
    size_t n = 0;

    ckpt_slices_init(&s, 5);
    for (size_t i = 0; i < RANDOM_ENTRIES; i++) {
        group += rng_next(&seed) % 500 == 0 ? (uint32_t)(rng_next(&seed) % 300) : 0;
        struct plain *p = &plain[i];
        plain_random(p, &seed, group);
        plain_bytes(p->seed, key, p->key_len);
        plain_bytes(p->seed + 1, value, p->value_len);
        e = (struct ckpt_entry){.group = group, .touch_ms = p->touch_ms, .timer_ms = p->timer_ms};
        e.key = p->null_key ? slice_of(NULL, 0) : slice_of(key, p->key_len);
        e.value = p->removal ? slice_of(NULL, 0) : slice_of(value, p->value_len);
        ckpt_slices_add(&s, &e);
    }
    ck_assert_int_eq(ckpt_slices_finish(&s, &err), LEVEE_OK);
    ck_assert_uint_eq(s.entries, RANDOM_ENTRIES);
    ck_assert_uint_gt(s.mark_count, 5);
    for (size_t i = 0; i < s.mark_count; i++) {
        ck_assert_uint_le(s.marks[i].len, CKPT_SLICE_BYTES);
        ck_assert_int_eq(ckpt_slice_open(slice_at(&s, i), 5, (uint32_t)i, &c, &err), LEVEE_OK);
        ck_assert_uint_eq(c.left, s.marks[i].count);
        while (ckpt_slice_next(&c, &e)) {
            const struct plain *p = &plain[n++];
            plain_bytes(p->seed, key, p->key_len);
            plain_bytes(p->seed + 1, value, p->value_len);
            ck_assert_uint_eq(e.group, p->group);
            ck_assert_int_eq(e.touch_ms, p->touch_ms);
            ck_assert_int_eq(e.timer_ms, p->timer_ms);
            ck_assert(slice_eq(e.key, p->null_key ? slice_of(NULL, 0) : slice_of(key, p->key_len)));
            ck_assert(
                slice_eq(e.value, p->removal ? slice_of(NULL, 0) : slice_of(value, p->value_len)));
            ck_assert_uint_eq(e.hash, hash_key(e.key.data, e.key.len));
            ck_assert_uint_ge(e.group, s.marks[i].first_group);
            ck_assert_uint_le(e.group, s.marks[i].last_group);
        }
        ck_assert_int_eq(ckpt_slice_close(&c, &err), LEVEE_OK);
    }
    ck_assert_uint_eq(n, RANDOM_ENTRIES);
    ckpt_slices_release(&s);
    ck_assert_int_eq(mem_live(), 0);
}
END_TEST

START_TEST(an_entry_larger_than_a_slice_has_one_of_its_own)
{
    size_t len = 3 * CKPT_SLICE_BYTES;
    uint8_t *big = mem_zalloc(len);
    struct ckpt_slices s;
    struct ckpt_slice_cursor c;
    struct ckpt_entry e = {.group = 1, .key = slice_str("small"), .value = slice_str("v")};

    ck_assert_ptr_nonnull(big);
    big[len - 1] = 7;
    ckpt_slices_init(&s, 1);
    ckpt_slices_add(&s, &e);
    e.value = slice_of(big, len);
    ckpt_slices_add(&s, &e);
    e.value = slice_str("v");
    ckpt_slices_add(&s, &e);
    ck_assert_int_eq(ckpt_slices_finish(&s, &err), LEVEE_OK);
    ck_assert_uint_eq(s.mark_count, 3);
    ck_assert_int_eq(ckpt_slice_open(slice_at(&s, 1), 1, 1, &c, &err), LEVEE_OK);
    ck_assert(ckpt_slice_next(&c, &e));
    ck_assert(slice_eq(e.value, slice_of(big, len)));
    ckpt_slices_release(&s);
    mem_free(big);
}
END_TEST

START_TEST(no_entries_make_no_slice)
{
    struct ckpt_slices s;

    ckpt_slices_init(&s, 1);
    ck_assert_int_eq(ckpt_slices_finish(&s, &err), LEVEE_OK);
    ck_assert_uint_eq(s.mark_count, 0);
    ckpt_slices_release(&s);
}
END_TEST

/* Stored slices can be dropped while more are added: numbers and hashes go on as if nothing had
 * happened. */
START_TEST(flushing_changes_no_byte_of_what_follows)
{
    uint8_t value[9000];
    struct ckpt_slices whole;
    struct ckpt_slices part;
    size_t stored = 0;

    memset(value, 5, sizeof value);
    ckpt_slices_init(&whole, 9);
    ckpt_slices_init(&part, 9);
    for (uint32_t i = 0; i < 300; i++) {
        struct ckpt_entry e = {.group = i / 10, .key = slice_of(&i, 4), .touch_ms = i};
        e.value = slice_of(value, sizeof value);
        ckpt_slices_add(&whole, &e);
        ckpt_slices_add(&part, &e);
        if (i % 3 == 0) {
            size_t sealed = part.mark_count - (part.open ? 1 : 0);
            for (size_t k = 0; k < sealed; k++, stored++) {
                ck_assert_uint_eq(part.first_number + k, stored);
                ck_assert(slice_eq(slice_at(&part, k), slice_at(&whole, stored)));
            }
            ckpt_slices_flush(&part);
        }
    }
    ck_assert_int_eq(ckpt_slices_finish(&whole, &err), LEVEE_OK);
    ck_assert_int_eq(ckpt_slices_finish(&part, &err), LEVEE_OK);
    for (size_t k = 0; k < part.mark_count; k++, stored++) {
        ck_assert(slice_eq(slice_at(&part, k), slice_at(&whole, stored)));
    }
    ck_assert_uint_eq(stored, whole.mark_count);
    ckpt_slices_release(&whole);
    ckpt_slices_release(&part);
}
END_TEST

/* A slice of a handful of entries, with the room of exactly its bytes: a read past the end is seen
 * by ASan. */
static struct levee_slice small_slice(uint32_t table)
{
    struct ckpt_slices s;
    uint8_t *copy;

    ckpt_slices_init(&s, table);
    for (uint32_t i = 0; i < 6; i++) {
        struct ckpt_entry e = {.group = i * 3, .key = slice_of(&i, 1 + i % 4), .touch_ms = 99};
        e.value = i == 3 ? slice_of(NULL, 0) : slice_str("some value");
        e.timer_ms = i % 2 ? 12345 : 0;
        ckpt_slices_add(&s, &e);
    }
    ck_assert_int_eq(ckpt_slices_finish(&s, &err), LEVEE_OK);
    copy = mem_alloc(s.bytes.len);
    ck_assert_ptr_nonnull(copy);
    memcpy(copy, s.bytes.data, s.bytes.len);
    struct levee_slice bytes = slice_of(copy, s.bytes.len);
    ckpt_slices_release(&s);
    return bytes;
}

START_TEST(f59_every_flipped_bit_of_a_slice_is_seen)
{
    struct levee_slice bytes = small_slice(4);
    uint8_t *p = (uint8_t *)(uintptr_t)bytes.data;
    struct ckpt_slice_cursor c;

    for (size_t bit = 0; bit < bytes.len * 8; bit++) {
        p[bit / 8] ^= (uint8_t)(1u << bit % 8);
        ck_assert_int_eq(ckpt_slice_open(bytes, 4, 0, &c, &err), LEVEE_ECKPT_CORRUPT);
        p[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    ck_assert_int_eq(ckpt_slice_open(bytes, 4, 0, &c, &err), LEVEE_OK);
    mem_free(p);
}
END_TEST

START_TEST(a_slice_in_the_place_of_another_is_refused)
{
    struct levee_slice bytes = small_slice(4);
    struct ckpt_slice_cursor c;

    ck_assert_int_eq(ckpt_slice_open(bytes, 4, 1, &c, &err), LEVEE_ECKPT_CORRUPT);
    ck_assert_int_eq(ckpt_slice_open(bytes, 5, 0, &c, &err), LEVEE_ECKPT_CORRUPT);
    for (size_t len = 0; len < bytes.len; len++) {
        ck_assert_int_eq(ckpt_slice_open(slice_of(bytes.data, len), 4, 0, &c, &err),
                         LEVEE_ECKPT_CORRUPT);
    }
    mem_free((uint8_t *)(uintptr_t)bytes.data);
}
END_TEST

/* What a wrong writer might make: the hash is right, the content is not. Nothing is read out of
 * bounds (ASan), no more entries come out than the header says, and the end is reported as corrupt
 * unless all bytes were used. */
START_TEST(malformed_entries_under_a_right_hash_are_refused)
{
    struct levee_slice bytes = small_slice(4);
    uint8_t *p = mem_alloc(bytes.len);
    struct ckpt_slice_cursor c;
    struct ckpt_entry e;
    uint64_t seed = 3;
    unsigned refused = 0;

    ck_assert_ptr_nonnull(p);
    for (int round = 0; round < 20000; round++) {
        memcpy(p, bytes.data, bytes.len);
        for (uint64_t n = 1 + rng_next(&seed) % 3; n > 0; n--) {
            p[rng_next(&seed) % (bytes.len - 8)] = (uint8_t)rng_next(&seed);
        }
        put_le64(p + bytes.len - 8, hash64(p, bytes.len - 8, (uint64_t)4 << 32));
        int rc = ckpt_slice_open(slice_of(p, bytes.len), 4, 0, &c, &err);
        uint32_t n = 0;
        while (rc == LEVEE_OK && ckpt_slice_next(&c, &e)) {
            ck_assert_uint_lt(n++, get_le32(p + 4));
            ck_assert_uint_le(e.group, get_le32(p + 12));
        }
        rc = rc == LEVEE_OK ? ckpt_slice_close(&c, &err) : rc;
        ck_assert(rc == LEVEE_OK || rc == LEVEE_ECKPT_CORRUPT);
        refused += rc != LEVEE_OK;
    }
    ck_assert_uint_gt(refused, 10000);
    mem_free(p);
    mem_free((uint8_t *)(uintptr_t)bytes.data);
}
END_TEST

START_TEST(an_unknown_version_is_named)
{
    struct levee_slice bytes = small_slice(4);
    uint8_t *p = (uint8_t *)(uintptr_t)bytes.data;
    struct ckpt_slice_cursor c;

    p[0] = 2;
    put_le64(p + bytes.len - 8, hash64(p, bytes.len - 8, (uint64_t)4 << 32));
    ck_assert_int_eq(ckpt_slice_open(bytes, 4, 0, &c, &err), LEVEE_ECKPT_CORRUPT);
    ck_assert_str_eq(err.expected, "1");
    ck_assert_str_eq(err.found, "2");
    mem_free(p);
}
END_TEST

START_TEST(f72_no_memory_is_remembered_and_leaks_nothing)
{
    struct ckpt_slices s;
    uint8_t value[5000] = {0};
    int rc = LEVEE_ENOMEM;

    for (uint64_t k = 1; rc != LEVEE_OK; k++) {
        ck_assert_uint_lt(k, 1000);
        mem_fail_at(k);
        ckpt_slices_init(&s, 1);
        for (uint32_t i = 0; i < 200; i++) {
            struct ckpt_entry e = {
                .group = i, .key = slice_of(&i, 4), .value = slice_of(value, 5000)};
            ckpt_slices_add(&s, &e);
        }
        rc = ckpt_slices_finish(&s, &err);
        ck_assert(rc == LEVEE_OK || rc == LEVEE_ENOMEM);
        ckpt_slices_release(&s);
        mem_fail_at(0);
        ck_assert_int_eq(mem_live(), 0);
    }
}
END_TEST

START_TEST(groups_that_descend_are_our_bug)
{
    struct ckpt_slices s;
    struct ckpt_entry e = {.group = 2, .key = slice_str("k"), .value = slice_str("v")};

    ckpt_slices_init(&s, 1);
    ckpt_slices_add(&s, &e);
    e.group = 1;
    ckpt_slices_add(&s, &e);
}
END_TEST

START_TEST(keys_of_slices_sort_by_table_then_number)
{
    static const uint32_t numbers[] = {0, 1, 255, 256, 65536, UINT32_MAX};
    uint8_t last[CKPT_SLICE_KEY] = {0};
    uint8_t key[CKPT_SLICE_KEY];
    uint32_t table;
    uint32_t number;

    for (size_t t = 0; t < ARRAY_LEN(numbers); t++) {
        for (size_t n = 0; n < ARRAY_LEN(numbers); n++) {
            ckpt_slice_key(key, numbers[t], numbers[n]);
            ck_assert_int_gt(memcmp(key, last, sizeof key), 0);
            ck_assert(ckpt_slice_key_parse(slice_of(key, sizeof key), &table, &number));
            ck_assert_uint_eq(table, numbers[t]);
            ck_assert_uint_eq(number, numbers[n]);
            memcpy(last, key, sizeof key);
        }
    }
    ck_assert(!ckpt_slice_key_parse(slice_of(key, 8), &table, &number));
    key[0] = 's';
    ck_assert(!ckpt_slice_key_parse(slice_of(key, sizeof key), &table, &number));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ckpt_slice");
    TCase *tc = tcase_create("slice");

    tcase_add_test(tc, worked_example_of_the_readme);
    tcase_add_test(tc, what_is_added_comes_back_in_order);
    tcase_add_test(tc, an_entry_larger_than_a_slice_has_one_of_its_own);
    tcase_add_test(tc, no_entries_make_no_slice);
    tcase_add_test(tc, flushing_changes_no_byte_of_what_follows);
    tcase_add_test(tc, f59_every_flipped_bit_of_a_slice_is_seen);
    tcase_add_test(tc, a_slice_in_the_place_of_another_is_refused);
    tcase_add_test(tc, malformed_entries_under_a_right_hash_are_refused);
    tcase_add_test(tc, an_unknown_version_is_named);
    tcase_add_test(tc, f72_no_memory_is_remembered_and_leaks_nothing);
    tcase_add_test_raise_signal(tc, groups_that_descend_are_our_bug, SIGABRT);
    tcase_add_test(tc, keys_of_slices_sort_by_table_then_number);
    suite_add_tcase(suite, tc);
    return suite_main(suite);
}
