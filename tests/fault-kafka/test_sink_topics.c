/*
 * What operators, retention and rights do to the Kafka sink's topic and to its token, on a real
 * broker: the token expires or is deleted, the topic is deleted, made anew, trimmed, given more
 * partitions; another process of the same context; rights that are missing; a
 * broker that cannot do what is needed. No loss is meant beside it unless a test says so (SIGKILL:
 * process death).
 *
 * The oracle is that of kafka_trial.h. Where the job cannot go on, the error must be typed and name
 * what was found; where it can, nothing is lost or repeated.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fault/kafka_trial.h"

#define GONE_MS (150 * 1000)

static struct broker broker;

/* Until the group has no token any more. */
static void wait_until_forgotten(const struct trial *t)
{
    char group[128];
    int64_t offset = 0;

    (void)snprintf(group, sizeof group, "levee-sink-%s", t->topic);
    for (int patience = GONE_MS; offset >= 0; patience -= 500) {
        ck_assert_msg(patience > 0, "the broker does not forget the offsets of %s", group);
        (void)poll(NULL, 0, 500);
        BROKER_MUST(&broker, broker_committed(&broker, group, t->topic, 0, &offset));
    }
}

static void wait_until_said(const struct trial *t, const char *what)
{
    for (int patience = TRIAL_PATIENCE_MS; !ktrial_said(t, what); patience -= 20) {
        ck_assert_msg(patience > 0, "it did not say \"%s\": %s", what, trial_said(t));
        (void)poll(NULL, 0, 20);
    }
}

/* The process ends by itself, with an error of these words. */
static void must_end_saying(struct trial *t, pid_t pid, const char *code, const char *word)
{
    int ended = trial_wait(t, pid, TRIAL_PATIENCE_MS);

    ck_assert_msg(ended > 0 && ended < 1000, "it ended with %d: %s", ended, trial_said(t));
    ck_assert_msg(ktrial_said(t, code) && ktrial_said(t, word), "no %s, %s in: %s", code, word,
                  trial_said(t));
}

/* ---- the token ---- */

/* Offsets kept for a minute, looked at every second: what is down for longer finds no token. One
 * trial for each state that a life can leave behind, all asleep at the same time. */
static const struct {
    const char *point; /* NULL: a drained end */
    uint64_t hit;
    bool first_life;
} before_the_sleep[] = {
    {NULL, 0, true},
    {"KSINK_AFTER_COMMIT", 4, false},
    {"SINK_AFTER_COMMIT", 3, false},
    {"BATCH_AFTER_DONE", 2, false},
    /* before the first batch was known to be done */
    {"KSINK_AFTER_FIRST_TOKEN", 1, true},
    {"KSINK_AFTER_PRODUCE", 1, true},
    {"KSINK_AFTER_COMMIT", 1, true},
    {"KSINK_AFTER_COMMIT", 2, true},
    {"SINK_AFTER_COMMIT", 1, true},
};
#define SLEEPERS (sizeof before_the_sleep / sizeof before_the_sleep[0])

START_TEST(l_expired_the_token_is_forgotten_during_downtime)
{
    struct trial t[SLEEPERS];

    if (!broker_usable(&broker) || !numbered_full()) { /* it takes a minute and a half */
        return;
    }
    for (size_t i = 0; i < SLEEPERS; i++) {
        struct trial_life life = {.point = before_the_sleep[i].point,
                                  .hit = before_the_sleep[i].hit,
                                  .forever = before_the_sleep[i].point != NULL,
                                  .records = 60};
        ktrial_open(&t[i], &broker, 500 + i, 1);
        if (!before_the_sleep[i].first_life) {
            ck_assert_int_eq(trial_run(&t[i], &(struct trial_life){.records = 60}), 0);
            ktrial_must_be_fine(&t[i], "first life");
        }
        int code = trial_run(&t[i], &life);
        ck_assert_msg(code == (life.point ? TRIAL_KILLED : 0), "%zu: ended with %d: %s", i, code,
                      trial_said(&t[i]));
    }
    for (size_t i = 0; i < SLEEPERS; i++) {
        wait_until_forgotten(&t[i]);
        ktrial_must_be_fine(&t[i], "asleep");
    }
    for (size_t i = 0; i < SLEEPERS; i++) {
        ktrial_must_finish(&t[i]);
    }
    numbered_trials("l_expired_the_token_is_forgotten_during_downtime", SLEEPERS);
}
END_TEST

