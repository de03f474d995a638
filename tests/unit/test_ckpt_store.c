/*
 * The store: names, listing, verifying, publishing, setting aside, removing, loading. On both
 * formats and on the simulated disk. Crashes are in tests/fault/test_ckpt_crash.c.
 */
#include "tests/unit/test_ckpt.h"

static struct place place;
static struct ckpt_store store;
static struct levee_error err;
static struct model model;

static void open_store(int kind)
{
    place_open(&place, kind, NULL);
    model_fill(&model, 12, 1);
    ck_assert_int_eq(ckpt_store_init(&store, place.io, place.format, place.dir), LEVEE_OK);
    ck_assert_int_eq(ckpt_store_list(&store, &err), LEVEE_OK);
}

static void close_store(void)
{
    ckpt_store_release(&store);
    place_close(&place);
    ck_assert_int_eq(mem_live(), 0);
}

static void relist(void)
{
    ckpt_store_release(&store);
    ck_assert_int_eq(ckpt_store_init(&store, place.io, place.format, place.dir), LEVEE_OK);
    ck_assert_int_eq(ckpt_store_list(&store, &err), LEVEE_OK);
}

static void publish_ok(uint64_t from, uint64_t to)
{
    struct ckpt_version v;

    ck_assert_int_eq(model_publish(&model, &store, from, to, &v, &err), LEVEE_OK);
    ck_assert(v.verified);
    ck_assert(!v.bad);
    ck_assert_uint_eq(v.from, from);
    ck_assert_uint_eq(v.to, to);
    ck_assert_uint_eq(v.replay_from, to * 100);
}

static void verify_all(void)
{
    for (size_t i = 0; i < store.versions.count; i++) {
        ck_assert_int_eq(ckpt_store_verify(&store, &store.versions.items[i], &err), LEVEE_OK);
        ck_assert(store.versions.items[i].verified);
        ck_assert(!store.versions.items[i].bad);
    }
}

START_TEST(a_chain_is_the_state)
{
    struct ckpt_chain chain;

    open_store(_i);
    publish_ok(0, 1);
    for (uint64_t b = 1; b < 12; b++) {
        publish_ok(b, b + 1);
        ckpt_chain_best(&store.versions, &chain);
        ck_assert_uint_eq(chain.to, b + 1);
        ck_assert_int_eq(model_check(&model, &store, &chain, 0, &err), LEVEE_OK);
    }
    relist();
    ck_assert_uint_eq(store.versions.count, 12);
    verify_all();
    ckpt_chain_best(&store.versions, &chain);
    ck_assert_uint_eq(chain.count, 12);
    ck_assert_int_eq(model_check(&model, &store, &chain, 0, &err), LEVEE_OK);
    for (uint32_t i = 0; i < 12; i++) { /* every step by itself, with both digests */
        struct ckpt_chain one = {.index = {i}, .count = 1, .to = i + 1};
        ck_assert_int_eq(model_check(&model, &store, &one, i, &err), LEVEE_OK);
    }
    close_store();
}
END_TEST

/* Design 4d.20: two syncs a version, whatever its size. */
START_TEST(a_version_costs_two_syncs)
{
    open_store(_i);
    uint64_t syncs = counter_get(&place.io->counts.syncs);
    uint64_t dir_syncs = counter_get(&place.io->counts.dir_syncs);
    uint64_t renames = counter_get(&place.io->counts.renames);
    publish_ok(0, 3);
    ck_assert_uint_eq(counter_get(&place.io->counts.syncs) - syncs, 1);
    ck_assert_uint_eq(counter_get(&place.io->counts.dir_syncs) - dir_syncs, 1);
    ck_assert_uint_eq(counter_get(&place.io->counts.renames) - renames, 1);
    close_store();
}
END_TEST

