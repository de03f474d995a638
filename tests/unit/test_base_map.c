/*
 * base/map.c against a naive model: a plain list of (hash, index) pairs. The hashes are chosen so
 * that most of them collide in their low bits, in runs that wrap around the end of the table.
 */
#include "base/base.h"
#include "tests/support/suite.h"

#include <signal.h>

struct pair {
    uint64_t hash;
    uint32_t index, tag;
};
struct model {
    struct pair pairs[4096];
    size_t count;
};

/* The slot of one entry, found the way every caller finds it. */
static struct map_slot *find(const struct map *m, uint64_t hash, uint32_t index)
{
    uint32_t pos = (uint32_t)hash & m->mask;

    for (;;) {
        struct map_slot *slot = map_probe(m, hash, &pos);

        if (!slot || slot->index == index) {
            return slot;
        }
        pos = (pos + 1) & m->mask;
    }
}

static void check_same(const struct map *m, const struct model *model)
{
    uint64_t capacity = m->slots ? (uint64_t)m->mask + 1 : 0;
    size_t used = 0;

    MUST(m->used == model->count);
    MUST((capacity & (capacity - 1)) == 0);
    MUST((uint64_t)m->used * 4 <= capacity * 3); /* M1 */
    for (size_t i = 0; i < model->count; i++) {
        const struct map_slot *slot = find(m, model->pairs[i].hash, model->pairs[i].index);

        MUST(slot != NULL);
        MUST(slot->tag == model->pairs[i].tag);
    }
    for (uint64_t i = 0; i < capacity; i++) {
        if (m->slots[i].hash == 0) {
            continue;
        }
        used++;
        for (uint64_t at = m->slots[i].hash & m->mask; at != i; at = (at + 1) & m->mask) {
            MUST(m->slots[at].hash != 0); /* M2 */
        }
    }
    MUST(used == m->used);
}

/* Kinds of hash, from kind to worst. */
static uint64_t hash_of_kind(int kind, uint64_t *rng)
{
    uint64_t random = rng_next(rng);
    uint64_t hash;

    switch (kind) {
    case 0:
        hash = random;
        break;
    case 1:
        hash = random << 32 | random % 5; /* five homes */
        break;
    case 2:
        hash = random << 32 | (0xfffffffeU + random % 3); /* around the end of any table */
        break;
    default:
        hash = 1 + random % 40; /* equal hashes of different keys */
        break;
    }
    return hash ? hash : 1;
}

START_TEST(random_work_agrees_with_the_model)
{
    static struct model model;
    struct map m = {0};
    uint64_t rng = (uint64_t)_i + 1;
    uint32_t next_index = 0;

    model.count = 0;
    for (int step = 0; step < 6000; step++) {
        /* Grows for the first half, shrinks in the second. */
        bool insert = rng_next(&rng) % 100 < (step < 3000 ? 70 : 30);

        if (insert && model.count < 900) {
            struct pair p = {hash_of_kind(_i, &rng), next_index++, (uint32_t)rng_next(&rng)};

            MUST(map_insert(&m, p.hash, p.index));
            struct map_slot *slot = find(&m, p.hash, p.index);
            MUST(slot != NULL);
            MUST(slot->tag == 0);
            slot->tag = p.tag;
            model.pairs[model.count++] = p;
        } else if (model.count > 0) {
            size_t victim = rng_next(&rng) % model.count;
            struct pair p = model.pairs[victim];
            struct map_slot *slot = find(&m, p.hash, p.index);

            MUST(slot != NULL);
            map_remove(&m, slot);
            model.pairs[victim] = model.pairs[--model.count];
            MUST(find(&m, p.hash, p.index) == NULL);
        }
        if (step % 50 == 0) {
            check_same(&m, &model);
        }
    }
    check_same(&m, &model);
    while (model.count > 0) {
        struct pair p = model.pairs[--model.count];
        map_remove(&m, find(&m, p.hash, p.index));
    }
    check_same(&m, &model);
    map_release(&m);
}
END_TEST

