/*
 * The Kafka sink's broker away, slow, silent, killed, full; its process stopped, its clock changed;
 * one of two sinks down, a sink added by an upgrade. On real brokers. Loss: none unless a test says
 * so (SIGKILL: process death of the job or of the broker).
 *
 * The oracle is that of kafka_trial.h: whatever was away, for however long, the topic holds each
 * total once, and what a sender was told to be durable is.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/fault/kafka_trial.h"
#include "tests/support/broker_proxy.h"

#define SHORT_TXN_MS 1500

static struct broker broker, other;
static struct proxy proxy;

static void wait_for_acks(const struct trial *t, uint64_t more)
{
    uint64_t until = ktrial_acked(t) + more;

    for (int patience = TRIAL_PATIENCE_MS; ktrial_acked(t) < until; patience -= 5) {
        ck_assert_msg(patience > 0, "nothing is acknowledged: %s", trial_said(t));
        (void)poll(NULL, 0, 5);
    }
}

/* ---- the broker ---- */

/* Away, and the job killed and started meanwhile, twice: it receives and acknowledges all the time,
 * and nothing of it is lost. */
START_TEST(l_away_receiving_goes_on_without_a_broker)
{
    struct trial t;

    if (!broker_usable(&broker)) {
        return;
    }
    ktrial_open(&t, &broker, 601, 1);
    struct trial_life life = {.forever = true, .ahead = 100000, .timeout_ms = SHORT_TXN_MS};
    pid_t pid = trial_spawn(&t, &life);
    ktrial_wait_for_records(&t, 200);
    BROKER_MUST(&broker, broker_kill(&broker, SIGKILL, BROKER_ALL));
    wait_for_acks(&t, 2000);
    for (int i = 0; i < 2; i++) {
        (void)kill(pid, SIGKILL);
        ck_assert_msg(trial_wait(&t, pid, TRIAL_PATIENCE_MS) == TRIAL_KILLED, "%s", trial_said(&t));
        pid = trial_spawn(&t, &life);
        wait_for_acks(&t, 2000);
    }
    BROKER_MUST(&broker, broker_restart(&broker, BROKER_ALL, NULL));
    ktrial_wait_for_records(&t, 200);
    ktrial_kill(&t, pid, "the broker is back");
    ktrial_must_finish(&t);
}
END_TEST

/* Longer than a transaction may last, with one open: it is given up by the broker, and its output
 * made again. Fault 98. */
START_TEST(f98_a_transaction_expires_while_the_broker_is_away)
{
    static const char *const points[] = {"KSINK_AFTER_PRODUCE", "KSINK_AFTER_SEND_OFFSETS"};
    struct trial t;

    if (!broker_usable(&broker)) {
        return;
    }
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++) {
        ktrial_open(&t, &broker, 611 + 2 * i, 1);
        struct trial_life life = {.point = points[i],
                                  .hit = 5,
                                  .stop = true,
                                  .forever = true,
                                  .timeout_ms = SHORT_TXN_MS};
        pid_t pid = trial_spawn(&t, &life);
        trial_wait_stopped(&t, pid);
        BROKER_MUST(&broker, broker_kill(&broker, SIGKILL, BROKER_ALL));
        ck_assert_int_eq(kill(pid, SIGCONT), 0);
        (void)poll(NULL, 0, 2 * SHORT_TXN_MS); /* the outage */
        BROKER_MUST(&broker, broker_restart(&broker, BROKER_ALL, NULL));
        ktrial_wait_for_more(&t, 200);
        ktrial_kill(&t, pid, points[i]);
        ktrial_must_finish(&t);
    }
}
END_TEST