/* The name, computed here from the README's words. */
START_TEST(the_name_is_the_manifest)
{
    char path[IO_PATH_MAX];
    char want[112];
    uint8_t numbers[40];
    uint64_t size;
    uint64_t hash;

    open_store(_i);
    publish_ok(0, 3);
    publish_ok(3, 9);
    const struct ckpt_version *v = &store.versions.items[1];
    ck_assert_int_eq(io_path(path, place.dir, v->name, &err), LEVEE_OK);
    ck_assert_int_eq(io_hash_file(place.io, path, &size, &hash, &err), LEVEE_OK);
    put_le64(numbers, 2);
    put_le64(numbers + 8, 3);
    put_le64(numbers + 16, 9);
    put_le64(numbers + 24, size);
    put_le64(numbers + 32, hash);
    snprintf(want, sizeof want,
             "0000000000000002-0000000000000003-0000000000000009-%016llx-%016llx.ckpt",
             (unsigned long long)size, (unsigned long long)hash64(numbers, sizeof numbers, 0));
    ck_assert_str_eq(v->name, want);
    close_store();
}
END_TEST

/* Names that are nearly ours are ignored, temporary names are known, nothing is touched. */
START_TEST(listing_takes_our_names_only)
{
    static const char *const names[] = {
        "0000000000000001-0000000000000000-0000000000000005-0000000000001000-0123456789abcdef."
        "ckpt", /* ours */
        "0000000000000002-0000000000000005-0000000000000005-0000000000001000-0123456789abcdef."
        "ckpt",
        "0000000000000002-0000000000000006-0000000000000005-0000000000001000-0123456789abcdef."
        "ckpt",
        "0000000000000002-0000000000000005-0000000000000006-0000000000001000-0123456789ABCDEF."
        "ckpt",
        "0000000000000002-0000000000000005-0000000000000006-0000000000001000-0123456789abcdef."
        "ckpx",
        "0000000000000002-0000000000000005-0000000000000006-0000000000001000-0123456789abcdef",
        "0000000000000002-0000000000000005_0000000000000006-0000000000001000-0123456789abcdef."
        "ckpt",
        "000000000000002-0000000000000005-0000000000000006-0000000000001000-0123456789abcdef.ckpt",
        "0000000000000009.tmp",
        "other.tmp",
        "README"};
    char path[IO_PATH_MAX];
    struct io_list list = {0};

    open_store(_i);
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        ck_assert_int_eq(io_path(path, place.dir, names[i], &err), LEVEE_OK);
        place_write(&place, path, "x", 1, 0);
    }
    relist();
    ck_assert_uint_eq(store.versions.count, 1);
    ck_assert_str_eq(store.versions.items[0].name, names[0]);
    ck_assert_uint_eq(store.versions.items[0].size, 0x1000);
    ck_assert_uint_eq(store.versions.temps.count, 2);
    ck_assert_uint_eq(store.next_sequence, 10); /* the temporary name holds its place */
    ck_assert_int_eq(ckpt_remove_temps(&store, &err), LEVEE_OK);
    ck_assert_uint_eq(store.versions.temps.count, 0);
    ck_assert_int_eq(place.io->ops->list(place.io, place.dir, &list, &err), LEVEE_OK);
    ck_assert_uint_eq(list.count, ARRAY_LEN(names) - 2);
    io_list_free(&list);
    close_store();
}
END_TEST

START_TEST(a_bad_file_is_set_aside_and_never_deleted)
{
    char path[IO_PATH_MAX];
    char quarantine[IO_PATH_MAX];
    struct io_stat st;
    struct ckpt_chain chain;

    open_store(_i);
    publish_ok(0, 1);
    publish_ok(1, 2);
    publish_ok(2, 3);
    struct ckpt_version v = store.versions.items[1];
    ck_assert_int_eq(io_path(path, place.dir, v.name, &err), LEVEE_OK);
    place_write(&place, path, "wrong", 5, v.size / 2);
    relist();
    ck_assert_int_eq(ckpt_store_verify(&store, &store.versions.items[1], &err), LEVEE_OK);
    ck_assert(store.versions.items[1].bad);
    ckpt_chain_best(&store.versions, &chain);
    ck_assert_uint_eq(chain.to, 1);

    ck_assert_int_eq(ckpt_set_aside(&store, &store.versions.items[1], &err), LEVEE_OK);
    ck_assert_int_eq(io_path(quarantine, place.dir, "quarantine", &err), LEVEE_OK);
    ck_assert_int_eq(io_path(quarantine, quarantine, v.name, &err), LEVEE_OK);
    ck_assert_int_eq(place.io->ops->stat(place.io, quarantine, &st, &err), LEVEE_OK);
    ck_assert_int_eq(st.kind, IO_FILE);
    ck_assert_uint_eq(st.size, v.size);
    ck_assert_int_eq(place.io->ops->stat(place.io, path, &st, &err), LEVEE_OK);
    ck_assert_int_eq(st.kind, IO_NONE);
    /* again is no error, and removing it only takes it from the list */
    ck_assert_int_eq(ckpt_set_aside(&store, &store.versions.items[1], &err), LEVEE_OK);
    ck_assert_int_eq(ckpt_remove(&store, &store.versions.items[1], &err), LEVEE_OK);
    ck_assert_uint_eq(store.versions.count, 2);
    ck_assert_int_eq(place.io->ops->stat(place.io, quarantine, &st, &err), LEVEE_OK);
    ck_assert_int_eq(st.kind, IO_FILE);
    close_store();
}
END_TEST

