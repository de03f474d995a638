/*
 * Recovery's first durable act: the verified frames above the witness, written again into a new
 * segment, and the cleaning behind it (4d.2). Chains of whole lives are in test_wal_lives.c; here
 * every call may fail, the disk be full and memory end. The loss is damage at rest.
 */
#include "tests/unit/test_wal_rig.h"

#define SIZE (64u << 10)

static struct ref_log r;
static struct wal_facts facts;

static void scan(void)
{
    wal_facts_release(&facts);
    ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &facts, &err), LEVEE_OK);
}

static int rebuild(uint64_t from)
{
    return wal_rebuild(io, &rig.opt, &facts, from, facts.next_lsn - 1, facts.epoch_max + 1, &err);
}

static bool file_exists(const char *path)
{
    uint64_t size;

    return io_sim_bytes(io, path, &size) != NULL;
}

/* Segment 1 of the reference: LSN 1 to 3, 4 to 6, 7 to 9, and two spares behind. */
static void open_log(void)
{
    uint64_t rng = 3;

    rig_machine(1);
    ref_begin(&r, 1, SIZE, 5);
    for (int g = 0; g < 3; g++) {
        ref_group(&r, 3, 4000, &rng);
    }
    ref_begin(&r, 2, SIZE, 5);
    ref_begin(&r, 3, SIZE, 5);
    put_log(&r);
}

static void close_log(void)
{
    wal_facts_release(&facts);
    ref_release(&r);
    rig_end();
}

/* ---- what is built ---- */

/* The facts after the act are those that a new scan finds. */
static void facts_are_true(void)
{
    struct wal_facts now;

    ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &now, &err), LEVEE_OK);
    ck_assert_uint_eq(now.entry_count, facts.entry_count);
    for (size_t i = 0; i < now.entry_count; i++) {
        const struct wal_entry *a = &now.entries[i], *b = &facts.entries[i];
        MUST(a->lsn == b->lsn && a->offset == b->offset && a->len == b->len && a->seq == b->seq);
        MUST(a->type == b->type && a->flags == b->flags && a->stream == b->stream);
        MUST(now.segments[a->segment].number == facts.segments[b->segment].number);
    }
    ck_assert_uint_eq(now.next_lsn, facts.next_lsn);
    ck_assert_uint_eq(now.epoch_max, facts.epoch_max);
    ck_assert_uint_eq(now.number_max, facts.number_max);
    const struct wal_segment *last = &facts.segments[facts.segment_count - 1];
    const struct wal_segment *found = &now.segments[now.segment_count - 1];
    ck_assert_str_eq(found->name, last->name);
    ck_assert_uint_eq(found->salt, last->salt);
    ck_assert_uint_eq(found->size, last->size);
    ck_assert_uint_eq(found->chain, last->chain);
    ck_assert_uint_eq(found->first_lsn, last->first_lsn);
    ck_assert_uint_eq(found->last_lsn, last->last_lsn);
    ck_assert_uint_eq(found->end_offset, last->end_offset);
    wal_facts_release(&now);
}

START_TEST(the_frames_above_the_witness_are_written_again)
{
    for (uint64_t from = 1; from <= 10; from += 3) {
        open_log();
        scan();
        ck_assert_uint_eq(facts.witnessed_lsn, 6);
        ck_assert_int_eq(rebuild(from), LEVEE_OK);
        facts_are_true();
        struct ref_log built = {.next_lsn = from};
        uint64_t size;
        const uint8_t *bytes = segment_bytes(4, &size);
        uint64_t end = ref_read(&built, bytes, size, 4);
        ck_assert_int_eq(built.group_count, 1);
        ck_assert_uint_eq(built.groups[0].last, 9);
        ck_assert_uint_eq(size, end + SIZE); /* room for a small segment beside it */
        ck_assert_uint_eq(built.segments[0].epoch, 6);
        const uint8_t *start = bytes + 8192 + 64;
        uint64_t before = from == 1 ? 0 : r.groups[(from - 1) / 3 - 1].end;
        ck_assert_uint_eq(ref_get(start + 16, 8), from > 1); /* the predecessor, if it keeps any */
        if (from > 1 && from < 10) {
            ck_assert_uint_ge(ref_get(start + 24, 8), before);
        }
        ck_assert_uint_eq(ref_get(start + 32, 8), from - 1);
        for (int i = 0; i < built.frame_count; i++) {
            const struct ref_frame *f = &built.frames[i];
            ck_assert_uint_eq(f->durable, from - 1);
            for (int k = 0; ref_is_data(f) && k < r.frame_count; k++) {
                const struct ref_frame *o = &r.frames[k];
                if (ref_is_data(o) && o->lsn == f->lsn) {
                    MUST(o->type == f->type && o->flags == f->flags && o->seq == f->seq);
                    MUST(o->stream == f->stream && o->len == f->len);
                    MUST(memcmp(r.segments[0].bytes + o->offset + 64, bytes + f->offset + 64,
                                f->len) == 0);
                }
            }
        }
        ref_release(&built);
        close_log();
    }
}
END_TEST

