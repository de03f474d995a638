/*
 * The window through which the scanner reads a segment: whatever the order of reads, the bytes are
 * those of the file; a bad sector costs the bytes that lie in it and no others (catalogue 39, 44).
 */
#include "tests/unit/test_wal.h"
#include "wal/wal_scan.h"

#define SIZE ((2u << 20) + 1000)

static uint8_t *contents;
static struct wal_window v;

static void open_window(void)
{
    uint64_t rng = 9;

    open_machine(1);
    contents = malloc(SIZE);
    ck_assert_ptr_nonnull(contents);
    for (size_t i = 0; i < SIZE; i++) {
        contents[i] = (uint8_t)rng_next(&rng);
    }
    put_file("f", contents, SIZE);
    ck_assert_int_eq(wal_window_open(&v, io, WAL_DIR, "f", &err), LEVEE_OK);
    ck_assert_uint_eq(v.file_size, SIZE);
}

static void close_window(void)
{
    wal_window_close(&v);
    free(contents);
    close_machine();
}

static void get_ok(uint64_t offset, size_t len)
{
    const uint8_t *p = NULL;

    MUST(wal_window_get(&v, offset, len, &p) == LEVEE_OK);
    MUST(memcmp(p, contents + offset, len) == 0);
}

START_TEST(any_range_in_any_order)
{
    uint64_t rng = 4;

    open_window();
    get_ok(0, SIZE);
    get_ok(0, 0);
    get_ok(SIZE, 0);
    get_ok(SIZE - 1, 1);
    for (int i = 0; i < 3000; i++) {
        uint64_t offset = rng_next(&rng) % SIZE;
        uint64_t left = SIZE - offset;
        uint64_t max = i % 100 == 0 ? left : left < 5000 ? left : 5000;
        get_ok(offset, (size_t)(rng_next(&rng) % (max + 1)));
    }
    close_window();
}
END_TEST

/* Read once each in pieces of a megabyte, and a frame larger than the window in one. */
START_TEST(reads_ahead)
{
    open_window();
    uint64_t before = counter_get(&io->counts.reads);
    for (uint64_t at = 0; at + 64 <= SIZE; at += 64) {
        get_ok(at, 64);
    }
    ck_assert_uint_eq(counter_get(&io->counts.reads) - before, 3);
    before = counter_get(&io->counts.reads);
    get_ok(5, (3u << 20) / 2);
    ck_assert_uint_eq(counter_get(&io->counts.reads) - before, 1);
    close_window();
}
END_TEST

START_TEST(behind_the_end_is_not_found)
{
    const uint8_t *p = NULL;

    open_window();
    ck_assert_int_eq(wal_window_get(&v, SIZE, 1, &p), LEVEE_ENOTFOUND);
    ck_assert_int_eq(wal_window_get(&v, SIZE - 1, 2, &p), LEVEE_ENOTFOUND);
    ck_assert_int_eq(wal_window_get(&v, SIZE + 1, 0, &p), LEVEE_ENOTFOUND);
    ck_assert_int_eq(wal_window_get(&v, UINT64_MAX, 1, &p), LEVEE_ENOTFOUND);
    ck_assert_int_eq(wal_window_get(&v, 1, SIZE_MAX, &p), LEVEE_ENOTFOUND); /* an absurd length */
    ck_assert_ptr_null(p);
    get_ok(SIZE - 1, 1);
    close_window();
}
END_TEST

/* Somebody cuts the file while it is read: an answer, and no stale bytes. */
START_TEST(a_file_that_shrinks_meanwhile_is_not_found)
{
    const uint8_t *p = NULL;
    struct io_file *f;

    open_window();
    ck_assert_int_eq(io->ops->open(io, WAL_DIR "/f", IO_WRITE, &f, &err), LEVEE_OK);
    ck_assert_int_eq(io->ops->truncate(f, 100, &err), LEVEE_OK);
    io->ops->close(f);
    ck_assert_int_eq(wal_window_get(&v, 90, 20, &p), LEVEE_ENOTFOUND);
    get_ok(80, 20);
    close_window();
}
END_TEST

