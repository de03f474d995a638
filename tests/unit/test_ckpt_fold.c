/*
 * Folding: the folded file equals the application of its parts (C9), on random jobs and random
 * cuts, against the naive model; small steps give the same bytes as one; memory stays at a group;
 * what goes wrong leaves the parts.
 */
#include "tests/unit/test_ckpt.h"

static struct place place;
static struct ckpt_store store;
static struct levee_error err;
static struct model model;

static void open_store(int kind, uint64_t seed)
{
    place_open(&place, kind, NULL);
    model_fill(&model, 24, seed);
    ck_assert_int_eq(ckpt_store_init(&store, place.io, place.format, place.dir), LEVEE_OK);
    ck_assert_int_eq(ckpt_store_list(&store, &err), LEVEE_OK);
}

static void close_store(void)
{
    ckpt_store_release(&store);
    place_close(&place);
    ck_assert_int_eq(mem_live(), 0);
}

/* A plan over the newest `parts` files of the list, which are a path. */
static struct ckpt_fold_plan plan_of(size_t first, size_t parts)
{
    struct ckpt_fold_plan plan = {.parts.count = parts};

    for (size_t i = 0; i < parts; i++) {
        plan.parts.index[i] = (uint32_t)(first + i);
    }
    plan.from = store.versions.items[first].from;
    plan.to = plan.parts.to = store.versions.items[first + parts - 1].to;
    return plan;
}

/* Publishes random steps from 0 to the model's end. */
static void publish_steps(uint64_t *seed)
{
    struct ckpt_version v;

    for (uint64_t at = 0; at < model.batches;) {
        uint64_t to = at + 1 + rng_next(seed) % 4;
        to = to > model.batches ? model.batches : to;
        ck_assert_int_eq(model_publish(&model, &store, at, to, &v, &err), LEVEE_OK);
        at = to;
    }
}

START_TEST(a_fold_equals_the_application_of_its_parts)
{
    uint64_t seed = 100 + (uint64_t)_i;

    for (int round = 0; round < 6; round++) {
        open_store(_i, seed);
        publish_steps(&seed);
        size_t steps = store.versions.count;
        for (int k = 0; k < 5; k++) {
            size_t first = rng_next(&seed) % steps;
            size_t parts = 1 + rng_next(&seed) % (steps - first);
            struct ckpt_fold_plan plan = plan_of(first, parts);
            struct ckpt_version v;
            ck_assert_int_eq(fold_all(&store, &plan, 1 + rng_next(&seed) % 5000, &v, &err),
                             LEVEE_OK);
            ck_assert_uint_eq(v.from, plan.from);
            ck_assert_uint_eq(v.to, plan.to);
            ck_assert_uint_eq(v.replay_from, plan.to * 100);
            ck_assert_uint_eq(store.versions.items[store.versions.count - 1].sequence, v.sequence);
            struct ckpt_chain one = {.count = 1, .to = v.to};
            one.index[0] = (uint32_t)store.versions.count - 1;
            ck_assert_int_eq(model_check(&model, &store, &one, plan.from, &err), LEVEE_OK);
        }
        close_store();
    }
}
END_TEST

/* The file does not depend on how the work was cut: the same items, whatever the step. */
START_TEST(steps_do_not_change_the_file)
{
    static const size_t steps[] = {1, 100, 4096, SIZE_MAX};
    uint64_t seed = 3;
    uint64_t size = 0;
    struct ckpt_version v[ARRAY_LEN(steps)];
    struct buf bytes[2] = {{0}, {0}};
    char path[IO_PATH_MAX];

    open_store(PLACE_FLAT, 3); /* LMDB's pages hold transaction ids and padding */
    publish_steps(&seed);
    struct ckpt_fold_plan plan = plan_of(0, store.versions.count);
    for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
        ck_assert_int_eq(fold_all(&store, &plan, steps[i], &v[i], &err), LEVEE_OK);
        ck_assert(size == 0 || size == v[i].size);
        size = v[i].size;
        ck_assert_int_eq(io_path(path, place.dir, v[i].name, &err), LEVEE_OK);
        ck_assert_int_eq(io_read_file(place.io, path, SIZE_MAX / 4, &bytes[i > 0], &err), LEVEE_OK);
        ck_assert(i == 0 || slice_eq(buf_view(&bytes[0]), buf_view(&bytes[1])));
    }
    buf_release(&bytes[0]);
    buf_release(&bytes[1]);
    close_store();
}
END_TEST