/* What is behind keep_to is not taken along. */
START_TEST(no_more_than_what_is_kept_is_written_again)
{
    open_log();
    scan();
    ck_assert_int_eq(wal_rebuild(io, &rig.opt, &facts, 4, 7, 9, &err), LEVEE_OK);
    facts_are_true();
    ck_assert_uint_eq(facts.next_lsn, 8);
    ck_assert_uint_eq(facts.epoch_max, 9);
    close_log();
}
END_TEST

START_TEST(the_new_segment_has_room_for_any_frames)
{
    uint64_t rng = 9;

    rig_machine(2);
    rig.opt.segment_bytes = 1u << 20;
    ref_begin(&r, 1, 1u << 20, 1);
    ref_group_begin(&r);
    for (int i = 0; i < 15; i++) {
        ref_data(&r, 60000, &rng);
    }
    ref_group_end(&r);
    put_log(&r);
    scan();
    ck_assert_int_eq(rebuild(1), LEVEE_OK);
    facts_are_true();
    ck_assert_uint_eq(facts.segments[1].size, facts.segments[1].end_offset + (256u << 10));
    close_log();
}
END_TEST

/* ---- cleaning ---- */

START_TEST(void_bytes_are_given_back)
{
    uint64_t size;

    open_log();
    put_file("0000000000000009.seg.tmp", "junk", 4);
    ck_assert_int_eq(io->ops->mkdir(io, WAL_DIR "/d.tmp", &err), LEVEE_OK);
    scan();
    ck_assert_int_eq(rebuild(7), LEVEE_OK);
    ck_assert_int_eq(wal_clean(io, &rig.opt, &facts, &err), LEVEE_OK);
    (void)segment_bytes(1, &size);
    ck_assert_uint_eq(size, r.groups[2].offset); /* where LSN 7 began */
    ck_assert(!segment_exists(2));               /* the spares of the life before */
    ck_assert(!segment_exists(3));
    ck_assert(!file_exists(WAL_DIR "/0000000000000009.seg.tmp"));
    struct io_stat st;
    ck_assert_int_eq(io->ops->stat(io, WAL_DIR "/d.tmp", &st, &err), LEVEE_OK);
    ck_assert_int_eq(st.kind, IO_DIR); /* not ours */
    ck_assert_int_eq(io->ops->stat(io, WAL_DIR "/quarantine", &st, &err), LEVEE_OK);
    ck_assert_int_eq(st.kind, IO_NONE); /* everything verified */
    facts_are_true();
    size_t before = tape.count;
    ck_assert_int_eq(io->ops->unlink(io, WAL_DIR "/d.tmp", NULL) == LEVEE_OK, false);
    scan();
    ck_assert_int_eq(rebuild(10), LEVEE_OK);
    ck_assert_int_eq(wal_clean(io, &rig.opt, &facts, &err), LEVEE_OK);
    ck_assert(segment_exists(4)); /* it keeps 7 to 9, and loses its empty end */
    (void)segment_bytes(4, &size);
    ck_assert_uint_eq(size, facts.segments[1].end_offset);
    ck_assert_uint_gt(tape.count, before);
    close_log();
}
END_TEST