START_TEST(removing_a_bad_file_sets_it_aside)
{
    char path[IO_PATH_MAX];
    struct io_list list = {0};

    open_store(_i);
    publish_ok(0, 1);
    ck_assert_int_eq(io_path(path, place.dir, store.versions.items[0].name, &err), LEVEE_OK);
    place_write(&place, path, "wrong", 5, 100);
    ck_assert_int_eq(ckpt_store_verify(&store, &store.versions.items[0], &err), LEVEE_OK);
    ck_assert(store.versions.items[0].bad);
    ck_assert_int_eq(ckpt_remove(&store, &store.versions.items[0], &err), LEVEE_OK);
    ck_assert_uint_eq(store.versions.count, 0);
    ck_assert_int_eq(io_path(path, place.dir, "quarantine", &err), LEVEE_OK);
    ck_assert_int_eq(place.io->ops->list(place.io, path, &list, &err), LEVEE_OK);
    ck_assert_uint_eq(list.count, 1);
    io_list_free(&list);
    close_store();
}
END_TEST

START_TEST(removing_takes_the_file_and_the_entry)
{
    struct ckpt_chain chain;

    open_store(_i);
    publish_ok(0, 1);
    publish_ok(1, 2);
    publish_ok(0, 2);
    ck_assert_int_eq(ckpt_remove(&store, &store.versions.items[0], &err), LEVEE_OK);
    ck_assert_uint_eq(store.versions.count, 2);
    ck_assert_uint_eq(store.versions.items[0].from, 1);
    relist();
    ck_assert_uint_eq(store.versions.count, 2);
    verify_all();
    ckpt_chain_best(&store.versions, &chain);
    ck_assert_uint_eq(chain.count, 1);
    ck_assert_int_eq(model_check(&model, &store, &chain, 0, &err), LEVEE_OK);
    /* a version that vanished is bad, not an error */
    struct ckpt_version gone = store.versions.items[0];
    ck_assert_int_eq(ckpt_remove(&store, &store.versions.items[0], &err), LEVEE_OK);
    ck_assert_int_eq(ckpt_store_verify(&store, &gone, &err), LEVEE_OK);
    ck_assert(gone.bad);
    close_store();
}
END_TEST

/* C7: a name seen by listing may not be durable yet. The first removal of a life syncs the
 * directory, unless a publication did; later ones do not. */
START_TEST(names_are_durable_before_anything_is_removed)
{
    open_store(_i);
    publish_ok(0, 1);
    publish_ok(0, 2);
    publish_ok(0, 3);
    uint64_t before = counter_get(&place.io->counts.dir_syncs);
    ck_assert_int_eq(ckpt_remove(&store, &store.versions.items[0], &err), LEVEE_OK);
    ck_assert_uint_eq(counter_get(&place.io->counts.dir_syncs), before);
    relist();
    ck_assert_int_eq(ckpt_remove(&store, &store.versions.items[0], &err), LEVEE_OK);
    ck_assert_uint_eq(counter_get(&place.io->counts.dir_syncs), before + 1);
    ck_assert_int_eq(ckpt_remove(&store, &store.versions.items[0], &err), LEVEE_OK);
    ck_assert_uint_eq(counter_get(&place.io->counts.dir_syncs), before + 1);
    close_store();
}
END_TEST

