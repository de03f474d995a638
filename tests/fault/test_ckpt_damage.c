/*
 * Damage at rest: bits flip, files are cut, extended, emptied, renamed, unreadable. → The file is
 * bad, is never opened by LMDB, is set aside, and an older or parallel chain gives the state (P1,
 * P4).
 *
 * On LMDB and flat files of the real file system, and on the simulated disk where a bad sector is
 * needed. No process dies and no power fails here; the bytes are changed under a store that is at
 * rest.
 */
#include "tests/unit/test_ckpt.h"

static struct place place;
static struct ckpt_store store;
static struct levee_error err;
static struct model model;

static void open_store(int kind, uint64_t batches)
{
    place_open(&place, kind, NULL);
    model_fill(&model, batches, 33);
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
}

static struct ckpt_version *verified(size_t i)
{
    struct ckpt_version *v = &store.versions.items[i];

    ck_assert_int_eq(ckpt_store_verify(&store, v, &err), LEVEE_OK);
    ck_assert_int_eq(v->verified, !v->bad);
    return v;
}

static struct io_file *open_for_damage(const struct ckpt_version *v)
{
    struct io_file *f;
    char path[IO_PATH_MAX];

    ck_assert_int_eq(io_path(path, place.dir, v->name, &err), LEVEE_OK);
    ck_assert_int_eq(place.io->ops->open(place.io, path, IO_WRITE, &f, &err), LEVEE_OK);
    return f;
}

static void flip(struct io_file *f, uint64_t byte, unsigned bit)
{
    uint8_t b;
    struct iovec iov = {&b, 1};

    ck_assert_int_eq(io_pread_all(f, place.io, &b, 1, byte, &err), LEVEE_OK);
    b ^= (uint8_t)(1u << bit);
    ck_assert_int_eq(place.io->ops->pwritev(f, &iov, 1, byte, &err), LEVEE_OK);
}

/* Faults 50, 59, 60, 61: among the bytes are values, both of LMDB's meta pages and its transaction
 * ids, which LMDB alone would take for good, roll back by, or crash on. */
START_TEST(f50_every_flipped_byte_of_a_version_makes_it_bad)
{
    open_store(_i, 2);
    publish_ok(0, 1);
    struct ckpt_version *v = verified(0);
    struct io_file *f = open_for_damage(v);
    ck_assert_uint_gt(v->size, 1000);
    for (uint64_t byte = 0; byte < v->size; byte++) {
        unsigned bit = (unsigned)(byte * 5 % 8);
        flip(f, byte, bit);
        ck_assert(verified(0)->bad);
        flip(f, byte, bit);
    }
    ck_assert(!verified(0)->bad);
    place.io->ops->close(f);
    close_store();
}
END_TEST

START_TEST(f62_truncated_or_extended_version_is_set_aside)
{
    static const int64_t changes[] = {-1, 1, -4096, 4096, -100000000};
    struct ckpt_chain best;

    for (size_t i = 0; i < ARRAY_LEN(changes); i++) {
        open_store(_i, 3);
        publish_ok(0, 1);
        publish_ok(1, 2);
        struct ckpt_version *v = verified(1);
        struct io_file *f = open_for_damage(v);
        int64_t size = (int64_t)v->size + changes[i];
        ck_assert_int_eq(place.io->ops->truncate(f, size > 0 ? (uint64_t)size : 0, &err), LEVEE_OK);
        place.io->ops->close(f);
        relist();
        ck_assert(!verified(0)->bad);
        ck_assert(verified(1)->bad);
        ck_assert_int_eq(ckpt_set_aside(&store, &store.versions.items[1], &err), LEVEE_OK);
        ckpt_chain_best(&store.versions, &best);
        ck_assert_uint_eq(best.to, 1);
        ck_assert_int_eq(model_check(&model, &store, &best, 0, &err), LEVEE_OK);
        relist();
        ck_assert_uint_eq(store.versions.count, 1);
        close_store();
    }
}
END_TEST

START_TEST(f34_zero_length_version_is_set_aside)
{
    open_store(_i, 2);
    publish_ok(0, 1);
    struct io_file *f = open_for_damage(&store.versions.items[0]);
    ck_assert_int_eq(place.io->ops->truncate(f, 0, &err), LEVEE_OK);
    place.io->ops->close(f);
    ck_assert(verified(0)->bad);
    close_store();
}
END_TEST

/* Fault 63, for a store whose manifest is the name: every other name for the same bytes is bad or
 * not ours. Fault 58: a file of another step copied over this name is bad. */
START_TEST(f63_every_changed_digit_of_the_name_makes_it_bad)
{
    char from[IO_PATH_MAX];
    char to[IO_PATH_MAX];
    char name[112];
    unsigned bad = 0;

    open_store(_i, 3);
    publish_ok(1, 2);
    ck_assert_int_eq(io_path(from, place.dir, store.versions.items[0].name, &err), LEVEE_OK);
    memcpy(name, store.versions.items[0].name, sizeof name);
    for (size_t at = 0; name[at] != '\0'; at++) {
        char was = name[at];
        name[at]++;
        if (was == '9') {
            name[at] = 'a';
        } else if (was == '.') { /* the next character would be a slash */
            name[at] = ',';
        }
        ck_assert_int_eq(io_path(to, place.dir, name, &err), LEVEE_OK);
        ck_assert_int_eq(place.io->ops->rename(place.io, from, to, &err), LEVEE_OK);
        relist();
        ck_assert_uint_le(store.versions.count, 1);
        if (store.versions.count == 1) {
            ck_assert(verified(0)->bad);
            bad++;
        }
        ck_assert_int_eq(place.io->ops->rename(place.io, to, from, &err), LEVEE_OK);
        name[at] = was;
    }
    ck_assert_uint_gt(bad, 60);
    relist();
    ck_assert(!verified(0)->bad);

    publish_ok(0, 2);
    ck_assert_int_eq(io_path(to, place.dir, store.versions.items[1].name, &err), LEVEE_OK);
    ck_assert_int_eq(place.io->ops->rename(place.io, from, to, &err), LEVEE_OK);
    relist();
    ck_assert_uint_eq(store.versions.count, 1);
    ck_assert(verified(0)->bad);
    close_store();
}
END_TEST

