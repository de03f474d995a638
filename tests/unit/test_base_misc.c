/* The small parts of base: hashes (stored on disk, so fixed for ever), queues, identities,
 * counters. */
#include "base/base.h"
#include "tests/support/suite.h"

#include <pthread.h>
#include <stdlib.h>

START_TEST(hashes_are_those_that_xxhash_publishes)
{
    /* Anchors from the published test vectors of XXH3-64: the hash of nothing, and of one byte. */
    ck_assert_uint_eq(hash64("", 0, 0), 0x2d06800538d394c2U);
    ck_assert_uint_eq(hash64(NULL, 0, 0), 0x2d06800538d394c2U);
    ck_assert_uint_eq(hash64("", 0, 0x9e3779b185ebca8dU), 0xa8a6b918b2f0364aU);
    ck_assert_uint_eq(hash_key("", 0), hash64("", 0, 0));
    ck_assert_uint_ne(hash64("a", 1, 0), hash64("a", 1, 1));
    ck_assert_uint_ne(hash64("a", 1, 0), hash64("b", 1, 0));
}
END_TEST

START_TEST(a_stream_of_pieces_hashes_as_the_whole)
{
    uint8_t data[3000];
    uint64_t rng = 3;
    struct hash_stream *h = hash_stream_new();

    ck_assert_ptr_nonnull(h);
    for (size_t i = 0; i < sizeof data; i++) {
        data[i] = (uint8_t)rng_next(&rng);
    }
    ck_assert_uint_eq(hash_stream_digest(h), hash64(NULL, 0, 0));
    for (int round = 0; round < 200; round++) {
        uint64_t seed = round % 2 ? rng_next(&rng) : 0;
        size_t len = rng_next(&rng) % sizeof data;

        hash_stream_reset(h, seed);
        for (size_t at = 0; at < len;) {
            size_t piece = rng_next(&rng) % 400;

            piece = piece < len - at ? piece : len - at;
            hash_stream_update(h, data + at, piece);
            at += piece;
        }
        ck_assert_uint_eq(hash_stream_digest(h), hash64(data, len, seed));
        ck_assert_uint_eq(hash_stream_digest(h), hash64(data, len, seed)); /* looking is free */
    }
    hash_stream_free(h);
    hash_stream_free(NULL);
    mem_fail_at(1);
    ck_assert_ptr_null(hash_stream_new());
}
END_TEST

START_TEST(one_bit_changes_a_hash)
{
    uint8_t data[200];

    for (size_t len = 1; len <= sizeof data; len += 13) {
        memset(data, 0, sizeof data);
        uint64_t before = hash64(data, len, 42);
        for (size_t bit = 0; bit < 8 * len; bit++) {
            data[bit / 8] ^= (uint8_t)(1U << bit % 8);
            ck_assert_uint_ne(hash64(data, len, 42), before);
            data[bit / 8] ^= (uint8_t)(1U << bit % 8);
        }
    }
}
END_TEST

START_TEST(the_generator_is_splitmix64)
{
    /* Its published first values for the state 1234567. */
    static const uint64_t expected[] = {6457827717110365317U, 3203168211198807973U,
                                        9817491932198370423U, 4593380528125082431U,
                                        16408922859458223821U};
    uint64_t state = 1234567;

    for (size_t i = 0; i < ARRAY_LEN(expected); i++) {
        ck_assert_uint_eq(rng_next(&state), expected[i]);
    }
}
END_TEST

struct item {
    int number;
    struct link link;
};

