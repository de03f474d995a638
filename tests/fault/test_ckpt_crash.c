/*
 * Crashes and I/O errors at every step of publishing, folding and removing, on the simulated disk.
 *
 * Goal: whatever is lost, the published versions are consistent. Method: a life lists, verifies,
 * publishes batch after batch, folds when due and removes what retention does not keep, as the
 * runtime does. It is crashed instead of its k-th step, for every k; what is left is judged by the
 * model. Loss: power loss (unsynced sectors, names and sizes kept, dropped or garbled by seed) and
 * process death, each said at the test. The judge:
 *
 *   J1  No name ending in .ckpt belongs to a file that differs from it (C1). Faults 16, 34, 35.
 *   J2  Every batch whose publication returned is reached by a chain that loads as the model's
 * state. J3  Every batch that two disjoint chains reached when something was published still is
 * (C7): the log may have been trimmed up to there. Fault 36. J4  The next life goes on to the end.
 */
#include "tests/unit/test_ckpt.h"

#include <errno.h>

#define BATCHES 12

static struct model model;
static struct io *io;
static struct levee_error err;
static const char dir[] = "/ckpt";

/* What the outside world may rely on, over all lives. */
static struct {
    uint64_t published; /* highest batch whose publication returned */
    uint64_t trimmed;   /* highest batch that two disjoint chains reached after a publication */
} promise;

static void open_disk(void)
{
    struct place place;

    place_open(&place, PLACE_SIM, NULL);
    io = place.io;
    model_fill(&model, BATCHES, 12);
    promise.published = promise.trimmed = 0;
}

static void close_disk(void)
{
    io_free(io);
    ck_assert_int_eq(mem_live(), 0);
}

static void note_promise(const struct ckpt_store *s, uint64_t to)
{
    struct ckpt_chain pair[2];
    uint64_t m = ckpt_chain_disjoint(&s->versions, pair);

    promise.published = to > promise.published ? to : promise.published;
    promise.trimmed = m > promise.trimmed ? m : promise.trimmed;
}

/* Publishes up to `target`. Any error ends the life; NOSPACE is tried again once, as the runtime
 * would later. */
static int live(struct ckpt_store *s, uint64_t target)
{
    struct ckpt_chain best;
    struct ckpt_fold_plan plan;
    struct ckpt_version v;
    int rc = ckpt_store_list(s, &err);

    for (size_t i = 0; rc == LEVEE_OK && i < s->versions.count; i++) {
        rc = ckpt_store_verify(s, &s->versions.items[i], &err);
    }
    rc = rc == LEVEE_OK ? ckpt_remove_temps(s, &err) : rc;
    rc = rc == LEVEE_OK ? retain_all(s, &err) : rc;
    ckpt_chain_best(&s->versions, &best);
    for (uint64_t b = best.to; rc == LEVEE_OK && b < target; b++) {
        rc = model_publish(&model, s, b, b + 1, &v, &err);
        if (rc == LEVEE_ENOSPACE) {
            rc = model_publish(&model, s, b, b + 1, &v, &err);
        }
        if (rc == LEVEE_OK) {
            note_promise(s, b + 1);
        }
        if (rc == LEVEE_OK && ckpt_fold_due(&s->versions, 3, &plan)) {
            rc = fold_all(s, &plan, 3000, &v, &err);
            rc = rc == LEVEE_ENOSPACE ? LEVEE_OK : rc; /* due again next time */
            if (rc == LEVEE_OK) {
                note_promise(s, b + 1);
            }
        }
        rc = rc == LEVEE_OK ? retain_all(s, &err) : rc;
    }
    return rc;
}

static int one_life(uint64_t target)
{
    struct ckpt_store s;

    ck_assert_int_eq(ckpt_store_init(&s, io, &ckpt_format_flat, dir), LEVEE_OK);
    int rc = live(&s, target);
    ckpt_store_release(&s);
    return rc;
}

static void set_faults(struct sim_faults faults)
{
    io_sim_set_faults(io, &faults);
}

