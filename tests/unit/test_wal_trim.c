/*
 * Trimming: which segments go, in which order, which are kept to be used again, and what fails.
 * Simulated machine. Catalogue 37, 43, 57, 66. (What is kept in its second life:
 * test_wal_second_life.c.)
 */
#include "tests/unit/test_wal_trim.h"

/* For every LSN: what is removed are exactly the segments all of whose frames are below it. */
START_TEST(only_segments_below_the_limit_are_trimmed)
{
    rig_new(30);
    rig_settle();
    fill(20);
    struct wal_facts facts;
    ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &facts, &err), LEVEE_OK);
    for (uint64_t lsn = 0; lsn <= 25; lsn++) {
        uint64_t expected = 0;
        size_t in_use = 0;
        for (size_t i = 0; i < facts.segment_count; i++) {
            const struct wal_segment *s = &facts.segments[i];
            in_use += s->first_lsn != 0;
            if (s->first_lsn && !expected && (s->last_lsn >= lsn || s->last_lsn == 20)) {
                expected = s->first_lsn;
            }
        }
        ck_assert_uint_ge(in_use, 5);
        wal_trim(rig.wal, lsn);
        wal_trim(rig.wal, lsn / 2); /* never back */
        rig_settle();
        ck_assert_uint_eq(first_on_disk(), expected);
    }
    wal_facts_release(&facts);
    ck_assert_uint_eq(files_on_disk(".seg"), 3);
    ck_assert_uint_eq(wal_bytes(rig.wal), bytes_on_disk());
    fill(5);
    rig_end();
}
END_TEST

/* Asked for between a roll and the first group behind it, a trim is made up for afterwards. */
START_TEST(an_early_trim_is_made_up_for)
{
    struct wal_stats stats;

    rig_new(35);
    rig_settle();
    fill(10);
    wal_stats(rig.wal, &stats);
    uint64_t rolls = stats.rolls;
    while (stats.rolls == rolls) {
        rig_send(THIRD);
        do {
            wal_stats(rig.wal, &stats);
        } while (stats.rolls == rolls && io_sim_step(io) && rig.done_count < rig.count);
    }
    ck_assert_uint_lt(rig.done_count, rig.count); /* rolled, and the group is to come */
    size_t before = tape.count;
    wal_trim(rig.wal, rig.count);
    rig_settle();
    ck_assert_uint_eq(rig.done_count, rig.count);
    ck_assert_uint_ge(
        tape_find(before, TAPE_UNLINK, ".seg") + tape_find(before, TAPE_RENAME, ".tmp"), 3);
    ck_assert_uint_eq(first_on_disk(), rig.count);
    rig_end();
}
END_TEST

START_TEST(trimming_goes_oldest_first_and_syncs_once)
{
    rig_new(31);
    rig_settle();
    fill(20);
    size_t before = tape.count;
    wal_trim(rig.wal, 15);
    rig_settle();
    uint64_t last = 0;
    for (size_t i = before; i + 1 < tape.count; i++) {
        uint64_t number;
        char name[48]; /* the first one is of no full size, the others are kept */
        memcpy(name, tape.events[i].name, sizeof name);
        ck_assert_int_eq(tape.events[i].kind, i == before ? TAPE_UNLINK : TAPE_RENAME);
        name[20] = '\0';
        ck_assert(wal_segment_number(name, &number));
        ck_assert_uint_gt(number, last);
        last = number;
    }
    ck_assert_uint_ge(last, 3);
    ck_assert_int_eq(tape.events[tape.count - 1].kind, TAPE_SYNC_DIR);
    before = tape.count;
    wal_trim(rig.wal, 15); /* nothing more to do */
    rig_settle();
    ck_assert_uint_eq(tape.count, before);
    rig_end();
}
END_TEST

