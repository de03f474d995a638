/* base/alloc.c and base/arena.c: exact counts, the k-th failure without effect, arenas that settle.
 */
#include "base/base.h"
#include "tests/support/suite.h"

#include <pthread.h>
#include <signal.h>

START_TEST(counts_are_exact)
{
    uint64_t calls = mem_count();
    int64_t live = mem_live();

    void *a = mem_alloc(0); /* nothing is still something to free */
    void *b = mem_zalloc(100);
    void *c = mem_aligned(4096, 10);
    char *d = mem_strdup("text");
    ck_assert_ptr_nonnull(a);
    ck_assert_ptr_nonnull(b);
    ck_assert_ptr_nonnull(c);
    ck_assert_str_eq(d, "text");
    ck_assert_uint_eq((uintptr_t)c % 4096, 0);
    for (int i = 0; i < 100; i++) {
        ck_assert_int_eq(((const char *)b)[i], 0);
    }
    ck_assert_int_eq(mem_live() - live, 4);
    b = mem_realloc(b, 10000); /* the block moves, it is not a second one */
    ck_assert_ptr_nonnull(b);
    ck_assert_int_eq(mem_live() - live, 4);
    void *e = mem_realloc(NULL, 5);
    ck_assert_ptr_nonnull(e);
    ck_assert_int_eq(mem_live() - live, 5);
    ck_assert_uint_eq(mem_count() - calls, 6);
    mem_free(a);
    mem_free(b);
    mem_free(c);
    mem_free(d);
    mem_free(e);
    mem_free(NULL);
    ck_assert_int_eq(mem_live(), live);
    ck_assert_uint_eq(mem_count() - calls, 6);
}
END_TEST

START_TEST(the_kth_allocation_fails_once)
{
    int64_t live = mem_live();

    for (uint64_t k = 1; k <= 5; k++) {
        mem_fail_at(k);
        for (uint64_t i = 1; i <= 8; i++) {
            void *p = mem_alloc(8);

            ck_assert_int_eq(p == NULL, i == k);
            mem_free(p);
        }
    }
    mem_fail_at(2);
    mem_fail_at(0);
    for (int i = 0; i < 4; i++) {
        void *p = mem_alloc(8);

        ck_assert_ptr_nonnull(p);
        mem_free(p);
    }
    ck_assert_int_eq(mem_live(), live);
}
END_TEST

START_TEST(every_kind_of_allocation_can_fail)
{
    int64_t live = mem_live();
    char *kept = mem_strdup("kept");
    char *p = kept;
    size_t cap = 5;

    mem_fail_at(1);
    ck_assert_ptr_null(mem_zalloc(8));
    mem_fail_at(1);
    ck_assert_ptr_null(mem_aligned(64, 8));
    mem_fail_at(1);
    ck_assert_ptr_null(mem_strdup("x"));
    mem_fail_at(1);
    ck_assert_ptr_null(mem_realloc(kept, 1000));
    ck_assert_str_eq(kept, "kept");
    mem_fail_at(1);
    ck_assert(!mem_grow((void **)&p, &cap, 100, 1));
    ck_assert_ptr_eq(p, kept);
    ck_assert_uint_eq(cap, 5);
    mem_free(kept);
    ck_assert_int_eq(mem_live(), live);
}
END_TEST

START_TEST(grow_keeps_what_is_there_and_doubles)
{
    uint32_t *items = NULL;
    size_t cap = 0;
    uint64_t calls = mem_count();

    for (uint32_t i = 0; i < 10000; i++) {
        MUST(mem_grow((void **)&items, &cap, (size_t)i + 1, sizeof *items));
        MUST(cap > i);
        items[i] = i * 3;
    }
    for (uint32_t i = 0; i < 10000; i++) {
        MUST(items[i] == i * 3);
    }
    ck_assert_uint_le(mem_count() - calls, 12); /* 8 << 11 > 10000 */
    /* Sizes that would wrap around are refused before anything is asked for. */
    calls = mem_count();
    ck_assert(!mem_grow((void **)&items, &cap, SIZE_MAX / 2, sizeof *items));
    ck_assert(!mem_grow((void **)&items, &cap, SIZE_MAX, 1));
    ck_assert_uint_eq(mem_count(), calls);
    mem_free(items);
}
END_TEST

enum { THREADS = 4, ROUNDS = 20000 };

static void *allocate_much(void *arg)
{
    size_t *failures = arg;

    for (int i = 0; i < ROUNDS; i++) {
        void *p = mem_alloc(16);

        *failures += p == NULL;
        mem_free(p);
    }
    return NULL;
}

START_TEST(counts_and_the_kth_failure_hold_across_threads)
{
    pthread_t threads[THREADS];
    size_t failures[THREADS] = {0}, sum = 0;
    uint64_t calls = mem_count();
    int64_t live = mem_live();

    mem_fail_at(THREADS * ROUNDS / 2);
    for (int i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_create(&threads[i], NULL, allocate_much, &failures[i]), 0);
    }
    for (int i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
        sum += failures[i];
    }
    ck_assert_uint_eq(sum, 1);
    ck_assert_uint_eq(mem_count() - calls, THREADS * ROUNDS);
    ck_assert_int_eq(mem_live(), live);
}
END_TEST

START_TEST(an_alignment_that_is_no_power_of_two_is_our_bug)
{
    mem_free(mem_aligned(24, 8));
}
END_TEST

/* ---- arenas ---- */

struct block {
    uint8_t *data;
    size_t len;
    uint8_t fill;
};