START_TEST(a_queue_keeps_its_order)
{
    struct item items[100];
    struct fifo q, other;
    int pushed = 0, popped = 0;
    uint64_t rng = 9;

    fifo_init(&q);
    fifo_init(&other);
    ck_assert_ptr_null(fifo_pop(&q));
    while (popped < 100) {
        switch (rng_next(&rng) % 4) {
        case 0:
        case 1:
            if (pushed < 100) {
                items[pushed].number = pushed;
                fifo_push(&other, &items[pushed++].link);
            }
            break;
        case 2:
            fifo_take(&q, &other);
            ck_assert_uint_eq(other.count, 0);
            ck_assert_ptr_null(fifo_pop(&other));
            break;
        default: {
            struct link *l = fifo_pop(&q);

            if (l) {
                ck_assert_int_eq(CONTAINER_OF(l, struct item, link)->number, popped++);
            }
            break;
        }
        }
        ck_assert_uint_eq(q.count + other.count, (size_t)(pushed - popped));
    }
    ck_assert_ptr_null(fifo_pop(&q));
}
END_TEST

START_TEST(identities_survive_their_text)
{
    uint64_t rng = 4;
    char text[UUID_TEXT];

    for (int i = 0; i < 200; i++) {
        struct uuid u, back;

        for (size_t k = 0; k < sizeof u.b; k++) {
            u.b[k] = (uint8_t)rng_next(&rng);
        }
        ck_assert_ptr_eq(uuid_format(&u, text), text);
        ck_assert_uint_eq(strlen(text), 32);
        ck_assert_uint_eq(strspn(text, "0123456789abcdef"), 32);
        ck_assert(uuid_parse(text, 32, &back));
        ck_assert(uuid_eq(&u, &back));
        back.b[i % 16] ^= 1;
        ck_assert(!uuid_eq(&u, &back));
    }
    struct uuid u;
    ck_assert(uuid_parse("000102030405060708090A0b0C0d0E0f", 32, &u));
    for (size_t k = 0; k < 16; k++) {
        ck_assert_uint_eq(u.b[k], k);
    }
}
END_TEST

START_TEST(what_is_no_identity_is_refused)
{
    const char *good = "00112233445566778899aabbccddeeff";
    const char wrong[] = "g/:@G`{- \n";
    struct uuid u, before;

    memset(&u, 0x77, sizeof u);
    before = u;
    for (size_t len = 0; len < 32; len++) {
        ck_assert(!uuid_parse(good, len, &u));
    }
    ck_assert(!uuid_parse("00112233445566778899aabbccddeeff0", 33, &u));
    for (size_t at = 0; at < 32; at++) {
        for (size_t i = 0; i < sizeof wrong; i++) { /* the 0 byte too */
            char text[33];

            memcpy(text, good, sizeof text);
            text[at] = wrong[i];
            ck_assert(!uuid_parse(text, 32, &u));
        }
    }
    ck_assert(uuid_eq(&u, &before));
}
END_TEST

enum { THREADS = 4, ROUNDS = 50000 };

static void *count_up(void *arg)
{
    for (int i = 0; i < ROUNDS; i++) {
        counter_add(arg, 3);
    }
    return NULL;
}

START_TEST(counters_lose_nothing_between_threads)
{
    struct counter c = {0};
    pthread_t threads[THREADS];

    for (int i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, count_up, &c), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
    }
    ck_assert_uint_eq(counter_get(&c), (uint64_t)THREADS * ROUNDS * 3);
}
END_TEST

START_TEST(rounding_up)
{
    for (uint64_t to = 1; to <= 4096; to *= 2) {
        for (uint64_t n = 0; n < 10000; n += 7) {
            uint64_t up = align_up(n, to);

            ck_assert(up >= n && up < n + to && up % to == 0);
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("base_misc");
    TCase *tc = tcase_create("misc");

    tcase_add_test(tc, hashes_are_those_that_xxhash_publishes);
    tcase_add_test(tc, a_stream_of_pieces_hashes_as_the_whole);
    tcase_add_test(tc, one_bit_changes_a_hash);
    tcase_add_test(tc, the_generator_is_splitmix64);
    tcase_add_test(tc, a_queue_keeps_its_order);
    tcase_add_test(tc, identities_survive_their_text);
    tcase_add_test(tc, what_is_no_identity_is_refused);
    tcase_add_test(tc, counters_lose_nothing_between_threads);
    tcase_add_test(tc, rounding_up);
    suite_add_tcase(suite, tc);
    return suite_main(suite);
}