START_TEST(a_failed_trim_fails_the_log)
{
    static const struct {
        enum tape_kind kind;
        const char *name;
    } cases[] = {{TAPE_UNLINK, ".seg"}, {TAPE_RENAME, ".seg.tmp"}, {TAPE_SYNC_DIR, "wal"}};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        rig_new(32 + i);
        rig_settle();
        fill(10);
        wal_trim(rig.wal, 8);
        tape_fail(cases[i].kind, cases[i].name, LEVEE_EIO, 0);
        rig_settle();
        ck_assert_int_eq(rig.failures, 1);
        rig_end();
    }
}
END_TEST

/*
 * 36: the log has rolled, but nothing is in the new segment yet; everything in the old ones is
 * below the limit. Whenever the power goes, what is left is a log that knows its LSNs: none is
 * given out twice.
 */
START_TEST(a_trim_never_removes_the_last_durable_group)
{
    int trimmed = 0, steps = 0;

    for (uint64_t step = 1; step < 60; step++) {
        rig_machine(step);
        rig.opt.group_bytes_max = 1;
        ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_OK);
        rig_settle();
        /* Up to where the next frame does not fit any more. */
        struct wal_stats stats;
        do {
            fill(1);
            wal_stats(rig.wal, &stats);
        } while (stats.rolls == 0);
        while (stats.rolls == 1) {
            struct ref_log now = {0};
            rig_read(&now, 2);
            uint64_t room = WAL_SEGMENT_MIN - now.groups[now.group_count - 1].end;
            ref_release(&now);
            if (room < THIRD + 256) {
                break;
            }
            fill(1);
            wal_stats(rig.wal, &stats);
        }
        uint64_t known = wal_durable_lsn(rig.wal);
        struct sim_faults faults = {.seed = step, .crash_at_step = step, .keep_per_mille = 500};
        io_sim_set_faults(io, &faults);
        rig_send(THIRD);
        wal_trim(rig.wal, known + 1);
        rig_settle();
        bool crashed = io_sim_crashed(io);
        io_sim_crash(io);
        rig_close();
        io_sim_power_loss(io);
        struct wal_facts facts;
        ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, known, &facts, &err), LEVEE_OK);
        ck_assert_msg(facts.next_lsn > known, "step %d: the log has forgotten LSN %d", (int)step,
                      (int)known);
        ck_assert(!facts.bad.witnessed);
        trimmed += facts.first_lsn > 1;
        wal_facts_release(&facts);
        rig_end();
        steps++;
        if (!crashed) {
            break;
        }
    }
    ck_assert_int_gt(steps, 5);
    ck_assert_int_gt(trimmed, 0);
}
END_TEST

/* ---- what is kept ---- */

/* P2: as many as the log used since the trim before; fewer when it uses fewer. */
START_TEST(as_many_are_kept_as_a_cycle_uses)
{
    rig_new(50);
    cycle(30);
    cycle(30); /* ten segments each */
    size_t kept = files_on_disk(".tmp");
    ck_assert_uint_ge(kept, 9);
    ck_assert_uint_le(kept, 11);
    uint64_t largest = bytes_on_disk();
    for (int i = 0; i < 6; i++) {
        cycle(30);
        ck_assert_uint_le(bytes_on_disk(), largest + 20 * (uint64_t)BLOCK); /* imprints */
    }
    for (int i = 0; i < 30; i++) {
        cycle(3);
    }
    ck_assert_uint_le(files_on_disk(".tmp"), 2);
    ck_assert_uint_eq(wal_bytes(rig.wal), bytes_on_disk());
    rig_end();
}
END_TEST

