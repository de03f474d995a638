/*
 * The helper lane: spares made ahead of zeros, and a full disk that is waited out. Simulated
 * machine; catalogue 66 (a full disk), 43 (a directory sync fails). Spares of trimmed segments are
 * in test_wal_trim.c.
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

/* At a close both lanes may be making one, and the later number may be ready first. Numbers are the
 * order of the log, so the earlier one is passed over then. */
START_TEST(a_spare_of_a_lower_number_is_passed_over)
{
    rig_new(3);
    rig_settle();
    struct link *first = fifo_pop(&rig.wal->spares);
    fifo_push(&rig.wal->spares, first);
    rig_send_many(60, 9000);
    rig_settle();
    rig_run(1000 * MS);
    ck_assert_uint_eq(rig_acknowledged(), 60);
    rig_close();
    struct wal_facts facts;
    ck_assert_int_eq(wal_scan(io, WAL_DIR, &ref_context, 0, &facts, &err), LEVEE_OK);
    ck_assert_int_eq(facts.bad.kind, WAL_BAD_NONE);
    ck_assert_uint_eq(facts.entry_count, 60);
    wal_facts_release(&facts);
    ck_assert_int_eq(rig_recover(&err), LEVEE_OK);
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

int main(void)
{
    Suite *suite = suite_create("wal_spares");
    TCase *t = tcase_create("spares");

    tcase_add_test(t, as_many_spares_as_asked_for_are_kept);
    tcase_add_test(t, spares_are_durable_before_they_are_used);
    tcase_add_test(t, a_spare_of_a_lower_number_is_passed_over);
    tcase_add_test(t, a_full_disk_is_waited_out);
    tcase_add_test(t, closing_on_a_full_disk_ends);
    tcase_add_test(t, an_idle_seal_waits_for_room);
    tcase_add_test(t, a_spare_that_cannot_be_made_fails_the_log);
    tcase_add_test(t, a_failing_helper_leaves_no_frame_waiting);
    tcase_add_test(t, no_memory_for_a_spare_is_waited_out);
    suite_add_tcase(suite, t);
    return suite_main(suite);
}
