/*
 * The transactional Kafka sink on a real broker, killed (process death: SIGKILL of the child) at
 * every named point of its path, at random, together with its broker, fenced by copies of its own
 * directory, and robbed of its token. Faults 2.6 and 2.7 as far as they concern a sink.
 *
 * The oracle is a stranger: it reads the output topic with read_committed and knows nothing of
 * levee but the header that ends a batch. From the beginning of the topic on, the records up to
 * each header must be exactly the totals that the batch's input changes, batch after batch, each
 * once; and what the sender was told to be durable is durable in every later life.
 *
 * The topic has one partition, so that the order of the batches shows.
 */
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tests/fault/crash_trial.h"
#include "tests/fault/numbered.h"
#include "tests/support/broker.h"

static struct broker broker;

static void start_broker(void)
{
    /* Offsets do not expire by themselves here: a deleted group is the same, and at once. */
    (void)broker_start(&broker, "4.1", 1, NULL);
}

static void stop_broker(void)
{
    (void)broker_stop(&broker);
}

static bool there_is_a_broker(void)
{
    if (broker.failure.code == BROKER_ABSENT) {
        suite_skip(broker.failure.what);
        return false;
    }
    ck_assert_msg(broker.failure.code == BROKER_OK, "%s", broker.failure.what);
    return true;
}

/* ---- the oracle ---- */

/* The batch that the record's header names; 0: it has none. */
static uint64_t batch_of(const rd_kafka_message_t *m)
{
    rd_kafka_headers_t *headers = NULL;
    const void *value = NULL;
    const char *at;
    char text[400];
    size_t len = 0;

    if (rd_kafka_message_headers(m, &headers) ||
        rd_kafka_header_get_last(headers, "levee", &value, &len) || len >= sizeof text) {
        return 0;
    }
    memcpy(text, value, len);
    text[len] = '\0';
    at = strstr(text, " batch=");
    return at ? strtoull(at + 7, NULL, 10) : 0;
}

static bool judge_topic(struct trial *t)
{
    static char text[64 * JOB_KEYS];
    struct broker_log log;
    size_t len = 0;
    bool fine = true;

    t->fold = (struct job_fold){.seed = t->seed};
    BROKER_MUST(&broker, broker_read_committed(&broker, t->topic, &log));
    for (size_t i = 0; i < log.count && fine; i++) {
        const rd_kafka_message_t *m = log.records[i];
        if (len + m->key_len + m->len + 2 > sizeof text) {
            (void)snprintf(t->why, sizeof t->why, "a batch without an end at offset %" PRId64,
                           m->offset);
            fine = false;
            break;
        }
        len += (size_t)sprintf(text + len, "%.*s\t%.*s\n", (int)m->key_len, (const char *)m->key,
                               (int)m->len, (const char *)m->payload);
        uint64_t batch = batch_of(m);
        if (batch) {
            fine = job_judge(&t->fold, batch, text, len, t->appended, t->why);
            len = 0;
        }
    }
    if (fine && len) {
        (void)snprintf(t->why, sizeof t->why, "the topic ends in the middle of a batch");
        fine = false;
    }
    broker_log_release(&log);
    return fine;
}

/* ---- trials ---- */

static char topic_name[64];

static void open_trial(struct trial *t, uint64_t seed)
{
    static unsigned n;

    trial_open(t, seed);
    (void)snprintf(topic_name, sizeof topic_name, "out-%d-%u", (int)getpid(), n++);
    BROKER_MUST(&broker, broker_topic_create(&broker, topic_name, 1, 1, NULL));
    t->brokers = broker_address(&broker);
    t->topic = topic_name;
    t->collect = judge_topic;
}

static void must_be_fine(struct trial *t, const char *when)
{
    ck_assert_msg(trial_fine(t), "%s: %s\n%s", when, t->why, trial_said(t));
}

static void must_finish(struct trial *t)
{
    ck_assert_msg(trial_finish(t, 30), "%s\n%s", t->why, trial_said(t));
    trial_close(t);
}

static void copy_directory(const struct trial *t, const char *to)
{
    char command[1400];

    (void)snprintf(command, sizeof command, "cp -a '%s' '%s/%s'", t->dir, t->root, to);
    ck_assert_int_eq(system(command), 0); /* NOLINT(cert-env33-c): names of our own making */
}