/* P3: no more is kept than is free beside it, and nothing when somebody needs the room. */
START_TEST(what_is_kept_is_given_back)
{
    rig_new(51);
    cycle(30);
    ck_assert_uint_ge(files_on_disk(".tmp"), 8);
    wal_give_back(rig.wal);
    wal_give_back(rig.wal);
    rig_settle();
    ck_assert_uint_eq(files_on_disk(".tmp"), 0);
    ck_assert_uint_eq(wal_bytes(rig.wal), bytes_on_disk());
    cycle(30);
    struct sim_faults tight = {.seed = 1};
    wal_give_back(rig.wal);
    rig_settle();
    for (int i = 0; i < 20; i++) {
        rig_send(THIRD);
        rig_settle();
    }
    tight.capacity_bytes = bytes_on_disk() + WAL_SEGMENT_MIN;
    io_sim_set_faults(io, &tight);
    wal_trim(rig.wal, rig.count);
    rig_settle();
    uint64_t free_bytes = 0;
    ck_assert_int_eq(io->ops->free_space(io, WAL_DIR, &free_bytes, &err), LEVEE_OK);
    uint64_t kept = files_on_disk(".tmp");
    ck_assert_uint_ge(kept, 2);
    ck_assert_uint_lt(kept, 5); /* of six: what is not kept is room for the others */
    ck_assert_uint_ge(free_bytes, kept * WAL_SEGMENT_MIN);
    rig_end();
}
END_TEST

/* P1: somebody's hard link to a segment keeps its bytes. */
START_TEST(a_segment_with_another_name_is_left_alone)
{
    rig_new(52);
    fill(8); /* the first one, of no full size, and more than one whole */
    char path[IO_PATH_MAX];
    uint64_t size;
    segment_path(path, 2);
    ck_assert_int_eq(io->ops->link(io, path, "/mine", &err), LEVEE_OK);
    uint8_t *copy = malloc(WAL_SEGMENT_MIN);
    MUST(copy != NULL);
    memcpy(copy, io_sim_bytes(io, "/mine", &size), WAL_SEGMENT_MIN);
    for (int i = 0; i < 10; i++) {
        cycle(6);
    }
    ck_assert_uint_ge(recycled(), 10);
    ck_assert_mem_eq(copy, io_sim_bytes(io, "/mine", &size), WAL_SEGMENT_MIN);
    ck_assert_uint_eq(size, WAL_SEGMENT_MIN);
    free(copy);
    rig_end();
}
END_TEST

/* ---- failures ---- */

/* A kept file that cannot be read or opened, or has no room for its imprint, is none: zeros. */
START_TEST(what_cannot_be_used_again_is_made_of_zeros)
{
    static const struct {
        enum tape_kind kind;
        int code;
    } cases[] = {
        {TAPE_READ, LEVEE_EIO}, {TAPE_OPEN, LEVEE_ENOTFOUND}, {TAPE_WRITE, LEVEE_ENOSPACE}};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        rig_new(60 + i);
        for (int c = 0; c < 3; c++) {
            cycle(6);
        }
        uint64_t before = recycled();
        size_t kept = files_on_disk(".tmp");
        ck_assert_uint_ge(kept, 1);
        tape_fail(cases[i].kind, ".seg.tmp", cases[i].code, 0);
        for (int f = 0; f < 3; f++) { /* one roll */
            rig_send(THIRD);
            rig_settle();
        }
        ck_assert_int_eq(tape.fail_kind, TAPE_NONE);
        ck_assert_int_eq(rig.failures, 0);
        ck_assert_str_eq(rig.space, "");
        ck_assert_uint_eq(recycled(), before);
        ck_assert_uint_eq(rig_acknowledged(), rig.count);
        rig_run(1000 * MS);
        ck_assert_uint_eq(files_on_disk(".seg"), 2 + 2);
        rig_end();
    }
}
END_TEST

/* Every other failure of a step is final, as when a spare is made of zeros. */
START_TEST(a_failing_step_of_a_second_life_fails_the_log)
{
    static const struct {
        enum tape_kind kind;
        const char *name;
        size_t skip;
    } cases[] = {{TAPE_WRITE, ".seg.tmp", 0},
                 {TAPE_WRITE, ".seg.tmp", 1},
                 {TAPE_SYNC, ".seg.tmp", 0},
                 {TAPE_RENAME, ".seg", 0},
                 {TAPE_SYNC_DIR, "wal", 0}};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        rig_new(70 + i);
        for (int c = 0; c < 3; c++) {
            cycle(6);
        }
        ck_assert_uint_ge(files_on_disk(".tmp"), 1);
        tape_fail(cases[i].kind, cases[i].name, LEVEE_EIO, cases[i].skip);
        for (int f = 0; f < 3 && !rig.failures; f++) {
            rig_send(THIRD);
            rig_settle();
        }
        ck_assert_int_eq(rig.failures, 1);
        uint64_t durable = wal_durable_lsn(rig.wal);
        rig_close();
        check_disk(durable, durable);
        rig_end();
    }
}
END_TEST

