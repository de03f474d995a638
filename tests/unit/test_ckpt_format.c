/*
 * One contract, two formats, three places: LMDB and flat on the real file system, flat on the
 * simulated one. What is put comes back by next, seek and get; what breaks the contract is a typed
 * error. Damage is in tests/fault/test_ckpt_damage.c; here is neither process death nor power loss.
 */
#include "tests/unit/test_ckpt.h"

#include <lmdb.h>

static struct place place;
static const struct ckpt_format *format;
static struct levee_error err;
static char path[IO_PATH_MAX];

static void open_place(int kind)
{
    place_open(&place, kind, NULL);
    format = place.format;
    ck_assert_int_eq(io_path(path, place.dir, "0000000000000001.tmp", &err), LEVEE_OK);
}

static void close_place(void)
{
    place_close(&place);
    ck_assert_int_eq(mem_live(), 0);
}

static struct ckpt_builder *begin(uint64_t hint)
{
    struct ckpt_builder *b;

    ck_assert_int_eq(format->begin(place.io, path, hint, &b, &err), LEVEE_OK);
    return b;
}

static struct ckpt_reader *reopen(void)
{
    struct ckpt_reader *r;

    ck_assert_int_eq(format->open(place.io, path, &r, &err), LEVEE_OK);
    return r;
}

/* Keys ascend with i; lengths from 4 to 511 bytes. Every fifth value is empty, some are large. */
static struct levee_slice key_of(uint32_t i, uint8_t buf[CKPT_KEY_MAX])
{
    size_t len = i % 9 == 0 ? CKPT_KEY_MAX : 4 + i % 60;

    memset(buf, 'x', len);
    for (int b = 0; b < 4; b++) {
        buf[b] = (uint8_t)((i + 0x30303030u) >> (24 - 8 * b)); /* above ".format" */
    }
    return slice_of(buf, len);
}

#define BIG_VALUE 300000

static struct levee_slice value_of(uint32_t i, uint8_t buf[BIG_VALUE])
{
    size_t len = i % 5 == 0 ? 0 : i % 50 == 1 ? BIG_VALUE - i : i * 37 % 3000;

    memset(buf, (int)i, len);
    return slice_of(buf, len);
}

static uint8_t key_buf[CKPT_KEY_MAX];
static uint8_t value_buf[BIG_VALUE];

static void put_ok(struct ckpt_builder *b, enum ckpt_db db, uint32_t i)
{
    ck_assert_int_eq(format->put(b, db, key_of(i, key_buf), value_of(i, value_buf), &err),
                     LEVEE_OK);
}

/* Items 0, 2, 4 … n in data and 0, 3, 6 … n in meta. */
static void build(uint32_t n)
{
    struct ckpt_builder *b = begin(0);

    for (uint32_t i = 0; i <= n; i++) {
        if (i % 2 == 0) {
            put_ok(b, CKPT_DATA, i);
        }
        if (i % 3 == 0) {
            put_ok(b, CKPT_META, i);
        }
    }
    ck_assert_int_eq(format->commit(b, &err), LEVEE_OK);
}

static void expect_next(struct ckpt_reader *r, enum ckpt_db db, uint32_t i)
{
    struct levee_slice key;
    struct levee_slice value;

    ck_assert_int_eq(format->next(r, db, &key, &value, &err), LEVEE_OK);
    ck_assert(slice_eq(key, key_of(i, key_buf)));
    ck_assert(slice_eq(value, value_of(i, value_buf)));
}

static void expect_end(struct ckpt_reader *r, enum ckpt_db db)
{
    struct levee_slice key;
    struct levee_slice value;

    for (int again = 0; again < 3; again++) {
        ck_assert_int_eq(format->next(r, db, &key, &value, &err), LEVEE_ENOTFOUND);
    }
}

START_TEST(what_is_put_is_read_in_order)
{
    struct levee_slice key;
    struct levee_slice value;

    open_place(_i);
    build(300);
    struct ckpt_reader *r = reopen();
    ck_assert_int_eq(format->next(r, CKPT_META, &key, &value, &err), LEVEE_OK);
    ck_assert(slice_eq(key, slice_str(CKPT_KEY_FORMAT)));
    ck_assert_mem_eq(value.data, format->name, 4);
    /* The two databases are walked side by side: one cursor each. */
    for (uint32_t i = 0; i <= 300; i++) {
        if (i % 3 == 0) {
            expect_next(r, CKPT_META, i);
        }
        if (i % 2 == 0) {
            expect_next(r, CKPT_DATA, i);
        }
    }
    expect_end(r, CKPT_META);
    expect_end(r, CKPT_DATA);
    format->close(r);
    close_place();
}
END_TEST

