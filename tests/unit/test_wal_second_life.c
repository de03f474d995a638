/*
 * The second life of a trimmed segment: how it becomes a spare, what a crash at any step of that
 * leaves, and what it costs. Simulated machine. Catalogue 36 (a name survives a power loss that
 * what replaces it does not); both losses of power and of the process.
 */
#include "tests/unit/test_wal_trim.h"

START_TEST(trimmed_segments_become_spares)
{
    rig_new(40);
    for (int i = 0; i < 12; i++) {
        cycle(9);
        check_disk(rig.count, rig.count);
        ck_assert_uint_eq(wal_bytes(rig.wal), bytes_on_disk());
    }
    struct wal_stats stats;
    wal_stats(rig.wal, &stats);
    ck_assert_uint_ge(stats.rolls, 35);
    ck_assert_uint_ge(stats.recycled, stats.rolls - 6); /* zeros only while the log grew */
    rig_check_acknowledgements();
    rig_close();
    check_disk(rig.count, rig.count);
    ck_assert_int_eq(rig_recover(&err), LEVEE_OK); /* the kept ones go at the next start */
    rig_settle();
    ck_assert_uint_eq(files_on_disk(".tmp"), 0);
    rig_end();
}
END_TEST

/* Header and imprint of a spare of a second life, byte by byte, from the README. */
START_TEST(a_second_life_is_as_the_readme_says)
{
    int spares = 0;

    rig_new(43);
    for (int i = 0; i < 4; i++) {
        cycle(9);
    }
    for (uint64_t number = 1; number < 60; number++) {
        uint64_t size = 0;
        uint8_t header[BLOCK];
        const uint8_t *file = segment_exists(number) ? segment_bytes(number, &size) : NULL;
        if (!file || size != WAL_SEGMENT_MIN + BLOCK) {
            continue;
        }
        uint64_t salt = ref_get(file + 48, 8), old = ref_get(file + 64, 8);
        ck_assert_uint_lt(old, number);
        ck_assert(!segment_exists(old));
        ref_segment_header(header, number, salt, WAL_SEGMENT_MIN);
        ref_put(header + 12, 4, 1);
        ref_put(header + 64, 8, old);
        ref_put(header + 4088, 8, hash64(header, 4088, 0));
        ck_assert_mem_eq(file, header, BLOCK);
        ck_assert_mem_eq(file + BLOCK, header, BLOCK);
        uint64_t blank = 0, blocks = WAL_SEGMENT_MIN / BLOCK;
        for (uint64_t b = 2; b < blocks; b++) {
            blank += ref_get(file + WAL_SEGMENT_MIN + 8 * b, 8) ==
                     hash64(file + b * BLOCK, BLOCK, salt ^ (b * BLOCK));
        }
        bool used = ref_get(file + 8192 + 56, 8) == ref_header_hash(file + 8192, salt, 8192);
        ck_assert(used ? blank < blocks - 2 : blank == blocks - 2);
        spares += !used;
        for (uint64_t i = 8 * blocks; i < BLOCK; i++) {
            MUST(file[WAL_SEGMENT_MIN + i] == 0);
        }
    }
    ck_assert_int_eq(spares, 2);
    rig_end();
}
END_TEST

/* P1, W5: the name is durably gone before the first byte is written over; imprint and headers are
 * synced before there is a new name, and that is durable before the log writes. */