/* The same, the group deleted instead: at once, and so for every point. */
START_TEST(l_unconfirmed_the_token_vanishes_before_a_batch_is_known_to_be_done)
{
    static const char *const points[] = {
        "KSINK_AFTER_INIT", "KSINK_AFTER_FIRST_TOKEN", "SINK_NOTE_DURABLE",  "KSINK_AFTER_BEGIN",
        "SINK_AFTER_WRITE", "KSINK_AFTER_PRODUCE",     "KSINK_AFTER_COMMIT", "SINK_AFTER_COMMIT"};
    struct trial t;

    if (!broker_usable(&broker)) {
        return;
    }
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++) {
        char group[128];
        int64_t offset = -1;
        ktrial_open(&t, &broker, 520 + i, 1);
        struct trial_life life = {.point = points[i], .hit = 1, .forever = true};
        ck_assert_int_eq(trial_run(&t, &life), TRIAL_KILLED);
        (void)snprintf(group, sizeof group, "levee-sink-%s", t.topic);
        BROKER_MUST(&broker, broker_committed(&broker, group, t.topic, 0, &offset));
        if (offset >= 0) {
            ktrial_delete_group(&t);
        }
        ktrial_must_be_fine(&t, points[i]);
        ktrial_must_finish(&t);
    }
    numbered_trials("l_unconfirmed_the_token_vanishes_before_a_batch_is_known_to_be_done",
                    sizeof points / sizeof points[0]);
}
END_TEST

/* Under a running job it costs nothing: the next batch brings the token again. Then a kill. */
START_TEST(l_group_the_group_is_deleted_under_a_running_job)
{
    struct trial t;

    if (!broker_usable(&broker)) {
        return;
    }
    ktrial_open(&t, &broker, 531, 1);
    for (int i = 0; i < 3; i++) {
        pid_t pid = trial_spawn(&t, &(struct trial_life){.forever = true});
        ktrial_wait_for_records(&t, 200);
        ktrial_delete_group(&t);
        ktrial_wait_for_more(&t, i == 1 ? 0 : 200);
        ktrial_kill(&t, pid, "group deleted");
    }
    ktrial_must_finish(&t);
}
END_TEST

/* ---- the topic ---- */

START_TEST(l_deleted_the_topic_is_gone_at_start)
{
    struct trial t;

    if (!broker_usable(&broker)) {
        return;
    }
    ktrial_open(&t, &broker, 540, 1);
    ck_assert_int_eq(trial_run(&t, &(struct trial_life){.records = 60}), 0);
    BROKER_MUST(&broker, broker_topic_delete(&broker, t.topic));
    ktrial_must_refuse(&t, "TOPIC", t.topic);
    /* Made again it is not the same one: what was confirmed is not in it. */
    BROKER_MUST(&broker, broker_topic_create(&broker, t.topic, 1, 1, NULL));
    ktrial_must_refuse(&t, "SINK_BEHIND", "made anew");
    trial_close(&t);
}
END_TEST

/* What was written is gone; nobody may go on as if it were there. */
START_TEST(l_recreated_the_topic_is_made_anew_under_a_running_job)
{
    struct trial t;

    if (!broker_usable(&broker)) {
        return;
    }
    for (int again = 0; again < 2; again++) {
        ktrial_open(&t, &broker, 541, 1);
        pid_t pid = trial_spawn(&t, &(struct trial_life){.forever = true, .timeout_ms = 3000});
        ktrial_wait_for_records(&t, 200);
        BROKER_MUST(&broker, broker_topic_delete(&broker, t.topic));
        if (again) {
            wait_until_said(&t, "waiting for");
        }
        BROKER_MUST(&broker, broker_topic_create(&broker, t.topic, 1, 1, NULL));
        must_end_saying(&t, pid, "SINK_BEHIND", "made anew");
        ktrial_must_refuse(&t, "SINK_BEHIND", "made anew");
        trial_close(&t);
    }
}
END_TEST

