/*
 * Input/output that fails, stalls or tears → the context stops with a typed error or waits, and the
 * next life has everything that was acknowledged.
 *
 * Goal: P1, P2, P5, P7 under errors of every step, full disks, slow and short I/O, torn and
 * reordered writes. Method: the laboratory (lab.h); the n-th step fails, for every n of a run; then
 * a process death or a power loss, a start without faults, and the oracle. Loss: said at each test.
 */
#include "tests/fault/lab.h"
#include "tests/fault/numbered.h"

#include <errno.h>
#include <string.h>

static struct lab lab;

/* A life of a known course, with history behind it: checkpoints, folds, rolls, trims. */
#define WARM_UP 120
#define COURSE  90

static void warm_up(uint64_t seed)
{
    lab_open(&lab, seed);
    lab_history(&lab, WARM_UP, true, false);
}

/* Steps that a life takes which starts here and sends COURSE records. */
static uint64_t count_steps(uint64_t seed)
{
    warm_up(seed);
    lab_faults(&lab, (struct sim_faults){0});
    lab_must_start(&lab);
    lab_send(&lab, COURSE);
    ck_assert(lab_settle(&lab));
    uint64_t steps = levee_sim_steps(lab.sim);
    lab_kill(&lab);
    lab_close(&lab);
    return steps;
}

static enum levee_class run_with(struct sim_faults faults)
{
    lab_faults(&lab, faults);
    if (lab_start(&lab) != LEVEE_OK) {
        return levee_error_class(lab.err.code);
    }
    lab_send(&lab, COURSE);
    (void)lab_settle(&lab);
    return lab_stopped(&lab) ? levee_error_class(lab.err.code) : LEVEE_CLASS_OK;
}

/* Every step-th step fails with this errno; then the next life. */
static uint64_t every_step_fails(int error, bool power, uint64_t seed)
{
    uint64_t steps = count_steps(seed), step = numbered_full() ? 1 : 5, trials = 0, stopped = 0;

    for (uint64_t n = 1 + seed % step; n <= steps; n += step, trials++) {
        warm_up(seed);
        enum levee_class class_ = run_with((struct sim_faults){
            .fail_at_step = n, .fail_errno = error, .keep_per_mille = (uint32_t)(n % 5) * 250});
        ck_assert_msg(class_ != LEVEE_CLASS_CORRUPT && class_ != LEVEE_CLASS_MISUSE,
                      "errno %d at step %llu: %s", error, (unsigned long long)n,
                      levee_error_name(lab.err.code));
        stopped += class_ != LEVEE_CLASS_OK;
        if (power) {
            lab_power_loss(&lab);
        } else {
            lab_kill(&lab);
        }
        ck_assert_msg(lab_finish(&lab), "errno %d at step %llu of %llu, %s: %s", error,
                      (unsigned long long)n, (unsigned long long)steps,
                      power ? "power loss" : "kill", lab.why);
        lab_close(&lab);
    }
    ck_assert_uint_gt(stopped, 0);
    return trials;
}

/* ---- 38, 40, 43, 46, 47, 67: errors of any write, sync, rename, directory sync ---- */

START_TEST(f38_an_io_error_at_any_step_is_final_and_loses_nothing)
{
    /* Power loss and process death. */
    numbered_trials("f38_an_io_error_at_any_step_is_final_and_loses_nothing",
                    every_step_fails(EIO, true, 38) + every_step_fails(EIO, false, 381));
}
END_TEST

/* The first failed sync of the log: nothing is acknowledged after it, and the answer is typed. */
START_TEST(f38_nothing_is_acknowledged_after_a_failed_sync)
{
    uint64_t steps = count_steps(382), found = 0;

    for (uint64_t n = 1; n <= steps && found < 6; n++) {
        warm_up(382);
        lab_faults(&lab, (struct sim_faults){.fail_at_step = n, .fail_errno = EIO});
        if (lab_start(&lab) == LEVEE_OK) {
            lab_send(&lab, COURSE);
            (void)lab_settle(&lab);
            uint64_t durable = levee_queue_durable(lab.source);
            if (lab_stopped(&lab) && lab.err.code == LEVEE_EWAL_FAILED && durable < lab.pushed) {
                found++; /* what failed was a group of records */
                levee_sim_run_ms(lab.sim, 5000);
                ck_assert_uint_eq(levee_queue_durable(lab.source), durable);
                struct levee_record r = {.value = slice_str("1 1 ")};
                ck_assert_int_ne(levee_queue_push(lab.source, &r, 1, 0, NULL), LEVEE_OK);
            }
        }
        lab_power_loss(&lab);
        lab_must_finish(&lab);
        lab_close(&lab);
    }
    ck_assert_uint_eq(found, 6);
}
END_TEST

