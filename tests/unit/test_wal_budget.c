/*
 * The budget of the log (4d.20) as exact numbers: syncs, writes, bytes and allocations, counted on
 * the simulated machine, where they are immune to noise. A change that costs one more of anything
 * fails here first. The expected numbers are worked out from the format, not taken from a run.
 */
#include "tests/unit/test_wal_rig.h"

struct used {
    uint64_t syncs, dir_syncs, writes, bytes, allocations;
};

static struct used used_so_far(void)
{
    return (struct used){
        .syncs = counter_get(&io->counts.syncs),
        .dir_syncs = counter_get(&io->counts.dir_syncs),
        .writes = counter_get(&io->counts.writes),
        .bytes = counter_get(&io->counts.write_bytes),
        .allocations = mem_count(),
    };
}

static struct used used_since(struct used then)
{
    struct used now = used_so_far();

    return (struct used){now.syncs - then.syncs, now.dir_syncs - then.dir_syncs,
                         now.writes - then.writes, now.bytes - then.bytes,
                         now.allocations - then.allocations};
}

static void expect_used(struct used then, struct used want)
{
    struct used got = used_since(then);

    ck_assert_uint_eq(got.syncs, want.syncs);
    ck_assert_uint_eq(got.dir_syncs, want.dir_syncs);
    ck_assert_uint_eq(got.writes, want.writes);
    ck_assert_uint_eq(got.bytes, want.bytes);
    ck_assert_uint_eq(got.allocations, want.allocations);
}

static void open_log(uint64_t segment_bytes)
{
    rig_machine(1);
    rig.opt.segment_bytes = segment_bytes;
    ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_OK);
    rig_settle();
}

/* A frame whose payload is one piece of len bytes, a multiple of 8: two vectors. */
static struct sent *one_piece(size_t len)
{
    struct sent *s = rig_frame(len);

    ck_assert_uint_eq(len % 8, 0);
    s->frame.payload[0] = slice_of(s->payload, len);
    s->frame.payload[1] = slice_of(NULL, 0);
    return s;
}

static void append(struct sent *s)
{
    ck_assert_int_eq(wal_append(rig.wal, &s->frame, &err), LEVEE_OK);
}

/* Bytes of a group in the file: frames, seal, and up to the next block. */
static uint64_t group_bytes(uint64_t frames, uint64_t len)
{
    uint64_t bytes = frames * (64 + len) + 64 + 32;
    uint64_t pad = bytes % BLOCK == 0 ? 0 : BLOCK - bytes % BLOCK;

    return bytes + pad + (pad > 0 && pad < 64 ? BLOCK : 0);
}

/* ---- groups ---- */

START_TEST(one_sync_and_one_write_per_group)
{
    static const uint64_t frames[] = {1, 2, 8, 32, 100, 380};

    open_log(1u << 20);
    for (size_t i = 0; i < ARRAY_LEN(frames); i++) {
        static struct sent *sent[400];
        for (uint64_t f = 0; f < frames[i]; f++) {
            sent[f] = one_piece(240);
        }
        struct used before = used_so_far();
        for (uint64_t f = 0; f < frames[i]; f++) {
            append(sent[f]);
        }
        rig_settle();
        expect_used(before,
                    (struct used){.syncs = 1, .writes = 1, .bytes = group_bytes(frames[i], 240)});
        ck_assert_uint_eq(rig_acknowledged(), rig.count);
    }
    rig_end();
}
END_TEST

/* A vector holds 768 entries, two for each frame here and four of them kept free: 383 frames. */
START_TEST(one_write_more_per_383_small_frames)
{
    open_log(1u << 20);
    for (int i = 0; i < 1000; i++) {
        one_piece(64);
    }
    struct used before = used_so_far();
    for (int i = 0; i < 1000; i++) {
        append(&rig.sent[i]);
    }
    rig_settle();
    expect_used(before, (struct used){.syncs = 1, .writes = 3, .bytes = group_bytes(1000, 64)});
    rig_end();
}
END_TEST

/* Rung 12: bytes in the log per byte of payload, at 128 KiB blocks. 33 blocks of the device for one
 * block of records, which is 1.03125; 257 for eight of them, 1.0039. */