START_TEST(an_empty_map_finds_nothing)
{
    struct map m = {0};
    uint32_t pos = 0;

    map_prefetch(&m, 1);
    ck_assert_ptr_null(map_probe(&m, 1, &pos));
    map_clear(&m);
    map_release(&m);
    map_release(&m);
}
END_TEST

START_TEST(a_probe_ends_where_an_insert_would_go)
{
    struct map m = {0};
    uint32_t pos;

    ck_assert(map_insert(&m, 0x105, 1));
    map_prefetch(&m, 0x205);
    ck_assert(map_insert(&m, 0x205, 2)); /* the same home, one further on */
    pos = 0x305 & m.mask;
    ck_assert_ptr_null(map_probe(&m, 0x305, &pos));
    ck_assert_uint_eq(pos, ((0x305 & m.mask) + 2) & m.mask);
    ck_assert_uint_eq(m.slots[pos].hash, 0);
    map_release(&m);
}
END_TEST

START_TEST(a_reserve_is_the_last_allocation)
{
    struct map m = {0};

    for (uint32_t n = 1; n < 5000; n = n * 3 / 2 + 1) {
        ck_assert(map_reserve(&m, n));
        uint64_t calls = mem_count();
        while (m.used < n) {
            MUST(map_insert(&m, hash_key(&m.used, sizeof m.used), m.used));
        }
        ck_assert_uint_eq(mem_count(), calls);
    }
    map_clear(&m);
    ck_assert_uint_eq(m.used, 0);
    ck_assert_ptr_null(find(&m, hash_key(&m.used, sizeof m.used), 0));
    map_release(&m);
    ck_assert(!map_reserve(&m, UINT32_MAX));
    ck_assert_ptr_null(m.slots);
}
END_TEST

START_TEST(without_memory_an_insert_has_no_effect)
{
    static struct model model;
    int64_t live = mem_live();

    for (uint64_t k = 1;; k++) {
        struct map m = {0};
        uint64_t rng = 5;
        int failures = 0;

        model.count = 0;
        mem_fail_at(k);
        for (uint32_t i = 0; i < 500; i++) {
            struct pair p = {hash_of_kind(0, &rng), i, 0};

            if (!map_insert(&m, p.hash, i)) {
                failures++;
                check_same(&m, &model);
                ck_assert(map_insert(&m, p.hash, i));
            }
            model.pairs[model.count++] = p;
        }
        mem_fail_at(0);
        check_same(&m, &model);
        map_release(&m);
        ck_assert_int_eq(mem_live(), live);
        if (failures == 0) {
            ck_assert_uint_gt(k, 5); /* 16 << 6 * 3/4 > 500: seven tables */
            break;
        }
    }
}
END_TEST

START_TEST(a_hash_of_zero_is_our_bug)
{
    struct map m = {0};

    (void)map_insert(&m, 0, 1);
}
END_TEST

START_TEST(removing_an_empty_slot_is_our_bug)
{
    struct map m = {0};

    ck_assert(map_insert(&m, 1, 1));
    map_remove(&m, &m.slots[2]);
}
END_TEST

START_TEST(removing_a_slot_of_another_map_is_our_bug)
{
    struct map m = {0};
    struct map_slot stranger = {.hash = 1};

    ck_assert(map_insert(&m, 1, 1));
    map_remove(&m, &stranger);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("base_map");
    TCase *tc = tcase_create("map");

    tcase_add_loop_test(tc, random_work_agrees_with_the_model, 0, 4);
    tcase_add_test(tc, an_empty_map_finds_nothing);
    tcase_add_test(tc, a_probe_ends_where_an_insert_would_go);
    tcase_add_test(tc, a_reserve_is_the_last_allocation);
    tcase_add_test(tc, without_memory_an_insert_has_no_effect);
    tcase_add_test_raise_signal(tc, a_hash_of_zero_is_our_bug, SIGABRT);
    tcase_add_test_raise_signal(tc, removing_an_empty_slot_is_our_bug, SIGABRT);
    tcase_add_test_raise_signal(tc, removing_a_slot_of_another_map_is_our_bug, SIGABRT);
    suite_add_tcase(suite, tc);
    return suite_main(suite);
}