/* The same trial with another state directory below its root. */
static struct trial with_directory(const struct trial *t, const char *name)
{
    struct trial other = *t;

    (void)snprintf(other.dir, sizeof other.dir, "%s/%s", t->root, name);
    (void)snprintf(other.log, sizeof other.log, "%s/%s.log", t->root, name);
    (void)snprintf(other.status_path, sizeof other.status_path, "%s/%s.status", t->root, name);
    trial_map_status(&other);
    return other;
}

static bool said(const struct trial *t, const char *what)
{
    return strstr(trial_said(t), what) != NULL;
}

/* ---- kills at named points (process death) ---- */

static const char *const points[] = {
    "SINK_NOTE_DURABLE",   "KSINK_AFTER_INIT",    "KSINK_AFTER_FIRST_TOKEN",
    "KSINK_AFTER_BEGIN",   "KSINK_AFTER_PRODUCE", "KSINK_AFTER_SEND_OFFSETS",
    "KSINK_AFTER_COMMIT",  "SINK_BEFORE_BEGIN",   "SINK_AFTER_WRITE",
    "SINK_AFTER_COMMIT",   "BATCH_AFTER_DONE",    "BATCH_RESULT_DURABLE",
    "CKPT_AFTER_DIR_SYNC", "WAL_AFTER_TRIM",
};
#define POINTS ((int)(sizeof points / sizeof points[0]))

/* Killed there when it first comes by, then at a later time if it comes by more than once in a
 * life, then in a recovery: nothing is lost and nothing repeated. */
START_TEST(a_kill_at_this_point_of_the_sink_loses_and_repeats_nothing)
{
    struct trial t;
    const char *only = getenv("POINT");

    if ((only && strcmp(only, points[_i]) != 0) || !there_is_a_broker()) {
        return;
    }
    open_trial(&t, 400 + (uint64_t)_i);
    for (uint64_t hit = 1; hit <= 3; hit++) {
        struct trial_life life = {.point = points[_i], .hit = hit == 2 ? 4 : 1, .forever = true};
        bool once =
            strstr(points[_i], "INIT") || strstr(points[_i], "FIRST") || strstr(points[_i], "NOTE");
        if (once) { /* a start whose place has not changed since has nothing new to note */
            life.hit = 1;
            ck_assert_int_eq(trial_run(&t, &(struct trial_life){.records = t.appended + 30}), 0);
            must_be_fine(&t, "between");
        }
        int code = trial_run(&t, &life);
        ck_assert_msg(code == TRIAL_KILLED, "%s, hit %d: ended with %d: %s", points[_i],
                      (int)life.hit, code, trial_said(&t));
        must_be_fine(&t, points[_i]);
    }
    must_finish(&t);
}
END_TEST

/* Until this many records are in batches that every sink has committed, in the newest life. */
static void wait_for_records(const struct trial *t, uint64_t records)
{
    for (int patience = TRIAL_PATIENCE_MS; patience > 0; patience--) {
        if (__atomic_load_n(&t->status->completed, __ATOMIC_SEQ_CST) >= records) {
            return;
        }
        (void)poll(NULL, 0, 1);
    }
    ck_abort_msg("no progress: %s", trial_said(t));
}

/* So many more than there are now. */
static void wait_for_more(const struct trial *t, uint64_t records)
{
    wait_for_records(t, __atomic_load_n(&t->status->completed, __ATOMIC_SEQ_CST) + records);
}

/* Process death at random instants: somewhere behind a random number of records. */
START_TEST(random_kills_lose_and_repeat_nothing)
{
    struct trial t;
    uint64_t seed = numbered_from("SEED", 7), rng = seed, kills = numbered_from("KILLS", 6);

    if (!there_is_a_broker()) {
        return;
    }
    open_trial(&t, seed);
    for (uint64_t i = 0; i < kills; i++) {
        pid_t pid = trial_spawn(&t, &(struct trial_life){.forever = true});
        rng = rng * 6364136223846793005u + 1442695040888963407u;
        wait_for_records(&t, (rng >> 33) % 2000);
        (void)kill(pid, SIGKILL);
        ck_assert_int_eq(trial_wait(&t, pid, TRIAL_PATIENCE_MS), TRIAL_KILLED);
        must_be_fine(&t, "random kill");
    }
    must_finish(&t);
}
END_TEST

