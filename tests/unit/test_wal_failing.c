/*
 * W4: the first failed write or sync is final, and so is everything else that fails, but for a full
 * disk under a spare. Nothing is acknowledged or written afterwards, every frame is called back,
 * and nothing stays open. Catalogue 38, 40, 47 on the simulated machine; process death where it
 * crashes.
 */
#include "tests/unit/test_wal_rig.h"

/* ---- failing ---- */

/* Nothing is acknowledged any more, nothing is written any more, whatever happens afterwards. */
static void is_dead(size_t acknowledged)
{
    uint64_t durable = wal_durable_lsn(rig.wal);
    size_t before = tape.count;

    ck_assert_int_eq(rig.failures, 1);
    ck_assert_int_eq(rig.failure.code, LEVEE_EWAL_FAILED);
    ck_assert_ptr_nonnull(strstr(rig.failure.what, "made to fail"));
    struct sent *late = rig_frame(10);
    ck_assert_int_eq(wal_append(rig.wal, &late->frame, &err), LEVEE_EWAL_FAILED);
    ck_assert_ptr_nonnull(strstr(err.what, "made to fail"));
    free(late->payload); /* no done will come for it */
    rig.count--;
    wal_kick(rig.wal);
    wal_trim(rig.wal, UINT64_MAX);
    rig_run(5000 * MS);
    rig_close();
    ck_assert_int_eq(rig.failures, 1);
    ck_assert_uint_eq(rig_acknowledged(), acknowledged);
    ck_assert_uint_eq(durable, acknowledged);
    for (size_t i = before; i < tape.count; i++) {
        ck_assert_int_ne(tape.events[i].kind, TAPE_WRITE);
        ck_assert_int_ne(tape.events[i].kind, TAPE_SYNC);
        ck_assert_int_ne(tape.events[i].kind, TAPE_UNLINK);
    }
}

/* 38, 40: of a sync, also with ENOSPC; of a write; of the idle seal. W4. */
START_TEST(a_failed_write_or_sync_is_final)
{
    static const struct {
        enum tape_kind kind;
        int code;
    } cases[] = {{TAPE_SYNC, LEVEE_EIO},       {TAPE_SYNC, LEVEE_ENOSPACE},
                 {TAPE_SYNC, LEVEE_ENOMEM},    {TAPE_WRITE, LEVEE_EIO},
                 {TAPE_WRITE, LEVEE_ENOSPACE}, {TAPE_WRITE, LEVEE_EACCESS}};

    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        rig_new(20 + i);
        rig_settle();
        rig_send_many(3, 100);
        rig_settle();
        rig_send_many(3, 100);
        tape_fail(cases[i].kind, ".seg", cases[i].code, 0);
        rig_settle();
        ck_assert_uint_eq(rig.done_count, rig.count);
        is_dead(3);
        rig_end();
    }
}
END_TEST

START_TEST(a_failed_idle_seal_is_final)
{
    rig_new(30);
    rig_settle();
    rig_send_many(3, 100);
    rig_settle();
    tape_fail(TAPE_SYNC, ".seg", LEVEE_EIO, 0);
    rig_run(1000 * MS);
    is_dead(3);
    rig_end();
}
END_TEST

/* A failing group that follows a roll, and frames that wait for their group meanwhile. */
START_TEST(a_failure_reaches_everything_that_is_queued)
{
    rig_machine(31);
    rig.opt.group_bytes_max = 1;
    ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_OK);
    rig_settle();
    rig_send_many(40, 5000);
    tape_fail(TAPE_SYNC, ".seg", LEVEE_EIO, 14);
    rig_run(10 * MS);
    ck_assert_uint_eq(rig.done_count, 40);
    for (size_t i = 0; i < rig.count; i++) { /* a prefix */
        ck_assert_int_eq(rig.sent[i].code, i < 14 ? LEVEE_OK : LEVEE_EWAL_FAILED);
    }
    is_dead(14);
    rig_check_order();
    rig_end();
}
END_TEST

/* A group of three writes: behind the one that failed there is none, nor a sync. */
START_TEST(a_group_of_several_writes_ends_with_the_first_that_fails)
{
    for (size_t skip = 0; skip < 3; skip++) {
        rig_machine(33);
        rig.opt.segment_bytes = 1u << 20;
        ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_OK);
        rig_settle();
        size_t before = tape.count;
        rig_send_many(1000, 16);
        tape_fail(TAPE_WRITE, ".seg", LEVEE_EIO, skip);
        rig_settle();
        ck_assert_uint_eq(tape_find(before, TAPE_WRITE, ".seg"), skip + 1);
        ck_assert_uint_eq(tape_find(before, TAPE_SYNC, ".seg"), 0);
        ck_assert_uint_eq(rig.done_count, 1000);
        is_dead(0);
        rig_end();
    }
}
END_TEST