/* The rule and the merge together, as the runtime drives them: publish, fold when due, retain. */
START_TEST(a_life_of_publishing_folding_and_retaining)
{
    struct ckpt_chain pair[2];
    struct ckpt_chain best;
    struct ckpt_fold_plan plan;
    struct ckpt_version v;
    unsigned folds = 0;

    place_open(&place, _i, NULL);
    model_fill(&model, MODEL_BATCHES, 8);
    ck_assert_int_eq(ckpt_store_init(&store, place.io, place.format, place.dir), LEVEE_OK);
    for (uint64_t b = 0; b < model.batches; b++) {
        ck_assert_int_eq(model_publish(&model, &store, b, b + 1, &v, &err), LEVEE_OK);
        if (ckpt_fold_due(&store.versions, 4, &plan)) {
            ck_assert_int_eq(fold_all(&store, &plan, 2000, &v, &err), LEVEE_OK);
            ck_assert_uint_eq(ckpt_chain_disjoint(&store.versions, pair), b + 1);
            folds++;
        }
        ck_assert_int_eq(retain_all(&store, &err), LEVEE_OK);
        ck_assert_uint_le(store.versions.count, 24);
        ckpt_chain_best(&store.versions, &best);
        ck_assert_uint_eq(best.to, b + 1);
        ck_assert_int_eq(model_check(&model, &store, &best, 0, &err), LEVEE_OK);
        if (ckpt_chain_disjoint(&store.versions, pair) > 0) {
            ck_assert_int_eq(model_check(&model, &store, &pair[0], 0, &err), LEVEE_OK);
            ck_assert_int_eq(model_check(&model, &store, &pair[1], 0, &err), LEVEE_OK);
        }
    }
    ck_assert_uint_eq(folds, MODEL_BATCHES / 4);
    close_store();
}
END_TEST

/* Versions may be published while a fold is in progress; the fold's place in the sequence is its
 * own. */
START_TEST(publishing_goes_on_during_a_fold)
{
    struct ckpt_fold *f;
    struct ckpt_version v;
    struct ckpt_chain best;
    bool done = false;
    uint64_t b = 8;

    open_store(_i, 4);
    for (uint64_t at = 0; at < 8; at++) {
        ck_assert_int_eq(model_publish(&model, &store, at, at + 1, &v, &err), LEVEE_OK);
    }
    struct ckpt_fold_plan plan = plan_of(0, 8);
    ck_assert_int_eq(ckpt_fold_begin(&store, &plan, &f, &err), LEVEE_OK);
    while (!done) {
        ck_assert_int_eq(ckpt_fold_step(f, 3000, &done, &v, &err), LEVEE_OK);
        if (b < 16) {
            struct ckpt_version other;
            ck_assert_int_eq(model_publish(&model, &store, b, b + 1, &other, &err), LEVEE_OK);
            b++;
        }
    }
    ckpt_fold_free(f);
    ck_assert_uint_gt(b, 10);
    ck_assert_uint_eq(v.sequence, 9);
    ck_assert_uint_eq(store.versions.items[8].sequence, 9);
    ckpt_chain_best(&store.versions, &best);
    ck_assert_uint_eq(best.index[0], 8);
    ck_assert_int_eq(model_check(&model, &store, &best, 0, &err), LEVEE_OK);
    close_store();
}
END_TEST

START_TEST(a_fold_given_up_at_any_step_leaves_nothing)
{
    struct ckpt_version v;
    bool done = false;
    uint64_t seed = 6;

    open_store(_i, 6);
    publish_steps(&seed);
    size_t count = store.versions.count;
    struct ckpt_fold_plan plan = plan_of(0, count);
    for (unsigned steps = 0; !done; steps++) {
        struct ckpt_fold *f;
        struct io_list list = {0};
        ck_assert_uint_lt(steps, 10000);
        ck_assert_int_eq(ckpt_fold_begin(&store, &plan, &f, &err), LEVEE_OK);
        for (unsigned i = 0; i < steps && !done; i++) {
            ck_assert_int_eq(ckpt_fold_step(f, 4000, &done, &v, &err), LEVEE_OK);
        }
        ckpt_fold_free(f);
        ck_assert_int_eq(place.io->ops->list(place.io, place.dir, &list, &err), LEVEE_OK);
        ck_assert_uint_eq(list.count, count + done);
        ck_assert_uint_eq(store.versions.count, count + done);
        io_list_free(&list);
    }
    close_store();
}
END_TEST

