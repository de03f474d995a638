/*
 * The helper lane: spares made ahead, a full disk that is waited out, and trimming. Simulated
 * machine; catalogue 66 (a full disk), 36 (an unlink survives a power loss that what replaces
 * the file does not), 43 (a directory sync fails).
 */
#include "tests/unit/test_wal_rig.h"

static struct ref_log r;

/* Room for n segments of the smallest size and `more` bytes. */
static void set_disk(uint64_t n, uint64_t more)
{
    struct sim_faults faults = {.seed = 1, .capacity_bytes = n * WAL_SEGMENT_MIN + more};

    io_sim_set_faults(io, &faults);
}

static size_t segments_on_disk(void)
{
    struct io_list list = {0};
    uint64_t number;
    size_t n = 0;

    ck_assert_int_eq(io->ops->list(io, WAL_DIR, &list, &err), LEVEE_OK);
    for (size_t i = 0; i < list.count; i++) {
        ck_assert(!io_is_temp(list.items[i].name));
        n += wal_segment_number(list.items[i].name, &number);
    }
    io_list_free(&list);
    return n;
}

/* ---- spares ---- */

START_TEST(as_many_spares_as_asked_for_are_kept)
{
    for (uint32_t spares = 0; spares <= 4; spares++) {
        rig_machine(1);
        rig.opt.spares = spares;
        ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_OK);
        rig_settle();
        ck_assert_uint_eq(segments_on_disk(), 1 + (spares ? spares : 2));
        rig_send_many(14, 9000); /* into the second segment */
        rig_settle();
        ck_assert_uint_eq(rig_acknowledged(), 14);
        struct wal_stats stats;
        wal_stats(rig.wal, &stats);
        ck_assert_uint_ge(stats.rolls, 1);
        ck_assert_uint_eq(segments_on_disk(), stats.segments + (spares ? spares : 2));
        rig_end();
    }
}
END_TEST

/* W5: a segment is written to only after it was synced, named, and its name synced. */
START_TEST(spares_are_durable_before_they_are_used)
{
    rig_new(2);
    rig_send_many(60, 9000);
    rig_settle();
    ck_assert_uint_eq(rig_acknowledged(), 60);
    int used = 0;
    for (size_t i = 0; i < tape.count; i++) {
        const struct tape_event *w = &tape.events[i];
        if (w->kind != TAPE_WRITE || !tape_matches(w->name, ".seg")) {
            continue;
        }
        size_t renamed = 0;
        while (tape.events[renamed].kind != TAPE_RENAME ||
               strcmp(tape.events[renamed].name, w->name) != 0) {
            MUST(++renamed < i);
        }
        size_t dir = renamed;
        while (tape.events[dir].kind != TAPE_SYNC_DIR) {
            MUST(++dir < i);
        }
        char temp[32];
        (void)snprintf(temp, sizeof temp, "%s" IO_TEMP_SUFFIX, w->name);
        size_t last_write = renamed, sync = renamed;
        while (tape.events[sync].kind != TAPE_SYNC || strcmp(tape.events[sync].name, temp) != 0) {
            MUST(sync-- > 0);
        }
        while (tape.events[last_write].kind != TAPE_WRITE ||
               strcmp(tape.events[last_write].name, temp) != 0) {
            MUST(last_write-- > 0);
        }
        MUST(last_write < sync);
        used++;
    }
    ck_assert_int_gt(used, 3);
    rig_end();
}
END_TEST

/* ---- a full disk ---- */

START_TEST(a_full_disk_is_waited_out)
{
    rig_machine(3);
    set_disk(3, 16384); /* the first segment is a little larger than the others */
    rig.opt.spares = 1;
    ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_OK);
    rig_settle();
    ck_assert_str_eq(rig.space, "");
    rig_send_many(14, 9000); /* takes the spare; there is no room for another one */
    rig_run(50 * MS);
    ck_assert_uint_eq(rig_acknowledged(), 14);
    ck_assert_str_eq(rig.space, "-");
    rig_send_many(10, 9000); /* more than the segment holds: these wait */
    rig_run(5000 * MS);
    size_t before = rig_acknowledged();
    ck_assert_uint_lt(before, 24);
    ck_assert_str_eq(rig.space, "-"); /* told once */
    ck_assert_int_eq(rig.failures, 0);
    set_disk(5, 16384);
    rig_run(200 * MS);
    ck_assert_uint_eq(rig_acknowledged(), 24);
    ck_assert_str_eq(rig.space, "-+");
    rig_close();
    rig_read(&r, 100); /* every try took a number */
    rig_same(&r, 24);
    ref_release(&r);
    rig_end();
}
END_TEST

/* Closing on a full disk: what has no room is not durable, and its owner is told. */
START_TEST(closing_on_a_full_disk_ends)
{
    rig_machine(4);
    set_disk(2, 16384);
    ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_OK);
    rig_send_many(20, 9000);
    rig_run(1000 * MS);
    size_t before = rig_acknowledged();
    ck_assert_uint_gt(before, 5);
    ck_assert_uint_lt(before, 20);
    rig_close();
    ck_assert_uint_eq(rig_acknowledged(), before);
    ck_assert_int_eq(rig.failures, 0);
    ck_assert_int_eq(rig.sent[19].code, LEVEE_EWAL_FAILED);
    rig_end();
}
END_TEST