/* Stopped, with its connections open: no answer, no error. */
START_TEST(l_slow_the_broker_is_silent_for_longer_than_a_transaction)
{
    int silent_ms = numbered_full() ? 30000 : 3000;
    struct trial t;

    if (!broker_usable(&broker)) {
        return;
    }
    ktrial_open(&t, &broker, 621, 1);
    struct trial_life life = {
        .forever = true, .ahead = 100000, .timeout_ms = numbered_full() ? 0 : SHORT_TXN_MS};
    pid_t pid = trial_spawn(&t, &life);
    ktrial_wait_for_records(&t, 200);
    BROKER_MUST(&broker, broker_kill(&broker, SIGSTOP, BROKER_ALL));
    uint64_t acked = ktrial_acked(&t);
    (void)poll(NULL, 0, silent_ms);
    ck_assert_uint_gt(ktrial_acked(&t), acked);
    BROKER_MUST(&broker, broker_kill(&broker, SIGCONT, BROKER_ALL));
    ktrial_wait_for_more(&t, 200);
    ktrial_kill(&t, pid, "the broker speaks again");
    ktrial_must_finish(&t);
}
END_TEST

/* Its writes fail, as on a full disk. With room again it comes back, and so does the job, killed
 * meanwhile. */
START_TEST(l_full_the_broker_cannot_write)
{
    static struct broker full;
    char path[600], command[128];
    struct trial t;
    int pid = 0;

    if (!broker_usable(&broker) || !numbered_full()) {
        return;
    }
    BROKER_MUST(&full, broker_start(&full, ktrial_version(), 1, NULL));
    ktrial_open(&t, &full, 631, 1);
    struct trial_life life = {.forever = true, .ahead = 1000, .timeout_ms = SHORT_TXN_MS};
    pid_t job = trial_spawn(&t, &life);
    ktrial_wait_for_records(&t, 200);
    (void)snprintf(path, sizeof path, "%s/node1/pid", full.directory);
    FILE *f = fopen(path, "r");
    ck_assert(f && fscanf(f, "%d", &pid) == 1); /* NOLINT(cert-err34-c): it is our own */
    fclose(f);
    (void)snprintf(command, sizeof command, "prlimit --pid %d --fsize=4096:4096", pid);
    ck_assert_int_eq(system(command), 0); /* NOLINT(cert-env33-c) */
    for (int patience = TRIAL_PATIENCE_MS; !ktrial_said(&t, "waiting for"); patience -= 20) {
        ck_assert_msg(patience > 0, "nothing failed: %s", trial_said(&t));
        (void)poll(NULL, 0, 20);
    }
    (void)kill(job, SIGKILL);
    ck_assert_int_eq(trial_wait(&t, job, TRIAL_PATIENCE_MS), TRIAL_KILLED);
    (void)broker_kill(&full, SIGKILL, BROKER_ALL); /* should it still live */
    BROKER_MUST(&full, broker_restart(&full, BROKER_ALL, NULL));
    ktrial_must_be_fine(&t, "there is room again");
    ktrial_must_finish(&t);
    BROKER_MUST(&full, broker_stop(&full));
}
END_TEST

/* Three nodes, two copies, both wanted: with one gone the topic takes nothing, until it is back. A
 * kill while it waits. */