START_TEST(the_format_item_names_the_library)
{
    char want[64];
    struct levee_slice value;

    open_place(_i);
    snprintf(want, sizeof want, "flat 1");
    if (_i == PLACE_LMDB) {
        int v[3];
        (void)mdb_version(&v[0], &v[1], &v[2]);
        snprintf(want, sizeof want, "lmdb %d.%d.%d", v[0], v[1], v[2]);
    }
    build(0);
    struct ckpt_reader *r = reopen();
    ck_assert_int_eq(format->get(r, CKPT_META, slice_str(CKPT_KEY_FORMAT), &value, &err), LEVEE_OK);
    ck_assert(slice_eq(value, slice_str(want)));
    format->close(r);
    close_place();
}
END_TEST

START_TEST(get_finds_what_is_there_and_only_that)
{
    struct levee_slice value;
    static uint8_t want[BIG_VALUE];

    open_place(_i);
    build(200);
    struct ckpt_reader *r = reopen();
    for (uint32_t i = 0; i <= 202; i++) {
        struct levee_slice key = key_of(i, key_buf);
        int rc = format->get(r, CKPT_DATA, key, &value, &err);
        ck_assert_int_eq(rc, i % 2 == 0 && i <= 200 ? LEVEE_OK : LEVEE_ENOTFOUND);
        if (rc == LEVEE_OK) {
            ck_assert_ptr_nonnull(value.data); /* empty is not absent */
            ck_assert(slice_eq(value, value_of(i, want)));
        }
        key.len--; /* a prefix is another key */
        ck_assert_int_eq(format->get(r, CKPT_DATA, key, &value, &err), LEVEE_ENOTFOUND);
    }
    ck_assert_int_eq(format->get(r, CKPT_DATA, slice_of(NULL, 0), &value, &err), LEVEE_ENOTFOUND);
    format->close(r);
    close_place();
}
END_TEST

START_TEST(seek_goes_to_the_first_key_not_below)
{
    open_place(_i);
    build(100);
    struct ckpt_reader *r = reopen();
    for (uint32_t i = 0; i <= 103; i++) {
        ck_assert_int_eq(format->seek(r, CKPT_DATA, key_of(i, key_buf), &err), LEVEE_OK);
        uint32_t first = i + i % 2;
        if (first > 100) {
            expect_end(r, CKPT_DATA);
            continue;
        }
        expect_next(r, CKPT_DATA, first);
        if (first < 100) {
            expect_next(r, CKPT_DATA, first + 2);
        } else {
            expect_end(r, CKPT_DATA);
        }
    }
    ck_assert_int_eq(format->seek(r, CKPT_DATA, slice_of(NULL, 0), &err), LEVEE_OK);
    expect_next(r, CKPT_DATA, 0);
    format->close(r);
    close_place();
}
END_TEST

START_TEST(an_empty_database_is_empty)
{
    open_place(_i);
    struct ckpt_builder *b = begin(0);
    ck_assert_int_eq(format->commit(b, &err), LEVEE_OK);
    struct ckpt_reader *r = reopen();
    expect_end(r, CKPT_DATA);
    ck_assert_int_eq(format->seek(r, CKPT_DATA, slice_str("a"), &err), LEVEE_OK);
    expect_end(r, CKPT_DATA);
    format->close(r);
    close_place();
}
END_TEST

START_TEST(items_out_of_order_are_refused)
{
    open_place(_i);
    struct ckpt_builder *b = begin(0);
    ck_assert_int_eq(format->put(b, CKPT_DATA, slice_str("b"), slice_str("1"), &err), LEVEE_OK);
    ck_assert_int_eq(format->put(b, CKPT_META, slice_str("a"), slice_str("1"), &err), LEVEE_OK);
    ck_assert_int_eq(format->put(b, CKPT_DATA, slice_str("b"), slice_str("2"), &err),
                     LEVEE_EINVALID);
    format->abandon(b);
    ck_assert_int_eq(place.io->ops->unlink(place.io, path, &err), LEVEE_OK);
    b = begin(0);
    ck_assert_int_eq(format->put(b, CKPT_DATA, slice_str("b"), slice_str("1"), &err), LEVEE_OK);
    ck_assert_int_eq(format->put(b, CKPT_DATA, slice_str("a"), slice_str("2"), &err),
                     LEVEE_EINVALID);
    format->abandon(b);
    close_place();
}
END_TEST