/* After the failed sync the page cache still shows the bytes: the next life must not build on them
 * without writing them again. Process death, then power loss. */
START_TEST(f39_what_a_failed_sync_left_in_the_cache_is_written_again)
{
    uint64_t steps = count_steps(39), trials = 0;

    for (uint64_t n = 1; n <= steps; n += numbered_full() ? 1 : 4, trials++) {
        warm_up(39);
        (void)run_with((struct sim_faults){.fail_at_step = n, .fail_errno = EIO});
        lab_kill(&lab);
        lab_faults(&lab, (struct sim_faults){0});
        ck_assert_msg(lab_start(&lab) == LEVEE_OK, "step %llu: %s", (unsigned long long)n,
                      lab.err.what);
        lab_send(&lab, 12);
        (void)lab_settle(&lab);
        lab_power_loss(&lab);
        ck_assert_msg(lab_finish(&lab), "step %llu: %s", (unsigned long long)n, lab.why);
        lab_close(&lab);
    }
    numbered_trials("f39_what_a_failed_sync_left_in_the_cache_is_written_again", trials);
}
END_TEST

START_TEST(f40_no_space_from_any_step_loses_nothing)
{
    numbered_trials("f40_no_space_from_any_step_loses_nothing",
                    every_step_fails(ENOSPC, true, 40) + every_step_fails(EDQUOT, false, 401));
}
END_TEST

START_TEST(f47_a_disk_that_turns_read_only_stops_the_context)
{
    numbered_trials("f47_a_disk_that_turns_read_only_stops_the_context",
                    every_step_fails(EROFS, false, 47));
}
END_TEST

START_TEST(f119_permission_lost_at_run_time_stops_the_context)
{
    numbered_trials("f119_permission_lost_at_run_time_stops_the_context",
                    every_step_fails(EACCES, false, 119));
}
END_TEST

/* The device is gone: from one step on nothing works. Process death follows. */
START_TEST(f46_a_device_that_disappears_stops_the_context)
{
    uint64_t steps = count_steps(46), trials = 0;

    for (uint64_t n = 1; n <= steps; n += numbered_full() ? 1 : 7, trials++) {
        warm_up(46);
        lab_faults(&lab, (struct sim_faults){.crash_at_step = n}); /* every later call fails */
        if (lab_start(&lab) == LEVEE_OK) {
            lab_send(&lab, COURSE);
            levee_sim_run_ms(lab.sim, 2000);
            uint64_t durable = levee_queue_durable(lab.source);
            levee_sim_run_ms(lab.sim, 2000);
            ck_assert_uint_eq(levee_queue_durable(lab.source), durable);
        }
        lab_kill(&lab);
        lab_must_finish(&lab);
        lab_close(&lab);
    }
    numbered_trials("f46_a_device_that_disappears_stops_the_context", trials);
}
END_TEST

/* A mount point without its mount looks like an empty directory. */
START_TEST(f46_a_lost_mount_is_not_taken_for_a_new_directory)
{
    lab_open(&lab, 461);
    lab.options.existing_only = true;
    lab_must_refuse(&lab, LEVEE_EDIR_MISSING, LAB_DIR);
    ck_assert_int_eq(lab.io->ops->mkdir(lab.io, LAB_DIR, &lab.err), LEVEE_OK);
    lab_must_refuse(&lab, LEVEE_EDIR_MISSING, LAB_DIR);
    lab.options.existing_only = false;
    lab_must_finish(&lab);
    lab_close(&lab);
}
END_TEST

/* ---- 44: reads ---- */