/* J1, J2, J3. Returns the highest batch that can be reached. */
static uint64_t judge(void)
{
    struct ckpt_store s;
    struct ckpt_chain best;
    struct ckpt_chain pair[2];

    set_faults((struct sim_faults){.seed = 1}); /* the judge's own reads do not fail */
    ck_assert_int_eq(ckpt_store_init(&s, io, &ckpt_format_flat, dir), LEVEE_OK);
    ck_assert_int_eq(ckpt_store_list(&s, &err), LEVEE_OK);
    for (size_t i = 0; i < s.versions.count; i++) {
        ck_assert_int_eq(ckpt_store_verify(&s, &s.versions.items[i], &err), LEVEE_OK);
        ck_assert(!s.versions.items[i].bad);
    }
    ckpt_chain_best(&s.versions, &best);
    ck_assert_uint_ge(best.to, promise.published);
    if (best.to > 0) {
        ck_assert_int_eq(model_check(&model, &s, &best, 0, &err), LEVEE_OK);
    }
    ck_assert_uint_ge(ckpt_chain_disjoint(&s.versions, pair), promise.trimmed);
    for (int i = 0; i < 2 && pair[i].count > 0; i++) {
        ck_assert_int_eq(model_check(&model, &s, &pair[i], 0, &err), LEVEE_OK);
    }
    ckpt_store_release(&s);
    return best.to;
}

/* J4, and what a whole history leaves. */
static void finish(void)
{
    set_faults((struct sim_faults){.seed = 1});
    ck_assert_int_eq(one_life(BATCHES), LEVEE_OK);
    ck_assert_uint_eq(judge(), BATCHES);
    /* The last name may be one that a dead life left unsynced: it was never promised and may go. */
    io_sim_power_loss(io);
    (void)judge();
}

static uint64_t steps_of_a_life(void)
{
    open_disk();
    set_faults((struct sim_faults){.seed = 1});
    ck_assert_int_eq(one_life(BATCHES), LEVEE_OK);
    uint64_t steps = io_sim_steps(io);
    io_sim_power_loss(io);
    (void)judge();
    close_disk();
    return steps;
}

/* Power loss at every step: nothing unsynced survives, everything does, or a mixture with garbage.
 * Faults 15, 16, 34, 35, 36. */
START_TEST(f16_power_loss_at_every_step_leaves_whole_versions)
{
    static const struct {
        uint32_t keep, garble;
    } losses[] = {{0, 0}, {1000, 0}, {500, 0}, {400, 300}};
    uint64_t steps = steps_of_a_life();

    ck_assert_uint_gt(steps, 70);
    for (uint64_t k = 1; k <= steps; k++) {
        open_disk();
        set_faults((struct sim_faults){.seed = k * 4 + (uint64_t)_i,
                                       .crash_at_step = k,
                                       .keep_per_mille = losses[_i].keep,
                                       .garble_per_mille = losses[_i].garble});
        ck_assert_int_eq(one_life(BATCHES), LEVEE_ECRASHED);
        io_sim_power_loss(io);
        (void)judge();
        finish();
        close_disk();
    }
}
END_TEST

/* Process death at every step; the next life works on what only the page cache holds, then the
 * power fails. */
START_TEST(f15_kill_at_every_step_then_power_loss)
{
    uint64_t steps = steps_of_a_life();

    for (uint64_t k = 1; k <= steps; k++) {
        open_disk();
        set_faults((struct sim_faults){.seed = k, .crash_at_step = k});
        ck_assert_int_eq(one_life(BATCHES), LEVEE_ECRASHED);
        io_sim_kill(io);
        (void)judge();
        /* a short second life, ended at a step of its own */
        set_faults(
            (struct sim_faults){.seed = k, .crash_at_step = 1 + k % 23, .keep_per_mille = 300});
        int rc = one_life(BATCHES);
        ck_assert(rc == LEVEE_OK || rc == LEVEE_ECRASHED);
        io_sim_power_loss(io);
        (void)judge();
        finish();
        close_disk();
    }
}
END_TEST

/* Chains of crashes, each on the image the last one left; deaths and power losses in any order.
 * Fault 21. */
