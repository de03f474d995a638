/*
 * SIGKILL at random instants, again and again → every record is counted once, what was
 * acknowledged stays, nothing grows.
 *
 * Goal: P1, P2, P3, P5 without the help of named points. Method: a child that never stops sending
 * is killed from outside; after every kill the oracle of crash_trial.c judges what was published,
 * and whether the kill fell between the first receive and the last commit: records had been handed
 * over that were in no published batch. Loss: process death. KILLS=n sets the number of kills,
 * SEED=n repeats a run. Covers faults 21 and 73 (the kernel's out-of-memory killer sends the same
 * signal).
 */
#include "tests/fault/crash_trial.h"
#include "tests/fault/numbered.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* Segments of the log beyond what two disjoint chains of checkpoints reach (folds that kills
 * interrupt hold it up), 23 versions at most, a few single files. */
#define FILES_MAX     160
#define BYTES_MAX     (12u << 20)
#define LOOK_NS       100000 /* between two looks whether the child is ready */
#define UPTIME_MAX_US 50000

static uint64_t random_below(uint64_t *state, uint64_t n)
{
    *state += 0x9e3779b97f4a7c15u;
    uint64_t x = *state;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (x ^ (x >> 31)) % n;
}

static void wait_us(uint64_t us)
{
    struct timespec t = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000 * 1000)};

    while (nanosleep(&t, &t) != 0) {
    }
}

/* Until the child receives; a child that dies before is found by the wait that follows. */
static void wait_started(struct trial *t)
{
    struct timespec look = {.tv_nsec = LOOK_NS};

    for (int i = 0; i < 200000 && __atomic_load_n(&t->status->started, __ATOMIC_SEQ_CST) == 0;
         i++) {
        (void)nanosleep(&look, NULL);
    }
}

static void kill_and_judge(struct trial *t, pid_t pid, uint64_t cycle)
{
    ck_assert_int_eq(kill(pid, SIGKILL), 0);
    int code = trial_wait(t, pid, TRIAL_PATIENCE_MS);
    ck_assert_msg(code == TRIAL_KILLED, "cycle %" PRIu64 ", seed %" PRIu64 ": ended with %d: %s",
                  cycle, t->seed, code, trial_said(t));
    ck_assert_msg(trial_fine(t), "cycle %" PRIu64 ", seed %" PRIu64 ": %s", cycle, t->seed, t->why);
}

static struct {
    size_t files;
    uint64_t bytes;
} most;

static void does_not_grow(struct trial *t, uint64_t cycle)
{
    size_t files;
    uint64_t bytes;

    trial_size(t, &files, &bytes);
    most.files = files > most.files ? files : most.files;
    most.bytes = bytes > most.bytes ? bytes : most.bytes;
    ck_assert_msg(files <= FILES_MAX, "cycle %" PRIu64 ": %zu files in %s", cycle, files, t->dir);
    ck_assert_msg(bytes <= BYTES_MAX, "cycle %" PRIu64 ": %" PRIu64 " bytes in %s", cycle, bytes,
                  t->dir);
}

START_TEST(kills_at_random_lose_and_repeat_nothing)
{
    uint64_t kills = numbered_from("KILLS", 60), in_flight = 0,
             seed = numbered_from("SEED", 1) + (uint64_t)_i;
    uint64_t random = seed;
    struct trial t;

    trial_open(&t, seed);
    for (uint64_t i = 0; i < kills; i++) {
        pid_t pid = trial_spawn(&t, &(struct trial_life){.forever = true});
        if (random_below(&random, 16) == 0) {
            wait_us(random_below(&random, 20000)); /* while it starts, or recovers */
        } else {
            wait_started(&t);
            wait_us(2000 + random_below(&random, 40000));
        }
        kill_and_judge(&t, pid, i);
        in_flight += t.appended > t.fold.records;
        does_not_grow(&t, i);
    }
    ck_assert_msg(trial_finish(&t, JOB_SET), "seed %" PRIu64 ": %s", seed, t.why);
    printf("kills %" PRIu64 ", of them between first receive and last commit %" PRIu64
           " (%.0f %%), records %" PRIu64 ", batches %" PRIu64 ", at most %zu files, %" PRIu64
           " bytes\n",
           kills, in_flight, 100.0 * (double)in_flight / (double)kills, t.fold.records,
           t.fold.last_batch, most.files, most.bytes);
    ck_assert_uint_ge(in_flight * 100, kills * 80);
    trial_close(&t);
}
END_TEST

START_TEST(f21_a_crash_loop_makes_progress_and_grows_nothing)
{
    uint64_t kills = numbered_from("KILLS", 60), seed = numbered_from("SEED", 1),
             random = seed + 77;
    uint64_t progress = 0;
    struct trial t;

    trial_open(&t, seed);
    /* Something to recover, and a batch that every life finds half done. */
    ck_assert_int_eq(
        trial_run(&t,
                  &(struct trial_life){.point = "BATCH_RESULT_DURABLE", .hit = 5, .forever = true}),
        TRIAL_KILLED);
    for (uint64_t i = 0; i < kills; i++) {
        uint64_t before = t.fold.last_batch;
        pid_t pid = trial_spawn(&t, &(struct trial_life){.forever = true});
        wait_us(1000 + random_below(&random, UPTIME_MAX_US - 1000));
        kill_and_judge(&t, pid, i);
        progress += t.fold.last_batch > before;
        does_not_grow(&t, i);
    }
    ck_assert_msg(trial_finish(&t, JOB_SET), "seed %" PRIu64 ": %s", seed, t.why);
    printf("crash loop of %" PRIu64 " lives of 1 to 50 ms: %" PRIu64
           " published a batch; at most %zu files, %" PRIu64 " bytes\n",
           kills, progress, most.files, most.bytes);
    ck_assert_uint_gt(progress, 0);
    trial_close(&t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("random kills");
    TCase *kills = tcase_create("kills"), *loop = tcase_create("f21");

    tcase_set_timeout(kills, 1200);
    tcase_set_timeout(loop, 1200);
    tcase_add_loop_test(kills, kills_at_random_lose_and_repeat_nothing, 0, 2);
    tcase_add_loop_test(loop, f21_a_crash_loop_makes_progress_and_grows_nothing, 0, 2);
    suite_add_tcase(s, kills);
    suite_add_tcase(s, loop);
    return suite_main(s);
}