START_TEST(keys_that_are_empty_or_too_long_are_refused)
{
    uint8_t key[CKPT_KEY_MAX + 1] = {'k'};

    open_place(_i);
    struct ckpt_builder *b = begin(0);
    ck_assert_int_eq(format->put(b, CKPT_DATA, slice_of(key, 0), slice_str(""), &err),
                     LEVEE_ELIMIT);
    ck_assert_int_eq(format->put(b, CKPT_DATA, slice_of(key, sizeof key), slice_str(""), &err),
                     LEVEE_ELIMIT);
    ck_assert_str_eq(err.found, "512 and 0 bytes");
    /* Refused before anything was touched: the builder goes on. */
    ck_assert_int_eq(format->put(b, CKPT_DATA, slice_of(key, CKPT_KEY_MAX), slice_str("v"), &err),
                     LEVEE_OK);
    ck_assert_int_eq(format->commit(b, &err), LEVEE_OK);
    close_place();
}
END_TEST

START_TEST(a_file_is_written_once)
{
    struct ckpt_builder *b;

    open_place(_i);
    build(10);
    ck_assert_int_eq(format->begin(place.io, path, 0, &b, &err), LEVEE_EEXISTS);
    struct ckpt_reader *r = reopen();
    expect_next(r, CKPT_DATA, 0);
    format->close(r);
    close_place();
}
END_TEST

START_TEST(a_missing_file_is_not_created_by_reading)
{
    struct ckpt_reader *r;
    struct io_stat st;

    open_place(_i);
    ck_assert_int_eq(format->open(place.io, path, &r, &err), LEVEE_ENOTFOUND);
    ck_assert_int_eq(place.io->ops->stat(place.io, path, &st, &err), LEVEE_OK);
    ck_assert_int_eq(st.kind, IO_NONE);
    close_place();
}
END_TEST

/* Not from the list of names we expect: files that pass for ours only by name. After a real hash
 * check they cannot come this far; a format must not crash on them all the same. (LMDB cannot
 * promise that for damaged files of its own, which is why nothing unverified reaches it.) */
START_TEST(foreign_files_are_typed_errors)
{
    static const char *const texts[] = {"", "LEVFLAT1", "LEVFLAT1\xff",
                                        "hello, this is not a checkpoint file"};
    static uint8_t page[20000];
    struct ckpt_reader *r;

    open_place(_i);
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        place_write(&place, path, texts[i], strlen(texts[i]), 0);
        int rc = format->open(place.io, path, &r, &err);
        ck_assert_int_ne(rc, LEVEE_OK);
        ck_assert_int_ne(rc, LEVEE_ENOTFOUND);
        ck_assert_int_eq(place.io->ops->unlink(place.io, path, &err), LEVEE_OK);
    }
    place_write(&place, path, page, sizeof page, 0);
    ck_assert_int_eq(format->open(place.io, path, &r, &err), LEVEE_ECKPT_CORRUPT);
    close_place();
}
END_TEST

/* Fault 69. No hint, far more than the first map: it grows before it is full, and a transaction
 * ends before it holds too much. The sizes are the worst for LMDB's pages: two items hardly ever
 * fit one. */
