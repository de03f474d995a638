/*
 * SIGKILL at every named point → every record is counted once, what was acknowledged stays.
 *
 * Goal: the promises P1, P2, P3, P5 at each gap between two durable steps. Method: for every name
 * of levee_crash_point_names and each of three columns, a child runs until it kills itself there,
 * which is proven by how it died; then it runs on to the end, and the oracle of crash_trial.c
 * compares every published batch with a fold of its own. Loss: process death (for power loss see
 * tests/sim). Covers faults 1, 3-7, 10-20 of the catalogue; which points stand for which is in
 * scripts/fault.
 *
 *   first      the first time the point is passed
 *   later      another time, with a history behind it
 *   recovery   in a life that recovers from a kill, and then a kill again during the recovery from
 *              that one
 *
 * LEVEE_SAMPLE=1: each point gets one of the columns only, by seed. A point that is not reached
 * fails the test, and so does a name that this table does not have.
 */
#include "levee/testing.h"
#include "tests/fault/crash_trial.h"
#include "tests/fault/numbered.h"

#include <stdlib.h>
#include <string.h>

/* When a point can be passed, which says how a child is brought there. */
enum phase {
    ALWAYS,  /* again and again while records flow */
    START,   /* once in every start, also of a fresh directory */
    FRESH,   /* while a directory or a source is new, again if that was interrupted */
    ONCE,    /* once in the life of a directory */
    RECOVER, /* in a start on a directory with history */
    TORN,    /* in a start that finds bytes behind the end of the log */
    DAMAGED, /* in a start that finds a damaged checkpoint */
    QUIET,   /* when nothing arrives for a while */
    STOP,    /* in an orderly end */
    KAFKA,   /* in the Kafka sink: test_kafka_kills.c, on a real broker */
    FILES,   /* in the directory source: test_directory_power.c, every step of the simulated disk */
};
static const struct {
    const char *name;
    enum phase phase;
} points[] = {
    {"PUBLISH_AFTER_WRITE", ALWAYS},
    {"PUBLISH_AFTER_SYNC", ALWAYS},
    {"PUBLISH_AFTER_RENAME", ALWAYS},
    {"PUBLISH_AFTER_DIR_SYNC", ALWAYS},
    {"DIR_AFTER_LOCK", START},
    {"DIR_AFTER_MKDIR", FRESH},
    {"DIR_BEFORE_FORMAT", FRESH},
    {"DIR_AFTER_FORMAT", ONCE},
    {"SEGMENT_AFTER_ZERO", ALWAYS},
    {"SEGMENT_AFTER_HEADER", ALWAYS},
    {"SEGMENT_AFTER_SYNC", ALWAYS},
    {"SEGMENT_AFTER_RENAME", ALWAYS},
    {"SEGMENT_AFTER_DIR_SYNC", ALWAYS},
    {"RECYCLE_AFTER_IMPRINT", ALWAYS},
    {"RECYCLE_AFTER_HEADER", ALWAYS},
    {"RECYCLE_AFTER_SYNC", ALWAYS},
    {"RECYCLE_AFTER_RENAME", ALWAYS},
    {"RECYCLE_AFTER_DIR_SYNC", ALWAYS},
    {"WAL_BEFORE_WRITE", ALWAYS},
    {"WAL_AFTER_WRITE", ALWAYS},
    {"WAL_AFTER_SYNC", ALWAYS},
    {"WAL_BEFORE_ACK", ALWAYS},
    {"WAL_AFTER_ROLL", ALWAYS},
    {"WAL_AFTER_IDLE_SEAL", QUIET},
    {"WAL_BEFORE_TRIM", ALWAYS},
    {"WAL_AFTER_TRIM_ONE", ALWAYS},
    {"WAL_AFTER_TRIM", ALWAYS},
    {"CKPT_AFTER_GATHER", ALWAYS},
    {"CKPT_AFTER_BUILD", ALWAYS},
    {"CKPT_AFTER_VERIFY", ALWAYS},
    {"CKPT_AFTER_SYNC", ALWAYS},
    {"CKPT_AFTER_RENAME", ALWAYS},
    {"CKPT_AFTER_DIR_SYNC", ALWAYS},
    {"CKPT_BEFORE_REMOVE", ALWAYS},
    {"CKPT_AFTER_REMOVE", ALWAYS},
    {"FOLD_AFTER_BUILD", ALWAYS},
    {"FOLD_AFTER_PUBLISH", ALWAYS},
    {"REC_AFTER_FACTS", RECOVER},
    {"REC_AFTER_PLAN", RECOVER},
    {"REC_AFTER_REBUILD_WRITE", START},
    {"REC_AFTER_REBUILD_SYNC", START},
    {"REC_AFTER_REBUILD_RENAME", START},
    {"REC_AFTER_REBUILD_DIR_SYNC", START},
    {"REC_AFTER_QUARANTINE", TORN},
    {"REC_AFTER_VOID", TORN},
    {"REC_AFTER_SET_ASIDE", DAMAGED},
    {"REC_AFTER_STATE", RECOVER},
    {"REC_AFTER_REPLAY", RECOVER},
    {"BLOCK_BEFORE_APPEND", ALWAYS},
    {"BLOCK_AFTER_APPEND", ALWAYS},
    {"BATCH_BEFORE_OPEN", ALWAYS},
    {"BATCH_AFTER_OPEN", ALWAYS},
    {"BATCH_AFTER_COMPUTE", ALWAYS},
    {"BATCH_AFTER_RESULT", ALWAYS},
    {"BATCH_RESULT_DURABLE", ALWAYS},
    {"SINK_BEFORE_BEGIN", ALWAYS},
    {"SINK_AFTER_BEGIN", ALWAYS},
    {"SINK_AFTER_WRITE", ALWAYS},
    {"SINK_BEFORE_COMMIT", ALWAYS},
    {"SINK_AFTER_COMMIT", ALWAYS},
    {"SINK_NOTE_DURABLE", KAFKA},
    {"BATCH_AFTER_DONE", ALWAYS},
    {"FILE_SINK_AFTER_WRITE", ALWAYS},
    {"FILE_SINK_AFTER_SYNC", ALWAYS},
    {"FILE_SINK_AFTER_LEDGER", ALWAYS},
    {"FILE_SINK_AFTER_RENAME", ALWAYS},
    {"FILE_SINK_AFTER_DIR_SYNC", ALWAYS},
    {"KSINK_AFTER_INIT", KAFKA},
    {"KSINK_AFTER_FIRST_TOKEN", KAFKA},
    {"KSINK_AFTER_BEGIN", KAFKA},
    {"KSINK_AFTER_PRODUCE", KAFKA},
    {"KSINK_AFTER_SEND_OFFSETS", KAFKA},
    {"KSINK_AFTER_PART", KAFKA},
    {"KSINK_AFTER_COMMIT", KAFKA},
    {"SOURCE_BEFORE_INIT", FRESH},
    {"SOURCE_AFTER_INIT", ONCE},
    {"LEDGER_AFTER_WRITE", FILES},
    {"LEDGER_AFTER_SYNC", FILES},
    {"LEDGER_AFTER_SEEN", FILES},
    {"STOP_BEFORE_DRAIN", STOP},
    {"STOP_AFTER_DRAIN", STOP},
};
#define POINTS ((int)(sizeof points / sizeof points[0]))

