/*
 * The transactional Kafka sink on a real broker, killed (process death: SIGKILL of the child) at
 * every named point of its path, at random, together with its broker, fenced by copies of its own
 * directory, and robbed of its token. Faults 2.6 and 2.7 as far as they concern a sink.
 *
 * The oracle is that of kafka_trial.h. The topic has one partition, so that the order of the
 * batches shows.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/fault/kafka_trial.h"

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
    ktrial_open(&t, &broker, 400 + (uint64_t)_i, 1);
    for (uint64_t hit = 1; hit <= 3; hit++) {
        struct trial_life life = {.point = points[_i], .hit = hit == 2 ? 4 : 1, .forever = true};
        bool once =
            strstr(points[_i], "INIT") || strstr(points[_i], "FIRST") || strstr(points[_i], "NOTE");
        if (once) { /* a start whose place has not changed since has nothing new to note */
            life.hit = 1;
            ck_assert_int_eq(trial_run(&t, &(struct trial_life){.records = t.appended + 30}), 0);
            ktrial_must_be_fine(&t, "between");
        }
        int code = trial_run(&t, &life);
        ck_assert_msg(code == TRIAL_KILLED, "%s, hit %d: ended with %d: %s", points[_i],
                      (int)life.hit, code, trial_said(&t));
        ktrial_must_be_fine(&t, points[_i]);
    }
    ktrial_must_finish(&t);
}
END_TEST

static const char *const part_points[] = {
    "KSINK_AFTER_PART",         "KSINK_AFTER_BEGIN",  "KSINK_AFTER_PRODUCE",
    "KSINK_AFTER_SEND_OFFSETS", "KSINK_AFTER_COMMIT",
};
#define PART_POINTS ((int)(sizeof part_points / sizeof part_points[0]))

/* Batches in parts of a few records: a kill between two parts, or within one, leaves a part that
 * the next life does not repeat. */
START_TEST(a_kill_between_the_parts_of_a_batch_loses_and_repeats_nothing)
{
    struct trial t;

    if (!there_is_a_broker()) {
        return;
    }
    ktrial_open(&t, &broker, 500 + (uint64_t)_i, 1);
    t.part_bytes = 300;
    for (uint64_t hit = 1; hit <= 13; hit += 3) {
        struct trial_life life = {.point = part_points[_i], .hit = hit, .forever = true};
        int code = trial_run(&t, &life);
        ck_assert_msg(code == TRIAL_KILLED, "%s, hit %d: ended with %d: %s", part_points[_i],
                      (int)hit, code, trial_said(&t));
        ktrial_must_be_fine(&t, part_points[_i]);
    }
    ck_assert_uint_gt(t.parts, 5);
    ktrial_must_finish(&t);
}
END_TEST

/* Process death at random instants: somewhere behind a random number of records. */
START_TEST(random_kills_lose_and_repeat_nothing)
{
    struct trial t;
    uint64_t seed = numbered_from("SEED", 7), rng = seed, kills = numbered_from("KILLS", 6);

    if (!there_is_a_broker()) {
        return;
    }
    ktrial_open(&t, &broker, seed, 1);
    for (uint64_t i = 0; i < kills; i++) {
        pid_t pid = trial_spawn(&t, &(struct trial_life){.forever = true});
        rng = rng * 6364136223846793005u + 1442695040888963407u;
        ktrial_wait_for_records(&t, (rng >> 33) % 2000);
        (void)kill(pid, SIGKILL);
        ck_assert_int_eq(trial_wait(&t, pid, TRIAL_PATIENCE_MS), TRIAL_KILLED);
        ktrial_must_be_fine(&t, "random kill");
    }
    ktrial_must_finish(&t);
}
END_TEST

/* ---- the broker (process death of the broker) ---- */

START_TEST(the_broker_dies_and_comes_back_under_a_running_job)
{
    struct trial t;

    if (!there_is_a_broker()) {
        return;
    }
    ktrial_open(&t, &broker, 21, 1);
    pid_t pid = trial_spawn(&t, &(struct trial_life){.forever = true});
    for (int i = 0; i < 2; i++) {
        ktrial_wait_for_more(&t, 200);
        BROKER_MUST(&broker, broker_kill(&broker, SIGKILL, BROKER_ALL));
        BROKER_MUST(&broker, broker_restart(&broker, BROKER_ALL, NULL));
    }
    ktrial_wait_for_more(&t, 200);
    (void)kill(pid, SIGKILL);
    ck_assert_msg(trial_wait(&t, pid, TRIAL_PATIENCE_MS) == TRIAL_KILLED,
                  "it did not live through the broker's death: %s", trial_said(&t));
    ktrial_must_be_fine(&t, "broker killed");
    ktrial_must_finish(&t);
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
    ktrial_open(&t, &broker, 33, 1);
    pid_t old = trial_spawn(&t, &(struct trial_life){.forever = true});
    ktrial_wait_for_records(&t, 200);
    ck_assert_int_eq(kill(old, SIGSTOP), 0);
    ktrial_copy_directory(&t, "copy");
    copy = ktrial_with_directory(&t, "copy");
    pid_t young = trial_spawn(&copy, &(struct trial_life){.forever = true});
    ktrial_wait_for_records(&copy, 200);
    ck_assert_int_eq(kill(old, SIGCONT), 0);
    int code = trial_wait(&t, old, TRIAL_PATIENCE_MS);
    ck_assert_msg(code > 0 && code < 1000, "the zombie ended with %d: %s", code, trial_said(&t));
    ck_assert_msg(ktrial_said(&t, "SINK_FENCED") && ktrial_said(&t, "epoch"), "%s", trial_said(&t));
    ktrial_wait_for_more(&copy, 100);
    ck_assert_msg(kill(young, SIGKILL) == 0, "the living one was stopped: %s", trial_said(&copy));
    ck_assert_msg(trial_wait(&copy, young, TRIAL_PATIENCE_MS) == TRIAL_KILLED,
                  "the living one was stopped: %s", trial_said(&copy));
    ktrial_must_be_fine(&copy, "zombie");
    ktrial_must_finish(&copy);
}
END_TEST

