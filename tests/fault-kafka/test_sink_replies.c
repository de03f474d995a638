/*
 * Requests and replies of the Kafka sink that are lost, forged, held back, or the last thing that
 * happens before a SIGKILL (process death), on a real broker behind a proxy that knows which
 * request it is. Faults 95 to 101, and "a kill at every point × every reply lost or delivered".
 *
 * The oracle is that of kafka_trial.h: whatever was lost, the topic holds each total once.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "tests/fault/kafka_trial.h"
#include "tests/support/broker_proxy.h"

#define STRIKE_MS 30000

static struct broker broker;
static struct proxy proxy;

static const struct {
    enum proxy_api api;
    const char *name;
    bool often;      /* in every batch, not only when a life begins */
    bool has_error;  /* that the proxy can forge */
    bool answerable; /* and give without asking the broker */
} apis[] = {
    {PROXY_API_VERSIONS, "ApiVersions", false, false, false},
    {PROXY_METADATA, "Metadata", false, false, false},
    {PROXY_FIND_COORDINATOR, "FindCoordinator", false, true, false},
    {PROXY_OFFSET_FETCH, "OffsetFetch", false, true, false},
    {PROXY_INIT_PRODUCER_ID, "InitProducerId", false, true, true},
    {PROXY_LIST_OFFSETS, "ListOffsets", false, false, false},
    {PROXY_ADD_PARTITIONS_TO_TXN, "AddPartitionsToTxn", true, true, false},
    {PROXY_PRODUCE, "Produce", true, true, false},
    {PROXY_ADD_OFFSETS_TO_TXN, "AddOffsetsToTxn", true, true, true},
    {PROXY_TXN_OFFSET_COMMIT, "TxnOffsetCommit", true, true, false},
    {PROXY_END_TXN, "EndTxn", true, true, true},
};
#define APIS ((int)(sizeof apis / sizeof apis[0]))

static const char *const points[] = {
    "SINK_NOTE_DURABLE",   "KSINK_AFTER_INIT",    "KSINK_AFTER_FIRST_TOKEN",
    "KSINK_AFTER_BEGIN",   "KSINK_AFTER_PRODUCE", "KSINK_AFTER_SEND_OFFSETS",
    "KSINK_AFTER_COMMIT",  "SINK_BEFORE_BEGIN",   "SINK_AFTER_BEGIN",
    "SINK_AFTER_WRITE",    "SINK_BEFORE_COMMIT",  "SINK_AFTER_COMMIT",
    "BATCH_RESULT_DURABLE"};
#define POINTS ((int)(sizeof points / sizeof points[0]))

static uint64_t rng;
static uint64_t dice(uint64_t below)
{
    rng = rng * 6364136223846793005u + 1442695040888963407u;
    return (rng >> 33) % below;
}

/* ---- a kill with a request or a reply on the way ---- */

/* The process dies when the n-th request of a kind is on its way, or its reply: whether the broker
 * has done it is exactly what the next life cannot know. */
START_TEST(l_midair_a_kill_with_a_request_or_a_reply_on_the_way)
{
    static const enum proxy_action actions[] = {PROXY_KILL_AT_REQUEST, PROXY_KILL_AT_REPLY};
    uint64_t trials = 0;
    struct trial t;

    if (!broker_usable(&broker)) {
        return;
    }
    rng = numbered_from("SEED", 1);
    ktrial_open(&t, &broker, 70, 1);
    for (int i = 0; i < APIS; i++) {
        unsigned rounds = apis[i].often ? (numbered_full() ? 10 : 1) : 1;
        for (unsigned k = 0; k < 2 * rounds; k++) {
            /* 1 is the first token's, 2 the first batch's. */
            unsigned nth = k / 2 < 3 ? k / 2 + 1 : 4 + (unsigned)dice(20);
            proxy_arm(&proxy, &(struct proxy_rule){apis[i].api, nth, actions[k % 2], 0});
            pid_t pid = trial_spawn(&t, &(struct trial_life){.forever = true});
            proxy_victim(&proxy, pid);
            int code = trial_wait(&t, pid, TRIAL_PATIENCE_MS);
            proxy_disarm(&proxy);
            ck_assert_msg(code == TRIAL_KILLED && proxy_struck(&proxy),
                          "%s %u, at its %s: ended with %d: %s", apis[i].name, nth,
                          k % 2 ? "reply" : "request", code, trial_said(&t));
            ktrial_must_be_fine(&t, apis[i].name);
            trials++;
        }
    }
    ktrial_must_finish(&t);
    numbered_trials("l_midair_a_kill_with_a_request_or_a_reply_on_the_way", trials);
}
END_TEST

