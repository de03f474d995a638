/*
 * What the tests of trimming share: the disk as a stranger sees it, and a log that is filled and
 * trimmed as at checkpoints.
 */
#ifndef LEVEE_TESTS_WAL_TRIM_H
#define LEVEE_TESTS_WAL_TRIM_H

#include "tests/unit/test_wal_rig.h"

static inline size_t files_on_disk(const char *suffix)
{
    struct io_list list = {0};
    size_t n = 0;

    ck_assert_int_eq(io->ops->list(io, WAL_DIR, &list, &err), LEVEE_OK);
    for (size_t i = 0; i < list.count; i++) {
        size_t len = strlen(list.items[i].name), end = strlen(suffix);
        n += len > end && strcmp(list.items[i].name + len - end, suffix) == 0;
    }
    io_list_free(&list);
    return n;
}

static inline uint64_t bytes_on_disk(void)
{
    struct io_list list = {0};
    uint64_t bytes = 0;

    ck_assert_int_eq(io->ops->list(io, WAL_DIR, &list, &err), LEVEE_OK);
    for (size_t i = 0; i < list.count; i++) {
        char path[IO_PATH_MAX];
        struct io_stat st;
        ck_assert_int_eq(io_path(path, WAL_DIR, list.items[i].name, &err), LEVEE_OK);
        ck_assert_int_eq(io->ops->stat(io, path, &st, &err), LEVEE_OK);
        bytes += st.size;
    }
    io_list_free(&list);
    return bytes;
}

static inline uint64_t recycled(void)
{
    struct wal_stats stats;

    wal_stats(rig.wal, &stats);
    return stats.recycled;
}

/* What the disk holds is a run of the frames that were sent, byte by byte, up to at least `last`,
 * from at most `first`. */
static inline void check_disk(uint64_t first, uint64_t last)
{
    struct wal_facts facts;
    struct buf buf = {0};

    ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &facts, &err), LEVEE_OK);
    ck_assert_msg(!facts.bad.witnessed, "damage without damage: kind %d in %s at %d",
                  facts.bad.kind, facts.bad.segment, (int)facts.bad.offset);
    ck_assert_uint_le(facts.first_lsn, first);
    ck_assert_uint_gt(facts.next_lsn, last);
    ck_assert_uint_eq(facts.entry_count, facts.next_lsn - facts.first_lsn);
    for (size_t i = 0; i < facts.entry_count; i++) {
        const struct wal_entry *e = &facts.entries[i];
        const struct sent *s = &rig.sent[e->lsn - 1];
        MUST(wal_read_entry(io, WAL_DIR, &facts, e, &buf, &err) == LEVEE_OK);
        MUST(e->lsn == facts.first_lsn + i && s->frame.lsn == e->lsn && e->len == s->len);
        MUST(memcmp(buf.data, s->payload, s->len) == 0);
    }
    buf_release(&buf);
    wal_facts_release(&facts);
}

/* Three frames of this length fill a segment. */
#define THIRD 15000

static inline void fill(size_t frames)
{
    for (size_t i = 0; i < frames; i++) {
        rig_send(THIRD);
        rig_settle();
    }
    ck_assert_uint_eq(rig_acknowledged(), rig.count);
}

/* The lowest LSN still on disk. */
static inline uint64_t first_on_disk(void)
{
    struct wal_facts facts;

    ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &facts, &err), LEVEE_OK);
    ck_assert_int_eq(facts.bad.kind, WAL_BAD_NONE);
    ck_assert_uint_eq(facts.next_lsn, rig.count + 1);
    uint64_t first = facts.first_lsn;
    wal_facts_release(&facts);
    return first;
}

/* As at checkpoints: frames, then all of them trimmed. */
static inline void cycle(size_t frames)
{
    for (size_t i = 0; i < frames && !io_sim_crashed(io); i++) {
        rig_send(THIRD);
        rig_settle();
    }
    wal_trim(rig.wal, wal_durable_lsn(rig.wal));
    rig_settle();
}

#endif