enum column { FIRST, LATER, RECOVERY, COLUMNS };
static const char *const column_names[] = {"first", "later", "recovery"};

static void fail_trial(const struct trial *t, const char *point, int column, const char *what)
{
    ck_abort_msg("%s (%s), seed %llu: %s %s", point, column_names[column],
                 (unsigned long long)t->seed, what, t->why);
}

/* A life that must die at the point's hit-th pass. */
static void die(struct trial *t, int column, const char *point, enum phase phase, uint64_t hit)
{
    struct trial_life life = {.point = point, .hit = hit, .forever = true};

    if (phase == STOP) {
        life.forever = false;
        life.records = t->appended + 3 * JOB_SET;
    }
    life.idle = phase == QUIET;
    int code = trial_run(t, &life);
    if (code != TRIAL_KILLED) {
        (void)snprintf(t->why, sizeof t->why, "the child ended with %d: %s", code, trial_said(t));
        fail_trial(t, point, column, code == TRIAL_TOO_LATE ? "was not reached:" : "not killed:");
    }
    if (!trial_fine(t)) {
        fail_trial(t, point, column, "after the kill:");
    }
}

/* Some history: batches in all states, a log that was not sealed. */
static void history(struct trial *t, int column)
{
    die(t, column, "BATCH_RESULT_DURABLE", ALWAYS, 6);
}