START_TEST(f21_crash_loops_leave_whole_versions)
{
    uint64_t seed = 1000 + (uint64_t)_i;

    for (int round = 0; round < 25; round++) {
        open_disk();
        for (int crash = 0; crash < 8; crash++) {
            set_faults((struct sim_faults){.seed = rng_next(&seed),
                                           .crash_at_step = 1 + rng_next(&seed) % 60,
                                           .keep_per_mille = (uint32_t)(rng_next(&seed) % 700),
                                           .garble_per_mille = (uint32_t)(rng_next(&seed) % 300)});
            int rc = one_life(BATCHES);
            ck_assert(rc == LEVEE_OK || rc == LEVEE_ECRASHED);
            if (rng_next(&seed) % 3 == 0) {
                io_sim_kill(io);
            } else {
                io_sim_power_loss(io);
            }
            (void)judge();
        }
        finish();
        close_disk();
    }
}
END_TEST

/* ---- named points ---- */

static unsigned hits, stop_at_hit;
static enum crash_point stop_point;

static void stop_here(enum crash_point point, void *arg)
{
    (void)arg;
    if (point == stop_point && ++hits == stop_at_hit) {
        io_sim_crash(io);
    }
}

/* Every named point of this folder, the first and a later time, as process death and as power loss.
 * A point that is never reached fails. */
START_TEST(every_named_point_is_survived)
{
    static const enum crash_point points[] = {
        CP_CKPT_AFTER_BUILD,  CP_CKPT_AFTER_VERIFY,   CP_CKPT_AFTER_SYNC,
        CP_CKPT_AFTER_RENAME, CP_CKPT_AFTER_DIR_SYNC, CP_CKPT_BEFORE_REMOVE,
        CP_CKPT_AFTER_REMOVE, CP_FOLD_AFTER_BUILD,    CP_FOLD_AFTER_PUBLISH};

    for (size_t p = 0; p < ARRAY_LEN(points); p++) {
        for (unsigned nth = 1; nth <= 3; nth += 2) {
            for (int power = 0; power < 2; power++) {
                open_disk();
                stop_point = points[p];
                stop_at_hit = nth;
                hits = 0;
                io->crash_hook = stop_here;
                /* A crash behind the last step of a call is seen by the next one. */
                ck_assert_int_eq(one_life(BATCHES), LEVEE_ECRASHED);
                ck_assert_uint_eq(hits, nth);
                io->crash_hook = NULL;
                if (power) {
                    io_sim_power_loss(io);
                } else {
                    io_sim_kill(io);
                }
                (void)judge();
                finish();
                close_disk();
            }
        }
    }
}
END_TEST

/* A kill between rename and directory sync leaves a name that only the page cache holds. The next
 * life sees it, finds older files superfluous and removes them, publishes nothing; then the power
 * fails. Fault 36. The simulated directory keeps its changes in order, real ones need not: that the
 * directory is synced before the first removal is shown by test_ckpt_store.c. */
START_TEST(f36_nothing_is_removed_on_the_word_of_a_name_that_may_vanish)
{
    unsigned removed = 0;

    stop_point = CP_CKPT_AFTER_RENAME;
    for (unsigned nth = 1; nth <= 16; nth++) { /* versions and folds alike */
        for (uint64_t seed = 1; seed <= 12; seed++) {
            struct ckpt_store s;
            open_disk();
            stop_at_hit = nth;
            hits = 0;
            io->crash_hook = stop_here;
            ck_assert_int_eq(one_life(BATCHES), LEVEE_ECRASHED);
            io->crash_hook = NULL;
            io_sim_kill(io);

            set_faults((struct sim_faults){.seed = seed, .keep_per_mille = 500});
            ck_assert_int_eq(ckpt_store_init(&s, io, &ckpt_format_flat, dir), LEVEE_OK);
            uint64_t unlinks = counter_get(&io->counts.unlinks);
            ck_assert_int_eq(live(&s, 0), LEVEE_OK); /* looks and removes, and publishes nothing */
            removed += counter_get(&io->counts.unlinks) > unlinks;
            ckpt_store_release(&s);
            io_sim_power_loss(io);
            (void)judge();
            finish();
            close_disk();
        }
    }
    ck_assert_uint_gt(removed, 20);
}
END_TEST