START_TEST(l_refusing_too_few_replicas_are_waited_out)
{
    static const char *const both[] = {"min.insync.replicas=2", NULL};
    static struct broker three;
    struct trial t;
    unsigned leader = 0, follower = 0;

    if (!broker_usable(&broker) || !numbered_full()) { /* it takes ten seconds */
        return;
    }
    BROKER_MUST(&three, broker_start(&three, ktrial_version(), 3, NULL));
    /* The copies lie on any two of the nodes: the first that is not the leader and whose death
     * stops the writing is the other. */
    ktrial_open_replicated(&t, &three, 641, 2, both);
    BROKER_MUST(&three, broker_topic_leader(&three, t.topic, 0, &leader));
    struct trial_life life = {.forever = true, .timeout_ms = SHORT_TXN_MS};
    pid_t pid = trial_spawn(&t, &life);
    ktrial_wait_for_records(&t, 200);
    for (unsigned node = 1; node <= 3 && !follower; node++) {
        if (node == leader) {
            continue;
        }
        BROKER_MUST(&three, broker_kill(&three, SIGKILL, node));
        for (int patience = 10000; patience > 0 && !follower; patience -= 50) {
            follower = ktrial_said(&t, "waiting for") ? node : 0;
            (void)poll(NULL, 0, 50);
        }
        if (!follower) {
            BROKER_MUST(&three, broker_restart(&three, node, NULL));
        }
    }
    ck_assert_msg(follower, "nobody was missed: %s", trial_said(&t));
    (void)kill(pid, SIGKILL);
    ck_assert_int_eq(trial_wait(&t, pid, TRIAL_PATIENCE_MS), TRIAL_KILLED);
    /* The first life had as much in flight as it may. This one may have more, and finds the topic
     * refusing: what it acknowledges, it acknowledges while the sink waits. */
    life.ahead = 100000;
    pid = trial_spawn(&t, &life);
    wait_for_acks(&t, 2000);
    BROKER_MUST(&three, broker_restart(&three, follower, NULL));
    ktrial_wait_for_records(&t, 200);
    ktrial_kill(&t, pid, "both are back");
    ktrial_must_finish(&t);
    BROKER_MUST(&three, broker_stop(&three));
}
END_TEST

/* ---- the connection ---- */

/* The commit is done, and its answer never comes, although the connection stays. */
START_TEST(f97_a_commit_is_never_answered)
{
    static const enum proxy_api apis[] = {PROXY_END_TXN, PROXY_TXN_OFFSET_COMMIT,
                                          PROXY_ADD_OFFSETS_TO_TXN, PROXY_PRODUCE};
    size_t n = numbered_full() ? 4 : 1;
    struct trial t;

    if (!broker_usable(&broker)) {
        return;
    }
    ktrial_open(&t, &broker, 651, 1);
    pid_t pid = trial_spawn(&t, &(struct trial_life){.forever = true, .timeout_ms = SHORT_TXN_MS});
    for (size_t i = 0; i < n; i++) {
        ktrial_wait_for_more(&t, 100);
        proxy_arm(&proxy, &(struct proxy_rule){apis[i], 3, PROXY_STALL, 0});
        for (int patience = TRIAL_PATIENCE_MS; !proxy_struck(&proxy); patience--) {
            ck_assert_int_gt(patience, 0);
            (void)poll(NULL, 0, 1);
        }
        ktrial_wait_for_more(&t, 800);
    }
    ktrial_kill(&t, pid, "unanswered");
    ktrial_must_finish(&t);
    numbered_trials("f97_a_commit_is_never_answered", n);
}
END_TEST

/* The commit's reply is lost, the process lives or dies of it. */
START_TEST(f100_the_reply_of_a_commit_is_lost)
{
    static const enum proxy_action actions[] = {PROXY_LOSE_REPLY, PROXY_KILL_AT_REPLY};
    uint64_t rounds = numbered_full() ? 20 : 3;
    struct trial t;

    if (!broker_usable(&broker)) {
        return;
    }
    ktrial_open(&t, &broker, 653, 1);
    for (uint64_t i = 0; i < 2 * rounds; i++) {
        proxy_arm(&proxy, &(struct proxy_rule){PROXY_END_TXN, 1 + (unsigned)i, actions[i % 2], 0});
        pid_t pid = trial_spawn(&t, &(struct trial_life){.forever = true});
        proxy_victim(&proxy, pid);
        if (actions[i % 2] == PROXY_KILL_AT_REPLY) {
            ck_assert_int_eq(trial_wait(&t, pid, TRIAL_PATIENCE_MS), TRIAL_KILLED);
        } else {
            for (int patience = TRIAL_PATIENCE_MS; !proxy_struck(&proxy); patience--) {
                ck_assert_msg(patience > 0, "%s", trial_said(&t));
                (void)poll(NULL, 0, 1);
            }
            ktrial_wait_for_more(&t, 40);
            ktrial_kill(&t, pid, "its reply was lost");
        }
        ck_assert(proxy_struck(&proxy));
        ktrial_must_be_fine(&t, "the commit's reply");
    }
    ktrial_must_finish(&t);
    numbered_trials("f100_the_reply_of_a_commit_is_lost", 2 * rounds);
}
END_TEST