/* What a start must find for the point to be passed. */
static void prepare(struct trial *t, int column, enum phase phase)
{
    if (phase == DAMAGED) {
        /* Two disjoint chains exist once the log was trimmed: then any file may be lost. */
        die(t, column, "WAL_AFTER_TRIM", ALWAYS, 1);
        ck_assert(trial_flip_checkpoint(t, 5000));
    } else if (phase == RECOVER || phase == TORN) {
        history(t, column);
    }
    if (phase == TORN) {
        trial_tear_tail(t);
    }
}

static void first(struct trial *t, const char *point, enum phase phase)
{
    prepare(t, FIRST, phase);
    die(t, FIRST, point, phase, 1);
}

static void later(struct trial *t, const char *point, enum phase phase)
{
    switch (phase) {
    case ALWAYS:
        die(t, LATER, point, phase, 4);
        return;
    case QUIET:
        die(t, LATER, point, phase, 2);
        return;
    case FRESH:
    case ONCE: /* an earlier attempt has got this far */
        die(t, LATER, "DIR_BEFORE_FORMAT", FRESH, 1);
        die(t, LATER, point, phase, 1);
        return;
    case START:
    case RECOVER:
    case TORN:
    case DAMAGED:
    case STOP:
    case KAFKA:
    case FILES:
        break;
    }
    history(t, LATER);
    prepare(t, LATER, phase);
    history(t, LATER);
    prepare(t, LATER, phase);
    die(t, LATER, point, phase, 1);
}

/* The point in a life that recovers; then the recovery from that is killed as well. */
static void recovery(struct trial *t, const char *point, enum phase phase)
{
    if (phase == FRESH || phase == ONCE) {
        /* There is nothing to recover yet but the attempt to create. */
        die(t, RECOVERY, "DIR_AFTER_LOCK", START, 1);
        die(t, RECOVERY, point, phase, 1);
    } else {
        history(t, RECOVERY);
        prepare(t, RECOVERY, phase);
        die(t, RECOVERY, point, phase, 1);
        if (phase == TORN) {
            trial_tear_tail(t);
        }
    }
    die(t, RECOVERY, "REC_AFTER_REBUILD_SYNC", START, 1);
    if (phase == RECOVER) {
        die(t, RECOVERY, point, phase, 1);
    }
}

static void strike(int point, int column, uint64_t seed)
{
    static void (*const columns[])(struct trial *, const char *, enum phase) = {first, later,
                                                                                recovery};
    struct trial t;

    trial_open(&t, seed);
    columns[column](&t, points[point].name, points[point].phase);
    if (!trial_finish(&t, 2 * JOB_SET)) {
        fail_trial(&t, points[point].name, column, "at the end:");
    }
    trial_close(&t);
}

/* POINTS=NAME,NAME… : only these. */
static bool wanted(const char *name)
{
    const char *at = getenv("POINTS");
    size_t n = strlen(name);

    if (!at || !*at) {
        return true;
    }
    for (; (at = strstr(at, name)) != NULL; at += n) {
        if ((at[n] == ',' || !at[n]) && (at == getenv("POINTS") || at[-1] == ',')) {
            return true;
        }
    }
    return false;
}

START_TEST(every_point_has_a_phase_and_every_phase_a_point)
{
    size_t n;
    const char *const *names = levee_crash_point_names(&n);

    ck_assert_uint_eq(n, POINTS);
    for (size_t i = 0; i < n; i++) {
        ck_assert_str_eq(names[i], points[i].name);
    }
}
END_TEST

START_TEST(a_kill_at_this_point_loses_and_repeats_nothing)
{
    uint64_t seed = numbered_from("SEED", 1);
    bool sample = numbered_from("LEVEE_SAMPLE", 0) == 1;

    if (points[_i].phase == KAFKA || points[_i].phase == FILES) {
        return;
    }
    for (int column = 0; column < COLUMNS && wanted(points[_i].name); column++) {
        if (!sample || column == (int)((seed + (uint64_t)_i) % COLUMNS)) {
            strike(_i, column, seed * 1000 + (uint64_t)_i);
        }
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("kill at every point");
    TCase *table = tcase_create("table"), *kills = tcase_create("points");

    tcase_add_test(table, every_point_has_a_phase_and_every_phase_a_point);
    tcase_set_timeout(kills, 120);
    tcase_add_loop_test(kills, a_kill_at_this_point_loses_and_repeats_nothing, 0, POINTS);
    suite_add_tcase(s, table);
    suite_add_tcase(s, kills);
    return suite_main(s);
}