/* One partition, then four: while it runs, while it is down, and with a kill in between. */
START_TEST(l_grown_the_topic_gets_more_partitions)
{
    struct trial t;

    if (!broker_usable(&broker)) {
        return;
    }
    for (int running = 0; running < 2; running++) {
        ktrial_open(&t, &broker, 543, 2);
        pid_t pid = trial_spawn(&t, &(struct trial_life){.forever = true});
        ktrial_wait_for_records(&t, 200);
        if (!running) {
            ktrial_kill(&t, pid, "before it grows");
        }
        BROKER_MUST(&broker, broker_topic_grow(&broker, t.topic, 5));
        if (!running) {
            pid = trial_spawn(&t, &(struct trial_life){.forever = true});
        }
        ktrial_wait_for_more(&t, 200);
        ktrial_kill(&t, pid, "grown");
        ktrial_delete_group(&t); /* the new partitions have no remembered ends */
        ktrial_must_finish(&t);
    }
}
END_TEST

/* Token and records gone, as by retention during a long downtime: nothing is left that tells how
 * far it came, and that is said. Without the group's loss it goes on. */
START_TEST(l_trimmed_without_token_and_records_it_is_said)
{
    struct trial t;

    if (!broker_usable(&broker)) {
        return;
    }
    ktrial_open(&t, &broker, 545, 1);
    ck_assert_int_eq(
        trial_run(&t,
                  &(struct trial_life){.point = "KSINK_AFTER_COMMIT", .hit = 5, .forever = true}),
        TRIAL_KILLED);
    ktrial_must_be_fine(&t, "before the trim");
    BROKER_MUST(&broker, broker_topic_trim(&broker, t.topic, 0, -1));
    ktrial_delete_group(&t);
    ktrial_must_refuse(&t, "SINK_BEHIND", "gone");
    trial_close(&t);
}
END_TEST

/* ---- a broker that refuses ---- */

/* Each right that the sink needs, taken away under a running job and at start: an error that names
 * it, nothing half done; given back, everything is there once. Rights to transactional ids cannot
 * be changed by librdkafka 2.0.2: l_forged_… answers as a broker does that denies them. */
static const struct {
    rd_kafka_ResourceType_t type;
    rd_kafka_AclOperation_t operation;
    const char *word; /* in one of two spellings of the client's */
    const char *or_word;
} rights[] = {
    {RD_KAFKA_RESOURCE_TOPIC, RD_KAFKA_ACL_OPERATION_WRITE, "TOPIC_AUTHORIZATION_FAILED",
     "Topic authorization failed"},
    {RD_KAFKA_RESOURCE_TOPIC, RD_KAFKA_ACL_OPERATION_DESCRIBE, "TOPIC_AUTHORIZATION_FAILED",
     "Topic authorization failed"},
    {RD_KAFKA_RESOURCE_GROUP, RD_KAFKA_ACL_OPERATION_READ, "GROUP_AUTHORIZATION_FAILED",
     "Group authorization failed"},
    {RD_KAFKA_RESOURCE_GROUP, RD_KAFKA_ACL_OPERATION_DESCRIBE, "GROUP_AUTHORIZATION_FAILED",
     "Group authorization failed"},
};
#define RIGHTS ((int)(sizeof rights / sizeof rights[0]))

static void deny(const struct trial *t, int right)
{
    char group[128];

    (void)snprintf(group, sizeof group, "levee-sink-%s", t->topic);
    BROKER_MUST(&broker,
                broker_deny(&broker, rights[right].type,
                            rights[right].type == RD_KAFKA_RESOURCE_TOPIC ? t->topic : group,
                            rights[right].operation));
}