START_TEST(no_memory_for_a_second_life_is_waited_out)
{
    for (uint64_t k = 1; k <= 12; k++) {
        rig_new(80);
        for (int c = 0; c < 3; c++) {
            cycle(6);
        }
        for (int f = 0; f < 2; f++) {
            rig_send(THIRD);
            rig_settle();
        }
        struct sent *s = rig_frame(THIRD);
        mem_fail_at(k);
        int code = wal_append(rig.wal, &s->frame, &err);
        rig_run(50 * MS);
        wal_trim(rig.wal, wal_durable_lsn(rig.wal));
        rig_run(50 * MS);
        mem_fail_at(0);
        ck_assert_int_eq(code, LEVEE_OK);
        rig_run(1000 * MS);
        if (rig.failures == 0) { /* growing the list of segments is no soft failure */
            ck_assert_uint_eq(rig_acknowledged(), rig.count);
        }
        rig_end();
    }
}
END_TEST

/* Somebody reads below the limit all the same, and meets the file between two lives: the error says
 * what happened, and it is no damage. */
static struct wal_facts read_facts;
static struct wal_entry read_entry;

static int read_late(struct io_file *f, void *buf, size_t len, uint64_t offset, size_t *ret_got,
                     struct levee_error *e)
{
    tape.ops.pread = tape_pread; /* the file is open; now the segment is trimmed and used again */
    cycle(9);
    cycle(9);
    return tape_pread(f, buf, len, offset, ret_got, e);
}

START_TEST(a_late_reader_is_told_that_the_frame_was_trimmed)
{
    struct buf buf = {0};

    rig_new(90);
    fill(8);
    ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &read_facts, &err), LEVEE_OK);
    size_t i = 0;
    while (read_facts.segments[read_facts.entries[i].segment].number != 2) {
        i++;
    }
    read_entry = read_facts.entries[i];
    ck_assert_int_eq(wal_read_entry(io, WAL_DIR, &read_facts, &read_entry, &buf, &err), LEVEE_OK);
    tape.ops.pread = read_late;
    ck_assert_int_eq(wal_read_entry(io, WAL_DIR, &read_facts, &read_entry, &buf, &err),
                     LEVEE_EWAL_GAP);
    ck_assert_ptr_nonnull(strstr(err.what, "trimmed"));
    buf_release(&buf);
    wal_facts_release(&read_facts);
    rig_end();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wal_trim");
    TCase *t = tcase_create("trim");

    tcase_add_test(t, only_segments_below_the_limit_are_trimmed);
    tcase_add_test(t, an_early_trim_is_made_up_for);
    tcase_add_test(t, trimming_goes_oldest_first_and_syncs_once);
    tcase_add_test(t, a_failed_trim_fails_the_log);
    tcase_add_test(t, a_trim_never_removes_the_last_durable_group);
    suite_add_tcase(suite, t);
    t = tcase_create("kept");
    tcase_add_test(t, as_many_are_kept_as_a_cycle_uses);
    tcase_add_test(t, what_is_kept_is_given_back);
    tcase_add_test(t, a_segment_with_another_name_is_left_alone);
    suite_add_tcase(suite, t);
    t = tcase_create("failures");
    tcase_add_test(t, what_cannot_be_used_again_is_made_of_zeros);
    tcase_add_test(t, a_failing_step_of_a_second_life_fails_the_log);
    tcase_add_test(t, no_memory_for_a_second_life_is_waited_out);
    tcase_add_test(t, a_late_reader_is_told_that_the_frame_was_trimmed);
    suite_add_tcase(suite, t);
    return suite_main(suite);
}