/* The idle seal waits for room like everything else, and comes when there is some. */
START_TEST(an_idle_seal_waits_for_room)
{
    rig_machine(5);
    rig.opt.spares = 1;
    set_disk(2, 0); /* the first segment, which is larger, and nothing else */
    ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_OK);
    rig_settle();
    for (int i = 0; i < 16; i++) {
        rig_send(BLOCK - 64 - 96 - 64);
        rig_settle();
    }
    ck_assert_uint_eq(rig_acknowledged(), 16);
    rig_run(3500 * MS);
    ck_assert_uint_eq(wal_witnessed_lsn(rig.wal), 15);
    set_disk(4, 0);
    rig_run(1200 * MS);
    ck_assert_uint_eq(wal_witnessed_lsn(rig.wal), 16);
    ck_assert_str_eq(rig.space, "-+");
    rig_end();
}
END_TEST

/* ---- failures ---- */

/* 43, and every other step of making a spare, is final. */
START_TEST(a_spare_that_cannot_be_made_fails_the_log)
{
    static const struct {
        enum tape_kind kind;
        const char *name;
    } cases[] = {{TAPE_CREATE, ".tmp"},
                 {TAPE_WRITE, ".tmp"},
                 {TAPE_SYNC, ".tmp"},
                 {TAPE_RENAME, ".seg"},
                 {TAPE_SYNC_DIR, "wal"}};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        rig_new(10 + i);
        tape_fail(cases[i].kind, cases[i].name, LEVEE_EIO, 0);
        rig_settle();
        ck_assert_int_eq(rig.failures, 1);
        struct sent *s = rig_frame(1);
        ck_assert_int_eq(wal_append(rig.wal, &s->frame, &err), LEVEE_EWAL_FAILED);
        free(s->payload);
        rig.count--;
        rig_end();
    }
}
END_TEST

/* Frames wait for a segment that cannot be made: they are told, in order, on the log lane. */
START_TEST(a_failing_helper_leaves_no_frame_waiting)
{
    rig_machine(15);
    set_disk(2, 16384);
    ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_OK);
    rig_send_many(20, 9000);
    rig_run(1000 * MS);
    size_t before = rig_acknowledged();
    ck_assert_uint_lt(before, 20);
    tape_fail(TAPE_CREATE, ".tmp", LEVEE_EIO, 0);
    rig_run(1000 * MS);
    ck_assert_int_eq(rig.failures, 1);
    ck_assert_uint_eq(rig.done_count, 20);
    ck_assert_uint_eq(rig_acknowledged(), before);
    rig_end();
}
END_TEST

START_TEST(no_memory_for_a_spare_is_waited_out)
{
    for (uint64_t k = 1; k <= 5; k++) {
        rig_new(20);
        mem_fail_at(k);
        rig_run(50 * MS);
        mem_fail_at(0);
        rig_run(1000 * MS);
        ck_assert_int_eq(rig.failures, 0);
        ck_assert_uint_eq(segments_on_disk(), 3);
        rig_end();
    }
}
END_TEST

/* ---- trimming ---- */

/* Three frames of this length fill a segment. */
#define THIRD 15000

static void fill(size_t frames)
{
    for (size_t i = 0; i < frames; i++) {
        rig_send(THIRD);
        rig_settle();
    }
    ck_assert_uint_eq(rig_acknowledged(), rig.count);
}

/* The lowest LSN still on disk. */
static uint64_t first_on_disk(void)
{
    struct wal_facts facts;

    ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &facts, &err), LEVEE_OK);
    ck_assert_int_eq(facts.bad.kind, WAL_BAD_NONE);
    ck_assert_uint_eq(facts.next_lsn, rig.count + 1);
    uint64_t first = facts.first_lsn;
    wal_facts_release(&facts);
    return first;
}

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
    ck_assert_uint_eq(segments_on_disk(), 3);
    ck_assert_uint_eq(wal_bytes(rig.wal), 3 * WAL_SEGMENT_MIN);
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
    ck_assert_uint_ge(tape_find(before, TAPE_UNLINK, ".seg"), 3);
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
        ck_assert_int_eq(tape.events[i].kind, TAPE_UNLINK);
        ck_assert(wal_segment_number(tape.events[i].name, &number));
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
    } cases[] = {{TAPE_UNLINK, ".seg"}, {TAPE_SYNC_DIR, "wal"}};

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

int main(void)
{
    Suite *suite = suite_create("wal_spares");
    TCase *t = tcase_create("spares");

    tcase_add_test(t, as_many_spares_as_asked_for_are_kept);
    tcase_add_test(t, spares_are_durable_before_they_are_used);
    tcase_add_test(t, a_full_disk_is_waited_out);
    tcase_add_test(t, closing_on_a_full_disk_ends);
    tcase_add_test(t, an_idle_seal_waits_for_room);
    tcase_add_test(t, a_spare_that_cannot_be_made_fails_the_log);
    tcase_add_test(t, a_failing_helper_leaves_no_frame_waiting);
    tcase_add_test(t, no_memory_for_a_spare_is_waited_out);
    suite_add_tcase(suite, t);
    t = tcase_create("trim");
    tcase_add_test(t, only_segments_below_the_limit_are_trimmed);
    tcase_add_test(t, an_early_trim_is_made_up_for);
    tcase_add_test(t, trimming_goes_oldest_first_and_syncs_once);
    tcase_add_test(t, a_failed_trim_fails_the_log);
    tcase_add_test(t, a_trim_never_removes_the_last_durable_group);
    suite_add_tcase(suite, t);
    return suite_main(suite);
}