START_TEST(l_acl_a_missing_right_is_named)
{
    struct trial t;

    if (!broker_usable(&broker)) {
        return;
    }
    ktrial_open(&t, &broker, 560, 1);
    for (int i = 0; i < RIGHTS; i++) {
        pid_t pid = trial_spawn(&t, &(struct trial_life){.forever = true, .timeout_ms = 3000});
        ktrial_wait_for_records(&t, 100);
        deny(&t, i);
        if (rights[i].operation == RD_KAFKA_ACL_OPERATION_DESCRIBE) { /* asked for only at start */
            (void)kill(pid, SIGKILL);
            ck_assert_int_eq(trial_wait(&t, pid, TRIAL_PATIENCE_MS), TRIAL_KILLED);
        } else {
            must_end_saying(&t, pid, "SINK_FAILED", "failed");
            ck_assert(ktrial_said(&t, rights[i].word) || ktrial_said(&t, rights[i].or_word));
            ck_assert_int_eq(truncate(t.log, 0), 0);
        }
        ktrial_must_refuse(&t, "SINK_FAILED", "failed");
        ck_assert(ktrial_said(&t, rights[i].word) || ktrial_said(&t, rights[i].or_word));
        ck_assert_int_eq(truncate(t.log, 0), 0);
        BROKER_MUST(&broker, broker_allow_all(&broker));
        ktrial_must_be_fine(&t, rights[i].word);
    }
    ktrial_must_finish(&t);
    numbered_trials("l_acl_a_missing_right_is_named", 2 * RIGHTS);
}
END_TEST

/* ---- two of them ---- */

/* A copy of the directory is started while the original runs on: whoever wins, one of them ends
 * with a typed error, and what the other writes is whole. */
START_TEST(l_two_processes_of_one_context_never_both_write)
{
    struct trial t, copy;
    unsigned originals = 0, rounds = numbered_full() ? 8 : 2;

    if (!broker_usable(&broker)) {
        return;
    }
    for (unsigned i = 0; i < rounds; i++) {
        ktrial_open(&t, &broker, 580 + i, 1);
        pid_t old = trial_spawn(&t, &(struct trial_life){.forever = true, .timeout_ms = 3000});
        ktrial_wait_for_records(&t, 200);
        ck_assert_int_eq(kill(old, SIGSTOP), 0);
        trial_wait_stopped(&t, old);
        ktrial_copy_directory(&t, "copy");
        copy = ktrial_with_directory(&t, "copy");
        /* Each has its own sender, who is promised what that one has. */
        (void)snprintf(copy.acks, sizeof copy.acks, "%s/copy.acks", t.root);
        pid_t young = trial_spawn(&copy, &(struct trial_life){.forever = true, .timeout_ms = 3000});
        (void)poll(NULL, 0, (int)(i * 15)); /* somewhere in its start */
        ck_assert_int_eq(kill(old, SIGCONT), 0);
        int status = 0;
        pid_t ended = waitpid(-1, &status, 0);
        ck_assert_msg(WIFEXITED(status) && WEXITSTATUS(status), "%s ended with status %#x: %s, %s",
                      ended == old ? "the original" : "the copy", (unsigned)status, trial_said(&t),
                      trial_said(&copy));
        struct trial *lost = ended == old ? &t : &copy, *won = ended == old ? &copy : &t;
        ck_assert_msg(ktrial_said(lost, "SINK_FENCED") || ktrial_said(lost, "SINK_AHEAD"), "%s",
                      trial_said(lost));
        originals += won == &t;
        ktrial_wait_for_more(won, 100);
        ktrial_kill(won, ended == old ? young : old, "the winner");
        /* The loser's sender was promised what the loser has; the winner's went on from the copy.
         */
        ktrial_must_finish(won);
    }
    numbered_trials("l_two_processes_of_one_context_never_both_write", rounds);
    printf("two: the original went on in %u of %u\n", originals, rounds);
}
END_TEST

int main(void)
{
    static const char *const properties[] = {
        "offsets.retention.minutes=1", "offsets.retention.check.interval.ms=1000",
        "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found=true", NULL};
    Suite *s = suite_create("topic and token of the Kafka sink");
    const TTest *tests[] = {
        l_expired_the_token_is_forgotten_during_downtime,
        l_unconfirmed_the_token_vanishes_before_a_batch_is_known_to_be_done,
        l_group_the_group_is_deleted_under_a_running_job,
        l_deleted_the_topic_is_gone_at_start,
        l_recreated_the_topic_is_made_anew_under_a_running_job,
        l_grown_the_topic_gets_more_partitions,
        l_trimmed_without_token_and_records_it_is_said,
        l_acl_a_missing_right_is_named,
        l_two_processes_of_one_context_never_both_write,
    };

    (void)broker_start(&broker, ktrial_version(), 1, properties);
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        numbered_add(s, tests[i], numbered_full() ? 600 : 60);
    }
    int code = suite_main(s);
    (void)broker_stop(&broker);
    return code;
}