/* ---- the broker (process death of the broker) ---- */

START_TEST(the_broker_dies_and_comes_back_under_a_running_job)
{
    struct trial t;

    if (!there_is_a_broker()) {
        return;
    }
    open_trial(&t, 21);
    pid_t pid = trial_spawn(&t, &(struct trial_life){.forever = true});
    for (int i = 0; i < 2; i++) {
        wait_for_more(&t, 200);
        BROKER_MUST(&broker, broker_kill(&broker, SIGKILL, BROKER_ALL));
        BROKER_MUST(&broker, broker_restart(&broker, BROKER_ALL, NULL));
    }
    wait_for_more(&t, 200);
    (void)kill(pid, SIGKILL);
    ck_assert_msg(trial_wait(&t, pid, TRIAL_PATIENCE_MS) == TRIAL_KILLED,
                  "it did not live through the broker's death: %s", trial_said(&t));
    must_be_fine(&t, "broker killed");
    must_finish(&t);
}
END_TEST

/* ---- two processes of one context ---- */

/* A copy of the directory is started while the original is stopped in the middle of a batch; then
 * the original goes on: it must find itself fenced, say by whom, and write nothing. */
START_TEST(a_zombie_is_fenced_and_says_by_whom)
{
    struct trial t, copy;

    if (!there_is_a_broker()) {
        return;
    }
    open_trial(&t, 33);
    pid_t old = trial_spawn(&t, &(struct trial_life){.forever = true});
    wait_for_records(&t, 200);
    ck_assert_int_eq(kill(old, SIGSTOP), 0);
    copy_directory(&t, "copy");
    copy = with_directory(&t, "copy");
    pid_t young = trial_spawn(&copy, &(struct trial_life){.forever = true});
    wait_for_records(&copy, 200);
    ck_assert_int_eq(kill(old, SIGCONT), 0);
    int code = trial_wait(&t, old, TRIAL_PATIENCE_MS);
    ck_assert_msg(code > 0 && code < 1000, "the zombie ended with %d: %s", code, trial_said(&t));
    ck_assert_msg(said(&t, "SINK_FENCED") && said(&t, "epoch"), "%s", trial_said(&t));
    wait_for_more(&copy, 100);
    ck_assert_msg(kill(young, SIGKILL) == 0, "the living one was stopped: %s", trial_said(&copy));
    ck_assert_msg(trial_wait(&copy, young, TRIAL_PATIENCE_MS) == TRIAL_KILLED,
                  "the living one was stopped: %s", trial_said(&copy));
    must_be_fine(&copy, "zombie");
    must_finish(&copy);
}
END_TEST

/* A stale copy is refused, and the living process does not even notice. */
START_TEST(a_stale_copy_is_refused_without_fencing_the_living)
{
    struct trial t, stale;

    if (!there_is_a_broker()) {
        return;
    }
    open_trial(&t, 34);
    ck_assert_int_eq(trial_run(&t, &(struct trial_life){.records = 60}), 0);
    copy_directory(&t, "stale");
    pid_t living = trial_spawn(&t, &(struct trial_life){.forever = true});
    wait_for_records(&t, 200);
    stale = with_directory(&t, "stale");
    int code = trial_run(&stale, &(struct trial_life){.records = 90});
    ck_assert_msg(code > 0 && code < 1000, "it ended with %d: %s", code, trial_said(&stale));
    ck_assert_msg(said(&stale, "SINK_AHEAD") && said(&stale, "epoch"), "%s", trial_said(&stale));
    wait_for_more(&t, 100);
    ck_assert_int_eq(kill(living, SIGKILL), 0);
    ck_assert_msg(trial_wait(&t, living, TRIAL_PATIENCE_MS) == TRIAL_KILLED,
                  "the living one was stopped: %s", trial_said(&t));
    must_be_fine(&t, "stale copy");
    must_finish(&t);
}
END_TEST

/* ---- the token is gone ---- */