START_TEST(f69_the_map_grows_before_it_is_full)
{
    uint32_t n = 0;
    uint64_t bytes = 0;
    struct levee_slice key;
    struct levee_slice value;

    open_place(PLACE_LMDB);
    struct ckpt_builder *b = begin(0);
    for (; bytes < (uint64_t)40 << 20; n++) {
        put_be64(key_buf, (uint64_t)'a' << 56 | n);
        memset(key_buf + 8, 'k', CKPT_KEY_MAX - 8);
        key = slice_of(key_buf, n % 2 ? CKPT_KEY_MAX : 8);
        value = slice_of(value_buf, n % 3 == 0 ? 1500 : n % 3 == 1 ? 900 : 30);
        ck_assert_int_eq(format->put(b, CKPT_DATA, key, value, &err), LEVEE_OK);
        bytes += key.len + value.len;
    }
    put_be64(key_buf, (uint64_t)'b' << 56);
    size_t big = (size_t)90 << 20;
    uint8_t *huge = mem_zalloc(big);
    ck_assert_ptr_nonnull(huge);
    ck_assert_int_eq(format->put(b, CKPT_DATA, slice_of(key_buf, 8), slice_of(huge, big), &err),
                     LEVEE_OK);
    ck_assert_int_eq(format->put(b, CKPT_META, slice_str("m"), slice_str("1"), &err), LEVEE_OK);
    ck_assert_int_eq(format->commit(b, &err), LEVEE_OK);

    struct ckpt_reader *r = reopen();
    for (uint32_t i = 0; i < n; i++) {
        ck_assert_int_eq(format->next(r, CKPT_DATA, &key, &value, &err), LEVEE_OK);
        ck_assert_uint_eq(get_be64(key.data), (uint64_t)'a' << 56 | i);
        ck_assert_uint_eq(value.len, i % 3 == 0 ? 1500 : i % 3 == 1 ? 900 : 30);
    }
    ck_assert_int_eq(format->next(r, CKPT_DATA, &key, &value, &err), LEVEE_OK);
    ck_assert(slice_eq(value, slice_of(huge, big)));
    expect_end(r, CKPT_DATA);
    format->close(r);
    mem_free(huge);
    close_place();
}
END_TEST

/* Fault 72 for our own allocations (LMDB's are its own). Whatever fails, no file handle or memory
 * stays. */
START_TEST(f72_no_memory_is_a_typed_error_and_leaks_nothing)
{
    int rc = LEVEE_ENOMEM;

    open_place(_i);
    int64_t live = mem_live();
    for (uint64_t k = 1; rc != LEVEE_OK; k++) {
        struct ckpt_builder *b = NULL;
        struct ckpt_reader *r = NULL;
        ck_assert_uint_lt(k, 100);
        mem_fail_at(k);
        rc = format->begin(place.io, path, 0, &b, &err);
        for (uint32_t i = 0; rc == LEVEE_OK && i < 60; i++) {
            rc = format->put(b, CKPT_DATA, key_of(i, key_buf), value_of(i, value_buf), &err);
        }
        if (rc == LEVEE_OK) {
            rc = format->commit(b, &err);
        } else if (b != NULL) {
            format->abandon(b);
        }
        rc = rc == LEVEE_OK ? format->open(place.io, path, &r, &err) : rc;
        format->close(r);
        mem_fail_at(0);
        ck_assert(rc == LEVEE_OK || rc == LEVEE_ENOMEM);
        (void)place.io->ops->unlink(place.io, path, &err);
        if (_i != PLACE_SIM) { /* the simulator's disk is memory */
            ck_assert_int_eq(mem_live(), live);
        }
    }
    close_place();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ckpt_format");
    TCase *tc = tcase_create("format");

    tcase_set_timeout(tc, 60);
    tcase_add_loop_test(tc, what_is_put_is_read_in_order, 0, PLACES);
    tcase_add_loop_test(tc, the_format_item_names_the_library, 0, PLACES);
    tcase_add_loop_test(tc, get_finds_what_is_there_and_only_that, 0, PLACES);
    tcase_add_loop_test(tc, seek_goes_to_the_first_key_not_below, 0, PLACES);
    tcase_add_loop_test(tc, an_empty_database_is_empty, 0, PLACES);
    tcase_add_loop_test(tc, items_out_of_order_are_refused, 0, PLACES);
    tcase_add_loop_test(tc, keys_that_are_empty_or_too_long_are_refused, 0, PLACES);
    tcase_add_loop_test(tc, a_file_is_written_once, 0, PLACES);
    tcase_add_loop_test(tc, a_missing_file_is_not_created_by_reading, 0, PLACES);
    tcase_add_loop_test(tc, foreign_files_are_typed_errors, 0, PLACES);
    tcase_add_test(tc, f69_the_map_grows_before_it_is_full);
    tcase_add_loop_test(tc, f72_no_memory_is_a_typed_error_and_leaks_nothing, 0, PLACES);
    suite_add_tcase(suite, tc);
    return suite_main(suite);
}