/* The group's coordinator calls us a stranger, once and in the middle of a life. */
START_TEST(f96_illegal_generation_is_settled)
{
    struct trial t;

    if (!broker_usable(&broker)) {
        return;
    }
    ktrial_open(&t, &broker, 655, 1);
    pid_t pid = trial_spawn(&t, &(struct trial_life){.forever = true});
    for (unsigned i = 1; i <= 5; i++) {
        ktrial_wait_for_more(&t, 60);
        proxy_arm(&proxy, &(struct proxy_rule){PROXY_TXN_OFFSET_COMMIT, i, PROXY_FORGE,
                                               RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION});
        ktrial_wait_for_more(&t, 400);
        ck_assert(proxy_struck(&proxy));
    }
    ktrial_kill(&t, pid, "illegal generation");
    ktrial_must_finish(&t);
    numbered_trials("f96_illegal_generation_is_settled", 5);
}
END_TEST

/* Records of four partitions, and those of one fail: fault 101; whatever else fails between begin
 * and commit: fault 99. */
START_TEST(f101_half_a_batch_fails)
{
    static const int codes[] = {RD_KAFKA_RESP_ERR_INVALID_MSG,
                                RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
                                RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR, RD_KAFKA_RESP_ERR_UNKNOWN,
                                RD_KAFKA_RESP_ERR_POLICY_VIOLATION};
    struct trial t;

    if (!broker_usable(&broker)) {
        return;
    }
    ktrial_open(&t, &broker, 657, 4);
    pid_t pid = trial_spawn(&t, &(struct trial_life){.forever = true, .timeout_ms = SHORT_TXN_MS});
    for (unsigned i = 0; i < sizeof codes / sizeof codes[0]; i++) {
        ktrial_wait_for_more(&t, 60);
        proxy_arm(&proxy, &(struct proxy_rule){PROXY_PRODUCE, 2 + i, PROXY_FORGE, codes[i]});
        ktrial_wait_for_more(&t, 400);
        ck_assert(proxy_struck(&proxy));
    }
    ktrial_kill(&t, pid, "half a batch");
    ktrial_must_finish(&t);
    numbered_trials("f101_half_a_batch_fails", sizeof codes / sizeof codes[0]);
}
END_TEST

/* A broker that knows no transactions, or not the answer that they rest on: said at start, before
 * anything is written. Forged: what the broker tells of itself lacks it. */
START_TEST(l_version_a_broker_that_cannot_is_named_at_start)
{
    static const enum proxy_api apis[] = {PROXY_INIT_PRODUCER_ID, PROXY_END_TXN,
                                          PROXY_ADD_OFFSETS_TO_TXN, PROXY_TXN_OFFSET_COMMIT};
    struct trial t;

    if (!broker_usable(&broker)) {
        return;
    }
    for (size_t i = 0; i < sizeof apis / sizeof apis[0]; i++) {
        ktrial_open(&t, &broker, 659, 1);
        proxy_arm(&proxy, &(struct proxy_rule){PROXY_API_VERSIONS, 1, PROXY_HIDE, (int)apis[i]});
        ktrial_must_refuse(&t, "SINK_FAILED", "UNSUPPORTED");
        ck_assert(proxy_struck(&proxy));
        proxy_disarm(&proxy);
        ktrial_must_finish(&t);
    }
}
END_TEST

/* ---- the process ---- */

/* Stopped with a transaction open, for longer than that may last: the broker gives it up in the
 * words of a fence, nobody else is there, and the job goes on. */