/* A machine that is gone calls nobody back, but closing does. */
START_TEST(a_crash_acknowledges_nothing)
{
    rig_new(32);
    rig_settle();
    rig_send_many(3, 100);
    io_sim_crash(io);
    rig_run(10 * MS);
    ck_assert_uint_eq(rig.done_count, 0);
    rig_close();
    ck_assert_uint_eq(rig_acknowledged(), 0);
    rig_end();
}
END_TEST

/* The list of segments cannot grow when the log rolls: final like any other failure. */
START_TEST(no_memory_for_a_roll_is_final)
{
    bool hit = false;

    for (uint64_t k = 1; k < 8 && !hit; k++) {
        struct wal_stats stats;
        rig_new(50);
        rig_settle();
        do { /* until the list is full: it grows with the next roll */
            rig_send(40000);
            rig_settle();
            wal_stats(rig.wal, &stats);
        } while (stats.segments < 8);
        size_t before = rig_acknowledged();
        rig_send(40000);
        mem_fail_at(k);
        rig_settle();
        mem_fail_at(0);
        hit = rig.failures == 1;
        if (hit) {
            ck_assert_uint_eq(rig.done_count, rig.count);
            ck_assert_uint_eq(rig_acknowledged(), before);
            ck_assert_ptr_nonnull(strstr(rig.failure.what, "log: cannot allocate"));
        }
        rig_end();
    }
    ck_assert(hit);
}
END_TEST

/* Closing needs a segment for what is queued, and cannot make it. */
START_TEST(a_failure_while_closing_is_told)
{
    struct sim_faults full = {.seed = 1, .capacity_bytes = 2 * WAL_SEGMENT_MIN + 16384};

    rig_machine(51);
    io_sim_set_faults(io, &full);
    ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_OK);
    rig_send_many(20, 9000);
    rig_run(100 * MS);
    size_t before = rig_acknowledged();
    ck_assert_uint_lt(before, 20);
    tape_fail(TAPE_CREATE, ".tmp", LEVEE_EIO, 0);
    rig_close();
    ck_assert_int_eq(rig.failures, 1);
    ck_assert_uint_eq(rig_acknowledged(), before);
    rig_end();
}
END_TEST

static int late_code;

static void done_appends(struct wal_frame *frame, int code)
{
    static struct sent late;

    rig_done(frame, code);
    late.frame = (struct wal_frame){.type = WAL_BLOCK, .done = rig_done};
    late_code = wal_append(rig.wal, &late.frame, &err);
}

START_TEST(a_log_that_is_closed_takes_nothing)
{
    rig_new(52);
    rig_settle();
    rig_send(10)->frame.done = done_appends;
    io_sim_crash(io); /* so that the last frames are called back at the very end */
    rig_close();
    ck_assert_int_eq(late_code, LEVEE_ESTOPPED);
    rig_end();
}
END_TEST

/* ---- opening ---- */

START_TEST(a_failed_open_leaves_nothing_open)
{
    static const enum tape_kind kinds[] = {TAPE_CREATE, TAPE_WRITE,    TAPE_SYNC,
                                           TAPE_RENAME, TAPE_SYNC_DIR, TAPE_OPEN};
    uint64_t k = 0;
    int code;

    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        rig_machine(41);
        tape_fail(kinds[i], "", LEVEE_EIO, 0);
        ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_EIO);
        ck_assert_ptr_null(rig.wal);
        ck_assert_int_eq(rig.failures, 0);
        rig_end();
    }
    do {
        rig_machine(42);
        mem_fail_at(++k);
        code = wal_open(io, &rig.opt, NULL, &rig.wal, &err);
        mem_fail_at(0);
        ck_assert(code == LEVEE_OK || code == LEVEE_ENOMEM);
        rig_end();
    } while (code != LEVEE_OK);
    ck_assert_uint_gt(k, 10);
}
END_TEST

START_TEST(a_log_without_a_segment_is_refused)
{
    struct wal_facts facts = {.first_lsn = 1, .next_lsn = 1};

    rig_machine(43);
    ck_assert_int_eq(wal_open(io, &rig.opt, &facts, &rig.wal, &err), LEVEE_EWAL_GAP);
    rig_end();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wal_failing");
    TCase *t = tcase_create("failing");

    tcase_add_test(t, a_failed_write_or_sync_is_final);
    tcase_add_test(t, a_failed_idle_seal_is_final);
    tcase_add_test(t, a_failure_reaches_everything_that_is_queued);
    tcase_add_test(t, a_group_of_several_writes_ends_with_the_first_that_fails);
    tcase_add_test(t, a_crash_acknowledges_nothing);
    tcase_add_test(t, no_memory_for_a_roll_is_final);
    tcase_add_test(t, a_failure_while_closing_is_told);
    tcase_add_test(t, a_log_that_is_closed_takes_nothing);
    suite_add_tcase(suite, t);
    t = tcase_create("opening");
    tcase_add_test(t, a_failed_open_leaves_nothing_open);
    tcase_add_test(t, a_log_without_a_segment_is_refused);
    suite_add_tcase(suite, t);
    return suite_main(suite);
}