START_TEST(meta_of_one_version)
{
    struct buf value = {0};

    open_store(_i);
    publish_ok(0, 4);
    relist();
    verify_all();
    struct ckpt_version *v = &store.versions.items[0];
    ck_assert_uint_eq(v->replay_from, 0);
    ck_assert_int_eq(ckpt_read_replay_from(&store, v, &err), LEVEE_OK);
    ck_assert_uint_eq(v->replay_from, 400);
    ck_assert_int_eq(ckpt_read_meta(&store, v, slice_str("digest-to"), &value, &err), LEVEE_OK);
    ck_assert_uint_eq(value.len, 8);
    ck_assert_uint_eq(get_le64(value.data), model_digest(&model, 4));
    ck_assert_int_eq(ckpt_read_meta(&store, v, slice_str("nothing"), &value, &err),
                     LEVEE_ENOTFOUND);
    buf_release(&value);
    close_store();
}
END_TEST

START_TEST(a_step_that_does_not_advance_is_refused)
{
    struct ckpt_version v;
    struct ckpt_content none = {.from = 3, .to = 3};

    open_store(_i);
    ck_assert_int_eq(ckpt_publish(&store, &none, 0, &v, &err), LEVEE_EINVALID);
    none = (struct ckpt_content){.from = 4, .to = 3};
    ck_assert_int_eq(ckpt_publish(&store, &none, 0, &v, &err), LEVEE_EINVALID);
    /* the emptiest version there can be: a batch that changed nothing */
    none = (struct ckpt_content){.from = 3, .to = 4};
    ck_assert_int_eq(ckpt_publish(&store, &none, 0, &v, &err), LEVEE_OK);
    relist();
    verify_all();
    close_store();
}
END_TEST

START_TEST(items_out_of_order_publish_nothing_and_leave_nothing)
{
    struct ckpt_item meta[] = {{slice_str("b"), slice_str("")}, {slice_str("a"), slice_str("")}};
    struct ckpt_content content = {.to = 1, .meta = meta, .meta_count = 2};
    struct ckpt_version v;
    struct io_list list = {0};

    open_store(_i);
    ck_assert_int_eq(ckpt_publish(&store, &content, 0, &v, &err), LEVEE_EINVALID);
    ck_assert_int_eq(place.io->ops->list(place.io, place.dir, &list, &err), LEVEE_OK);
    ck_assert_uint_eq(list.count, 0);
    io_list_free(&list);
    publish_ok(0, 1);
    close_store();
}
END_TEST

START_TEST(a_full_chain_asks_for_a_fold)
{
    struct ckpt_version v;
    struct ckpt_content none = {0};

    open_store(_i);
    for (uint64_t b = 0; b < CKPT_CHAIN_MAX; b++) {
        none.from = b;
        none.to = b + 1;
        ck_assert_int_eq(ckpt_publish(&store, &none, 0, &v, &err), LEVEE_OK);
    }
    none = (struct ckpt_content){.from = CKPT_CHAIN_MAX, .to = CKPT_CHAIN_MAX + 1};
    ck_assert_int_eq(ckpt_publish(&store, &none, 0, &v, &err), LEVEE_EFULL);
    ck_assert_int_eq(levee_error_class(LEVEE_EFULL), LEVEE_CLASS_RETRY);
    ck_assert_uint_eq(store.versions.count, CKPT_CHAIN_MAX);
    close_store();
}
END_TEST

/* A writer that breaks the order of slices is caught by the reader, though every hash is right. */
START_TEST(a_missing_slice_is_corruption)
{
    struct ckpt_slices s;
    struct ckpt_version v;
    struct ckpt_entry e = {.key = slice_str("k"), .value = slice_str("v")};
    struct ckpt_chain chain;

    open_store(_i);
    ckpt_slices_init(&s, model_tables[0]);
    s.first_number = 1; /* slice 0 is not there */
    ckpt_slices_add(&s, &e);
    ck_assert_int_eq(ckpt_slices_finish(&s, &err), LEVEE_OK);
    struct ckpt_content content = {.to = 1, .tables = &s, .table_count = 1};
    ck_assert_int_eq(ckpt_publish(&store, &content, 0, &v, &err), LEVEE_OK);
    ckpt_slices_release(&s);
    ckpt_chain_best(&store.versions, &chain);
    ck_assert_int_eq(model_check(&model, &store, &chain, 0, &err), LEVEE_ECKPT_CORRUPT);
    close_store();
}
END_TEST