START_TEST(f44_a_sector_that_cannot_be_read_is_not_the_end_of_the_log)
{
    struct wal_facts facts;
    char path[IO_PATH_MAX];

    lab_open(&lab, 44);
    lab_history(&lab, 240, false, true);
    lab_scan(&lab, &facts);
    struct wal_entry e = facts.entries[facts.entry_count / 2];
    ck_assert_int_eq(io_path(path, LAB_WAL, facts.segments[e.segment].name, NULL), LEVEE_OK);
    wal_facts_release(&facts);
    io_sim_bad_range(lab.io, path, e.offset, 512);
    uint64_t before = lab_hash(&lab);
    int code = lab_start(&lab);
    ck_assert_msg(code == LEVEE_EWAL_READ || code == LEVEE_EWAL_CORRUPT, "%s",
                  levee_error_name(code));
    ck_assert_uint_eq(lab_hash(&lab), before);
    io_sim_bad_range(lab.io, path, 0, 0);
    lab_must_finish(&lab);
    lab_close(&lab);
}
END_TEST

START_TEST(f44_an_error_of_any_read_loses_nothing)
{
    uint64_t trials = 0;

    for (uint64_t n = 1; n <= 200; n += numbered_full() ? 1 : 3, trials++) {
        warm_up(441);
        enum levee_class class_ = run_with((struct sim_faults){.fail_at_read = n});
        ck_assert_int_ne(class_, LEVEE_CLASS_MISUSE);
        lab_kill(&lab);
        ck_assert_msg(lab_finish(&lab), "read %llu: %s", (unsigned long long)n, lab.why);
        lab_close(&lab);
    }
    numbered_trials("f44_an_error_of_any_read_loses_nothing", trials);
}
END_TEST

/* ---- 23, 24, 48, 49: short, interrupted, slow ---- */

START_TEST(f23_short_writes_and_reads_are_completed)
{
    lab_open(&lab, 23);
    lab_faults(&lab, (struct sim_faults){.short_write_per_mille = 400});
    lab_must_start(&lab);
    lab_send(&lab, 240);
    ck_assert_msg(lab_settle(&lab), "%s", lab.why);
    lab_power_loss(&lab);
    lab_faults(&lab, (struct sim_faults){.short_write_per_mille = 400});
    lab_must_start(&lab);
    ck_assert_msg(lab_fine(&lab), "%s", lab.why);
    lab_must_finish(&lab);
    lab_close(&lab);
}
END_TEST

START_TEST(f24_interrupted_calls_are_repeated)
{
    lab_open(&lab, 24);
    lab_faults(&lab, (struct sim_faults){.eintr_per_mille = 500});
    lab_must_start(&lab);
    lab_send(&lab, 240);
    ck_assert_msg(lab_settle(&lab), "%s", lab.why);
    lab_power_loss(&lab);
    lab_faults(&lab, (struct sim_faults){.eintr_per_mille = 500});
    lab_must_start(&lab);
    ck_assert_msg(lab_fine(&lab), "%s", lab.why);
    lab_must_finish(&lab);
    lab_close(&lab);
}
END_TEST

START_TEST(f48_a_sync_of_thirty_seconds_holds_the_source_back)
{
    struct levee_metrics m;
    uint64_t pushed = 0, held = 0;

    lab_open(&lab, 48);
    lab.options.buffer_bytes = 16 << 10;
    lab.options.block_bytes = 4 << 10;
    lab_must_start(&lab);
    lab_faults(&lab, (struct sim_faults){.slow_ns = 30000000000u});
    while (pushed < 600) {
        char text[JOB_TEXT_MAX];
        size_t len = job_text(lab.seed, lab.pushed + 1, text);
        struct levee_record r = {.value = slice_of(text, len)};
        int code = levee_queue_push(lab.source, &r, 1, lab.pushed + 1, &lab.err);
        ck_assert_msg(code == LEVEE_OK || code == LEVEE_EFULL, "%s", levee_error_name(code));
        levee_context_metrics(lab.ctx, &m);
        ck_assert_uint_le(m.buffered_bytes, 2 * lab.options.buffer_bytes);
        if (code == LEVEE_EFULL) {
            held++;
            levee_sim_run_ms(lab.sim, 1000);
        } else {
            lab.sent = ++lab.pushed;
            pushed++;
        }
        ck_assert(!lab_stopped(&lab));
    }
    ck_assert_uint_gt(held, 5);
    lab_faults(&lab, (struct sim_faults){0});
    lab_must_finish(&lab);
    lab_close(&lab);
}
END_TEST

