/*
 * What is no fact about the disk but an error of the scanner (no memory, a crashed machine, a file
 * that cannot be opened), and reading single entries again. None of it may end in a shorter log.
 * The loss is none, or damage at rest between scan and reading.
 */
#include "tests/unit/test_wal_log.h"

/* ---- scanning ---- */

static uint64_t fail_every_allocation(size_t entries)
{
    uint64_t k = 0;
    int code;

    do {
        struct wal_facts f;
        mem_fail_at(++k);
        code = wal_scan(io, WAL_DIR, &ref_context, 0, &f, &err);
        mem_fail_at(0);
        if (code == LEVEE_OK) {
            ck_assert_uint_eq(f.entry_count, entries);
            wal_facts_release(&f);
        } else {
            ck_assert_int_eq(code, LEVEE_ENOMEM);
        }
    } while (code != LEVEE_OK);
    return k;
}

START_TEST(no_memory_is_an_error_at_every_allocation)
{
    open_log();
    put_file("x.tmp", "", 0);
    ck_assert_uint_gt(fail_every_allocation(8), 15);
    *at(1, r.groups[1].offset + 70) ^= 1; /* a bad group is noted */
    ck_assert_uint_gt(fail_every_allocation(6), 15);
    *at(1, 8192 + 70) ^= 1; /* and a SEGMENT_START */
    ck_assert_uint_gt(fail_every_allocation(3), 15);
    *at(1, 500) ^= 1; /* and a header */
    *at(1, BLOCK + 500) ^= 1;
    ck_assert_uint_gt(fail_every_allocation(3), 15);
    close_log();
}
END_TEST

/* A large read that fails is tried again in small ones: what went wrong only once costs nothing. */
START_TEST(a_passing_read_error_costs_nothing)
{
    struct sim_faults faults = {.seed = 1};

    open_log();
    io_sim_set_faults(io, &faults);
    scan();
    uint64_t reads = io_sim_reads(io);
    ck_assert_uint_ge(reads, 6); /* two headers, two beginnings, two segments */
    for (faults.fail_at_read = 1; faults.fail_at_read <= reads; faults.fail_at_read++) {
        io_sim_set_faults(io, &faults);
        scan();
        ck_assert_int_eq(facts.bad.kind, WAL_BAD_NONE);
        ck_assert_uint_eq(facts.entry_count, 8);
        ck_assert_uint_gt(io_sim_reads(io), reads);
    }
    close_log();
}
END_TEST

START_TEST(what_cannot_be_opened_or_listed_is_an_error)
{
    static const struct {
        enum tape_kind kind;
        const char *name;
        size_t skip;
    } calls[] = {{TAPE_LIST, "wal", 0},
                 {TAPE_OPEN, "1.seg", 0},
                 {TAPE_OPEN, "2.seg", 1},
                 {TAPE_STAT, "1.seg", 0},
                 {TAPE_STAT, "2.seg", 1}};

    open_log();
    tape_start(io);
    for (size_t i = 0; i < ARRAY_LEN(calls); i++) {
        tape_fail(calls[i].kind, calls[i].name, LEVEE_EACCESS, calls[i].skip);
        ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &facts, &err), LEVEE_EACCESS);
        ck_assert_int_eq(tape.fail_kind, TAPE_NONE);
    }
    scan();
    ck_assert_uint_eq(facts.entry_count, 8);
    *at(2, 8192 + 70) ^= 1; /* SEGMENT_START: the file is opened once more to look for witnesses */
    tape_fail(TAPE_OPEN, "2.seg", LEVEE_EACCESS, 1);
    ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &facts, &err), LEVEE_EACCESS);
    close_log();
}
END_TEST

/* Fails one read after the other until a scan comes through; returns how many failed. */
static int fail_every_read(int fatal)
{
    int failed = 0, code;

    do {
        struct wal_facts f;
        tape_fail(TAPE_READ, ".seg", fatal, (size_t)failed);
        code = wal_scan(io, WAL_DIR, &ref_context, 0, &f, &err);
        if (code == LEVEE_OK) {
            wal_facts_release(&f);
        } else {
            ck_assert_int_eq(code, fatal);
            failed++;
        }
    } while (code != LEVEE_OK);
    tape.fail_kind = TAPE_NONE;
    return failed;
}

/* The machine goes down, or memory ends, at any read: an error, never a shorter log. The segment is
 * larger than the window, so that every kind of look at it needs reads of its own. */