START_TEST(a_bad_sector_costs_only_its_own_bytes)
{
    const uint8_t *p;
    int bad = 0, good = 0;

    open_window();
    io_sim_bad_range(io, WAL_DIR "/f", 512 * 1000, 512);
    for (uint64_t at = 512 * 990; at < 512 * 1010; at += 64) {
        bool inside = at >= 512 * 1000 && at < 512 * 1001;
        if (inside) {
            ck_assert_int_eq(wal_window_get(&v, at, 64, &p), LEVEE_EIO);
            bad++;
        } else {
            get_ok(at, 64);
            good++;
        }
    }
    ck_assert_int_eq(bad, 8);
    ck_assert_int_gt(good, 100);
    /* A read as long as the window gives no second try. */
    ck_assert_int_eq(wal_window_get(&v, 0, 1u << 20, &p), LEVEE_EIO);
    get_ok(0, 64);
    io_sim_bad_range(io, WAL_DIR "/f", 0, 0);
    get_ok(512 * 1000, 512);
    close_window();
}
END_TEST

/* No memory and a crashed machine say nothing about the disk, and are not tried around. */
START_TEST(no_memory_and_a_crash_are_errors)
{
    const uint8_t *p = NULL;

    open_window();
    get_ok(0, 64);
    mem_fail_at(1);
    ck_assert_int_eq(wal_window_get(&v, 100, SIZE - 100, &p), LEVEE_ENOMEM);
    mem_fail_at(0);
    get_ok(0, SIZE); /* it was no lasting failure */
    io_sim_crash(io);
    get_ok(50, 100); /* still in memory */
    wal_window_close(&v);
    ck_assert_int_eq(wal_window_open(&v, io, WAL_DIR, "f", &err), LEVEE_ECRASHED);
    close_window();
    ck_assert(wal_scan_fatal(LEVEE_ENOMEM));
    ck_assert(wal_scan_fatal(LEVEE_ECRASHED));
    ck_assert(!wal_scan_fatal(LEVEE_EIO));
    ck_assert(!wal_scan_fatal(LEVEE_OK));
}
END_TEST

START_TEST(a_crash_while_reading_is_an_error)
{
    const uint8_t *p = NULL;

    open_window();
    io_sim_crash(io);
    ck_assert_int_eq(wal_window_get(&v, 0, 64, &p), LEVEE_ECRASHED);
    close_window();
}
END_TEST

START_TEST(a_missing_file_and_a_long_path_are_errors)
{
    static char deep[IO_PATH_MAX];

    open_machine(1);
    ck_assert_int_eq(wal_window_open(&v, io, WAL_DIR, "f", &err), LEVEE_ENOTFOUND);
    wal_window_close(&v);
    memset(deep, 'd', sizeof deep - 1);
    ck_assert_int_eq(wal_window_open(&v, io, deep, "f", &err), LEVEE_ELIMIT);
    wal_window_close(&v);
    close_machine();
}
END_TEST

START_TEST(zeros_are_recognised)
{
    uint8_t p[200] = {0};

    ck_assert(wal_is_zero(p, 0));
    for (size_t len = 1; len <= sizeof p; len++) {
        ck_assert(wal_is_zero(p, len));
        for (size_t i = 0; i < len; i++) {
            p[i] = 0x80;
            MUST(!wal_is_zero(p, len));
            p[i] = 0;
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wal_window");
    TCase *t = tcase_create("window");

    tcase_add_test(t, any_range_in_any_order);
    tcase_add_test(t, reads_ahead);
    tcase_add_test(t, behind_the_end_is_not_found);
    tcase_add_test(t, a_file_that_shrinks_meanwhile_is_not_found);
    tcase_add_test(t, a_bad_sector_costs_only_its_own_bytes);
    tcase_add_test(t, no_memory_and_a_crash_are_errors);
    tcase_add_test(t, a_crash_while_reading_is_an_error);
    tcase_add_test(t, a_missing_file_and_a_long_path_are_errors);
    tcase_add_test(t, zeros_are_recognised);
    suite_add_tcase(suite, t);
    return suite_main(suite);
}