/* ---- errors ---- */

/* Every step fails once with EIO. A failed publication or fold is final (design 4d.13): its life
 * ends, nothing was promised, the next life goes on. Then the power fails too: what a failed sync
 * held is gone. Faults 38, 43. */
START_TEST(f43_an_error_at_any_step_ends_the_life_and_promises_nothing)
{
    uint64_t steps = steps_of_a_life();

    for (uint64_t k = 1; k <= steps; k++) {
        open_disk();
        set_faults((struct sim_faults){.seed = k, .fail_at_step = k, .fail_errno = EIO});
        int rc = one_life(BATCHES);
        ck_assert(rc == LEVEE_OK || rc == LEVEE_ECKPT_FAILED || rc == LEVEE_EIO);
        ck_assert(rc == LEVEE_OK || err.code == rc);
        if (rc == LEVEE_ECKPT_FAILED) {
            ck_assert_int_eq(levee_error_class(rc), LEVEE_CLASS_FATAL);
            ck_assert_int_eq(err.sys_errno, EIO);
        }
        if (k % 2 == 0) {
            io_sim_power_loss(io);
        } else {
            io_sim_kill(io);
        }
        (void)judge();
        finish();
        close_disk();
    }
}
END_TEST

/* Every step fails once with ENOSPC. Before the sync that is no reason to stop: the file is removed
 * and the next try works. From the sync on it is as final as EIO. Faults 40, 68. */
START_TEST(f40_a_full_disk_at_any_step_is_survived)
{
    uint64_t steps = steps_of_a_life();
    unsigned retried = 0;

    for (uint64_t k = 1; k <= steps; k++) {
        open_disk();
        set_faults((struct sim_faults){.seed = k, .fail_at_step = k, .fail_errno = ENOSPC});
        int rc = one_life(BATCHES);
        ck_assert(rc == LEVEE_OK || rc == LEVEE_ECKPT_FAILED || rc == LEVEE_ENOSPACE);
        retried += rc == LEVEE_OK;
        io_sim_power_loss(io);
        (void)judge();
        finish();
        close_disk();
    }
    ck_assert_uint_gt(retried, 20);
}
END_TEST

/* Every pread fails once: while publishing that is a failed publication; while verifying the file
 * counts as bad for this life and nothing is deleted. Faults 44, 45. */
START_TEST(f44_an_error_of_any_read_is_survived)
{
    struct ckpt_store s;
    int rc = LEVEE_EIO;

    for (uint64_t k = 1; rc != LEVEE_OK; k++) {
        ck_assert_uint_lt(k, 2000);
        open_disk();
        set_faults((struct sim_faults){.seed = k, .fail_at_read = k});
        rc = one_life(BATCHES);
        ck_assert(rc == LEVEE_OK || rc == LEVEE_EIO || rc == LEVEE_ECKPT_FAILED);
        io_sim_power_loss(io);
        (void)judge();
        finish();
        close_disk();
    }

    open_disk();
    ck_assert_int_eq(one_life(2), LEVEE_OK);
    ck_assert_int_eq(ckpt_store_init(&s, io, &ckpt_format_flat, dir), LEVEE_OK);
    ck_assert_int_eq(ckpt_store_list(&s, &err), LEVEE_OK);
    set_faults((struct sim_faults){.seed = 2, .fail_at_read = 1});
    ck_assert_int_eq(ckpt_store_verify(&s, &s.versions.items[0], &err), LEVEE_EIO);
    ck_assert(s.versions.items[0].bad);
    ck_assert_ptr_nonnull(strstr(err.what, s.versions.items[0].name));
    /* a second look may find it well again */
    ck_assert_int_eq(ckpt_store_verify(&s, &s.versions.items[0], &err), LEVEE_OK);
    ck_assert(s.versions.items[0].verified);
    ckpt_store_release(&s);
    close_disk();
}
END_TEST