START_TEST(f49_a_recovery_on_a_slow_disk_ends)
{
    lab_open(&lab, 49);
    lab_history(&lab, 240, false, false);
    lab_faults(&lab, (struct sim_faults){.slow_ns = 10000000000u});
    lab_must_start(&lab);
    ck_assert_msg(lab_fine(&lab), "%s", lab.why);
    lab_must_finish(&lab);
    lab_close(&lab);
}
END_TEST

/* ---- 66, 67: a full disk ---- */

/* Room for the segments at hand and little more: the source is held back, nothing fails, and work
 * goes on by itself when there is room again. */
START_TEST(f66_a_full_disk_holds_the_source_back_until_there_is_room)
{
    uint64_t used;

    for (uint64_t extra = 0; extra < 5; extra++) {
        lab_open(&lab, 660 + extra);
        lab.options.buffer_bytes = 64 << 10;
        lab.options.checkpoint_batches = 0; /* nothing is trimmed, so the log needs more and more */
        lab.options.checkpoint_ms = 1u << 30;
        lab_must_start(&lab);
        lab_send(&lab, 60);
        ck_assert(lab_settle(&lab));
        used = sim_disk_used(&sim_io(lab.io)->disk);
        lab_faults(&lab, (struct sim_faults){.capacity_bytes = used + extra * 24000});
        lab_send(&lab, 1200);
        ck_assert_msg(!lab_stopped(&lab), "stopped on a full disk: %s: %s",
                      levee_error_name(lab.err.code), lab.err.what);
        ck_assert_uint_lt(lab.acked, 1260);
        lab_faults(&lab, (struct sim_faults){0});
        ck_assert_msg(lab_settle(&lab), "%s", lab.why);
        lab_must_finish(&lab);
        lab_close(&lab);
    }
}
END_TEST

START_TEST(f67_a_start_on_a_full_disk_moves_on_or_says_so)
{
    uint64_t used;

    for (uint64_t extra = 0; extra < 8; extra++) {
        lab_open(&lab, 670 + extra);
        lab_history(&lab, 240, true, false);
        used = sim_disk_used(&sim_io(lab.io)->disk);
        lab_faults(&lab, (struct sim_faults){.capacity_bytes = used + extra * 20000});
        int code = lab_start(&lab);
        ck_assert_msg(code == LEVEE_OK || code == LEVEE_ENOSPACE, "%s: %s", levee_error_name(code),
                      lab.err.what);
        if (code == LEVEE_OK) {
            lab_send(&lab, 60);
        }
        lab_kill(&lab);
        lab_must_finish(&lab);
        lab_close(&lab);
    }
}
END_TEST

/* ---- 72: no memory ---- */

START_TEST(f72_no_memory_at_any_allocation_loses_nothing)
{
    uint64_t trials = 0;

    for (uint64_t k = 1; k < 4000; k += 1 + (numbered_full() ? 0 : k / 24)) {
        lab_open(&lab, 72);
        lab_history(&lab, 60, true, false);
        mem_fail_at(k);
        int code = lab_start(&lab);
        if (code == LEVEE_OK) {
            lab_send(&lab, 36);
            (void)lab_settle(&lab);
            code = lab_stopped(&lab) ? lab.err.code : LEVEE_OK;
        }
        mem_fail_at(0);
        ck_assert_msg(code == LEVEE_OK || code == LEVEE_ENOMEM ||
                          levee_error_class(code) == LEVEE_CLASS_FATAL,
                      "allocation %llu: %s: %s", (unsigned long long)k, levee_error_name(code),
                      lab.err.what);
        lab_kill(&lab);
        ck_assert_msg(lab_finish(&lab), "allocation %llu: %s", (unsigned long long)k, lab.why);
        lab_close(&lab);
        trials++;
    }
    numbered_trials("f72_no_memory_at_any_allocation_loses_nothing", trials);
}
END_TEST

