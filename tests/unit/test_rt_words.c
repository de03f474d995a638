/*
 * levee_emit_words and the table of sums against models that look at one byte, or one key, at a
 * time.
 */
#include <stdlib.h>

#include "runtime/operator.h"
#include "runtime/sums.h"
#include "tests/support/suite.h"

/* ---- words ---- */

static void words_of(struct levee_output *out, struct levee_slice text)
{
    out->count = 0;
    ck_assert_int_eq(levee_emit_words(out, text), LEVEE_OK);
}

/* Every byte that isspace knows in the C locale ends a word; nothing else does. */
static void assert_words(struct levee_output *out, const uint8_t *text, size_t len)
{
    size_t n = 0, start = 0;

    words_of(out, slice_of(text, len));
    for (size_t i = 0; i <= len; i++) {
        bool space = i == len || text[i] == ' ' || text[i] == '\t' || text[i] == '\n' ||
                     text[i] == '\v' || text[i] == '\f' || text[i] == '\r';
        if (!space) {
            continue;
        }
        if (i > start) {
            ck_assert_uint_lt(n, out->count);
            ck_assert_ptr_eq(out->items[n].key.data, text + start);
            ck_assert_uint_eq(out->items[n].key.len, i - start);
            ck_assert_ptr_null(out->items[n].value.data);
            n++;
        }
        start = i + 1;
    }
    ck_assert_uint_eq(n, out->count);
}

START_TEST(words_are_runs_of_bytes_that_are_not_white_space)
{
    struct levee_output out = {0};
    uint64_t rng = 11;

    for (unsigned byte = 0; byte < 256; byte++) { /* each byte, at each place of a word of eight */
        for (size_t at = 0; at < 10; at++) {
            uint8_t *text = malloc(10); /* so that a sanitizer sees a read past the end */
            memset(text, 'x', 10);
            text[at] = (uint8_t)byte;
            assert_words(&out, text, 10);
            free(text);
        }
    }
    for (size_t len = 0; len < 400; len++) { /* random texts over all chunk boundaries */
        uint8_t *text = malloc(len + 1);
        unsigned spaces = (unsigned)(rng_next(&rng) % 5);
        for (size_t i = 0; i < len; i++) {
            uint64_t r = rng_next(&rng);
            text[i] = r % 4 < spaces ? (uint8_t) "\t\n\v\f\r "[r / 4 % 6] : (uint8_t)(r >> 32);
        }
        assert_words(&out, text, len);
        free(text);
    }
    mem_free(out.items);
}
END_TEST

/* ---- sums ---- */

#define KEYS 5000u

START_TEST(sums_equal_those_of_an_array_and_keep_arrival_order)
{
    struct rt_sums t = {0};
    static char text[KEYS][32];
    static int64_t want[KEYS];
    static uint32_t order[KEYS];
    uint64_t rng = 5;

    for (unsigned round = 0; round < 3; round++) { /* a cleared table is used again */
        uint32_t count = 0;
        memset(want, 0, sizeof want);
        bool seen[KEYS] = {false};
        for (size_t i = 0; i < KEYS * 6; i++) {
            uint32_t k = (uint32_t)(rng_next(&rng) % KEYS);
            int64_t v = (int64_t)rng_next(&rng); /* wraps around */
            /* lengths 0 to 31: inside and beyond the bytes kept in the entry; equal heads */
            size_t len = k == 0 ? 0
                                : (size_t)sprintf(text[k], "%.*s%u", (int)(k % 27), //
                                                  "commonprefixcommonprefixcommon", k);
            struct levee_slice key = slice_of(text[k], len);
            ck_assert(rt_sums_add(&t, hash_key(key.data, key.len), key, v));
            want[k] = (int64_t)((uint64_t)want[k] + (uint64_t)v);
            if (!seen[k]) {
                seen[k] = true;
                order[count++] = k;
            }
        }
        ck_assert_uint_eq(t.count, count);
        for (uint32_t i = 0; i < count; i++) {
            const struct rt_sum *s = &t.slots[t.order[i]];
            ck_assert_int_eq(s->sum, want[order[i]]);
            ck_assert_uint_eq(s->len, order[i] == 0 ? 0 : strlen(text[order[i]]));
            ck_assert_mem_eq(s->key, text[order[i]], s->len);
        }
        rt_sums_clear(&t);
        ck_assert_uint_eq(t.count, 0);
    }
    rt_sums_release(&t);
}
END_TEST

START_TEST(no_memory_for_a_new_key_changes_nothing)
{
    struct rt_sums t = {0};
    uint64_t keys[600];

    for (uint64_t i = 0; i < 512; i++) {
        keys[i] = i;
        ck_assert(rt_sums_add(&t, hash_key(&keys[i], 8), slice_of(&keys[i], 8), 1));
    }
    for (uint64_t fail = 1; fail <= 2; fail++) { /* the table is half full: the next key grows it */
        uint64_t next = 512;
        mem_fail_at(fail);
        ck_assert(!rt_sums_add(&t, hash_key(&next, 8), slice_of(&next, 8), 1));
        mem_fail_at(0);
        ck_assert_uint_eq(t.count, 512);
    }
    for (uint64_t i = 0; i < 512; i++) {
        ck_assert(rt_sums_add(&t, hash_key(&keys[i], 8), slice_of(&keys[i], 8), 1));
        ck_assert_int_eq(t.slots[t.order[i]].sum, 2);
    }
    rt_sums_release(&t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("rt_words");
    TCase *c = tcase_create("words and sums");

    tcase_add_test(c, words_are_runs_of_bytes_that_are_not_white_space);
    tcase_add_test(c, sums_equal_those_of_an_array_and_keep_arrival_order);
    tcase_add_test(c, no_memory_for_a_new_key_changes_nothing);
    suite_add_tcase(s, c);
    return suite_main(s);
}