START_TEST(bytes_per_payload_byte)
{
    static const struct {
        uint64_t frames, blocks;
    } cases[] = {{1, 33}, {2, 65}, {8, 257}, {31, 993}};

    open_log(16u << 20);
    append(one_piece(200000)); /* into a segment of full size */
    append(one_piece(200000));
    rig_settle();
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        uint64_t payload = cases[i].frames * (128u << 10);
        struct used before = used_so_far();
        for (uint64_t f = 0; f < cases[i].frames; f++) {
            append(one_piece(128u << 10));
        }
        rig_settle();
        struct used got = used_since(before);
        ck_assert_uint_eq(got.syncs, 1);
        ck_assert_uint_eq(got.writes, 1);
        ck_assert_uint_eq(got.bytes, cases[i].blocks * BLOCK);
        ck_assert_uint_eq(got.bytes, group_bytes(cases[i].frames, 128u << 10));
        ck_assert_uint_le(got.bytes * 100, payload * (cases[i].frames == 1 ? 104 : 102));
    }
    struct wal_stats stats;
    wal_stats(rig.wal, &stats);
    ck_assert_uint_eq(stats.payload_bytes, 2 * 200000 + 42 * (128u << 10));
    rig_end();
}
END_TEST

/* The smallest acknowledged record costs one block of the device. */
START_TEST(one_block_for_the_smallest_group)
{
    open_log(1u << 20);
    struct used before = used_so_far();
    for (int i = 0; i < 20; i++) {
        append(one_piece(i * 8));
        rig_settle();
    }
    struct used got = used_since(before);
    ck_assert_uint_eq(got.syncs, 20);
    ck_assert_uint_eq(got.writes, 20);
    ck_assert_uint_eq(got.bytes, 20 * BLOCK);
    rig_end();
}
END_TEST

/* ---- copies and allocations ---- */

static const struct io_ops *below;
static uint64_t seen_bytes, foreign_bytes;

/* Where do the bytes that reach the disk lie? */
static int watch_pwritev(struct io_file *f, const struct iovec *iov, int count, uint64_t offset,
                         struct levee_error *e)
{
    for (int i = 0; i < count; i++) {
        const uint8_t *p = iov[i].iov_base;
        bool owned = false;
        for (size_t s = 0; s < rig.count && !owned; s++) {
            owned = p >= rig.sent[s].payload && p < rig.sent[s].payload + rig.sent[s].len;
        }
        seen_bytes += iov[i].iov_len;
        foreign_bytes += owned ? 0 : iov[i].iov_len;
    }
    return below->pwritev(f, iov, count, offset, e);
}

START_TEST(no_payload_byte_is_copied)
{
    struct io_ops watching;

    open_log(1u << 20);
    below = io->ops;
    watching = *io->ops;
    watching.pwritev = watch_pwritev;
    io->ops = &watching;
    seen_bytes = foreign_bytes = 0;
    rig_send_many(10, 8000); /* in two pieces each */
    rig_settle();
    ck_assert_uint_eq(seen_bytes, group_bytes(10, 8000));
    ck_assert_uint_eq(foreign_bytes, group_bytes(10, 8000) - 10 * 8000);
    io->ops = below;
    rig_end();
}
END_TEST

START_TEST(no_allocation_per_frame)
{
    open_log(8u << 20);
    append(one_piece(200000)); /* into a segment of full size */
    append(one_piece(200000));
    rig_settle();
    for (int i = 0; i < 3000; i++) {
        rig_frame(800);
    }
    struct used before = used_so_far();
    for (size_t i = 2; i < rig.count; i++) {
        append(&rig.sent[i]);
        if (i % 10 == 0) {
            rig_settle();
        }
    }
    rig_settle();
    ck_assert_uint_eq(rig_acknowledged(), rig.count);
    struct used got = used_since(before);
    ck_assert_uint_eq(got.allocations, 0);
    ck_assert_uint_eq(got.syncs, 301);
    rig_end();
}
END_TEST

/* ---- rolls, quiet, trims, starts ---- */

/* A roll takes a spare over and costs no sync; its successor is made on the helper lane: one sync
 * of the file, one of the directory; the fills with zeros and the headers are its writes. */