/* A function that fails for good stops the context; the batches behind it must not run without the
 * records it failed on. Process death. */
static uint64_t poisoned; /* record number; 0: none */

static int fail_on_poison(levee_output *out, const struct levee_record *line, void *arg)
{
    char text[JOB_TEXT_MAX];
    const struct lab *l = arg;

    if (poisoned) {
        size_t len = job_text(l->seed, poisoned, text);
        if (slice_eq(line->value, slice_of(text, len))) {
            return -7;
        }
    }
    return job_to_pairs(out, line, arg);
}

START_TEST(f6_a_batch_that_fails_is_not_overtaken)
{
    for (uint64_t seed = 1; seed <= 60; seed++) {
        lab_open(&lab, 600 + seed);
        lab.function = fail_on_poison;
        lab_history(&lab, 60 + seed, false, false); /* many batches to replay */
        poisoned = seed;
        lab_must_start(&lab);
        lab_send(&lab, 60);
        (void)lab_settle(&lab);
        ck_assert(lab_stopped(&lab));
        ck_assert_int_eq(lab.err.code, LEVEE_EFUNCTION);
        lab_kill(&lab);
        poisoned = 0;
        ck_assert_msg(lab_finish(&lab), "seed %llu: %s", (unsigned long long)lab.seed, lab.why);
        lab_close(&lab);
    }
    numbered_trials("f6_a_batch_that_fails_is_not_overtaken", 60);
}
END_TEST

/* ---- 2, 25-28: torn and reordered writes (power loss) ---- */

/* The power fails within each step: of a write any number of leading sectors may have happened, of
 * everything unsynced any part. */
static uint64_t power_fails_at_every_step(uint32_t keep, uint32_t garble, uint64_t seed)
{
    uint64_t steps = count_steps(seed), trials = 0;

    for (uint64_t n = 1; n <= steps; n += numbered_full() ? 1 : 3, trials++) {
        warm_up(seed);
        (void)run_with((struct sim_faults){.seed = seed * 1000 + n,
                                           .crash_at_step = n,
                                           .keep_per_mille = keep,
                                           .garble_per_mille = garble});
        lab_power_loss(&lab);
        ck_assert_msg(lab_finish(&lab), "step %llu, keep %u, garble %u: %s", (unsigned long long)n,
                      keep, garble, lab.why);
        lab_close(&lab);
    }
    return trials;
}

START_TEST(f2_a_write_cut_half_way_is_dropped)
{
    uint64_t steps = count_steps(2), trials = 0;

    for (uint64_t n = 1; n <= steps; n += numbered_full() ? 1 : 3, trials++) {
        warm_up(2);
        (void)run_with((struct sim_faults){.seed = 2000 + n, .crash_at_step = n});
        lab_kill(&lab); /* process death: what was written of it stays */
        ck_assert_msg(lab_finish(&lab), "step %llu: %s", (unsigned long long)n, lab.why);
        lab_close(&lab);
    }
    numbered_trials("f2_a_write_cut_half_way_is_dropped", trials);
}
END_TEST

START_TEST(f26_unsynced_writes_that_survive_out_of_order_do_no_harm)
{
    numbered_trials("f26_unsynced_writes_that_survive_out_of_order_do_no_harm",
                    power_fails_at_every_step(500, 0, 26));
}
END_TEST

START_TEST(f27_unsynced_writes_that_are_dropped_do_no_harm)
{
    numbered_trials("f27_unsynced_writes_that_are_dropped_do_no_harm",
                    power_fails_at_every_step(0, 0, 27) + power_fails_at_every_step(900, 0, 271));
}
END_TEST

START_TEST(f28_unsynced_sectors_full_of_garbage_do_no_harm)
{
    numbered_trials("f28_unsynced_sectors_full_of_garbage_do_no_harm",
                    power_fails_at_every_step(0, 1000, 28) +
                        power_fails_at_every_step(500, 500, 281));
}
END_TEST

/* The last group, which no later one witnesses, torn after every number of bytes: zeros or garbage
 * behind. Its records were acknowledged only if the sync was done; here it was not, as the sender's
 * last set shows: pushed, never called durable. */
