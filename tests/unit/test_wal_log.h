/*
 * A small log of two segments on the simulated disk, made by the reference, and what a scan of it
 * says: for the tests of the scanner.
 */
#ifndef LEVEE_TEST_WAL_LOG_H
#define LEVEE_TEST_WAL_LOG_H

#include "tests/unit/test_wal.h"
#include "wal/wal_scan.h"

#define SIZE (64u << 10)

static struct ref_log r;
static struct wal_facts facts;
static uint64_t rng;

/* Two segments: LSNs 1 to 5 in three groups, then 6 to 8 in two. */
static inline void open_log(void)
{
    rng = 77;
    open_machine(1);
    ref_begin(&r, 1, SIZE, 3);
    ref_group(&r, 2, 300, &rng);
    ref_group(&r, 2, 300, &rng);
    ref_group(&r, 1, 300, &rng);
    ref_begin(&r, 2, SIZE, 3);
    ref_group(&r, 2, 300, &rng);
    ref_group(&r, 1, 300, &rng);
    put_log(&r);
}

static inline void close_log(void)
{
    wal_facts_release(&facts);
    ref_release(&r);
    close_machine();
}

static inline void scan(void)
{
    wal_facts_release(&facts);
    ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &facts, &err), LEVEE_OK);
}

static inline const char *segment_name(uint64_t number)
{
    static char path[IO_PATH_MAX];

    segment_path(path, number);
    return path;
}

static inline uint8_t *at(uint64_t number, uint64_t offset)
{
    uint64_t size;
    uint8_t *bytes = segment_bytes(number, &size);

    ck_assert_uint_lt(offset, size);
    return bytes + offset;
}

/* The one bad place, or NONE. */
static inline void expect(enum wal_bad_kind kind, uint64_t segment, uint64_t group_lsn,
                          bool witnessed)
{
    scan();
    ck_assert_int_eq(facts.bad.kind, kind);
    ck_assert_uint_eq(facts.bad_count, kind != WAL_BAD_NONE);
    if (kind != WAL_BAD_NONE) {
        ck_assert_uint_eq(facts.segments[facts.bad.segment_index].number, segment);
        ck_assert_uint_eq(facts.bad.group_lsn, group_lsn);
        ck_assert_int_eq(facts.bad.witnessed, witnessed);
    }
}

#endif