/* A stale copy is refused, and the living process does not even notice. */
START_TEST(a_stale_copy_is_refused_without_fencing_the_living)
{
    struct trial t, stale;

    if (!there_is_a_broker()) {
        return;
    }
    ktrial_open(&t, &broker, 34, 1);
    ck_assert_int_eq(trial_run(&t, &(struct trial_life){.records = 60}), 0);
    ktrial_copy_directory(&t, "stale");
    pid_t living = trial_spawn(&t, &(struct trial_life){.forever = true});
    ktrial_wait_for_records(&t, 200);
    stale = ktrial_with_directory(&t, "stale");
    int code = trial_run(&stale, &(struct trial_life){.records = 90});
    ck_assert_msg(code > 0 && code < 1000, "it ended with %d: %s", code, trial_said(&stale));
    ck_assert_msg(ktrial_said(&stale, "SINK_AHEAD") && ktrial_said(&stale, "epoch"), "%s",
                  trial_said(&stale));
    ktrial_wait_for_more(&t, 100);
    ck_assert_int_eq(kill(living, SIGKILL), 0);
    ck_assert_msg(trial_wait(&t, living, TRIAL_PATIENCE_MS) == TRIAL_KILLED,
                  "the living one was stopped: %s", trial_said(&t));
    ktrial_must_be_fine(&t, "stale copy");
    ktrial_must_finish(&t);
}
END_TEST

/* ---- the token is gone ---- */

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
    ktrial_open(&t, &broker, 50, 1);
    for (size_t i = 0; i < sizeof before / sizeof before[0]; i++) {
        ck_assert_int_eq(
            trial_run(&t, &(struct trial_life){.point = before[i], .hit = 3, .forever = true}),
            TRIAL_KILLED);
        ktrial_delete_group(&t);
        ktrial_must_be_fine(&t, before[i]);
    }
    ktrial_must_finish(&t);
}
END_TEST

/* The output topic deleted and made anew: what was confirmed is not there, and it is said. */
START_TEST(a_topic_made_anew_is_refused)
{
    struct trial t;

    if (!there_is_a_broker()) {
        return;
    }
    ktrial_open(&t, &broker, 51, 1);
    ck_assert_int_eq(trial_run(&t, &(struct trial_life){.records = 60}), 0);
    BROKER_MUST(&broker, broker_topic_delete(&broker, t.topic));
    BROKER_MUST(&broker, broker_topic_create(&broker, t.topic, 1, 1, NULL));
    int code = trial_run(&t, &(struct trial_life){.records = 90});
    ck_assert_msg(code > 0 && code < 1000, "it ended with %d: %s", code, trial_said(&t));
    ck_assert_msg(ktrial_said(&t, "SINK_BEHIND") && ktrial_said(&t, "made anew"), "%s",
                  trial_said(&t));
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
    ktrial_open(&t, &broker, 52, 1);
    ck_assert_int_eq(trial_run(&t, &(struct trial_life){.records = 60}), 0);
    other = ktrial_with_directory(&t, "other");
    int code = trial_run(&other, &(struct trial_life){.records = 60});
    ck_assert_msg(code > 0 && code < 1000, "it ended with %d: %s", code, trial_said(&other));
    ck_assert_msg(ktrial_said(&other, "SINK_FOREIGN"), "%s", trial_said(&other));
    ktrial_must_be_fine(&t, "another context");
    ktrial_must_finish(&t);
}
END_TEST

/* Idle for longer than the refresh, the token is written again and is still the newest batch's. */
START_TEST(an_idle_sink_keeps_its_token_alive)
{
    struct trial t;

    if (!there_is_a_broker()) {
        return;
    }
    ktrial_open(&t, &broker, 53, 1);
    struct trial_life life = {.records = 600, .idle = true, .refresh_ms = 200};
    ck_assert_msg(trial_run(&t, &life) == 0, "%s", trial_said(&t));
    ktrial_must_be_fine(&t, "refreshed");
    ktrial_must_finish(&t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("the Kafka sink, killed");
    TCase *c = tcase_create("real broker");

    tcase_add_unchecked_fixture(c, start_broker, stop_broker);
    tcase_set_timeout(c, 120);
    tcase_add_loop_test(c, a_kill_at_this_point_of_the_sink_loses_and_repeats_nothing, 0, POINTS);
    tcase_add_loop_test(c, a_kill_between_the_parts_of_a_batch_loses_and_repeats_nothing, 0,
                        PART_POINTS);
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