START_TEST(a_crash_while_scanning_is_an_error)
{
    static const int fatal[] = {LEVEE_ECRASHED, LEVEE_ENOMEM};

    rng = 5;
    open_machine(1);
    ref_begin(&r, 1, 6u << 20, 1);
    for (int g = 0; g < 4; g++) {
        ref_group_begin(&r);
        for (int i = 0; i < 20; i++) {
            ref_data(&r, 59000, &rng);
        }
        ref_group_end(&r);
    }
    put_log(&r);
    tape_start(io);
    for (size_t i = 0; i < ARRAY_LEN(fatal); i++) {
        ck_assert_int_ge(fail_every_read(fatal[i]), 8); /* clean */
        *at(1, r.frames[3].offset + 70) ^= 1;           /* damage with three groups behind it */
        ck_assert_int_ge(fail_every_read(fatal[i]), 12);
        *at(1, 8192 + 70) ^= 1; /* and in SEGMENT_START */
        ck_assert_int_ge(fail_every_read(fatal[i]), 12);
        put_log(&r);
        *at(1, r.frames[r.frame_count - 3].offset + 70) ^= 1; /* a torn tail */
        ck_assert_int_ge(fail_every_read(fatal[i]), 8);
        put_log(&r);
        *at(1, (6u << 20) - 1) ^= 1; /* a byte in the zeros */
        ck_assert_int_ge(fail_every_read(fatal[i]), 12);
        put_log(&r);
    }
    close_log();
}
END_TEST

/* ---- reading entries ---- */

START_TEST(entries_are_found_by_lsn_and_read_back)
{
    struct buf buf = {0};

    open_log();
    scan();
    for (uint64_t lsn = 0; lsn <= 10; lsn++) {
        ck_assert_uint_eq(wal_facts_find(&facts, lsn), lsn == 0 ? 0 : lsn > 8 ? 8 : lsn - 1);
    }
    for (size_t i = 0; i < facts.entry_count; i++) {
        const struct wal_entry *e = &facts.entries[i];
        const uint8_t *payload = r.segments[e->segment].bytes + e->offset + 64;
        ck_assert_int_eq(wal_read_entry(io, WAL_DIR, &facts, e, &buf, &err), LEVEE_OK);
        ck_assert_uint_eq(buf.len, e->len);
        ck_assert_mem_eq(buf.data, payload, e->len);
    }
    buf_release(&buf);
    close_log();
}
END_TEST

START_TEST(an_entry_that_has_changed_is_refused)
{
    struct buf buf = {0};
    static char deep[IO_PATH_MAX];

    open_log();
    scan();
    struct wal_entry e = facts.entries[3];
    for (uint64_t i = 0; i < 64 + e.len; i++) { /* any byte */
        *at(1, e.offset + i) ^= 4;
        MUST(wal_read_entry(io, WAL_DIR, &facts, &e, &buf, &err) == LEVEE_EWAL_CORRUPT);
        MUST(strstr(err.where, "0000000000000001.seg") && strstr(err.where, "LSN 4"));
        *at(1, e.offset + i) ^= 4;
    }
    struct wal_entry other = e; /* what the facts say and what is there must be one */
    other.lsn++;
    ck_assert_int_eq(wal_read_entry(io, WAL_DIR, &facts, &other, &buf, &err), LEVEE_EWAL_CORRUPT);
    other = e;
    other.len--;
    ck_assert_int_eq(wal_read_entry(io, WAL_DIR, &facts, &other, &buf, &err), LEVEE_EWAL_CORRUPT);
    other = e;
    other.offset = SIZE - 32;
    ck_assert_int_lt(wal_read_entry(io, WAL_DIR, &facts, &other, &buf, &err), 0);
    other.offset = SIZE - 64;
    ck_assert_int_lt(wal_read_entry(io, WAL_DIR, &facts, &other, &buf, &err), 0);
    io_sim_bad_range(io, segment_name(1), e.offset + 64, 10);
    ck_assert_int_eq(wal_read_entry(io, WAL_DIR, &facts, &e, &buf, &err), LEVEE_EIO);
    io_sim_bad_range(io, segment_name(1), 0, 0);
    memset(deep, 'd', sizeof deep - 1);
    ck_assert_int_eq(wal_read_entry(io, deep, &facts, &e, &buf, &err), LEVEE_ELIMIT);
    buf_release(&buf);
    mem_fail_at(1);
    ck_assert_int_eq(wal_read_entry(io, WAL_DIR, &facts, &e, &buf, &err), LEVEE_ENOMEM);
    buf_release(&buf);
    ck_assert_int_eq(io->ops->unlink(io, segment_name(1), &err), LEVEE_OK);
    ck_assert_int_eq(wal_read_entry(io, WAL_DIR, &facts, &e, &buf, &err), LEVEE_ENOTFOUND);
    buf_release(&buf);
    close_log();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wal_scan_errors");
    TCase *t = tcase_create("errors");

    tcase_add_test(t, no_memory_is_an_error_at_every_allocation);
    tcase_add_test(t, a_passing_read_error_costs_nothing);
    tcase_add_test(t, what_cannot_be_opened_or_listed_is_an_error);
    tcase_add_test(t, a_crash_while_scanning_is_an_error);
    tcase_add_test(t, entries_are_found_by_lsn_and_read_back);
    tcase_add_test(t, an_entry_that_has_changed_is_refused);
    suite_add_tcase(suite, t);
    return suite_main(suite);
}