/* ---- a kill at every point × every reply lost or delivered ---- */

/* A life that loses something and dies at the point, then one that loses something on its way
 * back. */
static uint64_t lose_and_die(struct trial *t, int point, int api, enum proxy_action action)
{
    bool once = strstr(points[point], "INIT") || strstr(points[point], "FIRST") ||
                strstr(points[point], "NOTE");
    struct trial_life life = {
        .point = points[point], .hit = once ? 1 : 4 + dice(3), .forever = true};
    char what[128];

    (void)snprintf(what, sizeof what, "%s, %s of %s lost", points[point],
                   action == PROXY_LOSE_REPLY ? "a reply" : "a request", apis[api].name);
    if (once) { /* a start whose place has not changed since has nothing new to note */
        ck_assert_int_eq(trial_run(t, &(struct trial_life){.records = t->appended + 30}), 0);
        ktrial_must_be_fine(t, "between");
    }
    unsigned nth = apis[api].often && !once ? 1 + (unsigned)dice(4) : 1;
    proxy_arm(&proxy, &(struct proxy_rule){apis[api].api, nth, action, 0});
    int code = trial_run(t, &life);
    proxy_disarm(&proxy);
    uint64_t struck = proxy_struck(&proxy);
    ck_assert_msg(code == TRIAL_KILLED, "%s: ended with %d: %s", what, code, trial_said(t));
    ktrial_must_be_fine(t, what);

    proxy_arm(&proxy, &(struct proxy_rule){apis[api].api, 1, action, 0});
    code = trial_run(t, &(struct trial_life){.records = t->appended + 60});
    proxy_disarm(&proxy);
    ck_assert_msg(code == 0 && proxy_struck(&proxy), "%s, way back: ended with %d: %s", what, code,
                  trial_said(t));
    ktrial_must_be_fine(t, what);
    return struck + 1;
}

START_TEST(l_replies_a_kill_at_every_point_with_every_reply_lost)
{
    uint64_t trials = 0, all = (uint64_t)POINTS * (uint64_t)APIS * 2;
    uint64_t every = numbered_full() ? 1 : all / 3;
    struct trial t;

    if (!broker_usable(&broker)) {
        return;
    }
    rng = numbered_from("SEED", 2);
    ktrial_open(&t, &broker, 71, 1);
    for (uint64_t i = every > 1 ? dice(every) : 0; i < all; i += every) {
        trials += lose_and_die(&t, (int)(i / 2 / APIS), (int)(i / 2 % APIS),
                               i % 2 ? PROXY_LOSE_REPLY : PROXY_LOSE_REQUEST);
    }
    ktrial_must_finish(&t);
    numbered_trials("l_replies_a_kill_at_every_point_with_every_reply_lost", trials);
}
END_TEST

/* ---- replies that say something else ---- */

static const int codes[] = {
    -1, /* UNKNOWN_SERVER_ERROR */
    2,  /* CORRUPT_MESSAGE */
    3,  /* UNKNOWN_TOPIC_OR_PARTITION */
    5,  /* LEADER_NOT_AVAILABLE */
    6,  /* NOT_LEADER_OR_FOLLOWER */
    7,  /* REQUEST_TIMED_OUT */
    9,  /* REPLICA_NOT_AVAILABLE */
    12, /* OFFSET_METADATA_TOO_LARGE */
    13, /* NETWORK_EXCEPTION */
    14, /* COORDINATOR_LOAD_IN_PROGRESS */
    15, /* COORDINATOR_NOT_AVAILABLE */
    16, /* NOT_COORDINATOR */
    19, /* NOT_ENOUGH_REPLICAS */
    20, /* NOT_ENOUGH_REPLICAS_AFTER_APPEND */
    22, /* ILLEGAL_GENERATION */
    25, /* UNKNOWN_MEMBER_ID */
    27, /* REBALANCE_IN_PROGRESS */
    28, /* INVALID_COMMIT_OFFSET_SIZE */
    29, /* TOPIC_AUTHORIZATION_FAILED */
    30, /* GROUP_AUTHORIZATION_FAILED */
    31, /* CLUSTER_AUTHORIZATION_FAILED */
    35, /* UNSUPPORTED_VERSION */
    42, /* INVALID_REQUEST */
    45, /* OUT_OF_ORDER_SEQUENCE_NUMBER */
    46, /* DUPLICATE_SEQUENCE_NUMBER */
    47, /* INVALID_PRODUCER_EPOCH */
    48, /* INVALID_TXN_STATE */
    49, /* INVALID_PRODUCER_ID_MAPPING */
    50, /* INVALID_TRANSACTION_TIMEOUT */
    51, /* CONCURRENT_TRANSACTIONS */
    52, /* TRANSACTION_COORDINATOR_FENCED */
    53, /* TRANSACTIONAL_ID_AUTHORIZATION_FAILED */
    55, /* OPERATION_NOT_ATTEMPTED */
    56, /* KAFKA_STORAGE_ERROR */
    59, /* UNKNOWN_PRODUCER_ID */
    74, /* FENCED_LEADER_EPOCH */
    79, /* MEMBER_ID_REQUIRED */
    82, /* FENCED_INSTANCE_ID */
    88, /* UNSTABLE_OFFSET_COMMIT */
    89, /* THROTTLING_QUOTA_EXCEEDED */
    90, /* PRODUCER_FENCED */
    999 /* one that no client knows yet */
};
#define CODES ((int)(sizeof codes / sizeof codes[0]))