START_TEST(a_segment_of_which_nothing_is_left_is_removed)
{
    open_log();
    scan();
    ck_assert_int_eq(rebuild(1), LEVEE_OK);
    ck_assert_int_eq(wal_clean(io, &rig.opt, &facts, &err), LEVEE_OK);
    ck_assert(!segment_exists(1));
    ck_assert(segment_exists(4));
    facts_are_true();
    close_log();
}
END_TEST

/* A torn tail, a segment without a readable beginning, one without a header: all bytes that did not
 * verify are kept aside. */
START_TEST(what_did_not_verify_is_put_aside)
{
    uint64_t size, rng = 8, aside;
    char name[IO_PATH_MAX];

    open_log();
    r.segment_count = 2; /* the first spare came into use */
    ref_group(&r, 2, 500, &rng);
    r.segment_count = 3;
    put_log(&r);
    uint64_t torn = r.groups[2].offset;
    segment_bytes(1, &size)[torn + 200] ^= 1; /* LSN 7 to 9 */
    segment_bytes(2, &size)[8192 + 20] ^= 1;  /* SEGMENT_START, and with it its word as a witness */
    memset(segment_bytes(3, &size), 0xee, 2 * BLOCK); /* both headers */
    memset(segment_bytes(1, &size) + torn + BLOCK, 0, BLOCK);
    /* Segment 2 would be a witness: its frames are made to look like an unwitnessed rest. */
    memset(segment_bytes(2, &size) + 8192 + 104, 0xdd, 1000);
    memset(segment_bytes(2, &size) + 8192 + 1104, 0, BLOCK - 1104);
    scan();
    ck_assert_uint_eq(facts.bad_count, 1);
    ck_assert(!facts.bad.witnessed);
    ck_assert_uint_eq(facts.next_lsn, 7);
    static uint8_t expected[3 * BLOCK];
    uint64_t used = facts.segments[0].used_offset;
    memcpy(expected, segment_bytes(1, &size) + torn, used - torn);
    ck_assert_int_eq(rebuild(4), LEVEE_OK);
    ck_assert_int_eq(wal_clean(io, &rig.opt, &facts, &err), LEVEE_OK);
    (void)snprintf(name, sizeof name, WAL_DIR "/quarantine/0000000000000001.seg.%u.torn",
                   (unsigned)r.groups[1].offset);
    const uint8_t *copy = io_sim_bytes(io, name, &aside);
    ck_assert_ptr_nonnull(copy);
    uint64_t skip = torn - r.groups[1].offset; /* what verified, and is void now, is in front */
    ck_assert_uint_eq(aside, used - r.groups[1].offset);
    ck_assert_mem_eq(copy + skip, expected, used - torn);
    copy = io_sim_bytes(io, WAL_DIR "/quarantine/0000000000000002.seg.8192.torn", &aside);
    ck_assert_ptr_nonnull(copy);
    ck_assert_uint_eq(aside, BLOCK);
    ck_assert_uint_eq(copy[104], 0xdd);
    copy = io_sim_bytes(io, WAL_DIR "/quarantine/0000000000000003.seg", &aside);
    ck_assert_ptr_nonnull(copy);
    ck_assert_uint_eq(aside, SIZE);
    ck_assert(!segment_exists(2));
    ck_assert(!segment_exists(3));
    facts_are_true();
    close_log();
}
END_TEST

/* A segment whose SEGMENT_START is damaged, below everything that is still needed (R11): a copy is
 * kept all the same. */
START_TEST(damage_that_does_not_matter_is_put_aside_too)
{
    uint64_t size, rng = 2, aside;

    open_log();
    r.segment_count = 2;
    ref_group(&r, 2, 500, &rng);
    r.segment_count = 3;
    put_log(&r);
    uint8_t *bytes = segment_bytes(1, &size);
    bytes[8192 + 70] ^= 1;
    scan();
    ck_assert(facts.bad.witnessed);
    ck_assert_uint_eq(facts.bad.end_lsn, 10);
    static uint8_t expected[SIZE];
    uint64_t used = facts.segments[0].used_offset;
    memcpy(expected, bytes, size);
    ck_assert_uint_eq(used, r.segments[0].at);
    ck_assert_int_eq(rebuild(10), LEVEE_OK);
    ck_assert_int_eq(wal_clean(io, &rig.opt, &facts, &err), LEVEE_OK);
    ck_assert(!segment_exists(1));
    const uint8_t *copy =
        io_sim_bytes(io, WAL_DIR "/quarantine/0000000000000001.seg.8192.torn", &aside);
    ck_assert_ptr_nonnull(copy);
    ck_assert_uint_eq(aside, used - 8192);
    ck_assert_mem_eq(copy, expected + 8192, aside);
    close_log();
}
END_TEST