/* C7: of two disjoint chains one survives any single file. */
START_TEST(f59_any_one_damaged_file_costs_no_batch_below_m)
{
    struct ckpt_chain best;
    struct ckpt_chain pair[2];
    struct ckpt_fold_plan plan;
    struct ckpt_version v;

    open_store(_i, 30);
    for (uint64_t b = 0; b < 30; b++) {
        publish_ok(b, b + 1);
        if (ckpt_fold_due(&store.versions, 4, &plan)) {
            ck_assert_int_eq(fold_all(&store, &plan, 100000, &v, &err), LEVEE_OK);
        }
        ck_assert_int_eq(retain_all(&store, &err), LEVEE_OK);
    }
    uint64_t m = ckpt_chain_disjoint(&store.versions, pair);
    ck_assert_uint_eq(m, 28);
    for (size_t i = 0; i < store.versions.count; i++) {
        struct io_file *f = open_for_damage(&store.versions.items[i]);
        flip(f, store.versions.items[i].size / 2, 3);
        relist();
        for (size_t k = 0; k < store.versions.count; k++) {
            ck_assert_int_eq(verified(k)->bad, k == i);
        }
        ckpt_chain_best(&store.versions, &best);
        ck_assert_uint_ge(best.to, m);
        ck_assert_int_eq(model_check(&model, &store, &best, 0, &err), LEVEE_OK);
        flip(f, store.versions.items[i].size / 2, 3);
        place.io->ops->close(f);
    }
    close_store();
}
END_TEST

START_TEST(f64_all_files_bad_leave_no_chain)
{
    struct ckpt_chain best;
    bool keep[4];

    open_store(_i, 4);
    for (uint64_t b = 0; b < 4; b++) {
        publish_ok(b, b + 1);
        struct io_file *f = open_for_damage(&store.versions.items[b]);
        flip(f, 77, 1);
        place.io->ops->close(f);
    }
    relist();
    for (size_t i = 0; i < 4; i++) {
        ck_assert(verified(i)->bad);
    }
    ckpt_chain_best(&store.versions, &best);
    ck_assert_uint_eq(best.count, 0);
    ckpt_retain(&store.versions, keep);
    ck_assert_int_eq(retain_all(&store, &err), LEVEE_OK);
    ck_assert_uint_eq(store.versions.count, 0);
    /* nothing was deleted: all four lie in quarantine */
    char path[IO_PATH_MAX];
    struct io_list list = {0};
    ck_assert_int_eq(io_path(path, place.dir, "quarantine", &err), LEVEE_OK);
    ck_assert_int_eq(place.io->ops->list(place.io, path, &list, &err), LEVEE_OK);
    ck_assert_uint_eq(list.count, 4);
    io_list_free(&list);
    publish_ok(0, 4);
    close_store();
}
END_TEST

/* Faults 44, 45: a sector that cannot be read makes the file unusable, not the store. */
START_TEST(f45_unreadable_sector_makes_a_version_bad)
{
    struct ckpt_chain best;
    char path[IO_PATH_MAX];

    open_store(PLACE_SIM, 3);
    publish_ok(0, 1);
    publish_ok(1, 2);
    ck_assert_int_eq(io_path(path, place.dir, store.versions.items[1].name, &err), LEVEE_OK);
    io_sim_bad_range(place.io, path, 512, 512);
    relist();
    ck_assert(!verified(0)->bad);
    ck_assert_int_eq(ckpt_store_verify(&store, &store.versions.items[1], &err), LEVEE_EIO);
    ck_assert(store.versions.items[1].bad);
    ckpt_chain_best(&store.versions, &best);
    ck_assert_uint_eq(best.to, 1);
    ck_assert_int_eq(model_check(&model, &store, &best, 0, &err), LEVEE_OK);
    close_store();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ckpt_damage");
    TCase *tc = tcase_create("damage");

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, f50_every_flipped_byte_of_a_version_makes_it_bad, 0, PLACE_SIM);
    tcase_add_loop_test(tc, f62_truncated_or_extended_version_is_set_aside, 0, PLACES);
    tcase_add_loop_test(tc, f34_zero_length_version_is_set_aside, 0, PLACES);
    tcase_add_loop_test(tc, f63_every_changed_digit_of_the_name_makes_it_bad, 0, PLACES);
    tcase_add_loop_test(tc, f59_any_one_damaged_file_costs_no_batch_below_m, 0, PLACES);
    tcase_add_loop_test(tc, f64_all_files_bad_leave_no_chain, 0, PLACES);
    tcase_add_test(tc, f45_unreadable_sector_makes_a_version_bad);
    suite_add_tcase(suite, tc);
    return suite_main(suite);
}