START_TEST(l_timeout_the_process_sleeps_longer_than_its_transaction)
{
    static const char *const points[] = {"KSINK_AFTER_BEGIN", "KSINK_AFTER_PRODUCE",
                                         "KSINK_AFTER_SEND_OFFSETS", "SINK_AFTER_COMMIT"};
    struct trial t[sizeof points / sizeof points[0]];
    pid_t pids[sizeof points / sizeof points[0]];
    const size_t n = sizeof points / sizeof points[0];

    if (!broker_usable(&broker)) {
        return;
    }
    for (size_t i = 0; i < n; i++) {
        ktrial_open(&t[i], &broker, 661 + 2 * i, 1);
        pids[i] = trial_spawn(&t[i], &(struct trial_life){.point = points[i],
                                                          .hit = 6,
                                                          .stop = true,
                                                          .forever = true,
                                                          .timeout_ms = SHORT_TXN_MS});
    }
    for (size_t i = 0; i < n; i++) {
        trial_wait_stopped(&t[i], pids[i]);
    }
    (void)poll(NULL, 0, 3 * SHORT_TXN_MS); /* their sleep */
    for (size_t i = 0; i < n; i++) {
        ck_assert_int_eq(kill(pids[i], SIGCONT), 0);
        ktrial_wait_for_more(&t[i], 200);
        ktrial_kill(&t[i], pids[i], points[i]);
        ktrial_must_finish(&t[i]);
    }
    numbered_trials("l_timeout_the_process_sleeps_longer_than_its_transaction", n);
}
END_TEST

/* The wall clock of the job jumps while it runs, an hour forth, back, to years ago; and it is
 * killed and started at another time. Nothing of the sink goes by it but the records' times: a day
 * ahead a broker of today refuses them, which is said and waited out, and no record is blamed. */
START_TEST(l_clock_the_wall_clock_jumps)
{
    static const int64_t jumps[] = {3000, -3600, -1700000000, 0, 600};
    const char *build = getenv("BUILD");
    char preload[600], path[400];
    struct trial t;

    if (!broker_usable(&broker)) {
        return;
    }
#ifdef __SANITIZE_ADDRESS__
    return; /* ASan wants to be the first library that is loaded */
#endif
    ktrial_open(&t, &broker, 665, 1);
    (void)snprintf(path, sizeof path, "%s/clock", t.root);
    int fd = open(path, O_RDWR | O_CREAT, 0644);
    ck_assert_int_eq(ftruncate(fd, sizeof(int64_t)), 0);
    int64_t *shift = mmap(NULL, sizeof *shift, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    ck_assert_ptr_ne(shift, MAP_FAILED);
    close(fd);
    (void)snprintf(preload, sizeof preload, "%s/tests/support/interpose/clock.so",
                   build && *build ? build : "build/release");
    ck_assert_int_eq(access(preload, R_OK), 0);
    (void)setenv("LD_PRELOAD", preload, 1);
    (void)setenv("LEVEE_CLOCK_FILE", path, 1);
    pid_t pid = trial_spawn(&t, &(struct trial_life){.forever = true, .timeout_ms = SHORT_TXN_MS});
    for (size_t i = 0; i < sizeof jumps / sizeof jumps[0]; i++) {
        ktrial_wait_for_more(&t, 100);
        __atomic_store_n(shift, jumps[i], __ATOMIC_SEQ_CST);
        ktrial_wait_for_more(&t, 100);
    }
    ktrial_kill(&t, pid, "after the jumps");
    __atomic_store_n(shift, 900, __ATOMIC_SEQ_CST);
    pid = trial_spawn(&t, &(struct trial_life){.forever = true});
    ktrial_wait_for_records(&t, 100);
    if (strcmp(ktrial_version(), "4.1") == 0) {
        __atomic_store_n(shift, 86400, __ATOMIC_SEQ_CST);
        for (int patience = TRIAL_PATIENCE_MS; !ktrial_said(&t, "clock right?"); patience -= 20) {
            ck_assert_msg(patience > 0, "a day ahead: not a word: %s", trial_said(&t));
            (void)poll(NULL, 0, 20);
        }
        __atomic_store_n(shift, 0, __ATOMIC_SEQ_CST);
        ktrial_wait_for_more(&t, 100);
    }
    ktrial_kill(&t, pid, "at another time");
    (void)unsetenv("LD_PRELOAD");
    ktrial_must_finish(&t);
    numbered_trials("l_clock_the_wall_clock_jumps", sizeof jumps / sizeof jumps[0] + 2);
}
END_TEST

/* A copy takes over while the original is stopped exactly there; continued, it is fenced by the
 * next call, says by whom, and writes nothing. */
START_TEST(f95_fenced_at_every_call_of_a_transaction)
{
    static const char *const points[] = {"SINK_BEFORE_BEGIN", "KSINK_AFTER_BEGIN",
                                         "KSINK_AFTER_PRODUCE", "KSINK_AFTER_SEND_OFFSETS"};
    struct trial t, copy;

    if (!broker_usable(&broker)) {
        return;
    }
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++) {
        ktrial_open(&t, &broker, 671 + 2 * i, 1);
        struct trial_life life = {.point = points[i], .hit = 7, .stop = true, .forever = true};
        pid_t old = trial_spawn(&t, &life);
        trial_wait_stopped(&t, old);
        ktrial_copy_directory(&t, "copy");
        copy = ktrial_with_directory(&t, "copy");
        pid_t young = trial_spawn(&copy, &(struct trial_life){.forever = true});
        ktrial_wait_for_records(&copy, 200);
        ck_assert_int_eq(kill(old, SIGCONT), 0);
        int code = trial_wait(&t, old, TRIAL_PATIENCE_MS);
        ck_assert_msg(code > 0 && code < 1000, "%s: the zombie ended with %d: %s", points[i], code,
                      trial_said(&t));
        ck_assert_msg(ktrial_said(&t, "SINK_FENCED") && ktrial_said(&t, "epoch"), "%s: %s",
                      points[i], trial_said(&t));
        ktrial_wait_for_more(&copy, 100);
        ktrial_kill(&copy, young, points[i]);
        ktrial_must_finish(&copy);
    }
    numbered_trials("f95_fenced_at_every_call_of_a_transaction", sizeof points / sizeof points[0]);
}
END_TEST