START_TEST(a_roll_costs_no_sync)
{
    struct wal_stats stats;

    open_log(64u << 10);
    struct used before = used_so_far();
    size_t tape_before = tape.count;
    for (int i = 0; i < 100; i++) {
        append(one_piece(7000)); /* two blocks of the device */
        rig_settle();
    }
    wal_stats(rig.wal, &stats);
    /* 64 KiB beside creation's block: 8 groups of two blocks; then 56 KiB: 7 in each segment. */
    uint64_t rolls = (100 - 8 + 6) / 7;
    ck_assert_uint_eq(stats.rolls, rolls);
    ck_assert_uint_eq(stats.groups, 100);
    ck_assert_uint_eq(tape_find(tape_before, TAPE_SYNC, ".seg"), 100);
    ck_assert_uint_eq(tape_find(tape_before, TAPE_WRITE, ".seg"), 100);
    struct used got = used_since(before);
    ck_assert_uint_eq(got.syncs, 100 + rolls);
    ck_assert_uint_eq(got.dir_syncs, rolls);
    ck_assert_uint_eq(got.writes, 100 + 2 * rolls);
    ck_assert_uint_eq(got.bytes, 100 * 2 * BLOCK + rolls * ((64u << 10) + 2 * BLOCK));
    rig_end();
}
END_TEST

START_TEST(quiet_costs_one_seal_and_then_nothing)
{
    open_log(64u << 10);
    struct used before = used_so_far();
    rig_run(100000 * MS);
    expect_used(before, (struct used){0}); /* nothing was ever written */
    append(one_piece(8));
    rig_settle();
    before = used_so_far();
    rig_run(1000 * MS);
    expect_used(before, (struct used){.syncs = 1, .writes = 1, .bytes = BLOCK});
    before = used_so_far();
    rig_run(UINT64_C(24) * 3600 * 1000 * MS);
    expect_used(before, (struct used){0});
    rig_close();
    expect_used(before, (struct used){0}); /* nothing to seal */
    rig_end();
}
END_TEST

START_TEST(a_trim_costs_one_directory_sync)
{
    open_log(64u << 10);
    for (int i = 0; i < 60; i++) {
        append(one_piece(8000));
        rig_settle();
    }
    struct used before = used_so_far();
    wal_trim(rig.wal, 1);
    rig_settle();
    expect_used(before, (struct used){0}); /* nothing below it */
    wal_trim(rig.wal, 60);
    rig_settle();
    struct used got = used_since(before);
    ck_assert_uint_eq(got.syncs, 0);
    ck_assert_uint_eq(got.dir_syncs, 1);
    ck_assert_uint_eq(got.writes, 0);
    rig_end();
}
END_TEST

/* Two per start: the new first segment, and its name. Spares left by the life before are removed,
 * which is a change of names, and costs a third. */
START_TEST(a_start_costs_two_syncs)
{
    for (int spares = 0; spares < 2; spares++) {
        struct wal_facts facts;
        open_log(64u << 10);
        append(one_piece(8));
        rig_close();
        for (uint64_t n = 2; n <= 3 && !spares; n++) {
            char path[IO_PATH_MAX];
            segment_path(path, n);
            ck_assert_int_eq(io->ops->unlink(io, path, &err), LEVEE_OK);
        }
        struct used before = used_so_far();
        ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &facts, &err), LEVEE_OK);
        ck_assert_int_eq(wal_rebuild(io, &rig.opt, &facts, 2, 1, 2, &err), LEVEE_OK);
        ck_assert_int_eq(wal_clean(io, &rig.opt, &facts, &err), LEVEE_OK);
        struct used got = used_since(before);
        ck_assert_uint_eq(got.syncs, 1);
        ck_assert_uint_eq(got.dir_syncs, 1 + (uint64_t)spares);
        ck_assert_uint_eq(got.writes, 3); /* zeros, headers, the group */
        wal_facts_release(&facts);
        rig_end();
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wal_budget");
    TCase *t = tcase_create("budget");

    tcase_add_test(t, one_sync_and_one_write_per_group);
    tcase_add_test(t, one_write_more_per_383_small_frames);
    tcase_add_test(t, bytes_per_payload_byte);
    tcase_add_test(t, one_block_for_the_smallest_group);
    tcase_add_test(t, no_payload_byte_is_copied);
    tcase_add_test(t, no_allocation_per_frame);
    tcase_add_test(t, a_roll_costs_no_sync);
    tcase_add_test(t, quiet_costs_one_seal_and_then_nothing);
    tcase_add_test(t, a_trim_costs_one_directory_sync);
    tcase_add_test(t, a_start_costs_two_syncs);
    suite_add_tcase(suite, t);
    return suite_main(suite);
}
