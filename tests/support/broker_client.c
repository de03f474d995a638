/*
 * What a test asks of a broker about topics and groups, through librdkafka's admin client.
 *
 * Each call makes a client of its own and waits for the answer. A broker that has just started, or
 * a topic that is just made, is not ready for everything at once (no leader yet): whatever changes
 * a topic returns only when the topic shows the change, so that tests need not wait for it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/support/broker_internal.h"

/* Until a question about a topic is asked again: librdkafka may have asked a node that is away. */
#define QUESTION_FIRST_MS 200
#define QUESTION_MAX_MS   4000

int64_t broker_now_ms(void)
{
    struct timespec t;

    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

enum broker_code broker_refused(struct broker *b, rd_kafka_resp_err_t code, const char *doing,
                                const char *text)
{
    return broker_fail(b, code == RD_KAFKA_RESP_ERR__TIMED_OUT ? BROKER_TIMEOUT : BROKER_KAFKA,
                       code, "%s: %s (%s)", doing, rd_kafka_err2name(code),
                       text ? text : rd_kafka_err2str(code));
}

/* ---- clients ---- */

static bool set(struct broker *b, rd_kafka_conf_t *conf, const char *name, const char *value)
{
    char text[256];

    if (rd_kafka_conf_set(conf, name, value, text, sizeof text) == RD_KAFKA_CONF_OK) {
        return true;
    }
    (void)broker_fail(b, BROKER_KAFKA, RD_KAFKA_RESP_ERR__INVALID_ARG, "%s=%s: %s", name, value,
                      text);
    return false;
}

/* "name=value"; the name's end is found, the pair is ours for the time. */
static const char *split(const char *pair, char *ret_name, size_t size)
{
    const char *eq = strchr(pair, '=');

    MUST(eq && (size_t)(eq - pair) < size);
    (void)snprintf(ret_name, size, "%.*s", (int)(eq - pair), pair);
    return eq + 1;
}

static bool set_all(struct broker *b, rd_kafka_conf_t *conf, const char *const *properties)
{
    char name[128];

    for (; properties && *properties; properties++) {
        const char *value = split(*properties, name, sizeof name);
        if (!set(b, conf, name, value)) {
            return false;
        }
    }
    return true;
}

/* Lines about brokers that are away would drown what a test says: many kill them on purpose. */
static void no_log(const rd_kafka_t *rk, int level, const char *facility, const char *text)
{
    (void)rk;
    (void)level;
    (void)facility;
    (void)text;
}

rd_kafka_t *broker_client(struct broker *b, rd_kafka_type_t type, rd_kafka_conf_t *conf,
                          const char *const *properties)
{
    char text[256];

    rd_kafka_conf_set_log_cb(conf, no_log);
    if (!set(b, conf, "bootstrap.servers", b->address) ||
        !set(b, conf, "reconnect.backoff.ms", "20") ||
        !set(b, conf, "reconnect.backoff.max.ms", "200") || !set_all(b, conf, properties)) {
        rd_kafka_conf_destroy(conf);
        return NULL;
    }
    rd_kafka_t *rk = rd_kafka_new(type, conf, text, sizeof text);
    if (!rk) {
        rd_kafka_conf_destroy(conf);
        (void)broker_refused(b, rd_kafka_last_error(), "rd_kafka_new", text);
    }
    return rk;
}

/* ---- the state of a topic ---- */

struct topic_state {
    int partitions; /* 0: no such topic */
    int led;        /* how many of them have a leader */
    int32_t leader; /* of the partition asked about; negative: none */
};

static rd_kafka_resp_err_t look(rd_kafka_t *rk, const char *topic, int32_t partition, int wait_ms,
                                struct topic_state *ret)
{
    const struct rd_kafka_metadata *md;
    rd_kafka_topic_t *rkt = rd_kafka_topic_new(rk, topic, NULL);
    rd_kafka_resp_err_t code = rd_kafka_metadata(rk, 0, rkt, &md, wait_ms);

    *ret = (struct topic_state){.leader = -1};
    if (code == RD_KAFKA_RESP_ERR_NO_ERROR) {
        const struct rd_kafka_metadata_topic *t = &md->topics[0];
        ret->partitions = t->partition_cnt;
        for (int i = 0; i < t->partition_cnt; i++) {
            ret->led += t->partitions[i].leader >= 0;
            if (t->partitions[i].id == partition) {
                ret->leader = t->partitions[i].leader;
            }
        }
        rd_kafka_metadata_destroy(md);
    }
    rd_kafka_topic_destroy(rkt);
    return code;
}

static int longer(int wait_ms)
{
    return wait_ms * 2 < QUESTION_MAX_MS ? wait_ms * 2 : QUESTION_MAX_MS;
}

void broker_meet_topic(rd_kafka_t *rk, const char *topic)
{
    struct topic_state now;
    int wait_ms = QUESTION_FIRST_MS;

    while (look(rk, topic, 0, wait_ms, &now) != RD_KAFKA_RESP_ERR_NO_ERROR && wait_ms < 500) {
        wait_ms = longer(wait_ms);
    }
}

enum broker_code broker_await_topic(struct broker *b, rd_kafka_t *rk, const char *topic,
                                    int partitions, int *ret_partitions)
{
    int64_t end = broker_now_ms() + BROKER_PATIENCE_MS;
    int wait_ms = QUESTION_FIRST_MS;
    struct topic_state now;

    do {
        rd_kafka_resp_err_t code = look(rk, topic, 0, wait_ms, &now);
        bool led = now.partitions > 0 && now.led == now.partitions;
        if (code != RD_KAFKA_RESP_ERR_NO_ERROR) {
            wait_ms = longer(wait_ms);
        } else if (partitions == BROKER_TOPIC_GONE  ? now.partitions == 0
                   : partitions == BROKER_TOPIC_ANY ? led
                                                    : led && now.partitions == partitions) {
            if (ret_partitions) {
                *ret_partitions = now.partitions;
            }
            return BROKER_OK;
        }
        (void)rd_kafka_poll(rk, 5); /* not as fast as the machine can ask */
    } while (broker_now_ms() < end);
    return broker_fail(b, BROKER_TIMEOUT, 0,
                       "topic %s: %d partitions, %d with a leader; waited for %d partitions", topic,
                       now.partitions, now.led, partitions);
}

enum broker_code broker_topic_leader(struct broker *b, const char *topic, int32_t partition,
                                     unsigned *ret_node)
{
    rd_kafka_t *rk = broker_client(b, RD_KAFKA_CONSUMER, rd_kafka_conf_new(), NULL);
    int64_t end = broker_now_ms() + BROKER_PATIENCE_MS;
    int wait_ms = QUESTION_FIRST_MS;
    struct topic_state now;

    if (!rk) {
        return b->failure.code;
    }
    do {
        if (look(rk, topic, partition, wait_ms, &now) != RD_KAFKA_RESP_ERR_NO_ERROR) {
            wait_ms = longer(wait_ms);
        }
        (void)rd_kafka_poll(rk, 5);
    } while (now.leader < 0 && broker_now_ms() < end);
    rd_kafka_destroy(rk);
    if (now.leader < 0) {
        return broker_fail(b, BROKER_TIMEOUT, 0, "topic %s partition %d has no leader", topic,
                           partition);
    }
    *ret_node = (unsigned)now.leader;
    return BROKER_OK;
}

/* ---- administration ---- */

/* One thing that is asked of the broker; which fields matter depends on the request. */
struct request {
    const char *doing;
    rd_kafka_admin_op_t op;
    void (*ask)(rd_kafka_t *rk, const struct request *r, rd_kafka_AdminOptions_t *options,
                rd_kafka_queue_t *queue);
    const char *name; /* of the topic or group */
    int number;       /* of the partition, or how many there shall be */
    int replicas;
    int64_t before;
    const char *const *properties;
};

static enum broker_code topic_answer(struct broker *b, const struct request *r,
                                     const rd_kafka_topic_result_t **topics, size_t n)
{
    MUST(n == 1);
    rd_kafka_resp_err_t code = rd_kafka_topic_result_error(topics[0]);
    return code ? broker_refused(b, code, r->doing, rd_kafka_topic_result_error_string(topics[0]))
                : BROKER_OK;
}

static enum broker_code group_answer(struct broker *b, const struct request *r,
                                     const rd_kafka_group_result_t **groups, size_t n)
{
    MUST(n == 1);
    const rd_kafka_error_t *error = rd_kafka_group_result_error(groups[0]);
    return error ? broker_refused(b, rd_kafka_error_code(error), r->doing,
                                  rd_kafka_error_string(error))
                 : BROKER_OK;
}

static enum broker_code partition_answer(struct broker *b, const struct request *r,
                                         const rd_kafka_topic_partition_list_t *list)
{
    MUST(list->cnt == 1);
    return list->elems[0].err ? broker_refused(b, list->elems[0].err, r->doing, NULL) : BROKER_OK;
}

/* The fate of the one thing that a request was about. */
static enum broker_code thing_answer(struct broker *b, const struct request *r,
                                     rd_kafka_event_t *event)
{
    const rd_kafka_topic_result_t **topics;
    const rd_kafka_group_result_t **groups;
    size_t n;

    switch (rd_kafka_event_type(event)) {
    case RD_KAFKA_EVENT_CREATETOPICS_RESULT:
        topics = rd_kafka_CreateTopics_result_topics(rd_kafka_event_CreateTopics_result(event), &n);
        return topic_answer(b, r, topics, n);
    case RD_KAFKA_EVENT_DELETETOPICS_RESULT:
        topics = rd_kafka_DeleteTopics_result_topics(rd_kafka_event_DeleteTopics_result(event), &n);
        return topic_answer(b, r, topics, n);
    case RD_KAFKA_EVENT_CREATEPARTITIONS_RESULT:
        topics = rd_kafka_CreatePartitions_result_topics(
            rd_kafka_event_CreatePartitions_result(event), &n);
        return topic_answer(b, r, topics, n);
    case RD_KAFKA_EVENT_DELETEGROUPS_RESULT:
        groups = rd_kafka_DeleteGroups_result_groups(rd_kafka_event_DeleteGroups_result(event), &n);
        return group_answer(b, r, groups, n);
    default:
        MUST(rd_kafka_event_type(event) == RD_KAFKA_EVENT_DELETERECORDS_RESULT);
        return partition_answer(
            b, r,
            rd_kafka_DeleteRecords_result_offsets(rd_kafka_event_DeleteRecords_result(event)));
    }
}

static enum broker_code answer(struct broker *b, const struct request *r, rd_kafka_queue_t *queue)
{
    rd_kafka_event_t *event = rd_kafka_queue_poll(queue, BROKER_PATIENCE_MS + 5000);

    if (!event) {
        return broker_refused(b, RD_KAFKA_RESP_ERR__TIMED_OUT, r->doing, NULL);
    }
    enum broker_code code = rd_kafka_event_error(event)
                                ? broker_refused(b, rd_kafka_event_error(event), r->doing,
                                                 rd_kafka_event_error_string(event))
                                : thing_answer(b, r, event);
    rd_kafka_event_destroy(event);
    return code;
}

/* What a broker answers that has just started, or that has just lost or gained a role. */
static bool not_yet(int code)
{
    return code == RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION ||
           code == RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE ||
           code == RD_KAFKA_RESP_ERR_NOT_CONTROLLER || code == RD_KAFKA_RESP_ERR_NOT_COORDINATOR ||
           code == RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE ||
           code == RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS;
}

/* Asks until there is an answer that will not change by itself. partitions: what the topic must
 * then show; DONT_LOOK: it is not about a topic's partitions. */
#define DONT_LOOK (-2)
static enum broker_code administer(struct broker *b, const struct request *r, int partitions)
{
    int64_t end = broker_now_ms() + BROKER_PATIENCE_MS;
    rd_kafka_t *rk = broker_client(b, RD_KAFKA_CONSUMER, rd_kafka_conf_new(), NULL);
    enum broker_code code;
    char text[256];

    if (!rk) {
        return b->failure.code;
    }
    rd_kafka_queue_t *queue = rd_kafka_queue_new(rk);
    rd_kafka_AdminOptions_t *options = rd_kafka_AdminOptions_new(rk, r->op);
    MUST(
        !rd_kafka_AdminOptions_set_request_timeout(options, BROKER_PATIENCE_MS, text, sizeof text));
    for (;;) {
        r->ask(rk, r, options, queue);
        code = answer(b, r, queue);
        if (code == BROKER_OK || !not_yet(b->failure.detail) || broker_now_ms() > end) {
            break;
        }
        (void)rd_kafka_poll(rk, 20); /* not as fast as the machine can ask */
    }
    if (code == BROKER_OK && partitions != DONT_LOOK) {
        code = broker_await_topic(b, rk, r->name, partitions, NULL);
    }
    rd_kafka_AdminOptions_destroy(options);
    rd_kafka_queue_destroy(queue);
    rd_kafka_destroy(rk);
    return code;
}

static void ask_create(rd_kafka_t *rk, const struct request *r, rd_kafka_AdminOptions_t *options,
                       rd_kafka_queue_t *queue)
{
    char text[256], name[128];
    rd_kafka_NewTopic_t *wanted =
        rd_kafka_NewTopic_new(r->name, r->number, r->replicas, text, sizeof text);

    MUST(wanted);
    for (const char *const *p = r->properties; p && *p; p++) {
        const char *value = split(*p, name, sizeof name);
        (void)rd_kafka_NewTopic_set_config(wanted, name, value); /* the broker checks it */
    }
    rd_kafka_CreateTopics(rk, &wanted, 1, options, queue);
    rd_kafka_NewTopic_destroy(wanted);
}

enum broker_code broker_topic_create(struct broker *b, const char *topic, int partitions,
                                     int replicas, const char *const *properties)
{
    const struct request r = {.doing = "create a topic",
                              .op = RD_KAFKA_ADMIN_OP_CREATETOPICS,
                              .ask = ask_create,
                              .name = topic,
                              .number = partitions,
                              .replicas = replicas > 0 ? replicas : (int)b->nodes,
                              .properties = properties};

    return administer(b, &r, partitions);
}

static void ask_delete(rd_kafka_t *rk, const struct request *r, rd_kafka_AdminOptions_t *options,
                       rd_kafka_queue_t *queue)
{
    rd_kafka_DeleteTopic_t *wanted = rd_kafka_DeleteTopic_new(r->name);

    rd_kafka_DeleteTopics(rk, &wanted, 1, options, queue);
    rd_kafka_DeleteTopic_destroy(wanted);
}

enum broker_code broker_topic_delete(struct broker *b, const char *topic)
{
    const struct request r = {.doing = "delete a topic",
                              .op = RD_KAFKA_ADMIN_OP_DELETETOPICS,
                              .ask = ask_delete,
                              .name = topic};

    return administer(b, &r, BROKER_TOPIC_GONE);
}

static void ask_grow(rd_kafka_t *rk, const struct request *r, rd_kafka_AdminOptions_t *options,
                     rd_kafka_queue_t *queue)
{
    char text[256];
    rd_kafka_NewPartitions_t *wanted =
        rd_kafka_NewPartitions_new(r->name, (size_t)r->number, text, sizeof text);

    MUST(wanted);
    rd_kafka_CreatePartitions(rk, &wanted, 1, options, queue);
    rd_kafka_NewPartitions_destroy(wanted);
}

enum broker_code broker_topic_grow(struct broker *b, const char *topic, int partitions)
{
    const struct request r = {.doing = "add partitions",
                              .op = RD_KAFKA_ADMIN_OP_CREATEPARTITIONS,
                              .ask = ask_grow,
                              .name = topic,
                              .number = partitions};

    return administer(b, &r, partitions);
}

static void ask_trim(rd_kafka_t *rk, const struct request *r, rd_kafka_AdminOptions_t *options,
                     rd_kafka_queue_t *queue)
{
    rd_kafka_topic_partition_list_t *list = rd_kafka_topic_partition_list_new(1);

    rd_kafka_topic_partition_list_add(list, r->name, r->number)->offset = r->before;
    rd_kafka_DeleteRecords_t *wanted = rd_kafka_DeleteRecords_new(list);
    rd_kafka_DeleteRecords(rk, &wanted, 1, options, queue);
    rd_kafka_DeleteRecords_destroy(wanted);
    rd_kafka_topic_partition_list_destroy(list);
}

enum broker_code broker_topic_trim(struct broker *b, const char *topic, int32_t partition,
                                   int64_t before)
{
    const struct request r = {.doing = "delete records",
                              .op = RD_KAFKA_ADMIN_OP_DELETERECORDS,
                              .ask = ask_trim,
                              .name = topic,
                              .number = partition,
                              .before = before};

    return administer(b, &r, DONT_LOOK);
}

static void ask_delete_group(rd_kafka_t *rk, const struct request *r,
                             rd_kafka_AdminOptions_t *options, rd_kafka_queue_t *queue)
{
    rd_kafka_DeleteGroup_t *wanted = rd_kafka_DeleteGroup_new(r->name);

    rd_kafka_DeleteGroups(rk, &wanted, 1, options, queue);
    rd_kafka_DeleteGroup_destroy(wanted);
}

enum broker_code broker_group_delete(struct broker *b, const char *group)
{
    const struct request r = {.doing = "delete a group",
                              .op = RD_KAFKA_ADMIN_OP_DELETEGROUPS,
                              .ask = ask_delete_group,
                              .name = group};

    return administer(b, &r, DONT_LOOK);
}