START_TEST(a_second_life_goes_step_by_step)
{
    static const struct {
        enum tape_kind kind;
        uint64_t offset, len;
    } steps[] = {{TAPE_WRITE, WAL_SEGMENT_MIN, BLOCK}, /* the imprint */
                 {TAPE_WRITE, 0, 2 * BLOCK},
                 {TAPE_SYNC, 0, 0},
                 {TAPE_RENAME, 0, 0},
                 {TAPE_SYNC_DIR, 0, 0}};
    int lives = 0;

    rig_new(41);
    for (int i = 0; i < 5; i++) {
        cycle(9);
    }
    for (size_t i = 0; i < tape.count; i++) {
        const struct tape_event *w = &tape.events[i];
        if (w->kind != TAPE_WRITE || w->offset != WAL_SEGMENT_MIN) {
            continue; /* nothing but an imprint lies there */
        }
        size_t gone = i;
        while (tape.events[gone].kind != TAPE_RENAME ||
               strcmp(tape.events[gone].name, w->name) != 0) {
            MUST(gone-- > 0);
        }
        size_t durable = gone;
        while (tape.events[durable].kind != TAPE_SYNC_DIR) {
            MUST(++durable < i);
        }
        for (size_t k = gone; k < i; k++) { /* nobody writes to it meanwhile */
            MUST(tape.events[k].kind != TAPE_WRITE || strcmp(tape.events[k].name, w->name) != 0);
        }
        for (size_t k = 0, at = i; k < ARRAY_LEN(steps); k++, at++) {
            while (tape_matches(tape.events[at].name, ".seg") &&
                   tape.events[at].kind != TAPE_RENAME) {
                at++; /* the log lane's own */
            }
            MUST(at < tape.count);
            MUST(tape.events[at].kind == steps[k].kind);
            MUST(tape.events[at].offset == steps[k].offset && tape.events[at].len == steps[k].len);
            MUST(steps[k].kind != TAPE_RENAME || strcmp(tape.events[at].from, w->name) == 0);
        }
        lives++;
    }
    ck_assert_int_ge(lives, 8);
    ck_assert_uint_eq(lives, recycled());
    rig_end();
}
END_TEST

/* One sync and one of the directory, as with zeros; but of the segment's size only the imprint and
 * the headers are written. */
START_TEST(a_second_life_costs_three_blocks)
{
    rig_new(42);
    for (int i = 0; i < 4; i++) {
        cycle(9);
    }
    uint64_t before = recycled(), bytes = counter_get(&io->counts.write_bytes);
    struct wal_stats a, b;
    wal_stats(rig.wal, &a);
    uint64_t syncs = counter_get(&io->counts.syncs), dirs = counter_get(&io->counts.dir_syncs);
    cycle(9);
    wal_stats(rig.wal, &b);
    ck_assert_uint_eq(b.rolls - a.rolls, 3);
    ck_assert_uint_eq(recycled() - before, 3);
    ck_assert_uint_eq(counter_get(&io->counts.write_bytes) - bytes,
                      b.written_bytes - a.written_bytes + 3 * (uint64_t)3 * BLOCK);
    ck_assert_uint_eq(counter_get(&io->counts.syncs) - syncs, 9 + 3);
    ck_assert_uint_eq(counter_get(&io->counts.dir_syncs) - dirs, 3 + 1); /* and the trim's */
    rig_end();
}
END_TEST

/* Whenever the machine stops, and whatever of the unsynced bytes and names survives: nothing above
 * the trim limit is lost, nothing reads as damage, and the log goes on. */
static int crash_at_each_step(uint32_t keep, uint32_t garble, bool power)
{
    int steps = 0;

    for (uint64_t step = 1; step < 400; step++) {
        rig_machine(step);
        rig.opt.spares = 1;
        ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_OK);
        for (int i = 0; i < 4; i++) {
            cycle(6);
        }
        ck_assert_uint_ge(recycled(), 3);
        uint64_t limit = rig.count;
        struct sim_faults faults = {.seed = step * 7 + keep,
                                    .crash_at_step = step,
                                    .keep_per_mille = keep,
                                    .garble_per_mille = garble};
        io_sim_set_faults(io, &faults);
        for (int i = 0; i < 2 && !io_sim_crashed(io); i++) {
            for (size_t n = 0; n < 6 && !io_sim_crashed(io); n++) {
                struct sent *s = rig_frame(THIRD);
                if (wal_append(rig.wal, &s->frame, &err) != LEVEE_OK) {
                    free(s->payload);
                    rig.count--;
                    break;
                }
                rig_settle();
            }
            limit = wal_durable_lsn(rig.wal);
            wal_trim(rig.wal, limit);
            rig_settle();
        }
        bool crashed = io_sim_crashed(io);
        uint64_t durable = wal_durable_lsn(rig.wal);
        if (!crashed) {
            io_sim_crash(io);
        }
        rig_close();
        if (power) {
            io_sim_power_loss(io);
        } else {
            io_sim_kill(io);
        }
        io_sim_set_faults(io, &(struct sim_faults){.seed = step});
        check_disk(limit, durable);
        ck_assert_int_eq(rig_recover(&err), LEVEE_OK);
        rig_settle();
        check_disk(limit, durable);
        rig_end();
        steps++;
        if (!crashed) {
            break;
        }
    }
    return steps;
}