/* A disk that is really full: publishing says NOSPACE, leaves nothing behind, and goes on when
 * there is room. */
START_TEST(f68_a_full_disk_holds_publishing_up_and_no_longer)
{
    struct ckpt_store s;
    struct ckpt_version v;
    struct io_list list = {0};

    open_disk();
    ck_assert_int_eq(one_life(5), LEVEE_OK);
    ck_assert_int_eq(ckpt_store_init(&s, io, &ckpt_format_flat, dir), LEVEE_OK);
    ck_assert_int_eq(ckpt_store_list(&s, &err), LEVEE_OK);
    size_t files = s.versions.count;
    set_faults((struct sim_faults){.seed = 1, .capacity_bytes = 1});
    for (int again = 0; again < 20; again++) {
        ck_assert_int_eq(model_publish(&model, &s, 5, 6, &v, &err), LEVEE_ENOSPACE);
        ck_assert_int_eq(levee_error_class(err.code), LEVEE_CLASS_RETRY);
    }
    ck_assert_int_eq(io->ops->list(io, dir, &list, &err), LEVEE_OK);
    ck_assert_uint_eq(list.count, files);
    io_list_free(&list);
    set_faults((struct sim_faults){.seed = 1});
    ck_assert_int_eq(model_publish(&model, &s, 5, 6, &v, &err), LEVEE_OK);
    note_promise(&s, 6);
    ckpt_store_release(&s);
    io_sim_power_loss(io);
    (void)judge();
    finish();
    close_disk();
}
END_TEST

/* A device that says synced and is not: names appear, bytes are gone. Nothing of it passes for a
 * version. Fault 29. */
START_TEST(f29_versions_on_a_lying_device_are_refused)
{
    struct ckpt_store s;
    struct ckpt_chain best;
    unsigned bad = 0;

    for (uint64_t seed = 1; seed <= 60; seed++) {
        open_disk();
        set_faults((struct sim_faults){
            .seed = seed, .lying_sync = true, .keep_per_mille = 900, .garble_per_mille = 50});
        ck_assert_int_eq(one_life(4), LEVEE_OK);
        io_sim_power_loss(io);
        ck_assert_int_eq(ckpt_store_init(&s, io, &ckpt_format_flat, dir), LEVEE_OK);
        int rc = ckpt_store_list(&s, &err);
        ck_assert(rc == LEVEE_OK || rc == LEVEE_ENOTFOUND); /* the directory itself may be gone */
        for (size_t i = 0; i < s.versions.count; i++) {
            ck_assert_int_eq(ckpt_store_verify(&s, &s.versions.items[i], &err), LEVEE_OK);
            bad += s.versions.items[i].bad;
        }
        ckpt_chain_best(&s.versions, &best);
        if (best.to > 0) { /* what is left and equals its name is right */
            ck_assert_int_eq(model_check(&model, &s, &best, 0, &err), LEVEE_OK);
        }
        ckpt_store_release(&s);
        close_disk();
    }
    ck_assert_uint_gt(bad, 20);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("ckpt_crash");
    TCase *tc = tcase_create("crash");

    tcase_set_timeout(tc, 120);
    tcase_add_loop_test(tc, f16_power_loss_at_every_step_leaves_whole_versions, 0, 4);
    tcase_add_test(tc, f15_kill_at_every_step_then_power_loss);
    tcase_add_loop_test(tc, f21_crash_loops_leave_whole_versions, 0, 4);
    tcase_add_test(tc, every_named_point_is_survived);
    tcase_add_test(tc, f36_nothing_is_removed_on_the_word_of_a_name_that_may_vanish);
    tcase_add_test(tc, f43_an_error_at_any_step_ends_the_life_and_promises_nothing);
    tcase_add_test(tc, f40_a_full_disk_at_any_step_is_survived);
    tcase_add_test(tc, f44_an_error_of_any_read_is_survived);
    tcase_add_test(tc, f68_a_full_disk_holds_publishing_up_and_no_longer);
    tcase_add_test(tc, f29_versions_on_a_lying_device_are_refused);
    suite_add_tcase(suite, tc);
    return suite_main(suite);
}