/* Parts that only earlier lives verified are verified before they are opened; one that rotted is
 * named. */
START_TEST(unverified_parts_are_verified_first)
{
    struct ckpt_version v;
    char path[IO_PATH_MAX];

    open_store(_i, 2);
    for (uint64_t at = 0; at < 4; at++) {
        ck_assert_int_eq(model_publish(&model, &store, at, at + 1, &v, &err), LEVEE_OK);
    }
    ckpt_store_release(&store);
    ck_assert_int_eq(ckpt_store_init(&store, place.io, place.format, place.dir), LEVEE_OK);
    ck_assert_int_eq(ckpt_store_list(&store, &err), LEVEE_OK);
    struct ckpt_fold_plan plan = plan_of(0, 4);
    ck_assert_int_eq(fold_all(&store, &plan, 1000, &v, &err), LEVEE_OK);
    ck_assert_uint_eq(v.replay_from, 400); /* read from the last part */
    ck_assert(store.versions.items[0].verified);

    ck_assert_int_eq(io_path(path, place.dir, store.versions.items[2].name, &err), LEVEE_OK);
    place_write(&place, path, "rot", 3, 300);
    store.versions.items[2].verified = false;
    plan = plan_of(0, 4);
    ck_assert_int_eq(fold_all(&store, &plan, 1000, &v, &err), LEVEE_ECKPT_CORRUPT);
    ck_assert(store.versions.items[2].bad);
    ck_assert_uint_eq(store.versions.count, 5);
    close_store();
}
END_TEST

/* Removals alone, a table that vanishes in a base, and versions without tables. */
START_TEST(what_remains_of_removals)
{
    struct ckpt_slices s;
    struct ckpt_version v;
    struct ckpt_entry e = {.group = 3, .key = slice_str("k"), .value = slice_str("v")};
    struct ckpt_reader *r;
    struct levee_slice key;
    struct levee_slice value;
    char path[IO_PATH_MAX];

    open_store(_i, 2);
    for (uint64_t b = 0; b < 3; b++) {
        ckpt_slices_init(&s, 5);
        e.value = b == 0 ? slice_str("v") : slice_of(NULL, 0);
        if (b < 2) {
            ckpt_slices_add(&s, &e);
        }
        ck_assert_int_eq(ckpt_slices_finish(&s, &err), LEVEE_OK);
        struct ckpt_content c = {.from = b, .to = b + 1, .tables = &s, .table_count = 1};
        ck_assert_int_eq(ckpt_publish(&store, &c, 0, &v, &err), LEVEE_OK);
        ckpt_slices_release(&s);
    }
    struct ckpt_fold_plan delta = plan_of(1, 2);
    struct ckpt_fold_plan base = plan_of(0, 3);
    for (int k = 0; k < 2; k++) {
        ck_assert_int_eq(fold_all(&store, k == 0 ? &delta : &base, 100, &v, &err), LEVEE_OK);
        ck_assert_int_eq(io_path(path, place.dir, v.name, &err), LEVEE_OK);
        ck_assert_int_eq(place.format->open(place.io, path, &r, &err), LEVEE_OK);
        int rc = place.format->next(r, CKPT_DATA, &key, &value, &err);
        ck_assert_int_eq(rc, k == 0 ? LEVEE_OK : LEVEE_ENOTFOUND);
        place.format->close(r);
    }
    close_store();
}
END_TEST