/* ---- two sinks ---- */

/* What a stranger sees. */
static uint64_t committed(const struct trial *t)
{
    struct broker_log log;

    BROKER_MUST(&broker, broker_read_committed(&broker, t->topic, &log));
    uint64_t n = log.count;
    broker_log_release(&log);
    return n;
}

static void wait_for_committed(const struct trial *t, uint64_t until)
{
    for (int patience = TRIAL_PATIENCE_MS; committed(t) < until; patience -= 100) {
        ck_assert_msg(patience > 0, "nothing is committed: %s", trial_said(t));
        (void)poll(NULL, 0, 100);
    }
}

/* The second one's broker is away: the first goes on, and so does acknowledging. The job is killed
 * meanwhile, and begins no new batch until both can be asked what they have (4d.6); when both are
 * there again each has everything once. */
START_TEST(l_second_a_sink_that_is_down_costs_the_other_nothing)
{
    struct trial t, also;

    if (!broker_usable(&broker) || !broker_usable(&other)) {
        return;
    }
    ktrial_open(&also, &other, 681, 1);
    trial_close(&also);
    ktrial_open(&t, &broker, 681, 1);
    t.also_brokers = broker_address(&other);
    t.also_topic = also.topic;
    struct trial_life life = {
        .forever = true, .ahead = 100000, .rate = 5000, .timeout_ms = SHORT_TXN_MS};
    pid_t pid = trial_spawn(&t, &life);
    ktrial_wait_for_records(&t, 200);
    BROKER_MUST(&other, broker_kill(&other, SIGKILL, BROKER_ALL));
    wait_for_acks(&t, 1000);
    wait_for_committed(&t,
                       committed(&t) + 5000); /* a second's worth, in far more than two batches */
    ktrial_kill(&t, pid, "with one sink");
    pid = trial_spawn(&t, &life);
    wait_for_acks(&t, 1000);
    BROKER_MUST(&other, broker_restart(&other, BROKER_ALL, NULL));
    ktrial_wait_for_more(&t, 200);
    ktrial_kill(&t, pid, "with both again");
    ck_assert_msg(trial_finish(&t, 30), "%s\n%s", t.why, trial_said(&t));
    uint64_t all = t.fold.records;
    also = ktrial_with_topic(&t, t.also_topic, 0);
    ktrial_judge_on(&also, &other);
    ck_assert_msg(also.fold.records == all, "%zu of %zu", (size_t)also.fold.records, (size_t)all);
    ktrial_judge_on(&t, &broker);
    trial_close(&t);
}
END_TEST