/* An unreadable block stays a hole in the copy. */
START_TEST(an_unreadable_tail_is_put_aside_as_far_as_it_can_be_read)
{
    uint64_t aside;
    char path[IO_PATH_MAX];

    open_log();
    uint64_t torn = r.groups[2].offset;
    segment_path(path, 1);
    io_sim_bad_range(io, path, torn, 100);
    scan();
    ck_assert_uint_eq(facts.next_lsn, 7);
    ck_assert_uint_gt(facts.segments[0].used_offset, torn);
    ck_assert_int_eq(rebuild(7), LEVEE_OK);
    ck_assert_int_eq(wal_clean(io, &rig.opt, &facts, &err), LEVEE_OK);
    (void)snprintf(path, sizeof path, WAL_DIR "/quarantine/0000000000000001.seg.%u.torn",
                   (unsigned)torn);
    const uint8_t *copy = io_sim_bytes(io, path, &aside);
    ck_assert_ptr_nonnull(copy);
    ck_assert_uint_eq(aside, facts.segments[0].used_offset - torn);
    ck_assert(wal_frame_bytes(0) == 64 && copy[0] == 0);
    ck_assert_mem_eq(copy + BLOCK, r.segments[0].bytes + torn + BLOCK, aside - BLOCK);
    close_log();
}
END_TEST

/* ---- a full disk, and failures ---- */

START_TEST(on_a_full_disk_the_spares_make_room)
{
    struct sim_faults full = {.seed = 1, .capacity_bytes = 4 * SIZE};

    open_log();
    scan();
    io_sim_set_faults(io, &full); /* three segments, and no room for a bit more than a fourth */
    ck_assert_int_eq(rebuild(7), LEVEE_OK);
    ck_assert(!segment_exists(2));
    ck_assert(!segment_exists(3));
    ck_assert_int_eq(wal_clean(io, &rig.opt, &facts, &err), LEVEE_OK);
    facts_are_true();
    close_log();
}
END_TEST

START_TEST(a_disk_that_stays_full_is_an_error_that_changes_nothing_else)
{
    struct sim_faults full = {.seed = 1, .capacity_bytes = SIZE};

    open_log();
    scan();
    io_sim_set_faults(io, &full);
    ck_assert_int_eq(rebuild(7), LEVEE_ENOSPACE);
    ck_assert(!segment_exists(4));
    full.capacity_bytes = 0;
    io_sim_set_faults(io, &full);
    scan();
    ck_assert_uint_eq(facts.entry_count, 9);
    ck_assert_int_eq(rebuild(7), LEVEE_OK);
    facts_are_true();
    close_log();
}
END_TEST

/* Whatever call fails, the error says so and a later recovery finds all frames. */
START_TEST(every_failing_call_is_reported_and_survived)
{
    static const enum tape_kind kinds[] = {TAPE_CREATE, TAPE_WRITE,  TAPE_SYNC, TAPE_TRUNCATE,
                                           TAPE_RENAME, TAPE_UNLINK, TAPE_OPEN, TAPE_SYNC_DIR,
                                           TAPE_READ,   TAPE_STAT};
    int failed = 0;

    for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
        for (size_t skip = 0;; skip++) {
            open_log();
            put_file("x.tmp", "junk", 4);
            uint64_t size;
            uint64_t rng = 1;
            struct ref_segment *s = &r.segments[0];
            r.segment_count = 1; /* a torn group behind LSN 9 */
            ref_group(&r, 2, 500, &rng);
            r.segment_count = 3;
            memcpy(segment_bytes(1, &size) + r.groups[3].offset, s->bytes + r.groups[3].offset,
                   600);
            scan();
            tape_fail(kinds[k], "", LEVEE_EIO, skip);
            int code = rebuild(7);
            if (code == LEVEE_OK) {
                code = wal_clean(io, &rig.opt, &facts, &err);
            }
            bool hit = tape.fail_kind == TAPE_NONE;
            tape.fail_kind = TAPE_NONE;
            /* Looking at the torn bytes is best effort; everything else is not. */
            ck_assert(code == (hit ? LEVEE_EIO : LEVEE_OK) || (hit && kinds[k] == TAPE_READ));
            failed += code != LEVEE_OK;
            scan();
            ck_assert_uint_eq(facts.entry_count, 9);
            ck_assert(!facts.bad.witnessed);
            ck_assert_int_eq(rebuild(facts.next_lsn), LEVEE_OK);
            ck_assert_int_eq(wal_clean(io, &rig.opt, &facts, &err), LEVEE_OK);
            facts_are_true();
            ck_assert_uint_eq(facts.next_lsn, 10);
            close_log();
            if (!hit) {
                break;
            }
        }
    }
    ck_assert_int_gt(failed, 25);
}
END_TEST