/* Many groups and slices: the merge crosses slices in the middle of groups, in every part. */
START_TEST(groups_that_span_slices)
{
    static uint8_t bytes[60000];
    struct ckpt_version v;
    struct ckpt_slices s;

    place_open(&place, _i, NULL);
    ck_assert_int_eq(ckpt_store_init(&store, place.io, place.format, place.dir), LEVEE_OK);
    for (uint64_t b = 0; b < 3; b++) {
        ckpt_slices_init(&s, 5);
        for (uint32_t i = 0; i < 60; i++) { /* 4 groups of 15 values of 60,000 bytes */
            if (i % 3 > b) {
                continue;
            }
            memset(bytes, (int)(b * 100 + i), sizeof bytes);
            struct ckpt_entry e = {
                .group = i / 15, .key = slice_of(&i, 4), .touch_ms = (int64_t)b + 1};
            e.value = slice_of(bytes, sizeof bytes);
            ckpt_slices_add(&s, &e);
        }
        ck_assert_int_eq(ckpt_slices_finish(&s, &err), LEVEE_OK);
        ck_assert_uint_gt(s.mark_count, 4);
        struct ckpt_content c = {.from = b, .to = b + 1, .tables = &s, .table_count = 1};
        ck_assert_int_eq(ckpt_publish(&store, &c, 0, &v, &err), LEVEE_OK);
        ckpt_slices_release(&s);
    }
    struct ckpt_fold_plan plan = plan_of(0, 3);
    ck_assert_int_eq(fold_all(&store, &plan, 1, &v, &err), LEVEE_OK);
    /* All 60 keys are in the last delta, so the base must equal it: same number of entries, all
     * touched by 3. */
    struct ckpt_reader *r;
    char path[IO_PATH_MAX];
    struct levee_slice key;
    struct levee_slice value;
    struct ckpt_slice_cursor c;
    struct ckpt_entry e;
    uint32_t entries = 0;
    uint32_t slices = 0;
    uint64_t seen = 0;
    ck_assert_int_eq(io_path(path, place.dir, v.name, &err), LEVEE_OK);
    ck_assert_int_eq(place.format->open(place.io, path, &r, &err), LEVEE_OK);
    while (place.format->next(r, CKPT_DATA, &key, &value, &err) == LEVEE_OK) {
        ck_assert_int_eq(ckpt_slice_open(value, 5, slices++, &c, &err), LEVEE_OK);
        while (ckpt_slice_next(&c, &e)) {
            uint32_t i = get_le32(e.key.data);
            ck_assert_uint_eq(e.group, i / 15);
            ck_assert_int_eq(e.touch_ms, 3);
            ck_assert_uint_eq(e.value.data[0], (uint8_t)(200 + i));
            seen |= (uint64_t)1 << i;
            entries++;
        }
        ck_assert_int_eq(ckpt_slice_close(&c, &err), LEVEE_OK);
    }
    ck_assert_uint_eq(entries, 60);
    ck_assert_uint_eq(seen, ((uint64_t)1 << 60) - 1);
    place.format->close(r);
    close_store();
}
END_TEST

START_TEST(f72_no_memory_while_folding_leaves_the_parts)
{
    struct ckpt_version v;
    int rc = LEVEE_ENOMEM;
    uint64_t seed = 4;

    open_store(_i, 4);
    publish_steps(&seed);
    size_t count = store.versions.count;
    struct ckpt_fold_plan plan = plan_of(0, count);
    for (uint64_t k = 1; rc != LEVEE_OK; k++) {
        struct io_list list = {0};
        ck_assert_uint_lt(k, 2000);
        mem_fail_at(k);
        rc = fold_all(&store, &plan, 3000, &v, &err);
        mem_fail_at(0);
        ck_assert(rc == LEVEE_OK || rc == LEVEE_ENOMEM);
        ck_assert_int_eq(place.io->ops->list(place.io, place.dir, &list, &err), LEVEE_OK);
        ck_assert_uint_eq(list.count, count + (rc == LEVEE_OK));
        io_list_free(&list);
    }
    close_store();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ckpt_fold");
    TCase *tc = tcase_create("fold");

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, a_fold_equals_the_application_of_its_parts, 0, PLACES);
    tcase_add_test(tc, steps_do_not_change_the_file);
    tcase_add_loop_test(tc, a_life_of_publishing_folding_and_retaining, 0, PLACES);
    tcase_add_loop_test(tc, publishing_goes_on_during_a_fold, 0, PLACES);
    tcase_add_loop_test(tc, a_fold_given_up_at_any_step_leaves_nothing, 0, PLACES);
    tcase_add_loop_test(tc, unverified_parts_are_verified_first, 0, PLACES);
    tcase_add_loop_test(tc, what_remains_of_removals, 0, PLACES);
    tcase_add_loop_test(tc, groups_that_span_slices, 0, PLACES);
    tcase_add_loop_test(tc, f72_no_memory_while_folding_leaves_the_parts, 0, PLACE_SIM);
    suite_add_tcase(suite, tc);
    return suite_main(suite);
}