/* A second sink comes with an upgrade; killed at every step of its first life. It begins with what
 * comes after the upgrade; the first one does not notice. */
START_TEST(l_upgrade_a_sink_is_added_and_killed)
{
    static const char *const points[] = {"KSINK_AFTER_INIT",   "KSINK_AFTER_FIRST_TOKEN",
                                         "SINK_NOTE_DURABLE",  "KSINK_AFTER_PRODUCE",
                                         "KSINK_AFTER_COMMIT", "SINK_AFTER_COMMIT"};
    uint64_t trials = 0;
    struct trial t;

    if (!broker_usable(&broker)) {
        return;
    }
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++) {
        for (uint64_t hit = 1; hit <= 2; hit++, trials++) {
            char topic[80];
            ktrial_open(&t, &broker, 691 + 2 * i, 1);
            ck_assert_int_eq(trial_run(&t, &(struct trial_life){.records = 60}), 0);
            ktrial_must_be_fine(&t, "before the upgrade");
            (void)snprintf(topic, sizeof topic, "%s-also", t.topic);
            BROKER_MUST(&broker, broker_topic_create(&broker, topic, 1, 1, NULL));
            t.also_brokers = broker_address(&broker);
            t.also_topic = topic;
            int code = trial_run(
                &t, &(struct trial_life){.point = points[i], .hit = hit, .forever = true});
            ck_assert_msg(code == TRIAL_KILLED, "%s %d: ended with %d: %s", points[i], (int)hit,
                          code, trial_said(&t));
            ck_assert_msg(trial_finish(&t, 30), "%s\n%s", t.why, trial_said(&t));
            struct trial also = ktrial_with_topic(&t, topic, 60);
            ktrial_must_be_fine(&also, points[i]);
            ck_assert_uint_eq(also.fold.records, t.fold.records);
            trial_close(&t);
        }
    }
    numbered_trials("l_upgrade_a_sink_is_added_and_killed", trials);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("outages of the Kafka sink");
    const TTest *tests[] = {
        l_away_receiving_goes_on_without_a_broker,
        f98_a_transaction_expires_while_the_broker_is_away,
        l_slow_the_broker_is_silent_for_longer_than_a_transaction,
        l_full_the_broker_cannot_write,
        l_refusing_too_few_replicas_are_waited_out,
        f97_a_commit_is_never_answered,
        f100_the_reply_of_a_commit_is_lost,
        f96_illegal_generation_is_settled,
        f101_half_a_batch_fails,
        l_version_a_broker_that_cannot_is_named_at_start,
        l_clock_the_wall_clock_jumps,
        l_timeout_the_process_sleeps_longer_than_its_transaction,
        f95_fenced_at_every_call_of_a_transaction,
        l_second_a_sink_that_is_down_costs_the_other_nothing,
        l_upgrade_a_sink_is_added_and_killed,
    };

    (void)broker_launch(&other, ktrial_version(), 1, NULL);
    (void)broker_start(&broker, ktrial_version(), 1, NULL);
    (void)broker_await(&other);
    (void)proxy_start(&proxy, &broker);
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        numbered_add(s, tests[i], numbered_full() ? 300 : 60);
    }
    int code = suite_main(s);
    proxy_stop(&proxy);
    (void)broker_stop(&broker);
    (void)broker_stop(&other);
    return code;
}