/* Fault 72 on the whole way: nothing published, nothing left, and the next try works. (Not on the
 * simulated disk, whose syncs and renames need memory of their own: those failures are final.) */
START_TEST(f72_no_memory_while_publishing_leaves_nothing)
{
    struct ckpt_version v;
    int rc = LEVEE_ENOMEM;

    open_store(_i);
    publish_ok(0, 1);
    for (uint64_t k = 1; rc != LEVEE_OK; k++) {
        struct io_list list = {0};
        ck_assert_uint_lt(k, 500);
        mem_fail_at(k);
        rc = model_publish(&model, &store, 1, 2, &v, &err);
        mem_fail_at(0);
        ck_assert(rc == LEVEE_OK || rc == LEVEE_ENOMEM);
        ck_assert_int_eq(place.io->ops->list(place.io, place.dir, &list, &err), LEVEE_OK);
        ck_assert_uint_eq(list.count, rc == LEVEE_OK ? 2 : 1);
        ck_assert_uint_eq(store.versions.count, list.count);
        io_list_free(&list);
    }
    rc = LEVEE_ENOMEM;
    for (uint64_t k = 1; rc != LEVEE_OK; k++) { /* and on the way back */
        struct ckpt_chain chain;
        ck_assert_uint_lt(k, 500);
        ckpt_store_release(&store);
        ck_assert_int_eq(ckpt_store_init(&store, place.io, place.format, place.dir), LEVEE_OK);
        mem_fail_at(k);
        rc = ckpt_store_list(&store, &err);
        for (size_t i = 0; rc == LEVEE_OK && i < store.versions.count; i++) {
            rc = ckpt_store_verify(&store, &store.versions.items[i], &err);
            ck_assert(!store.versions.items[i].bad); /* no memory says nothing about the file */
        }
        if (rc == LEVEE_OK) {
            ckpt_chain_best(&store.versions, &chain);
            ck_assert_uint_eq(chain.to, 2);
            rc = model_check(&model, &store, &chain, 0, &err);
        }
        mem_fail_at(0);
        ck_assert(rc == LEVEE_OK || rc == LEVEE_ENOMEM);
    }
    close_store();
}
END_TEST

START_TEST(a_directory_that_is_missing_is_an_error)
{
    struct ckpt_store s;

    open_store(_i);
    ck_assert_int_eq(ckpt_store_init(&s, place.io, place.format, "/no/such/place"), LEVEE_OK);
    ck_assert_int_eq(ckpt_store_list(&s, &err), LEVEE_ENOTFOUND);
    ckpt_store_release(&s);
    close_store();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ckpt_store");
    TCase *tc = tcase_create("store");

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, a_chain_is_the_state, 0, PLACES);
    tcase_add_loop_test(tc, a_version_costs_two_syncs, 0, PLACES);
    tcase_add_loop_test(tc, the_name_is_the_manifest, 0, PLACES);
    tcase_add_loop_test(tc, listing_takes_our_names_only, 0, PLACES);
    tcase_add_loop_test(tc, a_bad_file_is_set_aside_and_never_deleted, 0, PLACES);
    tcase_add_loop_test(tc, removing_a_bad_file_sets_it_aside, 0, PLACES);
    tcase_add_loop_test(tc, removing_takes_the_file_and_the_entry, 0, PLACES);
    tcase_add_loop_test(tc, names_are_durable_before_anything_is_removed, 0, PLACES);
    tcase_add_loop_test(tc, meta_of_one_version, 0, PLACES);
    tcase_add_loop_test(tc, a_step_that_does_not_advance_is_refused, 0, PLACES);
    tcase_add_loop_test(tc, items_out_of_order_publish_nothing_and_leave_nothing, 0, PLACES);
    tcase_add_loop_test(tc, a_full_chain_asks_for_a_fold, 0, PLACES);
    tcase_add_loop_test(tc, a_missing_slice_is_corruption, 0, PLACES);
    tcase_add_loop_test(tc, f72_no_memory_while_publishing_leaves_nothing, 0, PLACE_SIM);
    tcase_add_loop_test(tc, a_directory_that_is_missing_is_an_error, 0, PLACES);
    suite_add_tcase(suite, tc);
    return suite_main(suite);
}