START_TEST(no_memory_is_reported_and_survived)
{
    uint64_t k = 0;
    bool done;

    do {
        open_log();
        uint64_t size;
        memset(segment_bytes(1, &size) + r.groups[2].end, 0xcc, 100);
        scan();
        mem_fail_at(++k);
        int code = rebuild(7);
        if (code == LEVEE_OK) {
            code = wal_clean(io, &rig.opt, &facts, &err);
        }
        mem_fail_at(0);
        done = code == LEVEE_OK;
        ck_assert(done || code == LEVEE_ENOMEM);
        scan();
        ck_assert_uint_eq(facts.entry_count, 9);
        close_log();
    } while (!done);
    ck_assert_uint_gt(k, 10);
}
END_TEST

START_TEST(a_frame_that_rots_between_scan_and_rebuild_is_noticed)
{
    uint64_t size;

    open_log();
    scan();
    segment_bytes(1, &size)[facts.entries[7].offset + 64] ^= 1;
    ck_assert_int_eq(rebuild(7), LEVEE_EWAL_CORRUPT);
    ck_assert(!segment_exists(4));
    close_log();
}
END_TEST

START_TEST(a_path_that_is_too_long_is_refused)
{
    static char deep[IO_PATH_MAX];

    open_log();
    scan();
    put_file("x.tmp", "junk", 4);
    memset(deep, 'd', sizeof deep - 1);
    rig.opt.dir = deep;
    ck_assert_int_eq(wal_rebuild(io, &rig.opt, &facts, 10, 9, 6, &err), LEVEE_ELIMIT);
    ck_assert_int_eq(wal_clean(io, &rig.opt, &facts, &err), LEVEE_ELIMIT);
    close_log();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wal_rebuild");
    TCase *t = tcase_create("rebuild");

    tcase_add_test(t, the_frames_above_the_witness_are_written_again);
    tcase_add_test(t, no_more_than_what_is_kept_is_written_again);
    tcase_add_test(t, the_new_segment_has_room_for_any_frames);
    suite_add_tcase(suite, t);
    t = tcase_create("clean");
    tcase_add_test(t, void_bytes_are_given_back);
    tcase_add_test(t, a_segment_of_which_nothing_is_left_is_removed);
    tcase_add_test(t, what_did_not_verify_is_put_aside);
    tcase_add_test(t, damage_that_does_not_matter_is_put_aside_too);
    tcase_add_test(t, an_unreadable_tail_is_put_aside_as_far_as_it_can_be_read);
    suite_add_tcase(suite, t);
    t = tcase_create("failures");
    tcase_add_test(t, on_a_full_disk_the_spares_make_room);
    tcase_add_test(t, a_disk_that_stays_full_is_an_error_that_changes_nothing_else);
    tcase_add_test(t, every_failing_call_is_reported_and_survived);
    tcase_add_test(t, no_memory_is_reported_and_survived);
    tcase_add_test(t, a_frame_that_rots_between_scan_and_rebuild_is_noticed);
    tcase_add_test(t, a_path_that_is_too_long_is_refused);
    suite_add_tcase(suite, t);
    return suite_main(suite);
}