/* What the process, still running, makes of one forged reply: it goes on, or it ends with a typed
 * error and the next life goes on. */
static pid_t forge(struct trial *t, pid_t pid, int api, int code, enum proxy_action action)
{
    char what[96];
    int status = 0;

    (void)snprintf(what, sizeof what, "%s: error %d, %s", apis[api].name, code,
                   action == PROXY_FORGE ? "though it was done" : "and it was not done");
    const struct proxy_rule rule = {apis[api].api, 1 + (unsigned)dice(2), action, code};
    if (!apis[api].often) { /* only a life that begins asks for it */
        ktrial_kill(t, pid, "between");
        proxy_arm(&proxy, &rule);
        pid = trial_spawn(t, &(struct trial_life){.forever = true, .timeout_ms = 3000});
    } else {
        proxy_arm(&proxy, &rule);
    }
    uint64_t at_strike = 0;
    bool struck = false;
    for (int patience = STRIKE_MS; patience > 0; patience--) {
        if (waitpid(pid, &status, WNOHANG) == pid) {
            ck_assert_msg(WIFEXITED(status) && proxy_struck(&proxy) &&
                              (ktrial_said(t, "SINK_FAILED") || ktrial_said(t, "ETOPIC")),
                          "%s: ended with status %#x: %s", what, (unsigned)status, trial_said(t));
            return trial_spawn(t, &(struct trial_life){.forever = true, .timeout_ms = 3000});
        }
        uint64_t completed = __atomic_load_n(&t->status->completed, __ATOMIC_SEQ_CST);
        if (!struck && proxy_struck(&proxy)) {
            struck = true;
            at_strike = completed;
        }
        if (struck && completed > at_strike + 150) { /* more than is ever in flight */
            return pid;
        }
        (void)poll(NULL, 0, 1);
    }
    ck_abort_msg("%s: it does not go on: %s", what, trial_said(t));
}

START_TEST(l_forged_every_error_code_in_every_reply)
{
    uint64_t trials = 0;
    struct trial t;

    if (!broker_usable(&broker)) {
        return;
    }
    rng = numbered_from("SEED", 3);
    uint64_t one_api = numbered_from("API", PROXY_APIS); /* one alone */
    ktrial_open(&t, &broker, 73, 1);
    pid_t pid = trial_spawn(&t, &(struct trial_life){.forever = true, .timeout_ms = 3000});
    for (int i = 0; i < APIS; i++) {
        bool wanted = one_api == PROXY_APIS || one_api == (uint64_t)apis[i].api;
        for (int c = 0; c < CODES && apis[i].has_error && wanted; c++) {
            if (!numbered_full() && dice(60)) {
                continue;
            }
            pid = forge(&t, pid, i, codes[c], PROXY_FORGE);
            pid = apis[i].answerable ? forge(&t, pid, i, codes[c], PROXY_ANSWER) : pid;
            trials += 1 + apis[i].answerable;
        }
        proxy_disarm(&proxy);
        ktrial_kill(&t, pid, apis[i].name);
        pid = trial_spawn(&t, &(struct trial_life){.forever = true, .timeout_ms = 3000});
    }
    ktrial_kill(&t, pid, "the last");
    ktrial_must_finish(&t);
    numbered_trials("l_forged_every_error_code_in_every_reply", trials);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("replies of the Kafka sink");
    const TTest *tests[] = {
        l_midair_a_kill_with_a_request_or_a_reply_on_the_way,
        l_replies_a_kill_at_every_point_with_every_reply_lost,
        l_forged_every_error_code_in_every_reply,
    };

    (void)broker_start(&broker, "4.1", 1, NULL);
    (void)proxy_start(&proxy, &broker);
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++) {
        numbered_add(s, tests[i], numbered_full() ? 1200 : 60);
    }
    int code = suite_main(s);
    proxy_stop(&proxy);
    (void)broker_stop(&broker);
    return code;
}