static void delete_group(const struct trial *t)
{
    char group[128];

    (void)snprintf(group, sizeof group, "levee-sink-%s", t->topic);
    BROKER_MUST(&broker, broker_group_delete(&broker, group));
}

/* Offsets expired or the group deleted while the job was down, after a kill that left it open
 * whether the last batch was known to be done: the headers tell. */
START_TEST(a_vanished_token_is_found_in_the_records)
{
    static const char *const before[] = {"KSINK_AFTER_COMMIT", "SINK_AFTER_COMMIT",
                                         "KSINK_AFTER_SEND_OFFSETS", "BATCH_AFTER_DONE"};
    struct trial t;

    if (!there_is_a_broker()) {
        return;
    }
    open_trial(&t, 50);
    for (size_t i = 0; i < sizeof before / sizeof before[0]; i++) {
        ck_assert_int_eq(
            trial_run(&t, &(struct trial_life){.point = before[i], .hit = 3, .forever = true}),
            TRIAL_KILLED);
        delete_group(&t);
        must_be_fine(&t, before[i]);
    }
    must_finish(&t);
}
END_TEST

/* The output topic deleted and made anew: what was confirmed is not there, and it is said. */
START_TEST(a_topic_made_anew_is_refused)
{
    struct trial t;

    if (!there_is_a_broker()) {
        return;
    }
    open_trial(&t, 51);
    ck_assert_int_eq(trial_run(&t, &(struct trial_life){.records = 60}), 0);
    BROKER_MUST(&broker, broker_topic_delete(&broker, t.topic));
    BROKER_MUST(&broker, broker_topic_create(&broker, t.topic, 1, 1, NULL));
    int code = trial_run(&t, &(struct trial_life){.records = 90});
    ck_assert_msg(code > 0 && code < 1000, "it ended with %d: %s", code, trial_said(&t));
    ck_assert_msg(said(&t, "SINK_BEHIND") && said(&t, "made anew"), "%s", trial_said(&t));
    trial_close(&t);
}
END_TEST

/* Another context's topic is left alone. */
START_TEST(a_topic_of_another_context_is_refused)
{
    struct trial t, other;

    if (!there_is_a_broker()) {
        return;
    }
    open_trial(&t, 52);
    ck_assert_int_eq(trial_run(&t, &(struct trial_life){.records = 60}), 0);
    other = with_directory(&t, "other");
    int code = trial_run(&other, &(struct trial_life){.records = 60});
    ck_assert_msg(code > 0 && code < 1000, "it ended with %d: %s", code, trial_said(&other));
    ck_assert_msg(said(&other, "SINK_FOREIGN"), "%s", trial_said(&other));
    must_be_fine(&t, "another context");
    must_finish(&t);
}
END_TEST

/* Idle for longer than the refresh, the token is written again and is still the newest batch's. */
START_TEST(an_idle_sink_keeps_its_token_alive)
{
    struct trial t;

    if (!there_is_a_broker()) {
        return;
    }
    open_trial(&t, 53);
    struct trial_life life = {.records = 600, .idle = true, .refresh_ms = 200};
    ck_assert_msg(trial_run(&t, &life) == 0, "%s", trial_said(&t));
    must_be_fine(&t, "refreshed");
    must_finish(&t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("the Kafka sink, killed");
    TCase *c = tcase_create("real broker");

    tcase_add_unchecked_fixture(c, start_broker, stop_broker);
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, a_kill_at_this_point_of_the_sink_loses_and_repeats_nothing, 0, POINTS);
    if (getenv("POINT")) { /* one point alone */
        suite_add_tcase(s, c);
        return suite_main(s);
    }
    tcase_add_test(c, random_kills_lose_and_repeat_nothing);
    tcase_add_test(c, a_zombie_is_fenced_and_says_by_whom);
    tcase_add_test(c, a_stale_copy_is_refused_without_fencing_the_living);
    tcase_add_test(c, a_vanished_token_is_found_in_the_records);
    tcase_add_test(c, a_topic_made_anew_is_refused);
    tcase_add_test(c, a_topic_of_another_context_is_refused);
    tcase_add_test(c, an_idle_sink_keeps_its_token_alive);
    tcase_add_test(c, the_broker_dies_and_comes_back_under_a_running_job);
    suite_add_tcase(s, c);
    return suite_main(s);
}