START_TEST(f25_the_last_group_torn_at_every_length_is_cut)
{
    uint64_t trials = 0, size, from = 0, length = 4096;

    for (uint64_t cut = 0; cut < length; cut += numbered_full() ? 1 : 29) {
        struct wal_facts before, after;
        char path[IO_PATH_MAX];
        lab_open(&lab, 25);
        lab.options.batch_interval_ms = 1000; /* the kill comes before the next batch */
        lab_history(&lab, 30, false, true);
        lab_scan(&lab, &before);
        wal_facts_release(&before);
        lab_must_start(&lab);
        uint64_t acked = lab.acked;
        lab_scan(&lab, &before);
        struct levee_record r = {.value = slice_str("3 14 x")};
        ck_assert_int_eq(levee_queue_push(lab.source, &r, 1, 0, &lab.err), LEVEE_OK);
        while (wal_durable_lsn(lab.ctx->wal) < before.next_lsn) {
            ck_assert(io_sim_step(lab.io));
        }
        lab_kill(&lab);
        lab_scan(&lab, &after);
        ck_assert_uint_gt(after.next_lsn, before.next_lsn);
        size_t i = wal_facts_find(&after, before.next_lsn);
        ck_assert_uint_lt(i, after.entry_count);
        from = after.entries[i].offset / 4096 * 4096;
        ck_assert_int_eq(
            io_path(path, LAB_WAL, after.segments[after.entries[i].segment].name, NULL), LEVEE_OK);
        uint8_t *bytes = lab_bytes(&lab, path, &size);
        memset(bytes + from + cut, cut % 2 ? 0xa5 : 0, size - from - cut);
        if (cut % 2) { /* only the rest of this group */
            memset(bytes + from + length, 0, size - from - length);
        }
        wal_facts_release(&before);
        wal_facts_release(&after);
        lab_faults(&lab, (struct sim_faults){0});
        ck_assert_msg(lab_start(&lab) == LEVEE_OK, "cut at %llu: %s %s", (unsigned long long)cut,
                      levee_error_name(lab.err.code), lab.err.what);
        ck_assert_uint_ge(lab.pushed, acked);
        lab_kill(&lab);
        lab_close(&lab);
        trials++;
    }
    numbered_trials("f25_the_last_group_torn_at_every_length_is_cut", trials);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        f2_a_write_cut_half_way_is_dropped,
        f6_a_batch_that_fails_is_not_overtaken,
        f23_short_writes_and_reads_are_completed,
        f24_interrupted_calls_are_repeated,
        f25_the_last_group_torn_at_every_length_is_cut,
        f26_unsynced_writes_that_survive_out_of_order_do_no_harm,
        f27_unsynced_writes_that_are_dropped_do_no_harm,
        f28_unsynced_sectors_full_of_garbage_do_no_harm,
        f38_an_io_error_at_any_step_is_final_and_loses_nothing,
        f38_nothing_is_acknowledged_after_a_failed_sync,
        f39_what_a_failed_sync_left_in_the_cache_is_written_again,
        f40_no_space_from_any_step_loses_nothing,
        f44_a_sector_that_cannot_be_read_is_not_the_end_of_the_log,
        f44_an_error_of_any_read_loses_nothing,
        f46_a_device_that_disappears_stops_the_context,
        f46_a_lost_mount_is_not_taken_for_a_new_directory,
        f47_a_disk_that_turns_read_only_stops_the_context,
        f48_a_sync_of_thirty_seconds_holds_the_source_back,
        f49_a_recovery_on_a_slow_disk_ends,
        f66_a_full_disk_holds_the_source_back_until_there_is_room,
        f67_a_start_on_a_full_disk_moves_on_or_says_so,
        f72_no_memory_at_any_allocation_loses_nothing,
        f119_permission_lost_at_run_time_stops_the_context,
    };
    Suite *s = suite_create("failing input and output");

    for (size_t i = 0; i < ARRAY_LEN(tests); i++) {
        numbered_add(s, tests[i], numbered_full() ? 3600 : 60);
    }
    return suite_main(s);
}