static size_t random_length(uint64_t *rng)
{
    switch (rng_next(rng) % 16) {
    case 0:
        return 0;
    case 1:
        return rng_next(rng) % 100000; /* larger than a first chunk */
    default:
        return rng_next(rng) % 300;
    }
}

START_TEST(arena_blocks_are_aligned_distinct_and_stay)
{
    struct arena a = {0};
    struct block blocks[2000];
    uint64_t rng = 7;
    int64_t live = mem_live();

    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < ARRAY_LEN(blocks); i++) {
            struct block *b = &blocks[i];

            b->len = random_length(&rng);
            b->fill = (uint8_t)rng_next(&rng);
            b->data = arena_alloc(&a, b->len);
            MUST(b->data != NULL);
            MUST((uintptr_t)b->data % 8 == 0);
            memset(b->data, b->fill, b->len);
        }
        for (size_t i = 0; i < ARRAY_LEN(blocks); i++) {
            for (size_t k = 0; k < blocks[i].len; k++) {
                MUST(blocks[i].data[k] == blocks[i].fill);
            }
            MUST(i == 0 || blocks[i].data != blocks[i - 1].data);
        }
        arena_reset(&a);
        ck_assert_int_eq(mem_live() - live, 1);
    }
    arena_release(&a);
    ck_assert_uint_eq(a.total, 0);
    ck_assert_int_eq(mem_live(), live);
    arena_release(&a);
    arena_reset(&a);
    ck_assert_ptr_nonnull(arena_alloc(&a, 0)); /* released is ready again */
    arena_release(&a);
}
END_TEST

START_TEST(equal_batches_soon_allocate_nothing)
{
    struct arena a = {0};
    uint64_t calls = 0;

    for (int batch = 0; batch < 20; batch++) {
        if (batch == 10) {
            calls = mem_count();
        }
        for (int i = 0; i < 5000; i++) {
            MUST(arena_alloc(&a, 100) != NULL); /* 520 KB a batch */
        }
        arena_reset(&a);
    }
    ck_assert_uint_eq(mem_count(), calls);
    arena_release(&a);
}
END_TEST

START_TEST(arena_total_says_what_is_held)
{
    struct arena a = {.chunk_bytes = 1024};

    ck_assert_uint_eq(a.total, 0);
    ck_assert_ptr_nonnull(arena_alloc(&a, 10));
    ck_assert_uint_eq(a.total, 1024);
    ck_assert_ptr_nonnull(arena_alloc(&a, 5000)); /* a chunk of its own */
    ck_assert_uint_eq(a.total, 1024 + 5000);
    const uint8_t *next = arena_alloc(&a, 8);
    ck_assert(next >= a.end - 1024 && next < a.end); /* the first chunk is still being filled */
    ck_assert_uint_eq(a.total, 1024 + 5000);
    arena_release(&a);
}
END_TEST

START_TEST(arena_copies)
{
    struct arena a = {0};

    const char *text = arena_copy(&a, "hello", 6);
    ck_assert_str_eq(text, "hello");
    ck_assert_ptr_nonnull(arena_copy(&a, NULL, 0));
    arena_release(&a);
}
END_TEST

START_TEST(arena_without_memory_stays_as_it_was)
{
    int64_t live = mem_live();

    for (uint64_t k = 1;; k++) {
        struct arena a = {.chunk_bytes = 256};
        int failures = 0;

        mem_fail_at(k);
        for (size_t i = 0; i < 200; i++) {
            size_t len = i % 13 == 0 ? 400 : i; /* both kinds of chunk */
            size_t total = a.total;
            uint8_t *p = arena_alloc(&a, len);

            if (!p) {
                failures++;
                ck_assert_uint_eq(a.total, total);
                p = arena_alloc(&a, len); /* and it works once there is memory */
            }
            MUST(p != NULL);
            memset(p, 0xff, len);
        }
        mem_fail_at(0);
        arena_release(&a);
        ck_assert_int_eq(mem_live(), live);
        if (failures == 0) {
            ck_assert_uint_gt(k, 5);
            break;
        }
        ck_assert_int_eq(failures, 1);
    }
}
END_TEST

START_TEST(arena_refuses_sizes_that_wrap_around)
{
    struct arena a = {0};

    for (size_t n = 0; n < 32; n++) {
        ck_assert_ptr_null(arena_alloc(&a, SIZE_MAX - n));
    }
    ck_assert_uint_eq(a.total, 0);
    arena_release(&a);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("base_mem");
    TCase *tc = tcase_create("mem");

    tcase_add_test(tc, counts_are_exact);
    tcase_add_test(tc, the_kth_allocation_fails_once);
    tcase_add_test(tc, every_kind_of_allocation_can_fail);
    tcase_add_test(tc, grow_keeps_what_is_there_and_doubles);
    tcase_add_test(tc, counts_and_the_kth_failure_hold_across_threads);
    tcase_add_test_raise_signal(tc, an_alignment_that_is_no_power_of_two_is_our_bug, SIGABRT);
    tcase_add_test(tc, arena_blocks_are_aligned_distinct_and_stay);
    tcase_add_test(tc, equal_batches_soon_allocate_nothing);
    tcase_add_test(tc, arena_total_says_what_is_held);
    tcase_add_test(tc, arena_copies);
    tcase_add_test(tc, arena_without_memory_stays_as_it_was);
    tcase_add_test(tc, arena_refuses_sizes_that_wrap_around);
    suite_add_tcase(suite, tc);
    return suite_main(suite);
}