START_TEST(a_power_loss_at_any_step_of_a_second_life)
{
    static const uint32_t keeps[] = {0, 300, 500, 1000};

    for (size_t i = 0; i < ARRAY_LEN(keeps); i++) {
        int steps = crash_at_each_step(keeps[i], (1000 - keeps[i]) / 2, true);
        ck_assert_int_ge(steps, 40);
        ck_assert_int_lt(steps, 399);
    }
}
END_TEST

START_TEST(a_kill_at_any_step_of_a_second_life)
{
    ck_assert_int_ge(crash_at_each_step(0, 0, false), 40);
}
END_TEST

/* The named points are all passed, and a crash at each of them is one of the above. */
static struct {
    enum crash_point at;
    int passed, crashed;
} point;

static void crash_here(enum crash_point p, void *arg)
{
    (void)arg;
    if (p == point.at && ++point.passed == 3 && !io_sim_crashed(io)) {
        io_sim_crash(io);
        point.crashed++;
    }
}

START_TEST(a_crash_at_every_named_point)
{
    static const enum crash_point points[] = {
        CP_WAL_BEFORE_TRIM,       CP_WAL_AFTER_TRIM_ONE,     CP_WAL_AFTER_TRIM,
        CP_RECYCLE_AFTER_IMPRINT, CP_RECYCLE_AFTER_HEADER,   CP_RECYCLE_AFTER_SYNC,
        CP_RECYCLE_AFTER_RENAME,  CP_RECYCLE_AFTER_DIR_SYNC, CP_WAL_AFTER_ROLL};

    for (size_t i = 0; i < ARRAY_LEN(points); i++) {
        for (uint32_t keep = 0; keep <= 1000; keep += 250) {
            rig_machine(keep + i);
            point.at = points[i];
            point.passed = point.crashed = 0;
            io_sim_set_faults(io, &(struct sim_faults){.seed = keep + i, .keep_per_mille = keep});
            io->crash_hook = crash_here;
            ck_assert_int_eq(wal_open(io, &rig.opt, NULL, &rig.wal, &err), LEVEE_OK);
            uint64_t limit = 0;
            for (int c = 0; c < 12 && !point.crashed; c++) {
                for (int n = 0; n < 6 && !point.crashed; n++) {
                    rig_send(THIRD);
                    rig_settle();
                }
                limit = wal_durable_lsn(rig.wal);
                wal_trim(rig.wal, limit);
                rig_settle();
            }
            ck_assert_int_eq(point.crashed, 1);
            uint64_t durable = wal_durable_lsn(rig.wal);
            rig_close();
            if (keep == 250) {
                io_sim_kill(io);
            } else {
                io_sim_power_loss(io);
            }
            io->crash_hook = NULL;
            check_disk(limit, durable);
            ck_assert_int_eq(rig_recover(&err), LEVEE_OK);
            rig_settle();
            check_disk(limit, durable);
            rig_end();
        }
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("wal_second_life");
    TCase *t = tcase_create("second life");

    tcase_add_test(t, trimmed_segments_become_spares);
    tcase_add_test(t, a_second_life_is_as_the_readme_says);
    tcase_add_test(t, a_second_life_goes_step_by_step);
    tcase_add_test(t, a_second_life_costs_three_blocks);
    tcase_add_test(t, a_power_loss_at_any_step_of_a_second_life);
    tcase_add_test(t, a_kill_at_any_step_of_a_second_life);
    tcase_add_test(t, a_crash_at_every_named_point);
    suite_add_tcase(suite, t);
    return suite_main(suite);
}
